"""Metrics against scikit-learn's."""

from __future__ import annotations

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
    truth, said = (torch.tensor(column) for column in zip(*drawn, strict=True))
    counts = metrics.confusion(said, truth, 5).double()
    assert metrics.accuracy(counts).item() == pytest.approx(reference.accuracy_score(truth, said))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of a class that is only predicted
        balanced = reference.balanced_accuracy_score(truth, said)
    assert metrics.balanced_accuracy(counts).item() == pytest.approx(balanced)
    f1 = reference.f1_score(truth, said, average="macro", zero_division=0)
    assert metrics.macro_f1(counts).item() == pytest.approx(f1)


@given(pairs)
@settings(deadline=None)
def test_the_confusion_counts_every_row_once_with_the_truth_down(drawn: list[tuple[int, int]]) -> None:
    truth, said = (torch.tensor(column) for column in zip(*drawn, strict=True))
    expected = reference.confusion_matrix(truth, said, labels=range(5))
    assert metrics.confusion(said, truth, 5).tolist() == expected.tolist()


numbers = st.floats(-100, 100, width=32)


@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=40))
@settings(deadline=None)
def test_regression_agrees_with_scikit_learn(drawn: list[tuple[float, float]]) -> None:
    truth, said = (np.array(column) for column in zip(*drawn, strict=True))
    outputs, targets = torch.tensor(said)[:, None], torch.tensor(truth)[:, None]
    assert metrics.mse(outputs, targets).item() == pytest.approx(reference.mean_squared_error(truth, said))
    if np.ptp(truth) > 1e-3:
        assert metrics.r2(outputs, targets).item() == pytest.approx(reference.r2_score(truth, said), rel=1e-6, abs=1e-6)


def test_the_mean_predictor_has_r2_zero() -> None:
    targets = torch.tensor([[1.0], [2.0], [6.0]])
    assert metrics.r2(torch.full((3, 1), 3.0), targets).item() == pytest.approx(0)


def test_targets_without_spread_are_met_or_not() -> None:
    same = torch.full((3, 1), 2.0)
    assert metrics.r2(same, same).item() == 1
    assert metrics.r2(same + 1, same).item() == 0


def test_a_rare_class_counts_as_much_as_a_common_one() -> None:
    truth = torch.tensor([0] * 98 + [1] * 2)
    found = metrics.of_classes(torch.nn.functional.one_hot(torch.zeros(100, dtype=torch.int64), 2).float(), truth)
    assert found["accuracy"].item() == pytest.approx(0.98)
    assert found["balanced_accuracy"].item() == pytest.approx(0.5)
    assert found["macro_f1"].item() == pytest.approx(reference.f1_score(truth, np.zeros(100), average="macro"))
