"""MLflow only listens: one writer thread follows the journals, and nobody waits for it (docs/design.md, 7).

    tracker = Tracker(feeds, uri); tracker.start() ... tracker.drain(5) ... tracker.close()

The thread imports mlflow (2 s), so that importing this file costs nothing. What is not delivered when a process ends is
delivered by the next driver of the study, or by `sync`.
"""

from __future__ import annotations

import getpass
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from hpo.core import digest
from hpo.errors import HpoError
from hpo.journal import Journal
from hpo.tracking import views
from hpo.tracking.delivery import Delivery, Reader, Store
from hpo.tracking.runs import ComparisonInfo, TrackedStudy
from hpo.tracking.sync import Courier, Standing
from hpo.tracking.sync_state import PARENT
from hpo.tracking.uri import tracking_uri, ui_line

__all__ = ["ComparisonInfo", "Standing", "TrackedStudy", "Tracker", "sync", "tracking_uri", "ui_line"]

logger = logging.getLogger(__name__)

PACE = 1.0  # seconds between two looks at the journals
SHARE = 4.0  # and at least this many times what the last look cost: a core in five at most, however slow MLflow is
LONGEST_PACE = 15.0
IMPATIENT = 1.0  # seconds between tries while somebody waits in `drain` or `close`

# Unless the user has set them. A call gives up after 20 s: nobody waits for it, and a slow server must get its chance.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "GIT_PYTHON_REFRESH": "quiet",
}

Connect = Callable[[str, str, Mapping[str, str]], Store]  # uri, experiment, its tags


class Tracker:
    """The writer thread. All feeds go to one experiment of one MLflow."""

    def __init__(
        self,
        feeds: Sequence[TrackedStudy],
        uri: str,
        *,
        connect: Connect | None = None,
        pace: float = PACE,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.uri, self.pace = uri, pace
        self._courier = courier(feeds, uri, connect or real, now)
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
        self._turn = threading.Condition()
        self._asked = self._done = self._waiting = 0  # drains asked for, answered, and waiting now
        self._closing = self._abandoned = False
        self._files = False

    def start(self) -> None:
        self._thread.start()

    def artifacts(self) -> None:
        """The report and the plots are there now: send them along with the next round."""
        self._files = True

    def drain(self, timeout: float) -> int:
        """Wait until everything there is now has reached MLflow, or `timeout` seconds; returns how much has not."""
        self._ask(timeout)
        return self._undelivered()

    def close(self, timeout: float = 10.0) -> int:
        """The driver has left: statuses and artifacts go out, then the thread ends. Returns what did not get there."""
        self._closing = self._files = True
        if self._thread.ident is not None:
            self._ask(timeout)
            with self._turn:
                self._abandoned = True
                self._turn.notify_all()
            self._thread.join(IMPATIENT)
        return self._undelivered()

    def standing(self) -> Standing:
        """For the live table, `status` and the closing line; costs nothing."""
        return self._courier.standing()

    def _undelivered(self) -> int:
        return sum(unsent(delivery) for delivery in self._courier.deliveries) or self._courier.pending

    def parent(self, feed: TrackedStudy) -> str | None:
        """The id of a study's run, once MLflow has answered."""
        return self.run(feed, PARENT)

    def run(self, feed: TrackedStudy, trial: int) -> str | None:
        """The id of a trial's run."""
        rows = next(delivery.rows for delivery in self._courier.deliveries if delivery.feed is feed)
        return rows[trial].run if trial in rows else None

    def ui_line(self, view: str = views.TRIALS) -> str:
        """The line that opens the UI on this experiment; also after `close`."""
        return ui_line(self.uri, self._courier.experiment, view)

    # -- the thread

    def _ask(self, timeout: float) -> None:
        with self._turn:
            self._asked += 1
            self._waiting += 1
            ticket = self._asked
            self._turn.notify_all()
            self._turn.wait_for(lambda: self._done >= ticket or not self._thread.is_alive(), timeout)
            self._waiting -= 1

    def _run(self) -> None:
        try:
            with environment():
                while not self._abandoned:
                    asked, closing = self._asked, self._closing
                    began = time.monotonic()
                    well = self._round(not closing)
                    self._pause(asked, well, time.monotonic() - began)
        finally:
            self._courier.close()

    def _round(self, live: bool) -> bool:
        """A bug in here must not end the delivery, still less the study."""
        files, self._files = self._files, False
        try:
            return self._courier.round(live, files)
        except Exception as error:
            self._courier.trouble = f"a bug of hpo: {type(error).__name__}: {error}"
            logger.error("tracking failed by %s", self._courier.trouble)
            logger.debug("where it failed", exc_info=True)
            return False

    def _pause(self, asked: int, well: bool, cost: float) -> None:
        """Until it is time to look again, or somebody asks."""
        with self._turn:
            if well:
                self._done = asked
                self._turn.notify_all()
                rest = min(LONGEST_PACE, max(self.pace, SHARE * cost))
            else:
                rest = min(IMPATIENT, self._courier.wait) if self._waiting else self._courier.wait
            self._turn.wait_for(lambda: self._asked > asked or self._abandoned, rest)


def sync(
    feeds: Sequence[TrackedStudy],
    uri: str,
    timeout: float = 60.0,
    *,
    connect: Connect | None = None,
    now: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> Standing:
    """Deliver what is missing of studies nobody drives now, artifacts included; tries for `timeout` seconds."""
    sender = courier(feeds, uri, connect or real, now)
    end = now() + timeout
    try:
        with environment():
            while not sender.round(live=False, files=True) and now() + sender.wait <= end:
                sleep(sender.wait)
        return sender.standing()
    finally:
        sender.close()


def courier(feeds: Sequence[TrackedStudy], uri: str, connect: Connect, now: Callable[[], float]) -> Courier:
    first = feeds[0]
    assert len({feed.experiment_name for feed in feeds}) == 1, feeds
    driver = f"{os.uname().nodename}:{os.getpid()}"
    target = digest([uri, first.experiment_name])
    deliveries = [Delivery(feed, target, user(), driver, journal) for feed in feeds]
    tags = views.tags(first.goal, first.columns)
    return Courier(deliveries, lambda: connect(uri, first.experiment_name, tags), now)


def real(uri: str, experiment: str, tags: Mapping[str, str]) -> Store:
    """MLflow itself; here and not at the top, because importing it takes 2 s that must not delay the training."""
    store: Store = import_module("hpo.tracking.store").connect(uri, experiment, tags)
    return store


def journal(path: Path) -> Reader:
    return Journal.open(path, read_only=True)


def unsent(delivery: Delivery) -> int:
    """Events in the journal that have not reached MLflow."""
    try:
        if not delivery.feed.journal.exists():
            return 0
        with Journal.open(delivery.feed.journal, read_only=True) as reader:
            return sum(1 for _ in reader.events(delivery.cursor))
    except HpoError:
        return 0


def user() -> str:
    """Who runs this; a container may know no name."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


@contextmanager
def environment() -> Iterator[None]:
    """MLflow is told how to behave by environment variables alone; afterwards they are as they were."""
    missing = [name for name in ENVIRONMENT if name not in os.environ]
    os.environ.update({name: ENVIRONMENT[name] for name in missing})
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)
