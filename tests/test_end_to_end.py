"""Whole studies on real images: what Python has of them, metrics of one's own, changes midway."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from laws import refused

import hpo
from hpo.commands.confirm import confirm_finalists
from hpo.commands.report import export_optuna
from hpo.commands.run import RunOptions
from hpo.core import Job, Outcome
from hpo.engine.result import read_result
from hpo.errors import BadInput, Conflict
from hpo.models.families import completing
from hpo.training.recipe import Recipe

SPACE = {
    "blocks": [1, 2],
    "channels": [[4, 8], [8, 4]],
    "dense_units": "4 * block1.channels",
    "batch_size": 64,
    "learning_rate": {"min": 0.003, "max": 0.03, "log": True, "count": 3},
    "epochs": [1, 2],
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_result_in_python_is_a_table_a_trial_and_a_network(tmp_path: Path, precision: str) -> None:
    import torch

    study = {"name": "py", "data": {"source": "digits", "limit": 300}, "search_space": SPACE, "budget": {"trials": 2}}
    study |= {"tracking": False, "execution": "inline", "precision": precision}
    spec = hpo.load(study)
    result = hpo.run(spec, state=tmp_path, quiet=True)
    network = result.model()
    assert isinstance(network, torch.nn.Module)
    data = result.data()
    pixels, classes = data.images[data.val], data.targets[data.val]
    said = result.predict(pixels)
    assert np.allclose(said, network(torch.from_numpy(np.array(pixels))).detach(), atol=1e-6)
    assert (said.argmax(1) == classes).mean() == pytest.approx(result.best_value), "raw pixels, scored as in training"
    stored = read_result(spec, tmp_path)  # without the data in memory
    for shape in ((-1, 8, 8), (-1, 8, 8, 1)):
        assert np.array_equal(stored.predict(pixels.reshape(shape)), said)
    assert np.allclose(stored.predict(pixels.astype(np.int64), stored.best), said, atol=1e-6)
    with pytest.raises(BadInput, match=r"must be \(N, 1, 8, 8\), as the data are, got shape \(45, 4, 16\); reshape"):
        result.predict(pixels.reshape(-1, 4, 16))
    assert set(result.trials["trial"]) == {0, 1}
    assert repr(result).startswith("py (bayesian, seed 0): budget spent; 2 trials, ")
    assert len(repr(result).splitlines()) == 2
    again = hpo.run(spec, state=tmp_path, quiet=True)
    assert len(again.study.trials) == 2
    trial, made = result.best, Recipe("cnn", "cross_entropy", data.folder, "cpu", split=data.split, precision=precision)
    seed = result.study.trainings[trial.training].seed
    first = next(made()(Job("", trial.params, seed, start=0, until=1, known=0, folder=tmp_path)))
    assert first.metrics == trial.reports[0].metrics, "it is trained in the file's precision"
    assert result.study.environments[0]["precision"] == precision
    assert ("cnn, trained in bf16" in result.folders.report.read_text()) is (precision == "bf16")
    other = {**study, "precision": {"fp32": "bf16", "bf16": "fp32"}[precision]}
    with pytest.raises(Conflict, match=f'precision was "{precision}", is "{other["precision"]}"'):
        hpo.run(other, state=tmp_path, quiet=True)


def test_metrics_that_a_study_names_are_searched_by_recorded_and_tested(tmp_path: Path) -> None:
    (tmp_path / "measures.py").write_text(
        "def scores(targets, outputs): return {'surprise': float(1 - outputs[range(len(targets)), targets].mean())}\n"
        "def nothing(targets, outputs): return None\n"
        "def taken(targets, outputs): return {'accuracy': 0.999}\n"
        "def named(targets, outputs): return {'auc': 0.999}\n"
    )
    study = {"name": "m", "data": {"source": "digits", "limit": 300}, "search_space": SPACE, "budget": {"trials": 2}}
    study |= {"metric": "val_auc", "metrics": ["val_f1", "val_recall.3", "measures:scores"]}
    study |= {"tracking": False, "execution": "inline", "device": "cpu"}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    result = hpo.run(path, state=tmp_path, quiet=True)
    names = {"auc", "f1", "recall.3", "surprise"}
    for trial in result.study.trials:
        assert {f"val_{name}" for name in names} <= trial.reports[-1].metrics.keys()
        assert trial.reports[-1].metrics["val_f1"] == pytest.approx(trial.reports[-1].metrics["val_macro_f1"])
    assert {f"test_{name}" for name in names} <= result.test.keys()
    assert 0.5 < result.best_value <= 1
    assert "metrics was" in refused(Conflict, hpo.run, path, sets=["metrics=val_f1"], state=tmp_path, quiet=True)
    with pytest.raises(BadInput, match=r"metrics: must be of a class that the data have, got cat; use 0, 1, 2"):
        hpo.run(path, sets=["metrics=val_f1.cat", "name=m2"], state=tmp_path, quiet=True)
    failed = hpo.run(path, sets=["metrics=measures:nothing", "name=m3"], state=tmp_path, quiet=True)
    assert "measures:nothing must return a mapping of metrics, got None" in failed.study.trials[0].error
    for number, (function, name) in enumerate({"taken": "accuracy", "named": "auc"}.items(), 4):
        failed = hpo.run(path, sets=[f"metrics=measures:{function}", f"name=m{number}"], state=tmp_path, quiet=True)
        said = f"measures:{function} must not report what is measured already, got {name}; give it another name"
        assert {(trial.outcome, trial.error) for trial in failed.study.trials} == {(Outcome.INVALID, said)}


def test_a_study_that_is_changed_midway_goes_on_and_is_reported(tmp_path: Path) -> None:
    study = {"name": "midway", "strategy": "bayesian", "data": {"source": "digits", "limit": 120}, "tracking": False}
    study |= {"device": "cpu", "execution": {"engine": "inline"}, "budget": {"trials": 10}}
    space = {"blocks": 1, "channels": [2, 4], "batch_size": [32, 64], "epochs": 1}
    space |= {"optimizer": ["adam", "sgd"], "momentum": [0.5, 0.9]}
    hpo.run({**study, "search_space": space}, state=tmp_path, quiet=True)
    changed = {**space, "optimizer": ["adam"], "dropout": [0, 0.25], "batch_size": [64, 16]}
    del changed["momentum"]  # which adam does not have
    study |= {"constraints": ["batch_size <= 32"], "start_with": [{"channels": 4}], "budget": {"trials": 14}}
    result = hpo.run({**study, "search_space": changed}, state=tmp_path, quiet=True)
    assert len(result.trials) == 14
    assert {trial.params["batch_size"] for trial in result.study.trials[10:]} == {16}
    assert all("dropout" in trial.params for trial in result.study.trials[10:])
    first = completing(result.spec)(result.study.trials[0].params)
    assert first == {**result.study.trials[0].params, "dropout": 0}, "what a trial of before counts as"
    assert result.folders.report.exists()
    export_optuna(result, tmp_path / "journal.log")
    assert confirm_finalists(result, 14, 1, RunOptions(tmp_path))
