"""Verdicts as values: which of several strategies is better, and by how much.

Glossary
    curve       of one study: its best value so far against the epochs trained
    budget      epochs trained, the same for all: trials of different length are no equal budget
    value       best so far at the budget, in the unit of the metric
    difference  a - b at the same seed, turned so that positive means that a is better
"""

import bisect
import itertools
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from hpo.comparison.statistics import Advice, Difference, Floats, Verdict, advise, holm, paired, verdict
from hpo.core import BestSoFar, Ended, Event, Goal, Outcome, Reported, Study
from hpo.errors import BadInput, Mistake
from hpo.formatting import count

RANKING = ("bayesian", "random", "grid")  # from the most to the least useful, as is usually claimed
TWICE = "random x2"  # random with twice the budget, always shown beside the others
BAND = (0.1, 0.5, 0.9)  # quantiles over seeds

TrialEpoch = tuple[int, int]  # a trial, and the epoch after which it is read
Repetition = float | Outcome  # the value with a fresh training seed, or why there is none
Fresh = Mapping[TrialEpoch, Sequence[Repetition]]


# -- curves ------------------------------------------------------------------------------------------------------


class CurvePoint(NamedTuple):
    """A study when it had a new best, or a trial ended. best: the trial that has the value, read after `epoch`."""

    epochs: int
    seconds: float
    trials: int
    value: float
    best: int
    epoch: int = 0

    @property
    def trial_epoch(self) -> TrialEpoch:
        return self.best, self.epoch


def best_so_far(events: Iterable[Event], goal: Goal) -> list[CurvePoint]:
    """A point for each new best and each trial that ended, from the first epoch that counts on (`Goal.reading`).

    Epochs are those of distinct trainings; one reused from another study is charged like any other, with its seconds there.
    """
    study, seconds = Study(), 0.0
    so_far = BestSoFar(study, goal)
    points: list[CurvePoint] = []
    for event in events:
        study.apply(event)
        so_far.follow(event)
        if isinstance(event, Reported):
            seconds += event.report.seconds
        best = so_far.trial
        if best is None or (reading := goal.reading(best)) is None:
            continue
        point = CurvePoint(study.epochs, seconds, len(study), reading.metrics[goal.metric], best.number, reading.epoch)
        if isinstance(event, Ended) or not points or point.value != points[-1].value:
            points.append(point)
    return points


@dataclass(frozen=True, slots=True)
class Curve:
    """One study of a comparison. epochs: all that it trained, also after its last point; points may be empty.

    tests: the scores of readings on the test split; fresh: of their repetitions with fresh seeds.
    """

    strategy: str
    seed: int
    points: tuple[CurvePoint, ...]
    epochs: int
    tests: Mapping[TrialEpoch, float] = field(default_factory=dict)
    fresh: Fresh = field(default_factory=dict)

    def at(self, epochs: float) -> CurvePoint | None:
        """The last point within `epochs`; None before the first epoch that counts."""
        index = bisect.bisect_right(self.points, epochs, key=lambda point: point.epochs)
        return self.points[index - 1] if index else None

    def value(self, epochs: float) -> float:
        """The best value within `epochs`; nan before the first epoch that counts."""
        point = self.at(epochs)
        return math.nan if point is None else point.value

    @property
    def first(self) -> float:
        """Epochs at which it has a value; infinite for a study without one."""
        return self.points[0].epochs if self.points else math.inf

    def epochs_to(self, target: float, goal: Goal, budget: float) -> float:
        """Epochs at which the target was first met; infinite (censored) if not within the budget."""
        met = (p.epochs for p in self.points if (p.value >= target if goal.maximize else p.value <= target))
        epochs = next(met, math.inf)
        return epochs if epochs <= budget else math.inf


def curve(strategy: str, seed: int, events: Sequence[Event], goal: Goal, fresh: Fresh | None = None) -> Curve:
    """The curve of one journal, with the test scores recorded in it."""
    study, points = Study(events), tuple(best_so_far(events, goal))
    name = "test_" + goal.metric.removeprefix("val_")
    tested = {point.trial_epoch: study.tested(*point.trial_epoch) for point in points}
    tests = {reading: metrics[name] for reading, metrics in tested.items() if name in metrics}
    return Curve(strategy, seed, points, study.epochs, tests, fresh or {})


