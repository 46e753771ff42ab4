"""What every family ends in: activations and a stack of dense layers."""

from __future__ import annotations

from typing import Final

from hpo.core import Params
from hpo.models.layers import Activation, Dense, Dropout, Layer
from hpo.models.parameters import setting
from hpo.space.domains import Condition, ParameterSpec

LEAKY: Final = "leaky_relu"
ACTIVATIONS: Final = ("relu", LEAKY, "tanh", "sigmoid", "silu")

PARAMETERS: Final[dict[str, ParameterSpec]] = {
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


def activation(params: Params, name: str) -> Activation:
    function = str(setting(params, PARAMETERS, "activation"))
    return Activation(name, function, float(setting(params, PARAMETERS, "leaky_slope")))


def stack(params: Params, outputs: int) -> list[Layer]:
    """Hidden dense layers, then the output: logits of the classes, or the predicted number."""
    share = float(setting(params, PARAMETERS, "dropout"))
    layers: list[Layer] = []
    for i in range(1, int(setting(params, PARAMETERS, "dense_layers")) + 1):
        layers += [
            Dense(f"dense{i}", int(setting(params, PARAMETERS, "dense_units"))),
            activation(params, f"dense{i}_activation"),
        ]
        if share:
            layers.append(Dropout(f"dense{i}_dropout", share))
    return [*layers, Dense("output", outputs)]
