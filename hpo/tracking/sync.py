"""MLflow only listens: one writer thread follows the journals, and training never waits for it (docs/design.md).

The thread imports mlflow (2 s), so that importing this file costs nothing. What is not delivered when a process ends is
delivered by the next driver of the study, or by `hpo sync`.
"""

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self

from hpo.errors import HpoError
from hpo.files import alive, hit
from hpo.formatting import without_password
from hpo.journal import Journal
from hpo.tracking import runs, ui
from hpo.tracking.runs import RUNNING, Change, StoredRun, TrackedStudy, difference
from hpo.tracking.study_sync import Gone, Outage, Store, StudySync, files_in
from hpo.tracking.ui import ui_address

logger = logging.getLogger(__name__)

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between tries while MLflow is away
PACE = 1.0  # seconds between two looks at the journals
SHARE = 4.0  # and at least this many times what the last look cost: a core in five at most, however slow MLflow is
LONGEST_PACE = 15.0
REFUSED = 5.0  # seconds of trouble after which nobody waits for an MLflow that refuses at once
IMPATIENT = 1.0  # seconds between tries while `drain` or `close` waits
TROUBLES = (Outage, Gone, HpoError, OSError, sqlite3.Error)

# Unless the user has set them. A call gives up after 20 s: nothing waits for it, and a slow server must get its chance.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "GIT_PYTHON_REFRESH": "quiet",
}

Connect = Callable[[str, str, Mapping[str, str]], Store]  # uri, experiment, its tags


class Sync:
    """Studies on their way to one experiment, without thread or clock. connect opens it, or raises Outage."""

    def __init__(
        self,
        studies: Sequence[TrackedStudy],
        uri: str,
        connect: Connect | None = None,
        now: Callable[[], float] = time.time,
        open_journal: Callable[[Path], Journal] = partial(Journal.open, read_only=True),
    ) -> None:
        assert len({study.experiment_name for study in studies}) == 1, studies
        self.studies = [StudySync(study, open_journal) for study in studies]
        self._first, self._uri, self._connect, self._now = studies[0], uri, connect or connect_mlflow, now
        self.store: Store | None = None
        self.experiment: str | None = None  # its id, once MLflow has answered
        self.trouble = ""
        self.wait = FIRST_WAIT
        self._since = 0.0  # when the trouble began
        self._comparison: StoredRun | None = None
        self._swept = self.abandoned = False  # abandoned: nobody waits for this one any more

    def round(self, live: bool) -> bool:
        """Send what there is; report and pictures when no driver is `live`. False: trouble, for `wait` seconds."""
        try:
            self._round(live)
        except TROUBLES as error:
            why = " ".join(str(error).split()) or type(error).__name__
            self.fail(why, f"MLflow cannot be reached ({why}); nothing is lost, and the rest is sent later")
            if isinstance(error, Gone):
                self.store = self._comparison = None
            return False
        if self.trouble:
            logger.warning("MLflow is back after %.0f s; nothing is missing", self._now() - self._since)
        self.trouble, self.wait = "", FIRST_WAIT
        return True

    def deliver(self, timeout: float = 60.0, sleep: Callable[[float], None] = time.sleep) -> str:
        """What is missing of studies without a driver; returns what is wrong after `timeout` seconds, or ""."""
        end = self._now() + timeout
        with closing(self), mlflow_environment():
            while not self.round(live=False) and self._now() + self.wait <= end:
                sleep(self.wait)
        return self.trouble

    def refuses(self, seconds: float) -> bool:
        """Whether a try that took so long shows an MLflow that has been down, not slow, for a while."""
        return self.trouble != "" and seconds < IMPATIENT and self._now() - self._since >= REFUSED

    def undelivered(self) -> int:
        """Events, or what else is left to send; not 0 while there is trouble."""
        return sum(study.undelivered() for study in self.studies) or int(self.trouble != "")

    def close(self) -> None:
        if self.store is not None:
            self.store.close()
        self.store = None

    def _round(self, live: bool) -> None:
        for study in self.studies:
            study.read()
        if self.store is None:
            tags = ui.tags(self._first.goal, self._first.columns)
            self.store = self._connect(self._uri, self._first.experiment_name, tags)
            self.experiment = self.store.experiment
        if not self._swept:
            end_orphans(self.store, {study.history.journal for study in self.studies}, self._now())
            self._swept = True
        with self._comparison_run(self.store, artifacts=not live) as comparison:
            for study in self.studies:
                if self.abandoned:  # another process may deliver now: both would make the same runs
                    return
                study.send(self.store, live, comparison)
                study.upload(self.store, artifacts=not live)

    @contextmanager
    def _comparison_run(self, store: Store, artifacts: bool) -> Iterator[str | None]:
        """The id of the run above those of the studies, brought up to date once they are; None where there is none."""
        info, histories = self._first.comparison, [study.history for study in self.studies if study.history.journal]
        if info is None or not histories:
            yield None
            return
        if self._comparison is None:
            run = runs.comparison_run(info, histories, {RUNNING})
            known = store.find({"hpo.journal": info.journal})
            self._comparison = known[0] if known else StoredRun(store.create(run), run.tags)
        stored = self._comparison
        yield stored.id
        run = runs.comparison_run(info, histories, {study.status for study in self.studies})
        change = difference(stored, run, ())
        if change.tags or change.status:
            store.write(stored.id, change)
            self._comparison = replace(stored, tags={**stored.tags, **run.tags}, status=run.status, ended=run.ended)
        for name, content in files_in(info.artifacts if artifacts else ()):
            store.upload(stored.id, name, content)

    def fail(self, trouble: str, warning: str) -> None:
        """The first time it says so; each time the next try comes later."""
        self.wait = min(LONGEST_WAIT, self.wait * 2) if self.trouble else FIRST_WAIT
        if not self.trouble:
            self._since = self._now()
            logger.warning("%s", without_password(warning))
        self.trouble = without_password(trouble)


