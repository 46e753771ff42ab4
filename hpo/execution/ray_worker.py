"""The worker of a Ray cluster: an actor that holds one trainer for as long as the study lasts.

Its messages wait in a queue until the driver's call of `next_messages`, which blocks, takes them: one call in flight a
worker, however many epochs a second, and a worker that dies breaks it. Measured on two cores: 1.2 ms from a report to
the driver.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import platform
import queue
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray

from hpo import provenance
from hpo.core import Job, JobFailed, Message, Outcome, Reported, Train
from hpo.data.dataset import ARRAYS, Dataset
from hpo.errors import EnvironmentFailed, HpoError
from hpo.execution.job_runner import JobRunner, one_line
from hpo.execution.worker import import_early, memory_limit
from hpo.files import alive
from hpo.training import checkpoints
from hpo.training.recipe import Recipe

BACKLOG = 8  # messages, with their checkpoints, that wait for the driver before the trainer does


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """The first message of a worker. versions: of what decides a result; they must be the driver's."""

    node: str
    pid: int
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Prepared:
    """The answer to call number `order` of `begin`: ready, or why not (error), or the data must be sent."""

    order: int
    error: str = ""
    needs_data: bool = False


@dataclass(frozen=True, slots=True)
class WorkerMessage:
    """A message of the job with this ticket, with the files it names where the driver's folder is not shared.

    state: the checkpoint after the reported epoch; trace: the whole traceback; shared: whether the folder is.
    """

    ticket: int
    message: Message
    shared: bool
    state: bytes | None = None
    trace: str = ""


Sent = WorkerInfo | Prepared | WorkerMessage


@dataclass(frozen=True, slots=True)
class DatasetCopy:
    """A saved data set. folder: the driver's; reference: to its copy in Ray's object store, once a worker needs it."""

    folder: Path
    digest: str
    reference: Any = None

    def put(self) -> DatasetCopy:
        """Copy it to the object store: nodes fetch it once, and all workers of a node map the same memory."""
        dataset = Dataset.open(self.folder)
        arrays: dict[str, Any] = {name: np.asarray(getattr(dataset, name)) for name in ARRAYS}  # a memmap is copied
        return replace(self, reference=ray.put(replace(dataset, **arrays)))


def dataset_copy(folder: Path) -> DatasetCopy | None:
    digest = _digest(folder)
    return None if digest is None else DatasetCopy(folder, digest)


def _digest(folder: Path) -> str | None:
    with contextlib.suppress(EnvironmentFailed):
        return Dataset.open(folder).digest
    return None


def versions() -> dict[str, str]:
    """What must be the same on the driver and on every node, because trainings depend on it."""
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "hpo": f"{provenance.__version__} ({provenance.training_code()})",
        "torch": provenance.version("torch").partition("+")[0],  # the CPU and the CUDA build of one version go together
        "machine": platform.machine(),
    }


class RayWorker:
    """Remote calls arrive on threads of their own; one thread trains, because torch keeps some settings by thread.

    modules: imported at once, while the driver reads the data; paths: the driver's sys.path, used where it exists here.
    """

    def __init__(self, modules: Sequence[str], paths: Sequence[str]) -> None:
        sys.path += [path for path in paths if path not in sys.path and Path(path).exists()]
        self._outbox: queue.Queue[Sent] = queue.Queue(BACKLOG)
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._halted: set[int] = set()
        self._runner: JobRunner | None = None
        self._folder = _temporary_folder()
        self._outbox.put(WorkerInfo(ray.util.get_node_ip_address(), os.getpid(), versions()))
        self._calls.put(lambda: import_early(modules))
        threading.Thread(target=self._serve, daemon=True).start()

    # -- what the driver calls

    def next_messages(self) -> list[Sent]:
        """Blocks until there is a message; then all there are."""
        messages = [self._outbox.get()]
        with contextlib.suppress(queue.Empty):
            while True:
                messages.append(self._outbox.get_nowait())
        return messages

    def begin(self, order: int, factory: bytes, data: DatasetCopy | None) -> None:
        """Make the trainer of this pickled factory; answered by Prepared."""
        self._calls.put(lambda: self._outbox.put(self._begin(order, factory, data)))

    def train(self, ticket: int, job: Job, token: str, state: bytes | None) -> None:
        """Answered by WorkerMessages. token: a file in the job's folder; state: the checkpoint to start from."""
        self._calls.put(lambda: self._train(ticket, job, token, state))

    def halt(self, ticket: int) -> None:
        """Finish the epoch of this job, then pause."""
        self._halted.add(ticket)

    def leave(self) -> None:
        """Remove this worker's files and exit at once: an actor that is only killed may train on for a while."""
        shutil.rmtree(self._folder, ignore_errors=True)
        os._exit(0)

    # -- the thread that trains

    def _serve(self) -> None:
        while True:
            self._calls.get()()

    def _begin(self, order: int, factory: bytes, data: DatasetCopy | None) -> Prepared:
        try:
            make: Callable[[], Train] = pickle.loads(factory)
            if isinstance(make, Recipe) and data is not None and _digest(data.folder) != data.digest:
                if data.reference is None:
                    return Prepared(order, needs_data=True)
                make = replace(make, dataset=ray.get(data.reference))
            self._runner = JobRunner(make())
        except Exception as error:  # reported to the driver, which decides
            return Prepared(order, one_line(error))
        return Prepared(order)

    def _train(self, ticket: int, job: Job, token: str, state: bytes | None) -> None:
        assert self._runner is not None, "begin comes first"
        shared = token != "" and (job.folder / token).exists() and os.access(job.folder, os.W_OK)
        own = job if shared else replace(job, folder=self._folder / "trainings")
        try:
            if not shared and state is not None:
                path = checkpoints.path(own.folder, job.training, job.start)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(state)
            with memory_limit(job.limits.memory_bytes):
                for message in self._runner.run(own, lambda: ticket in self._halted):
                    self._outbox.put(_with_files(ticket, own, message, shared))
        except MemoryError as error:
            self._outbox.put(WorkerMessage(ticket, JobFailed(job.training, Outcome.OOM, one_line(error)), shared))
        except (HpoError, OSError) as error:  # this node's disk is full: another node may have room
            broke = JobFailed(job.training, Outcome.CRASHED, one_line(error), lost=True)
            self._outbox.put(WorkerMessage(ticket, broke, shared))


def _with_files(ticket: int, job: Job, message: Message, shared: bool) -> WorkerMessage:
    """The message with its checkpoint or traceback, unless the driver sees these files; then no copy stays here."""
    if isinstance(message, JobFailed) and message.place and not shared:
        return WorkerMessage(ticket, replace(message, place=""), shared, trace=Path(message.place).read_text())
    if not isinstance(message, Reported) or shared:
        return WorkerMessage(ticket, message, shared)
    path = checkpoints.path(job.folder, job.training, message.report.epoch)
    state = path.read_bytes() if path.exists() else None
    shutil.rmtree(path.parent, ignore_errors=True)
    return WorkerMessage(ticket, message, shared, state)


def _temporary_folder() -> Path:
    """A folder for this process; those of this machine's workers that were killed are removed."""
    prefix = f"hpo-{os.getuid()}-worker-{platform.node()}-"
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        pid = folder.name.removeprefix(prefix).partition("-")[0]
        if pid.isdigit() and not alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-"))
