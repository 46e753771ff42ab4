"""Bayesian search: the point with the largest expected improvement, predicted from readings of any epoch and the learned prior.

Candidates are what the prior thinks most of, the first points of random search, and neighbours of the best trials. One
new point in five is the next of random search, whatever the prior says, so that a prior that misleads is found out; and one
is what the prior thought most of before the study began, whatever was read, so that misleading readings are.
"""

import random
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice

import numpy as np

from hpo.core import Params, Proposal, Start, Study, Value, epochs_of
from hpo.strategies.points import Problem, Stream, frozen, random_points, start_points
from hpo.strategies.surrogate import Surrogate

DRAWN, FAVOURITES, NEIGHBOURS = 400, 100, 40  # candidates: random, by the prior, beside the best trials
GENERATIONS = 3  # in which neighbours of the prior's favourites are looked for
PARENTS = 4  # trials whose neighbours are candidates
OPEN = 5  # one new point in so many is random search's, and one the prior's


class Bayesian:
    """With one worker, any interruption gives the same trials: candidates are drawn by (study seed, number of trials)."""

    def __init__(self, problem: Problem, surrogate: Surrogate) -> None:
        self._problem, self._surrogate = problem, surrogate
        self._first = {frozen(params) for params in start_points(problem)}
        self._stream = Stream(problem, random_points(problem))

    def propose(self, study: Study, slots: int) -> Proposal:
        tried = self._stream.tried(study)
        informed = tried >= self._first and len(study) % OPEN != OPEN - 1
        candidates = [params for params in self._candidates(study) if frozen(params) not in tried] if informed else []
        if not candidates:
            return self._stream.propose(study, 1)
        if len(study) % OPEN == OPEN - 2 and len(study) > OPEN:
            worth = self._surrogate.expected(candidates)
        else:
            worth = self._surrogate.worth(study, [(params, 0) for params in candidates])
        params = candidates[int(np.argmax(worth))]
        return [Start(params, epochs_of(params))]

    def _candidates(self, study: Study) -> list[Params]:
        goal = self._problem.goal
        trials = [trial for trial in study.trials if trial.epoch]
        best = sorted(trials, key=lambda trial: (goal.cost(trial.reports[-1]), trial.number))[:PARENTS]
        near = self._near([self._problem.whole(trial.params) for trial in best], f"near/{len(study)}")
        return distinct([*self._favourites, *islice(near, NEIGHBOURS)])

    @cached_property
    def _favourites(self) -> list[Params]:
        """Random search's first points, and what the prior thinks most of: neighbours of neighbours of the best of these."""
        drawn = list(islice(random_points(self._problem), DRAWN))
        found = drawn
        for generation in range(GENERATIONS):
            order = np.argsort(-self._surrogate.expected(found), kind="stable")
            best = [found[index] for index in order[:FAVOURITES]]
            found = distinct([*best, *islice(self._near(best, f"favourite/{generation}"), FAVOURITES)])
        return distinct([*found, *drawn])

    def _near(self, parents: Sequence[Params], stream: str) -> Iterator[Params]:
        """Feasible points that differ from one of these in one parameter or two, and in what depends on them."""
        problem, rng = self._problem, random.Random(f"{self._problem.seed}/{stream}")
        names = [p.name for p in problem.space.parameters if p.domain.levels != 1]
        for _ in range(4 * FAVOURITES if parents and names else 0):
            parent = parents[int(rng.random() * len(parents))]
            changed = {names[int(rng.random() * len(names))] for _ in range(1 + (rng.random() < 0.5))}
            child: dict[str, Value] = {}
            for parameter in problem.space.parameters:
                drawn = parameter.domain.at(rng.random())
                if parameter.active(child):
                    kept = None if parameter.name in changed else parent.get(parameter.name)
                    inside = None if kept is None else parameter.domain.coerce(kept)
                    child[parameter.name] = drawn if inside is None else inside
            point = problem.extended(problem.space.with_derived(child))
            if problem.feasible(point) is None:
                yield point


def distinct(points: Sequence[Params]) -> list[Params]:
    return list({frozen(params): params for params in points}.values())
