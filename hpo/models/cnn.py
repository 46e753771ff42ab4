"""The convolutional family: blocks of convolution, norm, activation, pooling and dropout; then dense layers.

Without a block it is a perceptron (no dense layer) or an MLP. A parameter of blocks is written for all (channels)
or for one (block2.channels).
"""

from __future__ import annotations

from typing import Final

from hpo.core import Params, Value
from hpo.models.layers import RISING, Activation, Conv, Dense, Dropout, Flatten, Layer, Norm, Pad, Pool, Shape, shapes
from hpo.models.parameters import TRAINING, setting
from hpo.space.domains import Condition, ParameterSpec

VALID: Final = "valid"
SAME: Final = "same"
PADDINGS: Final = (VALID, SAME, *range(12))
MODES: Final = ("zeros", "replicate", "reflect", "circular")
OFF: Final = "off"
NONE: Final = "none"

LEAKY: Final = "leaky_relu"
ACTIVATIONS: Final = ("relu", LEAKY, "tanh", "sigmoid", "silu")

DENSE: Final[dict[str, ParameterSpec]] = {
    "activation": ParameterSpec("relu", "choice", choices=ACTIVATIONS, doc="one for the whole network"),
    "leaky_slope": ParameterSpec(
        0.01, "float", low=0.01, high=0.3, when=(Condition("activation", (LEAKY,)),), doc="slope below zero (alpha)"
    ),
    "dense_layers": ParameterSpec(
        1, "int", low=0, high=100, doc="hidden dense layers between the features and the output"
    ),
    "dense_units": ParameterSpec(64, "int", low=1, doc="width of each hidden dense layer"),
    "dropout": ParameterSpec(0.0, "float", low=0, high=1, open_high=True, doc="after each hidden dense layer"),
}

_POOLED: Final = (Condition("pool", ("max", "average")),)

PARAMETERS: Final[dict[str, ParameterSpec]] = {
    "blocks": ParameterSpec(2, "int", low=0, high=100, doc="convolution blocks; none makes an MLP"),
    "channels": ParameterSpec(16, "int", low=1, per_block=True, doc="filters"),
    "kernel_size": ParameterSpec(3, "int", low=1, per_block=True, doc="k: side of the kernel"),
    "stride": ParameterSpec(1, "int", low=1, per_block=True, doc="S: of the block's first convolution"),
    "padding": ParameterSpec(
        SAME,
        "choice",
        choices=PADDINGS,
        per_block=True,
        doc="valid: none; same: as large as the input at stride 1; a number: P on each side",
    ),
    "padding_mode": ParameterSpec(
        "zeros", "choice", choices=MODES, per_block=True, doc="what is padded; replicate is the nearest pixel"
    ),
    "convs_per_block": ParameterSpec(1, "int", low=1, high=16, doc="convolutions before the pooling of each block"),
    "batch_norm": ParameterSpec(
        OFF, "choice", choices=(OFF, "before", "after"), per_block=True, doc="before or after the activation"
    ),
    "pool": ParameterSpec(
        "max",
        "choice",
        choices=("max", "average", NONE),
        per_block=True,
        doc="pooling of the block, after the activation; max before one that only rises (the same function)",
    ),
    "pool_size": ParameterSpec(2, "int", low=1, per_block=True, when=_POOLED, doc="side of the pooling window"),
    "pool_stride": ParameterSpec(
        None, "int", low=1, per_block=True, when=_POOLED, doc="pool_size where it is left out"
    ),
    "conv_dropout": ParameterSpec(0.0, "float", low=0, high=1, open_high=True, per_block=True, doc="after the pooling"),
    **DENSE,
}


def layers(params: Params, shape: Shape, outputs: int) -> list[Layer]:
    """The network these params describe, for images of shape (C, H, W). Raises Impossible."""
    made = plan(params, outputs)
    for _ in shapes(made, shape):
        pass  # for its exception: an impossible network is never handed out
    return made


