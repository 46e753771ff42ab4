"""Metrics against scikit-learn's."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from hpo.training import metrics

pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


@given(pairs)
@settings(deadline=None)
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


numbers = st.floats(-100, 100, width=32)


@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=40))
@settings(deadline=None)
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
