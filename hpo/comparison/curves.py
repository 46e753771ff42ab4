"""Learning curves of whole studies: the best value so far against the epochs trained, one curve a study."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from hpo.core import Ended, Event, Goal, Reported, State, Study


class Point(NamedTuple):
    """A study when a trial ended: epochs and seconds trained, trials started, the best value so far and its trial."""

    epochs: int
    seconds: float
    trials: int
    value: float
    best: int


def best_so_far(events: Iterable[Event], goal: Goal) -> list[Point]:
    """A point for each trial that ended, from the first complete one on; only complete trials count as best.

    Epochs are those of distinct trainings (`Study.epochs`). An epoch reused from another study is charged like any
    other, with the seconds it took there.
    """
    study, seconds, lowest, best = Study(), 0.0, math.inf, -1
    points: list[Point] = []
    for event in events:
        study.apply(event)
        if isinstance(event, Reported):
            seconds += event.report.seconds
        elif isinstance(event, Ended):
            cost = goal.score(study.trials[event.trial])[0]
            if event.state is State.COMPLETE and math.isfinite(cost) and cost < lowest:
                lowest, best = cost, event.trial
            if lowest < math.inf:
                points.append(Point(study.epochs, seconds, len(study), -lowest if goal.maximize else lowest, best))
    return points


@dataclass(frozen=True, slots=True)
class Curve:
    """One study of a comparison. epochs: all that it trained, also after its last point; points may be empty.

    tests: trial -> score on the test split; fresh: trial -> values when trained again with fresh seeds.
    """

    strategy: str
    seed: int
    points: tuple[Point, ...]
    epochs: int
    tests: Mapping[int, float] = field(default_factory=dict)
    fresh: Mapping[int, Sequence[float]] = field(default_factory=dict)

    def at(self, epochs: float) -> Point | None:
        """The last point within `epochs`; None before the first complete trial."""
        index = bisect.bisect_right(self.points, epochs, key=lambda point: point.epochs)
        return self.points[index - 1] if index else None

    def value(self, epochs: float) -> float:
        """The best value within `epochs`; nan before the first complete trial."""
        point = self.at(epochs)
        return math.nan if point is None else point.value

    @property
    def first(self) -> float:
        """Epochs at which it has a value; infinite for a study without a complete trial."""
        return self.points[0].epochs if self.points else math.inf

    def average(self, start: float, budget: float) -> float:
        """The mean best so far between two numbers of epochs: the area under the steps over their distance.

        In the unit of the metric; nan without a value at `start`.
        """
        if start >= budget:
            return self.value(budget)
        if self.first > start:
            return math.nan
        inside = [point for point in self.points if start < point.epochs < budget]
        edges = np.array([start, *(point.epochs for point in inside), budget])
        heights = np.array([self.value(start), *(point.value for point in inside)])
        return float(np.diff(edges) @ heights / (budget - start))

    def epochs_to(self, target: float, goal: Goal, budget: float) -> float:
        """Epochs at which the target was first met; infinite (censored) if not within the budget."""
        met = (p.epochs for p in self.points if (p.value >= target if goal.maximize else p.value <= target))
        epochs = next(met, math.inf)
        return epochs if epochs <= budget else math.inf


def curve(
    strategy: str, seed: int, events: Sequence[Event], goal: Goal, fresh: Mapping[int, Sequence[float]] | None = None
) -> Curve:
    """The curve of one journal, with the test scores recorded in it."""
    study = Study(events)
    name = "test_" + goal.metric.removeprefix("val_")
    tests = {score.trial: score.metrics[name] for score in study.scores if name in score.metrics}
    return Curve(strategy, seed, tuple(best_so_far(events, goal)), study.epochs, tests, fresh or {})
