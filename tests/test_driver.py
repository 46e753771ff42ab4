"""The laws of the loop. A test is a list of events: what a study was, and what it must have become."""

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import fakes
import laws
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scripted import CRASH, END, LOST, NAN, Scripted

from hpo import core
from hpo.core import Closed, Event, Goal, Limits, Outcome, Params, Retried, State, Strategy, Study
from hpo.engine.driver import Driver
from hpo.engine.opening import Enqueued
from hpo.engine.search import Search
from hpo.engine.trainings import Trainings
from hpo.provenance import steady_clock
from hpo.space.space import Space
from hpo.strategies import prior
from hpo.strategies.bayesian import Bayesian
from hpo.strategies.early_stopping import Asha, Median
from hpo.strategies.encoding import Images
from hpo.strategies.points import Grid, Problem, Random, Stream
from hpo.strategies.surrogate import Surrogate
from hpo.strategies.tpe import Tpe
from hpo.study_file.spec import Budget, EarlyStopping
from hpo.training import checkpoints

GOAL = Goal()
POINT: Params = {"learning_rate": 0.01, "activation": "relu", "epochs": 4}
Made = Callable[[int], Strategy]  # of a seed


def random(seed: int = 3, space: Space = fakes.SPACE) -> Strategy:
    return Random(Problem(space, GOAL, seed=seed))


def grid(seed: int = 3) -> Strategy:
    return Grid(Problem(fakes.DISCRETE, GOAL, seed=seed))


def bayesian(seed: int = 3) -> Strategy:
    problem = Problem(fakes.DISCRETE, GOAL, seed=seed, images=Images((1, 8, 8), 10, 1000))
    return Bayesian(problem, Surrogate(problem, prior.load()))


STRATEGIES: dict[str, Made] = {
    "random": random,
    "bayesian": bayesian,
    "grid": grid,
    "tpe": lambda seed: Tpe(Problem(fakes.DISCRETE, GOAL, seed=seed)),
    "late tpe": lambda seed: Tpe(Problem(fakes.DISCRETE, GOAL, seed=seed), late=True),
    "asha": lambda seed: Asha(random(seed), GOAL, EarlyStopping("asha", 1, 2)),
    "median": lambda seed: Median(random(seed), GOAL, EarlyStopping("median", min_trials=3)),
}
every_strategy = pytest.mark.parametrize("name", STRATEGIES)


def search(
    strategy: Strategy,
    budget: Budget = Budget(),
    before: Sequence[Event] = (),
    goal: Goal = GOAL,
    max_running: int | None = None,
) -> tuple[Search, list[Event]]:
    events = list(before)
    return Search(Study(events), strategy, goal, budget, laws.identity(), events.append, max_running), events


def drive(
    folder: Path,
    strategy: Strategy,
    budget: Budget = Budget(),
    executor: Scripted | None = None,
    events: Sequence[Event] = (),
    goal: Goal = GOAL,
    limits: Limits = Limits(),
    pool: Trainings | None = None,
) -> list[Event]:
    """One visit of a driver; goes on where `events` stop."""
    executor = executor or Scripted()
    one, written = search(strategy, budget, events, goal)
    Driver([one], executor, pool or Trainings(folder, goal), limits, clock=executor.clock).run()
    assert not executor.jobs, "nothing is left running"
    return written


# -- the budget -----------------------------------------------------------------------------------------------------


def test_epochs_are_reserved_when_a_job_is_submitted(tmp_path: Path) -> None:
    """What workers have been told to train never exceeds the budget, whatever comes of it."""
    executor = Scripted(4)
    one, _ = search(random(), Budget(total_epochs=25))

    def look() -> None:
        promised = sum(job.until - job.known for job in executor.submitted)
        assert promised == one.total_granted <= 25

    executor.on_wait = look
    Driver([one], executor, Trainings(tmp_path), clock=executor.clock).run()
    assert one.study.epochs == 25