def plan(params: Params, outputs: int) -> list[Layer]:
    """The layers as they are named, whether an image survives them or not."""
    blocks = int(setting(params, PARAMETERS, "blocks"))
    made = [layer for i in range(1, blocks + 1) for layer in _block(params, i)]
    return [*made, Flatten("flatten"), *dense_stack(params, outputs)]


def _block(params: Params, i: int) -> list[Layer]:
    made: list[Layer] = []
    for j in range(1, int(setting(params, PARAMETERS, "convs_per_block")) + 1):
        made += _convolution(params, i, "" if j == 1 else str(j))
    pool = str(_of(params, i, "pool"))
    if pool != NONE:
        size = int(_of(params, i, "pool_size"))
        stride = params.get(f"block{i}.pool_stride", params.get("pool_stride", size))
        made.insert(_place_of_pool(made, pool), Pool(f"block{i}.pool", pool, size, int(stride)))
    share = float(_of(params, i, "conv_dropout"))
    return [*made, Dropout(f"block{i}.dropout", share)] if share else made


def _place_of_pool(made: list[Layer], pool: str) -> int:
    """The maximum of an activation that never falls is the activation of the maximum, and a quarter of the work."""
    last = made[-1]
    first = pool == "max" and isinstance(last, Activation) and last.function in RISING
    return len(made) - first


def _convolution(params: Params, i: int, which: str) -> list[Layer]:
    """One convolution with its activation and norm. `which` numbers those after a block's first."""
    kernel = int(_of(params, i, "kernel_size"))
    mode = str(_of(params, i, "padding_mode"))
    before, after = sides(_of(params, i, "padding"), kernel)
    position = str(_of(params, i, "batch_norm"))
    conv = Conv(
        f"block{i}.conv{which}",
        channels=int(_of(params, i, "channels")),
        kernel=kernel,
        stride=1 if which else int(_of(params, i, "stride")),
        padding=before if before == after else 0,
        mode=mode,
        bias=position != "before",  # beta of the norm takes its place
    )
    function = activation(params, f"block{i}.activation{which}")
    norm = Norm(f"block{i}.norm{which}", int(setting(params, TRAINING, "batch_size")))
    made: list[Layer] = [] if before == after else [Pad(f"block{i}.pad{which}", before, after, mode)]
    order: dict[str, list[Layer]] = {
        OFF: [conv, function],
        "before": [conv, norm, function],
        "after": [conv, function, norm],
    }
    return made + order[position]


def sides(padding: Value, kernel: int) -> tuple[int, int]:
    """Padding before and after: `same` adds k - 1 in all, so that the size is kept at stride 1."""
    if padding == SAME:
        return (kernel - 1) // 2, kernel // 2
    both = 0 if padding == VALID else int(padding)
    return both, both


def _of(params: Params, i: int, name: str) -> Value:
    """A parameter of block i: its own, or that of all blocks, or the default."""
    own = f"block{i}.{name}"
    return params[own] if own in params else setting(params, PARAMETERS, name)


# -- what every family ends in -------------------------------------------------------------------------------------


def activation(params: Params, name: str) -> Activation:
    function = str(setting(params, DENSE, "activation"))
    return Activation(name, function, float(setting(params, DENSE, "leaky_slope")))


def dense_stack(params: Params, outputs: int) -> list[Layer]:
    """Hidden dense layers, then the output: logits of the classes, or the predicted number."""
    share = float(setting(params, DENSE, "dropout"))
    layers: list[Layer] = []
    for i in range(1, int(setting(params, DENSE, "dense_layers")) + 1):
        layers += [
            Dense(f"dense{i}", int(setting(params, DENSE, "dense_units"))),
            activation(params, f"dense{i}_activation"),
        ]
        if share:
            layers.append(Dropout(f"dense{i}_dropout", share))
    return [*layers, Dense("output", outputs)]
