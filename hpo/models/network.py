"""Layers as plain data made into a torch module, with weights that fit the activation.

Modules are named as their layers are: block1.conv, block1.norm, dense1, dense1_activation, recurrent, output; so
`net.get_submodule(layer.name)` finds each. Input (batch, C, H, W), output (batch, outputs): logits, or numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

import torch
from torch import Tensor, nn

from hpo.models import user
from hpo.models.layers import (
    Activation,
    Conv,
    Dense,
    Dropout,
    Flatten,
    Layer,
    Norm,
    Pad,
    Pool,
    Recurrent,
    Rows,
    Shape,
    Summary,
    shapes,
)

Modules = dict[str, Callable[..., nn.Module]]

PADS: Final[Modules] = {
    "zeros": nn.ZeroPad2d,
    "replicate": nn.ReplicationPad2d,
    "reflect": nn.ReflectionPad2d,
    "circular": nn.CircularPad2d,
}
POOLS: Final[Modules] = {
    "max": nn.MaxPool2d,
    "average": nn.AvgPool2d,
    "global": lambda size, stride: nn.AdaptiveAvgPool2d(1),
}
CELLS: Final[dict[str, Callable[..., nn.RNNBase]]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
ACTIVATIONS: Final[Modules] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "silu": nn.SiLU}


class ImageRows(nn.Module):
    """(batch, C, H, W) -> (batch, H, C * W)."""

    def forward(self, images: Tensor) -> Tensor:
        return images.transpose(1, 2).flatten(2)


class FinalState(nn.Module):
    """(batch, T, F) -> (batch, directions * hidden): the final state of the last layer, both directions joined."""

    def __init__(self, cells: nn.RNNBase) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, rows: Tensor) -> Tensor:
        _, state = self.cells(rows)
        last = state[0] if isinstance(self.cells, nn.LSTM) else state
        return torch.cat((last[-2], last[-1]), dim=1) if self.cells.bidirectional else last[-1]


class Rescale(nn.Module):
    """The last layer of a regression: what is learned is standardized, what comes out is in the targets' unit."""

    def __init__(self, mean: Tensor, spread: Tensor) -> None:
        super().__init__()
        self.mean, self.spread = nn.Buffer(mean), nn.Buffer(spread)

    def forward(self, outputs: Tensor) -> Tensor:
        return outputs * self.spread + self.mean


def build(layers: Sequence[Layer], shape: Shape, generator: torch.Generator | None = None) -> nn.Sequential:
    """The network on the CPU, drawn from the generator: the same state gives the same weights. Raises Impossible."""
    net = construct(layers, shape, torch.device("meta"))
    for part in net.modules():
        for name, weight in list(part.named_parameters(recurse=False)):
            setattr(part, name, nn.Parameter(torch.empty(weight.shape)))  # to_empty imports 0.3 s of Python for this
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, torch.empty(buffer.shape, dtype=buffer.dtype))
    initialize(net, layers, generator)
    return net


def construct(layers: Sequence[Layer], shape: Shape, device: torch.device) -> nn.Sequential:
    """The modules without sensible weights; on the meta device they take no memory at all."""
    net = nn.Sequential()
    for layer, inputs in zip(layers, (shape, *shapes(layers, shape)), strict=False):
        group, _, name = layer.name.rpartition(".")
        if group and group not in dict(net.named_children()):
            net.add_module(group, nn.Sequential())
        net.get_submodule(group).add_module(name, module(layer, inputs, device))
    return net


