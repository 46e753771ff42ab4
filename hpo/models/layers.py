"""What a network is made of, as plain data, and what each layer costs. Imports no torch: feasibility is arithmetic.

shape   one image or row of features without the batch: (C, H, W) maps, (T, F) a sequence, (N,) a vector
n k S P size of a map, kernel (or window), stride, padding in one dimension
o       size of the output: o = floor((n - k + 2P) / S) + 1
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from hpo.formatting import columns

Shape = tuple[int, ...]

FLOAT_BYTES: Final = 4
INDEX_BYTES: Final = 8  # max pooling keeps an int64 for each output, to send the gradient back

# Whether torch's backward reads an activation's result or its argument (derivatives.yaml of torch).
SAVES_OUTPUT: Final = ("relu", "tanh", "sigmoid")
RISING: Final = ("relu", "leaky_relu", "tanh", "sigmoid")  # a larger argument never gives a smaller result
GATES: Final = {"rnn": 1, "lstm": 4, "gru": 3}
# Numbers that a recurrent layer keeps for the backward pass at each step, for each feature that enters and for each of
# its state; measured with saved_tensors_hooks on the CPU kernels of torch 2.13, those of the LSTM within a third.
STEP_KEEPS: Final = {"rnn": (1, 1), "lstm": (5, 17), "gru": (1, 7)}


class Impossible(Exception):
    """No such network can be built. layer is its name ("block3.conv"); why is a phrase for the user."""

    def __init__(self, layer: str, why: str) -> None:
        super().__init__(f"{layer}: {why}")
        self.layer = layer
        self.why = why


@dataclass(frozen=True, slots=True)
class Pad:
    """Unequal padding, which `same` needs with an even kernel; the larger half is to the right and below."""

    name: str
    before: int
    after: int
    mode: str = "zeros"


@dataclass(frozen=True, slots=True)
class Conv:
    name: str
    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    mode: str = "zeros"
    bias: bool = True


@dataclass(frozen=True, slots=True)
class Norm:
    """Batch normalization with learned gamma and beta, a pair for each channel."""

    name: str
    batch_size: int = 2


@dataclass(frozen=True, slots=True)
class Activation:
    name: str
    function: str
    slope: float = 0.01  # leaky_relu's alpha


@dataclass(frozen=True, slots=True)
class Pool:
    name: str
    function: str  # max | average | global: the mean of the whole map
    size: int
    stride: int


@dataclass(frozen=True, slots=True)
class Dropout:
    name: str
    share: float


@dataclass(frozen=True, slots=True)
class Flatten:
    name: str


@dataclass(frozen=True, slots=True)
class Dense:
    name: str
    units: int


@dataclass(frozen=True, slots=True)
class Rows:
    """An image as a sequence of its rows: (C, H, W) -> (H, C * W)."""

    name: str


@dataclass(frozen=True, slots=True)
class Recurrent:
    """A stack of recurrent layers; its output is the last layer's final state, of both directions."""

    name: str
    cell: str  # rnn | lstm | gru
    hidden: int
    layers: int = 1
    nonlinearity: str = "tanh"
    bias: bool = True
    dropout: float = 0.0
    bidirectional: bool = False

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1


Layer = Pad | Conv | Norm | Activation | Pool | Dropout | Flatten | Dense | Rows | Recurrent


