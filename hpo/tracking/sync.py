"""All studies of one driver on their way to MLflow: connects, sends, waits out outages, ends what dead drivers left.

No thread, no clock and no mlflow of its own: tracking.py calls `round` from its writer thread, tests call it at will.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from hpo.core import digest
from hpo.errors import HpoError
from hpo.failpoints import hit
from hpo.tracking.delivery import Delivery, Found, Gone, Outage, Store, files_in
from hpo.tracking.runs import (
    INTERRUPTED,
    KILLED,
    NOBODY,
    PARENT,
    RUNNING,
    Change,
    ComparisonInfo,
    Run,
    group_run,
    milliseconds,
)
from hpo.tracking.sync_state import Busy

logger = logging.getLogger(__name__)

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between tries while MLflow is away
TROUBLES = (Outage, Gone, Busy, HpoError, OSError, sqlite3.Error)


@dataclass(frozen=True, slots=True)
class Standing:
    """How the delivery stands.

    undelivered: events, or what is left of them as runs and files; trouble: in a phrase, "" if all is well; since:
    Unix seconds; refused: parts MLflow will never take.
    """

    undelivered: int
    trouble: str = ""
    since: float | None = None
    refused: int = 0


class Courier:
    """connect opens the experiment, or raises Outage; now gives Unix seconds."""

    def __init__(self, deliveries: Sequence[Delivery], connect: Callable[[], Store], now: Callable[[], float]) -> None:
        self.deliveries, self._connect, self._now = deliveries, connect, now
        groups = dict.fromkeys(delivery.feed.comparison for delivery in deliveries)
        self.comparisons = [
            Comparison(group, [d for d in deliveries if d.feed.comparison == group]) for group in groups if group
        ]
        self.store: Store | None = None
        self.experiment: str | None = None  # its id, once MLflow has answered
        self.refused = 0
        self.trouble = ""
        self.since: float | None = None
        self.wait = FIRST_WAIT
        self._stumbled = self._swept = self._files = False

    def round(self, live: bool, files: bool = False) -> bool:
        """Send everything there is; files: the report and the plots too, once. live: the driver is at work.

        False: there is trouble, and for `wait` seconds another try makes no sense.
        """
        self._files |= files
        try:
            self._round(live)
        except TROUBLES as error:
            self._fail(error)
            return False
        finally:
            self.refused = self.store.refused if self.store is not None else self.refused
        self._recover()
        return True

    def standing(self) -> Standing:
        behind = sum(delivery.behind for delivery in self.deliveries)
        return Standing(behind or self.pending, self.trouble, self.since, self.refused)

    @property
    def pending(self) -> int:
        """What was taken in and not sent; may be read by other threads."""
        return sum(delivery.pending for delivery in self.deliveries) + self._files

    def close(self) -> None:
        for delivery in self.deliveries:
            delivery.close()
        if self.store is not None:
            self.store.close()
        self.store = None

    def _round(self, live: bool) -> None:
        for delivery in self.deliveries:
            delivery.read()
        if self.store is None:
            self.store = self._connect()
            self.experiment = self.store.experiment
        if not self._swept:
            sweep(self.store, {delivery.who.journal for delivery in self.deliveries if delivery.who}, self._now())
            self._swept = True
        over = {id(d): comparison.ensure(self.store) for comparison in self.comparisons for d in comparison.deliveries}
        for delivery in self.deliveries:
            delivery.send(self.store, live, over.get(id(delivery)))
            delivery.upload(self.store, self._files)
        for comparison in self.comparisons:
            comparison.send(self.store, self._files)
        self._files = False
        if self._stumbled and not live:
            for delivery in self.deliveries:
                delivery.adopt(self.store)  # a request that was given up may have been carried out since
            self._stumbled = False

    def _fail(self, error: Exception) -> None:
        self._stumbled = True
        self.wait = min(LONGEST_WAIT, self.wait * 2) if self.trouble else FIRST_WAIT
        if not self.trouble:
            self.since = self._now()
            logger.warning("MLflow cannot be reached (%s); the study goes on, and what is missing is sent later", error)
        self.trouble = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, Gone):
            self.store = None
            for comparison in self.comparisons:
                comparison.run = None

    def _recover(self) -> None:
        if self.trouble and self.since is not None:
            logger.warning("MLflow is back after %.0f s; nothing is missing", self._now() - self.since)
        self.trouble, self.since, self.wait = "", None, FIRST_WAIT


class Comparison:
    """The grandparent run of the studies of a comparison."""

    def __init__(self, group: ComparisonInfo, deliveries: Sequence[Delivery]) -> None:
        self.group, self.deliveries = group, deliveries
        self.run: str | None = None
        self._sent = ""

    def ensure(self, store: Store) -> str | None:
        """Its run, found or made; None before its first study has an event."""
        if self.run is None and (picture := self._picture({RUNNING})) is not None:
            known = store.find({"hpo.journal": self.group.journal})
            self.run, self._sent = known[0].run if known else store.create(picture), ""
        return self.run

    def send(self, store: Store, files: bool) -> None:
        picture = self._picture({delivery.status for delivery in self.deliveries})
        if self.run is None or picture is None:
            return
        if self._sent != (new := digest([dict(picture.tags), picture.status, picture.ended])):
            store.write(self.run, Change(tags=picture.tags, status=picture.status, ended=picture.ended))
            self._sent = new
        if files:
            for path, folder in files_in(self.group.artifacts):
                store.upload(self.run, path, folder)

    def _picture(self, statuses: Collection[str]) -> Run | None:
        started = [delivery for delivery in self.deliveries if delivery.who is not None]
        if not started or started[0].who is None:
            return None
        first = min(delivery.progress.opened or delivery.progress.latest for delivery in started)
        last = max(delivery.progress.latest for delivery in started)
        return group_run(started[0].feed, self.group, started[0].who, statuses, first, last)


def sweep(store: Store, own: Collection[str], now: float) -> None:
    """Runs that drivers killed on this machine left RUNNING, of other journals than `own`, become KILLED.

    Only a study's own run says who drives it; a trial whose study does not run is nobody's either.
    """
    hit("sweep")
    running = {
        found.run: found for found in store.find({}, status=RUNNING) if not found.deleted and "hpo.kind" in found.tags
    }
    for run, left in running.items():
        if left.tags.get("hpo.journal") not in own and not driven(left, running):
            change = Change(
                tags={"hpo.state": INTERRUPTED, "hpo.engine.driver": NOBODY}, status=KILLED, ended=milliseconds(now)
            )
            store.write(run, change)


def driven(left: Found, running: dict[str, Found]) -> bool:
    """Whether a driver may be at work on this run: only a process of this machine that is gone surely is not."""
    over = left if "hpo.engine.driver" in left.tags else running.get(left.tags.get(PARENT, ""))
    if over is None:
        return False
    host, _, pid = over.tags.get("hpo.engine.driver", "").rpartition(":")
    return bool(host) and (host != os.uname().nodename or alive(int(pid)))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
