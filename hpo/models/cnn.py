"""The convolutional family: blocks of convolution, norm, activation, pooling and dropout; then dense layers.

Without a block it is a perceptron (no dense layer) or an MLP. A parameter of blocks, or of dense layers, is written
for all (channels) or for one (block2.channels).
"""

from typing import Final

from hpo.core import Params, Value
from hpo.models.layers import RISING, Activation, Conv, Dense, Dropout, Flatten, Layer, Norm, Pad, Pool, Shape, shapes
from hpo.models.parameters import DENSE, TRAINING, fraction, setting
from hpo.space.domains import PARTS, Condition, ParameterSpec

VALID: Final = "valid"
SAME: Final = "same"
PADDINGS: Final = (VALID, SAME, *range(12))
MODES: Final = ("zeros", "replicate", "reflect", "circular")
OFF: Final = "off"
NONE: Final = "none"
_POOLED: Final = (Condition("pool", ("max", "average")),)

PARAMETERS: Final[dict[str, ParameterSpec]] = {
    "blocks": ParameterSpec(2, "int", low=0, high=100, doc="convolution blocks; none makes an MLP"),
    "channels": ParameterSpec(16, "int", low=1, per="block", doc="filters"),
    "kernel_size": ParameterSpec(3, "int", low=1, per="block", doc="k: side of the kernel"),
    "stride": ParameterSpec(1, "int", low=1, per="block", doc="S: of the block's first convolution"),
    "padding": ParameterSpec(
        SAME, "choice", choices=PADDINGS, per="block", doc="valid: none; same: keeps the size at stride 1; or P"
    ),
    "padding_mode": ParameterSpec(
        "zeros", "choice", choices=MODES, per="block", doc="what is padded; replicate is the nearest pixel"
    ),
    "convs_per_block": ParameterSpec(1, "int", low=1, high=16, doc="convolutions before the pooling of each block"),
    "batch_norm": ParameterSpec(
        OFF, "choice", choices=(OFF, "before", "after"), per="block", doc="before or after the activation"
    ),
    "pool": ParameterSpec(  # max goes before an activation that only rises, which is the same function
        "max", "choice", choices=("max", "average", NONE), per="block", doc="pooling of the block, after the activation"
    ),
    "pool_size": ParameterSpec(2, "int", low=1, per="block", when=_POOLED, doc="side of the pooling window"),
    "pool_stride": ParameterSpec(None, "int", low=1, per="block", when=_POOLED, doc="pool_size where it is left out"),
    "conv_dropout": fraction(0.0, "after the pooling", per="block"),
    "global_pool": ParameterSpec(
        NONE, "choice", choices=(NONE, "average"), doc="average: the mean of each map enters the dense layers"
    ),
    **DENSE,
}


def layers(params: Params, shape: Shape, outputs: int) -> list[Layer]:
    """The network these params describe, for images of shape (C, H, W). Raises Impossible."""
    blocks = int(setting(params, PARAMETERS, "blocks"))
    convolutional = [layer for i in range(1, blocks + 1) for layer in _block(params, i)]
    pooled = [Pool("pool", "global", 1, 1)] if setting(params, PARAMETERS, "global_pool") != NONE else []
    network = [*convolutional, *pooled, Flatten("flatten"), *dense_stack(params, outputs)]
    list(shapes(network, shape))  # for its exception: an impossible network is never returned
    return network


def _block(params: Params, i: int) -> list[Layer]:
    block: list[Layer] = []
    for j in range(1, int(setting(params, PARAMETERS, "convs_per_block")) + 1):
        block += _convolution(params, i, "" if j == 1 else str(j))
    function = str(of_part(params, i, "pool"))
    if function != NONE:
        size = int(of_part(params, i, "pool_size"))
        stride = params.get(f"block{i}.pool_stride", params.get("pool_stride", size))
        # The maximum of an activation that never falls is the activation of the maximum, for a quarter of the work.
        rising = isinstance(block[-1], Activation) and block[-1].function in RISING
        position = len(block) - 1 if function == "max" and rising else len(block)
        block.insert(position, Pool(f"block{i}.pool", function, size, int(stride)))
    share = float(of_part(params, i, "conv_dropout"))
    return [*block, Dropout(f"block{i}.dropout", share)] if share else block


def _convolution(params: Params, i: int, number: str) -> list[Layer]:
    """One convolution with its activation and norm. number: "" for the first of a block, then "2", "3", ..."""
    kernel = int(of_part(params, i, "kernel_size"))
    mode = str(of_part(params, i, "padding_mode"))
    before, after = sides(of_part(params, i, "padding"), kernel)
    norm_position = str(of_part(params, i, "batch_norm"))
    conv = Conv(
        f"block{i}.conv{number}",
        channels=int(of_part(params, i, "channels")),
        kernel=kernel,
        stride=1 if number else int(of_part(params, i, "stride")),
        padding=before if before == after else 0,
        mode=mode,
        bias=norm_position != "before",  # beta of the norm takes its place
    )
    padding: list[Layer] = [] if before == after else [Pad(f"block{i}.pad{number}", before, after, mode)]
    function = activation(params, f"block{i}.activation{number}")
    norm = Norm(f"block{i}.norm{number}", int(setting(params, TRAINING, "batch_size")))
    rest: dict[str, list[Layer]] = {"before": [norm, function], "after": [function, norm]}
    return [*padding, conv, *rest.get(norm_position, [function])]


def sides(padding: Value, kernel: int) -> tuple[int, int]:
    """Padding before and after: `same` adds k - 1 in all, so that the size is kept at stride 1."""
    if padding == SAME:
        return (kernel - 1) // 2, kernel // 2
    both = 0 if padding == VALID else int(padding)
    return both, both


def of_part(params: Params, i: int, name: str) -> Value:
    """A parameter of block or dense layer i: its own, or that of all, or the default."""
    own = PARTS[PARAMETERS[name].per].own(i, name)
    return params[own] if own in params else setting(params, PARAMETERS, name)


def activation(params: Params, name: str) -> Activation:
    function = str(setting(params, DENSE, "activation"))
    return Activation(name, function, float(setting(params, DENSE, "leaky_slope")))


def dense_stack(params: Params, outputs: int) -> list[Layer]:
    """Hidden dense layers, then the output: logits of the classes, or the predicted number."""
    share = float(setting(params, DENSE, "dropout"))
    stack: list[Layer] = []
    for i in range(1, int(setting(params, DENSE, "dense_layers")) + 1):
        units = int(of_part(params, i, "dense_units"))
        stack += [Dense(f"dense{i}", units), activation(params, f"dense{i}_activation")]
        stack += [Dropout(f"dense{i}_dropout", share)] if share else []
    return [*stack, Dense("output", outputs)]
