"""Learning curves of whole studies: the best value so far against the epochs trained, one curve a study."""

import bisect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from hpo.core import BestSoFar, Ended, Event, Goal, Outcome, Reported, Study

Reading = tuple[int, int]  # a trial, and the epoch after which it is read
Repetition = float | Outcome  # the value with a fresh training seed, or why there is none


class CurvePoint(NamedTuple):
    """A study when it had a new best, or a trial ended: epochs and seconds trained, trials started.

    value: the best so far; best: its trial, read after `epoch`.
    """

    epochs: int
    seconds: float
    trials: int
    value: float
    best: int
    epoch: int = 0

    @property
    def reading(self) -> Reading:
        return self.best, self.epoch


def best_so_far(events: Iterable[Event], goal: Goal) -> list[CurvePoint]:
    """A point for each new best and each trial that ended, from the first epoch that counts on (`Goal.reading`).

    Epochs are those of distinct trainings (`Study.epochs`). An epoch reused from another study is charged like any
    other, with the seconds it took there.
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
    tests: Mapping[Reading, float] = field(default_factory=dict)
    fresh: Mapping[Reading, Sequence[Repetition]] = field(default_factory=dict)

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
    strategy: str,
    seed: int,
    events: Sequence[Event],
    goal: Goal,
    fresh: Mapping[Reading, Sequence[Repetition]] | None = None,
) -> Curve:
    """The curve of one journal, with the test scores recorded in it."""
    study, points = Study(events), tuple(best_so_far(events, goal))
    name = "test_" + goal.metric.removeprefix("val_")
    tested = {point.reading: study.tested(*point.reading) for point in points}
    tests = {reading: metrics[name] for reading, metrics in tested.items() if name in metrics}
    return Curve(strategy, seed, points, study.epochs, tests, fresh or {})
