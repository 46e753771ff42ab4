"""Streams of points, from which every strategy starts trials; and the strategies that do nothing else: random, grid, repeats.

A stream is a function of (space, feasible, start_with, seed) alone. The k-th trial of a study is the k-th point of its stream,
whatever ran in between: that is what makes a resumed study the same study.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from hpo.core import Feasible, Goal, Params, Proposal, Start, Study, Value, epochs_of
from hpo.space.expressions import Constraint
from hpo.space.grid import MOST_TRIED, ParameterGrid, permutation, solutions
from hpo.space.space import Space
from hpo.strategies.encoding import Images

MOST_MISSES = 1_000  # draws in a row that are known or infeasible before points that meet the constraints are listed
MOST_MISSES_ENDLESS = 50_000  # the same, where the space cannot be walked through, before no more are drawn
CONFIRM, RANDOM_X2 = "confirm", "random-x2"  # Repeats; random with twice the budget
WITH_ASHA = {"random": "random-asha", "grid": "grid-asha", "tpe": "tpe-asha"}  # beside a predictive bayesian
UNNAMED = CONFIRM, RANDOM_X2, *WITH_ASHA.values()  # strategies of studies that no study file can ask for

Point = tuple[tuple[str, Value], ...]


@dataclass(frozen=True)
class Problem:
    """What a strategy has to solve. feasible: why a point can never be trained, such as that it breaks one of `constraints`."""

    space: Space
    goal: Goal = Goal()  # noqa: RUF009  # frozen
    seed: int = 0
    feasible: Feasible = lambda params: None
    start_with: tuple[Params, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    whole: Callable[[Params], Params] = lambda params: params  # with the default of what is younger than a trial
    extended: Callable[[Params], Params] = lambda params: params  # at the longest that early stopping may give it
    images: Images | None = None  # what it learns from; None for a user's own model or trainer


def frozen(params: Params) -> Point:
    """Params as a value that can be in a set."""
    return tuple(sorted(params.items()))


def random_points(problem: Problem) -> Iterator[Params]:
    """Distinct feasible points of one seeded stream; a finite space is given out to the last point."""
    seen: set[Point] = set()
    for params in start_points(problem):
        if frozen(params) not in seen:
            seen.add(frozen(params))
            yield params
    yield from _drawn(problem, seen)
    if problem.space.enumerable:
        rest = grid_points(replace(problem, start_with=()), ParameterGrid(problem.space.parameters))
        yield from (params for params in rest if frozen(params) not in seen)


def _drawn(problem: Problem, seen: set[Point]) -> Iterator[Params]:
    """Draws, until too many in a row were known or infeasible."""
    rng = random.Random(f"{problem.seed}/random")
    most = MOST_MISSES if problem.space.enumerable else MOST_MISSES_ENDLESS
    misses = 0
    while misses < most:
        constraints = problem.constraints if misses >= MOST_MISSES else ()  # then what may meet them is listed
        params = problem.extended(problem.space.sample(rng, constraints))
        misses += 1
        if frozen(params) not in seen and problem.feasible(params) is None:
            seen.add(frozen(params))
            misses = 0
            yield params


def start_points(problem: Problem) -> Iterator[Params]:
    """The points the user wants first; what they leave open is drawn until it can be trained."""
    for index, partial in enumerate(problem.start_with):
        if problem.space.conflicts(partial):
            continue  # its values were dropped since
        rng = random.Random(f"{problem.seed}/start_with/{index}")
        constraints = [()] * MOST_MISSES + [problem.constraints] * MOST_MISSES
        candidates = (problem.space.sample(rng, some, partial) for some in constraints)
        yield from itertools.islice((params for params in candidates if problem.feasible(params) is None), 1)


def grid_points(problem: Problem, grid: ParameterGrid) -> Iterator[Params]:
    """start_with, then every feasible point of a grid in an order shuffled by the seed; only rare points are built."""
    yield from start_points(problem)
    most = min(MOST_TRIED, grid.size // 10)  # fewer than it takes to walk the grid
    rare = solutions(problem.space.parameters, problem.constraints, most=most, whole=True)
    size, point = (grid.size, grid.point) if rare is None else (len(rare), rare.__getitem__)
    for index in permutation(size, f"{problem.seed}/grid"):
        params = problem.space.with_derived(point(index))
        if problem.feasible(params) is None and problem.extended(params) == params:
            yield params


class Stream:
    """The points of a stream that are not in the study yet. What it keeps can be derived from the study again."""

    def __init__(self, problem: Problem, points: Iterator[Params]) -> None:
        self._problem, self._points = problem, points
        self._ahead: list[Params] = []  # drawn, not yet seen in the study
        self._tried: set[Point] = set()
        self._read = 0

    def tried(self, study: Study) -> set[Point]:
        """The points of the study's trials."""
        for trial in study.trials[self._read :]:
            self._tried.add(frozen(self._problem.whole(trial.params)))
        self._read = len(study.trials)
        return self._tried

    def propose(self, study: Study, slots: int) -> Proposal:
        """The next untried points."""
        tried = self.tried(study)
        self._ahead = [params for params in self._ahead if frozen(params) not in tried]
        while len(self._ahead) < slots and (params := next(self._points, None)) is not None:
            if frozen(params) not in tried:
                self._ahead.append(params)
        return [Start(params, epochs_of(params)) for params in self._ahead[:slots]]


class Random:
    """Trial k is the k-th distinct feasible point: any number of workers, any machine, after any crash."""

    def __init__(self, problem: Problem) -> None:
        self.propose = Stream(problem, random_points(problem)).propose


class Grid:
    """Every feasible combination once, shuffled, so that a small budget is spent all over it. Raises GridImpossible."""

    def __init__(self, problem: Problem) -> None:
        self.propose = Stream(problem, grid_points(problem, problem.space.grid())).propose


class Repeats:
    """Every point once with each fresh seed (repeat 1, 2, ...), the points in turn, for as long as the budget goes."""

    def __init__(self, problem: Problem) -> None:
        self._points = problem.start_with

    def propose(self, study: Study, slots: int) -> Proposal:
        tried = {(frozen(trial.params), trial.repeat) for trial in study.trials}
        untried = (
            Start(params, epochs_of(params), repeat)
            for repeat in itertools.count(1)
            for params in self._points
            if (frozen(params), repeat) not in tried
        )
        return list(itertools.islice(untried, slots))
