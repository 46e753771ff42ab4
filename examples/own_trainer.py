"""A trainer of one's own for hpo, and no image classifier at all: a damped oscillation is fitted with numpy.

    python -m hpo run examples/own_trainer.yaml

A trainer is a generator that yields one report an epoch. This one can be saved: a study that is killed goes on from the
last epoch. A trainer that need not survive that may `yield {"val_mse": ...}` and be done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from hpo.core import Job, Report
from hpo.training import checkpoints

TRUTH = np.array([1.5, 0.4, 2.0])  # amplitude, damping, frequency
STEPS = 20  # of gradient descent an epoch
NOISE = 0.05

Vector = np.ndarray


def curve(weights: Vector, times: Vector) -> Vector:
    amplitude, damping, frequency = weights
    return np.asarray(amplitude * np.exp(-damping * times) * np.cos(frequency * times))


def measurements(seed: int, count: int) -> tuple[Vector, Vector]:
    rng = np.random.default_rng(seed)
    times = rng.uniform(0, 5, count)
    return times, curve(TRUTH, times) + rng.normal(scale=NOISE, size=count)


def error(weights: Vector, times: Vector, values: Vector) -> float:
    return float(np.mean((curve(weights, times) - values) ** 2))


def slope(weights: Vector, times: Vector, values: Vector, width: float = 1e-4) -> Vector:
    """Of the error, by central differences."""
    moves = np.eye(len(weights)) * width
    return np.array(
        [(error(weights + m, times, values) - error(weights - m, times, values)) / (2 * width) for m in moves]
    )


def train(job: Job) -> Iterator[Report]:
    """What the study file names. job.params is the trial's point; job.start is the epoch to go on after."""
    rate, momentum = float(job.params["rate"]), float(job.params["momentum"])
    weights = np.random.default_rng(job.seed).uniform(0.5, 2.5, len(TRUTH))
    speed = np.zeros_like(weights)
    if job.start > 0:
        with np.load(checkpoints.path(job.folder, job.training, job.start)) as state:
            weights, speed = state["weights"], state["speed"]
    known, unseen = measurements(seed=1, count=80), measurements(seed=2, count=40)
    for epoch in range(job.start + 1, int(job.params["epochs"]) + 1):
        began = time.perf_counter()
        for _ in range(STEPS):
            speed = momentum * speed - rate * slope(weights, *known)
            weights = weights + speed
        metrics = {"train_mse": error(weights, *known), "val_mse": error(weights, *unseen)}
        yield Report(epoch, metrics, time.perf_counter() - began, time.time(), saver(weights, speed))


def saver(weights: Vector, speed: Vector) -> Callable[[Path], None]:
    """Writes the state after this epoch. To an open file, because to a path numpy would add an ending of its own."""

    def save(path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, weights=weights, speed=speed)

    return save