def end_orphans(store: Store, own: Collection[str], now: float) -> None:
    """Runs that drivers killed on this machine left RUNNING, of other journals than `own`, become KILLED.

    Only a study's own run says which driver it has; a trial whose study does not run has none either.
    """
    hit("sweep")
    running = {run.id: run for run in store.find({}, status=RUNNING) if not run.deleted and "hpo.kind" in run.tags}
    tags = {"hpo.state": runs.INTERRUPTED, runs.DRIVER: runs.NO_DRIVER}
    for run in running.values():
        driven = run if runs.DRIVER in run.tags else running.get(run.tags.get(runs.PARENT, ""), run)
        host, _, pid = driven.tags.get(runs.DRIVER, "").rpartition(":")
        elsewhere = host not in ("", os.uname().nodename)  # where nothing says whether the driver is at work
        if run.tags.get("hpo.journal") not in own and not elsewhere and not (host and alive(int(pid))):
            store.write(run.id, Change(tags=tags, status=runs.KILLED, ended=runs.milliseconds(now)))


class Tracker:
    """The writer thread. All studies go to one experiment of one MLflow."""

    def __init__(self, studies: Sequence[TrackedStudy], uri: str, connect: Connect | None = None) -> None:
        self.uri = uri
        self._sync = Sync(studies, uri, connect)
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
        self._wake = threading.Event()
        self._waiting: threading.Event | None = None  # of `drain`: set once all there was when it came is delivered
        self._closing = False
        self.undelivered = 0  # what had not reached MLflow when it was closed

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.close(3.0 if kind is not None else 30.0)

    def start(self) -> None:
        self._thread.start()

    def drain(self, timeout: float) -> int:
        """Wait until all of now is in MLflow, or `timeout` seconds, or it refuses at once; returns how much is not."""
        self._waiting = delivered = threading.Event()
        self._wake.set()
        if self._thread.is_alive():
            delivered.wait(timeout)
        self._waiting = None
        return self._sync.undelivered()

    def close(self, timeout: float = 10.0) -> int:
        """The driver has left: statuses and artifacts go out, then the thread ends. Returns what did not get there."""
        self._closing, self.undelivered = True, 1  # where a signal ends the waiting
        try:
            self.undelivered = self.drain(timeout)
        finally:
            self._sync.abandoned = True
            self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(IMPATIENT)
        return self.undelivered

    def parent(self, journal: Path) -> str | None:
        """The id of the run of the study with this journal, once MLflow has answered."""
        return next(study.run() for study in self._sync.studies if study.tracked.journal == journal)

    def holds(self, model: str) -> bool:
        """Whether MLflow still has this model's files; an MLflow that does not answer has what it had."""
        store = self._sync.store
        return store is None or store.holds(model)

    def ui_address(self) -> str:
        """Where the UI shows this experiment, "" where `hpo ui` must serve it; also after `close`."""
        return ui_address(self.uri, self._sync.experiment)

    def _run(self) -> None:
        try:
            with mlflow_environment():
                while not self._sync.abandoned:
                    waiting, began = self._waiting, time.monotonic()
                    well = self._round(live=not self._closing)
                    if waiting is not None and (well or self._sync.refuses(time.monotonic() - began)):
                        waiting.set()
                    pace = min(LONGEST_PACE, max(PACE, SHARE * (time.monotonic() - began)))
                    patience = min(IMPATIENT, self._sync.wait) if self._waiting else self._sync.wait
                    self._wake.wait(pace if well else patience)
                    self._wake.clear()
        finally:
            self._sync.close()
            if (waiting := self._waiting) is not None:
                waiting.set()

    def _round(self, live: bool) -> bool:
        """A bug in here must not end the delivery, still less the study."""
        try:
            return self._sync.round(live)
        except Exception as error:
            why = f"a bug of hpo: {type(error).__name__}: {error}"
            self._sync.fail(why, f"tracking failed by {why}; the study continues, and the rest is tried again")
            logger.debug("where it failed", exc_info=True)
            return False


def connect_mlflow(uri: str, experiment: str, tags: Mapping[str, str]) -> Store:
    from hpo.tracking.store import connect  # mlflow: 2 s that must not delay the training

    return connect(uri, experiment, tags)


@contextmanager
def mlflow_environment() -> Iterator[None]:
    """Set what MLflow reads from environment variables alone; afterwards they are as they were."""
    missing = [name for name in ENVIRONMENT if name not in os.environ]
    os.environ.update({name: ENVIRONMENT[name] for name in missing})
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)
