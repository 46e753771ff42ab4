"""Several trials of each study at a time, while studies share their workers: each decides what it would decide alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import fakes
import laws
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scripted import END, LOST, NAN, Scripted
from studied import Place
from test_driver import GOAL, STRATEGIES, Listed, Made, every_strategy

from hpo.commands.run import open_search, run_all
from hpo.core import Event, Job, Message, Outcome, Report, Reported, Started, State, Strategy, Study, epochs_of
from hpo.engine import components as assembly
from hpo.engine.driver import Driver
from hpo.engine.search import Search
from hpo.engine.trainings import Pool
from hpo.execution.in_process import SimulatedExecutor
from hpo.journal import Journal
from hpo.models.failure import TrainingFailed
from hpo.study_file.spec import Budget
from hpo.virtual import VirtualTime

AT_A_TIME = 3
SEEDS = (3, 4)
Fate = Callable[[str, int], str]  # what goes wrong in this epoch of this training


def seconds(training: str, epoch: int) -> float:
    """No two epochs take the same time."""
    return 0.5 + random.Random(f"{training}/{epoch}").random()


class Uneven(Scripted):
    """Finishes epochs in an order that has nothing to do with the seconds they report."""

    def wait(self, timeout: float | None) -> list[Message]:
        found = super().wait(timeout)
        return [
            Reported(one.training, replace(one.report, seconds=seconds(one.training, one.report.epoch)))
            if isinstance(one, Reported)
            else one
            for one in found
        ]


class Killed(Exception):
    pass


def alone(strategy: Strategy, budget: Budget, folder: Path, fate: Fate = lambda key, epoch: "") -> list[Event]:
    """With as many workers of its own, whose epochs take what they report."""
    events: list[Event] = []

    def train(job: Job) -> Iterator[Report]:
        for epoch in range(1, epochs_of(job.params) + 1):
            if fate(job.training, epoch) == NAN:
                raise TrainingFailed(Outcome.NAN, "made to end")
            if fate(job.training, epoch) == END:
                return
            yield Report(epoch, {"val_accuracy": fakes.accuracy(job, epoch)}, seconds(job.training, epoch), 0.0)

    search = Search(Study(), strategy, GOAL, budget, laws.identity(), events.append)
    executor = SimulatedExecutor(train, AT_A_TIME)
    Driver([search], executor, Pool(folder), clock=executor.clock).run()
    return events


def visit(
    histories: list[list[Event]],
    make: Made,
    budget: Budget,
    executor: Scripted,
    folder: Path,
    cut: int | None = None,
    kill: bool = True,
) -> list[Search]:
    """One driver of several studies, which dies, or is told to stop, after so many events."""
    left = [cut if cut is not None else 10**9]

    def journal(events: list[Event]) -> Callable[[Event], None]:
        def append(event: Event) -> None:
            left[0] -= 1
            if left[0] < 0 and kill:
                raise Killed
            if left[0] < 0:
                driver.stop()
            events.append(event)

        return append

    searches = [
        Search(
            Study(events),
            make(seed),
            GOAL,
            budget,
            laws.identity(),
            journal(events),
            parallel=AT_A_TIME,
            history=list(events),
        )
        for seed, events in zip(SEEDS, histories, strict=True)
    ]
    driver = Driver(searches, executor, Pool(folder), clock=executor.clock)
    try:
        driver.run()
        assert not executor.jobs
    except Killed:
        pass
    return searches


def heard(events: Sequence[Event]) -> list[tuple[str, int]]:
    """What the study was told, in its order."""
    return [(event.training, event.report.epoch) for event in events if isinstance(event, Reported)]


def check_equal(events: Sequence[Event], single: Sequence[Event]) -> None:
    together, reference = Study(events), Study(single)
    assert [trial.params for trial in together.trials] == [trial.params for trial in reference.trials]
    assert [trial.state for trial in together.trials] == [trial.state for trial in reference.trials]
    assert [trial.outcome for trial in together.trials] == [trial.outcome for trial in reference.trials]
    assert [trial.epoch for trial in together.trials] == [trial.epoch for trial in reference.trials]
    assert heard(events) == heard(single)
    assert together.closed == reference.closed


def check_as_if_alone(make: Made, slots: int, budget: Budget, folder: Path) -> None:
    histories: list[list[Event]] = [[] for _ in SEEDS]
    executor = Uneven(slots)
    searches = visit(histories, make, budget, executor, folder / "together")
    for seed, events in zip(SEEDS, histories, strict=True):
        laws.check(events)
        check_equal(events, alone(make(seed), budget, folder / "alone"))
    assert len(executor.trained) == len(set(executor.trained)), "and no epoch is trained twice"
    fresh = sum(search.study.epochs - search.study.reused_epochs for search in searches)
    assert fresh == len(executor.trained), "every epoch is one study's own and the others' reuse"


@every_strategy
@pytest.mark.parametrize("slots", [1, 2, 8])
@pytest.mark.parametrize("budget", [Budget(trials=14), Budget(total_epochs=40)], ids=["trials", "epochs"])
def test_in_virtual_time_a_study_is_what_it_would_be_alone(
    name: str, slots: int, budget: Budget, tmp_path: Path
) -> None:
    check_as_if_alone(STRATEGIES[name], slots, budget, tmp_path)


def test_a_trial_that_joins_a_training_in_the_middle_of_an_epoch_does_not_delay_it(tmp_path: Path) -> None:
    check_as_if_alone(joining, 2, Budget(), tmp_path)


def joining(seed: int) -> Strategy:
    rates, lengths = (0.01, 0.02, 0.03, 0.01, 0.04, 0.01, 0.05), (8, 1, 1, 4, 2, 2, 4)
    return Listed([{"learning_rate": r * seed, "epochs": e} for r, e in zip(rates, lengths, strict=True)])


@given(
    name=st.sampled_from([*sorted(STRATEGIES), "joining"]),
    budget=st.builds(Budget, trials=st.integers(1, 12)) | st.builds(Budget, total_epochs=st.integers(1, 40)),
    slots=st.integers(1, 4),
    cuts=st.lists(st.tuples(st.integers(1, 90), st.booleans()), max_size=4),
    wrong=st.dictionaries(
        st.tuples(st.integers(0, 4), st.integers(1, 4)), st.sampled_from([LOST, NAN, END]), max_size=4
    ),
)
@example(name="grid", budget=Budget(trials=18), slots=2, cuts=[], wrong=dict.fromkeys([(i, 2) for i in range(5)], NAN))
@settings(max_examples=60 * laws.MORE, deadline=None)
def test_kills_stops_and_failures_change_nothing_of_that(
    name: str,
    budget: Budget,
    slots: int,
    cuts: list[tuple[int, bool]],
    wrong: dict[tuple[int, int], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """A driver that dies or is stopped anywhere goes on at the same virtual moment, and hears the same."""
    folder, make = tmp_path_factory.mktemp("cut"), STRATEGIES.get(name, joining)

    def fate(key: str, epoch: int) -> str:
        return wrong.get((int(key, 16) % 5, epoch), "")

    def script(key: str, epoch: int, before: int) -> str:
        return fate(key, epoch) if fate(key, epoch) != LOST or not before else ""

    if budget.total_epochs is not None:  # what a failed trial gives back may go to another one after an interruption
        wrong = dict.fromkeys(wrong, LOST)
    histories: list[list[Event]] = [[] for _ in SEEDS]
    for count, (cut, kill) in enumerate([*cuts, (None, True)]):
        visit(histories, make, budget, Uneven(slots, script, now=count * 1e5), folder / "together", cut, kill)
    for seed, events in zip(SEEDS, histories, strict=True):
        check_equal(events, alone(make(seed), budget, folder / "alone", fate))


@pytest.mark.parametrize("budget", [Budget(trials=6, patience=5), Budget(trials=14, total_epochs=23)])
@pytest.mark.parametrize("slots", [1, 3])
def test_a_study_that_is_over_has_heard_what_it_would_have_heard_by_then(
    budget: Budget, slots: int, tmp_path: Path
) -> None:
    histories: list[list[Event]] = [[] for _ in SEEDS]
    visit(histories, STRATEGIES["random"], budget, Uneven(slots), tmp_path / "together")
    for seed, events in zip(SEEDS, histories, strict=True):
        single = alone(STRATEGIES["random"](seed), budget, tmp_path / "alone")
        assert Study(events).closed == Study(single).closed
        assert heard(events) == heard(single)[: len(heard(events))]
        assert len(heard(single)) - len(heard(events)) <= AT_A_TIME, "but for the epochs that were under way"


def test_a_trainer_that_keeps_no_state_is_not_begun_anew_for_every_epoch(tmp_path: Path) -> None:
    histories: list[list[Event]] = [[] for _ in SEEDS]
    executor = Uneven(2, saves=False)
    visit(histories, STRATEGIES["random"], Budget(trials=6), executor, tmp_path)
    assert all(trial.state is State.COMPLETE for events in histories for trial in laws.check(events).trials)
    again = len(executor.trained) - len(set(executor.trained))
    assert again == len({key for key, _ in executor.trained}), "the first epoch of each"


def test_no_checkpoint_is_forgotten_before_a_later_epoch_is_in_a_journal(tmp_path: Path) -> None:
    """What a driver is killed with in its hands is trained again from the epoch before, not from the first."""
    for cut in range(10, 60, 7):
        histories: list[list[Event]] = [[] for _ in SEEDS]
        folder, first, second = tmp_path / str(cut), Uneven(2), Uneven(2, now=1e5)
        visit(histories, STRATEGIES["random"], Budget(trials=6), first, folder, cut)
        recorded = {one for events in histories for one in heard(events)}
        visit(histories, STRATEGIES["random"], Budget(trials=6), second, folder)
        assert not recorded & set(second.trained)
        assert all(job.start == job.known for job in second.submitted)


def test_a_study_on_disk_goes_on_at_its_virtual_moment(tmp_path: Path) -> None:
    place = Place.made(tmp_path)
    visit = replace(place.visit, parallel=2)
    (result,) = run_all([place.spec(budget={"trials": 5})], visit)
    with Journal.open(result.folders.journal) as journal:
        events = [event for _, event in journal.events()]
        search = open_search(assembly.parts(result.spec, None, ["cpu"]), journal, visit)
    assert search.time is not None
    heard_last = max(event.report.seconds for event in events if isinstance(event, Reported))
    assert search.time.now == VirtualTime(events).now >= heard_last


def test_virtual_time_never_goes_back_whatever_the_order_in_which_a_run_of_several_workers_heard() -> None:
    time = VirtualTime()
    for number, key in enumerate("ab"):
        time.take(Started(0.0, number, {}, 0, key, 0, 3))
    for key, epoch, took, now in (("a", 1, 5.0, 5.0), ("b", 1, 1.0, 5.0), ("b", 2, 1.0, 6.0)):
        time.take(Reported(key, Report(epoch, {}, took, 0.0)))
        assert time.now == now
