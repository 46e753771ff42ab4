"""The trainings of all studies of one name: what is known of each, where its checkpoint is, and why it failed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hpo.core import Outcome, Report, State, Study, Training
from hpo.errors import HpoError
from hpo.failpoints import hit
from hpo.journal import Journal
from hpo.training import checkpoints


@dataclass(frozen=True, slots=True)
class End:
    """Why a training goes no further."""

    state: State
    outcome: Outcome
    error: str


@dataclass(slots=True)
class Shared:
    """One training. journaled: epochs that a journal has; attempts: since its last new epoch."""

    training: Training
    journaled: int = 0
    attempts: int = 0
    end: End | None = None


class Trainings:
    """Shared by all searches of a driver; filled from the journals of earlier ones, so that nothing is trained twice.

    folder: the checkpoints. cap: bytes they may take. others: the journals of studies of this name that other drivers
    have now; nothing that these may go on from or publish is deleted.
    """

    def __init__(self, folder: Path, cap: int = 2 * 2**30, others: Callable[[], Sequence[Path]] = lambda: ()) -> None:
        self.folder, self.cap, self._others = folder, cap, others
        self._shared: dict[str, Shared] = {}
        self.retried: set[str] = set()  # trainings whose failure, whatever it was, may be fixed
        self._superseded: dict[str, set[int]] = {}  # training -> the epochs to keep, where another driver was at work

    def __getitem__(self, key: str) -> Training:
        return self._shared[key].training

    def epochs(self, key: str) -> int:
        """How many are trained."""
        return len(self._shared[key].training.reports)

    def learn(self, study: Study) -> None:
        """Take in what another study, or an earlier driver of this one, has trained."""
        for training in study.trainings.values():
            self.add(training)
        for trial in study.with_state(State.FAILED):
            fixed = trial.training in self.retried or trial.outcome in (Outcome.CRASHED, Outcome.TIMEOUT)  # may be
            if not fixed and trial.epoch == self.epochs(trial.training) and trial.epoch < trial.epochs:
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

    def recorded(self, key: str, epoch: int, read: Iterable[int]) -> None:
        """It is in a journal now: no earlier checkpoint is needed any more but those after which a trial is read."""
        hit("forget")
        self._shared[key].journaled = epoch
        self._superseded[key] = {epoch, *read}
        if not self._others():
            self._forget(key)

    def _forget(self, key: str) -> None:
        keep = self._superseded.pop(key)
        for earlier in checkpoints.epochs(self.folder, key):
            if earlier < max(keep) and earlier not in keep:
                checkpoints.forget(self.folder, key, earlier)

    def checkpoint(self, key: str) -> int:
        """The epoch from which this training can continue."""
        return checkpoints.newest(self.folder, key, self.epochs(key))

    def attempt(self, key: str) -> int:
        """Count another attempt; returns how many there were since the last new epoch."""
        self._shared[key].attempts += 1
        return self._shared[key].attempts

    def end(self, key: str, outcome: Outcome, error: str) -> None:
        """It goes no further: it failed, or (OK) its trainer ended before its last epoch."""
        state = State.COMPLETE if outcome is Outcome.OK else State.FAILED
        self._shared[key].end = End(state, outcome, error)

    def ended(self, key: str, epoch: int) -> End | None:
        """Why there is nothing after this epoch; None if there is, or may be."""
        return self._shared[key].end if epoch >= self.epochs(key) else None

    def prune(self, needed: Iterable[str], resting: Sequence[str] = ()) -> int:
        """Keep the disk within the cap, and free of what dead processes left; returns the bytes in use.

        resting: trainings that may go on, the least likely first; they are deleted when nothing else is left.
        """
        checkpoints.sweep(self.folder)
        elsewhere = {key for journal in self._others() for key in in_use(journal)}
        for key in self._superseded.keys() - elsewhere:
            self._forget(key)
        return checkpoints.prune(self.folder, self.cap, {*needed, *elsewhere}, resting)


def in_use(journal: Path) -> set[str]:
    """The trainings of a study that another driver has: of its unfinished trials, and of all whose state it may publish."""
    try:
        with Journal.open(journal, read_only=True) as opened:
            return {trial.training for trial in opened.study().trials}
    except HpoError:
        return set()
