"""Worker processes on this machine: how many, on which devices; long-lived, one pipe each. Imports no torch.

A process that dies takes only its own job with it; another is started in its place at once.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing import connection
from pathlib import Path

from hpo.core import Factory, Job, JobEnded, JobFailed, Message, Outcome, Reported
from hpo.errors import BadInput, EnvironmentFailed, Mistake
from hpo.execution.job_runner import RunningJob, seconds_until
from hpo.execution.worker import Halt, MachineFailed, Ready, Sent, WorkerProcess

MAX_FAILED_STARTS = 3
MAX_WORKERS_PER_CORE = 32  # 300 MB each
PROBE = """
import torch.cuda as cuda
def free(device):
    try:
        return cuda.mem_get_info(device)[0]
    except RuntimeError:  # full, or another process's alone
        return 0
print(*map(free, range(cuda.device_count() * cuda.is_available())))
"""


class LocalExecutor:
    """`slots` worker processes, which import `modules` at once; `begin` gives them trainers. clock: for limits only."""

    def __init__(self, slots: int, modules: Sequence[str] = (), clock: Callable[[], float] = time.monotonic) -> None:
        self.slots, self._modules, self._clock = slots, tuple(modules), clock
        self._factories: Sequence[Factory] = ()
        self._failed_starts = 0
        self._workers = [self._start(index) for index in range(slots)]

    def begin(self, factories: Sequence[Factory]) -> None:
        """Send each worker its trainer's factory, in turn, so that each can have its own device; does not wait."""
        self._factories = factories
        for index, worker in enumerate(self._workers):
            worker.send(factories[index % len(factories)])

    def pids(self) -> list[int]:
        return [worker.process.pid for worker in self._workers]

    def submit(self, job: Job) -> None:
        """Give the job to an idle worker, if possible to the one that has this training in memory."""
        idle = [worker for worker in self._workers if worker.running is None]
        worker = max(idle, key=lambda worker: (worker.last == job.training, worker.ready))
        now = self._clock()
        worker.running = RunningJob(job, now, now, worker.ready)
        worker.last = job.training
        worker.send(job)

    def stop(self, training: str) -> None:
        for worker in self._workers:
            if worker.running and worker.running.job.training == training:
                worker.send(Halt(training))

    def wait(self, timeout: float | None) -> list[Message]:
        end = None if timeout is None else self._clock() + timeout
        while True:
            handles = [handle for worker in self._workers for handle in (worker.pipe, worker.sentinel)]
            jobs = [one.running for one in self._workers]
            active = connection.wait(handles, seconds_until(self._clock(), [end], jobs))
            messages = [message for index in range(self.slots) for message in self._receive(index, active)]
            if messages or (end is not None and self._clock() >= end):
                return messages

    def close(self) -> None:
        for worker in self._workers:
            worker.pipe.close()  # the worker exits when it sees this, even in the middle of an epoch
        for worker in self._workers:
            worker.end(grace=1.0)
        self._workers = []

    def _receive(self, index: int, active: Collection[object]) -> list[Message]:
        """All messages of this worker; if its process has ended or is overdue, another one is started in its place."""
        worker = self._workers[index]
        messages: list[Message] = []
        if worker.pipe in active or worker.sentinel in active:
            messages = [message for sent in worker.received() for message in self._understand(worker, sent)]
        if worker.sentinel in active:
            error = self._replace(index)
            if worker.running:
                messages.append(JobFailed(worker.running.job.training, Outcome.CRASHED, error, lost=True))
        elif worker.running and (broke := worker.running.overdue(self._clock())) is not None:
            error = self._replace(index, broke.error)
            messages.append(replace(broke, error=error) if broke.lost else broke)
        return messages

    def _understand(self, worker: WorkerProcess, sent: Sent) -> list[Message]:
        match sent:
            case MachineFailed(error=error):
                raise EnvironmentFailed(error)
            case Ready():
                self._failed_starts = 0
                worker.ready = True
                if running := worker.running:
                    running.since, running.last_message, running.ready = self._clock(), self._clock(), True
                return []
            case Reported():
                if worker.running:
                    worker.running.take_in(self._clock(), sent)
            case JobEnded() | JobFailed():
                worker.running = None
        return [sent]

    def _start(self, index: int) -> WorkerProcess:
        worker = WorkerProcess(self._modules)
        if self._factories:
            worker.send(self._factories[index % len(self._factories)])
        return worker

    def _replace(self, index: int, why: str = "") -> str:
        """End a worker and start another; returns why, with the last line that the old one printed."""
        worker = self._workers[index]
        worker.end(grace=0.0)
        why = why or f"the worker process ended ({_cause(worker.process.returncode)})"
        why = "; ".join(filter(None, [why, worker.last_line]))
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                raise EnvironmentFailed(f"{MAX_FAILED_STARTS} workers died while starting: {why}")
        self._workers[index] = self._start(index)
        return why


def _cause(code: int) -> str:
    with suppress(ValueError):  # a real-time signal has no name
        return f"exit {code}" if code >= 0 else signal.Signals(-code).name
    return f"signal {-code}"


def gpu_memory(devices: Path = Path("/dev")) -> list[int]:
    """Free bytes of the CUDA devices torch can use; a machine without NVIDIA's device files has none."""
    if not any(devices.glob("nvidia[0-9]*")):
        return []
    answer = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    return [*map(int, answer.stdout.split())] if answer.returncode == 0 else []


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def worker_devices(
    device: str,
    workers: int | str,
    where: Callable[[str], str] = str,
    count: int | None = None,
    cpus: float = 1,
    gpus: float | None = None,
) -> Sequence[str]:
    """The device of each worker, in turn. "auto": one a core on CPU, one a GPU, or as many as take `cpus` or `gpus` each.

    where: the place of a key in the file; count: GPUs here, if known. Raises BadInput for what is not there, or too many.
    """
    if gpus == 0 and device == "auto":
        device = "cpu"
    if workers != "auto" and int(workers) > MAX_WORKERS_PER_CORE * cores():
        rule, got = f"must be at most {MAX_WORKERS_PER_CORE} a core", f"{workers} (cores here: {cores()})"
        raise BadInput(Mistake(where("workers"), rule, got, "write auto, one a core or GPU"))
    if device == "cpu" or count is None:
        count = 0 if device == "cpu" else len(gpu_memory())
    if device in ("auto", "cpu") and count == 0:
        return ["cpu"] * (max(1, int(cores() / cpus)) if workers == "auto" else int(workers))
    names = [f"cuda:{index}" for index in range(count)] if device in ("auto", "cuda") else [device]
    if not names or int(names[-1].partition(":")[2] or 0) >= count:
        there = f"{count} GPU{'s' * (count != 1)} here" if count else "no GPU that torch can use here"
        remedy = "write cpu, auto, or a GPU that is there"
        raise BadInput(Mistake(where("device"), "must be there", f"{device} ({there})", remedy))
    sharing = max(1, int(1 / (gpus or 1)))
    return [names[index % len(names)] for index in range(sharing * len(names) if workers == "auto" else int(workers))]
