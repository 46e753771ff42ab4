"""`hpo replay`: any strategy and early-stopping rule, any number of seeds, in seconds, on curves that were recorded before.

A point without a recorded curve is an error that names it, never a nearest neighbour.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hpo import assembly
from hpo.core import Event, Goal, Job, Params, Report, Study, Trial, digest, epochs_of
from hpo.driver import Driver
from hpo.errors import BadInput, Mistake, NoResult
from hpo.execution.simulated import SimulatedExecutor
from hpo.folders import Folders
from hpo.journal import Journal
from hpo.pool import Pool
from hpo.running import load_data
from hpo.search import Search
from hpo.spec.loading import Budget, StudySpec
from hpo.strategies.points import Problem, point
from hpo.wording import count, decimals


class Recorded:
    """The longest recorded curve of each training, by its params without epochs. Only repeat 0: one curve a point."""

    def __init__(self, studies: Sequence[Study]) -> None:
        self._curves: dict[str, tuple[Report, ...]] = {}
        for study in studies:
            for trial in study.trials:
                known = study.trainings[trial.training].reports
                name = curve_name(trial.params)
                if trial.repeat == 0 and len(known) > len(self._curves.get(name, ())):
                    self._curves[name] = known

    def __len__(self) -> int:
        return len(self._curves)

    def train(self, job: Job) -> Iterator[Report]:
        """The recorded reports; BadInput where they do not reach as far as is asked."""
        curve = self._curves.get(curve_name(job.params), ())
        if len(curve) < job.until:
            raise missing(job.params, len(curve))
        yield from curve[: epochs_of(job.params)]

    def epochs(self, params: Params) -> int:
        return len(self._curves.get(curve_name(params), ()))


def curve_name(params: Params) -> str:
    return digest(sorted((name, value) for name, value in params.items() if name != "epochs"))


def missing(params: Params, epochs: int) -> BadInput:
    said = ", ".join(f"{name}: {value}" for name, value in params.items())
    have = f"{epochs} of {epochs_of(params)} epochs of it are recorded" if epochs else "nothing of it is recorded"
    remedy = "record the whole space first: hpo run --strategy grid"
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


def replay(spec: StudySpec, curves: Recorded, problem: Problem, seed: int, workers: int = 1) -> Replayed:
    """One study of this spec on recorded curves. Raises BadInput for a point that is missing."""
    events: list[Event] = []
    goal = spec.metric.as_goal()
    strategy = assembly.stopping(
        spec.early_stopping, assembly.STRATEGIES[spec.strategy](replace(problem, seed=seed)), problem
    )

    def identity(params: Params, repeat: int) -> tuple[str, int]:
        if curves.epochs(params) < epochs_of(params):
            raise missing(params, curves.epochs(params))
        return curve_name(params), 0

    search = Search(Study(), strategy, goal, spec.budget, identity, events.append)
    executor = SimulatedExecutor(curves.train, workers)
    Driver([search], executor, Pool(Path("/nonexistent"), goal), clock=executor.clock).run()
    return Replayed(search.study, executor.clock(), goal.best(search.study.trials))


def saving(spec: StudySpec, curves: Recorded, problem: Problem, seeds: int, workers: int) -> Saving:
    """The rule of the spec against no rule: the same strategy, seed by seed, over the same number of trials."""
    assert spec.early_stopping is not None
    trials = spec.budget.trials or 20
    budget = Budget(trials=trials)
    with_rule, without = replace(spec, budget=budget), replace(spec, budget=budget, early_stopping=None)
    spent = kept = plain = 0
    for seed in range(seeds):
        cut, full = replay(with_rule, curves, problem, seed, workers), replay(without, curves, problem, seed, workers)
        spent, plain = spent + cut.study.epochs, plain + full.study.epochs
        kept += same_winner(cut.best, full.best, spec.metric.as_goal())
    return Saving(spec.early_stopping.type, seeds, spent, plain, kept)


def same_winner(one: Trial | None, other: Trial | None, goal: Goal) -> bool:
    """The same point, or one as good."""
    if one is None or other is None:
        return one is other
    return point(one.params) == point(other.params) or goal.score(one) <= goal.score(other)


def run_replay(spec: StudySpec, state: str | Path | None, seeds: int, workers: int) -> Iterator[str]:
    """What `hpo replay` prints."""
    from hpo import api

    place = Folders(api.state_folder(spec, state), spec.name, spec.strategy, spec.seed)
    curves = recorded(place.study)
    goal = spec.metric.as_goal()
    dataset = load_data(spec, place)
    problem = assembly.parts(spec, dataset, ["cpu"]).problem()
    replays = [replay(spec, curves, problem, spec.seed + offset, workers) for offset in range(seeds)]
    values = sorted(value for one in replays if one.best is not None and (value := goal.value(one.best)) is not None)
    if values:
        middle = statistics.median(values)
        rule = f" with {spec.early_stopping.type}" if spec.early_stopping else ""
        epochs = statistics.mean(one.study.epochs for one in replays)
        yield (
            f"{spec.strategy}{rule}, {count(len(replays), 'replay')}: {goal.metric} {decimals(middle)} in the middle, "
            f"{decimals(values[0])} to {decimals(values[-1])}, {epochs:.0f} epochs each"
        )
    if spec.early_stopping is not None:
        yield str(saving(spec, curves, problem, seeds, workers))
