"""Best so far against what it cost: one curve a study, each charged as if it had trained alone."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from hpo.comparison.statistics import Floats
from hpo.core import Ended, Event, Goal, Reported, State, Study


class Point(NamedTuple):
    """What a study had when a trial ended: spent epochs and seconds of training, trials begun, best value so far and whose."""

    epochs: int
    seconds: float
    trials: int
    value: float
    best: int


def best_so_far(events: Iterable[Event], goal: Goal) -> list[Point]:
    """A point for each trial that ended, from the first complete one on.

    Epochs are those of distinct trainings, as `Study.epochs` counts them; an epoch that another study had trained is
    charged all the same, with the seconds it took there. Only complete trials are candidates.
    """
    study, epochs, seconds, best, whose = Study(), 0, 0.0, math.inf, -1
    points: list[Point] = []
    for event in events:
        study.apply(event)
        if isinstance(event, Reported):
            epochs += 1
            seconds += event.report.seconds
        elif isinstance(event, Ended):
            score = goal.score(study.trials[event.trial])[0]
            if event.state is State.COMPLETE and math.isfinite(score) and score < best:
                best, whose = score, event.trial
            if best < math.inf:
                points.append(Point(epochs, seconds, len(study), -best if goal.maximize else best, whose))
    return points


@dataclass(frozen=True, slots=True)
class Curve:
    """One study of a comparison. epochs is all it spent, also after its last complete trial; points may be empty.

    tests: scores on the test split by trial; fresh: by trial, its values when trained again with other seeds.
    """

    strategy: str
    seed: int
    points: tuple[Point, ...]
    epochs: int
    tests: Mapping[int, float] = field(default_factory=dict)
    fresh: Mapping[int, Sequence[float]] = field(default_factory=dict)

    def at(self, epochs: float) -> Point | None:
        """The last point within so many epochs; None before the first complete trial."""
        place = bisect.bisect_right(self.points, epochs, key=lambda point: point.epochs)
        return self.points[place - 1] if place else None

    def value(self, epochs: float) -> float:
        found = self.at(epochs)
        return math.nan if found is None else found.value

    @property
    def first(self) -> float:
        """Epochs at which it has a value; infinite for a study without a complete trial."""
        return self.points[0].epochs if self.points else math.inf


def curve(
    strategy: str,
    seed: int,
    events: Sequence[Event],
    goal: Goal,
    fresh: Mapping[int, Sequence[float]] | None = None,
) -> Curve:
    """The curve of one journal, with the test scores it holds."""
    study = Study(events)
    name = "test_" + goal.metric.removeprefix("val_")
    tests = {score.trial: score.metrics[name] for score in study.scores if name in score.metrics}
    return Curve(strategy, seed, tuple(best_so_far(events, goal)), study.epochs, tests, fresh or {})


def on_grid(curves: Sequence[Curve], grid: Sequence[int] | Floats) -> Floats:
    """Best so far as steps, shape (curves, grid); nan before a curve's first complete trial."""
    return np.array([[curve.value(float(epochs)) for epochs in grid] for curve in curves], dtype=float)


def average(curve: Curve, start: float, budget: float) -> float:
    """The area under the steps between two numbers of epochs, divided by their distance: the mean best so far.

    In the metric's own unit, so that a person can read it. nan if there is no value at `start`.
    """
    if curve.first > start or start >= budget:
        return curve.value(budget) if start >= budget else math.nan
    inside = [point for point in curve.points if start < point.epochs < budget]
    edges = np.array([start, *(point.epochs for point in inside), budget])
    heights = np.array([curve.value(start), *(point.value for point in inside)])
    return float(np.diff(edges) @ heights / (budget - start))


def epochs_to(curve: Curve, target: float, goal: Goal, budget: float) -> float:
    """Epochs at which the target was first met; infinite (censored) if not within the budget."""
    for point in curve.points:
        if point.epochs > budget:
            break
        if point.value >= target if goal.maximize else point.value <= target:
            return point.epochs
    return math.inf


def spent_at_end(events: Iterable[Event]) -> dict[int, int]:
    """For each trial that ended: the epochs its study had spent by then."""
    epochs, spent = 0, {}
    for event in events:
        if isinstance(event, Reported):
            epochs += 1
        elif isinstance(event, Ended):
            spent[event.trial] = epochs
    return spent