@dataclass(frozen=True, slots=True)
class Row:
    """One layer of a summary. multiply_adds and kept are for one image; kept is bytes held for the backward pass."""

    layer: Layer
    shape: Shape
    parameters: int
    multiply_adds: int
    kept: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What a network costs, layer by layer."""

    shape: Shape  # of its input
    rows: tuple[Row, ...]

    @property
    def parameters(self) -> int:
        """Learned numbers."""
        return sum(row.parameters for row in self.rows)

    @property
    def multiply_adds(self) -> int:
        """Of one image going forward; convolutions, dense and recurrent layers count, as is customary."""
        return sum(row.multiply_adds for row in self.rows)

    @property
    def kept(self) -> int:
        """Bytes one image holds for the backward pass, its own included."""
        return FLOAT_BYTES * math.prod(self.shape) + sum(row.kept for row in self.rows)

    @property
    def widest(self) -> int:
        """Numbers in the largest tensor one image passes through."""
        return max(math.prod(shape) for shape in (self.shape, *(row.shape for row in self.rows)))


def summary(layers: Sequence[Layer], shape: Shape) -> Summary:
    """The cost of a network on inputs of this shape. Raises Impossible."""
    rows, before = [], shape
    for i, (layer, after) in enumerate(zip(layers, shapes(layers, shape), strict=True)):
        kept = _kept(layers, i, before, after)
        rows.append(Row(layer, after, parameters(layer, before), multiply_adds(layer, before), kept))
        before = after
    return Summary(shape, tuple(rows))


def shapes(layers: Sequence[Layer], shape: Shape) -> Iterator[Shape]:
    """The output of each layer in turn. Raises Impossible at the first that cannot be."""
    image = shape
    for layer in layers:
        fault = _fault(layer, shape)
        if fault:
            what, result = fault
            raise Impossible(layer.name, f"{what} at {spoken(place(layer.name))} on {across(image)}: {result}")
        shape = output(layer, shape)
        yield shape


def out(n: int, k: int, stride: int, padding: int = 0) -> int:
    """Size of a map after a convolution or a pooling, in one dimension; below 1 there is none."""
    return (n - k + 2 * padding) // stride + 1


def output(layer: Layer, shape: Shape) -> Shape:
    """The shape that leaves a layer; sizes below 1 mean that it cannot be (see `shapes`)."""
    match layer:
        case Pad(before=before, after=after):
            c, h, w = shape
            return c, h + before + after, w + before + after
        case Conv(channels=channels, kernel=k, stride=stride, padding=padding):
            return channels, out(shape[1], k, stride, padding), out(shape[2], k, stride, padding)
        case Pool(function="global"):
            return shape[0], 1, 1
        case Pool(size=k, stride=stride):
            return shape[0], out(shape[1], k, stride), out(shape[2], k, stride)
        case Flatten():
            return (math.prod(shape),)
        case Dense(units=units):
            return (units,)
        case Rows():
            c, h, w = shape
            return h, c * w
        case Recurrent(hidden=hidden):
            return (hidden * layer.directions,)
        case Norm() | Activation() | Dropout():
            return shape


def parameters(layer: Layer, shape: Shape) -> int:
    match layer:
        case Conv(channels=channels, kernel=k, bias=bias):
            return channels * (k * k * shape[0] + bias)
        case Dense(units=units):
            return units * (shape[0] + 1)
        case Norm():
            return 2 * shape[0]
        case Recurrent(hidden=hidden, bias=bias):
            gates = GATES[layer.cell] * hidden
            return sum(layer.directions * gates * (n + hidden + 2 * bias) for n in _inputs(layer, shape))
        case _:
            return 0


def multiply_adds(layer: Layer, shape: Shape) -> int:
    """Multiplications (each with an addition) of one image going forward."""
    match layer:
        case Conv(kernel=k):
            return k * k * shape[0] * math.prod(output(layer, shape))
        case Dense(units=units):
            return units * shape[0]
        case Recurrent(hidden=hidden):
            gates = GATES[layer.cell] * hidden
            return shape[0] * sum(layer.directions * gates * (n + hidden) for n in _inputs(layer, shape))
        case _:
            return 0


def place(name: str) -> str:
    """The block or the dense layer that a layer belongs to: block3.conv2 -> block3; dense1_activation -> dense1."""
    return name.partition(".")[0].partition("_")[0]


def spoken(name: str) -> str:
    """A layer's name in a sentence: "block 3" for block3.conv, "block 3 (conv2)" for block3.conv2, "dense 1"."""
    first, _, inner = name.partition(".")
    word = first.rstrip("0123456789")
    text = f"{word} {first[len(word) :]}".strip()
    return text if inner in ("", "conv") else f"{text} ({inner})"


