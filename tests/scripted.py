"""An executor that does what a test wrote down, on a clock of its own: one epoch of one job a call, a second each."""

from collections.abc import Callable
from dataclasses import dataclass, field

import fakes

from hpo.core import Job, JobEnded, JobFailed, Message, Outcome, Report, Reported
from hpo.training import checkpoints

LOST, CRASH, NAN, END = "lost", "crash", "nan", "end"
# training, epoch, times this epoch was tried before -> what goes wrong, "" nothing
Script = Callable[[str, int, int], str]


@dataclass
class Scripted:
    """trained: the witness, (training, epoch) in order. saves: whether a state is left after each epoch."""

    slots: int = 1
    script: Script = lambda key, epoch, before: ""
    saves: bool = True
    now: float = 0.0
    jump: float = 0.0  # of the workers' clock before the driver's
    trained: list[tuple[str, int]] = field(default_factory=list)
    submitted: list[Job] = field(default_factory=list)
    jobs: dict[str, Job] = field(default_factory=dict)
    at: dict[str, int] = field(default_factory=dict)
    tried: dict[tuple[str, int], int] = field(default_factory=dict)
    stopped: set[str] = field(default_factory=set)
    on_wait: Callable[[], None] = lambda: None
    metrics: Callable[[Job, int], dict[str, float]] = lambda job, epoch: {"val_accuracy": fakes.accuracy(job, epoch)}

    def clock(self) -> float:
        return self.now

    def submit(self, job: Job) -> None:
        assert len(self.jobs) < self.slots, "more jobs than slots"
        assert job.training not in self.jobs, "one job a training"
        assert job.start <= job.known < job.until, job
        assert job.start == 0 or checkpoints.path(job.folder, job.training, job.start).exists(), job
        self.jobs[job.training] = job
        self.at[job.training] = job.start
        self.submitted.append(job)
        self.stopped.discard(job.training)

    def stop(self, training: str) -> None:
        assert training in self.jobs, "only what runs can be stopped"
        self.stopped.add(training)

    def wait(self, timeout: float | None) -> list[Message]:
        self.on_wait()
        if not self.jobs:
            self.now += timeout or 0.0
            return []
        key = next(iter(self.jobs))
        job = self.jobs.pop(key)
        epoch = self.at[key] + 1
        wrong = self.script(key, epoch, self.tried.get((key, epoch), 0))
        self.tried[key, epoch] = self.tried.get((key, epoch), 0) + 1
        if wrong:
            return [self._end(key, wrong)]
        return self._epoch(job, key, epoch)

    def close(self) -> None:
        self.jobs.clear()

    def _end(self, key: str, wrong: str) -> Message:
        if wrong == END:
            return JobEnded(key, exhausted=True)
        if wrong == NAN:
            return JobFailed(key, Outcome.NAN, "made to end")
        return JobFailed(key, Outcome.CRASHED, "boom", lost=wrong == LOST)

    def _epoch(self, job: Job, key: str, epoch: int) -> list[Message]:
        self.now += 1.0
        self.at[key] = epoch
        self.trained.append((key, epoch))
        report = Report(epoch, self.metrics(job, epoch), 1.0, self.now + self.jump)
        if self.saves:
            place = checkpoints.path(job.folder, key, epoch)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(b"1")
        messages: list[Message] = [Reported(key, report)]
        if epoch >= job.until or key in self.stopped:
            return [*messages, JobEnded(key)]
        self.jobs[key] = job
        return messages
