"""Epochs until a method has reached what random search reaches with its whole budget, on pictures that no experience is of.

    python -m benchmarks.racing [--tasks letters,stripes] [--methods ...] [--seeds 20] [--minutes 60]

The target is the median over seeds of random's best after 20 full trainings. Every epoch a method trains is charged
to it, also one that another method or seed had trained; a value counts at 1, 3, 9 and 27 epochs. A method that does not
get there within random's budget is charged the whole of it, so a ratio is that of restricted means. Intervals
are 95 % bootstraps, over tasks first and then over seeds, paired. Of the recorded trainings, those on any picture of the task's kind are
left out (RACES in benchmarks/prior_tasks.py).

Curves are kept in --curves, so that the race can be run in pieces: the same command goes on where the last one stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import optuna

import hpo
from benchmarks.kept_curves import KeptCurves
from benchmarks.measuring import machine
from benchmarks.prior import build, records_of
from benchmarks.prior_tasks import HALVES, RACES
from benchmarks.simulated import SimulatedExecutor
from hpo.comparison.compare import curve
from hpo.core import (
    EPOCHS,
    Continue,
    Decision,
    Event,
    Goal,
    Job,
    Params,
    Report,
    State,
    Strategy,
    Study,
    TrainingFailed,
    training_key,
    training_seed,
)
from hpo.engine.driver import Driver
from hpo.engine.search import Search
from hpo.engine.trainings import Trainings
from hpo.models import families
from hpo.space.domains import Choice, Domain, Parameter, Range
from hpo.space.space import Space
from hpo.strategies import prior as learned
from hpo.strategies.bayesian import Bayesian
from hpo.strategies.early_stopping import Asha, Predictive, first_rung
from hpo.strategies.encoding import Images
from hpo.strategies.points import Problem, Random
from hpo.strategies.surrogate import Surrogate, experience
from hpo.strategies.tpe import Coordinate, Tpe
from hpo.study_file.spec import Budget
from hpo.training.recipe import Recipe

SPACE = hpo.load(Path(__file__).with_name("racing.yaml")).space
RUNGS = (1, 3, 9, 27)  # epochs that count, for every method: at which early stopping lets a trial rest
FULL = RUNGS[-1]
BUDGET = 20 * FULL
GOAL = Goal(epochs=RUNGS)
NAMES = {f"x{i}": name for i, name in enumerate(name for name in SPACE.names if name != EPOCHS)}
NOTHING: Mapping[str, Domain] = {
    "x8": Range(0, 1, False),
    "x9": Range(1e-5, 0.1, False, log=True),
    "x10": Choice((1, 2, 3)),
    "x11": Choice(("a", "b")),
}
UNKNOWN = Space(  # twelve names that hpo does not know, as of a user's own model, which makes use of eight
    (
        *(Parameter(own, SPACE[name].domain) for own, name in NAMES.items()),
        *(Parameter(own, domain) for own, domain in NOTHING.items()),
        SPACE[EPOCHS],
    )
)
NOWHERE = Path("/nonexistent")  # curves are kept, checkpoints are not
HERO, SECOND = "bayesian+predictive", "second study"
OTHER = dict(zip(HALVES, [*HALVES][4:] + [*HALVES][:4], strict=True))  # another kind of pictures


@dataclass(frozen=True)
class Track:
    """One task, ready: its shape, the curves kept of it, and the families of tasks that the prior must not have seen."""

    name: str
    shape: tuple[int, int, int]
    outputs: int
    train: int
    kept: KeptCurves
    left_out: tuple[str, ...]
    folder: Path
    space: Space = SPACE

    def problem(self, seed: int) -> Problem:
        feasible = lambda params: families.infeasible("cnn", known(params), self.shape, self.outputs, ())  # noqa: E731
        images = Images(self.shape, self.outputs, self.train)
        return Problem(self.space, GOAL, seed, feasible, images=images)

    def identity(self, params: Params, repeat: int) -> tuple[str, int]:
        seed = training_seed(0, params, repeat)
        return training_key(params, seed, {"task": self.name}, True), seed

    def trains(self, job: Job) -> Iterator[Report]:
        """Points that differ in what means nothing alone are charged each, and have one kept curve."""
        params = known(job.params)
        key, seed = self.identity(params, 0)
        return self.kept.train(replace(job, training=key, params=params, seed=seed))


def known(params: Params) -> Params:
    """A point by the names that hpo knows, without what means nothing."""
    return {NAMES.get(name, name): value for name, value in params.items() if name not in NOTHING}


@cache
def track(name: str, folder: Path, first: bool = False) -> Track:
    """first: the half of it that was searched before."""
    raced = next(task for task in RACES if task.name == name)
    task = HALVES[name] if first else raced
    data = task.dataset()
    kept = KeptCurves(lambda: Recipe("cnn", "cross_entropy", Path(), "cpu", dataset=data)(), folder / task.name)
    return Track(task.name, data.shape, data.outputs, task.train, kept, RACES[raced], folder)


class OneEpochFirst:
    """One epoch for every trial until `screened` trials had theirs, then the best in full, best first."""

    def __init__(self, problem: Problem, screened: int) -> None:
        self._goal, self._random, self._screened = problem.goal, Random(problem), screened

    def propose(self, study: Study, slots: int) -> list[Decision]:
        if len(study) < self._screened:
            return first_rung(self._random.propose(study, slots), 1)
        paused = sorted(study.with_state(State.PAUSED), key=lambda trial: (self._goal.score(trial), trial.number))
        return [Continue(trial.number, trial.epochs) for trial in paused[:slots]]


# -- methods: (track, seed, target) -> epochs until the target, infinite for never, and the best value at the budget ---

Finish = tuple[float, float]
Make = Callable[[Track, Problem], Strategy]


def driven(make: Make, on: Track, seed: int, target: float, slots: int = 1) -> Finish:
    course = curve("", seed, searched(make, on, seed, slots), GOAL)
    return course.epochs_to(target, GOAL, BUDGET), course.value(BUDGET)


def unknown(make: Make, on: Track, seed: int, target: float) -> Finish:
    return driven(make, replace(on, space=UNKNOWN), seed, target)


def searched(make: Make, on: Track, seed: int, slots: int = 1) -> list[Event]:
    problem = on.problem(seed)
    events: list[Event] = []
    search = Search(Study(), make(on, problem), problem.goal, Budget(total_epochs=BUDGET), on.identity, events.append)
    executor = SimulatedExecutor(on.trains, slots)
    Driver([search], executor, Trainings(NOWHERE, problem.goal), clock=executor.clock).run()
    assert search.study.closed != "failing", search.errors
    return events


def by_the_book(on: Track, seed: int, target: float) -> Finish:
    """The script of Optuna's documentation (HyperbandPruner), counting what it trains; one that diverges returns 0."""
    suggested = [(parameter, Coordinate(parameter.domain, plain=True)) for parameter in SPACE.parameters]
    spent, best, reached = 0, 0.0, float("inf")

    def objective(trial: optuna.Trial) -> float:
        nonlocal spent, best, reached
        params: dict[str, int | float | str | bool] = {}
        for parameter, coordinate in suggested:
            if parameter.active(params):
                params[parameter.name] = coordinate.suggest(trial, parameter)
        key, training_seed = on.identity(params, 0)
        try:
            for report in on.kept.train(Job(key, params, training_seed, 0, FULL, 0, NOWHERE)):
                spent += 1
                value = report.metrics["val_accuracy"]
                trial.report(value, report.epoch)
                if report.epoch in RUNGS and spent <= BUDGET:
                    best = max(best, value)
                if spent >= BUDGET:
                    trial.study.stop()
                    break
                if trial.should_prune():
                    raise optuna.TrialPruned
        except TrainingFailed:
            return 0.0
        reached = min(reached, spent) if best >= target else reached
        return value

    sampler = optuna.samplers.TPESampler(seed=seed)
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=FULL, reduction_factor=3)
    name = f"race-{seed}"  # the pruner deals its brackets by it; a random one would never race the same way again
    optuna.create_study(study_name=name, direction="maximize", sampler=sampler, pruner=pruner).optimize(objective)
    return reached, best


