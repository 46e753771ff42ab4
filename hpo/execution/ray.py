"""Workers on the nodes of a Ray cluster: the same contract as LocalExecutor's, wherever they run.

Ray starts the workers, places them on nodes, and notices when one is gone; the driver alone decides who trains what.
A study's folder is on a disk of the driver's machine, so data and checkpoints travel through Ray's object store.
"""

import contextlib
import os
import pickle
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray

from hpo.core import Factory, Job, JobEnded, JobFailed, Message, Outcome, Reported
from hpo.data.dataset import ARRAYS, Dataset
from hpo.errors import EnvironmentFailed, Mistake
from hpo.execution.cluster import PATIENCE, Monitor, Resources, join
from hpo.execution.job_runner import RunningJob, keep_traceback, seconds_until
from hpo.execution.local import MAX_FAILED_STARTS
from hpo.execution.ray_worker import Prepared, RayWorker, Sent, WorkerInfo, WorkerMessage, versions
from hpo.execution.worker import ENVIRONMENT
from hpo.training import checkpoints
from hpo.training.recipe import Recipe

CHECK_SECONDS = 2.0  # between two checks of the nodes
LEAVE_SECONDS = 3.0  # for workers to remove their files and exit
CONCURRENT_CALLS = 4  # of a worker: next_messages, and beside it begin, train, halt
CAUSES = {  # what Ray's error about a dead worker contains -> what to say
    "ModuleNotFoundError: No module named 'hpo'": "hpo is not installed there",
    "node died": "the node died",
    "is unavailable": "the connection to it broke",
    "low on memory": "the node was out of memory",
    "connection error code 2": "the process was killed or crashed",  # Ray does not know which, and guesses OOM
}


@dataclass(slots=True)
class _WorkerActor:
    """node and pid: empty until its WorkerInfo arrives."""

    actor: Any
    next_messages: Any  # the call in flight; that it breaks says that the worker is gone
    node: str = ""
    pid: int = 0
    ready: bool = False
    running: RunningJob | None = None
    ticket: int = 0  # of the job that is running
    last: str = ""  # the training it ran last and may have in memory

    def kill(self) -> None:
        with contextlib.suppress(Exception):  # it may be gone, and so may the whole cluster
            ray.kill(self.actor, no_restart=True)


