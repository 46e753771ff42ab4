"""`best --script`: the copied program has hpo's network, trains as hpo does, and needs nothing of hpo."""

import json
import os
import random
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from laws import refused, tables
from pictures import bars, digits, job, slopes

from hpo import api
from hpo.commands import best
from hpo.commands.best import ScriptSource
from hpo.commands.run import RunOptions, run
from hpo.core import Params
from hpo.data.dataset import Dataset
from hpo.errors import BadInput
from hpo.models import families
from hpo.models.network import build
from hpo.publishing import train_script
from hpo.study_file.reader import read_study
from hpo.training.augment import augmented
from hpo.training.evaluation import score
from hpo.training.recipe import Recipe

SPACES = Path(__file__).parent.parent / "search_spaces"
TINY: Params = {"blocks": 1, "channels": 4, "dense_units": 8, "learning_rate": 0.02, "batch_size": 16, "epochs": 2}
Metrics = dict[str, float]


def source_of(folder: Path, params: Params, **changes: Any) -> ScriptSource:
    """As if a trial with these params had won on the data in the folder; its training seed is the fake job's."""
    recipe = Recipe(**{"model": "cnn", "loss": "cross_entropy", "data": folder, "device": "cpu", **changes})
    return ScriptSource("trial 3", params, 11, 2, recipe, Dataset.open(folder))


def namespace(path: Path) -> dict[str, Any]:
    """What the script defines, without running its `main`."""
    return runpy.run_path(str(path), run_name="train")


@pytest.mark.parametrize("model", ["cnn", "rnn"])
def test_points_of_the_shipped_spaces_have_the_same_network(tmp_path: Path, model: str) -> None:
    """Twelve points of each family: hpo's weights fit, and from the same weights come the same outputs."""
    source = {"name": "x", "data": "digits", "model": model, "search_space": str(SPACES / f"{model}.yaml")}
    space = read_study(source, known=families.known).space
    folder = digits(tmp_path / "data")
    dataset, rng = Dataset.open(folder), random.Random(7)
    best.write_data(dataset, tmp_path / "data.npz")
    for number in range(12):
        params = space.sample(rng)
        while families.feasibility(model, params, dataset.shape, dataset.outputs).reason:
            params = space.sample(rng)
        path = tmp_path / f"train{number}.py"
        path.write_text(best.script(source_of(folder, params, model=model)))
        script = namespace(path)
        data = script["Data"](tmp_path / "data.npz", torch.device("cpu"))
        theirs = script["build"](data).eval()
        layers = families.FAMILIES[model].layers(params, dataset.shape, dataset.outputs)
        ours = build(layers, dataset.shape, torch.Generator().manual_seed(number)).eval()
        theirs.load_state_dict(ours.state_dict(), strict=True)
        with torch.inference_mode():
            images = data.standardized(torch.arange(6))
            torch.testing.assert_close(theirs(images), ours(images), msg=lambda text, params=params: f"{params} {text}")
    lint = [str(Path(sys.executable).with_name("ruff")), "check", "--isolated", str(tmp_path)]
    assert subprocess.run(lint, capture_output=True, text=True, check=False).stdout == "All checks passed!\n"


def test_only_the_settings_differ_from_the_tested_program(tmp_path: Path) -> None:
    """The program in the package has every setting that is written, and every other line is its own."""
    text = best.script(source_of(bars(tmp_path / "data"), TINY))
    template = best.TEMPLATE.read_text()
    name = re.compile(r"^([A-Z]\w*)\b.* = ", re.MULTILINE)
    (before, own, after), (first, settings, last) = (
        re.split(r"# == settings.*\n|# == end of the settings.*\n", each) for each in (template, text)
    )
    assert first.rstrip() == before.partition("\nfrom hpo.")[0].rstrip()
    assert last.endswith(after.partition(best.OWN)[2])
    assert all(f"\ndef {of}(" in last for of in ("erased", "in_turns", "initialize", "module"))
    assert name.findall(settings) == name.findall(own)


