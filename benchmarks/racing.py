"""Epochs until a method has reached what random search reaches with its whole budget, on digits and on digits-hard.

    python -m benchmarks.racing [--data digits,digits-hard] [--seeds 20] [--trials 20] [--minutes 60] [--jobs 1]

The target is the median over seeds of random's best after `trials` full trials. Every epoch a method trains is charged
to it, also one that another method or seed had trained; only complete trials count as reached. A method that does not
get there within random's budget is charged the whole of it (and counted as a miss), so a ratio is that of restricted
means. Intervals are percentile bootstraps over seeds, paired; the target is taken as given.

Curves are kept in --curves, so that the race can be run in pieces: the same command goes on where the last one stopped.

    bayesian+asha     hpo's strategy and early stopping with their defaults, one trial at a time
    random, bayesian  hpo's, no early stopping
    optuna            TPESampler and HyperbandPruner as Optuna's documentation writes them, every report and every
                      should_prune() in this process; a training that diverges returns 0, the worst value
    one epoch first   random points, one epoch each, for half the budget; then the best of them in full, best first
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import optuna
from scipy import stats

import hpo
from benchmarks.kept_curves import KeptCurves
from benchmarks.measuring import machine
from benchmarks.simulated import SimulatedExecutor
from hpo.comparison.compare import curve
from hpo.core import DONE, Continue, Decision, Event, Job, NoDecision, State, Strategy, Study, TrainingFailed, epochs_of
from hpo.engine import components
from hpo.engine.changes import load_data
from hpo.engine.components import Components
from hpo.engine.driver import Driver
from hpo.engine.search import Search
from hpo.engine.trainings import Trainings
from hpo.files import Folders
from hpo.strategies.bayesian import Bayesian, Coordinate
from hpo.strategies.early_stopping import Asha, first_rung
from hpo.strategies.points import Problem, Random
from hpo.study_file.spec import Budget

SPACE = Path(__file__).with_name("racing.yaml")
HERO = "bayesian+asha"
NOWHERE = Path("/nonexistent")  # curves are kept, checkpoints are not


class OneEpochFirst:
    """One epoch for every trial until `screened` trials had theirs, then the best in full, best first."""

    def __init__(self, problem: Problem, screened: int) -> None:
        self._goal, self._random, self._screened = problem.goal, Random(problem), screened

    def propose(self, study: Study, slots: int) -> list[Decision] | NoDecision:
        if len(study) < self._screened:
            return first_rung(self._random.propose(study, slots), 1)
        paused = sorted(study.with_state(State.PAUSED), key=lambda trial: (self._goal.score(trial), trial.number))
        return [Continue(trial.number, trial.epochs) for trial in paused[:slots]] or DONE


@dataclass(frozen=True)
class Track:
    """One data set, ready: what a study needs, the curves kept of it, and the budget in epochs."""

    components: Components
    kept: KeptCurves
    budget: int

    def problem(self, seed: int, target: float | None) -> Problem:
        components = self.components
        goal = replace(components.spec.goal, target=target)
        return Problem(components.spec.space, goal, seed, components.feasible())


@cache
def track(data: str, trials: int, folder: Path) -> Track:
    spec = hpo.load(SPACE, sets=[f"data={data}"])
    dataset = load_data(spec, Folders(folder, data, "race", 0))
    recipe = components.recipe(spec, dataset, "cpu")
    budget = trials * epochs_of(spec.space.constants)
    return Track(components.assemble(spec, dataset, ["cpu"]), KeptCurves(recipe, folder / "curves"), budget)


# -- methods: (track, seed, target) -> epochs until the target, and the best value within the budget ----------------

Finish = tuple[float, float]


def driven(make: Callable[[Problem, int], Strategy], on: Track, seed: int, target: float | None) -> Finish:
    problem = on.problem(seed, target)
    events: list[Event] = []
    budget = Budget(total_epochs=on.budget)
    search = Search(Study(), make(problem, on.budget), problem.goal, budget, on.components.identity(), events.append)
    executor = SimulatedExecutor(on.kept.train, 1)
    Driver([search], executor, Trainings(NOWHERE, problem.goal), clock=executor.clock).run()
    assert search.study.closed != "failing", search.errors
    course = curve("", seed, events, problem.goal)
    reached = course.epochs_to(target, problem.goal, on.budget) if target is not None else float("inf")
    return reached, course.value(on.budget)


def by_the_book(on: Track, seed: int, target: float | None) -> Finish:
    """The script of Optuna's documentation (HyperbandPruner), counting what it trains."""
    space = on.components.spec.space
    suggested = [(parameter, Coordinate(parameter.domain, plain=True)) for parameter in space.parameters]
    identity, full = on.components.identity(), epochs_of(space.constants)
    spent, best = 0, 0.0

    def objective(trial: optuna.Trial) -> float:
        nonlocal spent, best
        params: dict[str, int | float | str | bool] = {}
        for parameter, coordinate in suggested:
            if parameter.active(params):
                params[parameter.name] = coordinate.suggest(trial, parameter)
        key, training_seed = identity(params, 0)
        try:
            for report in on.kept.train(Job(key, params, training_seed, 0, full, 0, NOWHERE)):
                spent += 1
                value = report.metrics["val_accuracy"]
                trial.report(value, report.epoch)
                if report.epoch == full and spent <= on.budget:
                    best = max(best, value)
                if spent >= on.budget:
                    trial.study.stop()
                    break
                if trial.should_prune():
                    raise optuna.TrialPruned
        except TrainingFailed:
            return 0.0
        if target is not None and best >= target:
            trial.study.stop()
        return value

    sampler = optuna.samplers.TPESampler(seed=seed)
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=full, reduction_factor=3)
    name = f"race-{seed}"  # the pruner deals its brackets by it; a random one would never race the same way again
    optuna.create_study(study_name=name, direction="maximize", sampler=sampler, pruner=pruner).optimize(objective)
    return (spent if target is not None and best >= target else float("inf")), best