@dataclass(eq=False)
class RayExecutor:
    """One long-lived actor a slot, each taking `resources` of a node. `slots`: how many are ready now."""

    resources: Resources = Resources()  # noqa: RUF009  # frozen
    most: int | None = None  # workers; None: as many as the nodes carry
    modules: Sequence[str] = ()  # what a worker imports before `begin`
    address: str | None = None
    place: str = "execution.address"  # of the address in the study file
    patience: float = PATIENCE  # seconds to wait for a node while there is none

    def __post_init__(self) -> None:
        self._connected_here = not ray.is_initialized()
        self._monitor = Monitor(join(self.address, self.place), self.resources, self.patience, time.monotonic)
        self._order = 0  # calls of `begin`
        self._factory = b""
        self._dataset: Any = None  # a reference to it in the object store
        self._waiting: list[Job] = []  # submitted, and no worker is ready
        self._messages: list[Message] = []  # for the next `wait`
        self._tickets = self._failed_starts = 0
        self._next_check = time.monotonic()
        self._workers: list[_WorkerActor] = []
        self._adjust_workers()

    @property
    def slots(self) -> int:
        """Ready workers; at least one, so that a study waits for its first worker instead of ending."""
        return max(1, self._ready())

    def _ready(self) -> int:
        return sum(worker.ready for worker in self._workers)

    def begin(self, factories: Sequence[Factory]) -> None:
        """Send all workers, later ones too, the trainer's factory; does not wait."""
        factory = factories[0]  # one is enough: Ray gives each worker its own device, always by the same name
        self._order += 1
        self._factory = pickle.dumps(factory)
        self._dataset = _put_dataset(factory.data) if isinstance(factory, Recipe) else None
        for worker in self._workers:
            worker.ready = False
            if worker.pid:
                worker.actor.begin.remote(self._order, self._factory, self._dataset)

    def pids(self) -> list[int]:
        """Of the workers that are ready."""
        return [worker.pid for worker in self._workers if worker.ready]

    def submit(self, job: Job) -> None:
        self._waiting.append(job)
        self._assign()

    def stop(self, training: str) -> None:
        for job in [job for job in self._waiting if job.training == training]:
            self._waiting.remove(job)
            self._messages.append(JobEnded(training))
        for worker in self._workers:
            if worker.running and worker.running.job.training == training:
                worker.actor.halt.remote(worker.ticket)

    def wait(self, timeout: float | None) -> list[Message]:
        """Returns when a worker becomes ready, too: there is a slot more."""
        end = None if timeout is None else time.monotonic() + timeout
        ready = self._ready()
        while True:
            self._adjust_workers()
            self._assign()
            messages, self._messages = self._messages, []
            jobs = [worker.running for worker in self._workers]
            seconds = 0.0 if messages else seconds_until(time.monotonic(), [self._next_check, end], jobs)
            for worker in self._with_messages(seconds):
                messages += self._receive(worker)
            messages += self._kill_overdue()
            if messages or (end is not None and time.monotonic() >= end) or self._ready() != ready:
                return messages

    def close(self) -> None:
        if self._monitor.answers and self._workers:
            leaving = [worker.actor.leave.remote() for worker in self._workers]  # breaks when the process is gone
            ray.wait(leaving, num_returns=len(leaving), timeout=LEAVE_SECONDS)
        for worker in self._workers:
            worker.kill()
        self._workers, self._waiting = [], []
        if self._connected_here:
            ray.shutdown()

    def _adjust_workers(self) -> None:
        """Have as many workers as the nodes carry. Raises EnvironmentFailed."""
        if time.monotonic() < self._next_check:
            return
        self._next_check = time.monotonic() + CHECK_SECONDS
        capacity = self._monitor.capacity()
        if capacity is None:
            return
        target = capacity if self.most is None else self.most  # what does not fit yet waits: an autoscaler sees it
        unborn = [worker for worker in self._workers if not worker.pid]
        for worker in unborn[: max(0, len(self._workers) - target)]:
            self._workers.remove(worker)
            worker.kill()
        self._workers += [self._start() for _ in range(target - len(self._workers))]

    def _start(self) -> _WorkerActor:
        remote_class: Any = ray.remote(RayWorker)
        actor = remote_class.options(
            num_cpus=self.resources.cpus,
            num_gpus=self.resources.gpus,
            max_concurrency=CONCURRENT_CALLS,
            max_restarts=0,
            runtime_env={"env_vars": ENVIRONMENT},
        ).remote(self.modules, [path or os.getcwd() for path in sys.path])
        return _WorkerActor(actor, actor.next_messages.remote())

    def _remove(self, worker: _WorkerActor, why: str) -> None:
        """The next check, which is due at once, starts another. Raises EnvironmentFailed if starting fails too often."""
        self._workers.remove(worker)
        worker.kill()
        self._next_check = time.monotonic()
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS * (len(self._workers) + 1):
                raise EnvironmentFailed(f"workers died while starting: {why}")

    def _with_messages(self, timeout: float | None) -> list[_WorkerActor]:
        """The workers that have sent something, as soon as one has."""
        calls = [worker.next_messages for worker in self._workers]
        if not calls:
            time.sleep(timeout or 0)
            return []
        ray.wait(calls, num_returns=1, timeout=timeout)
        done = set(ray.wait(calls, num_returns=len(calls), timeout=0)[0])
        return [worker for worker in self._workers if worker.next_messages in done]

    def _receive(self, worker: _WorkerActor) -> list[Message]:
        try:
            batch: list[Sent] = ray.get(worker.next_messages)
        except ray.exceptions.RayError as error:
            why = death_of_worker(error, worker.node)
            self._remove(worker, why)
            running = worker.running
            return [JobFailed(running.job.training, Outcome.CRASHED, why, lost=True)] if running else []
        worker.next_messages = worker.actor.next_messages.remote()
        return [message for sent in batch for message in self._understand(worker, sent)]

    def _understand(self, worker: _WorkerActor, sent: Sent) -> list[Message]:
        match sent:
            case WorkerInfo():
                worker.node, worker.pid = sent.node, sent.pid
                _refuse_other_versions(sent)
                if self._factory:
                    worker.actor.begin.remote(self._order, self._factory, self._dataset)
            case Prepared(order=self._order, error=""):
                worker.ready = True
                self._failed_starts = 0
            case Prepared(order=self._order, error=error):
                raise EnvironmentFailed(f"a worker on node {worker.node} could not start: {error}")
            case WorkerMessage(ticket=worker.ticket) if worker.running:
                return [self._unpack(worker, worker.running, sent)]
        return []

    def _unpack(self, worker: _WorkerActor, running: RunningJob, sent: WorkerMessage) -> Message:
        """The message, once the files that came with it are in the driver's folder."""
        message, job = sent.message, running.job
        running.take_in(time.monotonic(), message)
        if isinstance(message, Reported):
            if (state := sent.state) is not None:
                report = replace(message.report, save=partial(_write, state))
                checkpoints.write(job.folder, job.training, report, durable=report.epoch >= job.until)
            return message
        worker.running = None
        if isinstance(message, JobFailed) and sent.trace:
            return replace(message, place=keep_traceback(job.folder, f"{sent.trace}\non node {worker.node}\n"))
        return message

    def _kill_overdue(self) -> list[Message]:
        messages: list[Message] = []
        for worker in list(self._workers):
            broke = worker.running.overdue(time.monotonic()) if worker.running else None
            if broke is not None:
                self._remove(worker, broke.error)
                messages.append(broke)
        return messages

    def _assign(self) -> None:
        """Give waiting jobs to idle workers, if possible to the one that has the training in memory."""
        idle = [worker for worker in self._workers if worker.ready and worker.running is None]
        while idle and self._waiting:
            job = self._waiting.pop(0)
            worker = max(idle, key=lambda worker: worker.last == job.training)
            idle.remove(worker)
            self._tickets += 1
            now = time.monotonic()
            worker.running, worker.last, worker.ticket = RunningJob(job, now, now), job.training, self._tickets
            worker.actor.train.remote(worker.ticket, job, _state(job))


