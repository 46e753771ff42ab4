"""A worker process: started by LocalExecutor with one end of a socket; it dies with its driver.

It is a plain subprocess, not a multiprocessing child, so that the driver's `__main__` is never imported again: a study
can be run from a notebook or from a script without `if __name__ == "__main__"`.
"""

import contextlib
import ctypes
import errno
import gc
import importlib
import logging
import os
import queue
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from hpo.core import Factory, Job, JobFailed, Message, Outcome
from hpo.errors import EnvironmentFailed
from hpo.execution.job_runner import JobRunner, RunningJob, one_line
from hpo.files import log_file, number_in, read_log, replace_file

PR_SET_PDEATHSIG = 1
LOG_BYTES = 2**20  # of what a training prints that are kept, the last ones
LOG_SECONDS = 1.0  # in which a log is brought up to date
MAX_LEAKED_FILES = 64  # file descriptors a job may leave open before its worker is replaced

# glibc gives memory back to the kernel after every step of a small network and faults it in again; these keep it, and
# ask for huge pages (benchmarks/allocator.py says what they are worth). One thread a process: two share a core badly.
ENVIRONMENT = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_MMAP_THRESHOLD_": str(2**31),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**28),
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",  # nor does C code hold back what it prints
}


@dataclass(frozen=True, slots=True)
class Halt:
    """Finish the epoch of this training, then pause."""

    training: str


Command = Factory | Halt | Job


@dataclass(frozen=True, slots=True)
class Ready:
    """The trainer is made."""


@dataclass(frozen=True, slots=True)
class MachineFailed:
    """No trial is at fault (the trainer cannot be made, the disk is full): the driver must stop."""

    error: str


Sent = Ready | MachineFailed | Message


class WorkerProcess:
    """A worker process and the driver's end of its pipe."""

    def __init__(self, modules: tuple[str, ...]) -> None:
        ours, theirs = socket.socketpair()
        code = f"import gc; gc.disable(); from hpo.execution.worker import main; main({theirs.fileno()}, {modules!r})"
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process; it moves it to logs
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", code],  # -P: the driver's sys.path, not the current folder before it
            pass_fds=[theirs.fileno()],
            env={**os.environ, **ENVIRONMENT, "PYTHONPATH": paths},
            stdin=subprocess.DEVNULL,
            stdout=self._printed,
            stderr=subprocess.STDOUT,
        )
        theirs.close()
        self.pipe = Connection(ours.detach())
        self.sentinel = os.pidfd_open(self.process.pid)  # readable once it has ended, even if a child holds the pipe
        self.running: RunningJob | None = None
        self.last = ""  # the training it ran last and may have in memory
        self.ready = False
        self.last_line = ""  # that it printed before it ended: after a fatal error, usually the reason

    def send(self, command: Command) -> None:
        with contextlib.suppress(OSError):  # a dead worker is noticed by its sentinel
            self.pipe.send(command)

    def received(self) -> Iterator[Sent]:
        with contextlib.suppress(EOFError, OSError):
            while self.pipe.poll():
                yield self.pipe.recv()

    def end(self, grace: float) -> None:
        """Wait `grace` seconds for it to exit, then kill it."""
        self.pipe.close()
        try:
            self.process.wait(grace)
        except subprocess.TimeoutExpired:
            self.process.kill()  # also ends a stopped process
            self.process.wait()
        with contextlib.suppress(OSError):
            os.close(self.sentinel)
        with self._printed as printed:
            printed.seek(0)
            text = printed.read().decode(errors="replace")
            if self.running is not None:
                study, training = self.running.job.folder.parent, self.running.job.training
                move_printed(printed.fileno(), log_file(study, training))
                text = read_log(study, training)
        self.last_line = next((line.strip()[:200] for line in reversed(text.splitlines()) if line.strip()), "")


def main(descriptor: int, modules: Iterable[str]) -> None:
    """modules: imported while the driver still reads the data."""
    die_with_parent()
    leave_signals_to_the_driver()
    worker = _Worker(Connection(descriptor))
    for threaded in (worker.listen, worker.keep_log):
        threading.Thread(target=threaded, daemon=True).start()
    logging.getLogger().setLevel(logging.INFO)  # to stderr, where the user's code says nothing else
    logging.lastResort = logging.StreamHandler()
    import_early(modules)
    gc.freeze()
    gc.enable()
    worker.serve()