def asha(problem: Problem, budget: int) -> Strategy:
    return Asha(Bayesian(problem), problem.goal)


def screening(problem: Problem, budget: int) -> Strategy:
    return OneEpochFirst(problem, screened=budget // 2)


Method = Callable[[Track, int, float | None], Finish]
METHODS: Mapping[str, Method] = {
    HERO: partial(driven, asha),
    "random": partial(driven, lambda problem, budget: Random(problem)),
    "bayesian": partial(driven, lambda problem, budget: Bayesian(problem)),
    "optuna": by_the_book,
    "one epoch first": partial(driven, screening),
}


# -- the race -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Leg:
    """One method at one seed; a target of None is random's own whole budget."""

    data: str
    method: str
    seed: int
    target: float | None
    trials: int
    folder: Path
    deadline: float


def run(leg: Leg) -> Finish | None:
    if time.time() > leg.deadline:
        return None
    on = track(leg.data, leg.trials, leg.folder)
    on.kept.refresh()
    return METHODS[leg.method](on, leg.seed, leg.target)


Runner = Callable[[Sequence[Leg]], Iterator[Finish | None]]


def race(data: str, options: argparse.Namespace, runner: Runner) -> None:
    """Random first, all seeds, for the target; then all methods, seed by seed, as far as the time goes."""
    common = {"data": data, "trials": options.trials, "folder": options.curves, "deadline": options.deadline}
    alone = [Leg(method="random", seed=seed, target=None, **common) for seed in range(options.seeds)]
    bests = [finish[1] for finish in runner(alone) if finish is not None]
    if not bests:
        print(f"{data}: no time left", flush=True)
        return
    target = statistics.median(bests)
    legs = [Leg(method=method, seed=seed, target=target, **common) for seed in range(len(bests)) for method in METHODS]
    finished: dict[str, dict[int, float]] = {method: {} for method in METHODS}
    for leg, finish in zip(legs, runner(legs), strict=True):
        if finish is not None:
            finished[leg.method][leg.seed] = finish[0]
    seeds = sorted(set.intersection(*(set(times) for times in finished.values())))
    budget = track(data, options.trials, options.curves).budget
    print(
        f"{data}: target {target:.4f} val_accuracy, the median of what random reaches in {options.trials} trials = "
        f"{budget} epochs (its seeds: {min(bests):.4f} to {max(bests):.4f}); n = {len(seeds)} seeds of {options.seeds}"
    )
    if seeds:
        show({name: [times[seed] for seed in seeds] for name, times in finished.items()}, budget)


def show(times: Mapping[str, Sequence[float]], budget: int) -> None:
    charged = {name: np.minimum(values, budget) for name, values in times.items()}
    for name, values in times.items():
        missed = sum(value == float("inf") for value in values)
        ratio, low, high = against(charged[name], charged[HERO])
        ratio_shown = "" if name == HERO else f"   {name} / {HERO} = {ratio:.2f} [{low:.2f}, {high:.2f}]"
        print(
            f"    {name:16} mean {charged[name].mean():5.0f} epochs, median {np.median(charged[name]):5.0f}, "
            f"missed {missed} of {len(values)}{ratio_shown}",
            flush=True,
        )


def against(rival: np.ndarray, ours: np.ndarray) -> tuple[float, float, float]:
    """Ratio of the mean epochs with a 95 % interval: above 1 the rival needs more."""

    def ratio(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return a.mean(axis=axis) / b.mean(axis=axis)

    if len(rival) < 2:
        return float(ratio(rival, ours)), float("-inf"), float("inf")
    drawn = stats.bootstrap((rival, ours), ratio, paired=True, vectorized=True, method="percentile", rng=0)
    return float(ratio(rival, ours)), *map(float, drawn.confidence_interval)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", default="digits,digits-hard")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--curves", type=Path, default=Path(tempfile.gettempdir(), "hpo-racing"))
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print(f"machine: {machine()}", flush=True)
    began, names = time.time(), options.data.split(",")
    for index, data in enumerate(names):
        options.deadline = began + 60 * options.minutes * (index + 1) / len(names)
        track(data, options.trials, options.curves)  # one process makes the data
        if options.jobs == 1:
            race(data, options, lambda legs: map(run, legs))
            continue
        with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
            race(data, options, partial(pool.imap, run))


if __name__ == "__main__":
    main()
