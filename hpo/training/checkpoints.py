"""States of trainings on disk: written before the report is sent, renamed into place, least recently used first out.

A lost checkpoint costs time, never a result: what a trial scored is in the journal. Workers only write; only the driver
deletes, once it has recorded a later epoch, so that the last epoch in the journal can always be gone on from.
"""

import contextlib
import errno
import os
import shutil
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path

from hpo import files
from hpo.core import Report
from hpo.errors import EnvironmentFailed, Mistake
from hpo.files import hit, replace_file

SUFFIX = ".ckpt"
DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG})  # not the trainer's fault
PROBE = bytes(2**16)


def path(folder: Path, key: str, epoch: int) -> Path:
    return folder / key / f"{epoch:05d}{SUFFIX}"


def epochs(folder: Path, key: str) -> list[int]:
    """The epochs of this training that can be gone on from, ascending."""
    return sorted(int(path.stem) for path in (folder / key).glob(f"[0-9]*{SUFFIX}"))


def newest(folder: Path, key: str, most: int) -> int:
    """The last epoch up to `most` with a checkpoint; 0 if there is none."""
    return max((epoch for epoch in epochs(folder, key) if epoch <= most), default=0)


def write(folder: Path, key: str, report: Report, durable: bool = False) -> None:
    """Save the state after this epoch, whole or not at all. durable: survive a power cut. Raises EnvironmentFailed."""
    assert report.save is not None
    try:
        with replace_file(path(folder, key, report.epoch), durable) as draft:
            try:
                report.save(draft)
            except Exception:  # torch.save says RuntimeError for a full disk: does a little more fit?
                with draft.open("ab") as file:
                    file.write(PROBE)
                raise
            hit("checkpoint.draft")
    except OSError as error:
        if error.errno not in DISK:
            raise
        rule, remedy = "must have room for checkpoints", "free space there, then run the same command again"
        raise EnvironmentFailed(Mistake(str(folder), rule, os.strerror(error.errno), remedy)) from None
    hit("checkpoint.placed")


def whole(path: Path) -> bool:
    """Whether a state of our own training is there to the last byte: torch saves an archive, whose end is its index."""
    return zipfile.is_zipfile(path)


def forget(folder: Path, key: str, epoch: int) -> None:
    path(folder, key, epoch).unlink(missing_ok=True)


def prune(folder: Path, cap: int, wanted: Collection[str], last: Sequence[str] = ()) -> None:
    """Delete trainings not wanted until `cap` bytes are left, those in `last` after others."""
    places = {key: place for place, key in enumerate(last, 1)}
    sizes: list[tuple[int, float, int, Path]] = []
    for training in folder.glob("*/"):
        files.sweep(training)  # of the drafts of processes that were killed while writing
        with contextlib.suppress(FileNotFoundError):
            stats = [entry.stat() for entry in training.iterdir()]
            used = max((stat.st_mtime for stat in stats), default=0.0)
            sizes.append((places.get(training.name, 0), used, sum(stat.st_size for stat in stats), training))
    left = sum(size for _, _, size, _ in sizes)
    for _, _, size, training in sorted(sizes):
        if left > cap and training.name not in wanted:
            hit("prune")
            shutil.rmtree(training, ignore_errors=True)
            left -= size
