"""One training, many answers: what is shared, what never is, and that a reused reading is a fresh training's."""

import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import laws
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import LOST, NAN, Scripted
from studied import SPACE, TINY, Place
from test_driver import STRATEGIES, Made

from hpo import api
from hpo.commands.run import RunOptions, run, run_all
from hpo.core import Event, Goal, Reported, Started, State, Study
from hpo.engine.driver import Driver
from hpo.engine.result import Result
from hpo.engine.search import Search
from hpo.engine.trainings import Trainings
from hpo.strategies.points import frozen
from hpo.study_file.spec import Budget
from hpo.training import checkpoints


def metrics_read(study: Study) -> dict[object, list[dict[str, float]]]:
    """What each point's trial read, epoch by epoch."""
    return {frozen(trial.params): [dict(report.metrics) for report in trial.reports] for trial in study.trials}


def real(folder: Path, strategy: str, space: dict[str, Any] | None = None, **budget: int) -> Result:
    """A study of real trainings, in the folder's pool; a new folder shares nothing with another."""
    given = {**TINY, "strategy": strategy, "budget": budget, "search_space": {**TINY["search_space"], **(space or {})}}
    return run(api.load(given), RunOptions(folder, publish=False))


def test_a_reused_reading_equals_a_fresh_training_bit_for_bit(tmp_path: Path) -> None:
    """Dropout and momentum included. The grid reads epochs 1 and 3 of what random trained, and the fresh one trains."""
    first = real(tmp_path / "shared", "random", trials=4)
    reused = real(tmp_path / "shared", "grid", trials=4)
    fresh = real(tmp_path / "alone", "grid", trials=4)
    assert (first.study.reused_epochs, reused.study.reused_epochs, fresh.study.reused_epochs) == (0, 6, 0)
    assert reused.study.epochs == fresh.study.epochs == 6
    assert metrics_read(reused.study) == metrics_read(fresh.study)
    assert len({str(curve) for curve in metrics_read(fresh.study).values()}) == 4, "the trainings differ"


def test_cosine_shares_nothing_between_trials_of_different_length(tmp_path: Path) -> None:
    """Its first epoch depends on how many follow, so the shorter trial is no reading of the longer one."""
    cosine = {"schedule": "cosine", "optimizer": "sgd", "learning_rate": 0.05}
    study = real(tmp_path / "cosine", "grid", cosine, trials=2).study
    assert (len(study.trainings), study.epochs) == (2, 1 + 3)
    short, long = sorted(study.trials, key=lambda trial: trial.epochs)
    assert short.reports[0].metrics != long.reports[0].metrics
    constant = real(tmp_path / "constant", "grid", {**cosine, "schedule": "constant"}, trials=2).study
    assert (len(constant.trainings), constant.epochs) == (1, 3)


def test_a_grid_over_epochs_2_4_and_8_trains_8_epochs_a_point_and_a_duplicate_costs_nothing(place: Place) -> None:
    study = place.run(strategy="grid", budget={"trials": 36}).study
    assert [trial.state for trial in study.trials] == [State.COMPLETE] * 36
    assert len(place.trained()) == len(set(place.trained())) == study.epochs == 12 * 8
    again = place.run(strategy="random", budget={"trials": 36}).study
    assert len(place.trained()) == again.reused_epochs == again.epochs == 12 * 8


def test_a_trainer_that_declares_nothing_and_another_training_seed_share_nothing(place: Place) -> None:
    study = place.run(strategy="grid", budget={"trials": 36}, prefix_safe=None).study
    assert len(study.trainings) == 36
    assert len(place.trained()) == len(set(place.trained())) == study.epochs == 12 * (2 + 4 + 8)
    first = place.run(budget={"trials": 3}, training_seed=0).study
    again = place.run(budget={"trials": 3}, training_seed=1, strategy="bayesian").study
    assert not set(first.trainings) & set(again.trainings)
    assert again.reused_epochs == 0


