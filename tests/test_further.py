"""Going on with a trial, fitting the winner again, and training a trial twice: with a trainer that needs no torch."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import GOAL, draw, events, scored
from pictures import digits

from hpo import api
from hpo.commands import refit as refitting
from hpo.commands import reproduce as reproducing
from hpo.commands.run import Visit, run
from hpo.commands.status import read_result
from hpo.comparison.curves import curve
from hpo.core import (
    DONE,
    WAIT,
    Closed,
    Continue,
    Ended,
    Event,
    Opened,
    Outcome,
    Paused,
    Report,
    Reported,
    Scored,
    Start,
    Started,
    State,
    Study,
)
from hpo.data.dataset import Dataset
from hpo.engine.result import Result
from hpo.errors import BadInput, Conflict
from hpo.journal import DriverLock, Journal
from hpo.publishing import publish_best as winner
from hpo.publishing.publisher import Order, Published
from hpo.report.document import ReportInput, document
from hpo.space.space import Space
from hpo.strategies.given import Given
from hpo.study_file.spec import Budget, StudySpec
from hpo.training import checkpoints
from hpo.training.evaluation import score
from hpo.winner import beyond, further

REFIT = {"refit_test_accuracy": 0.9}
TRAINER = '''
"""Ten lines that train: a curve of the params and the seed, a state that counts, and a witness of every epoch."""
import json, math, time
from pathlib import Path
from hpo.core import Outcome, Report
from hpo.training import checkpoints
from hpo.models.failure import TrainingFailed

HERE = Path(__file__).parent

def train(job):
    before = checkpoints.path(job.folder, job.training, job.start)
    total = json.loads(before.read_text()) if job.start else 0.0
    drift = json.loads((HERE / "drift.json").read_text()) if (HERE / "drift.json").exists() else 0.0
    for epoch in range(job.start + 1, int(job.params["epochs"]) + 1):
        total += epoch / 10 + job.seed % 97 / 1000
        if job.params["rate"] > 0.9 and epoch == 2:
            raise TrainingFailed(Outcome.DIVERGED, "made to diverge")
        with (HERE / "witness").open("a") as file:
            file.write(f"{job.training} {epoch}\\n")
        value = 1 - math.exp(-total * job.params["rate"]) + (drift if epoch == 2 else 0.0)
        save = lambda path, total=total: path.write_text(json.dumps(total))
        yield Report(epoch, {"val_accuracy": value, "total": total}, 0.01, time.time(), save)
'''


@dataclass(frozen=True)
class Place:
    """A folder with a study in it."""

    folder: Path

    def spec(self, **changes: Any) -> StudySpec:
        given: dict[str, Any] = {
            "name": "made-up",
            "strategy": "random",
            "train": "made_trainer:train",
            "prefix_safe": True,
            "search_space": {"rate": {"min": 0.1, "max": 0.8}, "epochs": 3},
            "budget": {"trials": 2},
            "workers": 1,
            "tracking": False,
            **changes,
        }
        (self.folder / "study.yaml").write_text(json.dumps(given))
        return api.load(self.folder / "study.yaml")

    def run(self, spec: StudySpec) -> Result:
        return run(spec, self.visit)

    @property
    def visit(self) -> Visit:
        return Visit(self.folder, publish=False)

    def extend(self, spec: StudySpec, trial: int, epochs: int) -> further.Extended:
        return further.extend(spec, trial, epochs, self.visit)

    def witnessed(self) -> list[str]:
        return (self.folder / "witness").read_text().splitlines()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "made_trainer.py").write_text(TRAINER)
    return Place(tmp_path)


def params_of(result: Result, numbers: Sequence[int]) -> list[dict[str, object]]:
    return [dict(result.study.trials[number].params) for number in numbers]


# -- extend --------------------------------------------------------------------------------------------------------


def test_a_trial_goes_on_from_its_checkpoint_beside_the_studys_target(place: Place) -> None:
    """The budget was 2 trials; the extension is a third, and a budget of 3 later is three of the search's own."""
    spec = place.spec()
    first = place.run(spec)
    seen = len(place.witnessed())
    found = place.extend(spec, 0, 2)
    key = first.study.trials[0].training
    assert place.witnessed()[seen:] == [f"{key} 4", f"{key} 5"]
    trial = found.trial
    assert (trial.number, trial.state, trial.epoch, trial.training) == (2, State.COMPLETE, 5, key)
    assert trial.reports[:3] == first.study.trials[0].reports
    assert found.result.study.closed == first.study.closed == "budget"

    later = place.run(place.spec(budget={"trials": 3}))
    assert len(later.study.trials) == 4
    reference = Place(place.folder).run(place.spec(name="reference", budget={"trials": 3}))
    assert params_of(later, [0, 1, 3]) == params_of(reference, [0, 1, 2])


