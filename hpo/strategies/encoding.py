"""A point as numbers by what its parameters mean, whichever of them a study searches: the same in every study.

What is left out has its default. Sizes, rates and counts are logarithms, kinds are bits, and what follows from the
parameters stands beside them: learned numbers, multiply-adds, the size of the last map, steps an epoch, the rate with momentum.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

import numpy as np

from hpo.core import Params, Value, epochs_of
from hpo.models import parameters
from hpo.models.cnn import of_part
from hpo.models.families import sizes
from hpo.models.layers import Dense, Flatten, Shape, Summary
from hpo.models.parameters import OPTIMIZERS, RMSPROP, number, setting

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Images:
    """What a study learns from: the shape of an image (C, H, W), numbers to give for one, and how many each split has."""

    shape: Shape
    outputs: int
    train: int
    val: int = 0


def encode(params: Params, images: Images) -> Array:
    """Every feature of a point, but those of an epoch, as FEATURES names them. Raises Impossible."""
    return np.array(list(named(params, images).values()))


def named(params: Params, images: Images) -> dict[str, float]:
    channels, height, width = images.shape
    network = sizes("cnn", params, images.shape, images.outputs)
    return {
        "images": math.log(images.train),
        "side": math.log(height * width) / 2,
        "channels of images": math.log(channels),
        "classes": math.log(images.outputs + 1),
        **_network(params, network),
        **_update(params, max(1, round(images.train / number(params, "batch_size")))),
        "decay": math.log(1e-7 + number(params, "weight_decay") + number(params, "l2")),
        "l1": math.log(1e-8 + number(params, "l1")),
        "smoothing": number(params, "label_smoothing"),
        "shift": number(params, "shift"),
        "flip": float(bool(setting(params, "flip"))),
        "rotation": number(params, "rotation") / 10,
        "erase": number(params, "erase"),
    }


def at_epochs(point: Array, params: Params, epochs: Array) -> Array:
    """A point's features (D,), as `encode` gives them, with those of each epoch -> (len(epochs), D + 4)."""
    steps = point[_POINT.index("steps an epoch")]
    kind, gamma = setting(params, "schedule"), math.log(number(params, "decay"))
    every = {parameters.STEP: number(params, "step_epochs"), parameters.EXPONENTIAL: 1.0}.get(str(kind), math.inf)
    through = epochs / epochs_of(params) if kind == parameters.COSINE else np.zeros(len(epochs))
    own = np.stack([np.log(epochs), np.log(epochs) + steps, np.floor(epochs / every) * gamma, through], axis=1)
    return np.hstack([np.broadcast_to(point, (len(epochs), len(point))), own])


def _network(params: Params, network: Summary) -> dict[str, float]:
    blocks = int(setting(params, "blocks"))
    each = range(1, blocks + 1)

    def of(name: str) -> list[Value]:
        return [of_part(params, i, name) for i in each]

    def mean(values: Iterable[float]) -> float:
        return sum(values) / blocks if blocks else 0.0

    widths = [math.log2(float(width)) for width in of("channels")] or [0.0]
    pooled = [kind != parameters.NONE for kind in of("pool")]
    dense = int(setting(params, "dense_layers"))
    behind = [math.log2(float(of_part(params, i, "dense_units"))) for i in range(1, dense + 1)]
    flatten = next(i for i, row in enumerate(network.rows) if isinstance(row.layer, Flatten))
    maps = [network.shape, *(row.shape for row in network.rows[:flatten] if len(row.shape) == 3)]
    activation = setting(params, "activation")
    outputs = next(row for row in reversed(network.rows) if isinstance(row.layer, Dense))
    return {
        "blocks": float(blocks),
        "convolutions": float(blocks * int(setting(params, "convs_per_block"))),
        "first width": widths[0],
        "last width": widths[-1],
        "kernel": mean([float(size) for size in of("kernel_size")]),
        "stride": mean([math.log2(float(stride)) for stride in of("stride")]),
        "no padding": mean([padding in (parameters.VALID, 0) for padding in of("padding")]),
        "pixels as padding": mean([mode != "zeros" for mode in of("padding_mode")]),
        "norm before": mean([norm == "before" for norm in of("batch_norm")]),
        "norm after": mean([norm == "after" for norm in of("batch_norm")]),
        "norm": mean([norm != parameters.OFF for norm in of("batch_norm")]),
        "pooled": mean(pooled),
        "average": mean([kind == "average" for kind in of("pool")]),
        "pool size": mean([float(size) * there for size, there in zip(of("pool_size"), pooled, strict=True)]),
        "dropout of maps": mean([float(share) for share in of("conv_dropout")]),
        **{f"activation {name}": float(activation == name) for name in parameters.ACTIVATIONS},
        "slope": number(params, "leaky_slope") * (activation == parameters.LEAKY),
        "dense layers": float(dense),
        "dense width": fmean(behind) if behind else 0.0,
        "dropout": number(params, "dropout") * (dense > 0),
        "last map": math.log(maps[-1][1] * maps[-1][2]) / 2,
        "flat": math.log(math.prod(network.rows[flatten].shape)),
        "learned": math.log(network.parameters),
        "multiply-adds": math.log(network.multiply_adds),
        "last layer": math.log(outputs.parameters),
    }


def _update(params: Params, steps: int) -> dict[str, float]:
    optimizer = setting(params, "optimizer")
    rate = math.log(number(params, "learning_rate"))
    moving = optimizer in (parameters.SGD, RMSPROP)
    momentum = number(params, "momentum") if moving else 0.0
    effective = rate - math.log(1 - momentum)
    return {
        **{f"optimizer {name}": float(optimizer == name) for name in OPTIMIZERS},
        "rate": rate,
        "effective rate": effective,
        **{f"rate of {name}": (effective + 5) * (optimizer == name) for name in OPTIMIZERS},
        "momentum": momentum,
        "nesterov": float(bool(setting(params, "nesterov"))),
        "beta1": math.log(1 - number(params, "beta1")) * (not moving),
        "beta2": math.log(1 - number(params, "beta2")) * (not moving),
        "rms decay": math.log(1 - number(params, "rms_decay")) * (optimizer == RMSPROP),
        "batch": math.log2(number(params, "batch_size")),
        "steps an epoch": math.log(steps),
        "way an epoch": effective + math.log(steps),
        "schedule": float(setting(params, "schedule") == parameters.COSINE),
        "warmup": number(params, "warmup"),
        "clip": math.log1p(1 / number(params, "clip")) if number(params, "clip") else 0.0,
    }


_POINT: Final = tuple(named({}, Images((1, 8, 8), 2, 100)))
FEATURES: Final = (*_POINT, "epoch", "steps", "rate by schedule", "way through")
