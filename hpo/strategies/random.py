"""Random search: trial k is the k-th distinct feasible point of one seeded stream."""

from __future__ import annotations

from hpo.core import Decision, NoDecision, Study
from hpo.strategies.points import Problem, Stream, random_points

RANDOM_X2 = "random-x2"  # random with twice the budget of a comparison; a strategy that no study file can ask for


class Random:
    """Any number of workers, any machine, after any crash: the same trials."""

    def __init__(self, problem: Problem) -> None:
        self._stream = Stream(lambda: random_points(problem))

    def propose(self, study: Study, slots: int) -> list[Decision] | NoDecision:
        return self._stream.propose(study, slots)
