"""Brings MLflow up to what one study's journal says. Imports no mlflow: a Store is handed in.

For every trial an event touched it works out how the run should look now and sends the difference to what MLflow has, so
after any exception the same call may be made again. One process at a time sends a study: the one that holds its DriverLock.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

from hpo.core import Closed, Event, Opened, Reported, Retried, Study, digest
from hpo.errors import HpoError
from hpo.files import read_log
from hpo.journal import Journal
from hpo.tracking import runs
from hpo.tracking.runs import RUNNING, Change, History, MetricPoint, Run, StoredRun, TrackedStudy

PARENT = -1  # the key of the study's own run among its trials' runs


class Outage(Exception):
    """MLflow does not answer, or not as MLflow does; the same call later may succeed. The text is for the user."""


class Gone(Exception):
    """The run or the experiment is no longer there, not even as a deleted one."""


class Store(Protocol):
    """One experiment in MLflow. Every method raises Outage or Gone; `write` restores a run deleted in the UI."""

    experiment: str

    def find(self, tags: Mapping[str, str], status: str | None = None) -> list[StoredRun]:
        """Runs with all these tags: oldest first, and those deleted in the UI behind all others."""

    def create(self, run: Run) -> str:
        """A new run, RUNNING, without params and metrics; returns its id."""

    def write(self, run: str, change: Change) -> None: ...

    def upload(self, run: str, name: str, content: bytes) -> None:
        """Make it the run's artifact of this name, which may be in a folder: plots/a.png."""

    def remove(self, run: str) -> None: ...

    def holds(self, model: str) -> bool:
        """Whether the files of a logged model are there, as far as MLflow says."""

    def close(self) -> None: ...


