"""An executor that starts no process and takes no time: made-up or recorded curves on a simulated clock.

For tests and benchmarks: real drivers, strategies and journals, as many trials as wanted.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import replace

from hpo.core import Job, JobEnded, Message, Report, Reported, Train
from hpo.execution.job_runner import failed


class SimulatedExecutor:
    """Any number of workers that take no time: a report of `seconds` s arrives that much later on `clock()`.

    train: as for a real executor, but it makes up its reports; `Report.time` becomes the simulated time. Epochs the
    driver already has reports of take no time, as if they came from a checkpoint.
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
        """Advance to the next moment at which something is due, and return all of it."""
        if not self._due or (timeout is not None and self._due[0][0] > self._now + timeout):
            self._now += timeout or 0.0
            return []
        self._now = self._due[0][0]
        messages: list[Message] = []
        while self._due and self._due[0][0] <= self._now:
            _, _, job, message, reports = heapq.heappop(self._due)
            messages.append(message)
            if isinstance(message, Reported):
                if message.report.epoch >= job.until or job.training in self._stopped:
                    messages.append(JobEnded(job.training))
                else:
                    self._schedule(job, reports)
        return messages

    def close(self) -> None:
        self._due.clear()

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
    except Exception as error:  # becomes a message, as in a real worker
        return failed(job, error)
    return JobEnded(job.training, exhausted=True)
