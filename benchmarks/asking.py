"""Milliseconds a proposal costs once a study has 10, 100, 1,000 and 5,000 trials: each strategy, plain and with asha.

    python -m benchmarks.asking [--sizes 10,100,1000,5000] [--asks 20]
    python -m benchmarks.asking --waiting

A study of 18 parameters, seven of them conditional, is made of events; then one proposal after the other is requested
and carried out, so that taking in what is new is part of each. With asha most trials are paused at a rung, and a proposal may
be to continue one of them: that is counted apart from a new point. `again` is the first proposal of a driver that takes
the study over. Processor time: other processes share the machine.

--waiting: the share of their time that two workers wait for a decision, where an epoch lasts 30 ms, by how much was read: bayesian
with predictive on search_spaces/cnn-small.yaml at 8x8, a driver, and made-up curves.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import hpo
from benchmarks.measuring import machine
from benchmarks.simulated import SimulatedExecutor
from hpo.core import (
    Continue,
    Continued,
    Decision,
    Ended,
    Event,
    Goal,
    Job,
    Params,
    Paused,
    Report,
    Reported,
    Start,
    Started,
    State,
    Strategy,
    Study,
    Value,
    digest,
    epochs_of,
    without_epochs,
)
from hpo.engine.driver import Driver
from hpo.engine.search import Search
from hpo.engine.trainings import Trainings
from hpo.models.families import infeasible
from hpo.space.domains import Choice, Condition, Parameter, Range
from hpo.space.space import Space
from hpo.strategies import prior
from hpo.strategies.bayesian import Bayesian
from hpo.strategies.early_stopping import Asha, Predictive
from hpo.strategies.encoding import Images
from hpo.strategies.points import Grid, Problem, Random
from hpo.strategies.surrogate import Surrogate, readings
from hpo.strategies.tpe import Tpe
from hpo.study_file.spec import Budget

GOAL = Goal()
EPOCH = 0.03  # seconds


def when(name: str, *allowed: Value) -> tuple[Condition, ...]:
    return (Condition(name, allowed),)


SPACE = Space(
    (
        Parameter("blocks", Choice((1, 2, 3))),
        Parameter("block1.channels", Choice((8, 16, 32, 64))),
        Parameter("block2.channels", Choice((8, 16, 32, 64)), when("blocks", 2, 3)),
        Parameter("block3.channels", Choice((8, 16, 32, 64)), when("blocks", 3)),
        Parameter("kernel_size", Choice((3, 5))),
        Parameter("activation", Choice(("relu", "leaky_relu", "tanh", "sigmoid", "silu"))),
        Parameter("leaky_slope", Range(0.01, 0.3, False, log=True), when("activation", "leaky_relu")),
        Parameter("batch_norm", Choice(("off", "before", "after"))),
        Parameter("conv_dropout", Range(0.0, 0.5, False)),
        Parameter("dense_layers", Choice((0, 1, 2))),
        Parameter("dense_units", Choice((32, 64, 128)), when("dense_layers", 1, 2)),
        Parameter("dropout", Range(0.0, 0.5, False), when("dense_layers", 1, 2)),
        Parameter("optimizer", Choice(("adam", "sgd", "rmsprop"))),
        Parameter("learning_rate", Range(1e-4, 1.0, False, log=True)),
        Parameter("momentum", Range(0.0, 0.95, False), when("optimizer", "sgd", "rmsprop")),
        Parameter("nesterov", Choice((False, True)), when("optimizer", "sgd")),
        Parameter("l2", Range(1e-6, 1e-2, False, log=True)),
        Parameter("epochs", Choice((9, 27))),
    )
)


def discretized(space: Space) -> Space:
    """The same with ten levels a range: what a grid can enumerate."""
    return Space(
        tuple(
            replace(p, domain=replace(p.domain, count=10)) if isinstance(p.domain, Range) else p
            for p in space.parameters
        )
    )


IMAGES = Images((1, 16, 16), 10, 1000)
STRATEGIES: Mapping[str, tuple[Callable[[Problem], Strategy], Space]] = {
    "bayesian": (lambda problem: Bayesian(problem, Surrogate(problem, prior.load())), SPACE),
    "tpe": (Tpe, SPACE),
    "random": (Random, SPACE),
    "grid": (Grid, discretized(SPACE)),
}
RULES: Mapping[str, Callable[[Strategy], Strategy]] = {
    "plain": lambda strategy: strategy,
    "asha": lambda strategy: Asha(strategy, GOAL),
}


class Made:
    """A study to which every decision happens at once."""

    def __init__(self) -> None:
        self.study = Study()
        self._clock = 0.0

    def grow(self, strategy: Strategy, trials: int) -> None:
        while len(self.study) < trials:
            self.carry_out(strategy.propose(self.study, 1))

    def carry_out(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            match decision:
                case Start(params=params, until=until):
                    number, key = len(self.study), digest([dict(params)])
                    self._apply(Started(self._clock, number, params, 0, key, 0, until))
                    self._train(number, until)
                case Continue(trial=number, until=until):
                    self._apply(Continued(self._clock, number, until))
                    self._train(number, until)
                case _:
                    raise AssertionError(decision)

    def _train(self, number: int, until: int) -> None:
        trial = self.study.trials[number]
        rng = random.Random(number)
        for epoch in range(trial.epoch + 1, until + 1):
            value = quality(trial.params) * (1 - 1 / (epoch + 1)) + rng.gauss(0, 0.01)
            self._apply(Reported(trial.training, Report(epoch, {"val_accuracy": value}, 0.05, self._clock)))
        done = until == epochs_of(trial.params)
        self._apply(Ended(self._clock, number, State.COMPLETE) if done else Paused(self._clock, number))

    def _apply(self, event: Event) -> None:
        self._clock += 0.05
        self.study.apply(event)


def quality(params: Params) -> float:
    return 1 - 0.2 * abs(SPACE["learning_rate"].domain.encode(params["learning_rate"]) - 0.5)


@dataclass
class Spent:
    """Milliseconds of proposals: the first of a fresh instance, those that start a trial, those that let one go on."""

    first: float
    starts: list[float]
    continues: list[float]

    def __str__(self) -> str:
        text = f"new point {statistics.median(self.starts):8.2f} ms ({max(self.starts):.2f}), again {self.first:.0f} ms"
        return text + (f", go on {statistics.median(self.continues):.2f} ms" if self.continues else "")


def measure(strategy: Strategy, made: Made, asks: int) -> Spent:
    """Ask until `asks` new points were proposed."""
    spent = Spent(0.0, [], [])
    while len(spent.starts) < asks:
        began = time.process_time()
        decisions = strategy.propose(made.study, 1)
        taken = 1e3 * (time.process_time() - began)
        if not spent.first:
            spent.first = taken
        else:
            (spent.starts if isinstance(decisions[0], Start) else spent.continues).append(taken)
        made.carry_out(decisions)
    return spent


@dataclass
class Timed:
    """A strategy, and (readings, epochs, seconds) of each time it was asked."""

    strategy: Strategy
    asked: list[tuple[int, int, float]]

    def propose(self, study: Study, slots: int) -> list[Decision]:
        began = time.thread_time()
        decisions = self.strategy.propose(study, slots)
        self.asked.append((len(readings(study, GOAL)), study.epochs, time.thread_time() - began))
        return decisions


def made_up(job: Job) -> Iterator[Report]:
    rng, far = random.Random(job.training), math.log10(float(job.params["learning_rate"])) + 2.5
    for epoch in range(1, epochs_of(job.params) + 1):
        value = 0.97 - 0.05 * far**2 - 0.6 * math.exp(-0.5 * epoch) + rng.gauss(0, 0.004)
        yield Report(epoch, {"val_accuracy": max(0.05, value)}, EPOCH, 0.0)


def waiting() -> None:
    space = hpo.load({"name": "x", "data": "digits", "search_space": "cnn-small"}).space
    images = Images((1, 8, 8), 10, 1258)
    problem = Problem(space, GOAL, 0, lambda params: infeasible("cnn", params, (1, 8, 8), 10, ()), images=images)
    surrogate = Surrogate(problem, prior.load(left_out=prior.LEFT_OUT["digits"]))
    timed = Timed(Predictive(Bayesian(problem, surrogate), surrogate, GOAL), [])
    identity = lambda params, repeat: (digest(without_epochs(params)), 0)  # noqa: E731
    search = Search(Study(), timed, GOAL, Budget(total_epochs=1600), identity, lambda event: None)
    executor = SimulatedExecutor(made_up, 2)
    Driver([search], executor, Trainings(Path("unused"), GOAL), clock=executor.clock).run()
    for low, high in itertools.pairwise((0, 50, 250, 1000)):
        own = [one for one in timed.asked if low <= one[0] < high]
        spent = sum(seconds for *_, seconds in own)
        share = spent / (spent + EPOCH * (own[-1][1] - own[0][1]))
        median = 1e3 * statistics.median(seconds for *_, seconds in own)
        print(f"{low:4} to {high:4} readings: {share:.0%} of {len(own)} decisions, median {median:.1f} ms", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", default="10,100,1000,5000")
    parser.add_argument("--asks", type=int, default=20)
    parser.add_argument("--waiting", action="store_true")
    options = parser.parse_args()
    if options.waiting:
        print(f"machine: {machine()}")
        waiting()
        return 0
    assert len(SPACE.parameters) == 18
    print(f"machine: {machine()}\nn: {options.asks} new points each; median (slowest)")
    for size in map(int, options.sizes.split(",")):
        for name, (strategy, space) in STRATEGIES.items():
            for rule, wrap in RULES.items():
                problem = Problem(space, GOAL, seed=1, images=IMAGES)
                made = Made()
                made.grow(wrap(Random(problem)), size)
                print(
                    f"{size:5} trials  {name:8} {rule:5} {measure(wrap(strategy(problem)), made, options.asks)}",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