def _put_dataset(folder: Path) -> Any:
    """Copy it to the object store: nodes fetch it once, and all workers of a node map the same memory."""
    dataset = Dataset.open(folder)
    arrays: dict[str, Any] = {name: np.asarray(getattr(dataset, name)) for name in ARRAYS}  # a memmap is copied
    return ray.put(replace(dataset, folder=None, **arrays))


def _state(job: Job) -> bytes | None:
    with contextlib.suppress(FileNotFoundError):  # none of epoch 0 either
        return checkpoints.path(job.folder, job.training, job.start).read_bytes()
    return None


def _write(state: bytes, path: Path) -> None:
    path.write_bytes(state)


def _refuse_other_versions(info: WorkerInfo) -> None:
    own = versions()
    if other := sorted(info.versions.items() - own.items()):
        rule, remedy = "must run the driver's versions", "install the same there"
        got = ", ".join(f"{name} {version} where the driver has {own[name]}" for name, version in other)
        raise EnvironmentFailed(Mistake(f"node {info.node}", rule, got, remedy))


def death_of_worker(error: Exception, node: str) -> str:
    """One line about a worker that is gone, the same for the same cause. node: "" if it was starting."""
    where = f"the worker on node {node}" if node else "a worker that was starting"
    text = " ".join(str(error).split())
    cause = next((cause for sign, cause in CAUSES.items() if sign in text), f"{type(error).__name__}: {text[:300]}")
    return f"{where} ended: {cause}"