def prior_without(families: Sequence[str], folder: Path) -> learned.LearnedPrior:
    """Fitted to the package's table without these families; kept beside the curves."""
    made = hashlib.sha256(learned.SHIPPED.read_bytes()).hexdigest()[:8]
    path = folder / f"prior-{made}-{'-'.join(sorted(families))}.npz"
    if not path.exists():
        build(records_of(), {learned.WHOLE: families}, path)
    return learned.load(path)


@dataclass(frozen=True, eq=False)
class Misled:
    """A prior whose tasks say the opposite, or something of another point."""

    prior: learned.LearnedPrior
    change: Literal["negated", "shuffled"]

    @property
    def tasks(self) -> tuple[str, ...]:
        return self.prior.tasks

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.change == "negated":
            values, fails = self.prior.predict(features)
            return -values, fails
        order = np.random.default_rng(0).permutation(features.shape[1] - 4)  # those of the epoch stay
        other = (features - self.prior.centre) / self.prior.spread
        other = np.hstack([other[:, order], other[:, -4:]])
        return self.prior.predict(other * self.prior.spread + self.prior.centre)


def bayesian(on: Track, problem: Problem, change: Literal["negated", "shuffled"] | None = None) -> Strategy:
    prior = prior_without(on.left_out, on.folder)
    surrogate = Surrogate(problem, prior if change is None else Misled(prior, change))
    return Predictive(Bayesian(problem, surrogate), surrogate, problem.goal)


@cache
def first_study(name: str, folder: Path, seed: int) -> learned.Experience:
    on = track(name, folder, first=True)
    study, images = Study(searched(bayesian, on, seed)), Images(on.shape, on.outputs, on.train)
    read = experience([study], GOAL, images)
    assert read is not None
    return read


