"""The model families by name. A family is one file; this is the only place that lists them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from hpo.core import Params
from hpo.models import cnn, rnn
from hpo.models.layers import Impossible, Layer, Shape, Summary, summary
from hpo.models.parameters import TRAINING
from hpo.space.space import Known

Layers = Callable[[Params, Shape, int], list[Layer]]


@dataclass(frozen=True, slots=True)
class Family:
    """parameters: what it knows; layers: params, shape (C, H, W) and outputs to a network, or Impossible."""

    name: str
    parameters: Mapping[str, Known]
    layers: Layers


FAMILIES: Final = {
    "cnn": Family("cnn", cnn.PARAMETERS, cnn.layers),
    "rnn": Family("rnn", rnn.PARAMETERS, rnn.layers),
}


def known(model: str, train: str | None = None) -> dict[str, Known]:
    """Every parameter that a study of this model may name; empty where a user's own code decides that."""
    if train is not None or model not in FAMILIES:
        return {}
    return {**FAMILIES[model].parameters, **TRAINING}


def sizes(model: str, params: Params, shape: Shape, outputs: int) -> Summary:
    """What the network these params describe costs. Raises Impossible."""
    return summary(FAMILIES[model].layers(params, shape, outputs), shape)


def feasible(model: str, params: Params, shape: Shape, outputs: int) -> str | None:
    """In a phrase why these params can never be trained; None if they can, or if the model is a user's own."""
    if model not in FAMILIES:
        return None
    try:
        FAMILIES[model].layers(params, shape, outputs)
    except Impossible as impossible:
        return impossible.why
    return None