def test_extending_twice_by_as_much_is_extending_once(place: Place) -> None:
    spec = place.spec(budget={"trials": 1})
    place.run(spec)
    once, again = place.extend(spec, 0, 1), place.extend(spec, 0, 1)
    assert (once.known, again.known, len(again.result.study.trials)) == (False, True, 2)
    assert list(further.lines(again)) == [f"trial 1 is that already: {shown(again.trial.reports[-1])} after 4 epochs"]
    further_on = place.extend(spec, 1, 2)
    assert (further_on.trial.epoch, len(place.witnessed())) == (6, 6)


def shown(report: Report) -> str:
    return f"{report.metrics['val_accuracy']:.4g}"


def test_what_was_interrupted_rests_until_the_studys_own_run(place: Place) -> None:
    """A driver that was killed left trial 1 running, after one of its three epochs."""
    spec = place.spec(budget={"trials": 1})
    result = place.run(spec)
    own = place.run(place.spec(name="reference", budget={"trials": 2})).study.trials[1]
    clock = (result.study.trials[0].ended or 0.0) - 9_000
    with Journal.open(result.folders.journal) as journal:
        journal.append(Opened(clock, {}))
        journal.append(Started(clock, 1, own.params, 0, own.training, result_seed(own.training, place), 3))
        journal.append(Reported(own.training, replace(own.reports[0], time=clock + 5)))
    found = place.extend(spec, 0, 1)
    interrupted = found.result.study.trials[1]
    assert (interrupted.state, interrupted.epoch) == (State.PAUSED, 1)
    assert (found.trial.number, found.trial.state, found.result.study.closed) == (2, State.COMPLETE, "interrupted")
    assert found.result.study.active_seconds < 1_000, "the time since the kill is nobody's"
    resumed = place.run(place.spec(budget={"trials": 2})).study
    assert [trial.state for trial in resumed.trials] == [State.COMPLETE] * 3
    assert resumed.trials[1].params == own.params


def result_seed(training: str, place: Place) -> int:
    folders = read_result(place.spec(name="reference"), place.folder)
    return folders.study.trainings[training].seed


def test_a_budget_in_epochs_does_not_pay_for_an_extension(place: Place) -> None:
    spec = place.spec(budget={"total_epochs": 6})
    assert len(place.run(spec).study.trials) == 2
    found = place.extend(spec, 1, 4)
    assert found.result.study.epochs == 10
    assert len(place.run(spec).study.trials) == 3
    study = place.run(place.spec(budget={"total_epochs": 9})).study
    assert (len(study.trials), study.epochs) == (4, 13)


def test_where_epochs_depend_on_what_follows_all_are_trained_again(place: Place) -> None:
    spec = place.spec(prefix_safe=False, budget={"trials": 1})
    place.run(spec)
    found = place.extend(spec, 0, 2)
    assert len(place.witnessed()) == 3 + 5
    assert not found.shared
    assert next(further.lines(found)).startswith(
        "trial 1 repeats trial 0 from its first epoch (what trains has changed since, or does not declare that an "
        "epoch is the same whatever follows): val_accuracy "
    )