class StudySync:
    """One study on its way to MLflow, by one thread. runs: its runs by trial number, its own under PARENT."""

    def __init__(self, tracked: TrackedStudy, open_journal: Callable[[Path], Journal]) -> None:
        self.tracked, self._open_journal = tracked, open_journal
        self._reset()

    def _reset(self) -> None:
        self.history = History(self.tracked)
        self.runs: dict[int, StoredRun] = {}
        self._read = self._delivered = 0  # events
        self._live: bool | None = None
        self._comparison: str | None = None
        self._due: set[int] = set()  # trials whose runs may look different
        self._parent_due = True
        self._points: list[MetricPoint] = []  # of the study's own run
        self._must_look = True  # whether MLflow may hold runs that `runs` does not name
        self._look_again = False  # at the end, because a request that was given up may be carried out late
        self._uploaded: dict[str, str] = {}  # artifact -> digest

    @property
    def status(self) -> str:
        """Of the study's own run."""
        return self.runs[PARENT].status if PARENT in self.runs else ""

    def run(self, trial: int = PARENT) -> str | None:
        """The id of a trial's run, or of the study's, once it is known."""
        return self.runs[trial].id if trial in self.runs else None

    def undelivered(self) -> int:
        """Events in the journal that are not known to have reached MLflow, or what else is left to send."""
        events = 0
        with suppress(HpoError):
            events = len(self._events(self._delivered))
        return events or len(self._due) + len(self._points) + (self._parent_due and self._read > 0)

    def read(self) -> None:
        for number, event in self._events(self._read):
            self._points += self.history.apply(event)
            self._due |= touched(event, self.history.study)
            self._parent_due |= not isinstance(event, Reported)
            self._read = number

    def _events(self, after: int) -> list[tuple[int, Event]]:
        """Opened for each look: a comparison has more journals than a process may have files open."""
        if not self.tracked.journal.exists():
            return []
        with closing(self._open_journal(self.tracked.journal)) as journal:
            return list(journal.events(after))

    def send(self, store: Store, live: bool, comparison: str | None = None) -> None:
        """Bring MLflow up to what was read. live: the driver is at work; comparison: the id of the comparison's run."""
        if self._read == 0:
            return
        self._comparison = comparison
        if live != self._live:
            self._live, self._parent_due = live, True
            self._due |= set(self.history.study.running)
        try:
            self._send(store, live)
        except Gone:  # everything again
            self._reset()
            raise
        except Exception:
            self._must_look = self._look_again = True
            raise
        self._delivered = self._read

    def _send(self, store: Store, live: bool) -> None:
        if self._must_look:
            self._adopt(store)
        if PARENT not in self.runs:
            self._create(store, PARENT, self._parent_run())
        elif live:
            self._send_parent(store)  # before its trials run, so that no other driver takes them for abandoned
        for number in sorted(self._due):
            self._send_trial(store, number)
            self._due.discard(number)
        self._send_parent(store)
        if self._look_again and not live:
            self._adopt(store)
            self._look_again = False

    def _adopt(self, store: Store) -> None:
        """Find the study's runs by their tags; doubles, and runs of trials the journal does not know, are removed."""
        for run in store.find({"hpo.journal": self.history.journal}):
            number = int(run.tags.get("hpo.trial", PARENT))
            kept = self.runs.setdefault(number, run) if number < len(self.history.study) else None
            if (kept is None or kept.id != run.id) and not run.deleted:
                store.remove(run.id)
        self._must_look = False

    def _parent_run(self) -> Run:
        return runs.study_run(self.history, bool(self._live), self._comparison)

    def _send_parent(self, store: Store) -> None:
        if self._parent_due or self._points:
            self._write(store, PARENT, self._parent_run(), self._points)
            self._points, self._parent_due = [], False

    def _send_trial(self, store: Store, number: int) -> None:
        trial, scores = self.history.study.trials[number], self.history.scores.get(number, [])
        run = runs.trial_run(self.history, trial, bool(self._live), self.runs[PARENT].id)
        points, stored = partial(runs.trial_points, trial, self.tracked.goal), self.runs.get(number)
        if stored is not None and not stored.params.items() <= run.params.items():
            store.remove(stored.id)  # the journal lost its end in a power cut, and the number went to another trial
            del self.runs[number]
        try:
            if number not in self.runs:
                self._create(store, number, run)
            self._write(store, number, run, points(self.runs[number].epochs), scores)
        except Gone:  # only this run; if it is the experiment, this raises Gone too
            self._create(store, number, run)
            self._write(store, number, run, points(0), scores)
        self.runs[number] = replace(self.runs[number], epochs=trial.epoch)

    def _logged(self, store: Store, number: int, run: Run) -> Run:
        """The run of a trial that has come to rest, with its log, and a tag by which that is sent once."""
        if number == PARENT or run.status == RUNNING:
            return run
        log = read_log(self.tracked.journal.parents[1], self.history.study.trials[number].training)
        tag = {"hpo.log": digest(log)} if log else {}
        if log and not tag.items() <= self.runs[number].tags.items():
            store.upload(self.runs[number].id, "log.txt", log.encode())
        return replace(run, tags={**run.tags, **tag})

    def _create(self, store: Store, number: int, run: Run) -> None:
        self.runs[number] = StoredRun(store.create(run), run.tags)

    def _write(
        self, store: Store, number: int, run: Run, points: Sequence[MetricPoint], scores: Sequence[MetricPoint] = ()
    ) -> None:
        """A run that has come to rest and looks as it should has its points too: a Store writes them first."""
        stored, run = self.runs[number], self._logged(store, number, run)
        change = runs.difference(stored, run, [*points, *scores])
        if change.params or change.tags or change.status or run.status == RUNNING or scores:
            store.write(stored.id, change)
        tags = {**stored.tags, **run.tags}
        self.runs[number] = replace(stored, tags=tags, params=run.params, status=run.status, ended=run.ended)

    def upload(self, store: Store, artifacts: bool) -> None:
        """study.yaml and the like; artifacts: the report and the pictures too. Only what changed."""
        if PARENT not in self.runs or (self._uploaded and not artifacts):
            return
        texts = [(name, text.encode()) for name, text in self.tracked.texts.items()]
        for name, content in [*texts, *files_in(self.tracked.artifacts if artifacts else ())]:
            assert not {"/", ".."} & set(Path(name).parts), name
            checksum = hashlib.sha256(content).hexdigest()
            if self._uploaded.get(name) != checksum:
                store.upload(self.runs[PARENT].id, name, content)
                self._uploaded[name] = checksum


def touched(event: Event, study: Study) -> set[int]:
    match event:
        case Reported(training=key) | Retried(training=key):
            return {trial.number for trial in study.readers(key)}
        case Opened() | Closed():
            return {*study.running, *study.paused}
        case _:
            return {event.trial}


def files_in(artifacts: Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every file that is there."""
    for artifact in artifacts:
        if artifact.is_file():
            yield artifact.name, artifact.read_bytes()
        for path in sorted(artifact.rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield path.relative_to(artifact).as_posix(), path.read_bytes()