# -- strategies --------------------------------------------------------------------------------------------------


Groups = Mapping[str, Sequence[Curve]]  # a strategy's curves, in the order of their seeds


@dataclass(frozen=True, slots=True)
class StrategyResult:
    """One strategy at the budget. values: one a seed; to_target is infinite where most seeds never reached it.

    fresh: the mean over the repetitions of the seeds' best trials, of which `failed` of `repeated` have no value.
    """

    strategy: str
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    median: float
    low: float
    high: float
    to_target: float
    reached: int
    seconds: float
    trials: float
    test: float | None
    fresh: float | None
    repeated: int = 0
    failed: int = 0

    def at(self, seed: int) -> float:
        return self.values[self.seeds.index(seed)]


@dataclass(frozen=True, slots=True)
class Pair:
    """a against b over the seeds both have run; corrected is Holm's p over the comparison's pairs."""

    a: str
    b: str
    difference: Difference
    corrected: float
    verdict: Verdict
    advice: Advice | None

    @property
    def better(self) -> str | None:
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
    """rivals: studies beside the ranking; twice: random with twice the budget; beside: the pairs with any of these.

    scope: what the verdicts are valid for; notes: what was left out, and why.
    """

    goal: Goal
    budget: int
    margin: float
    target: float
    strategies: tuple[StrategyResult, ...]
    pairs: tuple[Pair, ...]
    rivals: tuple[StrategyResult, ...]
    twice: StrategyResult | None
    beside: tuple[Pair, ...]
    bands: dict[str, Bands]
    scope: str
    notes: tuple[str, ...] = ()

    @property
    def results(self) -> tuple[StrategyResult, ...]:
        """Those of all strategies, the rivals, and random with twice the budget last."""
        return (*self.strategies, *self.rivals, *((self.twice,) if self.twice else ()))


def compare(
    curves: Sequence[Curve],
    goal: Goal,
    budget: int,
    margin: float = 0.0,
    doubled: Sequence[Curve] = (),
    scope: str = "these data",
    rivals: Sequence[Curve] = (),
) -> Comparison:
    """Compare the strategies at `budget` epochs. Raises BadInput where no trial is complete by then.

    doubled: studies of random with twice the budget, shown beside the others where they spent all of it.
    rivals: studies that bayesian is compared with beside the ranking.
    """
    groups = _groups(curves, budget)
    if not groups:
        needed = min((curve.first for curve in curves), default=math.inf)
        remedy = f"give it at least {needed:.0f}" if needed < math.inf else "look at the outcomes with `hpo status`"
        rule = "some trial must be complete within the budget"
        raise BadInput(Mistake("compare", rule, count(budget, "epoch"), remedy))
    late = [f"{one.strategy}, seed {one.seed}" for one in (*curves, *rivals) if one.first > budget]
    base = groups.get("random") or list(groups.values())[-1]  # what it reaches with its whole budget is the target
    target = float(np.median([curve.value(budget) for curve in base])) if goal.target is None else goal.target
    results = [_result(name, group, goal, budget, target) for name, group in groups.items()]
    spent = [curve for curve in doubled if curve.points and curve.epochs >= 2 * budget]
    twice = _result(TWICE, spent, goal, 2 * budget, target) if spent else None
    others = [_result(name, group, goal, budget, target) for name, group in _groups(rivals, budget).items()]
    couples = list(itertools.combinations(results, 2))
    beside = [(one, other) for one in results if one.strategy == "bayesian" for other in others]
    beside += [(one, twice) for one in results if one.strategy != "random" and twice is not None]
    return Comparison(
        goal=goal,
        budget=budget,
        margin=margin,
        target=target,
        strategies=tuple(results),
        pairs=_pairs(couples, goal, margin),
        rivals=tuple(others),
        twice=twice,
        beside=_pairs(beside, goal, margin),
        bands={name: _bands(group, budget) for name, group in groups.items()},
        scope=scope,
        notes=(
            *(f"{study}: no complete trial within {count(budget, 'epoch')}; left out." for study in late),
            *_notes(groups, couples, bool(doubled) and twice is None),
        ),
    )