def test_a_failed_trial_cannot_be_extended(place: Place) -> None:
    spec = place.spec(search_space={"rate": [0.95, 0.3], "epochs": 3}, strategy="grid")
    failed = place.run(spec).study.with_state(State.FAILED)[0]
    with pytest.raises(BadInput) as caught:
        place.extend(spec, failed.number, 2)
    assert str(caught.value) == (
        f"{place.folder}/studies/made-up/grid-0: only a trial that came through its epochs can be extended, "
        f"got trial {failed.number}: diverged; `hpo status` and `hpo best` name others"
    )
    with pytest.raises(BadInput, match="there must be a trial of that number, got 7; trials: 0 to 1"):
        place.extend(spec, 7, 2)


def test_nothing_is_extended_while_a_driver_has_the_study(place: Place) -> None:
    spec = place.spec(budget={"trials": 1})
    lock = DriverLock(place.run(spec).folders.lock)
    try:
        with pytest.raises(Conflict, match="one driver a study"):
            place.extend(spec, 0, 2)
    finally:
        lock.release()


# -- given points, and what they cost ------------------------------------------------------------------------------


def begun(*states: State) -> Study:
    """Trials of rate 0, 1, ...; a resting or running one has an epoch left."""
    made: list[Event] = [Opened(0.0, {})]
    for number, state in enumerate(states):
        made.append(Started(1.0, number, {"rate": number, "epochs": 2}, 0, f"k{number}", 0, 2))
        made.append(Reported(f"k{number}", Report(1, {"val_accuracy": 0.5}, 1.0, 2.0)))
        if state is State.PAUSED:
            made.append(Paused(3.0, number))
        elif state is not State.RUNNING:
            made.append(Ended(3.0, number, state))
    return Study(made)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (State.PAUSED, [Continue(0, 2)]),
        (State.RUNNING, WAIT),
        (State.COMPLETE, DONE),
        (State.FAILED, DONE),
        (State.PRUNED, [Start({"rate": 0, "epochs": 2}, 2)]),
    ],
)
def test_a_given_point_is_trained_once(state: State, expected: object) -> None:
    assert Given([({"rate": 0, "epochs": 2}, 0)]).propose(begun(state), 1) == expected


def test_another_repeat_is_another_point() -> None:
    given = Given([({"rate": 0, "epochs": 2}, 1), ({"rate": 5, "epochs": 1}, 0)])
    both = [Start({"rate": 0, "epochs": 2}, 2, 1), Start({"rate": 5, "epochs": 1}, 1)]
    assert given.propose(begun(State.COMPLETE), 2) == both
    assert given.propose(begun(State.COMPLETE), 1) == both[:1]


def test_a_budget_grows_by_what_an_extension_cost_and_by_nothing_else(tmp_path: Path) -> None:
    base = Budget(trials=5, total_epochs=50, time=100.0, patience=9)
    with Journal.open(tmp_path / "journal.db") as journal:
        for event in events(1, points=[{**draw(random.Random(0)), "learning_rate": 0.01, "epochs": 5}])[:-1]:
            journal.append(event)
        first = journal.study()
        end = first.trials[0].reports[-1].time
        journal.append(Closed(end, "budget"))
        assert beyond.enlarged(base, journal, journal.study()) == base
        longer = {**first.trials[0].params, "epochs": 7}
        beyond.note(journal, first, [(longer, 0)])
        key = first.trials[0].training
        journal.append(Opened(end + 1_000, {}))
        journal.append(Started(end + 1_002, 1, longer, 0, key, 0, 7))
        for epoch in (6, 7):
            journal.append(Reported(key, Report(epoch, {}, 1.0, end + 1_000 + epoch)))
        journal.append(Ended(end + 1_010, 1, State.COMPLETE))
        journal.append(Closed(end + 1_020, "budget"))
        found = beyond.enlarged(base, journal, journal.study())
    assert found == Budget(trials=6, total_epochs=52, time=pytest.approx(120.0), patience=11)


# -- reproduce -----------------------------------------------------------------------------------------------------


@pytest.fixture
def trained(place: Place) -> tuple[Place, Result]:
    return place, place.run(place.spec(budget={"trials": 2}))


def inline(result: Result) -> Result:
    """The same study, its trainings in this process."""
    return replace(result, spec=replace(result.spec, execution=replace(result.spec.execution, engine="inline")))


