"""What one worker does with a job, wherever it runs, and when a job in a worker is overdue."""

import hashlib
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hpo.core import Job, JobEnded, JobFailed, Message, Outcome, Report, Reported, Train, TrainingFailed, epochs_of
from hpo.errors import EnvironmentFailed, HpoError
from hpo.formatting import without_password
from hpo.training import checkpoints

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "CUDA_ERROR_OUT_OF_MEMORY")
START_SECONDS = 600.0  # a worker that is not ready by then never will be
HANG_SECONDS = 1800.0  # silence that counts as a hang where the study file sets no limit


# -- in the worker


class JobRunner:
    """Runs one job at a time. It keeps the last training in memory, so that continuing it reads no checkpoint."""

    def __init__(self, train: Train) -> None:
        self._train = train
        self._paused: tuple[Job, int, Iterator[Report]] | None = None  # and the epoch it is at

    def run(self, job: Job, stopped: Callable[[], bool] = lambda: False) -> Iterator[Message]:
        """Yield the messages of a job, the last JobEnded or JobFailed; EnvironmentFailed is the fault of no trial."""
        paused, self._paused = self._paused, None
        if paused and not _continues(paused[0], paused[1], job):
            paused = None
        reported = False
        try:
            reports = paused[2] if paused else self._train(job)
            for message in self._advance(job, reports, stopped):
                if paused and not reported and message == JobEnded(job.training, exhausted=True):
                    paused = None  # a trainer that trains to job.until and no further is asked once more
                    yield from self._advance(job, self._train(job), stopped)
                    return
                reported = True
                yield message
        except EnvironmentFailed:
            raise
        except Exception as error:  # whatever a trainer raises becomes a message: the study goes on
            broke = failed(job, error)
            if job.start > 0 and not paused and not reported and broke.outcome is Outcome.CRASHED:
                # The checkpoint may be torn or gone: delete it, and let another attempt train from an earlier one.
                checkpoints.forget(job.folder, job.training, job.start)
                broke = replace(broke, lost=True)
            yield broke

    def _advance(self, job: Job, reports: Iterator[Report], stopped: Callable[[], bool]) -> Iterator[Message]:
        """Train epoch by epoch; a report is sent only after its checkpoint is written."""
        spent = 0.0
        for report in reports:
            done = report.epoch >= job.until or stopped()
            if report.save is not None:
                checkpoints.write(job.folder, job.training, report, durable=done)
            yield Reported(job.training, replace(report, save=None))
            spent += report.seconds if report.epoch > job.known else 0.0  # a lost checkpoint is not the trial's fault
            if done:
                self._paused = job, report.epoch, reports
                yield JobEnded(job.training)
                return
            if job.limits.trial_seconds is not None and spent > job.limits.trial_seconds:
                yield timed_out(job)
                return
        yield JobEnded(job.training, exhausted=True)


def _continues(paused: Job, epoch: int, job: Job) -> bool:
    """Whether a job goes on where a training in memory is; the best epoch of one may lie behind it."""
    longer = epochs_of(paused.params) >= job.until
    return paused.training == job.training and longer and job.start <= epoch < min(job.until, job.known + 1)


def failed(job: Job, error: Exception) -> JobFailed:
    if isinstance(error, TrainingFailed):
        return JobFailed(job.training, error.outcome, without_password(str(error)))
    text = one_line(error)
    if isinstance(error, MemoryError) or any(sign.lower() in text.lower() for sign in OUT_OF_MEMORY):
        return JobFailed(job.training, Outcome.OOM, text)
    if isinstance(error, HpoError):
        return JobFailed(job.training, Outcome.CRASHED, text)
    trace = without_password("".join(traceback.format_exception(error)))
    return JobFailed(job.training, Outcome.CRASHED, text, place=keep_traceback(job.folder, trace))


def timed_out(job: Job) -> JobFailed:
    limit = job.limits.trial_seconds
    return JobFailed(job.training, Outcome.TIMEOUT, f"longer than the time limit of {limit:.3g} s left to it")


def one_line(error: BaseException) -> str:
    text = without_password(" ".join(str(error).split()))[:400]
    return text if isinstance(error, HpoError) else f"{type(error).__name__}: {text}" if text else type(error).__name__


def keep_traceback(folder: Path, trace: str) -> str:
    """Write it to a file named by its content, so that equal ones share a file; returns the path, "" if that fails."""
    path = folder.parent / "errors" / f"{hashlib.sha256(trace.encode()).hexdigest()[:12]}.txt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(trace)
    except OSError:
        return ""
    return str(path)


# -- in the driver


class InlineExecutor:
    """Starts no process: for tests, debuggers and notebooks. `wait` trains one epoch of the one job there is."""

    slots = 1

    def __init__(self, train: Train | None = None) -> None:
        self._runner = None if train is None else JobRunner(train)
        self._messages: Iterator[Message] | None = None
        self._stopped = False

    def begin(self, factories: Sequence[Callable[[], Train]]) -> None:
        self._runner = JobRunner(factories[0]())

    def submit(self, job: Job) -> None:
        assert self._runner is not None and self._messages is None, "one slot, after begin"
        self._stopped = False
        self._messages = self._runner.run(job, lambda: self._stopped)

    def stop(self, training: str) -> None:
        self._stopped = True

    def wait(self, timeout: float | None) -> list[Message]:
        if self._messages is None:
            return []
        message = next(self._messages)
        if not isinstance(message, Reported):
            self._messages = None
        return [message]

    def close(self) -> None:
        self._messages = None


@dataclass(slots=True)
class RunningJob:
    """A job that a worker has. Times are seconds of the executor's clock.

    since: when its first new epoch was begun; ready: whether the worker has its trainer, or still imports torch; epoch: the last
    that was trained; while it is below those known, a lost state is made again, which is not charged to the trial.
    """

    job: Job
    since: float
    last_message: float
    ready: bool = True
    epoch: int = field(init=False)

    def __post_init__(self) -> None:
        self.epoch = self.job.start

    def take_in(self, now: float, message: Message) -> None:
        self.last_message = now
        if isinstance(message, Reported):
            self.epoch = message.report.epoch
            self.since = now if self.epoch <= self.job.known else self.since

    def deadline(self) -> float:
        """When `overdue` must be called again."""
        return min(end for end, _ in self._ends())

    def overdue(self, now: float) -> JobFailed | None:
        """Why the worker must be killed: the job is over its time limit, or the worker hangs and the job is lost."""
        return next((why for end, why in self._ends() if now > end), None)

    def _ends(self) -> list[tuple[float, JobFailed]]:
        limits = self.job.limits
        silence = limits.report_seconds or HANG_SECONDS if self.ready else START_SECONDS
        error = f"{'no report' if self.ready else 'not ready'} for {silence:.3g} s"
        ends = [(self.last_message + silence, JobFailed(self.job.training, Outcome.TIMEOUT, error, lost=True))]
        if self.ready and limits.trial_seconds is not None and self.epoch >= self.job.known:
            ends.insert(0, (self.since + limits.trial_seconds, timed_out(self.job)))
        return ends


def seconds_until(now: float, ends: Iterable[float | None], jobs: Iterable[RunningJob | None]) -> float | None:
    """How long until the first of these times, or until one of the jobs is overdue; None for never."""
    times = [end for end in ends if end is not None] + [job.deadline() for job in jobs if job is not None]
    return max(0.0, min(times) - now) + 0.01 if times else None
