"""The trainings of all studies of one name: what is known of each, where its checkpoint is, and why it failed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hpo.core import BestSoFar, Goal, Outcome, Report, State, Study, Training
from hpo.engine.changes import Elsewhere, Live
from hpo.files import hit
from hpo.training import checkpoints


@dataclass(slots=True)
class Shared:
    """One training. journaled: epochs that a journal has; attempts: since its last new epoch; end: why it goes no further."""

    training: Training
    journaled: int = 0
    attempts: int = 0
    end: tuple[Outcome, str] | None = None


class Trainings:
    """Shared by all searches of a driver; filled from the journals of earlier ones, so that nothing is trained twice.

    folder: the checkpoints. goal: of all these studies. cap: bytes the checkpoints may take. others: the journals of
    studies of this name that other drivers have now; nothing that these may go on from or publish is deleted.
    """

    def __init__(self, folder: Path, goal: Goal = Goal(), cap: int = 2 * 2**30, others: Live = tuple) -> None:
        self.folder, self.goal, self.cap, self._elsewhere = folder, goal, cap, Elsewhere(goal, others)
        self._shared: dict[str, Shared] = {}
        self.retried: set[str] = set()  # trainings that are trained on, whatever they failed of before
        self._own: list[Study] = []
        self._superseded: set[str] = set()  # trainings with checkpoints to delete, where another driver was at work

    def __getitem__(self, key: str) -> Training:
        return self._shared[key].training

    def epochs(self, key: str) -> int:
        """How many are trained."""
        return len(self._shared[key].training.reports)

    def learn(self, study: Study, journal: Path | None = None) -> None:
        """Take in what another study (of that journal), or an earlier driver of this one, has trained."""
        if journal is None:
            self._own.append(study)
        else:
            self._elsewhere.known[journal] = BestSoFar(study, self.goal)
        for training in study.trainings.values():
            self.add(training)
        for trial in study.with_state(State.FAILED):
            limited = trial.outcome in (Outcome.CRASHED, Outcome.TIMEOUT, Outcome.OOM)  # other limits may let it go on
            again = limited or trial.training in self.retried
            if not again and trial.epoch == self.epochs(trial.training) and trial.epoch < trial.epochs:
                self.end(trial.training, trial.outcome, trial.error)

    def add(self, training: Training) -> None:
        """Take in what a journal says of a training."""
        shared = self._shared.setdefault(training.key, Shared(training))
        shared.journaled = max(shared.journaled, len(training.reports))
        if len(shared.training.reports) < len(training.reports):
            shared.training = training

    def add_report(self, key: str, report: Report) -> bool:
        """Take in one epoch; False for one that is known, as after a checkpoint was lost."""
        shared = self._shared[key]
        if report.epoch <= len(shared.training.reports):
            return False
        shared.training = replace(shared.training, reports=(*shared.training.reports, report))
        shared.attempts = 0
        return True

    def is_new(self, key: str, epoch: int) -> bool:
        """Whether no journal has it: the study that records it first is charged a new epoch, all others reuse it."""
        return epoch > self._shared[key].journaled

    def recorded(self, key: str, epoch: int) -> None:
        """It is in a journal now: no earlier checkpoint is needed any more but those after which a trial is read."""
        hit("forget")
        self._shared[key].journaled = epoch
        self._superseded.add(key)
        if not self._elsewhere.changing():
            self._forget(key)

    def _forget(self, key: str) -> None:
        self._superseded.discard(key)
        read, last = self._read(key), self._shared[key].journaled
        for earlier in checkpoints.epochs(self.folder, key):
            if earlier < last and earlier not in read:
                checkpoints.forget(self.folder, key, earlier)

    def _read(self, key: str) -> set[int]:
        """The epochs of a training after which trials of any study are read, or would be if they ended now."""
        studies = [*self._own, *(one.study for one in self._elsewhere.known.values())]
        trials = [trial for study in studies for trial in study.readers(key)]
        readings = map(self.goal.reading, [*trials, *(replace(trial, state=State.COMPLETE) for trial in trials)])
        return {reading.epoch for reading in readings if reading is not None}

    def checkpoint(self, key: str) -> int:
        """The epoch from which this training can continue."""
        return checkpoints.newest(self.folder, key, self.epochs(key))

    def attempt(self, key: str) -> int:
        """Count another attempt; returns how many there were since the last new epoch."""
        self._shared[key].attempts += 1
        return self._shared[key].attempts

    def end(self, key: str, outcome: Outcome, error: str) -> None:
        """It goes no further: it failed, or (OK) its trainer ended before its last epoch."""
        self._shared[key].end = outcome, error

    def ended(self, key: str, epoch: int) -> tuple[Outcome, str] | None:
        """Why there is nothing after this epoch; None if there is, or may be."""
        return self._shared[key].end if epoch >= self.epochs(key) else None

    def prune(self, needed: Iterable[str], resting: Sequence[str] = ()) -> None:
        """Keep the disk within the cap. resting: deleted last, the least likely first."""
        in_use = self._elsewhere.update()
        for key in self._superseded - in_use:
            self._forget(key)
        best = {one.trial.training for one in self._elsewhere.known.values() if one.trial is not None}
        checkpoints.prune(self.folder, self.cap, {*needed, *in_use, *best}, resting)
