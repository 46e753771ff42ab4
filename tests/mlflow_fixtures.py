"""An MLflow that is a dict and misbehaves when told to, made-up events, and what must hold of a delivery."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from hpo import core
from hpo.core import Event, Goal, Opened, Outcome, Paused, Report, Reported, Retried, Scored, Started, State, Study
from hpo.formatting import finite
from hpo.tracking.runs import Change, History, MetricPoint, Run, StoredRun, TrackedStudy
from hpo.tracking.study_sync import Gone, Outage
from hpo.tracking.sync import Connect, Sync

GOAL = Goal("val_accuracy")
ENVIRONMENT = {"commit": "0123abc", "host": "somewhere"}


@dataclass
class Kept:
    """A run as the fake keeps it."""

    name: str
    tags: dict[str, str]
    started: int
    status: str = "RUNNING"
    ended: int | None = None
    params: dict[str, str] = field(default_factory=dict)
    points: list[MetricPoint] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    deleted: bool = False


class FakeMlflow:
    """The server's side. faults of the calls: "" none, "before" nothing is done, "after" done and not answered."""

    def __init__(self, faults: Iterator[str] = iter(())) -> None:
        self.runs: dict[str, Kept] = {}
        self.faults = faults
        self.calls = 0
        self.away = False
        self._ids = (f"run{number}" for number in itertools.count())

    def connect(self, uri: str = "", experiment: str = "", tags: Mapping[str, str] | None = None) -> FakeStore:
        if self.away:
            raise Outage("connection refused")
        return FakeStore(self)

    def call(self, work: Callable[[], str | None]) -> str:
        self.calls += 1
        fault = "before" if self.away else next(self.faults, "")
        if fault == "before":
            raise Outage("500 from a fake")
        answer = work()
        if fault == "after":
            raise Outage("timed out")
        return answer or ""

    def make(self, run: Run) -> str:
        new = next(self._ids)
        self.runs[new] = Kept(run.name, dict(run.tags), run.started)
        return new

    def change(self, run: str, change: Change) -> None:
        if run not in self.runs:
            raise Gone(run)
        kept = self.runs[run]
        kept.deleted = False
        for name, text in change.params.items():
            assert kept.params.setdefault(name, text) == text, "a param never changes"
        kept.points += [point for point in change.points if not any(same(point, old) for old in kept.points)]
        kept.tags.update(change.tags)
        if change.status is not None:
            kept.status, kept.ended = change.status, change.ended

    def alive(self) -> list[Kept]:
        return [run for run in self.runs.values() if not run.deleted]


def same(one: MetricPoint, other: MetricPoint) -> bool:
    """NaN is itself, as in MLflow's tables."""
    return repr(one) == repr(other)


class FakeStore:
    """study_sync.Store over a FakeMlflow."""

    def __init__(self, server: FakeMlflow) -> None:
        self.server, self.experiment = server, "1"

    def find(self, tags: Mapping[str, str], status: str | None = None) -> list[StoredRun]:
        self.server.call(lambda: None)
        wanted = [
            StoredRun(run, dict(kept.tags), dict(kept.params), kept.status, kept.ended, kept.deleted)
            for run, kept in self.server.runs.items()
            if tags.items() <= kept.tags.items() and status in (None, kept.status)
        ]
        return sorted(wanted, key=lambda run: run.deleted)

    def create(self, run: Run) -> str:
        return self.server.call(lambda: self.server.make(run))

    def write(self, run: str, change: Change) -> None:
        if change.params or change.points or change.tags or change.status:
            self.server.call(lambda: self.server.change(run, change))

    def upload(self, run: str, name: str, content: bytes) -> None:
        self.server.call(lambda: self.server.runs[run].files.update({name: content}))

    def remove(self, run: str) -> None:
        def delete() -> None:
            self.server.runs[run].deleted = True

        self.server.call(delete)

    def holds(self, model: str) -> bool:
        return True

    def close(self) -> None:
        pass


class ListJournal:
    """A journal that is a list; grows under the reader's hands."""

    def __init__(self, events: list[Event]) -> None:
        self.list = events

    def events(self, after: int = 0) -> Iterator[tuple[int, Event]]:
        yield from enumerate(self.list[after:], after + 1)

    def close(self) -> None:
        pass


