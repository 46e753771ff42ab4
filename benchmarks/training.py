"""What each choice of the training loop is worth: epochs of one small CNN on digits, 8x8 and 28x28, in turns, on one thread.

    python -m benchmarks.training [--rounds 20]

Printed: the median over rounds of (epoch of the variant) / (epoch of hpo's loop, validation and probes included), in seconds
of the processor. The last variant is network, loop and validation of scripts/tutorial.py.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.measuring import as_worker, machine, spread
from hpo.core import Job, Params
from hpo.data.dataset import load_dataset
from hpo.study_file.spec import DataSpec
from hpo.training import loop
from hpo.training.evaluation import evaluate
from hpo.training.recipe import Recipe
from hpo.training.setup import Setup, denormals_flushed, streams

NORMED: Params = {"blocks": 2, "channels": 16, "batch_norm": "before", "batch_size": 64, "epochs": 1}
TUTORIAL: Params = {"blocks": 2, "channels": 32, "batch_size": 64, "epochs": 1}
Epoch = Callable[[], None]


def ours(ready: Setup, params: Params) -> Epoch:
    job = Job(training="", params=params, seed=0, start=0, until=1, known=0, folder=Path())
    state = loop.new_state(ready, job)

    def epoch() -> None:
        with streams(ready.data.device, 0, 1) as generator:
            loop.train_epoch(state, ready.data, generator)

    return epoch


def steps_alone(ready: Setup, params: Params) -> Epoch:
    """What hpo's epoch cannot do without: forward, loss, backward and update of batches that lie ready, and validation."""
    state = loop.new_state(ready, Job(training="", params=params, seed=0, start=0, until=1, known=0, folder=Path()))
    images, targets = split(ready, "train")
    size = int(params["batch_size"])
    batches = list(zip(images.to(memory_format=torch.channels_last).split(size), targets.split(size), strict=True))

    def epoch() -> None:
        with denormals_flushed():
            state.network.train()
            for batch, wanted in batches:
                state.loss(state.network(batch), wanted).backward()
                state.update.step(0.0, 1.0)
            evaluate(state.network, ready.data, state.loss, "val")

    return epoch


def plain(ready: Setup, params: Params, *, layout: torch.memory_format, fused: bool, loader: bool) -> Epoch:
    """The loop as people write it, without validation."""
    network = ready.network(params, seed=0).to(memory_format=layout).train()
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, fused=fused or None)
    images, targets = split(ready, "train")
    images = images.contiguous(memory_format=layout)
    shuffled = DataLoader(TensorDataset(images, targets), batch_size=64, shuffle=True)

    def batches() -> list[tuple[Tensor, Tensor]]:
        return [(images[some], targets[some]) for some in torch.randperm(len(images)).split(64)]

    def epoch() -> None:
        for batch, wanted in shuffled if loader else batches():
            step(network, optimizer, batch, wanted)

    return epoch


def tutorial(ready: Setup, params: Params) -> Epoch:
    channels, size = int(params["channels"]), ready.data.shape[-1]
    layers: list[nn.Module] = []
    for before in (1, channels):
        layers += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Flatten(), nn.Linear(channels * (size // 4) ** 2, 64), nn.ReLU(), nn.Dropout(0.0), nn.Linear(64, 10)]
    network = nn.Sequential(*layers)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    train = DataLoader(TensorDataset(*split(ready, "train")), batch_size=64, shuffle=True)
    val = DataLoader(TensorDataset(*split(ready, "val")), batch_size=256)

    def epoch() -> None:
        network.train()
        for batch, wanted in train:
            step(network, optimizer, batch, wanted)
        network.eval()
        with torch.no_grad():
            for batch, wanted in val:
                said = network(batch)
                F.cross_entropy(said, wanted, reduction="sum").item()
                (said.argmax(1) == wanted).sum().item()

    return epoch


def split(ready: Setup, name: str) -> tuple[Tensor, Tensor]:
    rows = ready.data.splits[name]
    return ready.data.pixels(rows).contiguous(), ready.data.targets[rows]


def step(network: nn.Module, optimizer: torch.optim.Optimizer, batch: Tensor, wanted: Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(network(batch), wanted).backward()
    optimizer.step()


def seconds(epoch: Epoch) -> float:
    began = time.process_time()
    epoch()
    return time.process_time() - began


def compare(side: int, params: Params, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        load_dataset(DataSpec("digits", resize=(side, side)), seed=0).save(Path(folder, "digits"))
        recipe = Recipe("cnn", "cross_entropy", Path(folder, "digits"), "cpu")
        ready, rounded = recipe.setup(), replace(recipe, precision="bf16").setup()
    last, first = torch.channels_last, torch.contiguous_format
    variants = {
        "hpo": ours(ready, params),
        "its steps and validation alone": steps_alone(ready, params),
        "hpo in bf16": ours(rounded, params),
        "torch.optim fused, channels last": plain(ready, params, layout=last, fused=True, loader=False),
        "torch.optim, channels last": plain(ready, params, layout=last, fused=False, loader=False),
        "torch.optim, channels first": plain(ready, params, layout=first, fused=False, loader=False),
        "the same with a DataLoader": plain(ready, params, layout=first, fused=False, loader=True),
        "the tutorial": tutorial(ready, params),
    }
    taken = [{name: seconds(epoch) for name, epoch in variants.items()} for _ in range(rounds + 1)][1:]
    print(f"{side}x{side}, {' '.join(f'{name} {value}' for name, value in params.items())}")
    for name in variants:
        ratios = [turn[name] / turn["hpo"] for turn in taken]
        print(f"  {name:34}{spread(ratios, 'x')}   ({1000 * statistics.median(turn[name] for turn in taken):.0f} ms)")
    bf16 = [turn["the tutorial"] / turn["hpo in bf16"] for turn in taken]
    print(f"  {'the tutorial / hpo in bf16':34}{spread(bf16, 'x')}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    print(f"{machine()}, 1 thread, n = {rounds} rounds")
    for side, params in ((8, NORMED), (8, TUTORIAL), (28, TUTORIAL)):
        compare(side, params, rounds)


if __name__ == "__main__":
    as_worker()
    main()
