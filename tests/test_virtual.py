"""Several trials of each study at a time, while studies share their workers: each decides what it would decide alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import fakes
import laws
import pytest
from scripted import Scripted
from test_driver import GOAL, STRATEGIES, Listed, every_strategy

from hpo.core import Event, Job, Message, Report, Reported, Strategy, Study, epochs_of
from hpo.driver import Driver
from hpo.execution.simulated import SimulatedExecutor
from hpo.pool import Pool
from hpo.search import Search
from hpo.spec.loading import Budget

AT_A_TIME = 3


def seconds(training: str, epoch: int) -> float:
    """No two epochs take the same time."""
    return 0.5 + random.Random(f"{training}/{epoch}").random()


def train(job: Job) -> Iterator[Report]:
    for epoch in range(1, epochs_of(job.params) + 1):
        yield Report(epoch, {"val_accuracy": fakes.accuracy(job, epoch)}, seconds(job.training, epoch), 0.0)


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


def alone(strategy: Strategy, budget: Budget, folder: Path) -> list[Event]:
    """With as many workers of its own, whose epochs take what they report."""
    events: list[Event] = []
    search = Search(Study(), strategy, GOAL, budget, laws.identity(), events.append)
    executor = SimulatedExecutor(train, AT_A_TIME)
    Driver([search], executor, Pool(folder / "alone"), clock=executor.clock).run()
    return events


def heard(events: list[Event]) -> list[tuple[str, int]]:
    """What the study was told, in its order."""
    return [(event.training, event.report.epoch) for event in events if isinstance(event, Reported)]


def check_as_if_alone(make: Callable[[int], Strategy], slots: int, budget: Budget, folder: Path) -> None:
    written: list[list[Event]] = [[], []]
    searches = [
        Search(Study(), make(seed), GOAL, budget, laws.identity(), events.append, parallel=AT_A_TIME)
        for seed, events in zip((3, 4), written, strict=True)
    ]
    executor = Uneven(slots)
    Driver(searches, executor, Pool(folder / "together"), clock=executor.clock).run()
    assert not executor.jobs
    for seed, events in zip((3, 4), written, strict=True):
        single = alone(make(seed), budget, folder)
        together, reference = laws.check(events), Study(single)
        assert [trial.params for trial in together.trials] == [trial.params for trial in reference.trials]
        assert [trial.state for trial in together.trials] == [trial.state for trial in reference.trials]
        assert [trial.epoch for trial in together.trials] == [trial.epoch for trial in reference.trials]
        assert together.closed == reference.closed
        assert heard(events) == heard(single)
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
    def points(seed: int) -> Strategy:
        rates, lengths = (0.01, 0.02, 0.03, 0.01, 0.04, 0.01, 0.05), (8, 1, 1, 4, 2, 2, 4)
        return Listed([{"learning_rate": r * seed, "epochs": e} for r, e in zip(rates, lengths, strict=True)])

    check_as_if_alone(points, 2, Budget(), tmp_path)
