"""A worker process: started by LocalExecutor with one end of a socket, dies with its driver.

It is a plain subprocess, not a multiprocessing child, so that the driver's `__main__` is never imported again: a study
can be run from a notebook or from a script without `if __name__ == "__main__"`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib
import os
import queue
import resource
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from hpo.core import Broke, Job, Outcome, Train
from hpo.errors import EnvironmentFailed
from hpo.execution.job_runner import Bench, one_line

PR_SET_PDEATHSIG = 1
MOST_LEAKED = 64  # file descriptors a job may leave open before its worker is replaced


@dataclass(frozen=True, slots=True)
class Prepare:
    """Import these modules while the driver still reads the data."""

    paths: tuple[str, ...]  # the driver's sys.path
    modules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Begin:
    """Make the trainer; factory is picklable."""

    factory: Callable[[], Train]


@dataclass(frozen=True, slots=True)
class Halt:
    """Finish the epoch of this training, then rest."""

    training: str


@dataclass(frozen=True, slots=True)
class Ready:
    """The trainer is made. error: why it could not be."""

    error: str = ""


@dataclass(frozen=True, slots=True)
class Stranded:
    """The machine, not the trainer, is at fault (its disk is full): the driver must stop."""

    error: str


def main(descriptor: int) -> None:
    die_with_parent()
    leave_signals_to_the_driver()
    worker = _Worker(Connection(descriptor))
    threading.Thread(target=worker.listen, daemon=True).start()
    worker.serve()


class _Worker:
    """Commands come in on a thread of their own, so that `Halt` and the driver's death are seen in mid-epoch."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._jobs: queue.SimpleQueue[Begin | Prepare | Job] = queue.SimpleQueue()
        self._halted: set[str] = set()

    def listen(self) -> None:
        while True:
            try:
                command = self._pipe.recv()
            except (EOFError, OSError):
                os._exit(0)  # the driver closed the pipe, or is gone
            except Exception as error:  # a factory whose module does not import here
                self._pipe.send(Ready(one_line(error)))
                continue
            if isinstance(command, Halt):
                self._halted.add(command.training)
                continue
            if isinstance(command, Prepare):  # here, because the next command is unpickled by this thread
                sys.path[:] = list(dict.fromkeys([*command.paths, *sys.path]))
            if isinstance(command, Job):
                self._halted.discard(command.training)
            self._jobs.put(command)

    def serve(self) -> None:
        bench: Bench | None = None
        while True:
            command = self._jobs.get()
            if isinstance(command, Prepare):
                _prepare(command)
            elif isinstance(command, Begin):
                bench = self._begin(command)
            else:
                assert bench is not None, "Begin comes first"
                self._run(bench, command)

    def _begin(self, command: Begin) -> Bench | None:
        try:
            bench = Bench(command.factory())
        except Exception as error:  # told to the driver, which decides
            self._pipe.send(Ready(one_line(error)))
            return None
        self._pipe.send(Ready())
        return bench

    def _run(self, bench: Bench, job: Job) -> None:
        before = _open_files()
        try:
            with memory_limit(job.limits.memory_bytes):
                for message in bench.run(job, lambda: job.training in self._halted):
                    self._pipe.send(message)
        except MemoryError as error:
            self._pipe.send(Broke(job.training, Outcome.OOM, one_line(error)))
        except EnvironmentFailed as error:
            self._pipe.send(Stranded(str(error)))
        if _open_files() > before + MOST_LEAKED:
            os._exit(0)  # what a trainer leaks hurts its own trials only: another process stands in for this one


def _prepare(command: Prepare) -> None:
    for module in command.modules:
        with contextlib.suppress(ImportError):  # Begin will say it better
            importlib.import_module(module)


def die_with_parent() -> None:
    """Linux: the kernel kills this process when its parent dies, even while it is stuck in native code."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def leave_signals_to_the_driver() -> None:
    """Ctrl-C, and a SIGTERM to a whole group of processes, let the epoch finish; what a trainer starts is as usual."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: None)  # no SIG_IGN, which a started program would inherit
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def _open_files() -> int:
    try:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())
    except OSError as error:  # not one more can be opened
        return sys.maxsize if error.errno == errno.EMFILE else 0


@contextlib.contextmanager
def memory_limit(limit: int | None):  # type: ignore[no-untyped-def]
    """Let this process take `limit` bytes and no more; what is mapped but not used does not count."""
    if limit is None:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_data_bytes() + max(0, limit - _resident_bytes()), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


def _data_bytes() -> int:
    return _status_bytes("VmData:")


def _resident_bytes() -> int:
    return _status_bytes("VmRSS:")