@pytest.mark.parametrize(("slots", "jump"), [(1, 0.0), (3, 0.0), (1, 5_000.0)])
def test_the_time_of_the_budget_ends_it_within_an_epoch_of_each_worker(slots: int, jump: float, tmp_path: Path) -> None:
    """A worker whose clock jumps moves no time of the study."""
    study = laws.check(drive(tmp_path, random(), Budget(time=20.0), Scripted(slots, jump=jump)))
    assert study.closed == "time"
    assert 20 <= study.active_seconds <= 20 + slots


def test_time_is_summed_over_visits_and_not_counted_between_them(tmp_path: Path) -> None:
    first = drive(tmp_path, random(), Budget(time=10.0), Scripted(2))
    again = drive(tmp_path, random(), Budget(time=10.0), Scripted(2, now=5_000.0), first)
    assert [event for event in again[len(first) :] if not isinstance(event, core.Opened | Closed)] == []
    more = drive(tmp_path, random(), Budget(time=30.0), Scripted(2, now=5_000.0), first)
    assert 30 <= Study(more).active_seconds <= 32
    scored = Study([*more, core.Scored(90_000.0, 0, {"test_accuracy": 0.5})])  # as by a refit, a day later
    assert scored.active_seconds == Study(more).active_seconds


def test_a_trial_killed_between_its_last_epoch_and_its_end_is_complete_though_the_study_is_over(tmp_path: Path) -> None:
    """Else one that counts once complete would be lost: nothing continues it."""
    whole = drive(tmp_path, random(), Budget(trials=2))
    cut = next(number for number, event in enumerate(whole) if isinstance(event, core.Ended))
    study = laws.check(drive(tmp_path, random(), Budget(time=0.5), Scripted(now=9e3), whole[:cut]))
    assert (study.closed, study.trials[0].state, len(study)) == ("time", State.COMPLETE, 1)


def test_patience_counts_epochs_since_the_best_whatever_interrupts(tmp_path: Path) -> None:
    whole = drive(tmp_path / "whole", random(), Budget(patience=15))
    study = laws.check(whole)
    best = GOAL.best(study.with_state(State.COMPLETE))
    assert study.closed == "patience" and best is not None
    assert study.spent[best.number] + 15 <= study.epochs <= study.spent[best.number] + 16, "the epoch under way ends"
    for cut in range(1, len(whole) - 1, 7):
        resumed = drive(tmp_path / f"{cut}", random(), Budget(patience=15), Scripted(now=1e6), whole[:cut])
        assert laws.check(resumed).epochs == study.epochs, cut


def test_a_target_that_is_met_ends_the_study_and_lets_no_epoch_be_lost(tmp_path: Path) -> None:
    goal = Goal(target=0.75)
    executor = Scripted(3)
    study = laws.check(drive(tmp_path, random(), Budget(trials=100), executor, goal=goal))
    assert study.closed == "target"
    assert len(study.trials) < 100
    assert any(goal.reached(trial) for trial in study.trials)
    assert study.epochs == len(executor.trained)
    again = drive(tmp_path, random(), Budget(trials=100), goal=Goal(target=2.0))
    assert Study(again).closed == "budget"


def test_a_larger_budget_goes_on_with_the_same_study_and_a_smaller_one_trains_nothing_more(tmp_path: Path) -> None:
    events: list[Event] = []
    for total in (10, 11, 12, 40):
        events = drive(tmp_path, random(), Budget(total_epochs=total), Scripted(2), events)
        assert laws.check(events).epochs == total
    straight = drive(tmp_path / "new", random(), Budget(total_epochs=40))
    assert laws.params_of(Study(events)) == laws.params_of(Study(straight))
    executor = Scripted()
    assert laws.check(drive(tmp_path, random(), Budget(total_epochs=10), executor, straight[:-3])).epochs <= 40
    assert executor.trained == []


def test_a_study_does_not_end_without_one_complete_trial(tmp_path: Path) -> None:
    """All three trials rest at the first rung, too few for asha to promote any: the best goes on to its end."""
    strategy = Asha(random(), GOAL, EarlyStopping("asha", 1, 4))
    study = laws.check(drive(tmp_path, strategy, Budget(trials=3)), trials=3)
    assert [trial.state for trial in study.trials].count(State.COMPLETE) == 1
    assert Goal().best(study.trials) in study.with_state(State.COMPLETE)


