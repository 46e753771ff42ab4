"""A space in which about half of the points diverge: bayesian's share of diverging trials against random's.

    python -m benchmarks.diverging [--seeds 10] [--trials 40]

Real trainings of digits (3 epochs each), one trial at a time, no early stopping; one cache of curves for all, so
that a point is trained once. Diverged and nan count. The interval is Student's on the paired differences of the shares.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import hpo
from benchmarks.kept_curves import KeptCurves
from benchmarks.measuring import machine
from benchmarks.simulated import SimulatedExecutor
from hpo.comparison.statistics import paired
from hpo.core import Outcome, Strategy, Study
from hpo.engine import components
from hpo.engine.changes import load_data
from hpo.engine.components import Components
from hpo.engine.driver import Driver
from hpo.engine.search import Search
from hpo.engine.trainings import Trainings
from hpo.files import Folders
from hpo.strategies import prior
from hpo.strategies.bayesian import Bayesian
from hpo.strategies.points import Problem, Random
from hpo.strategies.surrogate import Surrogate
from hpo.study_file.spec import Budget

SPACE = Path(__file__).with_name("diverging.yaml")


def bayesian(problem: Problem) -> Strategy:
    """With the prior that has seen no digits."""
    return Bayesian(problem, Surrogate(problem, prior.load(left_out="handwriting")))


STRATEGIES: Mapping[str, Callable[[Problem], Strategy]] = {"bayesian": bayesian, "random": Random}
LOST = (Outcome.DIVERGED, Outcome.NAN)


def outcomes(components: Components, kept: KeptCurves, strategy: str, seed: int, trials: int) -> Counter[Outcome]:
    problem = replace(components.problem(), seed=seed)
    search = Search(
        Study(),
        STRATEGIES[strategy](problem),
        problem.goal,
        Budget(trials=trials),
        components.identity(),
        max_running=1,
    )
    executor = SimulatedExecutor(kept.train, 1)
    Driver([search], executor, Trainings(Path("/nonexistent"), problem.goal), clock=executor.clock).run()
    assert len(search.study) == trials, search.errors
    return Counter(trial.outcome for trial in search.study.trials)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=40)
    options = parser.parse_args()
    print(f"machine: {machine()}\nn: {options.seeds} paired seeds of {options.trials} trials", flush=True)
    shares: dict[str, list[float]] = {name: [] for name in STRATEGIES}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = hpo.load(SPACE)
        dataset = load_data(spec, Folders(folder, "diverging", "random", 0))
        assembled = components.assemble(spec, dataset, ["cpu"])
        kept = KeptCurves(components.recipe(spec, dataset, "cpu"), folder / "curves")
        for seed in range(options.seeds):
            for strategy, share in shares.items():
                counted = outcomes(assembled, kept, strategy, seed, options.trials)
                share.append(sum(counted[outcome] for outcome in LOST) / options.trials)
            print(f"    seed {seed}: " + ", ".join(f"{n} {100 * s[-1]:.0f} %" for n, s in shares.items()), flush=True)
    difference = paired(shares["random"], shares["bayesian"])
    low, high = 100 * difference.interval.low, 100 * difference.interval.high
    print(
        f"diverging trials: bayesian {statistics.mean(shares['bayesian']):.1%}, random "
        f"{statistics.mean(shares['random']):.1%}; difference {100 * difference.mean:.1f} points [{low:.1f}, {high:.1f}]"
        f"   (target: an interval above zero)"
    )
    return int(not low > 0)


if __name__ == "__main__":
    sys.exit(main())
