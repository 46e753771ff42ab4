"""`hpo replay`: any strategy and early-stopping rule, any number of seeds, in seconds, on curves that were recorded before.

A point without a recorded curve is an error that names it, never a nearest neighbour.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hpo.commands.run import load_data
from hpo.core import EPOCHS, Event, Goal, Job, Outcome, Params, Report, State, Study, Trial, digest, epochs_of
from hpo.engine import components as assembly
from hpo.engine.driver import Driver
from hpo.engine.search import Search
from hpo.engine.trainings import Pool
from hpo.errors import BadInput, Mistake, NoResult
from hpo.execution.simulated import SimulatedExecutor
from hpo.files import Folders
from hpo.formatting import count, decimals
from hpo.journal import Journal
from hpo.models.failure import TrainingFailed
from hpo.models.parameters import prefix_safe
from hpo.strategies.points import Point, Problem, point
from hpo.study_file.reader import Budget, StudySpec


class Recorded:
    """Recorded curves by name: a point's longest one, and that of each length; and how the failed ones ended.

    Only repeat 0 counts: one curve a point.
    """

    def __init__(self, studies: Sequence[Study]) -> None:
        self._curves: dict[str, tuple[Report, ...]] = {}
        self._failures: dict[str, Trial] = {}
        self._points: set[str] = set()
        self._tried: dict[Point, Params] = {}
        for study in studies:
            for trial in study.trials:
                if trial.repeat == 0:
                    self._keep(trial, study.trainings[trial.training].reports)

    def __len__(self) -> int:
        return len(self._points)

    def _keep(self, trial: Trial, known: tuple[Report, ...]) -> None:
        longest, own = curve_name(trial.params, True), curve_name(trial.params, False)
        self._points.add(longest)
        self._tried.setdefault(point(trial.params), trial.params)
        for name, reports in ((longest, known), (own, trial.reports)):
            if len(reports) >= len(self._curves.get(name, ())):
                self._curves[name] = reports
            if trial.state is State.FAILED and trial.outcome is not Outcome.CRASHED:
                self._failures[name] = trial

    def train(self, job: Job) -> Iterator[Report]:
        """The recorded reports, then the recorded failure if there is one. BadInput where they do not reach far enough."""
        name = job.training
        if not self.covers(name, job.until):
            raise missing(job.params, len(self._curves.get(name, ())))
        yield from self._curves[name][: epochs_of(job.params)]
        if failed := self._failures.get(name):
            raise TrainingFailed(failed.outcome, failed.error)

    def covers(self, name: str, epochs: int) -> bool:
        return len(self._curves.get(name, ())) >= epochs or name in self._failures

    def shuffled(self, seed: int, safe: Callable[[Params], bool]) -> tuple[Params, ...]:
        """Every point whose curve is there to its own end, in an order that the seed draws."""
        whole = [p for p in self._tried.values() if self.covers(curve_name(p, safe(p)), epochs_of(p))]
        return tuple(random.Random(f"{seed}/replay").sample(whole, len(whole)))

    def epochs(self, name: str) -> int:
        return len(self._curves.get(name, ()))


def curve_name(params: Params, prefix_safe: bool) -> str:
    """A curve's name: without `epochs` where a shorter trial is a reading of a longer one."""
    return digest(sorted((key, value) for key, value in params.items() if key != EPOCHS or not prefix_safe))


def missing(params: Params, epochs: int) -> BadInput:
    said = ", ".join(f"{name}: {value}" for name, value in params.items())
    have = f"{epochs} of {epochs_of(params)} epochs of it are recorded" if epochs else "nothing of it is recorded"
    remedy = "record the whole space first: hpo run --strategy grid; or replay what there is: hpo replay --recorded"
    return BadInput(Mistake("replay", "every point must be recorded", f"{{{said}}}: {have}", remedy))


@dataclass(frozen=True)
class Replayed:
    """One study in virtual time."""

    study: Study
    seconds: float
    best: Trial | None


@dataclass(frozen=True)
class Saving:
    """What an early-stopping rule spared over all seeds, against the same strategy without it."""

    rule: str
    seeds: int
    epochs_with: int
    epochs_without: int
    winners_kept: int

    def __str__(self) -> str:
        saved = 1 - self.epochs_with / max(1, self.epochs_without)
        kept = self.winners_kept / self.seeds
        replays = count(self.seeds, "replay")
        return f"{self.rule} would have saved {saved:.0%} of the epochs and kept the winner in {kept:.0%} of {replays}."


