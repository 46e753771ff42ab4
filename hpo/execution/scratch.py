"""Folders in a machine's temporary directory that processes share, and that are gone when nobody holds them.

Who holds one is known to the kernel (flock), so that a process that was killed holds nothing: the next one tidies up.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO


class Scratch:
    """`path` is the folder; it may be empty, and exists until the last holder has left. Raises OSError."""

    def __init__(self, name: str, parent: Path | None = None) -> None:
        parent = Path(tempfile.gettempdir()) if parent is None else parent
        prefix = f"hpo-{os.getuid()}-"
        self.path = parent / f"{prefix}{name}"
        self._lock = _hold(self.path)
        for other in parent.glob(f"{prefix}*.lock"):
            if other != _lock_of(self.path):
                _remove_if_free(other)
        self.path.mkdir(mode=0o700, exist_ok=True)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """One holder at a time."""
        with (self.path / ".alone").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def leave(self) -> None:
        self._lock.close()
        _remove_if_free(_lock_of(self.path))


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _hold(folder: Path) -> IO[str]:
    """A shared lock, on the file that is there when it is held: who tidies up may have removed an older one."""
    place = _lock_of(folder)
    while True:
        file = place.open("a")
        fcntl.flock(file, fcntl.LOCK_SH)
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(file.fileno()).st_ino == place.stat().st_ino:
                return file
        file.close()


def _remove_if_free(lock: Path) -> None:
    """Remove the folder of this lock unless somebody holds it."""
    with contextlib.suppress(OSError), lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
        lock.unlink(missing_ok=True)
