"""A network's layers as Python source: the class, a line a layer with the shape that leaves it, and the first weights.

Modules are named as training/network.py names them, so that a state_dict fits both.
"""

from __future__ import annotations

from collections.abc import Sequence

from hpo.models.layers import (
    GATES,
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
    shapes,
)

PADS = {
    "zeros": "ZeroPad2d",
    "replicate": "ReplicationPad2d",
    "reflect": "ReflectionPad2d",
    "circular": "CircularPad2d",
}
POOLS = {"max": "MaxPool2d", "average": "AvgPool2d"}
ACTIVATIONS = {"relu": "ReLU()", "tanh": "Tanh()", "sigmoid": "Sigmoid()", "silu": "SiLU()"}
CELLS = {"rnn": "RNN", "lstm": "LSTM", "gru": "GRU"}
FORGET = 1  # torch stacks the gates of an LSTM as input, forget, cell, output


def class_network(layers: Sequence[Layer], shape: Shape, regression: bool) -> str:
    """The class `Network`, to be made with the mean and the spread of the targets where they are numbers."""
    signature = "self, centre: Tensor, spread: Tensor" if regression else "self"
    out = "numbers" if regression else "logits"
    lines = [
        "class Network(nn.Module):",
        f'    """Standardized images (N, {times(shape, ", ")}) -> {out}; what leaves each layer stands beside it."""',
        "",
        f"    def __init__({signature}) -> None:",
        "        super().__init__()",
    ]
    groups = _groups(layers, shape)
    for group, members in groups:
        lines += _assigned(group, members)
    if regression:
        lines.append("        self.rescale = Rescale(centre, spread)")
    names = [group for group, _ in groups] + (["rescale"] if regression else [])
    lines += ["", "    def forward(self, images: Tensor) -> Tensor:"]
    lines += [f"        x = self.{name}({'x' if i else 'images'})" for i, name in enumerate(names)]
    return "\n".join([*lines, "        return x"])


Member = tuple[str, str, Shape]  # name in its group, source, shape that leaves it


def _groups(layers: Sequence[Layer], shape: Shape) -> list[tuple[str, list[Member]]]:
    """Layers by what stands before the dot of their names."""
    groups: dict[str, list[Member]] = {}
    for layer, before, after in zip(layers, (shape, *shapes(layers, shape)), shapes(layers, shape), strict=False):
        group, _, name = layer.name.partition(".")
        groups.setdefault(group, []).append((name, expression(layer, before), after))
    return list(groups.items())


def _assigned(group: str, members: Sequence[Member]) -> list[str]:
    if not members[0][0]:
        _, made, after = members[0]
        *first, last = [f"        {line}" for line in f"self.{group} = {made}".split("\n")]
        return [*first, f"{last}  # {times(after)}"]
    inner = [f"                {name}={made},  # {times(after)}" for name, made, after in members]
    return [
        f"        self.{group} = nn.Sequential(",
        "            OrderedDict(",
        *inner,
        "            )",
        "        )",
    ]


def times(shape: Shape, between: str = "x") -> str:
    return between.join(map(str, shape))


def expression(layer: Layer, shape: Shape) -> str:
    """One layer for inputs of this shape, as Python; a recurrent one takes several lines."""
    match layer:
        case Pad(before=before, after=after, mode=mode):
            return f"nn.{PADS[mode]}({(before, after, before, after)})"
        case Conv():
            return _convolution(layer, shape[0])
        case Norm():
            return f"nn.BatchNorm2d({shape[0]})"
        case Activation(function="leaky_relu", slope=slope):
            return f"nn.LeakyReLU({slope!r})"
        case Activation(function=function):
            return f"nn.{ACTIVATIONS[function]}"
        case Pool(function=function, size=size, stride=stride):
            return f"nn.{POOLS[function]}({size}, {stride})"
        case Dropout(share=share):
            return f"nn.Dropout({share!r})"
        case Flatten():
            return "nn.Flatten()"
        case Dense(units=units):
            return f"nn.Linear({shape[0]}, {units})"
        case Rows():
            return "Rows()"
        case Recurrent():
            return _recurrence(layer, shape[1])


