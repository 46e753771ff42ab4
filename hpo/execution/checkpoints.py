"""States of trainings on disk: written before the report is sent, renamed into place, least recently used first out.

A lost checkpoint costs time, never a result: what a trial scored is in the journal. Workers only write; only the driver deletes,
once it has recorded a later epoch, so that the last epoch in the journal can always be gone on from.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection
from pathlib import Path

from hpo.core import Report

SUFFIX = ".ckpt"


def path(folder: Path, key: str, epoch: int) -> Path:
    return folder / key / f"{epoch:05d}{SUFFIX}"


def epochs(folder: Path, key: str) -> list[int]:
    """The epochs of this training that can be gone on from, ascending."""
    return sorted(int(found.stem) for found in (folder / key).glob(f"*{SUFFIX}"))


def newest(folder: Path, key: str, most: int) -> int:
    """The last epoch up to `most` with a checkpoint; 0 if there is none."""
    return max((epoch for epoch in epochs(folder, key) if epoch <= most), default=0)


def write(folder: Path, key: str, report: Report, sync: bool = False) -> None:
    """Save the state after this epoch; a reader sees the whole file or none. sync: survive a power cut too."""
    assert report.save is not None
    final = path(folder, key, report.epoch)
    final.parent.mkdir(parents=True, exist_ok=True)
    draft = final.with_name(f"{final.name}.{os.getpid()}.tmp")
    try:
        report.save(draft)
        if sync:
            with draft.open("rb") as file:
                os.fsync(file.fileno())
        draft.replace(final)
    finally:
        draft.unlink(missing_ok=True)


def forget(folder: Path, key: str, epoch: int) -> None:
    path(folder, key, epoch).unlink(missing_ok=True)


def prune(folder: Path, cap: int, wanted: Collection[str]) -> int:
    """Delete the least recently used trainings until at most `cap` bytes are left, never a wanted one. Returns the bytes left."""
    sizes: list[tuple[float, int, Path]] = []
    for training in folder.glob("*/"):
        with contextlib.suppress(FileNotFoundError):
            stats = [entry.stat() for entry in training.iterdir()]
            sizes.append(
                (max((stat.st_mtime for stat in stats), default=0.0), sum(stat.st_size for stat in stats), training)
            )
    left = sum(size for _, size, _ in sizes)
    for _, size, training in sorted(sizes):
        if left > cap and training.name not in wanted:
            shutil.rmtree(training, ignore_errors=True)
            left -= size
    return left


def sweep(folder: Path) -> None:
    """Remove drafts of processes that died while writing."""
    for draft in folder.glob("*/*.tmp"):
        draft.unlink(missing_ok=True)