@pytest.mark.parametrize("rule", [None, {"type": "asha", "min_epochs": 1, "reduction": 2}], ids=["plain", "asha"])
def test_studies_share_trainings_and_are_charged_as_if_alone(rule: dict[str, Any] | None, tmp_path: Path) -> None:
    budget = 24 if rule else 40
    together = Place.made(tmp_path / "together")
    space = {**SPACE, "width": [1, 2, 3, 4, 5, 6]}
    base = together.spec(training_seed=0, early_stopping=rule, budget={"total_epochs": budget}, search_space=space)
    specs = [replace(base, strategy=name, seed=seed) for seed in (0, 1) for name in ("bayesian", "random", "grid")]
    results = run_all(specs, replace(together.options, max_running=1))
    for result in results:
        other = Place.made(tmp_path / result.folders.run.name)
        other.spec(training_seed=0)
        alone = run(replace(result.spec, path=other.folder / "study.yaml"), other.options).study
        assert metrics_read(result.study) == metrics_read(alone), result.folders.run.name
        assert (result.study.epochs, alone.epochs, len(other.trained())) == (budget, budget, budget)
        assert list(result.study.spent.items()) == list(alone.spent.items()), "the bill at each trial's end too"
    fresh = sum(result.study.epochs - result.study.reused_epochs for result in results)
    assert len(together.trained()) == len(set(together.trained())) == fresh
    assert fresh < 6 * budget * 0.8


def test_no_other_study_deletes_the_state_that_a_best_trial_is_read_at(place: Place) -> None:
    """Smaller is better here, so that a short training is best, which others train on, and then have no room."""
    wanted = {"metric": {"name": "val_accuracy", "goal": "minimize"}, "start_with": [{"rate": 0.05, "width": 1}]}
    first = place.run(**wanted, search_space={**SPACE, "epochs": 2}, budget={"trials": 1})
    for strategy, epochs in (("bayesian", 4), ("grid", 8)):
        place.run(**wanted, strategy=strategy, search_space={**SPACE, "epochs": epochs}, budget={"trials": 1})
    assert checkpoints.epochs(first.folders.trainings, first.best.training) == [2, 4, 8]
    spec = place.spec(**wanted, seed=1, search_space={**SPACE, "epochs": 2}, budget={"trials": 4})
    run(replace(spec, execution=replace(spec.execution, checkpoints=0)), place.options)
    assert first.checkpoint().exists()


class Killed(Exception):
    pass


@pytest.mark.parametrize("outcome", ["oom", "invalid"])
def test_a_retry_that_was_killed_is_continued_by_the_plain_command(outcome: str, place: Place) -> None:
    """Whatever its own earlier trial, or another study's, says of the same training."""
    failing, point = place.folder / "failing", {"rate": 0.05, "width": 1, "epochs": 4}
    failing.write_text(outcome)
    own = {"start_with": [point], "budget": {"trials": 1}, "training_seed": 0}
    specs = [place.spec(strategy=name, **own) for name in ("grid", "random")]
    for spec in specs:
        (trial,) = run(spec, place.options).study.trials
        assert (trial.state, trial.outcome, trial.epoch) == ("failed", outcome, 1)
    failing.unlink()

    def kill(search: Search, event: Event) -> None:
        if isinstance(event, Started):
            raise Killed

    with pytest.raises(Killed):
        run(specs[1], replace(place.options, retry_failed=True, listeners=[kill]))
    again = run(specs[1], place.options).study
    assert [(trial.state, trial.epoch) for trial in again.trials] == [("failed", 1), ("complete", 4)]


@pytest.mark.parametrize(("outcome", "trained"), [("oom", 4), ("invalid", 1)])
def test_too_little_memory_in_one_study_is_no_verdict_in_others(outcome: str, trained: int, place: Place) -> None:
    failing = place.folder / "failing"
    failing.write_text(outcome)
    same = {"start_with": [{"rate": 0.05, "width": 1, "epochs": 4}], "budget": {"trials": 1}}
    assert place.run(**same).study.epochs == 1
    failing.unlink()
    assert place.run(**same, strategy="grid").study.epochs == trained


NEVER = 10**9