class Script:
    """A driver without a strategy: turns any list of numbers into a legal list of events, one second apart."""

    def __init__(self, epochs: int = 3, now: float = 1_700_000_000.0) -> None:
        self.events: list[Event] = []
        self.study = Study()
        self.epochs, self.now = epochs, now
        self.add(Opened(self.tick(), ENVIRONMENT))

    def tick(self) -> float:
        self.now += 1.0
        return self.now

    def add(self, event: Event) -> None:
        self.study.apply(event)
        self.events.append(event)

    def start(self, training: str | None = None, epochs: int | None = None, **params: float | str) -> int:
        number, epochs = len(self.study), epochs or self.epochs
        chosen = {"learning_rate": 0.1 / (number + 1), "act": "relu", **params, "epochs": epochs}
        self.add(Started(self.tick(), number, chosen, 0, training or f"t{number}", 7, epochs))
        return number

    def report(self, trial: int, value: float | None = None) -> None:
        training = self.study.trainings[self.study.trials[trial].training]
        epoch = len(training.reports) + 1
        metric = value if value is not None else ((trial * 37 + epoch * 11) % 100) / 100
        metrics = {"val_accuracy": metric, "val_loss": 1 - metric}
        self.add(Reported(training.key, Report(epoch, metrics, 0.5, self.tick())))

    def end(self, trial: int, state: State = State.COMPLETE, outcome: Outcome = Outcome.OK, error: str = "") -> None:
        self.add(core.Ended(self.tick(), trial, state, outcome, error))

    def complete(self, **params: float | str) -> int:
        """A trial from start to end."""
        number = self.start(**params)
        for _ in range(self.epochs):
            self.report(number)
        self.end(number)
        return number

    def close(self, reason: str = "budget") -> None:
        for number in list(self.study.running):
            self.add(Paused(self.tick(), number))
        self.add(core.Closed(self.tick(), reason))

    def act(self, choice: int) -> None:
        """Any number is some legal act."""
        running, what = list(self.study.running), choice % 8
        trial = running[choice // 8 % len(running)] if running else None
        if self.study.closed is not None:
            self.add(Opened(self.tick(), ENVIRONMENT))
        elif what == 0 or trial is None:
            self.start(training="shared" if choice % 3 == 0 else None)
        elif what <= 3:
            if self.study.trials[trial].epoch < self.epochs:
                self.report(trial)
            else:
                self.end(trial)
        elif what == 4:
            self.add(Paused(self.tick(), trial))
            if choice % 16 > 7:
                self.add(core.Continued(self.tick(), trial, self.epochs))
        elif what == 5:
            fate = (State.FAILED, Outcome.NAN, "loss is not a number") if choice % 2 else (State.PRUNED,)
            self.end(trial, *fate)
        elif what == 6:
            key = self.study.trials[trial].training
            attempt = max(one.attempt for one in self.study.readers(key)) + 1
            self.add(Retried(self.tick(), key, attempt, "the worker died"))
        elif choice % 24 == 7:
            self.close("interrupted" if choice % 2 else "budget")
        else:
            self.add(Scored(self.tick(), trial, {"test_accuracy": 0.5}))


def scripted(choices: Sequence[int]) -> list[Event]:
    script = Script()
    for choice in choices:
        script.act(choice)
    return script.events


studies = st.lists(st.integers(0, 1_000), max_size=40).map(scripted)


def tracked_study(folder: Path, **changes: object) -> TrackedStudy:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "journal.db").touch()
    study = TrackedStudy(folder / "journal.db", "digits", "random", 0, GOAL, columns=("learning_rate", "act"))
    return replace(study, **{"user": "someone", "driver": "elsewhere:1", **changes})  # type: ignore[arg-type]


def new_sync(server: FakeMlflow, one: TrackedStudy, events: list[Event]) -> Sync:
    return sync_of_lists([(one, events)], server.connect)


def sync_of_lists(
    studies: Sequence[tuple[TrackedStudy, list[Event]]], connect: Connect, uri: str = "http://fake"
) -> Sync:
    """Of studies whose journals are lists."""
    journals: dict[Path, Any] = {study.journal: ListJournal(events) for study, events in studies}
    return Sync([study for study, _ in studies], uri, connect, lambda: 1_800_000_000.0, journals.__getitem__)


def until_well(sync: Sync, live: bool, most: int = 200) -> None:
    for _ in range(most):
        if sync.round(live):
            return
    raise AssertionError(f"still in trouble after {most} rounds: {sync.trouble}")


def send(sync: Sync, live: bool = False, most: int = 200) -> None:
    """What a driver does that comes, sends everything and leaves."""
    with closing(sync):
        until_well(sync, live, most)


def check_delivered(runs: Sequence[Kept], one: TrackedStudy, events: Sequence[Event], live: bool) -> None:
    """What MLflow holds is what the events say: nothing missing, nothing doubled, every status right."""
    history, points = History(one), list[MetricPoint]()
    for event in events:
        points += history.apply(event)
    study = history.study
    parents = [run for run in runs if run.tags["hpo.kind"] == "study"]
    children = {run.tags["hpo.trial"]: run for run in runs if run.tags["hpo.kind"] == "trial"}
    assert len(parents) == 1
    assert live or parents[0].status != "RUNNING"
    assert len(children) == len(runs) - 1 == len(study)
    assert sorted(map(repr, parents[0].points)) == sorted(map(repr, dict.fromkeys(points)))
    for trial in study.trials:
        run = children[str(trial.number)]
        expected = {
            (name, repr(finite(value)), report.epoch, round(report.time * 1000))
            for report in trial.reports
            for name, value in {**report.metrics, "seconds": report.seconds}.items()
        }
        got = [(p.name, repr(p.value), p.step, p.time) for p in run.points if not p.name.startswith(("test_", "best_"))]
        assert len(got) == len(set(got))
        assert set(got) == expected
        ranked = sorted((p.step, p.time, p.value) for p in run.points if p.name == f"best_{one.goal.metric}")
        value = one.goal.value(trial) if one.goal.counted(trial) else None  # what MLflow's table shows is the last
        assert [value for *_, value in ranked[-1:]] == [v for v in [value] if v is not None and math.isfinite(v)]
        assert run.params == {name: str(value) for name, value in trial.params.items()}
        assert run.tags["hpo.state"] == str(trial.state) or run.tags["hpo.state"] == "interrupted"
        assert live or run.status != "RUNNING"
        assert (run.status == "FAILED") == (trial.state is State.FAILED)
