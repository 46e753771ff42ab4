"""The worker of a Ray cluster: an actor that holds one trainer for as long as the study lasts.

Its messages wait in a queue until the driver's call of `next_messages`, which blocks, takes them: one call in flight a
worker, which breaks when the worker dies. Measured on two cores: 1.2 ms from a report to the driver.
"""

import contextlib
import os
import pickle
import platform
import queue
import shutil
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import ray

from hpo import provenance
from hpo.core import Factory, Job, JobFailed, Message, Outcome, Reported
from hpo.data.dataset import Dataset
from hpo.errors import HpoError
from hpo.execution.job_runner import JobRunner, one_line
from hpo.execution.worker import import_early, memory_limit
from hpo.files import scratch
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
    """The answer to call number `order` of `begin`: ready, or why not."""

    order: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class WorkerMessage:
    """A message of the job with this ticket. state: the checkpoint after the reported epoch; trace: the traceback."""

    ticket: int
    message: Message
    state: bytes | None = None
    trace: str = ""


Sent = WorkerInfo | Prepared | WorkerMessage


def versions() -> dict[str, str]:
    """What must be the same on the driver and on every node, because trainings depend on it."""
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "hpo": f"{provenance.__version__} (trainer {provenance.TRAINER})",
        "torch": provenance.version("torch").partition("+")[0],  # the CPU and the CUDA build of one version go together
        "machine": platform.machine(),
    }


class RayWorker:
    """Remote calls arrive on threads of their own; one thread trains, as torch keeps some settings by thread."""

    def __init__(self, modules: Sequence[str], paths: Sequence[str]) -> None:
        sys.path += [path for path in paths if path not in sys.path and Path(path).exists()]
        self._outbox: queue.Queue[Sent] = queue.Queue(BACKLOG)
        self._thread = ThreadPoolExecutor(1)
        self._halted: set[int] = set()
        self._runner: JobRunner | None = None
        self._files = contextlib.ExitStack()
        self._folder = self._files.enter_context(scratch())
        self._outbox.put(WorkerInfo(ray.util.get_node_ip_address(), os.getpid(), versions()))
        self._thread.submit(import_early, modules)

    def next_messages(self) -> list[Sent]:
        """Blocks until there is a message; then all there are."""
        messages = [self._outbox.get()]
        with contextlib.suppress(queue.Empty):
            while True:
                messages.append(self._outbox.get_nowait())
        return messages

    def begin(self, order: int, factory: bytes, dataset: Dataset | None) -> None:
        """Make the trainer of this pickled factory, a Recipe's with this data set; answered by Prepared."""
        self._thread.submit(self._begin, order, factory, dataset)

    def train(self, ticket: int, job: Job, state: bytes | None) -> None:
        """Answered by WorkerMessages. state: the checkpoint to start from."""
        self._thread.submit(self._train, ticket, job, state)

    def halt(self, ticket: int) -> None:
        """Finish the epoch of this job, then pause."""
        self._halted.add(ticket)

    def leave(self) -> None:
        """Remove this worker's files and exit at once: an actor that is only killed may train on for a while."""
        self._files.close()
        os._exit(0)

    def _begin(self, order: int, factory: bytes, dataset: Dataset | None) -> None:
        try:
            make: Factory = pickle.loads(factory)
            if isinstance(make, Recipe):
                make = replace(make, dataset=dataset)
            self._runner = JobRunner(make())
            self._outbox.put(Prepared(order))
        except Exception as error:  # reported to the driver, which decides
            self._outbox.put(Prepared(order, one_line(error)))

    def _train(self, ticket: int, job: Job, state: bytes | None) -> None:
        assert self._runner is not None, "begin comes first"
        own = replace(job, folder=self._folder / "trainings")
        try:
            if state is not None:
                path = checkpoints.path(own.folder, job.training, job.start)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(state)
            with memory_limit(job.limits.memory_bytes):
                for message in self._runner.run(own, lambda: ticket in self._halted):
                    self._outbox.put(_with_files(ticket, own, message))
        except MemoryError as error:
            self._outbox.put(WorkerMessage(ticket, JobFailed(job.training, Outcome.OOM, one_line(error))))
        except (HpoError, OSError) as error:  # this node's disk is full: another node may have room
            broke = JobFailed(job.training, Outcome.CRASHED, one_line(error), lost=True)
            self._outbox.put(WorkerMessage(ticket, broke))


def _with_files(ticket: int, job: Job, message: Message) -> WorkerMessage:
    """The message with its checkpoint or traceback, of which no copy stays here."""
    if isinstance(message, JobFailed) and message.place:
        return WorkerMessage(ticket, replace(message, place=""), trace=Path(message.place).read_text())
    if not isinstance(message, Reported):
        return WorkerMessage(ticket, message)
    path = checkpoints.path(job.folder, job.training, message.report.epoch)
    state = path.read_bytes() if path.exists() else None
    shutil.rmtree(path.parent, ignore_errors=True)
    return WorkerMessage(ticket, message, state)
