"""How long a training step takes here, for `hpo check`'s estimate."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hpo.core import Params
from hpo.models.families import FAMILIES
from hpo.models.layers import Shape
from hpo.models.network import build
from hpo.models.parameters import TRAINING, setting
from hpo.training.optimizers import Update

WARM_STEPS, TIMED_STEPS = 2, 3


def time_step(
    model: str, shape: Shape, outputs: int, device: str = "cpu", clock: Callable[[], float] = time.perf_counter
) -> Callable[[Params], float]:
    """A function from params to the seconds of one step at their batch size and optimizer, the least disturbed of some.

    The images are random: what they show does not change how long a step takes.
    """

    def seconds(params: Params) -> float:
        layers = FAMILIES[model].layers(params, shape, outputs)
        generator = torch.Generator().manual_seed(0)
        network = build(layers, shape, generator).to(device).train()
        update = Update.of(params, network)
        batch_size = int(setting(params, TRAINING, "batch_size"))
        images = torch.randn((batch_size, *shape), generator=generator).to(device)
        targets = torch.randint(outputs, (batch_size,), generator=generator).to(device)
        taken = [_step(network, update, images, targets, clock) for _ in range(WARM_STEPS + TIMED_STEPS)]
        return min(taken[WARM_STEPS:])

    return seconds


def _step(network: nn.Module, update: Update, images: Tensor, targets: Tensor, clock: Callable[[], float]) -> float:
    began = clock()
    loss = nn.functional.cross_entropy(network(images), targets)
    torch.autograd.backward(loss)
    update.step(1.0)
    loss.item()  # waits for the device
    return clock() - began