# -- sharing --------------------------------------------------------------------------------------------------------


def test_the_time_of_a_search_ends_when_it_is_over_though_others_go_on(tmp_path: Path) -> None:
    executor = Scripted()
    (short, few), (long, many) = search(random(), Budget(trials=1)), search(random(4), Budget(trials=9))
    Driver([short, long], executor, Trainings(tmp_path), clock=executor.clock).run()
    assert [sum(isinstance(event, Closed) for event in events) for events in (few, many)] == [1, 1]
    assert isinstance(few[-1], Closed)
    assert (few[-1].reason, short.study.closed, long.study.closed) == ("budget", "budget", "budget")
    assert few[-1].time < many[-1].time
    assert short.study.active_seconds < long.study.active_seconds / 2


def test_one_search_that_ends_does_not_stop_what_another_trains(tmp_path: Path) -> None:
    """Both read the same training; the first one's target is met while the second still wants epochs."""
    other: Params = {**POINT, "learning_rate": 0.1}
    quick, _ = search(Listed([{**POINT, "epochs": 2}, other]), goal=Goal(target=0.1))
    slow, _ = search(Listed([other, POINT]))
    executor = Scripted(3)
    Driver([quick, slow], executor, Trainings(tmp_path), clock=executor.clock).run()
    assert quick.study.closed == "target"
    assert {trial.state for trial in slow.study.trials} == {State.COMPLETE}
    assert len(executor.trained) == len(set(executor.trained)) == 8


class Listed:
    """Proposes these points, one after the other."""

    def __init__(self, points: Sequence[Params]) -> None:
        self.points = points

    def propose(self, study: Study, slots: int) -> list[core.Decision]:
        left = self.points[len(study) : len(study) + slots]
        return [core.Start(params, int(params["epochs"])) for params in left]


def test_the_last_trial_that_was_paused_is_the_first_to_be_continued(tmp_path: Path) -> None:
    """What ran when a driver ended goes before what had no budget left."""
    begun: list[Event] = [core.Opened(0.0, {})]
    for number, rate in enumerate((0.1, 0.01, 0.001)):
        params = {**POINT, "learning_rate": rate}
        key, seed = laws.identity()(params, 0)
        begun += [core.Started(0.0, number, params, 0, key, seed, 4), core.Paused(0.0, number)]
    events = drive(tmp_path, random(), Budget(trials=3), Scripted(1), begun)
    assert [event.trial for event in events if isinstance(event, core.Continued)] == [2, 1, 0]


# -- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("epoch", "outcome"), [(1, Outcome.CRASHED), (3, Outcome.TIMEOUT)])
def test_a_training_without_a_new_epoch_gets_three_attempts(epoch: int, outcome: Outcome, tmp_path: Path) -> None:
    executor = Scripted(script=lambda key, at, before: LOST if at == epoch else "")
    executor._end = lambda key, wrong: core.JobFailed(key, outcome, "boom", lost=True)  # type: ignore[method-assign]
    events = drive(tmp_path, Listed([POINT]), executor=executor)
    (trial,) = laws.check(events).trials
    assert (trial.state, trial.outcome, trial.error) == (State.FAILED, outcome, "boom")
    assert (trial.epoch, trial.attempt) == (epoch - 1, 3)
    assert [event.attempt for event in events if isinstance(event, Retried)] == [2, 3]
    assert executor.trained == [(trial.training, at) for at in range(1, epoch)]


def test_what_was_lost_is_tried_again_while_it_makes_progress_and_an_exception_never(tmp_path: Path) -> None:
    executor = Scripted(script=lambda key, epoch, before: LOST if before < 2 else "")
    study = laws.check(drive(tmp_path, random(), Budget(trials=2), executor))
    assert {trial.state for trial in study.trials} == {State.COMPLETE}
    assert study.trials[0].attempt == 1 + 2 * study.trials[0].epochs
    assert len(executor.trained) == len(set(executor.trained)) == study.epochs
    executor = Scripted(script=lambda key, epoch, before: CRASH if int(key, 16) % 3 == 0 else "")
    events = drive(tmp_path, random(), Budget(trials=12), executor)
    failed = laws.check(events, trials=12).with_state(State.FAILED)
    assert failed
    assert not any(isinstance(event, Retried) for event in events)
    assert max(executor.tried.values()) == 1


