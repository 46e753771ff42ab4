"""Grid search: every feasible combination once, lazily, in an order shuffled by the seed."""

from __future__ import annotations

from hpo.core import Decision, NoDecision, Study
from hpo.strategies.points import Problem, Stream, grid_points


class Grid:
    """Shuffled, so that a budget smaller than the grid is spent all over it. GridImpossible for ranges without step or count."""

    def __init__(self, problem: Problem) -> None:
        grid = problem.space.grid()
        self._stream = Stream(lambda: grid_points(problem, grid))

    def propose(self, study: Study, slots: int) -> list[Decision] | NoDecision:
        return self._stream.propose(study, slots)
