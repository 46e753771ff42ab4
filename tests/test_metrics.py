"""Metrics against scikit-learn's."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from hpo.training import evaluation as metrics

pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


@given(pairs)
def test_classification_agrees_with_scikit_learn(drawn: list[tuple[int, int]]) -> None:
    truth, predicted = (torch.tensor(column) for column in zip(*drawn, strict=True))
    values = metrics.of_classes(torch.nn.functional.one_hot(predicted, 5).float(), truth)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of a class that is only predicted
        expected = {
            "accuracy": reference.accuracy_score(truth, predicted),
            "balanced_accuracy": reference.balanced_accuracy_score(truth, predicted),
            "macro_f1": reference.f1_score(truth, predicted, average="macro", zero_division=0),
        }
    assert {name: value.item() for name, value in values.items()} == pytest.approx(expected)
    counts = metrics.confusion(predicted, truth, 5)
    assert counts.tolist() == reference.confusion_matrix(truth, predicted, labels=range(5)).tolist()


def test_named_metrics_are_scikit_learns_over_the_classes_that_occur_or_of_one() -> None:
    rng, classes = np.random.default_rng(0), tuple("abcdefg")
    outputs, truth = rng.normal(size=(60, 7)), rng.integers(0, 6, 60)  # none is a g
    outputs[:, 6] -= 9
    chances = metrics.probabilities(torch.tensor(outputs), classes).numpy()
    kinds = ("precision", "recall", "f1")
    names = [*kinds, "auc", "top5", "auc.b", "f1.b", "f1.g"]
    besides = metrics.Besides(names, {"m:f": lambda y, p: {"n": len(y), "sum": p.sum()}}, classes)
    values = {name.removeprefix("val_"): value for name, value in besides(chances, truth, "val").items()}
    said = outputs.argmax(1)
    each = dict(zip(kinds, reference.precision_recall_fscore_support(truth, said, zero_division=0), strict=False))
    expected = {kind: each[kind].mean() for kind in kinds}
    expected["auc"] = np.mean([reference.roc_auc_score(truth == k, chances[:, k]) for k in range(6)])
    expected["top5"] = reference.top_k_accuracy_score(truth, chances, k=5, labels=range(7))
    expected |= {"auc.b": reference.roc_auc_score(truth == 1, chances[:, 1]), "f1.b": each["f1"][1]}
    assert np.isnan(values.pop("f1.g"))
    assert values == pytest.approx({**expected, "n": 60, "sum": 60})
    assert np.isnan(metrics.Besides(["auc"], {}, classes)(chances * np.nan, truth, "val")["val_auc"])


def test_scikit_learn_is_not_imported_for_a_study_that_names_none_of_its_metrics() -> None:
    code = "import sys, hpo.training.loop, hpo.training.evaluation; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


numbers = st.floats(-100, 100, width=32)


@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=40))
def test_regression_agrees_with_scikit_learn(drawn: list[tuple[float, float]]) -> None:
    truth, predicted = (np.array(column) for column in zip(*drawn, strict=True))
    values = metrics.of_numbers(torch.tensor(predicted)[:, None], torch.tensor(truth)[:, None])
    assert values["mse"].item() == pytest.approx(reference.mean_squared_error(truth, predicted))
    if np.ptp(truth) > 1e-3:
        assert values["r2"].item() == pytest.approx(reference.r2_score(truth, predicted), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("outputs", "targets", "r2"),
    [
        pytest.param([3.0, 3.0, 3.0], [1.0, 2.0, 6.0], 0, id="the mean predictor"),
        pytest.param([2.0, 2.0, 2.0], [2.0, 2.0, 2.0], 1, id="targets without spread, met"),
        pytest.param([3.0, 3.0, 3.0], [2.0, 2.0, 2.0], 0, id="targets without spread, missed"),
    ],
)
def test_r2_of_simple_predictors(outputs: list[float], targets: list[float], r2: float) -> None:
    values = metrics.of_numbers(torch.tensor(outputs)[:, None], torch.tensor(targets)[:, None])
    assert values["r2"].item() == pytest.approx(r2)
