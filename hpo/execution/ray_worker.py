"""The worker of a Ray cluster: an actor that holds one trainer for as long as the study lasts.

What it has to say waits in a queue until the driver asks (`hear`, which blocks): one call in flight a worker, however
many epochs a second, and a worker that dies breaks it. Measured on two cores: 1.2 ms from a report to the driver.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pickle
import platform
import queue
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray

import hpo
from hpo import provenance
from hpo.core import Broke, Job, Message, Outcome, Reported, Train
from hpo.data.dataset import DESCRIPTION
from hpo.errors import EnvironmentFailed, HpoError, Mistake
from hpo.execution.job_runner import JobRunner, one_line
from hpo.execution.scratch import Scratch
from hpo.execution.worker import memory_limit
from hpo.files import replace_folder
from hpo.training import checkpoints
from hpo.training.recipe import Recipe

BACKLOG = 8  # messages, with their checkpoints, that wait for the driver before the trainer does


@dataclass(frozen=True, slots=True)
class Greeting:
    """Here I am. versions: of what trains here; they must be the driver's."""

    node: str
    pid: int
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Prepared:
    """The answer to `begin` number `order`: ready, or why not (error), or the data must be sent (wants)."""

    order: int
    error: str = ""
    wants: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """A message of the job with this ticket, and the files it speaks of where the driver's folder is not seen here.

    state: the checkpoint after the reported epoch; trace: the whole traceback; shared: whether the folder is seen.
    """

    ticket: int
    message: Message
    shared: bool
    state: bytes | None = None
    trace: str = ""


Word = Greeting | Prepared | Told


@dataclass(frozen=True, slots=True)
class Cargo:
    """A saved data set. folder: the driver's; files: its content by name, once a worker has wanted it."""

    folder: Path
    digest: str
    files: Mapping[str, Any] | None = None


def versions() -> dict[str, str]:
    """What must be the same on the driver and on every node, because trainings depend on it."""
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "hpo": f"{hpo.__version__} ({provenance.training_code()})",
        "torch": provenance.version("torch").partition("+")[0],  # the CPU and the CUDA build of one version go together
        "machine": platform.machine(),
    }