def test_a_lost_state_or_a_trainer_without_any_costs_time_only(tmp_path: Path) -> None:
    executor = Scripted(script=lambda key, epoch, before: LOST if (epoch, before) == (2, 0) else "", saves=False)
    study = laws.check(drive(tmp_path, random(), Budget(trials=3), executor))
    assert {trial.state for trial in study.trials} == {State.COMPLETE}
    assert [epoch for key, epoch in executor.trained if key == study.trials[0].training][:3] == [1, 1, 2]
    assert study.epochs == len(set(executor.trained)) < len(executor.trained)
    events = drive(tmp_path, random(), Budget(total_epochs=3))
    reference = drive(tmp_path / "reference", random(), Budget(trials=4))
    for left in tmp_path.glob("*/*.ckpt"):
        left.unlink()
    assert readings(drive(tmp_path, random(), Budget(trials=4), events=events)) == readings(reference)


@pytest.mark.parametrize("slots", [1, 3])
def test_a_study_whose_first_three_trials_fail_alike_is_given_up(slots: int, tmp_path: Path) -> None:
    study = laws.check(drive(tmp_path, random(), Budget(trials=50), Scripted(slots, lambda *_: CRASH)))
    assert study.closed == "failing"
    assert 3 <= len(study.trials) < 3 + slots


def test_five_failures_in_a_row_end_a_study_that_began_well_and_one_given_up_may_be_tried_again(tmp_path: Path) -> None:
    executor = Scripted()
    executor.script = lambda key, epoch, before: CRASH if len(executor.trained) > 20 else ""
    study = laws.check(drive(tmp_path, random(), Budget(trials=50), executor))
    assert study.closed == "failing"
    assert [trial.state for trial in study.trials][-5:] == [State.FAILED] * 5
    assert study.trials[-6].state is State.COMPLETE
    failed = drive(tmp_path, random(), Budget(trials=9), Scripted(1, lambda *_: CRASH))
    study = laws.check(drive(tmp_path, random(), Budget(trials=9), events=failed), trials=9)
    assert study.closed == "budget"
    assert [t.state for t in study.trials] == [State.FAILED] * 3 + [State.COMPLETE] * 6


@pytest.mark.parametrize("wrong", [NAN, "different"])
def test_failures_that_are_results_or_differ_end_no_study(wrong: str, tmp_path: Path) -> None:
    executor = Scripted(script=lambda *_: NAN)
    if wrong == "different":
        count = itertools.count()
        executor._end = lambda key, wrong: core.JobFailed(key, Outcome.CRASHED, f"{next(count)}")  # type: ignore[method-assign]
    study = laws.check(drive(tmp_path, random(), Budget(trials=12), executor), trials=12)
    assert study.closed == "budget"


@pytest.mark.parametrize("good", [0, 1])
def test_a_study_of_invalid_trials_alone_is_given_up_as_with_exceptions(good: int, tmp_path: Path) -> None:
    executor = Scripted()
    executor.script = lambda key, *_: "" if good and key == executor.submitted[0].training else CRASH
    executor._end = lambda key, wrong: core.JobFailed(key, Outcome.INVALID, "no such shape")  # type: ignore[method-assign]
    study = laws.check(drive(tmp_path, random(), Budget(trials=12), executor))
    assert (study.closed, len(study)) == (("budget", 12) if good else ("failing", 3))


