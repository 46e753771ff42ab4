"""Where a study keeps its things, and how they are written: whole or not at all, whatever is killed meanwhile."""

from __future__ import annotations

import fcntl
import os
import platform
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Folders:
    """All of it can be deleted, none of it belongs in git.

    state/studies/<name>/ with what its strategies share, and in it <strategy>-<seed>/ with what is one study's own.
    """

    state: Path
    name: str
    strategy: str
    seed: int

    @property
    def study(self) -> Path:
        return self.state / "studies" / self.name

    @property
    def trainings(self) -> Path:
        """Checkpoints, shared by all strategies and seeds."""
        return self.study / "trainings"

    @property
    def data(self) -> Path:
        """The data set as one memory map for all workers."""
        return self.study / "data"

    @property
    def run(self) -> Path:
        return self.study / f"{self.strategy}-{self.seed}"

    @property
    def journal(self) -> Path:
        return self.run / "journal.db"

    @property
    def lock(self) -> Path:
        return self.run / "driver.lock"

    @property
    def report(self) -> Path:
        return self.run / "report.html"

    @property
    def trials_csv(self) -> Path:
        return self.run / "trials.csv"

    @property
    def model_figures(self) -> Path:
        """Arrays that show the best model: its filters, feature maps and mistakes, for the report."""
        return self.run / "model_figures.npz"

    @property
    def artifacts(self) -> Path:
        """Pictures and texts that go to MLflow as they are."""
        return self.run / "artifacts"

    def siblings(self) -> list[Path]:
        """Journals of the other studies of the same name."""
        return sorted(path for path in self.study.glob("*/journal.db") if path != self.journal)


# -- atomic writes -----------------------------------------------------------------------------------------------


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """A draft beside `path` to be written in the block; at its end the draft, synced to disk, takes the place of `path`.

    If the block raises, the draft goes and `path` is as it was. The folder is made if need be. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{_draft_prefix()}{os.getpid()}-{secrets.token_hex(4)}-{path.name}")
    try:
        yield draft
        _sync(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def replace_folder(folder: Path, write: Callable[[Path], None], good: Callable[[Path], bool]) -> None:
    """Have `write` fill a new folder, sync it to disk and rename it to `folder`. Raises OSError.

    What is there already goes, unless it is good: then another process was faster and its folder stays.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    sweep(folder.parent)
    prefix = f"{_draft_prefix()}{os.getpid()}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent, ignore_cleanup_errors=True) as drafts:
        new = Path(drafts, "new")
        new.mkdir()
        write(new)
        for path in new.iterdir():
            _sync(path)
        while not _renamed(new, folder) and not good(folder):
            _move_away(folder, Path(tempfile.mkdtemp(dir=drafts), "old"))


def sweep(folder: Path) -> None:
    """Remove the drafts in it that processes of this machine left which were killed while they wrote."""
    for path in folder.glob(f"{_draft_prefix()}*"):
        pid = path.name.removeprefix(_draft_prefix()).partition("-")[0]
        if not pid.isdigit() or alive(int(pid)):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder to oneself, among processes that use this. Leaves no file behind, and a killed process no lock."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def alive(pid: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _draft_prefix() -> str:
    return f".saving-{platform.node()}-"


def _sync(path: Path) -> None:
    """Have the file on the disk, so that a power cut after the rename leaves no empty file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