def test_a_trial_comes_out_the_same_without_touching_what_is_known(trained: tuple[Place, Result]) -> None:
    place, result = trained
    before = sorted(place.folder.rglob("*.ckpt"))
    found = reproducing.reproduce(inline(result), 1)
    assert found.identical
    assert list(reproducing.lines(found)) == ["trial 1: identical, 3 epochs of 2 numbers bit for bit"]
    assert len(place.witnessed()) == 9, "from nothing: all three epochs"
    assert sorted(place.folder.rglob("*.ckpt")) == before
    assert not list(result.folders.run.glob("reproduce-*"))


def test_the_first_difference_is_said_and_what_has_changed(trained: tuple[Place, Result]) -> None:
    place, result = trained
    (place.folder / "drift.json").write_text("1e-18")  # less than a bit of the value: the same
    assert reproducing.reproduce(inline(result), 0).identical
    (place.folder / "drift.json").write_text("1e-9")
    then = result.study.trials[0].reports[1].metrics["val_accuracy"]
    found = reproducing.reproduce(inline(result), 0)
    assert list(reproducing.lines(found)) == [
        f"trial 0: different. epoch 2: val_accuracy was {then!r}, is {then + 1e-9!r}",
        "nothing has changed that is recorded: versions, processor, device, threads, data and code are the same",
    ]
    rewrite(result, lambda told: {**told, "torch": "2.11.0", "threads": 4})
    told = list(reproducing.lines(reproducing.reproduce(inline(result), 0)))[1]
    assert told.startswith("changed since: torch 2.11.0 -> ")
    assert told.endswith("threads 4 -> 1")


