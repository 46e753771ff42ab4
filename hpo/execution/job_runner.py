"""What one worker does with a job, wherever it runs: pull reports, save, send."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from hpo.core import Broke, Job, Message, Outcome, Report, Reported, Rested, Train, epochs_of
from hpo.errors import EnvironmentFailed, HpoError
from hpo.models.failure import TrainingFailed
from hpo.training import checkpoints

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "CUDA_ERROR_OUT_OF_MEMORY")


@dataclass(slots=True)
class _Held:
    """A training that rests between two jobs, its state still in memory."""

    training: str
    epochs: int  # how far it can go
    reports: Iterator[Report]


class Bench:
    """Runs one job at a time and keeps the last training at hand, so that going on with it costs nothing."""

    def __init__(self, train: Train) -> None:
        self._train = train
        self._held: _Held | None = None

    def run(self, job: Job, stopped: Callable[[], bool] = lambda: False) -> Iterator[Message]:
        """Messages of one job, the last of them Rested or Broke. `stopped` is asked after every epoch."""
        held, self._held = self._held, None
        fits = held is not None and held.training == job.training and held.epochs >= job.until
        said = False
        try:
            reports = held.reports if held is not None and fits else self._train(job)
            for message in self._pull(job, reports, stopped):
                said = True
                yield message
        except EnvironmentFailed:  # the machine's fault: no trial is to pay for it
            raise
        except Exception as error:  # whatever a trainer raises is told, not raised: the study goes on
            yield broke(job, error) if said or fits or job.start == 0 else unreadable(job, error)

    def _pull(self, job: Job, reports: Iterator[Report], stopped: Callable[[], bool]) -> Iterator[Message]:
        spent = 0.0
        for report in reports:
            done = report.epoch >= job.until or stopped()
            if report.save is not None:
                checkpoints.write(job.folder, job.training, report, sync=done)
            yield Reported(job.training, replace(report, save=None))
            spent += report.seconds
            if done:
                self._held = _Held(job.training, epochs_of(job.params), reports)
                yield Rested(job.training)
                return
            if job.limits.trial_seconds is not None and spent > job.limits.trial_seconds:
                yield timed_out(job)
                return
        yield Rested(job.training, exhausted=True)


def timed_out(job: Job) -> Broke:
    return Broke(
        job.training, Outcome.TIMEOUT, f"longer than the time limit of {job.limits.trial_seconds:.3g} s left to it"
    )


def unreadable(job: Job, error: Exception) -> Broke:
    """It could not go on from its checkpoint, which may be torn, or gone: to train it again costs time only."""
    told = broke(job, error)
    if told.outcome is Outcome.CRASHED:
        checkpoints.forget(job.folder, job.training, job.start)
        return replace(told, lost=True)
    return told


def broke(job: Job, error: Exception) -> Broke:
    """What an exception of a trainer means."""
    if isinstance(error, TrainingFailed):
        return Broke(job.training, error.outcome, str(error))
    text = one_line(error)
    if isinstance(error, MemoryError) or any(sign.lower() in text.lower() for sign in OUT_OF_MEMORY):
        return Broke(job.training, Outcome.OOM, text)
    if isinstance(error, HpoError):
        return Broke(job.training, Outcome.CRASHED, text)
    return Broke(job.training, Outcome.CRASHED, text, place=_keep_traceback(job.folder, error))


def one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())[:400]
    return text if isinstance(error, HpoError) else f"{type(error).__name__}: {text}" if text else type(error).__name__


def _keep_traceback(folder: Path, error: Exception) -> str:
    """The whole traceback in a file named by its content, so that equal ones are one; "" if that fails."""
    text = "".join(traceback.format_exception(error))
    place = folder.parent / "errors" / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.txt"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    except OSError:
        return ""
    return str(place)