def _convolution(layer: Conv, channels: int) -> str:
    options = [f"kernel_size={layer.kernel}"]
    options += [f"stride={layer.stride}"] if layer.stride != 1 else []
    options += [f"padding={layer.padding}"] if layer.padding else []
    options += [f'padding_mode="{layer.mode}"'] if layer.padding and layer.mode != "zeros" else []
    options += [] if layer.bias else ["bias=False"]
    return f"nn.Conv2d({channels}, {layer.channels}, {', '.join(options)})"


def _recurrence(layer: Recurrent, features: int) -> str:
    options = [f"{features}", f"{layer.hidden}", f"num_layers={layer.layers}", "batch_first=True"]
    options += [f'nonlinearity="{layer.nonlinearity}"'] if layer.cell == "rnn" else []
    options += [] if layer.bias else ["bias=False"]
    options += [f"dropout={layer.dropout!r}"] if layer.dropout else []
    options += ["bidirectional=True"] if layer.bidirectional else []
    inner = "\n".join(f"        {option}," for option in options)
    return f"Recurrent(\n    nn.{CELLS[layer.cell]}(\n{inner}\n    )\n)"


# -- the first weights -------------------------------------------------------------------------------------------------


def function_initialize(layers: Sequence[Layer]) -> str:
    """The function `initialize`: the same numbers from the same generator as training/network.py draws."""
    lines = [
        "def initialize(network: Network, generator: Generator) -> None:",
        '    """Weights such that signals neither fade nor grow at the start."""',
    ]
    for i, layer in enumerate(layers):
        if isinstance(layer, Conv | Dense):
            lines.append(f"    {_weights(layer, _activation_after(layers, i))}")
            if not isinstance(layer, Conv) or layer.bias:
                lines.append(f"    nn.init.zeros_(network.{layer.name}.bias)")
        elif isinstance(layer, Recurrent):
            lines += _recurrent(layer)
    return "\n".join(lines)


def _activation_after(layers: Sequence[Layer], i: int) -> Activation | None:
    """The activation that layer i feeds, through nothing but a norm or a pooling."""
    for layer in layers[i + 1 :]:
        if isinstance(layer, Activation):
            return layer
        if not isinstance(layer, Norm | Pool):
            return None
    return None


def _weights(layer: Conv | Dense, activation: Activation | None) -> str:
    """He et al. 2015 for the one-sided activations, Glorot & Bengio 2010 for the others."""
    weight = f"network.{layer.name}.weight"
    if activation is None:
        return f"nn.init.xavier_normal_({weight}, generator=generator)"
    if activation.function in ("tanh", "sigmoid"):
        gain = "5 / 3" if activation.function == "tanh" else "1.0"
        return f"nn.init.xavier_normal_({weight}, gain={gain}, generator=generator)"
    slope = activation.slope if activation.function == "leaky_relu" else 0.0
    return f'nn.init.kaiming_normal_({weight}, a={slope!r}, nonlinearity="leaky_relu", generator=generator)'


def _recurrent(layer: Recurrent) -> list[str]:
    """Gate by gate: orthogonal from state to state; the LSTM starts by not forgetting."""
    identity = layer.cell == "rnn" and layer.nonlinearity == "relu"
    lines = [
        f"    for name, parameter in network.{layer.name}.named_parameters():",
        f"        gates = parameter.detach().chunk({GATES[layer.cell]})",
        "        for gate in gates:",
        '            if "bias" in name:',
        "                nn.init.zeros_(gate)",
        '            elif "weight_ih" in name:',
        "                nn.init.xavier_uniform_(gate, generator=generator)",
        "            else:",
        f"                nn.init.{'eye_(gate)' if identity else 'orthogonal_(gate, generator=generator)'}",
    ]
    if layer.cell == "lstm":
        lines += [
            '        if "bias_ih" in name:',
            f"            nn.init.ones_(gates[{FORGET}])  # it starts by not forgetting",
        ]
    return lines
