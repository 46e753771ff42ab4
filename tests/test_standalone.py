"""The winner as one file: it repeats the training bit for bit, and needs nothing of hpo."""

from __future__ import annotations

import ast
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import bars, digits, job, slopes

from hpo.core import Params
from hpo.data.dataset import Dataset
from hpo.errors import BadInput
from hpo.models import families
from hpo.publishing import train_script as standalone
from hpo.publishing.train_script import Winner
from hpo.study_file.reader import load
from hpo.training.evaluation import score
from hpo.training.recipe import Recipe

SPACES = Path(__file__).parent.parent / "search_spaces"
TINY: Params = {"blocks": 1, "channels": 4, "dense_units": 8, "learning_rate": 0.02, "batch_size": 16, "epochs": 2}


def winner(folder: Path, params: Params, **changes: Any) -> Winner:
    """As if a trial with these params had won on the data in the folder; its training seed is the fake job's."""
    given = {"model": "cnn", "loss": "cross_entropy", "class_weights": False, "epoch": 2, **changes}
    made = {"title": "made-up, trial 3", "metric": "val_accuracy", "value": 0.875, "seed": 11, **given}
    return Winner(params=params, dataset=Dataset.open(folder), **made)


def trained(made: Winner, folder: Path) -> tuple[list[dict[str, float]], dict[str, float]]:
    """What hpo's own loop says after each epoch, and on the test split."""
    recipe = Recipe(made.model, made.loss, made.dataset.folder or folder, "cpu", made.class_weights)
    reports = []
    for report in recipe()(job(made.params, folder)):
        reports.append(dict(report.metrics))
        last = report.save
        if report.epoch == made.epoch:
            break
    assert last is not None
    last(folder / "last.ckpt")
    return reports, score(recipe, made.params, folder / "last.ckpt")


def scripted(made: Winner, folder: Path) -> tuple[list[dict[str, float]], dict[str, float]]:
    """The same by the script, run in this process."""
    path = standalone.write(made, folder / "script")
    namespace: dict[str, Any] = {"__name__": "train", "__file__": str(path)}
    exec(compile(path.read_text(), str(path), "exec"), namespace)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        with torch.random.fork_rng():
            data = namespace["Data"](path.with_name("data.npz"), torch.device("cpu"))
            pairs = list(namespace["train"](data, torch.device("cpu")))
            return [metrics for _, metrics in pairs], namespace["evaluate"](pairs[-1][0], data, "test")
    finally:
        torch.set_flush_denormal(False)


def assert_the_same(made: Winner, folder: Path) -> None:
    expected, test = trained(made, folder)
    found, tested = scripted(made, folder)
    assert len(found) == len(expected) == made.epoch
    for mine, theirs in zip(found, expected, strict=True):
        assert mine == {name: theirs[name] for name in mine}, made.params
    assert tested == test


