"""Trainings, whoever asked for them: what is known of each, where its checkpoint is, and whether it failed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from hpo.core import Goal, Outcome, Report, State, Study, Training
from hpo.failpoints import hit
from hpo.training import checkpoints


@dataclass(frozen=True, slots=True)
class End:
    """Why a training goes no further."""

    state: State
    outcome: Outcome
    error: str


class Pool:
    """Shared by all searches of a driver; filled from the journals of earlier ones, so that nothing is trained twice.

    folder: the trainings' checkpoints. cap: bytes they may take.
    """

    def __init__(self, folder: Path, goal: Goal = Goal(), cap: int = 2 * 2**30) -> None:
        self.folder, self.goal, self.cap = folder, goal, cap
        self._trainings: dict[str, Training] = {}
        self._ends: dict[str, End] = {}
        self._journaled: dict[str, int] = {}  # epochs that are in a journal
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
                self.end(trial.training, trial.outcome, trial.error)

    def add(self, key: str, training: Training) -> None:
        """Take in what a journal says of a training."""
        self._journaled[key] = max(self._journaled.get(key, 0), len(training.reports))
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

    def is_new(self, key: str, epoch: int) -> bool:
        """Whether no journal has it: who records it first is charged for a new epoch, all others reuse it."""
        return epoch > self._journaled.get(key, 0)

    def recorded(self, key: str, epoch: int) -> None:
        """It is in a journal now: no checkpoint before it is needed any more, unless it is the best epoch's."""
        hit("forget")
        self._journaled[key] = epoch
        reports = self._trainings[key].reports[:epoch]
        best = min(reports, key=self.goal.cost).epoch if self.goal.at == "best" else epoch
        for earlier in checkpoints.epochs(self.folder, key):
            if earlier < epoch and earlier != best:
                checkpoints.forget(self.folder, key, earlier)

    def checkpoint(self, key: str) -> int:
        """The epoch from which this training can go on."""
        return checkpoints.newest(self.folder, key, len(self._trainings[key].reports))

    def attempt(self, key: str) -> int:
        self._attempts[key] = self._attempts.get(key, 0) + 1
        return self._attempts[key]

    def end(self, key: str, outcome: Outcome, error: str) -> None:
        """It goes no further: it failed, or (OK) its trainer wants no more epochs."""
        state = State.COMPLETE if outcome is Outcome.OK else State.FAILED
        self._ends[key] = End(state, outcome, error)

    def ended(self, key: str, epoch: int) -> End | None:
        """Why there is nothing after this epoch; None if there is, or may be."""
        return self._ends.get(key) if epoch >= len(self._trainings[key].reports) else None

    def prune(self, wanted: Iterable[str]) -> int:
        """Keep the disk within the cap, and free of what dead processes left; returns the bytes in use."""
        checkpoints.sweep(self.folder)
        return checkpoints.prune(self.folder, self.cap, set(wanted))
