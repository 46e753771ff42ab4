"""Trainers that need no torch, and a witness that is not the journal. Picklable: workers import them by name."""

import ctypes
import json
import math
import os
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpo.core import Job, Outcome, Report, Train, TrainingFailed
from hpo.space.domains import Choice, Condition, Parameter, Range
from hpo.space.space import Space
from hpo.training import checkpoints

SPACE = Space(
    (
        Parameter("learning_rate", Range(1e-4, 1.0, False, log=True)),
        Parameter("width", Choice((8, 16, 32))),
        Parameter("activation", Choice(("relu", "leaky_relu"))),
        Parameter("slope", Range(0.01, 0.3, False), (Condition("activation", ("leaky_relu",)),)),
        Parameter("epochs", Choice((2, 4, 8))),
    )
)
DISCRETE = Space(
    (
        Parameter("learning_rate", Choice((0.001, 0.01, 0.1))),
        Parameter("activation", Choice(("relu", "leaky_relu"))),
        Parameter("slope", Choice((0.1, 0.2)), (Condition("activation", ("leaky_relu",)),)),
        Parameter("epochs", Choice((2, 4))),
    )
)


def accuracy(job: Job, epoch: int) -> float:
    """A curve that rises with the epochs and knows a best learning rate; a function of job and epoch alone."""
    distance = abs(math.log10(float(job.params["learning_rate"])) + 2)
    return 1 - 0.1 * distance - 0.5 / (epoch + 1) + (job.seed % 1000) * 1e-6


@dataclass(frozen=True)
class Fake:
    """A trainer that counts. witness: a file that gets one line an epoch; pause: seconds an epoch takes.

    mischief: what to do at epoch `at`, once for each training (a marker file beside the witness notes it).
    """

    witness: Path | None = None
    pause: float = 0.0
    mischief: str = ""
    at: int = 2
    saves: bool = True
    weight: int = 0  # bytes that a state is heavier than it has to be

    def __call__(self) -> Train:
        return self.train

    def train(self, job: Job) -> Iterator[Report]:
        total = 0
        if job.start:
            state = json.loads(checkpoints.path(job.folder, job.training, job.start).read_text())
            assert state["epoch"] == job.start, (state, job)
            total = state["total"]
        for epoch in range(job.start + 1, int(job.params["epochs"]) + 1):
            self._misbehave(job, epoch)
            if self.pause:
                time.sleep(self.pause)
            total += epoch
            self._testify(job, epoch)
            yield self._report(job, epoch, total)

    def _report(self, job: Job, epoch: int, total: int) -> Report:
        def save(path: Path) -> None:
            path.write_text(json.dumps({"epoch": epoch, "total": total, "weight": "x" * self.weight}))

        metrics = {"val_accuracy": accuracy(job, epoch), "total": float(total)}
        return Report(epoch, metrics, max(self.pause, 0.001), time.time(), save if self.saves else None)

    def _testify(self, job: Job, epoch: int) -> None:
        if self.witness is not None:
            with self.witness.open("a") as file:
                file.write(json.dumps([job.training, epoch, os.getpid()]) + "\n")

    def _misbehave(self, job: Job, epoch: int) -> None:
        if epoch != self.at or not self.mischief:
            return
        if self.witness is not None:
            marker = self.witness.with_name(f"{job.training}.done")
            if marker.exists():
                return
            marker.touch()
        MISCHIEF[self.mischief]()


LEAKED: list[object] = []


def _raise(error: Exception) -> None:
    raise error


def _leak() -> None:
    hoard = [bytearray(50_000_000) for _ in range(400)]  # 20 GB unless a limit stops it
    raise AssertionError(len(hoard))


def _open_much() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
    while True:
        LEAKED.append(Path("/dev/null").open())  # noqa: SIM115 - this is the mischief


def _print_much() -> None:
    for _ in range(200):
        print("x" * 1_000_000)


MISCHIEF = {
    "kill": lambda: os.kill(os.getpid(), 9),
    "real-time": lambda: os.kill(os.getpid(), 40),
    "exit": lambda: os._exit(0),
    "segfault": lambda: ctypes.string_at(0),
    "stop": lambda: os.kill(os.getpid(), 19),
    "hang": lambda: time.sleep(3600),
    "nan": lambda: _raise(TrainingFailed(Outcome.NAN, "made to end with nan")),
    "diverged": lambda: _raise(TrainingFailed(Outcome.DIVERGED, "made to end with diverged")),
    "oom": lambda: _raise(MemoryError("made up")),
    "raise": lambda: _raise(ValueError("a bug of the user")),
    "leak": _leak,
    "print": _print_much,
    "files": _open_much,
}


def witnessed(witness: Path) -> list[tuple[str, int]]:
    """(training, epoch) in the order in which they were trained."""
    if not witness.exists():
        return []
    return [(key, epoch) for key, epoch, _ in map(json.loads, witness.read_text().splitlines())]
