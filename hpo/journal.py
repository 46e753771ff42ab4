"""The truth on disk: one SQLite file of events a study, appended by its driver and read by everybody else.

WAL, one short transaction an event: a SIGKILL at any moment leaves all events before it. (The lock of its driver: files.py.)
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hpo.core import (
    Closed,
    Continued,
    Ended,
    Event,
    Opened,
    Outcome,
    Paused,
    Reason,
    Report,
    Reported,
    Retried,
    Scored,
    Started,
    State,
    Study,
    Value,
)
from hpo.errors import EnvironmentFailed, Mistake
from hpo.failpoints import hit
from hpo.files import cannot_write, locked, refuse_network_file_system, replace_file

VERSION = 2
KINDS: dict[str, type[Event]] = {
    kind.__name__: kind for kind in (Opened, Started, Continued, Reported, Paused, Retried, Ended, Scored, Closed)
}
SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE events (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, body TEXT NOT NULL);
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO meta VALUES ('version', '{VERSION}');
COMMIT;
"""
BUSY_SECONDS = 5.0  # another program may hold the file for so long


def encode(event: Event) -> tuple[str, str]:
    """An event as (kind, JSON). NaN and infinities are kept: Python reads what it wrote."""
    body: dict[str, Any] = {field.name: getattr(event, field.name) for field in fields(event)}
    if isinstance(event, Reported):
        report = event.report
        body["report"] = [report.epoch, dict(report.metrics), report.seconds, report.time]
    return type(event).__name__, json.dumps(body, separators=(",", ":"), default=dict)


def decode(kind: str, text: str) -> Event:
    body: dict[str, Any] = json.loads(text)
    if kind == "Reported":
        body["report"] = Report(*body["report"])
    elif kind == "Ended":
        body["state"], body["outcome"] = State(body["state"]), Outcome(body["outcome"])
    elif kind == "Closed":
        body["reason"] = Reason(body["reason"])
    return KINDS[kind](**body)


class Journal:
    """Append-only events of one study, and a few texts about it (`meta`)."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._db = connection

    @classmethod
    def open(cls, path: Path, read_only: bool = False) -> Journal:
        """Open or create; never overwrites. Raises EnvironmentFailed, naming the file, for what cannot be trusted."""
        if read_only:
            still = not os.access(path.parent, os.W_OK) and not path.with_name(f"{path.name}-wal").exists()
            return cls._connect(path, f"mode=ro{'&immutable=1' if still else ''}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentFailed(cannot_write(path, error.strerror or str(error))) from None
        refuse_network_file_system(path.parent)
        _create(path)
        return cls._connect(path, "mode=rw")

    @classmethod
    def _connect(cls, path: Path, mode: str) -> Journal:
        try:
            uri = f"{path.resolve().as_uri()}?{mode}"
            connection = sqlite3.connect(
                uri, uri=True, isolation_level=None, check_same_thread=False, timeout=BUSY_SECONDS
            )
        except sqlite3.Error as error:
            raise EnvironmentFailed(_unusable(path, error)) from None
        journal = cls(path, connection)
        try:
            journal._refuse_other_versions()
            if mode == "mode=rw":
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=NORMAL")
        except BaseException as error:
            connection.close()
            if isinstance(error, sqlite3.Error):
                raise EnvironmentFailed(_unusable(path, error)) from None
            raise
        return journal

    def _refuse_other_versions(self) -> None:
        version = self.get("version")
        if version != str(VERSION):
            rule = "must be a journal this hpo can read"
            got = f"version {version}, this is {VERSION}" if version is not None else "no version"
            raise EnvironmentFailed(Mistake(str(self.path), rule, got, "use the hpo that wrote it, or --fresh"))

    def append(self, event: Event) -> int:
        """Write one event; it is on disk for every other process when this returns. Returns its sequence number."""
        kind, body = encode(event)
        hit("append.before")
        try:
            row = self._db.execute("INSERT INTO events (kind, body) VALUES (?, ?)", (kind, body)).lastrowid
        except sqlite3.Error as error:
            raise EnvironmentFailed(_unusable(self.path, error)) from None
        assert row is not None
        hit("append.after")
        return row

    def events(self, after: int = 0) -> Iterator[tuple[int, Event]]:
        """(sequence number, event) of all events behind `after`, in order."""
        try:
            for seq, kind, body in self._db.execute(
                "SELECT seq, kind, body FROM events WHERE seq > ? ORDER BY seq", (after,)
            ):
                yield seq, decode(kind, body)
        except (sqlite3.Error, KeyError, TypeError, ValueError) as error:
            raise EnvironmentFailed(_unusable(self.path, error)) from None

    def study(self) -> Study:
        """What the events make of the study. Raises EnvironmentFailed for events that no study can have had."""
        try:
            return Study(event for _, event in self.events())
        except (AssertionError, IndexError, KeyError) as error:
            raise EnvironmentFailed(_unusable(self.path, error)) from None

    def environment(self) -> Mapping[str, Value] | None:
        """That of the last driver; None before the first. Reads one event, however many there are."""
        try:
            row = self._db.execute("SELECT body FROM events WHERE kind = 'Opened' ORDER BY seq DESC").fetchone()
            return None if row is None else dict(json.loads(row[0])["environment"])
        except (sqlite3.Error, KeyError, TypeError, ValueError) as error:
            raise EnvironmentFailed(_unusable(self.path, error)) from None

    def get(self, key: str) -> str | None:
        try:
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            raise EnvironmentFailed(_unusable(self.path, error)) from None
        return None if row is None else str(row[0])

    def put(self, key: str, value: str) -> None:
        try:
            self._db.execute(
                "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", (key, value)
            )
        except sqlite3.Error as error:
            raise EnvironmentFailed(_unusable(self.path, error)) from None

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _create(path: Path) -> None:
    """Make it, without events, where there is none; nobody ever sees half of one."""
    try:
        with locked(path.parent):
            if path.exists() and path.stat().st_size:
                return
            with replace_file(path) as draft, contextlib.closing(sqlite3.connect(draft)) as database:
                database.execute("PRAGMA journal_mode=MEMORY")  # no second file that a killed process would leave
                database.executescript(SCHEMA)
    except sqlite3.Error as error:
        raise EnvironmentFailed(_unusable(path, error)) from None
    except OSError as error:
        raise EnvironmentFailed(cannot_write(path, error.strerror or str(error))) from None


def read_events(path: Path) -> tuple[Event, ...]:
    """All events of a journal, also while a driver is running."""
    with Journal.open(path, read_only=True) as journal:
        return tuple(event for _, event in journal.events())


def _unusable(path: Path, error: Exception) -> Mistake:
    """One line about a store that does not work, by SQLite's error."""
    text = str(error)
    if "locked" in text:
        rule, remedy = "must not be locked by another program", "close that program, then run the same command again"
    elif "readonly" in text or "unable to open" in text or "full" in text or "I/O" in text:
        return cannot_write(path, text)
    else:
        rule, remedy = "must be an intact journal", "restore it from a copy, or set the study aside with --fresh"
    return Mistake(str(path), rule, text, remedy)