VARIANTS: dict[str, Params] = {
    "sgd": {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "schedule": "cosine", "warmup": 1},
    "sgd alone": {"optimizer": "sgd", "schedule": "step", "step_epochs": 1, "decay": 0.5, "l2": 0.01},
    "adam": {
        "optimizer": "adam",
        "beta1": 0.8,
        "weight_decay": 0.01,
        "l1": 0.001,
        "l2": 0.001,
        "schedule": "exponential",
    },
    "adamw": {"optimizer": "adamw", "weight_decay": 0.1, "l2": 0.01, "clip": 0.5, "warmup": 2},
    "rmsprop": {"optimizer": "rmsprop", "momentum": 0.5, "rms_decay": 0.9, "clip": 1.0, "label_smoothing": 0.1},
    "augmented": {"shift": 1, "flip": True, "rotation": 20.0, "erase": 0.2, "dropout": 0.3, "conv_dropout": 0.1},
    "norm before": {"batch_norm": "before", "activation": "silu", "convs_per_block": 2, "padding_mode": "reflect"},
    "norm after": {
        "batch_norm": "after",
        "activation": "leaky_relu",
        "leaky_slope": 0.2,
        "kernel_size": 4,
        "pool": "average",
    },
    "no pool": {"pool": "none", "stride": 2, "padding": 1, "activation": "tanh", "blocks": 2, "block2.channels": 3},
    "perceptron": {"blocks": 0, "dense_layers": 0},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_script_repeats_the_training_bit_for_bit(tmp_path: Path, variant: str) -> None:
    data = bars(tmp_path / "data", channels=3 if variant == "augmented" else 1)
    assert_the_same(winner(data, {**TINY, **VARIANTS[variant]}), tmp_path)


@pytest.mark.parametrize(
    "params",
    [
        {"cell": "lstm", "hidden_size": 6, "rnn_layers": 2, "rnn_dropout": 0.2, "bidirectional": True},
        {"cell": "gru", "hidden_size": 6, "bias": False},
        {"cell": "rnn", "hidden_size": 6, "nonlinearity": "relu"},
        {"cell": "rnn", "hidden_size": 6, "dense_layers": 0},
    ],
)
def test_recurrent_networks_are_repeated_too(tmp_path: Path, params: Params) -> None:
    common: Params = {"learning_rate": 0.01, "epochs": 2, "dense_units": 5}
    assert_the_same(winner(bars(tmp_path / "data"), {**common, **params}, model="rnn"), tmp_path)


@pytest.mark.parametrize(("weights", "smoothing"), [(False, 0.0), (True, 0.0), (True, 0.1), (False, 0.1)])
@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
def test_every_loss_is_repeated(tmp_path: Path, loss: str, weights: bool, smoothing: float) -> None:
    params = {**TINY, "label_smoothing": smoothing}
    assert_the_same(winner(bars(tmp_path / "data"), params, loss=loss, class_weights=weights), tmp_path)


def test_a_regression_is_repeated_in_the_targets_own_unit(tmp_path: Path) -> None:
    made = winner(slopes(tmp_path / "data", 80), TINY, loss="squared_error", metric="val_mse")
    assert_the_same(made, tmp_path)


def test_it_stops_at_the_epoch_that_counts_on_the_schedule_of_all(tmp_path: Path) -> None:
    made = winner(bars(tmp_path / "data"), {**TINY, "epochs": 5, "schedule": "cosine"}, epoch=2)
    assert "UNTIL = 2" in standalone.script(made)
    assert_the_same(made, tmp_path)


@pytest.mark.parametrize("model", ["cnn", "rnn"])
def test_any_point_of_the_shipped_spaces_gives_clean_code(tmp_path: Path, model: str) -> None:
    source = {"name": "x", "data": "digits", "model": model, "search_space": str(SPACES / f"{model}.yaml")}
    space = load(source, known=families.known).space
    data = digits(tmp_path / "data")
    for draw in range(30):
        params = space.sample(random.Random(draw))
        if families.feasible(model, params, (1, 8, 8), 10) is None:
            text = standalone.script(winner(data, params, model=model, epoch=int(params["epochs"])))
            assert_stands_alone(text)


def assert_stands_alone(text: str) -> None:
    """Only torch, numpy and Python's own modules; every name that is used is there; formatted as our own code is."""
    tree = ast.parse(text)
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    tops = {name.partition(".")[0] for name in imported}
    assert tops - set(sys.stdlib_module_names) == {"torch", "numpy"}
    ruff = str(Path(sys.executable).with_name("ruff"))
    for check in (["check", "--select", "F,E9"], ["format", "--check", "--line-length", "120"]):
        command = [ruff, *check, "--isolated", "-"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + text


def test_a_process_without_hpo_reaches_the_winners_accuracy(tmp_path: Path) -> None:
    data = digits(tmp_path / "data")
    params = {**TINY, "channels": 8, "batch_size": 64, "dropout": 0.2, "shift": 1}
    made = winner(data, params)
    epochs, test = trained(made, tmp_path)
    path = standalone.write(made, tmp_path / "alone")
    stranger = f"import sys, runpy; sys.modules['hpo'] = None; sys.argv = ['train.py']; runpy.run_path({str(path)!r}, "
    program = f"{stranger}run_name='__main__')"
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path / "alone",
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[1].startswith(
        f"epoch 2/2 train_loss {epochs[-1]['train_loss']:.6g} val_loss {epochs[-1]['val_loss']:.6g}"
    )
    assert f"test_accuracy {test['test_accuracy']:.6g}" in lines[2]
    weights = torch.load(tmp_path / "alone" / "model.pt", weights_only=True)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)["network"]
    assert weights.keys() == checkpoint.keys()
    assert all(torch.equal(weights[name], checkpoint[name]) for name in weights)


def test_the_data_beside_it_need_no_pickle(tmp_path: Path) -> None:
    made = winner(bars(tmp_path / "data"), TINY)
    standalone.write(made, tmp_path / "out")
    with np.load(tmp_path / "out" / "data.npz", allow_pickle=False) as arrays:
        assert list(arrays["classes"]) == ["0", "1", "2"]
        assert np.array_equal(arrays["images"], made.dataset.images)
        assert np.array_equal(arrays["test"], made.dataset.test)


def test_a_script_is_written_again_but_never_over_somebody_elses(tmp_path: Path) -> None:
    made = winner(bars(tmp_path / "data"), TINY)
    standalone.write(made, tmp_path / "out")
    standalone.write(made, tmp_path / "out")
    (tmp_path / "out" / "train.py").write_text("print('mine')\n")
    with pytest.raises(BadInput) as caught:
        standalone.write(made, tmp_path / "out")
    place = tmp_path / "out" / "train.py"
    assert str(caught.value) == (
        f"{place}: must not be there yet, unless `hpo best --script` wrote it; name another folder with --to"
    )


def test_a_model_of_ones_own_has_no_script() -> None:
    with pytest.raises(BadInput) as caught:
        standalone.refuse_own("study.yaml:3:8 model", "my.module:net")
    assert str(caught.value) == (
        "study.yaml:3:8 model: a script can be written for cnn and rnn only, got my.module:net; "
        "your own function is the network's code already"
    )
