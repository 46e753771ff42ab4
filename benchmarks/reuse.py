"""One training, many answers: epochs trained against the epochs of every trial trained by itself.

    python -m benchmarks.reuse

The 648-point discrete CNN space with epochs 5, 10 and 20: three strategies x 5 seeds x 40 trials in one driver, one
trial of each at a time on two workers, as `hpo compare` runs them; then one grid over the whole space. Only counts
matter, so the curves are strategies up; driver, pool, strategies and early stopping are the real ones.

    naive    every trial trains its own epochs        exact    equal points of a seed are trained once
    charged  what the studies pay, each as if alone   trained  what the workers trained
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.measuring import machine, say, spread
from benchmarks.simulated import SimulatedExecutor
from hpo.core import Goal, Job, Params, Report, Strategy, Study, epochs_of, training_key, training_seed
from hpo.engine.driver import Driver
from hpo.engine.search import Identity, Search
from hpo.engine.trainings import Trainings
from hpo.space.domains import Choice, Parameter
from hpo.space.space import Space
from hpo.strategies import prior
from hpo.strategies.bayesian import Bayesian
from hpo.strategies.early_stopping import Asha
from hpo.strategies.encoding import Images
from hpo.strategies.points import Grid, Point, Problem, Random, frozen
from hpo.strategies.surrogate import Surrogate
from hpo.study_file.spec import Budget

LONGEST = 20
SPACE = Space(
    (
        Parameter("learning_rate", Choice((1e-3, 1e-2, 1e-1))),
        Parameter("channels", Choice((8, 16, 32))),
        Parameter("dense_units", Choice((32, 64, 128))),
        Parameter("activation", Choice(("relu", "tanh"))),
        Parameter("batch_norm", Choice(("off", "before"))),
        Parameter("dropout", Choice((0.0, 0.5))),
        Parameter("epochs", Choice((5, 10, LONGEST))),
    )
)
STRATEGIES: Mapping[str, Callable[[Problem], Strategy]] = {
    "bayesian": lambda problem: Bayesian(problem, Surrogate(problem, prior.load())),
    "random": Random,
    "grid": Grid,
}
GOAL = Goal()
SEEDS, TRIALS, WORLDS = 5, 40, 5
TARGET = 0.8


@dataclass(frozen=True)
class World:
    """Made-up curves: what is best where, and by how much, differs from world to world."""

    number: int

    def train(self, job: Job) -> Iterator[Report]:
        """Rises with the epochs to what the point can do, with the noise of its training seed."""
        rng = random.Random(job.seed)
        top, speed = 0.97, 0.3
        for name, value in job.params.items():
            draw = random.Random(f"{self.number}/{name}/{value}")
            if name != "epochs":
                top -= draw.uniform(0, 0.05)
                speed *= draw.uniform(0.8, 1.25)
        for epoch in range(1, epochs_of(job.params) + 1):
            value = top - 0.8 * math.exp(-speed * epoch) + rng.gauss(0, 0.004)
            yield Report(epoch, {"val_accuracy": value}, 0.05, 0.0)

    def identity(self, base: int) -> Identity:
        """Each seed of a comparison has its own split and training seed."""

        def name(params: Params, repeat: int) -> tuple[str, int]:
            seed = training_seed(base, params, repeat)
            return training_key(params, seed, {"split": base}, prefix_safe=True), seed

        return name

    def driven(self, strategies: Sequence[tuple[int, Strategy]], budget: Budget) -> list[Study]:
        searches = [Search(Study(), one, GOAL, budget, self.identity(seed), max_running=1) for seed, one in strategies]
        executor = SimulatedExecutor(self.train, slots=2)
        Driver(searches, executor, Trainings(Path("/nonexistent"), GOAL), clock=executor.clock).run()
        return [search.study for search in searches]


@dataclass(frozen=True)
class Costs:
    """Epochs of one comparison."""

    naive: int
    exact: int
    charged: int
    trained: int

    @property
    def share(self) -> float:
        return self.trained / self.naive

    def __str__(self) -> str:
        parts = [f"{name} {epochs:,} ({epochs / self.naive:.1%})" for name, epochs in asdict(self).items()]
        return ", ".join(parts)


def compared(world: World, rule: bool) -> Costs:
    strategies: list[tuple[int, Strategy]] = []
    for seed in range(SEEDS):
        for strategy in STRATEGIES.values():
            problem = Problem(SPACE, GOAL, seed, images=Images((1, 16, 16), 10, 1000))
            strategies.append((seed, Asha(strategy(problem), GOAL) if rule else strategy(problem)))
    studies = world.driven(strategies, Budget(trials=TRIALS))
    trials = [trial for study in studies for trial in study.trials]
    assert len(trials) == len(strategies) * TRIALS
    points: dict[tuple[int, Point], int] = {}
    trainings: dict[str, int] = {}
    for (seed, _), study in zip(strategies, studies, strict=True):
        for trial in study.trials:
            name = seed, frozen(trial.params)
            points[name] = max(trial.epoch, points.get(name, 0))
    for trial in trials:
        trainings[trial.training] = max(trial.epoch, trainings.get(trial.training, 0))
    trained = sum(study.epochs - study.reused_epochs for study in studies)
    assert trained == sum(trainings.values()), "no epoch twice, and none that no trial reads"
    naive, charged = sum(trial.epoch for trial in trials), sum(study.epochs for study in studies)
    return Costs(naive, sum(points.values()), charged, trained)


def whole_grid() -> float:
    """Epochs a point that a grid over epochs 5, 10, 20 trains."""
    (study,) = World(0).driven([(0, Grid(Problem(SPACE, GOAL)))], Budget())
    points = len(study.trainings)
    naive = sum(trial.epochs for trial in study.trials) / points
    trained = (study.epochs - study.reused_epochs) / points
    print(f"grid: {len(study.trials)} trials of {points} points train {trained:g} epochs a point, not {naive:g}")
    return trained


def main() -> int:
    assert SPACE.size() == 648
    print(f"machine: {machine()}\nn: {WORLDS} worlds of curves, {3 * SEEDS * TRIALS} trials in each; counts, exact")
    plain = []
    for number in range(WORLDS):
        plain.append(compared(World(number), rule=False))
        print(f"world {number}: {plain[-1]}; with asha: {compared(World(number), rule=True)}", flush=True)
    shares = [100 * costs.share for costs in plain]
    say("trained of the naive epochs", spread(shares, " %"), f"at most {TARGET:.0%}", WORLDS)
    longest = whole_grid()
    return int(max(shares) > 100 * TARGET or longest != LONGEST)


if __name__ == "__main__":
    sys.exit(main())
