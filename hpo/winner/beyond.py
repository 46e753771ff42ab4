"""What a person asked for beside a study's own target, as by `extend`: it counts for nothing of the study's budget.

The journal's meta remembers it: which points, from which trial on, in which sessions of a driver. What it cost is read
from the events, so that a kill loses none of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from hpo.core import Params, State, Study, Trial
from hpo.journal import Journal
from hpo.strategies.given import Asked
from hpo.strategies.points import point
from hpo.study_file.spec import Budget

META = "beyond"


@dataclass(frozen=True, slots=True)
class Wish:
    """One point asked for. first: trials that were there before; session: the number of the driver's session."""

    params: Params
    repeat: int
    first: int
    session: int

    def is_met_by(self, trial: Trial) -> bool:
        return trial.number >= self.first and trial.repeat == self.repeat and point(trial.params) == point(self.params)


def wishes(journal: Journal) -> list[Wish]:
    return [Wish(**told) for told in json.loads(journal.get(META) or "[]")]


def note(journal: Journal, study: Study, asked: Sequence[Asked]) -> None:
    """Remember what the session that is about to open trains beside the target."""
    session = len(study.environments)
    made = [Wish(dict(params), repeat, len(study), session) for params, repeat in asked]
    journal.put(META, json.dumps([asdict(wish) for wish in [*wishes(journal), *made]]))


def enlarged(budget: Budget, journal: Journal, study: Study) -> Budget:
    """The budget with room for what it does not pay for."""
    made = wishes(journal)
    if not made:
        return budget
    extra = aside(journal, study)
    epochs = _epochs(study, extra)
    return replace(
        budget,
        trials=_plus(budget.trials, len(extra)),
        total_epochs=_plus(budget.total_epochs, epochs),
        patience=_plus(budget.patience, epochs),
        time=None if budget.time is None else budget.time + _seconds(journal, {wish.session for wish in made}),
    )


def aside(journal: Journal, study: Study) -> set[int]:
    """The trials that were asked for."""
    made = wishes(journal)
    return {trial.number for trial in study.trials if any(wish.is_met_by(trial) for wish in made)}


def _plus(limit: int | None, extra: int) -> int | None:
    return None if limit is None else limit + extra


def _epochs(study: Study, extra: set[int]) -> int:
    """Epochs of trainings that no trial of the study's own reads, nor will."""
    spent = 0
    for key in {study.trials[number].training for number in extra}:
        own = [_reach(trial) for trial in study.readers(key) if trial.number not in extra]
        spent += max(0, len(study.trainings[key].reports) - max(own, default=0))
    return spent


def _reach(trial: Trial) -> int:
    return trial.until if trial.state in (State.RUNNING, State.PAUSED) else trial.epoch


def _seconds(journal: Journal, sessions: set[int]) -> float:
    """Active seconds of these sessions."""
    study, spent = Study(), 0.0
    for _, event in journal.events():
        before = study.active_seconds
        study.apply(event)
        if len(study.environments) - 1 in sessions:
            spent += study.active_seconds - before
    return spent
