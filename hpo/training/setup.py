"""What trainings of one recipe share in a worker: the data on the device, the loss, and how params become a network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from hpo.core import Outcome, Params, TrainingFailed, Value, digest
from hpo.models import user
from hpo.models.families import FAMILIES
from hpo.models.layers import Impossible
from hpo.models.network import Rescale, build, checked
from hpo.models.parameters import TRAINING, setting
from hpo.training.device_data import DeviceData
from hpo.training.losses import Loss


@dataclass(frozen=True)
class Setup:
    """function: a user's own model; None for one of our families."""

    model: str
    function: user.Function | None
    data: DeviceData
    loss: Loss

    @property
    def ours(self) -> bool:
        return self.function is None

    def training_loss(self, params: Params) -> Loss:
        return replace(self.loss, smoothing=float(setting(params, TRAINING, "label_smoothing")))

    def network(self, params: Params, seed: int) -> nn.Module:
        """A fresh network on the device, its weights drawn from the seed. Raises TrainingFailed where there is none."""
        try:
            with streams(torch.device("cpu"), seed, "init"):
                network = self._family(params, seed) if self.function is None else self._own(self.function, params)
        except Impossible as impossible:
            raise TrainingFailed(Outcome.INVALID, impossible.why) from None
        network.to(self.data.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in its stubs
        return network

    def _family(self, params: Params, seed: int) -> nn.Module:
        layers = FAMILIES[self.model].layers(params, self.data.shape, self.data.outputs)
        network = build(layers, self.data.shape, torch.Generator().manual_seed(stream(seed, "weights")))
        if self.loss.spread is not None:
            network.add_module("rescale", self._rescale(self.loss.spread))
        return network

    def _own(self, function: user.Function, params: Params) -> nn.Module:
        shape, outputs = self.data.shape, self.data.outputs
        network = checked(function(dict(params), shape, outputs), self.model, shape, outputs)
        if self.loss.spread is None:
            return network
        return nn.Sequential(OrderedDict(network=network, rescale=self._rescale(self.loss.spread)))

    def _rescale(self, spread: Tensor) -> Rescale:
        targets = self.data.targets[self.data.splits["train"]]
        return Rescale(targets.mean(0).cpu(), spread.cpu())


# -- random streams ------------------------------------------------------------------------------------------------


def stream(seed: int, *name: Value) -> int:
    """The seed of one named random stream of a training."""
    return int(digest(["stream", seed, *name])[:15], 16)


@contextmanager
def streams(device: torch.device, seed: int, *name: Value) -> Iterator[torch.Generator]:
    """torch's global streams (dropout draws from them) set for a while and put back; and a generator of our own."""
    devices = [torch.cuda.current_device() if device.index is None else device.index] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), denormals_flushed():
        torch.manual_seed(stream(seed, *name, "global"))
        yield torch.Generator(device).manual_seed(stream(seed, *name))


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Denormal numbers are 0 for a while. Dying units make them, and they are many times slower than others."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)  # as every process begins; torch cannot tell what it was
