"""Proposes exactly the points a person asked for, outside of any search: for `extend`."""

from __future__ import annotations

from collections.abc import Sequence

from hpo.core import DONE, WAIT, Continue, Decision, Params, Rest, Start, State, Study, Trial, epochs_of
from hpo.strategies.points import point

Asked = tuple[Params, int]  # params, repeat


class Given:
    """Each point once. A trial that is there already counts, unless it was pruned; a resting one goes on to its end."""

    def __init__(self, asked: Sequence[Asked]) -> None:
        self._asked = asked

    def propose(self, study: Study, slots: int) -> list[Decision] | Rest:
        decisions: list[Decision] = []
        running = False
        for params, repeat in self._asked:
            trial = standing(study, params, repeat)
            if trial is None:
                decisions.append(Start(params, epochs_of(params), repeat))
            elif trial.state is State.PAUSED:
                decisions.append(Continue(trial.number, trial.epochs))
            running = running or (trial is not None and trial.state is State.RUNNING)
        return decisions[:slots] or (WAIT if running else DONE)


def standing(study: Study, params: Params, repeat: int) -> Trial | None:
    """The trial of this point that was not pruned."""
    wanted = point(params)
    return next(
        (t for t in study.trials if t.repeat == repeat and t.state is not State.PRUNED and point(t.params) == wanted),
        None,
    )