def _groups(curves: Sequence[Curve], budget: int) -> Groups:
    """The curves that have a value within the budget, by strategy, in the order of the usual ranking."""
    used = sorted((curve for curve in curves if curve.first <= budget), key=lambda curve: curve.seed)
    names = dict.fromkeys([*RANKING, *(curve.strategy for curve in used)])
    groups = {name: [curve for curve in used if curve.strategy == name] for name in names}
    return {name: group for name, group in groups.items() if group}


def _notes(groups: Groups, couples: Sequence[tuple[StrategyResult, StrategyResult]], alone: bool) -> Iterator[str]:
    """alone: random with twice the budget did not get so far."""
    if alone:
        yield "random with twice the budget is missing: no study of random went on that far."
    if any(len(group) > 1 for group in groups.values()):
        yield from (f"{name}: one seed says nothing about chance." for name, group in groups.items() if len(group) == 1)
    for a, b in couples:
        if not set(a.seeds) & set(b.seeds):
            yield f"{a.strategy} and {b.strategy}: there is no seed at which both have a complete trial."


def _result(name: str, curves: Sequence[Curve], goal: Goal, budget: int, target: float) -> StrategyResult:
    values = [curve.value(budget) for curve in curves]
    low, median, high = np.quantile(values, BAND)
    reached = [curve.epochs_to(target, goal, budget) for curve in curves]
    ends = [(curve, point) for curve in curves if (point := curve.at(budget))]
    again = [curve.fresh.get(point.trial_epoch, ()) for curve, point in ends]
    fresh = [having_values(one) for one in again]
    return StrategyResult(
        strategy=name,
        seeds=tuple(curve.seed for curve in curves),
        values=tuple(values),
        median=float(median),
        low=float(low),
        high=float(high),
        to_target=statistics.median_low(reached),  # when half of the seeds had it: infinite ones are censored
        reached=sum(epochs < math.inf for epochs in reached),
        seconds=float(np.median([point.seconds for _, point in ends])),
        trials=float(np.median([point.trials for _, point in ends])),
        test=_mean([curve.tests[point.trial_epoch] for curve, point in ends if point.trial_epoch in curve.tests]),
        fresh=_mean([float(np.mean(one)) for one in fresh if one]),
        repeated=sum(map(len, again)),
        failed=sum(map(len, again)) - sum(map(len, fresh)),
    )


def having_values(repetitions: Sequence[Repetition]) -> tuple[float, ...]:
    return tuple(one for one in repetitions if not isinstance(one, Outcome))


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _pairs(couples: Sequence[tuple[StrategyResult, StrategyResult]], goal: Goal, margin: float) -> tuple[Pair, ...]:
    """The verdict of each couple that has a seed in common."""
    sign = 1.0 if goal.maximize else -1.0
    met = [(a, b, seeds) for a, b in couples if (seeds := sorted(set(a.seeds) & set(b.seeds)))]
    differences = [
        paired([sign * a.at(seed) for seed in seeds], [sign * b.at(seed) for seed in seeds]) for a, b, seeds in met
    ]
    pairs = []
    corrected = holm([difference.p for difference in differences]).tolist()
    for (a, b, _), difference, p in zip(met, differences, corrected, strict=True):
        judged = verdict(difference, p, margin)
        advice = advise(difference, margin, len(met)) if judged is Verdict.UNDECIDED else None
        pairs.append(Pair(a.strategy, b.strategy, difference, p, judged, advice))
    return tuple(pairs)


def _bands(curves: Sequence[Curve], budget: int) -> Bands:
    """Steps at every epoch at which any curve moves: the figure is exact, whatever the budget."""
    moves = {point.epochs for curve in curves for point in curve.points if point.epochs <= budget}
    grid = np.array(sorted(moves | {budget}), dtype=float)
    return Bands(grid, *np.quantile([[curve.value(epochs) for epochs in grid] for curve in curves], BAND, axis=0))
