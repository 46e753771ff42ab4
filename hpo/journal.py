"""The truth on disk: one SQLite file of events a study, appended by its driver and read by everybody else.

WAL, one short transaction an event: a SIGKILL at any moment leaves all events before it. (The lock of its driver: files.py.)
"""

import contextlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Self, get_args

from hpo.core import Event, Outcome, Reason, Report, Reported, State, Study, Value
from hpo.errors import EnvironmentFailed, Mistake
from hpo.files import cannot_write, hit, locked, refuse_network_file_system, replace_file

VERSION = 2
KINDS: dict[str, type[Event]] = {kind.__name__: kind for kind in get_args(Event)}
SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE events (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, body TEXT NOT NULL);
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO meta VALUES ('version', '{VERSION}');
COMMIT;
"""
BUSY_SECONDS = 5.0  # another program may hold the file for so long
WRITING = "mode=rw"
MOST_CONNECTIONS = 16  # of a process to journals that it writes, with three descriptors each

_writing: dict["Journal", None] = {}  # those with a connection; that used last is the last
_one_thread = threading.RLock()  # at a time: another could close the connection that one is using


def encode(event: Event) -> tuple[str, str]:
    """An event as (kind, JSON). NaN and infinities are kept: Python reads what it wrote."""
    body: dict[str, Any] = {field.name: getattr(event, field.name) for field in fields(event)}
    if isinstance(event, Reported):
        report = event.report
        body["report"] = [report.epoch, dict(report.metrics), report.seconds, report.time]
        body["report"] += [report.missed] if report.missed else []
    return type(event).__name__, json.dumps(body, separators=(",", ":"), default=dict)


def decode(kind: str, text: str) -> Event:
    body: dict[str, Any] = json.loads(text)
    if kind == "Reported":
        body["report"] = replace(Report(*body["report"][:4]), missed="".join(body["report"][4:]))
    elif kind == "Ended":
        body["state"], body["outcome"] = State(body["state"]), Outcome(body["outcome"])
    elif kind == "Closed":
        body["reason"] = Reason(body["reason"])
    return KINDS[kind](**body)


class Journal:
    """Append-only events of one study, and a few texts about it (`meta`). Those used last keep their connection."""

    def __init__(self, path: Path, mode: str) -> None:
        self.path, self._mode = path, mode
        self._connection: sqlite3.Connection | None = None

    @classmethod
    def open(cls, path: Path, read_only: bool = False) -> Self:
        """Open or create; never overwrites. Raises EnvironmentFailed, naming the file, for what cannot be trusted."""
        if read_only:
            still = not os.access(path.parent, os.W_OK) and not path.with_name(f"{path.name}-wal").exists()
            journal = cls(path, f"mode=ro{'&immutable=1' if still else ''}")
        else:
            _create(path)
            journal = cls(path, WRITING)
        if (version := journal.get("version")) != str(VERSION):
            journal.close()
            rule = "must be a journal this hpo can read"
            got = f"version {version}, this is {VERSION}" if version is not None else "no version"
            raise EnvironmentFailed(Mistake(str(path), rule, got, "use the hpo that wrote it, or --fresh"))
        return journal

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            uri = f"{self.path.resolve().as_uri()}?{self._mode}"
            self._connection = sqlite3.connect(uri, BUSY_SECONDS, 0, None, check_same_thread=False, uri=True)
            if self._mode == WRITING:
                self._connection.execute("PRAGMA journal_mode=WAL")
                self._connection.execute("PRAGMA synchronous=NORMAL")
        if self._mode == WRITING:
            _writing[self] = _writing.pop(self, None)
            if len(_writing) > MOST_CONNECTIONS:
                next(iter(_writing)).close()
        return self._connection

    def _execute(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows; what it writes is on disk for every other process when this returns."""
        try:
            with _one_thread:
                return self._connected().execute(sql, values).fetchall()
        except sqlite3.Error as error:
            self.close()
            raise EnvironmentFailed(_unusable(self.path, error)) from None

    def append(self, event: Event) -> int:
        """Write one event; returns its sequence number."""
        kind, body = encode(event)
        hit("append.before")
        ((row,),) = self._execute("INSERT INTO events (kind, body) VALUES (?, ?) RETURNING seq", kind, body)
        hit("append.after")
        return int(row)

    def events(self, after: int = 0) -> Iterator[tuple[int, Event]]:
        """(sequence number, event) of all events behind `after`, in order."""
        rows = self._execute("SELECT seq, kind, body FROM events WHERE seq > ? ORDER BY seq", after)
        try:
            yield from ((seq, decode(kind, body)) for seq, kind, body in rows)
        except (KeyError, TypeError, ValueError) as error:
            raise EnvironmentFailed(_unusable(self.path, error)) from None

    def study(self) -> Study:
        """What the events make of the study. Raises EnvironmentFailed for events that no study can have had."""
        try:
            return Study(event for _, event in self.events())
        except (AssertionError, IndexError, KeyError) as error:
            raise EnvironmentFailed(_unusable(self.path, error)) from None

    def environment(self) -> Mapping[str, Value] | None:
        """That of the last driver; None before the first. Reads one event, however many there are."""
        rows = self._execute("SELECT body FROM events WHERE kind = 'Opened' ORDER BY seq DESC LIMIT 1")
        try:
            return dict(json.loads(rows[0][0])["environment"]) if rows else None
        except (KeyError, TypeError, ValueError) as error:
            raise EnvironmentFailed(_unusable(self.path, error)) from None

    def get(self, key: str) -> str | None:
        rows = self._execute("SELECT value FROM meta WHERE key = ?", key)
        return str(rows[0][0]) if rows else None

    def put(self, key: str, value: str) -> None:
        change = "ON CONFLICT (key) DO UPDATE SET value = excluded.value"
        self._execute(f"INSERT INTO meta VALUES (?, ?) {change}", key, value)

    def close(self) -> None:
        """Let go of the file. What is used again connects again."""
        with _one_thread:
            _writing.pop(self, None)
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _create(path: Path) -> None:
    """Make it, without events, where there is none; nobody ever sees half of one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        refuse_network_file_system(path.parent)
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
