"""Proof before training: the formulas against torch on its meta device, where a network takes no memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import torch
from torch import nn

from hpo.core import Params
from hpo.models.families import FAMILIES
from hpo.models.layers import Layer, Shape, Summary
from hpo.models.network import build, construct, module
from hpo.models.parameters import TRAINING, setting
from hpo.training.optimizers import rule

META = torch.device("meta")
BATCH = 2  # two dimensions of one could not be told apart
WARM_STEPS, TIMED_STEPS = 2, 3


def disagreement(made: Summary) -> str | None:
    """Where torch builds something else than the formulas say; None if every shape and count is the same."""
    layers = [row.layer for row in made.rows]
    shape = made.shape
    try:
        net = construct(layers, made.shape, META)
        for row in made.rows:
            shape = _passed(replace(row.layer, name=""), shape)
            if shape != row.shape:
                return f"{row.name}: torch gives {shape}, the formula {row.shape}"
            learned = sum(parameter.numel() for parameter in net.get_submodule(row.name).parameters())
            if learned != row.parameters:
                return f"{row.name}: torch learns {learned:,} numbers, the formula says {row.parameters:,}"
    except (RuntimeError, ValueError) as error:  # what torch raises on a shape it cannot work with
        return f"torch refuses {shape}: {str(error).splitlines()[0]}"
    return None


@lru_cache(maxsize=100_000)
def _passed(layer: Layer, shape: Shape) -> Shape:
    """What torch makes of an input of this shape. Architectures share most of their layers: 15 ms become 4 for each."""
    part = module(layer, shape, META).eval()  # the same shapes as in training, for half the work
    with torch.no_grad():
        return tuple(part(torch.empty((BATCH, *shape), device=META)).shape[1:])


def time_step(
    model: str, shape: Shape, outputs: int, device: str = "cpu", clock: Callable[[], float] = time.perf_counter
) -> Callable[[Params], float]:
    """A function from params to the seconds one training step takes here, at their batch size and optimizer.

    Made-up images: what they show does not change how long a step takes.
    """

    def timed(params: Params) -> float:
        layers = FAMILIES[model].layers(params, shape, outputs)
        generator = torch.Generator().manual_seed(0)
        net = build(layers, shape, generator).to(device).train()
        update = rule(params, net)
        batch = int(setting(params, TRAINING, "batch_size"))
        images = torch.randn((batch, *shape), generator=generator).to(device)
        targets = torch.randint(outputs, (batch,), generator=generator).to(device)
        seconds = [_step(net, images, targets, update.update, clock) for _ in range(WARM_STEPS + TIMED_STEPS)]
        return min(seconds[WARM_STEPS:])  # the least disturbed one

    return timed


def _step(
    net: nn.Module,
    images: torch.Tensor,
    targets: torch.Tensor,
    update: Callable[[float], None],
    clock: Callable[[], float],
) -> float:
    began = clock()
    loss = nn.functional.cross_entropy(net(images), targets)
    torch.autograd.backward(loss)
    update(1.0)
    loss.item()  # waits for the device
    return clock() - began
