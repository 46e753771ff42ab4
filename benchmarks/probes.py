"""What the probes cost: epochs of the same training with and without them, in turns, in one process and one thread.

    python benchmarks/probes.py [--rounds 30]

Printed for networks from small to deep on digits: the median over rounds of (epoch with probes) / (epoch without).
The promise is at most 1.05.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from hpo.core import Job, Params
from hpo.data.dataset import load_dataset
from hpo.study_file.spec import DataSpec
from hpo.training import loop, probes
from hpo.training.recipe import Recipe
from hpo.training.setup import Setup, streams

NETWORKS: dict[str, Params] = {
    "MLP, batch 32": {"blocks": 0, "batch_size": 32},
    "2 blocks of 16, batch 64": {"blocks": 2, "batch_norm": "before", "batch_size": 64},
    "2 blocks of 16, batch 128, tanh": {"blocks": 2, "activation": "tanh", "batch_size": 128},
    "6 convolutions of 8, batch 32": {"blocks": 3, "convs_per_block": 2, "channels": 8, "batch_size": 32},
}
BLIND = probes.Places({}, [])


def new_state(ready: Setup, params: Params, seeing: bool) -> loop.TrainingState:
    job = Job(training="", params={"epochs": 1, **params}, seed=0, start=0, until=1, known=0, folder=Path())
    state = loop.new_state(ready, job)
    return state if seeing else replace(state, places=BLIND)


def seconds(ready: Setup, one: loop.TrainingState) -> float:
    began = time.perf_counter()
    with streams(ready.data.device, 0, 1) as generator:
        loop.train_epoch(one, ready.data, generator)
    return time.perf_counter() - began


def ratio(ready: Setup, params: Params, rounds: int) -> tuple[float, float]:
    """(median ratio, milliseconds of an epoch without probes)."""
    pair = new_state(ready, params, seeing=True), new_state(ready, params, seeing=False)
    for one in pair:
        seconds(ready, one)  # warm
    taken = [[seconds(ready, one) for one in (pair if turn % 2 else pair[::-1])] for turn in range(rounds)]
    ordered = [both if turn % 2 else both[::-1] for turn, both in enumerate(taken)]
    return statistics.median(a / b for a, b in ordered), 1000 * statistics.median(b for _, b in ordered)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, 1 thread, n = {rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "digits")
        load_dataset(DataSpec("digits"), seed=0).save(data)
        ready = Recipe("cnn", "cross_entropy", data, "cpu").setup()
        for name, params in NETWORKS.items():
            found, usual = ratio(ready, params, rounds)
            print(f"{name:34}{found:6.3f}   (epoch of {usual:.0f} ms)")


if __name__ == "__main__":
    main()
