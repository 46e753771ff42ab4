"""Finished studies of several strategies and seeds made into verdicts: which is better, by how much, how sure is that.

Glossary
    budget      epochs trained, the same for all: trials of different length are no equal budget
    value       best so far at the budget, in the metric's own unit
    average     mean best so far between the first epoch at which all have a value and the budget (the normalised area)
    difference  a - b at the same seed, turned so that positive means that a is better
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hpo.comparison.curves import Curve, average, epochs_to, on_grid
from hpo.comparison.statistics import (
    Advice,
    Difference,
    Floats,
    Probability,
    Verdict,
    advise,
    band,
    holm,
    median_of_censored,
    paired,
    verdict,
    wins,
)
from hpo.core import Goal
from hpo.errors import BadInput, Mistake
from hpo.formatting import count

RANKING = ("bayesian", "random", "grid")  # the notes: "ordered by usefulness"
TWICE = "random x2"  # random with twice the budget, always shown beside the others


@dataclass(frozen=True, slots=True)
class Said:
    """What a verdict is said for, and nothing beyond it."""

    data: str = "these data"
    split_seed: int = 0
    training_seed: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """One strategy at the budget. values: one a seed; to_target is infinite where most seeds never reached it."""

    strategy: str
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    median: float
    low: float
    high: float
    average: float
    to_target: float
    reached: int
    seconds: float
    trials: float
    test: float | None
    fresh: float | None

    def at(self, seed: int) -> float:
        return self.values[self.seeds.index(seed)]


@dataclass(frozen=True, slots=True)
class Pair:
    """a against b over the seeds both have run; corrected is Holm's p over the comparison's pairs."""

    a: str
    b: str
    difference: Difference
    corrected: float
    probability: Probability
    verdict: Verdict
    advice: Advice | None

    @property
    def winner(self) -> str | None:
        return {Verdict.BETTER: self.a, Verdict.WORSE: self.b}.get(self.verdict)


@dataclass(frozen=True, slots=True)
class Bands:
    """Best so far over seeds on a grid of epochs; nan before every seed has a value."""

    epochs: Floats
    low: Floats
    median: Floats
    high: Floats


@dataclass(frozen=True, slots=True)
class Comparison:
    goal: Goal
    budget: int
    margin: float
    target: float
    standings: tuple[Standing, ...]
    pairs: tuple[Pair, ...]
    twice: Standing | None
    against_twice: tuple[Pair, ...]
    bands: dict[str, Bands]
    said: Said
    notes: tuple[str, ...] = field(default=())

    def pair(self, a: str, b: str) -> Pair:
        return next(pair for pair in self.pairs if {pair.a, pair.b} == {a, b})


def compare(
    curves: Sequence[Curve],
    goal: Goal,
    *,
    margin: float = 0.0,
    budget: int | None = None,
    doubled: Sequence[Curve] = (),
    said: Said = Said(),
    startup: int = 0,
) -> Comparison:
    """Compare at `budget` epochs; without one, at what the shortest study spent.

    doubled: studies of random with twice the budget, shown beside the others where they spent all of it.
    startup: trials in which bayesian search is random search, so that fewer say nothing of the two.
    """
    common = budget if budget is not None else min((c.epochs for c in curves if c.epochs), default=0)
    used, notes = _usable(curves, common)
    names = sorted({c.strategy for c in used}, key=lambda name: (_rank(name), [c.strategy for c in used].index(name)))
    groups = {name: sorted((c for c in used if c.strategy == name), key=lambda c: c.seed) for name in names}
    target, start = _target(goal, groups, common), max(c.first for c in used)
    longer = [c for c in doubled if c.epochs >= 2 * common]
    reference = _standing(TWICE, longer, goal, 2 * common, target, start) if longer else None
    if reference is None and "random" in groups:
        notes.append("random with twice the budget is missing: no study of random went on that far.")
    if any(len(group) > 1 for group in groups.values()):
        notes.extend(f"{name}: one seed says nothing about chance." for name in names if len(groups[name]) == 1)
    standings = tuple(_standing(name, groups[name], goal, common, target, start) for name in names)
    couples = list(itertools.combinations(standings, 2))
    same = _same(groups, common, startup)
    if same:
        couples = [both for both in couples if {one.strategy for one in both} != {"bayesian", "random"}]
        notes.append(
            f"bayesian and random: nothing to compare, because the first {startup} trials of bayesian are random's own "
            "and at most seeds it came no further; raise the budget."
        )
    for a, b in couples:
        if not set(a.seeds) & set(b.seeds):
            notes.append(f"{a.strategy} and {b.strategy}: there is no seed at which both have a complete trial.")
    unlike = ("random", "bayesian") if same else ("random",)
    rivals = [(s, reference) for s in standings if s.strategy not in unlike] if reference else []
    return Comparison(
        goal=goal,
        budget=common,
        margin=margin,
        target=target,
        standings=standings,
        pairs=_pairs(couples, goal, margin),
        twice=reference,
        against_twice=_pairs(rivals, goal, margin),
        bands={name: _bands(groups[name], common) for name in names},
        said=said,
        notes=tuple(notes),
    )


def _same(groups: dict[str, list[Curve]], budget: int, startup: int) -> bool:
    """Whether bayesian search mostly never got beyond what it shares with random search."""
    ends = [point for c in groups.get("bayesian", ()) if (point := c.at(budget))]
    return bool(ends) and "random" in groups and bool(np.median([point.trials for point in ends]) <= startup)


def _usable(curves: Sequence[Curve], budget: int) -> tuple[list[Curve], list[str]]:
    """The curves that have a value within the budget, and a note on each that has none."""
    used = [c for c in curves if c.first <= budget]
    notes = [
        f"{c.strategy}, seed {c.seed}: no complete trial within {count(budget, 'epoch')}; left out."
        for c in curves
        if c.first > budget
    ]
    if not used:
        needed = min((c.first for c in curves), default=math.inf)
        remedy = f"give it at least {needed:.0f}" if needed < math.inf else "look at the outcomes with `hpo status`"
        raise BadInput(
            Mistake("compare", "some trial must be complete within the budget", count(budget, "epoch"), remedy)
        )
    return used, notes


def _target(goal: Goal, groups: dict[str, list[Curve]], budget: int) -> float:
    """The goal's own target, or what random (where it is missing, the last strategy) reaches with its whole budget."""
    if goal.target is not None:
        return goal.target
    base = groups.get("random") or list(groups.values())[-1]
    return float(np.median([c.value(budget) for c in base]))