def test_a_drivers_clock_is_not_moved_by_the_walls(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = steady_clock()
    before, wall = clock(), time.time()
    monkeypatch.setattr(time, "time", lambda: wall + 5_000.0)
    assert 0 <= clock() - before < 2_500


@pytest.mark.parametrize(("value", "outcome"), [(0.5, "ok"), (math.nan, "nan"), (math.inf, "nan"), (None, "invalid")])
@pytest.mark.parametrize("last", ["", END])
@pytest.mark.parametrize("at", ["last", "best"])
def test_a_trial_without_a_value_is_not_complete(
    value: float | None, outcome: str, last: str, at: str, tmp_path: Path
) -> None:
    """Whether its training was as long as wanted or ended by itself; one that trains on may have a number later."""
    executor = Scripted(script=lambda key, epoch, before: last if epoch == 4 else "")
    executor.metrics = lambda job, epoch: {"other": 1.0} if value is None else {GOAL.metric: value}
    events = drive(tmp_path, grid(), Budget(), executor, goal=replace(GOAL, at=at))
    trials = Study(events).trials
    assert {(trial.state, trial.outcome) for trial in trials} == {("complete" if value == 0.5 else "failed", outcome)}
    assert value is None or not any(isinstance(event, Closed) and event.reason == "failing" for event in events)


@every_strategy
@pytest.mark.parametrize("cut", [0, 1, 5])
def test_failed_trials_are_started_again_first_and_take_their_place(name: str, cut: int, tmp_path: Path) -> None:
    """The cause is fixed, even one that is a result while nothing changes; resumed after any of the new events."""
    wrong = {0: CRASH, 1: NAN}
    failing = Scripted(1, lambda key, *_: wrong.get(int(key, 16) % 3, ""))
    begun = drive(tmp_path, STRATEGIES[name](0), Budget(trials=8), failing)
    failed = [trial.number for trial in Study(begun).with_state(State.FAILED)]
    assert 2 <= len(failed) < 8

    def retrying(events: Sequence[Event]) -> list[Event]:
        written = list(events)
        nothing = Stream(Problem(Space(())), iter(()))
        strategy, executor = Enqueued(STRATEGIES[name](0), failed, nothing, None), Scripted()
        budget, trainings, study = Budget(trials=8 + len(failed)), Trainings(tmp_path), Study(events)
        trainings.retried = {study.trials[number].training for number in set(failed) - study.replaced}
        one = Search(study, strategy, GOAL, budget, laws.identity(), written.append)
        Driver([one], executor, trainings, clock=executor.clock).run()
        return written

    events = retrying(begun)
    study = laws.check(events, retried=failed)
    again = study.trials[len(Study(begun)) :][: len(failed)]
    assert [trial.params for trial in again] == [study.trials[number].params for number in failed]
    assert not {trial.number for trial in again} & {trial.number for trial in study.with_state(State.FAILED)}
    assert len(study) - len(failed) == 8
    resumed = laws.check(retrying(events[: len(begun) + cut]), retried=failed)
    assert laws.params_of(resumed) == laws.params_of(study)


def test_a_failure_that_is_a_result_is_not_trained_again_by_another_study(tmp_path: Path) -> None:
    first = drive(tmp_path, grid(), Budget(), Scripted(1, lambda key, epoch, before: NAN if epoch == 3 else ""))
    executor, pool = Scripted(), Trainings(tmp_path)
    pool.learn(Study(first))
    study = laws.check(drive(tmp_path, grid(9), executor=executor, pool=pool))
    assert executor.trained == []
    outcomes = Counter((trial.epochs, trial.outcome) for trial in study.trials)
    assert outcomes == {(2, Outcome.OK): 9, (4, Outcome.NAN): 9}


def test_a_trainer_that_ends_early_is_complete_if_it_has_told_anything(tmp_path: Path) -> None:
    third, first = Scripted(1, lambda key, epoch, before: END if epoch == 3 else ""), Scripted(1, lambda *_: END)
    (trial,) = Study(drive(tmp_path / "a", Listed([POINT]), executor=third)).trials
    assert (trial.state, trial.epoch) == (State.COMPLETE, 2)
    (trial,) = Study(drive(tmp_path / "b", Listed([POINT]), executor=first)).trials
    assert (trial.state, trial.outcome) == (State.FAILED, Outcome.INVALID)
    assert trial.error == "the trainer ended without a report"


def test_the_time_limit_of_a_trial_is_what_its_attempts_leave(tmp_path: Path) -> None:
    executor = Scripted(script=lambda key, epoch, before: LOST if epoch in (2, 4) and before == 0 else "")
    drive(tmp_path, Listed([POINT]), executor=executor, limits=Limits(trial_seconds=10.0))
    assert [job.limits.trial_seconds for job in executor.submitted] == [10.0, 9.0, 7.0]


# -- stopping -------------------------------------------------------------------------------------------------------


@every_strategy
def test_a_stop_lets_every_epoch_finish_and_the_study_goes_on_to_the_same_end(name: str, tmp_path: Path) -> None:
    reference = drive(tmp_path / "whole", STRATEGIES[name](1), Budget(trials=10))
    events: list[Event] = []
    visits = 0
    while not events or Study(events).closed == "interrupted":
        visits += 1
        executor = Scripted(now=visits * 1e4)
        one, events = search(STRATEGIES[name](1), Budget(trials=10), events)
        driver = Driver([one], executor, Trainings(tmp_path), clock=executor.clock)
        executor.on_wait = lambda: driver.stop(15) if len(executor.trained) == 4 else None  # noqa: B023
        driver.run()
        assert len(executor.trained) <= 6, "one epoch was under way, another begun before the word came"
        assert not one.study.running
        assert (driver.stopping == 15) is (one.study.closed == "interrupted")
    study = laws.check(events, trials=10)
    assert visits > 3
    assert (study.closed, study.epochs) == ("budget", Study(reference).epochs)
    assert laws.params_of(study) == laws.params_of(Study(reference))


def test_a_running_trial_that_is_stopped_gives_its_epochs_back(tmp_path: Path) -> None:
    class Impatient:
        def propose(self, study: Study, slots: int) -> list[core.Decision]:
            if any(trial.epoch == 1 and not trial.finished for trial in study.trials):
                return [core.Stop(next(t.number for t in study.trials if t.epoch == 1 and not t.finished))]
            return random().propose(study, slots)

    executor = Scripted(2)
    study = laws.check(drive(tmp_path, Impatient(), Budget(total_epochs=12), executor))
    assert study.with_state(State.PRUNED)
    assert study.epochs == 12


# -- checkpoints ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, -1])
def test_the_state_that_any_search_of_a_driver_reads_is_kept_while_another_trains(order: int, tmp_path: Path) -> None:
    executor = Scripted(2)
    searches = [search(Listed([{**POINT, "epochs": epochs}]))[0] for epochs in (2, 6)]
    Driver(searches[::order], executor, Trainings(tmp_path, GOAL), clock=executor.clock).run()
    (key,) = searches[0].study.trainings
    assert checkpoints.epochs(tmp_path, key) == [2, 6]


# -- anything, cut anywhere -----------------------------------------------------------------------------------------


def test_listeners_hear_what_is_in_the_journal_already(tmp_path: Path) -> None:
    one, events = search(random(), Budget(trials=3))
    heard: list[Event] = []

    def listen(search: Search, event: Event) -> None:
        assert search is one
        assert events[-1] is event
        heard.append(event)

    executor = Scripted()
    Driver([one], executor, Trainings(tmp_path), clock=executor.clock, listeners=[listen]).run()
    assert heard == events


@pytest.mark.parametrize("name", ["random", "grid"])
@pytest.mark.parametrize("slots", [1, 3])
def test_a_study_cut_behind_any_event_becomes_the_same_study(name: str, slots: int, tmp_path: Path) -> None:
    """As after a SIGKILL: the events up to there are all there is, the states on disk may be newer."""
    whole = drive(tmp_path / "whole", STRATEGIES[name](2), Budget(trials=8), Scripted(slots))
    for cut in range(len(whole)):
        resumed = drive(tmp_path / "cut", STRATEGIES[name](2), Budget(trials=8), Scripted(slots, now=1e5), whole[:cut])
        assert resumed[:cut] == whole[:cut]
        assert readings(resumed) == readings(whole), cut


def readings(events: Sequence[Event]) -> list[tuple[object, ...]]:
    return [(t.params, t.training, t.state, t.epoch, t.outcome) for t in laws.check(events).trials]


budgets = st.builds(
    Budget,
    trials=st.none() | st.integers(1, 12),
    total_epochs=st.integers(1, 50),
    time=st.none() | st.floats(1, 60),
    patience=st.none() | st.integers(1, 30),
)


@given(
    name=st.sampled_from(sorted(STRATEGIES)),
    budget=budgets,
    slots=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    cuts=st.lists(st.integers(1, 80), max_size=3),
    wrong=st.dictionaries(st.tuples(st.integers(0, 4), st.integers(1, 4)), st.sampled_from([LOST, NAN]), max_size=6),
    seed=st.integers(0, 3),
)
@settings(max_examples=60 * laws.MORE)
def test_any_study_cut_anywhere_keeps_the_invariants_and_its_budget(
    name: str,
    budget: Budget,
    slots: list[int],
    cuts: list[int],
    wrong: dict[tuple[int, int], str],
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("any")
    events: list[Event] = []
    trained: set[tuple[str, int]] = set()

    def script(key: str, epoch: int, before: int) -> str:
        fault = wrong.get((int(key, 16) % 5, epoch), "")
        return fault if fault == NAN or before == 0 else ""

    for visit, cut in enumerate([*cuts, 10_000]):
        executor = Scripted(slots[visit % len(slots)], script, now=visit * 1e5)
        before = events
        events = drive(folder, STRATEGIES[name](seed), budget, executor, events)[: len(events) + cut]
        assert events[: len(before)] == before
        trained |= set(executor.trained)
        finished = {t.number: t for t in Study(before).trials if t.finished}
        assert all(Study(events).trials[number] == trial for number, trial in finished.items())
    study = laws.check(events)
    assert budget.trials is None or len(study.trials) <= budget.trials
    assert study.epochs <= (budget.total_epochs or 0)
    assert {(key, report.epoch) for key, one in study.trainings.items() for report in one.reports} <= trained
    if study.closed == "budget" and budget.trials is None:
        assert study.epochs == budget.total_epochs
    if study.closed == "budget" and study.epochs < (budget.total_epochs or 0):
        assert len(study.trials) == budget.trials


@given(
    wanted=st.lists(st.tuples(st.sampled_from(["random", "grid"]), st.integers(1, 30)), min_size=2, max_size=4),
    slots=st.integers(1, 6),
    max_running=st.none() | st.integers(1, 2),
    cut=st.integers(1, 60),
    wrong=st.dictionaries(st.tuples(st.integers(0, 4), st.integers(1, 4)), st.sampled_from([LOST, NAN]), max_size=4),
)
@example(wanted=[("random", 14), ("random", 3), ("grid", 27)], slots=5, max_running=None, cut=41, wrong={(3, 2): NAN})
@settings(max_examples=40 * laws.MORE)
def test_any_searches_that_share_a_driver_keep_the_invariants_each_its_own_budget_and_train_nothing_twice(
    wanted: list[tuple[str, int]],
    slots: int,
    max_running: int | None,
    cut: int,
    wrong: dict[tuple[int, int], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("many")
    histories: list[list[Event]] = [[] for _ in wanted]

    def script(key: str, epoch: int, before: int) -> str:
        return "" if before else wrong.get((int(key, 16) % 5, epoch), "")

    for visit in range(2):
        executor = Scripted(slots, script, now=visit * 1e5)
        strategies = [grid(s) if name == "grid" else random(s, fakes.DISCRETE) for s, (name, _) in enumerate(wanted)]
        runs = [
            search(strategy, Budget(total_epochs=total), events, max_running=max_running)
            for strategy, (_, total), events in zip(strategies, wanted, histories, strict=True)
        ]
        searches, histories = [one for one, _ in runs], [events for _, events in runs]
        Driver(searches, executor, Trainings(folder), clock=executor.clock).run()
        assert len(executor.trained) == len(set(executor.trained))
        assert sum(s.study.epochs - s.study.reused_epochs for s in searches) <= len(executor.trained) or visit == 1
        for events, (_, total) in zip(histories, wanted, strict=True):
            study = laws.check(events)
            assert study.epochs <= total
            assert study.closed in ("budget", "exhausted")
            assert study.closed != "budget" or study.epochs == total
        if visit == 0:
            histories = [events[:cut] for events in histories]
