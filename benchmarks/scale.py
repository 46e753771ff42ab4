"""How far one driver goes: the real driver, strategies and journal, with workers that take no time (docs/scale.md).

    python -m benchmarks.scale [--workers 8 64 512 4096] [--strategies random grid asha tpe bayesian] [--trials N] [--profile]

Trials last a minute (6 epochs of 5 to 15 s) on a simulated clock. What the driver really takes between two messages is added to that
clock, so that the idle share counts how long workers waited for the driver; it is taken up to the last start, before the
workers run dry at the end. Every row is a process of its own: `memory` is its peak.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import random
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.simulated import SimulatedExecutor
from hpo.core import (
    Decision,
    Goal,
    Job,
    Message,
    Report,
    Reported,
    Strategy,
    Study,
    training_key,
    training_seed,
)
from hpo.engine.driver import Driver
from hpo.engine.search import Search
from hpo.engine.trainings import Trainings
from hpo.journal import Journal
from hpo.space.domains import Choice, Condition, Parameter, Range
from hpo.space.space import Space
from hpo.strategies import prior
from hpo.strategies.bayesian import Bayesian
from hpo.strategies.early_stopping import Asha
from hpo.strategies.encoding import Images
from hpo.strategies.points import Grid, Problem, Random
from hpo.strategies.surrogate import Surrogate
from hpo.strategies.tpe import Tpe
from hpo.study_file.spec import Budget

EPOCHS = 6
METRICS = ("train_loss", "val_loss", "val_accuracy", "val_balanced_accuracy", "val_macro_f1", "train_skill", "spikes")
ROUNDS = 10  # trials a worker
LEAST = 400  # trials, so that a proposal's cost is that of a study in progress


def space(gridded: bool) -> Space:
    """A CNN space of 18 parameters, 8 of them conditional."""
    step: dict[str, Any] = {"count": 4} if gridded else {}
    blocks = [
        Parameter(
            f"block{block}.{name}", Choice(values), (Condition("blocks", tuple(range(block, 4))),) if block > 1 else ()
        )
        for block in (1, 2, 3)
        for name, values in (("channels", (8, 16, 32, 64)), ("kernel_size", (1, 3, 5)), ("pool", ("max", "average")))
    ]
    return Space(
        (
            Parameter("blocks", Choice((1, 2, 3))),
            *blocks,
            Parameter("activation", Choice(("relu", "leaky_relu", "silu"))),
            Parameter("leaky_slope", Range(0.01, 0.3, False, **step), (Condition("activation", ("leaky_relu",)),)),
            Parameter("batch_size", Choice((16, 32, 64, 128))),
            Parameter("optimizer", Choice(("sgd", "adam"))),
            Parameter("momentum", Range(0.0, 0.99, False, **step), (Condition("optimizer", ("sgd",)),)),
            Parameter("learning_rate", Range(1e-4, 1e-1, False, log=True, **step)),
            Parameter("dropout", Range(0.0, 0.5, False, **step)),
            Parameter("epochs", Choice((EPOCHS,))),
        )
    )


def train(job: Job) -> Iterator[Report]:
    rng = random.Random(job.seed)
    seconds, skill = rng.uniform(5, 15), rng.random()
    for epoch in range(1, EPOCHS + 1):
        value = skill * (1 - 0.5**epoch) + rng.gauss(0, 0.01)
        yield Report(epoch, dict.fromkeys(METRICS, value), seconds, 0.0)


class Charged(SimulatedExecutor):
    """Adds to the simulated clock what the driver takes, and sums up how long workers had nothing to do."""

    def __init__(self, slots: int) -> None:
        super().__init__(train, slots, start=1e9)
        self.idle_seconds, self.first, self.last = 0.0, self._now, self._now
        self._idle_since = deque([self._now] * slots)
        self._left = time.perf_counter()

    def submit(self, job: Job) -> None:
        self._charge()
        self.idle_seconds += self._now - self._idle_since.popleft()
        self.last = self._now
        super().submit(job)

    def wait(self, timeout: float | None) -> list[Message]:
        self._charge()
        messages = self._due_messages(None)
        late = self._now
        while self._due and self._due[0][0] <= late:
            messages += self._due_messages(late)
        self._left = time.perf_counter()
        return messages

    @property
    def idle_share(self) -> float:
        return self.idle_seconds / self.slots / max(1e-9, self.last - self.first)

    def _charge(self) -> None:
        now = time.perf_counter()
        self._now += now - self._left
        self._left = now

    def _due_messages(self, late: float | None) -> list[Message]:
        """Of the next moment at which there is any, in which workers go on although the driver may be late."""
        before = self._now
        messages = super().wait(None)
        self._idle_since += [self._now] * sum(not isinstance(message, Reported) for message in messages)
        self._now = max(before, self._now)
        return messages


class Timed:
    """A strategy, and how long it took."""

    def __init__(self, strategy: Strategy) -> None:
        self.strategy, self.seconds = strategy, 0.0

    def propose(self, study: Study, slots: int) -> list[Decision]:
        began = time.perf_counter()
        decisions = self.strategy.propose(study, slots)
        self.seconds += time.perf_counter() - began
        return decisions


def strategy(name: str) -> Strategy:
    goal, gridded = Goal(), name == "grid"
    problem = Problem(space(gridded), goal, images=Images((1, 16, 16), 10, 1000))
    plain: Mapping[str, Callable[[Problem], Strategy]] = {
        "random": Random,
        "grid": Grid,
        "tpe": Tpe,
        "bayesian": lambda problem: Bayesian(problem, Surrogate(problem, prior.load())),
    }
    made = plain[name.removeprefix("asha-").replace("asha", "random")]
    inner = made(problem)
    return Asha(inner, goal) if name.startswith("asha") else inner


def one(name: str, workers: int, trials: int, folder: Path) -> dict[str, float]:
    """One study, and what it cost its driver."""
    executor, timed = Charged(workers), Timed(strategy(name))
    began = time.perf_counter()
    with Journal.open(folder / "journal.db") as journal:
        search = Search(Study(), timed, Goal(), Budget(trials=trials), identity, journal.append)
        Driver([search], executor, Trainings(folder / "trainings"), clock=executor.clock).run()
    seconds = time.perf_counter() - began
    assert len(search.study) == trials, len(search.study)
    return {
        "trials": trials,
        "seconds": seconds,
        "trials a second": trials / seconds,
        "ms a trial": timed.seconds / trials * 1e3,
        "proposing": timed.seconds / seconds,
        "idle": executor.idle_share,
        "MB": peak_bytes() / 2**20,
        "journal MB": (folder / "journal.db").stat().st_size / 2**20,
    }


def peak_bytes() -> int:
    """Of this process since it was executed; getrusage would count the one it was forked from."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def identity(params: object, repeat: int) -> tuple[str, int]:
    seed = training_seed(0, params, repeat)  # type: ignore[arg-type]
    return training_key(params, seed, {}, True), seed  # type: ignore[arg-type]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workers", type=int, nargs="+", default=[8, 64, 512, 4096])
    parser.add_argument("--strategies", nargs="+", default=["random", "grid", "asha", "tpe", "bayesian"])
    parser.add_argument("--trials", type=int)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--one", action="store_true", help="this process, the result as JSON")
    options = parser.parse_args()
    if options.one:
        name, workers = options.strategies[0], options.workers[0]
        profile = cProfile.Profile()
        with tempfile.TemporaryDirectory(prefix="hpo-scale-") as folder:
            result = (
                profile.runcall(one, name, workers, options.trials, Path(folder))
                if options.profile
                else one(name, workers, options.trials, Path(folder))
            )
        if options.profile:
            pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(18)
        print(json.dumps(result))
        return 0
    from benchmarks.measuring import machine  # torch: none of the processes that are measured has it

    print(f"machine: {machine()}\nevery trial {EPOCHS} epochs of 5 to 15 s, {len(METRICS)} metrics each")
    print(
        f"{'strategy':>14}{'workers':>9}{'trials':>8}{'trials/s':>10}{'ms/trial':>13}{'proposing':>11}{'idle':>8}{'memory':>9}{'journal':>9}"
    )
    for name in options.strategies:
        for workers in options.workers:
            row(name, workers, options.trials or trials_for(name, workers), options.profile)
    return 0


def trials_for(name: str, workers: int) -> int:
    """Enough for many rounds, except where every proposal costs more than the one before."""
    most = max(2_000, workers + 500) if name not in ("random", "grid") else 10**9
    return max(LEAST, min(ROUNDS * workers, most))


def row(name: str, workers: int, trials: int, profile: bool) -> None:
    command = [sys.executable, "-m", "benchmarks.scale", "--one", "--strategies", name, "--workers", str(workers)]
    command += ["--trials", str(trials), *(["--profile"] if profile else [])]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    print(
        f"{name:>14}{workers:>9,}{trials:>8,}{found['trials a second']:>10.0f}{found['ms a trial']:>13.2f}{found['proposing']:>11.0%}"
        f"{found['idle']:>8.1%}{found['MB']:>6.0f} MB{found['journal MB']:>6.0f} MB",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
