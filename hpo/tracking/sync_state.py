"""What of a study has reached MLflow: a small SQLite file beside the journal, a cache of what MLflow could be asked.

When it is lost, runs are found again by their tags and everything is sent again, which adds nothing.
`target` names one place a study is sent to, so that a study may go to two servers.
"""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PARENT = -1  # the row of the study's own run
SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    target TEXT, trial INTEGER, run TEXT, epochs INTEGER, params TEXT, tags TEXT, status TEXT,
    PRIMARY KEY (target, trial)
);
CREATE TABLE IF NOT EXISTS meta (target TEXT, key TEXT, value TEXT, PRIMARY KEY (target, key));
"""


class Busy(Exception):
    """Another process is sending this study."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one run has been sent. run None: it was about to be created, and whether it was is not known.

    epochs: reports sent; params, tags: digests of what was sent.
    """

    run: str | None = None
    epochs: int = 0
    params: str = ""
    tags: str = ""
    status: str = ""


class Ledger:
    """Held by one process at a time, and used by one thread."""

    def __init__(self, path: Path, target: str) -> None:
        self.target = target
        self._lock = path.with_suffix(".lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise Busy(f"another process is sending {path.parent.name}") from None
        try:
            self._db = opened(path)
        except BaseException:
            self._lock.close()
            raise

    def rows(self) -> dict[int, Row]:
        found = self._db.execute(
            "SELECT trial, run, epochs, params, tags, status FROM runs WHERE target = ?", (self.target,)
        )
        return {trial: Row(*rest) for trial, *rest in found}

    def put(self, trial: int, row: Row) -> None:
        values = (self.target, trial, row.run, row.epochs, row.params, row.tags, row.status)
        self._db.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def get(self, key: str) -> str | None:
        row = self._db.execute("SELECT value FROM meta WHERE target = ? AND key = ?", (self.target, key)).fetchone()
        return None if row is None else str(row[0])

    def set(self, key: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (self.target, key, value))

    def forget(self) -> None:
        """Everything of this target: what it knew is gone."""
        with self.together():
            for table in ("runs", "meta"):
                self._db.execute(f"DELETE FROM {table} WHERE target = ?", (self.target,))

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """One transaction; what was sent meanwhile is sent again if it does not get here."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("COMMIT")

    def close(self) -> None:
        self._db.close()
        self._lock.close()


def opened(path: Path) -> sqlite3.Connection:
    """The file, or a new one in place of one that cannot be read."""
    try:
        return _connect(path)
    except sqlite3.OperationalError:
        raise  # locked, read-only, full: the file itself may be sound
    except sqlite3.DatabaseError:
        path.unlink()
        return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")  # no fsync a commit: after a power cut some of it is sent twice
        db.executescript(SCHEMA)
        db.execute("SELECT trial, run, epochs, params, tags, status FROM runs LIMIT 1").fetchone()
    except sqlite3.Error:
        db.close()
        raise
    return db