def recorded(folder: Path) -> Recorded:
    """All curves of the studies of one name. Raises NoResult where there are none."""
    studies = []
    for path in sorted(folder.glob("*/journal.db")):
        with Journal.open(path, read_only=True) as journal:
            studies.append(Study(event for _, event in journal.events()))
    curves = Recorded(studies)
    if not len(curves):
        raise NoResult(f"{folder}: no curve is recorded yet; `hpo run --strategy grid` records a whole space")
    return curves


def replay(
    spec: StudySpec, curves: Recorded, problem: Problem, seed: int, workers: int = 1, among: bool = False
) -> Replayed:
    """One study of this spec on recorded curves. Raises BadInput for a point that is missing.

    among: no strategy but a random order of the points that are recorded, so that none is missing.
    """
    events: list[Event] = []
    goal = spec.metric.as_goal()

    def is_safe(params: Params) -> bool:
        return bool(spec.prefix_safe) if spec.train else prefix_safe(params)

    if among:
        points = curves.shuffled(seed, is_safe)
        inner = assembly.STRATEGIES["random"](replace(problem, start_with=points))
        budget = replace(spec.budget, trials=min(spec.budget.trials or len(points), len(points)))
    else:
        inner, budget = assembly.STRATEGIES[spec.strategy](replace(problem, seed=seed)), spec.budget
    strategy = assembly.stopping(spec.early_stopping, inner, problem)

    def identity(params: Params, repeat: int) -> tuple[str, int]:
        name = curve_name(params, is_safe(params))
        if not curves.covers(name, epochs_of(params)):
            raise missing(params, curves.epochs(name))
        return name, 0

    search = Search(Study(), strategy, goal, budget, identity, events.append)
    executor = SimulatedExecutor(curves.train, workers)
    Driver([search], executor, Pool(Path("/nonexistent"), goal), clock=executor.clock).run()
    return Replayed(search.study, executor.clock(), goal.best(search.study.trials))


def saving(
    spec: StudySpec, curves: Recorded, problem: Problem, seeds: int, workers: int, among: bool = False
) -> Saving:
    """The rule of the spec against no rule: the same strategy, seed by seed, over the same number of trials."""
    assert spec.early_stopping is not None
    trials = spec.budget.trials or 20
    budget = Budget(trials=trials)
    with_rule, without = replace(spec, budget=budget), replace(spec, budget=budget, early_stopping=None)
    spent = kept = plain = 0
    for seed in range(seeds):
        cut, full = (replay(one, curves, problem, seed, workers, among) for one in (with_rule, without))
        spent, plain = spent + cut.study.epochs, plain + full.study.epochs
        kept += same_winner(cut.best, full.best, spec.metric.as_goal())
    return Saving(spec.early_stopping.type, seeds, spent, plain, kept)


def same_winner(one: Trial | None, other: Trial | None, goal: Goal) -> bool:
    """The same point, or one as good."""
    if one is None or other is None:
        return one is other
    return point(one.params) == point(other.params) or goal.score(one) <= goal.score(other)


def run_replay(spec: StudySpec, state: str | Path | None, seeds: int, workers: int, among: bool) -> Iterator[str]:
    """What `hpo replay` prints."""
    from hpo.engine import reading

    place = Folders(reading.state_folder(spec, state), spec.name, spec.strategy, spec.seed)
    curves = recorded(place.study)
    goal = spec.metric.as_goal()
    dataset = load_data(spec, place)
    problem = assembly.parts(spec, dataset, ["cpu"]).problem()
    replays = [replay(spec, curves, problem, spec.seed + offset, workers, among) for offset in range(seeds)]
    values = sorted(value for one in replays if one.best is not None and (value := goal.value(one.best)) is not None)
    if values:
        middle = statistics.median(values)
        rule = f" with {spec.early_stopping.type}" if spec.early_stopping else ""
        epochs = statistics.mean(one.study.epochs for one in replays)
        drawn = f"{len(replays[0].study)} recorded points, drawn anew each time"
        name = drawn if among else spec.strategy
        yield (
            f"{name}{rule}, {count(len(replays), 'replay')}: {goal.metric} {decimals(middle)} in the middle, "
            f"{decimals(values[0])} to {decimals(values[-1])}, {epochs:.0f} epochs each"
        )
    if spec.early_stopping is not None:
        yield str(saving(spec, curves, problem, seeds, workers, among))