VARIANTS: dict[str, Params] = tables("training_tables")["variants of a script"]
RECURRENT: Params = {"learning_rate": 0.01, "epochs": 2, "dense_units": 5}


def trained(won: ScriptSource, folder: Path) -> tuple[Metrics, dict[str, torch.Tensor]]:
    """What hpo's own loop comes to: metrics of val and test, and the weights."""
    report = next(each for each in won.recipe()(job(won.params, folder, seed=won.seed)) if each.epoch == won.epoch)
    report.save(folder / "last.ckpt")
    metrics = {name: value for name, value in report.metrics.items() if name.startswith("val_")}
    weights = torch.load(folder / "last.ckpt", weights_only=True)["network"]
    return {**metrics, **score(won.recipe.setup(), won.params, folder / "last.ckpt")}, weights


def run_script(path: Path) -> tuple[Metrics, dict[str, torch.Tensor]]:
    """The same by the script, in this process."""
    script = namespace(path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        with torch.random.fork_rng():
            data = script["Data"](path.with_name("data.npz"), torch.device("cpu"))
            network = script["train"](data, torch.device("cpu"))
            metrics = script["evaluate"](network, data, "val") | script["evaluate"](network, data, "test")
            return metrics, network.state_dict()
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)


def check_the_same(won: ScriptSource, folder: Path) -> None:
    """With one seed both come to the same numbers: up to rounding, since other kernels may do the same sums."""
    (expected, weights), (metrics, state) = trained(won, folder), run_script(best.write_files(won, folder / "script"))
    assert metrics == pytest.approx(expected, rel=1e-4)
    assert state.keys() == weights.keys()
    for name, value in weights.items():
        torch.testing.assert_close(state[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_setting_is_repeated(tmp_path: Path, variant: str) -> None:
    params = VARIANTS[variant]
    model, common = ("rnn", RECURRENT) if "cell" in params else ("cnn", TINY)
    check_the_same(source_of(bars(tmp_path / "data"), {**common, **params}, model=model), tmp_path)


@pytest.mark.parametrize(("weights", "smoothing"), [(True, 0.0), (True, 0.1), (False, 0.1), ("sampling", 0.0)])
@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
def test_every_loss_is_repeated(tmp_path: Path, loss: str, weights: bool | str, smoothing: float) -> None:
    params = {**TINY, "label_smoothing": smoothing}
    check_the_same(source_of(bars(tmp_path / "data"), params, loss=loss, class_weights=weights), tmp_path)


def test_the_metrics_that_a_study_names_are_the_trials_own_and_the_users_functions_are_named(tmp_path: Path) -> None:
    (tmp_path / "measures.py").write_text("def off(targets, outputs):\n    return {'off': 1.0}\n")
    kinds = ("f1.8", "f1", "auc.3", "top5", "precision", "precision.2", "recall", "recall.9")
    named = [f"val_{kind}" for kind in kinds]
    space = {"blocks": 1, "channels": 2, "learning_rate": 0.01, "epochs": [2]}
    study = {"name": "named", "data": "digits", "metric": "val_auc", "metrics": [*named, "measures:off"]}
    ends = {"strategy": "random", "budget": {"trials": 1}, "execution": "inline", "tracking": False}
    text = json.dumps({**study, **ends, "class_weights": "sampling", "search_space": space})
    (tmp_path / "study.yaml").write_text(text)
    result = run(api.load(tmp_path / "study.yaml"), RunOptions(tmp_path, publish=False))
    path = best.write_script(result, tmp_path / "script")
    assert "# what measures:off measures is not computed here: it is a function of your own\n" in path.read_text()
    found, _ = run_script(path)
    own = {name: value for name, value in result.best.reports[-1].metrics.items() if name.startswith("val_")}
    assert {"val_auc", "val_off", *named} <= own.keys()
    assert {**found, "val_off": 1} == pytest.approx({**found, **own}, rel=1e-4)


def test_large_images_are_changed_by_the_same_draws(tmp_path: Path) -> None:
    """So large that not all batches are prepared at once."""
    folder = bars(tmp_path / "data", channels=3, size=200)
    changed = {"flip": True, "erase": 0.2, "pool_size": 8, "epochs": 2}
    check_the_same(source_of(folder, {**TINY, **changed, "batch_size": 8}), tmp_path)


def test_a_regression_is_repeated_in_the_targets_own_unit(tmp_path: Path) -> None:
    check_the_same(source_of(slopes(tmp_path / "data", 80), TINY, loss="squared_error"), tmp_path)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_process_without_hpo_repeats_a_plain_training_bit_for_bit(tmp_path: Path, precision: str) -> None:
    params = {**TINY, "channels": 8, "batch_size": 64, "dropout": 0.2}
    won = source_of(digits(tmp_path / "data"), params, precision=precision)
    expected, weights = trained(won, tmp_path)
    path = best.write_files(won, tmp_path / "alone")
    program = "import sys, runpy; sys.modules['hpo'] = None; sys.argv = ['train.py']; "
    program += f"runpy.run_path({str(path)!r}, run_name='__main__'); "
    program += "others = {'scipy', 'sklearn', 'mlflow', 'optuna'} & set(sys.modules); assert not others, others"
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-P", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=path.parent, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    _, last, test = done.stdout.splitlines()
    assert last.startswith("epoch 2/2 train_loss ")
    for line, split in ((last, "val"), (test, "test")):
        assert f"{split}_accuracy {expected[f'{split}_accuracy']:.6g}" in line
    state = torch.load(tmp_path / "alone" / "model.pt", weights_only=True)
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[name], weights[name]) for name in weights)


