"""The numbers of hpo's own training: whoever changes them raises TRAINER, so that no study mixes two trainers.

`python tests/test_golden.py` writes golden_curves.json again.
"""

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pictures import digits, job, slopes

from hpo.core import Params
from hpo.provenance import TRAINER
from hpo.training.recipe import Recipe

CURVES = Path(__file__).with_name("golden_curves.json")
ROUNDING = 3e-5  # relative; the instruction sets SSE4, AVX2 and AVX-512 differ by 5e-6 at most, and in no SHARES
FEW_IMAGES = 0.012  # of SHARES of 270 images, of which rounding might turn over a few
SHARES = ("val_accuracy", "val_balanced_accuracy", "val_macro_f1", "dead/", "saturated/", "spikes")

CNN: Params = {"blocks": 2, "channels": 4, "dense_units": 16, "learning_rate": 0.01, "batch_size": 128, "epochs": 2}
RNN: Params = {"hidden_size": 8, "learning_rate": 0.01, "batch_size": 128, "epochs": 2}
POINTS: Mapping[str, Params] = {
    "sgd": {**CNN, "optimizer": "sgd", "momentum": 0.9, "nesterov": True, "l1": 1e-3, "l2": 1e-2, "clip": 1.0},
    "adam": {**CNN, "optimizer": "adam", "weight_decay": 0.01, "schedule": "cosine", "batch_norm": "before"},
    "adamw": {**CNN, "optimizer": "adamw", "weight_decay": 0.1, "l2": 0.01, "schedule": "step", "step_epochs": 1},
    "rmsprop": {**CNN, "optimizer": "rmsprop", "momentum": 0.5, "l2": 0.01, "schedule": "exponential", "decay": 0.5},
    "warmup": {**CNN, "optimizer": "sgd", "learning_rate": 0.1, "warmup": 1, "schedule": "cosine", "clip": 0.5},
    "dropout": {**CNN, "dropout": 0.3, "conv_dropout": 0.2, "label_smoothing": 0.1, "activation": "silu"},
    "augmented": {**CNN, "shift": 1, "flip": True, "rotation": 15.0, "erase": 0.2, "pool": "average"},
    "class weights": {**CNN, "batch_norm": "after", "activation": "leaky_relu"},
    "regression": {**CNN, "activation": "tanh"},
    "rnn": RNN,
}


def numbers(name: str, folder: Path) -> dict[str, float]:
    """The metrics of a point's second epoch, which depends on all of the first."""
    regression = name == "regression"
    data = slopes(folder / "slopes") if regression else digits(folder / "digits")
    model, loss = "rnn" if name == "rnn" else "cnn", "squared_error" if regression else "cross_entropy"
    recipe = Recipe(model, loss, data, "cpu", class_weights=name == "class weights")
    *_, last = recipe()(job(POINTS[name], folder))
    return {metric: round(value, 9) for metric, value in last.metrics.items()}


def changed(now: Mapping[str, float], golden: Mapping[str, float]) -> list[str]:
    """The metrics that differ by more than rounding, with both values."""
    told = []
    for metric in {**golden, **now}:
        within = {"abs": FEW_IMAGES} if metric.startswith(SHARES) else {"rel": ROUNDING, "abs": 1e-6}
        if metric not in golden or now.get(metric) != pytest.approx(golden[metric], **within):
            told.append(f"{metric} was {golden.get(metric)}, is {now.get(metric)}")
    return told


def curves() -> dict[str, Any]:
    return json.loads(CURVES.read_text()) if CURVES.exists() else {"trainer": 0, "points": {}}


@pytest.mark.parametrize("name", POINTS)
def test_training_gives_the_numbers_of_its_version(name: str, tmp_path: Path) -> None:
    golden = curves()
    differences = changed(numbers(name, tmp_path), golden["points"].get(name, {}))
    remedy = "raise TRAINER in hpo/provenance.py, then regenerate them with `python tests/test_golden.py`"
    assert not differences, f"numbers changed: {'; '.join(differences[:3])}: {remedy}"
    assert golden["trainer"] == TRAINER, f"the curves are of trainer {golden['trainer']}: {remedy}"


def write() -> None:
    """Golden curves of this trainer; refused where numbers have changed without a new version."""
    before = curves()
    with tempfile.TemporaryDirectory() as folder:
        points = {name: numbers(name, Path(folder)) for name in POINTS}
    for name, now in points.items():
        if before["trainer"] == TRAINER and changed(now, before["points"].get(name, now)):
            sys.exit(f"the numbers of {name!r} have changed: raise TRAINER in hpo/provenance.py, then run this again")
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(now)}" for name, now in points.items())
    CURVES.write_text(f'{{"trainer": {TRAINER}, "points": {{\n{lines}\n}}}}\n')


if __name__ == "__main__":
    write()
