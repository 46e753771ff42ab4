"""Each fault is provoked in a real training; healthy ones are called healthy; sentences are as people read them."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import tables
from pictures import digits, job
from pictures import noise as noise_images

from hpo.core import Outcome, Params, Report, Train, TrainingFailed
from hpo.training.diagnosis import Diagnosis, Tag, diagnose
from hpo.training.evaluation import missed
from hpo.training.recipe import Recipe

TABLES = tables("diagnoses")


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    return Recipe("cnn", "cross_entropy", digits(tmp_path_factory.mktemp("data") / "digits"), "cpu")()


def diagnosed(train: Train, params: Params, place: Path) -> Diagnosis:
    params = {"channels": 8, "batch_size": 64, "learning_rate": 3e-3, **params}
    reports, outcome, error = [], Outcome.OK, ""
    try:
        reports += train(job(params, place))
    except TrainingFailed as failed:
        outcome, error = failed.outcome, failed.text
    return diagnose(reports, params, outcome, error)


@pytest.mark.parametrize("fault", TABLES["provoked"])
def test_each_fault_is_named_where_it_is_provoked(train: Train, tmp_path: Path, fault: str) -> None:
    case = TABLES["provoked"][fault]
    found = diagnosed(train, case["params"], tmp_path)
    assert re.fullmatch(f"{case['sentence']}(; {Tag.MISSED}: .*)?", found.sentence), found.sentence


def test_overfitting_is_named_where_labels_mean_nothing(tmp_path: Path) -> None:
    noise = Recipe("cnn", "cross_entropy", noise_images(tmp_path / "noise"), "cpu")()
    found = diagnosed(noise, {"blocks": 0, "batch_size": 16, "learning_rate": 0.01, "epochs": 14}, tmp_path)
    said = r"overfits: val loss rose from epoch \d+ \(1\.\d+ to \d\.\d+\), train loss fell on to 0\.\d+"
    assert re.fullmatch(said, found.sentence), found.sentence


@pytest.mark.parametrize("params", TABLES["healthy"])
def test_healthy_trainings_are_called_healthy(train: Train, tmp_path: Path, params: Params) -> None:
    found = diagnosed(train, params, tmp_path)
    assert found.tag == "healthy", found.sentence


def course(*epochs: Mapping[str, float]) -> list[Report]:
    return [Report(number, metrics, 0.1, float(number)) for number, metrics in enumerate(epochs, 1)]


def flat(epochs: int = 3, metrics: Mapping[str, Any] = {}) -> list[Report]:
    """Epochs that are all alike but for lists of values, of a training that has learned little."""
    usual = {"train_loss": 2.0, "val_loss": 2.0, "train_skill": 0.13, "spikes": 0.0, **metrics}
    lists = {name: value if isinstance(value, list) else [value] * epochs for name, value in usual.items()}
    return course(*({name: values[epoch] for name, values in lists.items()} for epoch in range(epochs)))


@pytest.mark.parametrize("case", TABLES["sentences"], ids=lambda case: case["sentence"])
def test_the_sentences_as_people_read_them(case: dict[str, Any]) -> None:
    reports = flat(case.get("epochs", 3), case.get("metrics", {}))
    assert diagnose(reports, case.get("params", {})).sentence == case["sentence"]


def test_what_has_learned_well_and_a_users_own_metrics_are_not_blamed() -> None:
    faults = {"gradient/block1.conv": 0.0, "gradient/output": 1.0, "dead/block1": 0.9, "ratio/output": 99.0}
    assert diagnose(flat(metrics=faults), {}).tag != "healthy"
    assert diagnose(flat(metrics={**faults, "train_skill": 0.95}), {}).tag == "healthy"
    assert diagnose(course({"score": 1.0}, {"score": 2.0}), {}).tag == "healthy"
    losses = course(*({"train_loss": 0.9**i, "val_loss": 0.9**i} for i in range(5)))
    assert diagnose(losses, {}).tag == "healthy"  # without a level of chance nobody knows what is slow


@pytest.mark.parametrize("outcome", [Outcome.OOM, Outcome.INVALID, Outcome.TIMEOUT, Outcome.CRASHED])
def test_other_outcomes_are_their_own_diagnosis(outcome: Outcome) -> None:
    assert diagnose(flat(2), {}, outcome) == Diagnosis(outcome.value, "ended after 2 epochs")


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_a_class_that_occurs_and_is_never_predicted_is_named_beside_the_cause(pairs: list[tuple[int, int]]) -> None:
    truth, predicted = (list(each) for each in zip(*pairs, strict=True))
    never = sorted({*truth} - {*predicted}, key=lambda kind: (-truth.count(kind), kind))
    names = [("ant", "bee", "cat", "dog")[kind] for kind in never]
    said = f"{len(never)} of {len({*truth})} ({', '.join(names[:3])}{', ...' * (len(never) > 3)})" if never else ""
    text = missed(*(np.bincount(each, minlength=4) for each in (predicted, truth)), ("ant", "bee", "cat", "dog"))
    assert text == said
    alone = diagnose([replace(one, missed=text) for one in course({"val_accuracy": 0.625})], {"learning_rate": 0.1})
    assert not said or alone.sentence == f"{Tag.MISSED}: {said} in epoch 1, accuracy 0.625, learning rate 0.1"
    assert (alone.tag == Tag.HEALTHY) == (not never)
    behind = diagnose([replace(one, missed=text) for one in course({"spikes": 0.5}, {"spikes": 0.5})], {})
    assert behind.tag == Tag.SPIKES
    assert behind.sentence.endswith(f": {said} in epoch 2, accuracy nan" if said else "constant prediction")


def test_what_is_not_a_number_is_named_whatever_the_outcome() -> None:
    reports = course({"score": 1.0, "val_f1": 0.5}, {"score": 1.0, "val_f1": math.nan})
    for outcome in (Outcome.OK, Outcome.NAN):
        assert diagnose(reports, {}, outcome).sentence == "not a number: val_f1 in epoch 2"


numbers = st.one_of(st.floats(0, 1e6), st.just(math.nan), st.just(math.inf), st.just(0.0))
NAMES = "train_loss val_loss train_skill spikes dead/block1 saturated/dense1 gradient/a.conv gradient/b ratio/b score"


@given(
    epochs=st.lists(st.dictionaries(st.sampled_from(NAMES.split()), numbers), max_size=5),
    outcome=st.sampled_from(list(Outcome)),
    rate=st.one_of(st.none(), st.floats(1e-9, 1e9)),
)
def test_reports_have_a_tag_and_a_line(epochs: list[dict[str, float]], outcome: Outcome, rate: float | None) -> None:
    found = diagnose(course(*epochs), {} if rate is None else {"learning_rate": rate}, outcome)
    assert found.sentence.startswith(f"{found.tag}: ")
    assert "\n" not in found.sentence
    assert found.tag in {*Tag, *(other.value for other in Outcome)}