def drive(
    histories: Mapping[int, list[Event]], make: Made, budget: Budget, executor: Scripted, folder: Path, cut: int = NEVER
) -> None:
    """One driver of a study for each seed, one trial at a time in each, that dies after `cut` events."""
    written = itertools.count()

    def journal(events: list[Event]) -> Callable[[Event], None]:
        def append(event: Event) -> None:
            if next(written) >= cut:
                raise Killed
            events.append(event)

        return append

    searches = [
        Search(Study(events), make(seed), Goal(), budget, laws.identity(), journal(events), max_running=1)
        for seed, events in histories.items()
    ]
    with contextlib.suppress(Killed):
        Driver(searches, executor, Trainings(folder), clock=executor.clock).run()


def outline(events: Sequence[Event]) -> list[object]:
    """What a strategy sees of a study, and the order in which it was reported."""
    study = Study(events)
    trials = [(trial.params, trial.state, trial.outcome, trial.epoch) for trial in study.trials]
    reports = [(event.training, event.report.epoch) for event in events if isinstance(event, Reported)]
    return [trials, reports, study.closed]


@given(
    name=st.sampled_from(sorted(STRATEGIES)),
    budget=st.builds(Budget, trials=st.integers(1, 12)) | st.builds(Budget, total_epochs=st.integers(1, 40)),
    slots=st.integers(1, 4),
    cuts=st.lists(st.integers(1, 90), max_size=4),
    wrong=st.dictionaries(st.tuples(st.integers(0, 4), st.integers(1, 4)), st.sampled_from([LOST, NAN]), max_size=4),
)
@settings(max_examples=60 * laws.MORE)
def test_a_study_that_shares_its_workers_is_what_it_would_be_alone_whatever_dies(
    name: str,
    budget: Budget,
    slots: int,
    cuts: list[int],
    wrong: dict[tuple[int, int], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("shared")
    if budget.total_epochs is not None:  # what a failed trial gives back may go to another one after an interruption
        wrong = dict.fromkeys(wrong, LOST)

    def script(key: str, epoch: int, before: int) -> str:
        fate = wrong.get((int(key, 16) % 5, epoch), "")
        return "" if fate == LOST and before else fate

    together: dict[int, list[Event]] = {3: [], 4: []}
    for visit, cut in enumerate([*cuts, NEVER]):
        drive(together, STRATEGIES[name], budget, Scripted(slots, script, now=visit * 1e5), folder / "together", cut)
    for seed, events in together.items():
        alone: list[Event] = []
        drive({seed: alone}, STRATEGIES[name], budget, Scripted(1, script), folder / "alone")
        laws.check(events)
        assert outline(events) == outline(alone)


def test_no_checkpoint_is_forgotten_before_a_later_epoch_is_in_a_journal(tmp_path: Path) -> None:
    """What a driver is killed with in its hands is trained again from the epoch before, not from the first."""
    for cut in range(10, 60, 7):
        histories: dict[int, list[Event]] = {3: [], 4: []}
        folder, second = tmp_path / str(cut), Scripted(2, now=1e5)
        drive(histories, STRATEGIES["random"], Budget(trials=6), Scripted(2), folder, cut)
        reported = (e for events in histories.values() for e in events if isinstance(e, Reported))
        recorded = {(event.training, event.report.epoch) for event in reported}
        drive(histories, STRATEGIES["random"], Budget(trials=6), second, folder)
        assert not recorded & set(second.trained)
        assert all(job.start == job.known for job in second.submitted)


ONE = {"rate": 0.1, "width": 2, "epochs": 4}


@pytest.mark.parametrize("forgotten", [False, True])
def test_an_extension_needs_the_checkpoint_to_be_quick_only(place: Place, tmp_path: Path, forgotten: bool) -> None:
    first = place.run(search_space=ONE, budget={"trials": 1})
    if forgotten:
        checkpoints.forget(first.folders.trainings, first.study.trials[0].training, 4)
    longer: dict[str, Any] = {"search_space": {**ONE, "epochs": 8}, "budget": {"trials": 1}, "strategy": "grid"}
    study = place.run(**longer).study
    assert (study.epochs, study.reused_epochs) == (8, 4), "what it costs is time, not budget"
    start = 0 if forgotten else 4
    starts = [(epoch, 0) for epoch in range(1, 5)] + [(epoch, start) for epoch in range(start + 1, 9)]
    assert [(epoch, start) for _, epoch, start, _ in place.witnessed()] == starts
    assert metrics_read(study) == metrics_read(Place.made(tmp_path / "other").run(**longer).study)
