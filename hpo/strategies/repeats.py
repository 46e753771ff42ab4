"""Trains given points again with fresh training seeds: for `confirm`, and for the winners of a comparison."""

from __future__ import annotations

import itertools

from hpo.core import Decision, NoDecision, Start, Study, epochs_of
from hpo.strategies.points import Problem, point

CONFIRM = "confirm"  # the strategy of a study that no study file can ask for


class Repeats:
    """Every point once with each fresh seed (repeat 1, 2, ...), the points in turn, for as long as the budget goes."""

    def __init__(self, problem: Problem) -> None:
        self._points = problem.start_with

    def propose(self, study: Study, slots: int) -> list[Decision] | NoDecision:
        tried = {(point(trial.params), trial.repeat) for trial in study.trials}
        untried = (
            Start(params, epochs_of(params), repeat)
            for repeat in itertools.count(1)
            for params in self._points
            if (point(params), repeat) not in tried
        )
        return list(itertools.islice(untried, slots))
