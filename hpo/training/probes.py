"""What is measured inside a training: gradients every so many steps, activations once an epoch on validation images.

Into a report go, from input to output:

    gradient/LAYER     root mean square over the probed steps of the norm of dL/dw; LAYER is block3.conv or dense1
    ratio/LAYER        that, divided by the norm of w
    dead/PLACE         share of relu's units (channels, features) that are 0 for each validation image looked at
    saturated/PLACE    share of values of sigmoid or tanh within 1 % of either end
    spikes             share of an epoch's steps whose loss is SPIKE times its median and worse than knowing nothing

A place is a layer with all that belongs to it: block3, dense1. In a user's own network it is the layer with weights
that comes before the activation.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from hpo.models.layers import place

EVERY = 16  # steps between two looks at the gradients: what they cost is measured by benchmarks/probes.py
ROWS = 256  # validation images whose activations are looked at for dead units: one that fires is enough
FEW = 64  # for saturation, a mean over many values of each
SPIKE = 3.0
EDGE = 0.01  # of the range of sigmoid (0..1) or tanh (-1..1): this close to an end is saturated

WATCHED = (nn.ReLU, nn.Sigmoid, nn.Tanh)


@dataclass(frozen=True)
class Places:
    """Where to look in one network: weights by layer, from input to output, and activations by place."""

    weights: dict[str, list[Tensor]]
    activations: list[tuple[str, nn.Module]]


def probe_places(network: nn.Module, ours: bool) -> Places:
    """ours: named as our families name layers; otherwise an activation belongs to the layer with weights before it."""
    weights: dict[str, list[Tensor]] = {}
    activations: list[tuple[str, nn.Module]] = []
    here = "input"
    for path, module in network.named_modules():
        name = path.removeprefix("network.").replace(".cells", "") or "network"
        for own, weight in module.named_parameters(recurse=False):
            if weight.ndim >= 2 and weight.requires_grad:
                layer = f"{name}.{own.split('_')[2]}" if isinstance(module, nn.RNNBase) else name  # weight_hh_l1: l1
                weights.setdefault(layer, []).append(weight)
                here = name
        if isinstance(module, WATCHED):
            activations.append((place(name) if ours else here, module))
    return Places(weights, activations)


@dataclass
class Gradients:
    """Sums over the probed steps of one epoch; on the device, read once at the end of it."""

    places: Places
    squares: Tensor | None = None
    count: int = 0

    @cached_property
    def flat(self) -> list[Tensor]:
        return [weight for tensors in self.places.weights.values() for weight in tensors]

    def due(self, step: int, steps: int) -> bool:
        """Every EVERY-th step, from half-way through the first stretch; a shorter epoch shows its last step."""
        return bool(self.flat) and step % EVERY == min(EVERY // 2, steps - 1)

    @torch.no_grad()
    def add(self) -> None:
        gradients = [weight.grad if weight.grad is not None else torch.zeros_like(weight) for weight in self.flat]
        squares = _norms(gradients).square_()
        self.squares = squares if self.squares is None else self.squares + squares
        self.count += 1

    @torch.no_grad()
    def metrics(self) -> dict[str, Tensor]:
        """Named tensors of no dimension."""
        if self.squares is None:
            return {}
        sizes = [len(tensors) for tensors in self.places.weights.values()]
        gradients, weights = (
            [squares.sum().sqrt() for squares in torch.split(all_squares, sizes)]
            for all_squares in (self.squares / self.count, _norms(self.flat).square_())
        )
        metrics: dict[str, Tensor] = {}
        for name, gradient, weight in zip(self.places.weights, gradients, weights, strict=True):
            metrics[f"gradient/{name}"] = gradient
            metrics[f"ratio/{name}"] = gradient / weight.clamp(min=1e-12)
        return metrics


def _norms(tensors: list[Tensor]) -> Tensor:
    return torch.stack([torch.linalg.vector_norm(tensor) for tensor in tensors])


@contextmanager
def activations(watched: Places) -> Iterator[dict[str, Tensor]]:
    """The mapping is filled at the end of the block, from the first forward pass in it. Other passes pay for no hook."""
    places = {module: place for place, module in watched.activations}
    shares: dict[nn.Module, Tensor] = {}
    metrics: dict[str, Tensor] = {}

    def hook(module: nn.Module, _inputs: object, output: Tensor) -> None:
        if module not in shares:  # the first batch is enough
            shares[module] = _share(module, output)

    handles = [module.register_forward_hook(hook) for module in places]
    try:
        yield metrics
    finally:
        for handle in handles:
            handle.remove()
        for module, share in shares.items():
            name = f"{'dead' if isinstance(module, nn.ReLU) else 'saturated'}/{places[module]}"
            metrics[name] = torch.maximum(metrics.get(name, share), share)


def _share(module: nn.Module, output: Tensor) -> Tensor:
    if isinstance(module, nn.ReLU):
        # Nothing is below 0, so a sum is 0 where all is: it takes a twentieth of the time of a maximum.
        fired = output[:ROWS].sum(dim=[d for d in range(output.ndim) if d != 1])
        return (fired <= 0).float().mean()
    middle, reach = (0.5, 0.5) if isinstance(module, nn.Sigmoid) else (0.0, 1.0)  # how far the ends are from it
    return ((output[:FEW] - middle).abs_() > reach * (1 - 2 * EDGE)).float().mean()


def spikes(losses: Tensor, chance: float) -> Tensor:
    """losses (steps,) of one epoch. A batch of hard images is no spike, hence the comparison with knowing nothing."""
    return (losses > (SPIKE * losses.median()).clamp(min=chance)).float().mean()