def second(on: Track, problem: Problem, before: Mapping[str, str] | None = None) -> Strategy:
    """After a first study, of another seed, on half of the classes; before: of which task, if not of this one."""
    earlier = first_study(before[on.name] if before else on.name, on.folder, problem.seed + 100)
    stored = learned.with_studies(prior_without(on.left_out, on.folder), {"first": earlier})
    digest = learned.keep(stored, on.folder / "priors")
    surrogate = Surrogate(problem, learned.load(on.folder / "priors" / f"{digest}.npz", learned.WHOLE, digest))
    return Predictive(Bayesian(problem, surrogate), surrogate, problem.goal)


def tpe(on: Track, problem: Problem, late: bool = False) -> Strategy:
    """What `bayesian` with `predictive` is where nothing is known before; late: where names say nothing either."""
    return Asha(Tpe(problem, late), problem.goal)


def random_predictive(on: Track, problem: Problem) -> Strategy:
    return Predictive(Random(problem), Surrogate(problem, prior_without(on.left_out, on.folder)), problem.goal)


Method = Callable[[Track, int, float], Finish]
METHODS: Mapping[str, Method] = {
    HERO: partial(driven, bayesian),
    "random": partial(driven, lambda on, problem: Random(problem)),
    "random+asha": partial(driven, lambda on, problem: Asha(Random(problem), problem.goal)),
    "tpe+asha": partial(driven, tpe),
    "unknown names": partial(unknown, partial(tpe, late=True)),
    "unknown names by random+asha": partial(unknown, lambda on, problem: Asha(Random(problem), problem.goal)),
    "optuna+hyperband": by_the_book,
    "one epoch first": partial(driven, lambda on, problem: OneEpochFirst(problem, screened=BUDGET // 2)),
    "random+predictive": partial(driven, random_predictive),
    "negated": partial(driven, partial(bayesian, change="negated")),
    "shuffled": partial(driven, partial(bayesian, change="shuffled")),
    SECOND: partial(driven, second),
    "second study after another": partial(driven, partial(second, before=OTHER)),
    "bayesian+predictive x8": partial(driven, bayesian, slots=8),
    "random+asha x8": partial(driven, lambda on, problem: Asha(Random(problem), problem.goal), slots=8),
}


# -- the race -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Raced:
    """One method on one task: epochs to the target and the best at the budget, seed by seed."""

    epochs: np.ndarray
    best: np.ndarray


def race(name: str, options: argparse.Namespace) -> dict[str, Raced]:
    """Random first, all seeds, for the target; then all methods, as far as the time goes."""
    on = track(name, options.curves)
    alone = [METHODS["random"](on, seed, 1.0)[1] for seed in range(options.seeds)]
    target = statistics.median(alone)
    print(
        f"{name}: target {target:.3f}, what random reaches in 20 full trainings ({min(alone):.3f} to {max(alone):.3f})"
    )
    found = {}
    for method in options.methods.split(","):
        if time.time() > options.deadline:
            break
        epochs, best = np.array([METHODS[method](on, seed, target) for seed in range(options.seeds)]).T
        found[method] = Raced(np.minimum(epochs, BUDGET), best)
        missed = sum(epochs > BUDGET)
        print(
            f"    {method:22} mean {found[method].epochs.mean():5.0f} epochs, missed {missed:2} of {options.seeds}, "
            f"best at the budget {found[method].best.mean():.4f}",
            flush=True,
        )
    return found


def against(tasks: Sequence[Mapping[str, Raced]], rival: str, hero: str) -> str:
    """Geometric mean over tasks of the ratio of mean epochs, rival to hero, with its interval."""
    rng = np.random.default_rng(0)
    pairs = [(task[rival].epochs, task[hero].epochs) for task in tasks]

    def ratio(chosen: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
        return float(np.exp(np.mean([np.log(a.mean() / b.mean()) for a, b in chosen])))

    def drawn() -> list[tuple[np.ndarray, np.ndarray]]:
        chosen = [pairs[i] for i in rng.integers(0, len(pairs), len(pairs))]
        seeds = [rng.integers(0, len(a), len(a)) for a, _ in chosen]
        return [(a[own], b[own]) for (a, b), own in zip(chosen, seeds, strict=True)]

    low, high = np.quantile([ratio(drawn()) for _ in range(2000)], [0.025, 0.975])
    each = " ".join(f"{a.mean() / b.mean():.1f}" for a, b in pairs)
    return f"{ratio(pairs):5.2f}x [{low:.2f}, {high:.2f}], task by task {each}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tasks", default=",".join(task.name for task in RACES))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--curves", type=Path, default=Path(tempfile.gettempdir(), "hpo-races"))
    options = parser.parse_args()
    options.deadline = time.time() + 60 * options.minutes
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print(f"machine: {machine()}; budget {BUDGET} epochs, n = {options.seeds} seeds", flush=True)
    found = [raced for name in options.tasks.split(",") if (raced := race(name, options))]
    methods = [name for name in METHODS if found and all(name in task for task in found)]
    for rival in methods:
        for hero in (HERO, "random+asha", SECOND):
            if rival != hero and hero in methods:
                print(f"epochs of {rival} / {hero}: {against(found, rival, hero)}", flush=True)


if __name__ == "__main__":
    main()
