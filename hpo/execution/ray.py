"""Workers on the nodes of a Ray cluster: the same contract as LocalExecutor's, wherever they run.

Ray starts the workers, finds them a node, and notices when one is gone; who trains what is the driver's business alone.
Checkpoints travel by the job's folder where a node sees it, else with the reports, through Ray's object store.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import pickle
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray

from hpo.core import Broke, Job, Message, Outcome, Reported, Rested, Train
from hpo.errors import EnvironmentFailed, Mistake
from hpo.execution import cluster
from hpo.execution.cluster import PATIENCE, Share, Watch
from hpo.execution.job_runner import HANG_SECONDS, timed_out
from hpo.execution.local import ENVIRONMENT
from hpo.execution.ray_worker import Cargo, Greeting, Prepared, RayWorker, Told, Word, cargo_of, pack, versions
from hpo.training import checkpoints
from hpo.training.recipe import Recipe

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0  # between two looks at the nodes
MOST_FAILED_STARTS = 3  # a worker, in a row
LEAVE_SECONDS = 3.0  # for workers to tidy up and be gone
CALLS = 4  # of a worker at a time: hear, and beside it begin, work, halt


@dataclass(slots=True)
class _Worker:
    actor: Any
    heard_next: Any  # the one call of `hear` in flight; that it breaks says that the worker is gone
    node: str = ""
    pid: int = 0
    ready: bool = False
    shared: bool | None = None  # whether it sees the folder of checkpoints; None before it has said so
    job: Job | None = None
    ticket: int = 0
    last: str = ""  # the training it trained last, and may hold
    since: float = 0.0  # when the job was handed over
    heard: float = 0.0  # when it last reported


class RayExecutor:
    """One long-lived actor a slot, each taking `share` of a node. `slots`: how many are ready now.

    most: the most workers; None: as many as the nodes carry. modules: what a worker imports before `begin`.
    place: where the study file names the address; patience: seconds to wait for a node while there is none.
    shared: False sends checkpoints through the object store even to nodes that see the folder.
    clock is asked for limits only, never put into a result.
    """

    def __init__(
        self,
        share: Share = Share(),
        most: int | None = None,
        modules: Sequence[str] = (),
        address: str | None = None,
        *,
        place: str = "execution.address",
        patience: float = PATIENCE,
        environment: Mapping[str, str] | None = None,
        shared: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ours = not ray.is_initialized()
        self._watch = Watch(cluster.connect(address, place), share, patience, clock)
        self._share, self._most, self._modules, self._clock = share, most, tuple(modules), clock
        self._environment = {**ENVIRONMENT, **(environment or {})}
        self._token = f".ray-{uuid.uuid4().hex}" if shared else ""
        self._marked: set[Path] = set()  # folders with the token in them
        self._factory: tuple[int, bytes, Cargo | None] | None = None
        self._waiting: list[Job] = []  # submitted, and no worker is ready
        self._said: list[Message] = []  # to be handed out by the next `wait`
        self._tickets = self._failed_starts = 0
        self._looked = -LOOK_SECONDS
        self._workers: list[_Worker] = []
        self._look()

    @property
    def slots(self) -> int:
        """Ready workers; one at least, so that a study waits for its first worker instead of ending."""
        return max(1, self._ready())

    def _ready(self) -> int:
        return sum(worker.ready for worker in self._workers)

    def begin(self, factories: Sequence[Callable[[], Train]]) -> None:
        """Tell the workers what to train with, the later ones too; returns before they are ready."""
        made = factories[0]  # Ray gives each worker its own device, always by the same name
        cargo = cargo_of(made.data) if isinstance(made, Recipe) else None
        number = self._factory[0] + 1 if self._factory else 1
        self._factory = number, pickle.dumps(made), cargo
        for worker in self._workers:
            worker.ready = False
            if worker.pid:
                worker.actor.begin.remote(*self._factory)

    def pids(self) -> list[int]:
        """Of the workers that are ready."""
        return [worker.pid for worker in self._workers if worker.ready]

    def submit(self, job: Job) -> None:
        self._mark(job.folder)
        self._waiting.append(job)
        self._hand_out()

    def stop(self, training: str) -> None:
        for job in [job for job in self._waiting if job.training == training]:
            self._waiting.remove(job)
            self._said.append(Rested(training))
        for worker in self._workers:
            if worker.job and worker.job.training == training:
                worker.actor.halt.remote(worker.ticket)

    def wait(self, timeout: float | None) -> list[Message]:
        deadline = None if timeout is None else self._clock() + timeout
        ready = self._ready()
        while True:
            self._look()
            self._hand_out()
            messages, self._said = self._said, []
            for worker in self._which_spoke(0.0 if messages else self._pause(deadline)):
                messages += self._listen(worker)
            messages += self._overdue()
            over = deadline is not None and self._clock() >= deadline
            if messages or over or self._ready() != ready:
                return messages

    def close(self) -> None:
        if self._watch.answers and self._workers:
            leaving = [worker.actor.leave.remote() for worker in self._workers]  # breaks when the process is gone
            ray.wait(leaving, num_returns=len(leaving), timeout=LEAVE_SECONDS)
        for worker in self._workers:
            _kill(worker)
        self._workers, self._waiting = [], []
        for folder in self._marked:
            (folder / self._token).unlink(missing_ok=True)
        self._marked.clear()
        if self._ours:
            ray.shutdown()

    # -- the nodes

    def _look(self) -> None:
        """See which nodes there are, and have as many workers as they carry. Raises EnvironmentFailed."""
        if self._clock() < self._looked + LOOK_SECONDS:
            return
        self._looked = self._clock()
        room = self._watch.room()
        if room is None:
            return
        wanted = room if self._most is None else self._most  # what does not fit yet waits: an autoscaler sees it
        unborn = [worker for worker in self._workers if not worker.pid]
        for worker in unborn[: max(0, len(self._workers) - wanted)]:
            self._workers.remove(worker)
            _kill(worker)
        self._workers += [self._start() for _ in range(wanted - len(self._workers))]

    # -- one worker

    def _start(self) -> _Worker:
        kind: Any = ray.remote(RayWorker)
        made = kind.options(
            num_cpus=self._share.cpus,
            num_gpus=self._share.gpus,
            max_concurrency=CALLS,
            max_restarts=0,
            runtime_env={"env_vars": self._environment},
        )
        paths = [path or os.getcwd() for path in sys.path]
        actor = made.remote(self._modules, paths)
        return _Worker(actor, actor.hear.remote())

    def _which_spoke(self, patience: float | None) -> list[_Worker]:
        """The workers that have something to say, as soon as one has, in the order of their places."""
        calls = [worker.heard_next for worker in self._workers]
        if not calls:
            time.sleep(min(LOOK_SECONDS, patience if patience is not None else LOOK_SECONDS))
            return []
        found, rest = ray.wait(calls, num_returns=1, timeout=patience)
        if found and rest:
            found += ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        spoke = set(found)
        return [worker for worker in self._workers if worker.heard_next in spoke]

    def _listen(self, worker: _Worker) -> list[Message]:
        try:
            words: list[Word] = ray.get(worker.heard_next)
        except ray.exceptions.RayError as error:
            return self._replace(worker, Outcome.CRASHED, _cause(error, worker))
        worker.heard_next = worker.actor.hear.remote()
        return [message for word in words for message in self._understand(worker, word)]

    def _understand(self, worker: _Worker, word: Word) -> list[Message]:
        match word:
            case Greeting():
                worker.node, worker.pid = word.node, word.pid
                self._refuse_other_versions(word)
                if self._factory is not None:
                    worker.actor.begin.remote(*self._factory)
                return []
            case Prepared():
                self._prepared(worker, word)
                return []
            case Told(ticket=ticket):
                return [self._told(worker, word)] if worker.job is not None and ticket == worker.ticket else []

    def _prepared(self, worker: _Worker, word: Prepared) -> None:
        assert self._factory is not None
        order, factory, cargo = self._factory
        if word.order != order:
            return  # an earlier `begin`
        if word.error:
            raise EnvironmentFailed(f"a worker on node {worker.node} could not start: {word.error}")
        if word.wants:
            assert cargo is not None
            if cargo.files is None:
                log.warning(
                    "nodes that do not see %s get a copy of the data through Ray's object store, once a node",
                    cargo.folder,
                )
                self._factory = order, factory, pack(cargo)
            worker.actor.begin.remote(*self._factory)
            return
        worker.ready = True
        self._failed_starts = 0

    def _told(self, worker: _Worker, told: Told) -> Message:
        message, job = told.message, worker.job
        assert job is not None
        worker.heard = self._clock()
        if worker.shared is None and not told.shared and not any(other.shared is False for other in self._workers):
            log.warning(
                "checkpoints travel through Ray's object store, because node %s does not see %s",
                worker.node,
                job.folder,
            )
        worker.shared = told.shared
        if isinstance(message, Reported):
            if told.state is not None:
                report = replace(message.report, save=partial(_write, told.state))
                checkpoints.write(job.folder, job.training, report, sync=message.report.epoch >= job.until)
            return message
        worker.job = None
        if isinstance(message, Broke) and told.trace:
            return replace(message, place=str(_keep_trace(job.folder, told.trace, worker.node)))
        return message

    def _refuse_other_versions(self, greeting: Greeting) -> None:
        own = versions()
        other = [
            f"{name} {text} where the driver has {own[name]}"
            for name, text in greeting.versions.items()
            if own[name] != text
        ]
        if other:
            rule, remedy = "must run the driver's versions", "install the same there"
            raise EnvironmentFailed(Mistake(f"node {greeting.node}", rule, ", ".join(other), remedy))

    def _replace(self, worker: _Worker, outcome: Outcome, why: str) -> list[Message]:
        """Have done with a worker; the next look starts another. Its job deserves another attempt."""
        self._workers.remove(worker)
        _kill(worker)
        self._looked = -LOOK_SECONDS
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= MOST_FAILED_STARTS * max(1, len(self._workers) + 1):
                raise EnvironmentFailed(f"workers died while starting: {why}")
        if worker.job is None:
            return []
        return [Broke(worker.job.training, outcome, why, lost=True)]

    # -- jobs

    def _hand_out(self) -> None:
        """Give what waits to idle workers, each its last training first, because it may still hold that."""
        idle = [worker for worker in self._workers if worker.ready and worker.job is None]
        while idle and self._waiting:
            job = self._waiting.pop(0)
            worker = max(idle, key=lambda worker: worker.last == job.training)
            idle.remove(worker)
            self._tickets += 1
            worker.job, worker.last, worker.ticket = job, job.training, self._tickets
            worker.since = worker.heard = self._clock()
            worker.actor.work.remote(worker.ticket, job, self._token, self._state(worker, job))

    def _state(self, worker: _Worker, job: Job) -> bytes | None:
        """The checkpoint to go on from, for a worker that may not see it."""
        if job.start == 0 or worker.shared:
            return None
        with contextlib.suppress(FileNotFoundError):
            return checkpoints.path(job.folder, job.training, job.start).read_bytes()
        return None

    def _mark(self, folder: Path) -> None:
        """Leave a file by which a worker can tell that this folder is its own."""
        if self._token and folder not in self._marked:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / self._token).touch()
            self._marked.add(folder)

    # -- limits

    def _silence(self, job: Job) -> float:
        return job.limits.report_seconds or HANG_SECONDS

    def _pause(self, deadline: float | None) -> float:
        """How long nothing needs to be looked at."""
        moments = [self._looked + LOOK_SECONDS] if deadline is None else [deadline, self._looked + LOOK_SECONDS]
        for worker in self._workers:
            if worker.job is not None:
                moments.append(worker.heard + self._silence(worker.job))
                if worker.job.limits.trial_seconds is not None:
                    moments.append(worker.since + worker.job.limits.trial_seconds)
        return max(0.0, min(moments) - self._clock()) + 0.01

    def _overdue(self) -> list[Message]:
        """Kill what hangs, and what is over its time limit."""
        now = self._clock()
        messages: list[Message] = []
        for worker in list(self._workers):
            job = worker.job
            if job is None:
                continue
            if job.limits.trial_seconds is not None and now > worker.since + job.limits.trial_seconds:
                worker.job = None
                self._replace(worker, Outcome.TIMEOUT, "time limit")
                messages.append(timed_out(job))
            elif now > worker.heard + self._silence(job):
                why = f"no report for {self._silence(job):.3g} s"
                messages += self._replace(worker, Outcome.TIMEOUT, why)
        return messages


def _kill(worker: _Worker) -> None:
    with contextlib.suppress(Exception):  # it may be gone, and so may all of the cluster
        ray.kill(worker.actor, no_restart=True)


def _cause(error: Exception, worker: _Worker) -> str:
    """One line about a worker that is gone, the same for the same cause."""
    where = f"the worker on node {worker.node}" if worker.node else "a worker that was starting"
    text = " ".join(str(error).split())
    for sign, cause in CAUSES.items():
        if sign in text:
            return f"{where} ended: {cause}"
    return f"{where} ended: {type(error).__name__}: {text[:300]}"


CAUSES = {
    "ModuleNotFoundError: No module named 'hpo'": "hpo is not installed there",
    "node died": "the node died",
    "is unavailable": "the connection to it broke",
    "OOM": "the node was out of memory",
    "SIGKILL": "the process was killed",
    "connection error code 2": "the process ended",
}


def _keep_trace(folder: Path, text: str, node: str) -> Path:
    """As work.py keeps one that was written here: named by its content, so that a thousand equal ones are one file."""
    place = folder.parent / "errors" / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.txt"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(f"{text}\non node {node}\n")
    return place


def _write(content: bytes, path: Path) -> None:
    path.write_bytes(content)
