"""Studies seen from outside: journals are read, nothing is written; and the signal that stops a driver."""

from __future__ import annotations

import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

from hpo.core import Reason, Study
from hpo.errors import Conflict, Mistake, NoResult
from hpo.files import Folders
from hpo.journal import holder_of, read_events
from hpo.study_file.spec import StudySpec

RUNNING = "running"
Filter = tuple[str | None, int | None]  # strategy, seed; None is any


@dataclass(frozen=True)
class StudyStatus:
    """One study of a name. driver: "pid 12 on host", "" where none is running."""

    folders: Folders
    study: Study
    driver: str

    @property
    def state(self) -> Reason | str:
        """Why it ended, or that it is running."""
        return RUNNING if self.driver else self.study.closed or Reason.INTERRUPTED


def statuses(spec: StudySpec, state: Path, only: Filter = (None, None)) -> list[StudyStatus]:
    """Every study of this name, by strategy and seed; only: one strategy, or one seed. Raises NoResult for none."""
    studies = []
    for journal in sorted((state / "studies" / spec.name).glob("*/journal.db")):
        strategy, _, seed = journal.parent.name.rpartition("-")
        if any(wanted not in (None, own) for wanted, own in zip(only, (strategy, int(seed)), strict=True)):
            continue
        folders = Folders(state, spec.name, strategy, int(seed))
        holder = holder_of(folders.lock)
        driver = f"pid {holder.get('pid')} on {holder.get('host')}" if holder else ""
        studies.append(StudyStatus(folders, Study(read_events(folders.journal)), driver))
    if not studies:
        names = zip(("strategy", "seed"), only, strict=True)
        which = " and ".join(f"{name} {one}" for name, one in names if one is not None)
        place = state / "studies" / spec.name
        raise NoResult(f"{place}: no study of {which or 'this name'} has been run; `hpo run` begins one")
    return studies


def stop_driver(spec: StudySpec, state: Path) -> str:
    """Send the driver of a study what Ctrl-C would; returns a line that says so. Raises Conflict for another machine's."""
    folders = Folders(state, spec.name, spec.strategy, spec.seed)
    holder = holder_of(folders.lock)
    if holder is None:
        return f"{folders.run.name}: not running"
    if holder.get("host") != socket.gethostname():
        rule = "can be stopped only on the machine that its driver runs on"
        raise Conflict(Mistake(str(folders.run), rule, str(holder.get("host")), "run `hpo stop` there"))
    os.kill(int(holder["pid"]), signal.SIGINT)
    return f"{folders.run.name}: asked pid {holder['pid']} to finish its epochs and pause"
