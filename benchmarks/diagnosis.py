"""How often the diagnosis is right: random trainings of data on which no threshold was set, labelled by intervention.

    python benchmarks/diagnosis.py [--trainings 200] [--minutes 30] [--jobs 2] [--data digits-hard] [--verbose]

Each training is repeated from the same seed with one thing changed at a time: a lower or a higher learning rate, relu
and batch norm, clipping, twice the epochs, regularization. A fault is there where removing its cause lets the
score recover: the validation accuracy rises by RECOVERY, and by a quarter of what the best training has more.
(Overfitting shows in the loss and not in the accuracy: there the validation loss must fall by a tenth.)

    hit rate      of the trainings with a fault, the share whose named fault is one that is there
    false alarms  of the trainings without one, the share that is not called healthy; once more of those among them
                  that learned (half of the best accuracy): the others are stuck, and no single change frees them
    right         of the trainings that were given a tag, the share in which removing the named cause helps
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from hpo.core import Job, Outcome, Params, Report, Train, TrainingFailed, Value
from hpo.data.dataset import load_dataset
from hpo.models.families import feasibility
from hpo.space.domains import Choice, Condition, Parameter, Range
from hpo.space.space import Space
from hpo.study_file.spec import DataSpec
from hpo.training.diagnosis import Diagnosis, Tag, diagnose
from hpo.training.recipe import Recipe

RECOVERY = 0.05  # some two standard errors of a difference of accuracies on 270 images
LOSS_RECOVERY = 0.1
QUARTER = 0.25


def when(name: str, *allowed: Value) -> tuple[Condition, ...]:
    return (Condition(name, allowed),)


SPACE = Space(
    (
        Parameter("blocks", Choice((0, 1, 2, 3))),
        Parameter("convs_per_block", Choice((1, 2)), when("blocks", 1, 2, 3)),
        Parameter("channels", Choice((8, 16)), when("blocks", 1, 2, 3)),
        Parameter("batch_norm", Choice(("off", "before")), when("blocks", 1, 2, 3)),
        Parameter("activation", Choice(("relu", "leaky_relu", "tanh", "sigmoid", "silu"))),
        Parameter("dense_layers", Choice((0, 1, 2))),
        Parameter("dense_units", Choice((32, 64)), when("dense_layers", 1, 2)),
        Parameter("optimizer", Choice(("sgd", "adam", "rmsprop"))),
        Parameter("learning_rate", Range(3e-4, 1.0, integer=False, log=True)),
        Parameter("momentum", Choice((0.0, 0.9)), when("optimizer", "sgd")),
        Parameter("batch_size", Choice((32, 64))),
        Parameter("epochs", Choice((15,))),
    )
)

REMOVES: Mapping[str, tuple[str, ...]] = {
    Tag.DIVERGED: ("rate/10", "rate/100"),
    Tag.EXPLODING: ("rate/10", "rate/100", "clip"),
    Tag.DEAD: ("rate/10", "rate/100"),
    Tag.SATURATED: ("rate/10", "rate/100", "relu"),
    Tag.VANISHING: ("relu", "rate/10", "rate/100"),
    Tag.SPIKES: ("rate/10", "rate/100"),
    Tag.SLOW: ("longer", "rate*10", "rate*100"),
    Tag.STUCK: ("rate/10", "rate/100", "rate*10", "rate*100", "longer"),
    Tag.OVERFITS: ("regularized",),
}


def interventions(params: Params) -> Iterator[tuple[str, Params]]:
    rate = float(params["learning_rate"])
    for name, factor in (("rate/10", 0.1), ("rate/100", 0.01), ("rate*10", 10.0), ("rate*100", 100.0)):
        if rate * factor < 10:
            yield name, {**params, "learning_rate": rate * factor}
    if params["activation"] != "relu" or params.get("batch_norm") == "off":
        norm = {"batch_norm": "before"} if params["blocks"] else {}
        yield "relu", {**params, "activation": "relu", **norm}
    yield "clip", {**params, "clip": 1.0}
    yield "longer", {**params, "epochs": 2 * int(params["epochs"])}
    dropout: dict[str, Value] = {"dropout": 0.5} if params["dense_layers"] else {}
    yield "regularized", {**params, **dropout, **({"conv_dropout": 0.2} if params["blocks"] else {}), "l2": 1e-3}


@dataclass(frozen=True)
class Run:
    reports: tuple[Report, ...]
    outcome: Outcome

    def last(self, name: str, otherwise: float) -> float:
        return self.reports[-1].metrics[name] if self.outcome is Outcome.OK else otherwise


@dataclass(frozen=True)
class Case:
    number: int
    params: Params
    own: Run
    changed: Mapping[str, Run]

    @property
    def diagnosis(self) -> Diagnosis:
        return diagnose(self.own.reports, self.params, self.own.outcome)

    def accuracy(self, run: Run) -> float:
        return run.last("val_accuracy", 0.0)

    def faults(self, best: float) -> set[str]:
        """The tags whose cause, removed, lets the score recover."""
        own = self.accuracy(self.own)
        need = own + max(RECOVERY, QUARTER * (best - own))
        helps = {name for name, run in self.changed.items() if self.accuracy(run) >= need}
        found = {tag for tag, names in REMOVES.items() if tag != Tag.OVERFITS and helps & set(names)}
        loss = self.own.last("val_loss", float("inf"))
        if self.changed["regularized"].last("val_loss", float("inf")) < (1 - LOSS_RECOVERY) * loss < float("inf"):
            found.add(Tag.OVERFITS)
        return found


def trained(recipe: Recipe, params: Params, seed: int) -> Run:
    epochs = int(params["epochs"])
    job = Job(training="", params=params, seed=seed, start=0, until=epochs, known=0, folder=Path())
    reports: list[Report] = []
    try:
        reports += (Report(r.epoch, r.metrics, r.seconds, r.time) for r in _train(recipe)(job))
    except TrainingFailed as failed:
        return Run(tuple(reports), failed.outcome)
    return Run(tuple(reports), Outcome.OK)


_prepared: dict[Recipe, Train] = {}  # a worker prepares its data once


def _train(recipe: Recipe) -> Train:
    if recipe not in _prepared:
        _prepared[recipe] = recipe()
    return _prepared[recipe]


def case(task: tuple[Recipe, tuple[int, int, int], int, float]) -> Case | None:
    recipe, shape, number, deadline = task
    if time.time() > deadline:
        return None
    rng = random.Random(number)
    params = SPACE.sample(rng)
    while feasibility("cnn", params, shape, 10).reason:
        params = SPACE.sample(rng)
    changed = {name: trained(recipe, other, number) for name, other in interventions(params)}
    return Case(number, params, trained(recipe, params, number), changed)


def show(cases: list[Case], verbose: bool) -> None:
    best = max(one.accuracy(one.own) for one in cases)
    named, right = Counter[str](), Counter[str]()
    hits = sick = alarms = well = learned = wronged = 0
    for one in cases:
        tag, there = one.diagnosis.tag, one.faults(best)
        named[tag] += 1
        right[tag] += tag in there or (tag == Tag.HEALTHY and not there)
        sick, hits = sick + bool(there), hits + (tag in there)
        well, alarms = well + (not there), alarms + (not there and tag != Tag.HEALTHY)
        if not there and one.accuracy(one.own) >= best / 2:
            learned, wronged = learned + 1, wronged + (tag != Tag.HEALTHY)
        if verbose and not (tag in there or (tag == Tag.HEALTHY and not there)):
            accuracies = {name: round(one.accuracy(run), 2) for name, run in one.changed.items()}
            print(f"  {one.number}: {one.diagnosis.sentence}; accuracy {one.accuracy(one.own):.2f}, {accuracies}")
            print(f"      {dict(one.params)}")
    print(f"hit rate      {hits / max(1, sick):.2f}   ({hits} of {sick} trainings with a fault)")
    print(f"false alarms  {alarms / max(1, well):.2f}   ({alarms} of {well} trainings without one)")
    print(f"              {wronged / max(1, learned):.2f}   ({wronged} of {learned} that learned)")
    for tag, count in named.most_common():
        print(f"    {tag:22} named {count:3}, right {right[tag]:3}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trainings", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--data", default="digits-hard")
    parser.add_argument("--verbose", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = load_dataset(DataSpec(asked.data), seed=0).save(Path(folder, "data"))
        recipe = Recipe("cnn", "cross_entropy", Path(folder, "data"), "cpu")
        deadline = time.time() + 60 * asked.minutes
        tasks = [(recipe, data.shape, number, deadline) for number in range(asked.trainings)]
        with multiprocessing.get_context("spawn").Pool(asked.jobs) as pool:
            cases = [one for one in pool.imap_unordered(case, tasks) if one is not None]
    count = sum(1 + len(one.changed) for one in cases)
    print(f"{platform.machine()}, torch {torch.__version__}, {asked.data}, n = {len(cases)} of {count} trainings")
    show(sorted(cases, key=lambda one: one.number), asked.verbose)


if __name__ == "__main__":
    main()
