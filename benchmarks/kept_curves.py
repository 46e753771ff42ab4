"""Learning curves by training identity: trained epoch by epoch when they are needed, kept in a folder, never twice.

No benchmark itself. Methods, seeds and later runs share what is in the folder, each charged as if it had trained alone.
"""

from __future__ import annotations

import json
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

from hpo.core import Job, Outcome, Report, Train, TrainingFailed, epochs_of

MOST_OPEN = 400  # trainings that can go on where they are; one beyond that begins again, which costs time only
METRICS = ("val_accuracy", "val_loss")


class KeptCurves:
    """A Train over what is known. Each process writes a file of its own and reads those of all.

    recipe: makes the real trainer, once, when the first epoch is missing.
    """

    def __init__(self, recipe: Callable[[], Train], folder: Path) -> None:
        self._recipe, self._folder = recipe, folder
        self._trainer: Train | None = None
        self._known: dict[str, list[Report]] = {}
        self._failed: dict[str, TrainingFailed] = {}
        self._open: OrderedDict[str, Iterator[Report]] = OrderedDict()
        self._read: dict[Path, int] = {}
        self.trained = 0  # epochs, by this process
        folder.mkdir(parents=True, exist_ok=True)
        self.refresh()

    def train(self, job: Job) -> Iterator[Report]:
        for epoch in range(job.start + 1, epochs_of(job.params) + 1):
            yield self._report(job, epoch)

    def refresh(self) -> None:
        """Take in what other processes have kept since."""
        for path in sorted(self._folder.glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                for line in file:
                    if not line.endswith(b"\n"):  # torn: its writer was killed, or is still writing
                        break
                    self._read[path] = self._read.get(path, 0) + len(line)
                    self._take(*json.loads(line))

    def _take(self, key: str, epoch: int, seconds: float, metrics: dict[str, float], failure: list[str]) -> None:
        known = self._known.setdefault(key, [])
        if failure:
            self._failed[key] = TrainingFailed(Outcome(failure[0]), failure[1])
        elif epoch == len(known) + 1:
            known.append(Report(epoch, metrics, seconds, 0.0))

    def _report(self, job: Job, epoch: int) -> Report:
        known = self._known.setdefault(job.training, [])
        while len(known) < epoch:
            if job.training in self._failed:
                failed = self._failed[job.training]
                raise TrainingFailed(failed.outcome, str(failed))
            self._go_on(job, known)
        return known[epoch - 1]

    def _go_on(self, job: Job, known: list[Report]) -> None:
        """Train the next epoch, after those that are known."""
        reports = self._open.pop(job.training, None) or self._begun(job, len(known))
        try:
            report = next(reports)
        except TrainingFailed as failed:
            self._keep(job.training, len(known) + 1, 0.0, {}, [failed.outcome.value, str(failed)])
            return
        self.trained += 1
        metrics = {name: report.metrics[name] for name in METRICS if name in report.metrics}
        self._keep(job.training, report.epoch, report.seconds, metrics, [])
        self._open[job.training] = reports
        if len(self._open) > MOST_OPEN:
            self._open.popitem(last=False)

    def _begun(self, job: Job, known: int) -> Iterator[Report]:
        if self._trainer is None:
            self._trainer = self._recipe()
        reports = self._trainer(Job(job.training, job.params, job.seed, 0, job.until, 0, job.folder))
        for _ in range(known):  # known from another process: its state is not
            next(reports)
            self.trained += 1
        return reports

    def _keep(self, key: str, epoch: int, seconds: float, metrics: dict[str, float], failure: list[str]) -> None:
        path = self._folder / f"{os.getpid()}-{int(STARTED)}.jsonl"
        line = json.dumps([key, epoch, round(seconds, 5), metrics, failure]) + "\n"
        with path.open("ab") as file:
            file.write(line.encode())
        self._read[path] = self._read.get(path, 0) + len(line.encode())
        self._take(key, epoch, seconds, metrics, failure)


STARTED = time.time()  # with the process id, a name no other process has