class _Worker:
    """Commands arrive on a thread of their own, so that `Halt` and the driver's death are noticed during an epoch."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._commands: queue.SimpleQueue[Factory | Job] = queue.SimpleQueue()
        self._halted: set[str] = set()
        self._log: Path | None = None  # of the training at work, or last at work
        self._moving = threading.Lock()

    def keep_log(self) -> None:
        while True:
            time.sleep(LOG_SECONDS)
            self._move_printed()

    def _move_printed(self) -> None:
        with self._moving:
            if self._log is not None:
                move_printed(1, self._log)

    def listen(self) -> None:
        while True:
            try:
                command: Command = self._pipe.recv()
            except (EOFError, OSError):
                os._exit(0)  # the driver closed the pipe, or is gone
            except Exception as error:  # a factory whose module does not import here
                self._start_failed(error)
                continue
            match command:
                case Halt(training=training):
                    self._halted.add(training)
                case Job(training=training):
                    self._halted.discard(training)
                    self._commands.put(command)
                case factory:
                    self._commands.put(factory)

    def serve(self) -> None:
        runner: JobRunner | None = None
        while True:
            match self._commands.get():
                case Job() as job:
                    assert runner is not None, "the factory comes first"
                    self._run(runner, job)
                case factory:
                    try:
                        runner = JobRunner(factory())
                        self._pipe.send(Ready())
                    except Exception as error:  # reported to the driver, which decides
                        self._start_failed(error)

    def _start_failed(self, error: Exception) -> None:
        self._pipe.send(MachineFailed(f"a worker could not start: {one_line(error)}"))

    def _run(self, runner: JobRunner, job: Job) -> None:
        files = _open_files()
        self._log = log_file(job.folder.parent, job.training)
        try:
            with memory_limit(job.limits.memory_bytes):
                for message in runner.run(job, lambda: job.training in self._halted):
                    self._move_printed()
                    self._pipe.send(message)
        except MemoryError as error:
            self._pipe.send(JobFailed(job.training, Outcome.OOM, one_line(error)))
        except EnvironmentFailed as error:
            self._pipe.send(MachineFailed(str(error)))
        if _open_files() > files + MAX_LEAKED_FILES:
            os._exit(0)  # what a trainer leaks hurts only its own trials: the driver starts another process


def move_printed(printed: int, log: Path) -> None:
    """Bring what has been printed to this file, a descriptor, to the end of the log. Silence makes none."""
    if size := os.fstat(printed).st_size:
        last = os.pread(printed, LOG_BYTES, max(0, size - LOG_BYTES))
        with contextlib.suppress(OSError), replace_file(log, durable=False) as draft:  # a full disk costs the log only
            draft.write_bytes(((log.read_bytes() if log.exists() else b"") + last)[-LOG_BYTES:])
        os.ftruncate(printed, 0)
        os.lseek(printed, 0, os.SEEK_SET)


def import_early(modules: Iterable[str]) -> None:
    for module in modules:
        with contextlib.suppress(ImportError):  # making the trainer gives a better message
            importlib.import_module(module)


def die_with_parent() -> None:
    """The kernel kills this process when its parent dies, even while it is stuck in native code (prctl(2))."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def leave_signals_to_the_driver() -> None:
    """Ctrl-C, and a SIGTERM to the whole process group, let the epoch finish; a trainer's children behave as usual."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: None)  # no SIG_IGN, which a started program would inherit
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def _open_files() -> int:
    try:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())
    except OSError as error:  # not one more can be opened
        return sys.maxsize if error.errno == errno.EMFILE else 0


@contextlib.contextmanager
def memory_limit(limit: int | None) -> Iterator[None]:
    """Let this process use `limit` bytes and no more; what is mapped but not used does not count."""
    if limit is None:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resident, data = (1024 * number_in(Path("/proc/self/status"), name) for name in ("VmRSS:", "VmData:"))
    resource.setrlimit(resource.RLIMIT_DATA, (data + max(0, limit - resident), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
