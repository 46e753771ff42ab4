"""Going on with the best trial, fitting the best model again, and training a trial twice."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import laws
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_up import GOAL, events, scored
from pictures import digits
from studied import SPACE as SEARCHED
from studied import TRAINER, Place

from hpo import api
from hpo.commands import best, reproduce
from hpo.commands.reproduce import first_difference
from hpo.commands.run import RunOptions, run
from hpo.commands.sync import tracked_study
from hpo.comparison.compare import curve
from hpo.core import Continue, Decision, Opened, Outcome, Report, Scored, Start, State, Study
from hpo.data.dataset import Dataset
from hpo.engine.opening import Enqueued
from hpo.engine.result import Published, Result, read_result, statuses
from hpo.errors import BadInput
from hpo.journal import Journal, read_events
from hpo.publishing.publish_best import Order
from hpo.report.document import StudyReport
from hpo.space.space import Space
from hpo.strategies.points import Problem, Stream
from hpo.training.evaluation import score

SPACE = {"rate": {"min": 0.1, "max": 0.8}, "epochs": 3}


@pytest.mark.parametrize("strategy", ["bayesian", "random", "grid"])
def test_the_best_goes_on_from_its_checkpoint_where_epochs_became_longer(place: Place, strategy: str) -> None:
    rates = {"choices": [round(0.1 + 0.05 * step, 2) for step in range(15)]}
    shorter = {"strategy": strategy, "search_space": {"rate": rates, "epochs": [2, 3]}}
    best = place.run(**shorter, budget={"trials": 12}).best
    before = len(place.trained())
    longer = {"strategy": strategy, "search_space": {"rate": rates, "epochs": [2, 3, 6]}}
    result = place.run(**longer, budget={"trials": 12})
    assert result.study.trials[12].params == {**best.params, "epochs": 6}
    assert place.trained()[before:] == [(best.training, epoch) for epoch in range(best.epoch + 1, 7)]
    again = place.run(**longer, budget={"trials": 14})
    assert again.study.trials[13].params != result.study.trials[12].params
    assert again.study.trials[:13] == result.study.trials[:13]


@pytest.mark.parametrize("target", [12, 5], ids=["of the same target", "of a lower target"])
@pytest.mark.parametrize("rule", [{"type": "asha", "reduction": 2}, {"type": "median", "min_trials": 2}])
def test_early_stopping_leaves_the_best_alone_when_epochs_grow(place: Place, rule: dict[str, Any], target: int) -> None:
    first = place.run(early_stopping=rule, budget={"trials": 12})
    before, length = len(place.trained()), len(first.study.trainings[first.best.training].reports)
    longer = {"early_stopping": rule, "search_space": {**SEARCHED, "epochs": [2, 4, 8, 16]}}
    result = place.run(**longer, budget={"trials": target})
    trial = result.study.trials[12]
    assert len(result.study) == 13
    assert (trial.params, trial.state) == ({**first.best.params, "epochs": 16}, State.COMPLETE)
    own = [epoch for key, epoch in place.trained()[before:] if key == trial.training]
    assert own == list(range(length + 1, 17)), "it goes on from its checkpoint"


def test_trials_that_no_budget_is_left_for_are_in_nobodys_way() -> None:
    point = {"rate": 0.1, "epochs": 16}

    class Promotes:
        def propose(self, study: Study, slots: int) -> list[Decision]:
            return [Continue(7, 4)]

    longer = Stream(Problem(Space(())), iter([point]))
    assert Enqueued(Promotes(), [], longer, most=1).propose(Study(), 2) == [Start(point, 16)]
    assert Enqueued(Promotes(), [], longer, most=0).propose(Study(), 2) == [Continue(7, 4)]


@given(
    files=st.lists(st.sets(st.sampled_from([2, 3, 4, 6, 8]), min_size=1, max_size=3), min_size=2, max_size=4),
    rule=st.sampled_from([None, {"type": "asha", "reduction": 2}, {"type": "median", "min_trials": 2}]),
)
@example(files=[{4}, {4, 8}], rule={"type": "asha", "reduction": 2})
@example(files=[{2, 3}, {3}], rule=None)
@settings(max_examples=8 * laws.MORE)
def test_what_counted_once_counts_for_ever_whatever_becomes_of_epochs(
    files: list[set[int]], rule: dict[str, Any] | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place, best, counted = Place.made(tmp_path_factory.mktemp("epochs")), 0.0, set[int]()
    (place.folder / "drift.json").write_text("0.5")  # the best of every trial is after epoch 2
    for trials, epochs in enumerate(files, 3):
        space = {**SEARCHED, "epochs": sorted(epochs)}
        spec = place.spec(early_stopping=rule, search_space=space, budget={"trials": trials})
        result = run(spec, place.options)
        counted |= set(spec.goal.epochs)
        reports = [report for trial in result.study.trials for report in trial.reports if report.epoch in counted]
        assert result.best_value == max(report.metrics["val_accuracy"] for report in reports) >= best
        best, goal = result.best_value, result.spec.goal
        assert set(goal.epochs) == counted
        stored, (status,) = read_result(spec, place.folder), statuses(spec, place.folder)
        assert stored.spec.goal == status.goal == tracked_study(spec, result.folders).goal == goal
        assert curve("random", 0, read_events(result.folders.journal), goal).points[-1].value == best


@pytest.fixture
def result(place: Place) -> Result:
    return place.run(search_space=SPACE, budget={"trials": 2})


def test_a_trial_comes_out_the_same_without_touching_what_is_known(place: Place, result: Result) -> None:
    before = sorted(place.folder.rglob("*.ckpt"))
    found = reproduce.reproduce(result, 1)
    assert found.identical
    assert list(reproduce.lines(found)) == ["trial 1: identical, 3 epochs of 2 numbers bit for bit"]
    failed = replace(found, trial=replace(found.trial, outcome=Outcome.NAN))
    assert list(reproduce.lines(failed)) == ["trial 1: identical, 3 epochs of 2 numbers bit for bit, and nan again"]
    assert len(place.trained()) == 9, "from nothing: all three epochs"
    assert sorted(place.folder.rglob("*.ckpt")) == before
    assert not list(result.folders.run.glob(".saving-*"))
    with pytest.raises(BadInput, match="a study with a trainer of its own has no splits that hpo could join"):
        best.refit(result, {})


def test_the_first_difference_is_said_and_what_has_changed(place: Place, result: Result) -> None:
    (place.folder / "drift.json").write_text("1e-18")  # less than a bit of the value: the same
    assert reproduce.reproduce(result, 0).identical
    (place.folder / "drift.json").write_text("1e-9")
    then = result.study.trials[0].reports[1].metrics["val_accuracy"]
    found = reproduce.reproduce(result, 0)
    assert list(reproduce.lines(found)) == [
        f"trial 0: different. epoch 2: val_accuracy was {then!r}, is {then + 1e-9!r}",
        "nothing has changed that is recorded: versions, processor, device, threads, data and code are the same",
    ]
    with Journal.open(result.folders.journal, read_only=True) as journal:
        events = [event for _, event in journal.events()]
    for path in result.folders.run.glob("journal.db*"):
        path.unlink()
    with Journal.open(result.folders.journal) as journal:  # as if the runs had depended on something else
        for event in events:
            if isinstance(event, Opened):
                event = replace(event, environment={**event.environment, "torch": "2.11.0", "threads": 4})
            journal.append(event)
    changed = list(reproduce.lines(reproduce.reproduce(result, 0)))[1]
    assert changed.startswith("changed since: torch 2.11.0 -> ")
    assert changed.endswith("threads 4 -> 1")


@pytest.mark.parametrize("mended", [False, True])
def test_the_checkpoint_of_a_failed_trial_that_is_best_is_put_back(place: Place, mended: bool) -> None:
    (failing := place.folder / "failing").write_text("timeout")
    result = place.run(search_space={"rate": 0.4, "epochs": [1, 3]}, strategy="grid", budget={"trials": 2})
    failed = next(one for one in result.study.trials if one.state is State.FAILED)
    kept = result.checkpoint(failed)
    text = kept.read_text()
    kept.unlink()
    if mended:
        failing.unlink()
    found = reproduce.reproduce(result, failed.number)
    assert (found.identical, found.restored, kept.read_text()) == (not mended, True, text)
    assert [*reproduce.lines(found)][-1] == "its checkpoint had been pruned away and is back"


def with_engine(result: Result, engine: str) -> Result:
    return replace(result, spec=replace(result.spec, execution=replace(result.spec.execution, engine=engine)))


def test_a_trial_that_diverged_diverges_again(place: Place) -> None:
    result = place.run(search_space={"rate": 1.0, "epochs": 3}, budget={"trials": 1})
    assert result.study.trials[0].outcome is Outcome.DIVERGED
    assert reproduce.reproduce(result, 0).identical
    (place.folder / "studied_trainer.py").write_text(TRAINER.replace("epoch == 2:", "epoch == 3:"))
    found = reproduce.reproduce(with_engine(result, "local"), 0)
    assert found.difference == "2 epochs came of it; then it was 1"


def test_nan_equals_nan_and_zero_is_not_minus_zero() -> None:
    one = Report(1, {"a": float("nan"), "b": 0.0}, 1.0, 2.0)
    assert first_difference(one, replace(one, metrics={"a": float("nan"), "b": 0.0}, seconds=9.0)) == ""
    assert first_difference(one, replace(one, metrics={"a": float("nan"), "b": -0.0})) == "epoch 1: b was 0.0, is -0.0"
    both = first_difference(one, replace(one, metrics={"a": 1.0, "b": 1.0}))
    assert both == "epoch 1: a was nan, is 1.0 (1 more of that epoch differ)"
    assert first_difference(one, replace(one, metrics={"a": 1.0})) == "epoch 1: only one of them reports b"


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def searched(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Result:
    """A study of one tiny network on digits, without MLflow."""
    folder = tmp_path_factory.mktemp("tiny")
    space = {"blocks": 1, "channels": 4, "dense_units": 16, "learning_rate": 0.02, "batch_size": 64, "epochs": 2}
    given = {"name": "tiny", "data": "digits", "search_space": space, "budget": {"trials": 1}, "workers": 1}
    given |= {"tracking": False, "device": "cpu", "precision": request.param}
    (folder / "study.yaml").write_text(json.dumps(given))
    return with_engine(run(api.load(folder / "study.yaml"), RunOptions(folder, publish=False)), "inline")


def test_train_and_val_together_have_their_own_statistics(tmp_path: Path) -> None:
    data = Dataset.open(digits(tmp_path / "data"))
    joined = best.together(data)
    assert np.array_equal(joined.train, np.sort(np.concatenate([data.train, data.val])))
    assert joined.digest != data.digest
    pixels = data.images[joined.train] / 255
    assert joined.mean[0] == pytest.approx(pixels.mean(), rel=1e-5)
    assert joined.std[0] == pytest.approx(pixels.std(), rel=1e-5)
    assert joined.save(tmp_path / "joined").shape == data.shape


def test_a_network_is_reproduced_bit_for_bit_and_refitted_on_train_and_val_and_scored_once(
    searched: Result, monkeypatch: Any
) -> None:
    """run trained it in a worker, reproduce in this process: 1 thread each, plain kernels."""
    assert next(reproduce.lines(reproduce.reproduce(searched, 0))).startswith("trial 0: identical, 2 epochs of ")
    orders: list[Order] = []

    def published(order: Order) -> Published:
        data = Dataset.open(order.recipe.data)
        assert (len(data.train), len(data.val), len(data.test)) == (1528, 0, 269)
        orders.append(order)
        return Published(test=score(order.recipe.setup(), order.params, order.checkpoint))

    monkeypatch.setattr(best, "publish", published)
    found = best.refit(searched, {})
    again = best.refit(searched, {})
    assert (found.known, again.known, len(orders), found.published) == (False, True, 1, again.published)
    assert (orders[0].alias, orders[0].run, orders[0].epoch) == ("refit", None, 2)
    assert found.published.test["test_accuracy"] > 0.5
    assert found.checkpoint.exists()
    assert not (searched.folders.data / "refit").exists(), "the copy of the images goes"
    study = read_result(searched.spec, searched.folders.state).study
    assert [sorted(one.metrics)[0] for one in study.scores] == ["refit_test_accuracy"]
    assert replace(searched, study=study).test == {}, "it is not the best trial's own score"
    first = next(best.refit_lines(found))
    assert first.startswith("refit:  trial 0 on 1,528 images of train and val, 2 epochs: test_accuracy ")


def test_a_report_and_a_comparison_show_the_best_trials_own_test_score_and_not_that_of_its_refit() -> None:
    made = scored(events(3, seed=4), 0, 0.5)
    best = GOAL.best(Study(made).trials)
    own = Scored(1_800_000_000.0, best.number, {"test_accuracy": 0.75})
    before = Scored(1_799_999_999.0, best.number, {"test_accuracy": 0.25}, epoch=GOAL.reading(best).epoch + 1)
    both = [*made, before, own, replace(own, time=1_800_000_001.0, metrics={"refit_test_accuracy": 0.9})]
    assert curve("random", 0, both, GOAL).tests[best.number, GOAL.reading(best).epoch] == 0.75
    study = StudyReport("made-up", "random", 0, GOAL, Space(()), both)
    assert "The test split was evaluated 4 times; this trial scored test_accuracy 0.7500." in study.document()
