"""Trainings, whoever asked for them: what is known of each, where its checkpoint is, and whether it failed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from hpo.core import Goal, Outcome, Report, State, Study, Training
from hpo.execution import checkpoints
from hpo.failpoints import hit


@dataclass(frozen=True, slots=True)
class Failure:
    outcome: Outcome
    error: str


class Pool:
    """Shared by all searches of a driver; filled from the journals of earlier ones, so that nothing is trained twice.

    folder: the trainings' checkpoints. cap: bytes they may take.
    """

    def __init__(self, folder: Path, goal: Goal = Goal(), cap: int = 2 * 2**30) -> None:
        self.folder, self.goal, self.cap = folder, goal, cap
        self._trainings: dict[str, Training] = {}
        self._failures: dict[str, Failure] = {}
        self._attempts: dict[str, int] = {}  # since the last new epoch

    def __getitem__(self, key: str) -> Training:
        return self._trainings[key]

    def learn(self, study: Study) -> None:
        """Take in what another study, or an earlier driver of this one, has trained."""
        for key, training in study.trainings.items():
            self.add(key, training)
        for trial in study.with_state(State.FAILED):
            told = trial.outcome not in (Outcome.CRASHED, Outcome.TIMEOUT)  # these may have been mended since
            if told and trial.epoch == len(self._trainings[trial.training].reports):
                self._failures[trial.training] = Failure(trial.outcome, trial.error)

    def add(self, key: str, training: Training) -> None:
        known = self._trainings.get(key)
        if known is None or len(known.reports) < len(training.reports):
            self._trainings[key] = training

    def extend(self, key: str, report: Report) -> bool:
        """Take in one epoch; False for one that is known, as after a checkpoint was lost."""
        training = self._trainings[key]
        if report.epoch <= len(training.reports):
            return False
        self._trainings[key] = replace(training, reports=(*training.reports, report))
        self._attempts.pop(key, None)
        return True

    def recorded(self, key: str, report: Report) -> None:
        """The report is in a journal: no checkpoint before it is needed any more, unless it is the best epoch's."""
        hit("forget")
        best = min(self._trainings[key].reports, key=self.goal.cost).epoch if self.goal.at == "best" else report.epoch
        for epoch in checkpoints.epochs(self.folder, key):
            if epoch < report.epoch and epoch != best:
                checkpoints.forget(self.folder, key, epoch)

    def checkpoint(self, key: str) -> int:
        """The epoch from which this training can go on."""
        return checkpoints.newest(self.folder, key, len(self._trainings[key].reports))

    def attempt(self, key: str) -> int:
        self._attempts[key] = self._attempts.get(key, 0) + 1
        return self._attempts[key]

    def fail(self, key: str, outcome: Outcome, error: str) -> None:
        self._failures[key] = Failure(outcome, error)

    def failure(self, key: str) -> Failure | None:
        return self._failures.get(key)

    def prune(self, wanted: Iterable[str]) -> int:
        """Keep the disk within the cap, and free of what dead processes left; returns the bytes in use."""
        checkpoints.sweep(self.folder)
        return checkpoints.prune(self.folder, self.cap, set(wanted))
