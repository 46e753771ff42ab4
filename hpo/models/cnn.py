"""The convolutional family: blocks of convolution, norm, activation, pooling and dropout; then dense layers.

Without a block it is a perceptron (no dense layer) or an MLP. A parameter of blocks, or of dense layers, is written
for all (channels) or for one (block2.channels).
"""

from hpo.core import Params, Value
from hpo.models.layers import RISING, Activation, Conv, Dense, Dropout, Flatten, Layer, Norm, Pad, Pool, Shape, shapes
from hpo.models.parameters import CNN, NONE, SAME, VALID, number, setting
from hpo.space.domains import PARTS


def layers(params: Params, shape: Shape, outputs: int) -> list[Layer]:
    """The network these params describe, for images of shape (C, H, W). Raises Impossible."""
    blocks = int(setting(params, "blocks"))
    convolutional = [layer for i in range(1, blocks + 1) for layer in _block(params, i)]
    pooled = [Pool("pool", "global", 1, 1)] if setting(params, "global_pool") != NONE else []
    network = [*convolutional, *pooled, Flatten("flatten"), *dense_stack(params, outputs)]
    list(shapes(network, shape))  # for its exception: an impossible network is never returned
    return network


def _block(params: Params, i: int) -> list[Layer]:
    block: list[Layer] = []
    for j in range(1, int(setting(params, "convs_per_block")) + 1):
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


def _convolution(params: Params, i: int, nth: str) -> list[Layer]:
    """One convolution with its activation and norm. nth: "" for the first of a block, then "2", "3", ..."""
    kernel = int(of_part(params, i, "kernel_size"))
    mode = str(of_part(params, i, "padding_mode"))
    before, after = sides(of_part(params, i, "padding"), kernel)
    norm_position = str(of_part(params, i, "batch_norm"))
    conv = Conv(
        f"block{i}.conv{nth}",
        channels=int(of_part(params, i, "channels")),
        kernel=kernel,
        stride=1 if nth else int(of_part(params, i, "stride")),
        padding=before if before == after else 0,
        mode=mode,
        bias=norm_position != "before",  # beta of the norm takes its place
    )
    padding: list[Layer] = [] if before == after else [Pad(f"block{i}.pad{nth}", before, after, mode)]
    function = activation(params, f"block{i}.activation{nth}")
    norm = Norm(f"block{i}.norm{nth}", int(setting(params, "batch_size")))
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
    own = PARTS[CNN[name].per].own(i, name)
    return params[own] if own in params else setting(params, name)


def activation(params: Params, name: str) -> Activation:
    function = str(setting(params, "activation"))
    return Activation(name, function, number(params, "leaky_slope"))


def dense_stack(params: Params, outputs: int) -> list[Layer]:
    """Hidden dense layers, then the output: logits of the classes, or the predicted number."""
    share = number(params, "dropout")
    stack: list[Layer] = []
    for i in range(1, int(setting(params, "dense_layers")) + 1):
        units = int(of_part(params, i, "dense_units"))
        stack += [Dense(f"dense{i}", units), activation(params, f"dense{i}_activation")]
        stack += [Dropout(f"dense{i}_dropout", share)] if share else []
    return [*stack, Dense("output", outputs)]
