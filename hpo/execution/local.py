"""Worker processes on this machine: long-lived, one pipe each, watched by their sentinels.

A process that dies takes only its own job with it; another stands in its place at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from hpo.core import Broke, Job, Message, Outcome, Rested, Train
from hpo.errors import EnvironmentFailed
from hpo.execution.job_runner import timed_out
from hpo.execution.worker import Begin, Halt, Prepare, Ready, Stranded

HANG_SECONDS = 1800.0  # silence that counts as a hang where the study file sets no limit
START_SECONDS = 600.0  # a worker that is not ready by then never will be
LAST_WORDS = 4096  # bytes of a worker's output that are kept
MOST_FAILED_STARTS = 3

# glibc gives memory back to the kernel after every step of a small network and faults it in again; these keep it
# (measured in benchmarks: an eager step 1.16x faster). One thread a process, because two share a core badly.
ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(2**31),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**28),
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    pipe: Connection
    sentinel: int  # becomes readable when the process is gone, even if a grandchild holds the pipe open
    output: deque[bytes]
    job: Job | None = None
    last: str = ""  # the training it trained last, and may hold
    since: float = 0.0  # when the job was submitted
    heard: float = 0.0  # when it last said something
    ready: bool = False
    exits: list[str] = field(default_factory=list)


class LocalExecutor:
    """`slots` worker processes. They start at once and import `modules`; `begin` gives them their trainers.

    factories: one for each slot in turn, so that slot i can have its own device.
    clock is asked for hangs and time limits only, never put into a result; starting: seconds a worker has to be ready.
    """

    def __init__(
        self,
        slots: int,
        modules: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        starting: float = START_SECONDS,
    ) -> None:
        self.slots = slots
        self._starting = starting
        self._modules = tuple(modules)
        self._environment = {**os.environ, **ENVIRONMENT, **(environment or {})}
        self._clock = clock
        self._factories: Sequence[Callable[[], Train]] = ()
        self._failed_starts = 0
        self._workers = [self._start(index) for index in range(slots)]

    def begin(self, factories: Sequence[Callable[[], Train]]) -> None:
        """Tell the workers what to train with; returns before they are ready."""
        self._factories = factories
        for index, worker in enumerate(self._workers):
            self._send(worker, Begin(factories[index % len(factories)]))

    def pids(self) -> list[int]:
        return [worker.process.pid for worker in self._workers]

    def submit(self, job: Job) -> None:
        idle = [worker for worker in self._workers if worker.job is None]
        worker = max(idle, key=lambda worker: (worker.last == job.training, worker.ready))
        worker.job, worker.last = job, job.training
        worker.since = worker.heard = self._clock()
        self._send(worker, job)

    def stop(self, training: str) -> None:
        for worker in self._workers:
            if worker.job and worker.job.training == training:
                self._send(worker, Halt(training))

    def wait(self, timeout: float | None) -> list[Message]:
        deadline = None if timeout is None else self._clock() + timeout
        while True:
            watched: list[Any] = [worker.pipe for worker in self._workers]
            watched += [worker.sentinel for worker in self._workers]
            found = wait(watched, self._patience(deadline))
            messages = [message for index in range(self.slots) for message in self._listen(index, found)]
            messages += self._overdue()
            if messages or (deadline is not None and self._clock() >= deadline):
                return messages

    def close(self) -> None:
        for worker in self._workers:
            worker.pipe.close()  # a worker that hears this leaves by itself, in the middle of an epoch too
        for worker in self._workers:
            self._bury(worker, grace=1.0)
        self._workers = []

    # -- one worker

    def _start(self, index: int) -> _Worker:
        ours, theirs = socket.socketpair()
        process = subprocess.Popen(
            [sys.executable, "-c", f"from hpo.execution.worker import main; main({theirs.fileno()})"],
            pass_fds=[theirs.fileno()],
            env={**self._environment, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        theirs.close()
        output: deque[bytes] = deque(maxlen=16)
        threading.Thread(target=_drain, args=(process, output), daemon=True).start()
        pipe = Connection(ours.detach())
        worker = _Worker(process, pipe, os.pidfd_open(process.pid), output, heard=self._clock())
        self._send(worker, Prepare(tuple(sys.path), self._modules))
        if self._factories:
            self._send(worker, Begin(self._factories[index % len(self._factories)]))
        return worker

    def _send(self, worker: _Worker, command: Prepare | Begin | Halt | Job) -> None:
        with contextlib.suppress(OSError):  # a dead worker is noticed by its sentinel
            worker.pipe.send(command)

    def _listen(self, index: int, found: Sequence[object]) -> list[Message]:
        """All that this worker has said; if it is gone, what that means, and another in its place."""
        worker = self._workers[index]
        messages: list[Message] = []
        if worker.pipe in found or worker.sentinel in found:
            with contextlib.suppress(EOFError, OSError):
                while worker.pipe.poll():
                    messages += self._hear(worker, worker.pipe.recv())
        if worker.sentinel in found:
            messages += self._replace(index, Outcome.CRASHED, "")
        return messages

    def _hear(self, worker: _Worker, said: Ready | Stranded | Message) -> list[Message]:
        worker.heard = self._clock()
        if isinstance(said, Stranded):
            raise EnvironmentFailed(said.error)
        if isinstance(said, Ready):
            if said.error:
                raise EnvironmentFailed(f"a worker could not start: {said.error}")
            worker.ready = True
            self._failed_starts = 0
            worker.since = worker.heard
            return []
        if isinstance(said, Rested | Broke):
            worker.job = None
        return [said]

    def _replace(self, index: int, outcome: Outcome, why: str) -> list[Message]:
        """Bury the worker, start another, and say what became of its job. lost: it deserves another attempt."""
        worker = self._workers[index]
        self._bury(worker, grace=0.0)
        words = _last_words(worker.output)
        why = why or f"the worker process ended ({_cause(worker.process.returncode)})"
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= MOST_FAILED_STARTS:
                raise EnvironmentFailed(f"{MOST_FAILED_STARTS} workers died while starting: {why}; {words}")
        self._workers[index] = self._start(index)
        if worker.job is None:
            return []
        return [Broke(worker.job.training, outcome, f"{why}; {words}" if words else why, lost=True)]

    def _bury(self, worker: _Worker, grace: float) -> None:
        worker.pipe.close()
        try:
            worker.process.wait(grace)
        except subprocess.TimeoutExpired:
            worker.process.kill()  # also wakes a stopped process
            worker.process.wait()
        with contextlib.suppress(OSError):
            os.close(worker.sentinel)

    # -- limits

    def _silence(self, worker: _Worker, job: Job) -> float:
        return job.limits.report_seconds or HANG_SECONDS if worker.ready else self._starting

    def _patience(self, deadline: float | None) -> float | None:
        """How long nothing needs to be looked at."""
        now = self._clock()
        moments = [] if deadline is None else [deadline]
        for worker in self._workers:
            if worker.job:
                moments.append(worker.heard + self._silence(worker, worker.job))
                if worker.ready and worker.job.limits.trial_seconds is not None:
                    moments.append(worker.since + worker.job.limits.trial_seconds)
        return max(0.0, min(moments) - now) + 0.01 if moments else None

    def _overdue(self) -> list[Message]:
        """Kill what hangs, and what is over its time limit."""
        now = self._clock()
        messages: list[Message] = []
        for index, worker in enumerate(self._workers):
            job = worker.job
            if job is None:
                continue
            if worker.ready and job.limits.trial_seconds is not None and now > worker.since + job.limits.trial_seconds:
                worker.job = None
                self._replace(index, Outcome.TIMEOUT, "time limit")
                messages.append(timed_out(job))
            elif now > worker.heard + (silence := self._silence(worker, job)):
                why = f"{'no report' if worker.ready else 'not ready'} for {silence:.3g} s"
                messages += self._replace(index, Outcome.TIMEOUT, why)
        return messages


def _drain(process: subprocess.Popen[bytes], output: deque[bytes]) -> None:
    """Read what a worker prints, however much, and keep its end."""
    assert process.stdout is not None
    with process.stdout as stream, contextlib.suppress(OSError, ValueError):
        while chunk := os.read(stream.fileno(), 65536):
            output.append(chunk[-LAST_WORDS:])


def _last_words(output: deque[bytes]) -> str:
    """The last line a worker printed, or the fatal one, for the message about its death."""
    lines = [line.strip() for line in b"".join(output).decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"