def _standing(name: str, curves: Sequence[Curve], goal: Goal, budget: int, target: float, start: float) -> Standing:
    values = [c.value(budget) for c in curves]
    low, median, high = band(values)
    reached = [epochs_to(c, target, goal, budget) for c in curves]
    ends = [point for c in curves if (point := c.at(budget))]
    winners = [(c, point.best) for c in curves if (point := c.at(budget))]
    return Standing(
        strategy=name,
        seeds=tuple(c.seed for c in curves),
        values=tuple(values),
        median=float(median),
        low=float(low),
        high=float(high),
        average=float(np.mean([average(c, start, budget) for c in curves])),
        to_target=median_of_censored(reached),
        reached=sum(epochs < math.inf for epochs in reached),
        seconds=float(np.median([point.seconds for point in ends])),
        trials=float(np.median([point.trials for point in ends])),
        test=_mean([c.tests[number] for c, number in winners if number in c.tests]),
        fresh=_mean([float(np.mean(c.fresh[number])) for c, number in winners if c.fresh.get(number)]),
    )


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _pairs(couples: Sequence[tuple[Standing, Standing]], goal: Goal, margin: float) -> tuple[Pair, ...]:
    sign = 1.0 if goal.maximize else -1.0
    shared = [sorted(set(a.seeds) & set(b.seeds)) for a, b in couples]
    met = [(a, b, seeds) for (a, b), seeds in zip(couples, shared, strict=True) if seeds]
    values = [tuple([sign * s.at(seed) for seed in seeds] for s in (a, b)) for a, b, seeds in met]
    differences = [paired(a, b) for a, b in values]
    corrected = holm([d.p for d in differences])
    return tuple(
        _pair((one.strategy, other.strategy), difference, float(p), wins(a, b), margin, len(met))
        for (one, other, _), difference, p, (a, b) in zip(met, differences, corrected, values, strict=True)
    )


def _pair(
    names: tuple[str, str], difference: Difference, corrected: float, won: Probability, margin: float, pairs: int
) -> Pair:
    judged = verdict(difference, corrected, margin)
    advice = advise(difference, margin, pairs) if judged is Verdict.UNDECIDED else None
    return Pair(*names, difference, corrected, won, judged, advice)


def _bands(curves: Sequence[Curve], budget: int) -> Bands:
    """Steps at every epoch at which any curve moves: the figure is exact, whatever the budget."""
    moves = {point.epochs for c in curves for point in c.points if point.epochs <= budget}
    grid = np.array(sorted(moves | {budget}), dtype=float)
    return Bands(grid, *band(on_grid(curves, grid)))


def _rank(name: str) -> int:
    return RANKING.index(name) if name in RANKING else len(RANKING)