class RayWorker:
    """Remote calls come on threads of their own; one thread trains, because torch keeps settings a thread.

    modules: imported at once, while the driver reads the data; paths: the driver's sys.path, for what is here too.
    """

    def __init__(self, modules: Sequence[str], paths: Sequence[str]) -> None:
        sys.path += [path for path in paths if path not in sys.path and Path(path).exists()]
        self._said: queue.Queue[Word] = queue.Queue(BACKLOG)
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._halted: set[int] = set()
        self._runner: JobRunner | None = None
        self._own = Scratch(f"worker-{os.getpid()}")
        self._data: dict[str, Scratch] = {}  # by digest
        self._seen: dict[tuple[Path, str], bool] = {}
        self._said.put(Greeting(ray.util.get_node_ip_address(), os.getpid(), versions()))
        self._orders.put(lambda: _import(modules))
        threading.Thread(target=self._serve, daemon=True).start()

    # -- what the driver calls

    def hear(self) -> list[Word]:
        """Blocks until there is something to say; then all of it."""
        words = [self._said.get()]
        with contextlib.suppress(queue.Empty):
            while True:
                words.append(self._said.get_nowait())
        return words

    def begin(self, order: int, factory: bytes, cargo: Cargo | None) -> None:
        """Make the trainer of this pickled factory; answered by Prepared."""
        self._orders.put(lambda: self._said.put(self._begin(order, factory, cargo)))

    def work(self, ticket: int, job: Job, token: str, state: bytes | None) -> None:
        """Train; answered by Told. token: a file in the job's folder; state: the checkpoint to go on from."""
        self._orders.put(lambda: self._work(ticket, job, token, state))

    def halt(self, ticket: int) -> None:
        """Finish the epoch of this job, then rest."""
        self._halted.add(ticket)

    def leave(self) -> None:
        """Remove what is only here and end at once: an actor that is only killed may train on for a while."""
        for scratch in (self._own, *self._data.values()):
            scratch.leave()
        os._exit(0)

    # -- the thread that trains

    def _serve(self) -> None:
        while True:
            self._orders.get()()

    def _begin(self, order: int, factory: bytes, cargo: Cargo | None) -> Prepared:
        try:
            made: Callable[[], Train] = pickle.loads(factory)
            if cargo is not None and isinstance(made, Recipe):
                place = self._place(cargo)
                if place is None:
                    return Prepared(order, wants=True)
                made = replace(made, data=place)
            self._runner = JobRunner(made())
        except Exception as error:  # told to the driver, which decides
            return Prepared(order, one_line(error))
        return Prepared(order)

    def _place(self, cargo: Cargo) -> Path | None:
        """Where the data are on this node: the driver's folder if it is seen, else a copy all workers here share."""
        if _digest(cargo.folder) == cargo.digest:
            return cargo.folder
        try:
            scratch = self._data.get(cargo.digest) or Scratch(f"data-{cargo.digest}")
            self._data[cargo.digest] = scratch
            place = scratch.path / "data"
            with scratch.alone():
                if _digest(place) != cargo.digest:
                    if cargo.files is None:
                        return None
                    replace_folder(place, lambda new: _unpack(cargo, new), lambda there: _digest(there) == cargo.digest)
        except OSError as error:
            why = f"{cargo.folder}, and no copy can be kept in {error.filename}: {error.strerror}"
            raise EnvironmentFailed(
                Mistake("the data", "must be readable on every node", why, "mount them, or make room")
            ) from None
        return place

    def _work(self, ticket: int, job: Job, token: str, state: bytes | None) -> None:
        assert self._runner is not None, "begin comes first"
        shared = self._sees(job.folder, token)
        own = job if shared else replace(job, folder=self._own.path / "trainings")
        if not shared and state is not None:
            _write(checkpoints.path(own.folder, job.training, job.start), state)
        try:
            with memory_limit(job.limits.memory_bytes):
                for message in self._runner.run(own, lambda: ticket in self._halted):
                    self._said.put(_told(ticket, own, message, shared))
        except MemoryError as error:
            self._said.put(Told(ticket, Broke(job.training, Outcome.OOM, one_line(error)), shared))
        except (HpoError, OSError) as error:  # this node's disk is full: another node may have room
            self._said.put(Told(ticket, Broke(job.training, Outcome.CRASHED, one_line(error), lost=True), shared))

    def _sees(self, folder: Path, token: str) -> bool:
        """Whether the driver's folder of checkpoints is this node's too."""
        key = folder, token
        if key not in self._seen:
            self._seen[key] = token != "" and (folder / token).exists() and os.access(folder, os.W_OK)
        return self._seen[key]


def _told(ticket: int, job: Job, message: Message, shared: bool) -> Told:
    """Where the folder is not shared the driver keeps what is in it; here only the newest checkpoint is of use."""
    if shared:
        return Told(ticket, message, shared)
    if isinstance(message, Broke) and message.place:
        return Told(ticket, replace(message, place=""), shared, trace=Path(message.place).read_text())
    if not isinstance(message, Reported):
        return Told(ticket, message, shared)
    path = checkpoints.path(job.folder, job.training, message.report.epoch)
    state = path.read_bytes() if path.exists() else None
    for epoch in checkpoints.epochs(job.folder, job.training):
        checkpoints.forget(job.folder, job.training, epoch)
    return Told(ticket, message, shared, state)


def _import(modules: Sequence[str]) -> None:
    for module in modules:
        with contextlib.suppress(ImportError):  # the factory will say it better
            importlib.import_module(module)


def _digest(folder: Path) -> str | None:
    """Of the data set saved there."""
    try:
        return str(json.loads((folder / DESCRIPTION).read_text("utf-8"))["digest"])
    except (OSError, ValueError, KeyError):
        return None


def cargo_of(folder: Path) -> Cargo | None:
    digest = _digest(folder)
    return None if digest is None else Cargo(folder, digest)


def pack(cargo: Cargo) -> Cargo:
    """With its files in the object store: read from there once a node."""
    files = {
        path.name: ray.put(np.asarray(np.memmap(path, np.uint8, "r")))
        for path in cargo.folder.iterdir()
        if path.is_file()
    }
    return replace(cargo, files=files)


def _unpack(cargo: Cargo, folder: Path) -> None:
    assert cargo.files is not None
    for name, content in cargo.files.items():
        (folder / name).write_bytes(memoryview(ray.get(content)))


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
