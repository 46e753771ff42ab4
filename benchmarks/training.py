"""What each choice of the training loop is worth: epochs of one small CNN on digits, in turns, on one thread.

    python benchmarks/training.py [--rounds 20]

Printed: the median over rounds of (epoch of the variant) / (epoch of hpo's loop, validation and probes included).
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from hpo.core import Job, Params
from hpo.data.dataset import load_dataset
from hpo.study_file.spec import DataSpec
from hpo.training import loop
from hpo.training.recipe import Recipe
from hpo.training.setup import Setup, streams

PARAMS: Params = {"blocks": 2, "channels": 16, "batch_norm": "before", "batch_size": 64, "epochs": 1}
Epoch = Callable[[], None]


def ours(ready: Setup) -> Epoch:
    job = Job(training="", params=PARAMS, seed=0, start=0, until=1, known=0, folder=Path())
    state = loop.new_state(ready, job)

    def epoch() -> None:
        with streams(ready.data.device, 0, 1) as generator:
            loop.train_epoch(state, ready.data, generator)

    return epoch


def plain(ready: Setup, *, layout: torch.memory_format, fused: bool, loader: bool) -> Epoch:
    """The loop as people write it, without validation."""
    network = ready.network(PARAMS, seed=0).to(memory_format=layout).train()
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, fused=fused or None)
    rows = ready.data.splits["train"]
    images = ready.data.pixels(rows).contiguous(memory_format=layout)
    targets = ready.data.targets[rows]
    shuffled = DataLoader(TensorDataset(images, targets), batch_size=64, shuffle=True)

    def batches() -> list[tuple[Tensor, Tensor]]:
        return [(images[some], targets[some]) for some in torch.randperm(len(rows)).split(64)]

    def epoch() -> None:
        for batch, wanted in shuffled if loader else batches():
            step(network, optimizer, batch, wanted)

    return epoch


def step(network: nn.Module, optimizer: torch.optim.Optimizer, batch: Tensor, wanted: Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(network(batch), wanted).backward()
    optimizer.step()


def seconds(epoch: Epoch) -> float:
    began = time.perf_counter()
    epoch()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        load_dataset(DataSpec("digits"), seed=0).save(Path(folder, "digits"))
        ready = Recipe("cnn", "cross_entropy", Path(folder, "digits"), "cpu").setup()
    last, first = torch.channels_last, torch.contiguous_format
    variants = {
        "hpo": ours(ready),
        "torch.optim fused, channels last": plain(ready, layout=last, fused=True, loader=False),
        "torch.optim, channels last": plain(ready, layout=last, fused=False, loader=False),
        "torch.optim, channels first": plain(ready, layout=first, fused=False, loader=False),
        "the same with a DataLoader": plain(ready, layout=first, fused=False, loader=True),
    }
    taken = [{name: seconds(epoch) for name, epoch in variants.items()} for _ in range(rounds + 1)][1:]
    print(f"{platform.machine()}, torch {torch.__version__}, 1 thread, n = {rounds} rounds")
    for name in variants:
        ratio = statistics.median(turn[name] / turn["hpo"] for turn in taken)
        print(f"{name:34}{ratio:6.2f}   ({1000 * statistics.median(turn[name] for turn in taken):.0f} ms)")


if __name__ == "__main__":
    main()