def initialize(net: nn.Sequential, layers: Sequence[Layer], generator: torch.Generator | None = None) -> None:
    """Every parameter and buffer gets a value; weights such that signals neither fade nor grow at the start."""
    for i, layer in enumerate(layers):
        module = net.get_submodule(layer.name)
        if isinstance(module, nn.Conv2d | nn.Linear):
            after = activation_after(layers, i)
            draw_weights(module.weight, after.function if after else "", after.slope if after else 0.0, generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()  # gamma 1, beta 0: nothing random
        elif isinstance(module, FinalState):
            draw_recurrent_weights(module.cells, generator)


def activation_after(layers: Sequence[Layer], i: int) -> Activation | None:
    """The activation that layer i feeds, through nothing but a norm or a pooling."""
    for layer in layers[i + 1 :]:
        if isinstance(layer, Activation):
            return layer
        if not isinstance(layer, Norm | Pool):
            return None
    return None


def draw_weights(weight: Tensor, function: str, slope: float, generator: torch.Generator | None) -> None:
    """For the activation behind a layer, "" for none: He et al. 2015 (eq. 10, 15) for the one-sided ones, of leaky ReLU by
    its slope, Glorot & Bengio 2010 (eq. 12) for the others."""
    if function in ("relu", "leaky_relu", "silu"):
        negative = slope if function == "leaky_relu" else 0.0
        nn.init.kaiming_normal_(weight, a=negative, nonlinearity="leaky_relu", generator=generator)
    else:
        gain = 5 / 3 if function == "tanh" else 1.0  # torch's own nn.init.calculate_gain
        nn.init.xavier_normal_(weight, gain=gain, generator=generator)


@torch.no_grad()
def draw_recurrent_weights(cells: nn.RNNBase, generator: torch.Generator | None) -> None:
    """Orthogonal from state to state, gate by gate, so that a state neither fades nor grows over the rows.

    Identity for relu (Le, Jaitly & Hinton 2015); the LSTM starts by not forgetting (Jozefowicz et al. 2015).
    """
    for name, parameter in cells.named_parameters():
        gates = parameter.chunk(len(parameter) // cells.hidden_size)
        for gate in gates:
            if "bias" in name:
                nn.init.zeros_(gate)
            elif "weight_ih" in name:
                nn.init.xavier_uniform_(gate, generator=generator)
            elif cells.mode == "RNN_RELU":
                nn.init.eye_(gate)
            else:
                nn.init.orthogonal_(gate, generator=generator)
        if cells.mode == "LSTM" and "bias_ih" in name:
            nn.init.ones_(gates[1])  # torch stacks the gates as input, forget, cell, output


def module(layer: Layer, shape: Shape, device: torch.device) -> nn.Module:
    """One layer for inputs of this shape (without the batch)."""
    match layer:
        case Pad(before=before, after=after, mode=mode):
            return PADS[mode]((before, after, before, after))
        case Conv(channels=channels, kernel=k, stride=stride, padding=padding, mode=mode, bias=bias):
            how: Any = mode if padding else "zeros"
            return nn.Conv2d(shape[0], channels, k, stride, padding, bias=bias, padding_mode=how, device=device)
        case Norm():
            return nn.BatchNorm2d(shape[0], device=device)
        case Activation(function="leaky_relu", slope=slope):
            return nn.LeakyReLU(slope)
        case Activation(function=function):
            return ACTIVATIONS[function]()
        case Pool(function=function, size=size, stride=stride):
            return POOLS[function](size, stride)
        case Dropout(share=share):
            return nn.Dropout(share)
        case Flatten():
            return nn.Flatten()
        case Dense(units=units):
            return nn.Linear(shape[0], units, device=device)
        case Rows():
            return ImageRows()
        case Recurrent():
            own: Any = {"nonlinearity": layer.nonlinearity} if layer.cell == "rnn" else {}
            own |= {"bias": layer.bias, "dropout": layer.dropout, "bidirectional": layer.bidirectional}
            cells = CELLS[layer.cell](shape[1], layer.hidden, layer.layers, batch_first=True, device=device, **own)
            return FinalState(cells)


def checked(network: object, model: str, shape: Shape, outputs: int) -> nn.Module:
    """What a user's function returned, once two blank images have passed it. Raises TrainingFailed."""
    if not isinstance(network, nn.Module):
        raise user.invalid(f"{model} must return a torch.nn.Module, got {type(network).__name__}")
    images, expected = torch.zeros(2, *shape), (2, outputs)
    try:
        with torch.no_grad():
            result = network.cpu().eval()(images)
    except RuntimeError as error:
        why = str(error).splitlines()[0]
        raise user.invalid(f"{model}: its network does not take {tuple(images.shape)}: {why}") from error
    got = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
    if got != expected:
        raise user.invalid(f"{model}: its network must turn {tuple(images.shape)} into {expected}, got {got}")
    return network


META = torch.device("meta")
BATCH = 2  # two dimensions of one could not be told apart


def disagreement(made: Summary) -> str | None:
    """Where torch builds something else than the formulas say; None if every shape and count is the same."""
    layers = [row.layer for row in made.rows]
    shape = made.shape
    try:
        net = construct(layers, made.shape, META)
        for row in made.rows:
            shape = _passed(replace(row.layer, name=""), shape)
            if shape != row.shape:
                return f"{row.layer.name}: torch gives {shape}, the formula {row.shape}"
            learned = sum(parameter.numel() for parameter in net.get_submodule(row.layer.name).parameters())
            if learned != row.parameters:
                return f"{row.layer.name}: torch learns {learned:,} numbers, the formula says {row.parameters:,}"
    except (RuntimeError, ValueError) as error:  # what torch raises on a shape it cannot work with
        return f"torch refuses {shape}: {str(error).splitlines()[0]}"
    return None


@lru_cache(maxsize=100_000)
def _passed(layer: Layer, shape: Shape) -> Shape:
    """What torch makes of an input of this shape. Architectures share most of their layers: 15 ms become 4 for each."""
    part = module(layer, shape, META).eval()  # the same shapes as in training, for half the work
    with torch.no_grad():
        return tuple(part(torch.empty((BATCH, *shape), device=META)).shape[1:])
