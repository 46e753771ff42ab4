"""Brings MLflow up to what the journals say, and remembers what it knows. Imports no mlflow: a Store is handed in.

A Delivery follows one study. For every trial an event touched it works out how the run should look now and sends the
difference, so it does not matter how often, or after which accident, it does so. Anything that goes wrong is an
exception after which the same call may be made again.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from hpo.core import Closed, Continued, Ended, Event, Opened, Paused, Reported, Retried, Scored, Started, Study, digest
from hpo.tracking.runs import (
    RUNNING,
    Change,
    Identity,
    Point,
    Progress,
    Run,
    TrackedStudy,
    identity,
    score_points,
    study_run,
    trial_points,
    trial_run,
)
from hpo.tracking.sync_state import PARENT, Ledger, Row

CHUNK = 50  # trials between two notes in the ledger


class Outage(Exception):
    """MLflow does not answer, or not as MLflow does; the same call later may succeed. The text is for a person."""


class Gone(Exception):
    """The run or the experiment is no longer there, not even as a deleted one."""


@dataclass(frozen=True, slots=True)
class Found:
    """A run as it is in MLflow."""

    run: str
    tags: Mapping[str, str]
    deleted: bool = False


class Store(Protocol):
    """One experiment in MLflow. Every method raises Outage or Gone; a run deleted in the UI is restored by `write`.

    experiment: its id; refused: parts MLflow will never take, which were left out.
    """

    experiment: str
    refused: int

    def find(self, tags: Mapping[str, str], status: str | None = None) -> list[Found]:
        """Runs with all these tags: oldest first, and those deleted in the UI behind all others."""

    def create(self, run: Run) -> str:
        """A new run, RUNNING, without params and metrics; returns its id."""

    def write(self, run: str, change: Change) -> None: ...

    def upload(self, run: str, path: Path, folder: str) -> None:
        """Put a file into an artifact folder ("" is the root)."""

    def remove(self, run: str) -> None: ...

    def close(self) -> None: ...


class Reader(Protocol):
    """The journal, read only."""

    def events(self, after: int = 0) -> Iterator[tuple[int, Event]]: ...

    def close(self) -> None: ...


class Delivery:
    """One study on its way to one target. Used by one thread; `cursor` and `pending` may be read by others."""

    def __init__(self, feed: TrackedStudy, target: str, user: str, driver: str, read: Callable[[Path], Reader]) -> None:
        self.feed, self.target, self.user, self.driver, self._read = feed, target, user, driver, read
        self.who: Identity | None = None
        self.parent: str | None = None
        self.status = ""
        self.rows: dict[int, Row] = {}
        self.cursor = 0  # events that have reached MLflow
        self._ledger: Ledger | None = None
        self._reader: Reader | None = None
        self._start()

    def _start(self) -> None:
        self.study, self.progress = Study(), Progress(self.feed.goal)
        self._seq = 0
        self._live: bool | None = None
        self._dirty: set[int] = set()
        self._changed = True  # the parent's tags or status
        self._points: list[Point] = []
        self._scores: dict[int, list[Point]] = {}
        self._unsure = True  # whether MLflow holds runs that `rows` does not name

    @property
    def behind(self) -> int:
        """Events taken in and not delivered."""
        return self._seq - self.cursor

    @property
    def pending(self) -> int:
        """Trials and points taken in but not sent."""
        return len(self._dirty) + len(self._points) + (self._changed and self.who is not None)

    def close(self) -> None:
        for part in (self._reader, self._ledger):
            if part is not None:
                part.close()
        self._reader = self._ledger = None

    # -- take in

    def read(self) -> None:
        """Take in what the journal has that is new."""
        if self._ledger is None:
            if not self.feed.journal.exists():
                return
            self._ledger = Ledger(self.feed.journal.with_name("tracking.db"), self.target)
            self.rows, self.cursor = self._ledger.rows(), int(self._ledger.get("cursor") or 0)
        if self._reader is None:
            self._reader = self._read(self.feed.journal)
        for seq, event in self._reader.events(self._seq):
            self._take(seq, event)

    def _take(self, seq: int, event: Event) -> None:
        if self.who is None:
            self.who = identity(self.feed, event, self.user, self.driver)
        self.study.apply(event)
        points = self.progress.take(event, self.study)
        self._seq = seq
        if isinstance(event, Scored):
            trial = self.study.trials[event.trial]
            self._scores.setdefault(trial.number, []).extend(score_points(event, trial.epoch))
        if seq > self.cursor:
            self._points += points
            self._dirty |= touched(event, self.study)
            self._changed |= not isinstance(event, Reported)

    # -- send

    def send(self, store: Store, live: bool, group: str | None = None) -> None:
        """Bring MLflow up to what was read. live: the driver is at work; group: the comparison's run."""
        if self.who is None:
            return
        try:
            self._send(store, live, group)
        except Gone:
            self._restart()
            raise

    def _send(self, store: Store, live: bool, group: str | None) -> None:
        assert self._ledger is not None
        if live != self._live:
            self._live, self._changed = live, True
            self._dirty |= set(self.study.running)
        if self._unsure:
            self.adopt(store)
        known = PARENT in self.rows
        self.parent = self._parent(store, group)
        if live and known and self._changed:
            self._send_parent(store, group)  # before its trials run, so that they have a driver (courier.sweep)
        numbers = sorted(self._dirty)
        for first in range(0, len(numbers), CHUNK):
            self._trials(store, numbers[first : first + CHUNK])
        if self._changed or self._points:
            self._send_parent(store, group)
        if self.cursor != self._seq:
            self._ledger.set("cursor", str(self._seq))
            self.cursor = self._seq

    def _restart(self) -> None:
        """Everything again, because what was sent is gone."""
        assert self._ledger is not None
        self._ledger.forget()
        self.rows, self.cursor, self.parent = {}, 0, None
        self._start()

    def adopt(self, store: Store) -> None:
        """Find the study's runs by their tags: those the ledger does not know become known, doubles are removed."""
        if self.who is None:
            return
        for found in store.find({"hpo.journal": self.who.journal}):
            number = int(found.tags.get("hpo.trial", PARENT))
            known = self.rows.get(number, Row()).run
            if known is None:
                self.rows[number] = Row(found.run)
            elif known != found.run and not found.deleted:
                store.remove(found.run)
        self._unsure = False

    def _parent(self, store: Store, group: str | None) -> str:
        row = self.rows.get(PARENT)
        if row is not None and row.run is not None:
            return row.run
        assert self.who is not None
        run = study_run(self.feed, self.who, self.study, self.progress, bool(self._live), group)
        self._note([PARENT])
        self.rows[PARENT] = Row(self._create(store, run), tags=digest(run.tags), status=f"{RUNNING} None")
        self._note([PARENT])
        return str(self.rows[PARENT].run)

    def _send_parent(self, store: Store, group: str | None) -> None:
        assert self.who is not None
        run = study_run(self.feed, self.who, self.study, self.progress, bool(self._live), group)
        self.rows[PARENT] = self._write(store, self.rows[PARENT], run, self._points)
        self.status = run.status
        self._note([PARENT])
        self._points, self._changed = [], False

    def _trials(self, store: Store, numbers: Sequence[int]) -> None:
        self._note([number for number in numbers if number not in self.rows])
        try:
            for number in numbers:
                self._trial(store, number)
                self._dirty.discard(number)
        finally:
            self._note(numbers)

    def _trial(self, store: Store, number: int) -> None:
        assert self.who is not None and self.parent is not None
        trial = self.study.trials[number]
        run = trial_run(self.feed, self.who, self.study, trial, bool(self._live), self.parent)
        row = self.rows.get(number, Row())
        if row.run is not None and row.params not in ("", digest(run.params)):
            store.remove(row.run)  # the journal lost its end in a power cut, and the number went to another trial
            row = Row()
        scores = self._scores.get(number, ())
        try:
            if row.run is not None:
                row = self._write(store, row, run, [*trial_points(trial, row.epochs), *scores])
        except Gone:
            row = Row()
        if row.run is None:
            row = self.rows[number] = Row(self._create(store, run), tags=digest(run.tags), status=f"{RUNNING} None")
            row = self._write(store, row, run, [*trial_points(trial, 0), *scores])
        self.rows[number] = replace(row, epochs=trial.epoch)

    def _create(self, store: Store, run: Run) -> str:
        """If the answer does not come, nobody knows whether the run is there: then look before the next try."""
        try:
            return store.create(run)
        except Outage:
            self._unsure = True
            raise

    def _write(self, store: Store, row: Row, run: Run, points: Sequence[Point]) -> Row:
        """Send what this run has not been sent; returns what it has been sent then."""
        assert row.run is not None
        params, tags, status = digest(run.params), digest(run.tags), f"{run.status} {run.ended}"
        change = Change(
            params=run.params if row.params != params else {},
            points=points,
            tags=run.tags if row.tags != tags else {},
            status=run.status if row.status != status else None,
            ended=run.ended,
        )
        store.write(row.run, change)
        return replace(row, params=params, tags=tags, status=status)

    def _note(self, numbers: Sequence[int]) -> None:
        assert self._ledger is not None
        if numbers:
            with self._ledger.together():
                for number in numbers:
                    self._ledger.put(number, self.rows.get(number, Row()))

    # -- artifacts

    def upload(self, store: Store, files: bool) -> None:
        """study.yaml and the like; files: the report and the plots too. Only what changed."""
        if self.parent is None or self._ledger is None:
            return
        with tempfile.TemporaryDirectory(prefix="hpo-") as folder:
            texts = [written(Path(folder), name, text) for name, text in self.feed.texts.items()]
            for path, place in [*texts, *(files_in(self.feed.artifacts) if files else ())]:
                key, content = f"artifact {place}/{path.name}", hashlib.sha256(path.read_bytes()).hexdigest()
                if self._ledger.get(key) != content:
                    store.upload(self.parent, path, place)
                    self._ledger.set(key, content)


def touched(event: Event, study: Study) -> set[int]:
    """Trials whose runs may look different after this event."""
    match event:
        case (
            Started(trial=number)
            | Continued(trial=number)
            | Paused(trial=number)
            | Ended(trial=number)
            | Scored(trial=number)
        ):
            return {number}
        case Reported(training=key) | Retried(training=key):
            return {trial.number for trial in study.readers(key)}
        case Opened() | Closed():
            return {*study.running, *study.paused}


def written(folder: Path, name: str, text: str) -> tuple[Path, str]:
    """A text as a file to upload, and the artifact folder it belongs in."""
    path = folder / name
    assert path.resolve().is_relative_to(folder.resolve()), name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path, "" if path.parent == folder else path.parent.relative_to(folder).as_posix()


def files_in(artifacts: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """(file, artifact folder) of what is there."""
    for artifact in artifacts:
        if artifact.is_file():
            yield artifact, ""
        for path in sorted(artifact.rglob("*")) if artifact.is_dir() else ():
            if path.is_file() and not path.is_symlink():
                inner = path.parent.relative_to(artifact).as_posix()
                yield path, "" if inner == "." else inner
