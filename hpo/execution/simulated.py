"""Recorded or made-up curves on a virtual clock: the driver cannot tell it from the real thing."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import replace

from hpo.core import Job, Message, Report, Reported, Rested, Train
from hpo.execution.job_runner import broke


class SimulatedExecutor:
    """Any number of workers that take no time: a report of `seconds` s arrives that much later on `clock()`.

    train: as for a real executor, but its reports are made, not trained; `Report.time` is set to the virtual time, and
    what the driver already knows of a training passes in no time, as from a checkpoint.
    """

    def __init__(self, train: Train, slots: int, start: float = 0.0) -> None:
        self.slots = slots
        self._train = train
        self._now = start
        self._due: list[tuple[float, int, Job, Message, Iterator[Report]]] = []
        self._count = 0  # breaks ties in the order of submission
        self._stopped: set[str] = set()

    def clock(self) -> float:
        return self._now

    def submit(self, job: Job) -> None:
        self._stopped.discard(job.training)
        self._schedule(job, self._train(replace(job, start=0)))

    def stop(self, training: str) -> None:
        self._stopped.add(training)

    def wait(self, timeout: float | None) -> list[Message]:
        """All that is due at the next moment at which anything is."""
        if not self._due or (timeout is not None and self._due[0][0] > self._now + timeout):
            self._now += timeout or 0.0
            return []
        self._now = self._due[0][0]
        messages: list[Message] = []
        while self._due and self._due[0][0] <= self._now:
            _, _, job, message, reports = heapq.heappop(self._due)
            messages += self._deliver(job, message, reports)
        return messages

    def close(self) -> None:
        self._due.clear()

    def _deliver(self, job: Job, message: Message, reports: Iterator[Report]) -> list[Message]:
        if not isinstance(message, Reported):
            return [message]
        if message.report.epoch >= job.until or job.training in self._stopped:
            return [message, Rested(job.training)]
        self._schedule(job, reports)
        return [message]

    def _schedule(self, job: Job, reports: Iterator[Report]) -> None:
        """Put the training's next message where it is due."""
        message = _next_message(job, reports)
        seconds = 0.0
        if isinstance(message, Reported):
            seconds = message.report.seconds
            message = Reported(job.training, replace(message.report, time=self._now + seconds, save=None))
        self._count += 1
        heapq.heappush(self._due, (self._now + seconds, self._count, job, message, reports))


def _next_message(job: Job, reports: Iterator[Report]) -> Message:
    try:
        for report in reports:
            if report.epoch > job.known:
                return Reported(job.training, report)
    except Exception as error:  # as a real worker: told, not raised
        return broke(job, error)
    return Rested(job.training, exhausted=True)