def across(shape: Shape) -> str:
    """Height and width, as in "8x8"."""
    return "x".join(str(max(0, n)) for n in shape[-2:])


def _inputs(layer: Recurrent, shape: Shape) -> list[int]:
    """Features that enter each layer of the stack."""
    return [shape[1]] + [layer.hidden * layer.directions] * (layer.layers - 1)


def _fault(layer: Layer, shape: Shape) -> tuple[str, str] | None:
    """What does not fit, and what came of it; None if the layer can be."""
    match layer:
        case Pad(mode=mode):
            return _padding_fault(max(layer.before, layer.after), mode, shape)
        case Conv(kernel=k, padding=padding, mode=mode):
            after = output(layer, shape)
            if min(after) < 1:
                how = f"with padding {padding}" if padding else "without padding"
                return f"kernel_size {k} {how}", f"map {across(after)}"
            return _padding_fault(padding, mode, shape)
        case Pool(size=k):
            after = output(layer, shape)
            return (f"pool_size {k}", f"map {across(after)}") if min(after) < 1 else None
        case Norm(batch_size=1) if math.prod(shape[1:]) == 1:
            return "batch_norm", "one value a channel at batch_size 1, map 1x1"
        case _:
            return None


def _padding_fault(padding: int, mode: str, shape: Shape) -> tuple[str, str] | None:
    """torch reflects less than a whole map and wraps around at most once."""
    least = {"reflect": padding + 1, "circular": padding}.get(mode, 0)
    if padding == 0 or min(shape[1:]) >= least:
        return None
    return f"padding_mode {mode} with padding {padding}", f"needs a map of {least}x{least}, has {across(shape)}"


def _kept(layers: Sequence[Layer], i: int, before: Shape, after: Shape) -> int:
    """Bytes of one image that layer i adds to what the backward pass needs."""
    layer, size = layers[i], math.prod(after)
    following = layers[i + 1] if i + 1 < len(layers) else None
    result = isinstance(layer, Activation) and layer.function in SAVES_OUTPUT
    own = FLOAT_BYTES * size if result or _saves_input(following) else 0
    match layer:
        case Flatten() | Rows():
            return 0  # a view of what the layer before it keeps
        case Pool(function="max"):
            return own + INDEX_BYTES * size
        case Dropout(share=share):
            return own + FLOAT_BYTES * size if share else 0
        case Conv(mode=mode, padding=padding) if mode != "zeros" and padding:
            c, h, w = before
            return own + FLOAT_BYTES * c * (h + 2 * padding) * (w + 2 * padding)
        case Recurrent():
            feature, state = STEP_KEEPS[layer.cell]
            width = layer.hidden * layer.directions
            masks = width * (layer.layers - 1) if layer.dropout else 0
            step = sum(feature * n + state * width for n in _inputs(layer, before)) + masks
            return own + FLOAT_BYTES * before[0] * step
        case _:
            return own


def _saves_input(layer: Layer | None) -> bool:
    match layer:
        case Activation(function=function):
            return function not in SAVES_OUTPUT
        case Pool(function="global"):
            return False  # the gradient of a mean needs the size alone
        case Conv() | Norm() | Pool() | Dense() | Flatten():  # flattening hands it on to a dense layer
            return True
        case _:
            return False


def layer_table(network: Summary) -> list[str]:
    """A network layer by layer, in columns: name, shape of what leaves it, model parameters, multiply-adds."""
    cells = [("layer", "output", "parameters", "multiply-adds"), ("input", "x".join(map(str, network.shape)), "", "")]
    for row in network.rows:
        parameters, work = (f"{amount:,}" if amount else "" for amount in (row.parameters, row.multiply_adds))
        cells.append((row.layer.name, "x".join(map(str, row.shape)), parameters, work))
    return columns(cells, left=(0, 1))