def rewrite(result: Result, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The journal as if the sessions had depended on something else."""
    with Journal.open(result.folders.journal, read_only=True) as journal:
        made = [event for _, event in journal.events()]
    for path in result.folders.run.glob("journal.db*"):
        path.unlink()
    with Journal.open(result.folders.journal) as journal:
        for event in made:
            journal.append(
                replace(event, environment=change(dict(event.environment))) if isinstance(event, Opened) else event
            )


def test_a_checkpoint_that_was_pruned_away_is_put_back(trained: tuple[Place, Result]) -> None:
    _, result = trained
    kept = checkpoints.path(result.folders.trainings, result.study.trials[1].training, 3)
    text = kept.read_text()
    kept.unlink()
    found = reproducing.reproduce(inline(result), 1)
    assert list(reproducing.lines(found))[1] == "its checkpoint had been pruned away and is back"
    assert kept.read_text() == text


def test_a_trial_that_diverged_diverges_again(place: Place) -> None:
    result = place.run(place.spec(search_space={"rate": 0.95, "epochs": 3}, budget={"trials": 1}))
    assert result.study.trials[0].outcome is Outcome.DIVERGED
    assert reproducing.reproduce(inline(result), 0).identical
    (place.folder / "made_trainer.py").write_text(TRAINER.replace("epoch == 2:", "epoch == 3:"))
    found = reproducing.reproduce(replace(result, spec=replace(result.spec, workers=1)), 0)
    assert found.difference == "2 epochs came of it; then it was 1"


def test_nan_equals_nan_and_zero_is_not_minus_zero() -> None:
    one = Report(1, {"a": float("nan"), "b": 0.0}, 1.0, 2.0)
    assert reproducing.compare(one, replace(one, metrics={"a": float("nan"), "b": 0.0}, seconds=9.0)) == ""
    assert (
        reproducing.compare(one, replace(one, metrics={"a": float("nan"), "b": -0.0})) == "epoch 1: b was 0.0, is -0.0"
    )
    assert reproducing.compare(one, replace(one, metrics={"a": 1.0, "b": 1.0})) == (
        "epoch 1: a was nan, is 1.0 (1 more of that epoch differ)"
    )
    assert reproducing.compare(one, replace(one, metrics={"a": 1.0})) == "epoch 1: only one of them reports b"


# -- refit, on digits ----------------------------------------------------------------------------------------------


@pytest.fixture
def searched(tmp_path: Path) -> Result:
    """A study of one tiny network on digits, without MLflow."""
    space = {"blocks": 1, "channels": 4, "dense_units": 16, "learning_rate": 0.02, "batch_size": 64, "epochs": 2}
    given = {"name": "tiny", "data": "digits", "search_space": space, "budget": {"trials": 1}, "workers": 1}
    (tmp_path / "study.yaml").write_text(json.dumps({**given, "tracking": False, "device": "cpu"}))
    spec = api.load(tmp_path / "study.yaml")
    return inline(run(spec, Visit(tmp_path, publish=False)))


def test_the_winner_learns_from_train_and_val_and_is_scored_once(searched: Result, monkeypatch: Any) -> None:
    orders: list[Order] = []

    def published(order: Order) -> Published:
        data = Dataset.open(order.recipe.data)
        assert (len(data.train), len(data.val), len(data.test)) == (1528, 0, 269)
        orders.append(order)
        return Published(test=score(order.recipe, order.params, order.checkpoint))

    monkeypatch.setattr(refitting, "publish", published)
    found = refitting.refit(searched, {})
    again = refitting.refit(searched, {})
    assert (found.known, again.known, len(orders), found.published) == (False, True, 1, again.published)
    assert (orders[0].alias, orders[0].run, orders[0].epoch) == ("refit", None, 2)
    assert found.published.test["test_accuracy"] > 0.5
    assert found.checkpoint.exists()
    assert not (searched.folders.data / "refit").exists(), "the copy of the images goes"
    study = read_result(searched.spec, searched.folders.state).study
    assert [sorted(one.metrics)[0] for one in study.scores] == ["refit_test_accuracy"]
    assert replace(searched, study=study).test == {}, "it is not the winner's own score"
    first = next(refitting.lines(found))
    assert first.startswith("refit:  trial 0 on 1,528 images of train and val, 2 epochs: test_accuracy ")


def test_train_and_val_together_have_their_own_statistics(tmp_path: Path) -> None:
    data = Dataset.open(digits(tmp_path / "data"))
    joined = refitting.together(data)
    assert np.array_equal(joined.train, np.sort(np.concatenate([data.train, data.val])))
    assert joined.digest != data.digest
    pixels = data.images[joined.train] / 255
    assert joined.mean[0] == pytest.approx(pixels.mean(), rel=1e-5)
    assert joined.std[0] == pytest.approx(pixels.std(), rel=1e-5)
    assert joined.save(tmp_path / "joined").shape == data.shape


def test_a_network_trained_by_a_worker_is_reproduced_bit_for_bit_in_another_process(searched: Result) -> None:
    """run trained it in a worker, reproduce in this process: 1 thread each, plain kernels."""
    assert next(reproducing.lines(reproducing.reproduce(searched, 0))).startswith("trial 0: identical, 2 epochs of ")


def test_a_trainer_of_ones_own_has_no_splits_to_join(place: Place) -> None:
    result = place.run(place.spec(budget={"trials": 1}))
    with pytest.raises(BadInput, match="a study with a trainer of its own has no splits that hpo could join"):
        refitting.refit(result, {})


def test_the_winners_score_is_told_from_its_refits() -> None:
    trial = begun(State.COMPLETE).trials[0]
    assert winner.is_of(Scored(9.0, 0, {"test_accuracy": 0.5}), trial)
    assert not winner.is_of(Scored(9.5, 0, {"refit_test_accuracy": 0.75}), trial)
    assert not winner.is_of(Scored(9.0, 1, {"test_accuracy": 0.5}), trial)


def test_a_report_and_a_comparison_show_the_winners_own_test_score() -> None:
    made = scored(events(3, seed=4), 0, 0.5)
    best = GOAL.best(Study(made).trials)
    assert best is not None
    both = [
        *made,
        Scored(1_800_000_000.0, best.number, {"test_accuracy": 0.75}),
        Scored(1_800_000_001.0, best.number, REFIT),
    ]
    assert curve("random", 0, both, GOAL).tests[best.number] == 0.75
    study = ReportInput("made-up", "random", 0, GOAL, Space(()), both)
    assert "The test split was read 3 times; there it has test_accuracy 0.7500." in document(study)
