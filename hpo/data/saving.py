"""A folder of files that is there as a whole or not at all, whoever else writes it and whatever is killed."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def put(folder: Path, write: Callable[[Path], None], good: Callable[[Path], bool]) -> None:
    """Have `write` fill a new folder and rename it to `folder`.

    What is there already goes, unless it is good: then another process was faster and its folder stays. Raises OSError.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    sweep(folder.parent)
    prefix = f"{_mine()}{os.getpid()}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent, ignore_cleanup_errors=True) as made:
        new = Path(made, "new")
        new.mkdir()
        write(new)
        while not _renamed(new, folder) and not good(folder):
            _move_away(folder, Path(tempfile.mkdtemp(dir=made), "old"))


def sweep(parent: Path) -> None:
    """Remove what processes of this machine left that were killed while they wrote."""
    for path in parent.glob(f"{_mine()}*"):
        pid = path.name.removeprefix(_mine()).partition("-")[0]
        if pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def synced(path: Path) -> Iterator[BinaryIO]:
    """A new file that is on the disk when the block ends."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _renamed(new: Path, folder: Path) -> bool:
    try:
        new.rename(folder)
    except OSError:
        if not folder.exists():
            raise
        return False
    return True


def _move_away(folder: Path, to: Path) -> None:
    try:
        folder.rename(to)
    except FileNotFoundError:  # another process did it
        return


def _mine() -> str:
    return f".saving-{platform.node()}-"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
