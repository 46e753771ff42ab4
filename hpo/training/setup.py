"""What trainings of one recipe share in a worker: the data on the device, the loss, and how params become a network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from hpo.core import Outcome, Params, Value, digest
from hpo.data.dataset import Dataset
from hpo.models import user
from hpo.models.failure import TrainingFailed
from hpo.models.families import FAMILIES
from hpo.models.layers import Impossible
from hpo.models.network import build
from hpo.models.parameters import TRAINING, setting
from hpo.training.device_data import Resident, resident
from hpo.training.losses import Loss, loss
from hpo.training.recipe import Recipe


class Rescale(nn.Module):
    """The last layer of a regression: what is learned is standardized, what comes out is in the targets' unit."""

    def __init__(self, mean: Tensor, spread: Tensor) -> None:
        super().__init__()
        self.mean, self.spread = nn.Buffer(mean), nn.Buffer(spread)

    def forward(self, outputs: Tensor) -> Tensor:
        return outputs * self.spread + self.mean


@dataclass(frozen=True)
class Setup:
    recipe: Recipe
    data: Resident
    loss: Loss
    model: user.Function | None  # a user's own

    @property
    def ours(self) -> bool:
        return self.model is None

    def criterion(self, params: Params) -> Loss:
        """The training loss of these params."""
        return replace(self.loss, smoothing=float(setting(params, TRAINING, "label_smoothing")))

    def network(self, params: Params, seed: int) -> nn.Module:
        """A fresh network on the device, its weights drawn from the seed. Raises TrainingFailed where there is none."""
        try:
            with streams(torch.device("cpu"), seed, "init"):
                network = self._own(params) if self.model else self._family(params, stream(seed, "weights"))
        except Impossible as impossible:
            raise TrainingFailed(Outcome.INVALID, impossible.why) from None
        network.to(self.data.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in its stubs
        return network

    def _family(self, params: Params, seed: int) -> nn.Module:
        layers = FAMILIES[self.recipe.model].layers(params, self.data.shape, self.data.outputs)
        network = build(layers, self.data.shape, torch.Generator().manual_seed(seed))
        if self.loss.spread is not None:
            network.add_module("rescale", self._rescale())
        return network

    def _own(self, params: Params) -> nn.Module:
        assert self.model is not None
        network = self.model(dict(params), self.data.shape, self.data.outputs)
        if not isinstance(network, nn.Module):
            kind = type(network).__name__
            raise TrainingFailed(Outcome.INVALID, f"{self.recipe.model} must return a torch.nn.Module, got {kind}")
        self._prove(network)
        if self.loss.spread is None:
            return network
        return nn.Sequential(OrderedDict(network=network, rescale=self._rescale()))

    def _rescale(self) -> Rescale:
        assert self.loss.spread is not None
        known = self.data.targets[self.data.splits["train"]]
        return Rescale(known.mean(0).cpu(), self.loss.spread.cpu())

    def _prove(self, network: nn.Module) -> None:
        """Two blank images through a user's network: a wrong shape is said at once, and lazy layers learn theirs."""
        images, wanted = torch.zeros(2, *self.data.shape), (2, self.data.outputs)
        try:
            with torch.no_grad():
                result = network.cpu().eval()(images)
        except RuntimeError as error:
            why = str(error).splitlines()[0]
            text = f"{self.recipe.model}: its network does not take {tuple(images.shape)}: {why}"
            raise TrainingFailed(Outcome.INVALID, text) from error
        got = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        if got != wanted:
            text = f"{self.recipe.model}: its network must turn {tuple(images.shape)} into {wanted}, got {got}"
            raise TrainingFailed(Outcome.INVALID, text)


def setup(recipe: Recipe) -> Setup:
    """Prepare this process for the recipe: threads, data, a user's module. Raises BadInput."""
    torch.set_num_threads(recipe.threads)
    model = None if recipe.model in FAMILIES else user.resolve(recipe.model, recipe.folder, "model")
    data = resident(Dataset.open(recipe.data), torch.device(recipe.device))
    weights = torch.from_numpy(data.dataset.class_weights()).to(data.device) if recipe.class_weights else None
    return Setup(recipe, data, loss(recipe.loss, data.outputs, data.targets[data.splits["train"]], weights), model)


def stream(seed: int, *name: Value) -> int:
    """The seed of one named random stream of a training."""
    return int(digest(["stream", seed, *name])[:15], 16)


@contextmanager
def streams(device: torch.device, seed: int, *name: Value) -> Iterator[torch.Generator]:
    """torch's global streams (dropout draws from them) set for a while and put back; and a generator of our own."""
    devices = [torch.cuda.current_device() if device.index is None else device.index] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), flushed():
        torch.manual_seed(stream(seed, *name, "global"))
        yield torch.Generator(device).manual_seed(stream(seed, *name))


@contextmanager
def flushed() -> Iterator[None]:
    """Denormal numbers are 0 for a while. Dying units breed them, and they are many times slower than others."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)  # as every process begins; torch cannot tell what it was