@pytest.mark.parametrize("change", [{"flip": True}, {"rotation": 20.0}, {"shift": 2}, {"erase": 0.2}])
def test_images_are_changed_as_hpo_changes_them(monkeypatch: pytest.MonkeyPatch, change: Params) -> None:
    """The same draws give the same images."""
    for name, value in {"flip": False, "rotation": 0.0, "shift": 0, "erase": 0.0, **change}.items():
        monkeypatch.setattr(train_script, name.upper(), value)
    images = torch.rand(40, 2, 9, 7, generator=torch.Generator().manual_seed(0))
    found = train_script.augmented(images, torch.Generator().manual_seed(1))
    assert torch.equal(found, augmented(images, change, torch.Generator().manual_seed(1)))
    assert not torch.equal(found, images)


@pytest.mark.parametrize("name", ["train.py", "data.npz"])
def test_a_script_is_written_again_but_never_over_a_file_of_somebody_else(tmp_path: Path, name: str) -> None:
    won = source_of(bars(tmp_path / "data"), TINY)
    best.write_files(won, tmp_path / "out")
    path = best.write_files(won, tmp_path / "out")
    with np.load(tmp_path / "out" / "data.npz", allow_pickle=False) as arrays:
        assert list(arrays["classes"]) == ["0", "1", "2"]
        assert np.array_equal(arrays["images"], won.dataset.images)
        assert np.array_equal(arrays["test"], won.dataset.test)
    path.unlink()
    file = tmp_path / "out" / name
    file.write_text("print('mine')\n")
    if name == "train.py":
        (tmp_path / "out" / "data.npz").unlink()
    line = f"{file}: must not be there yet, unless `hpo best --script` wrote it; name another folder with --to"
    assert refused(BadInput, best.write_files, won, tmp_path / "out") == line
    assert file.read_text() == "print('mine')\n"


def test_a_model_of_ones_own_has_no_script() -> None:
    line = "study.yaml:3:8 model: a script can be written for cnn and rnn only, got my.module:net"
    said = refused(BadInput, best.refuse_own, "study.yaml:3:8 model", "my.module:net")
    assert said == f"{line}; your own function is the network's code already"
