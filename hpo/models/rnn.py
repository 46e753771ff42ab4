"""The recurrent family: reads an image row by row, (batch, H, C * W); the final state goes to dense layers."""

from __future__ import annotations

from typing import Final

from hpo.core import Params
from hpo.models.cnn import DENSE, dense_stack
from hpo.models.layers import Layer, Recurrent, Rows, Shape
from hpo.models.parameters import fraction, setting
from hpo.space.domains import Condition, ParameterSpec

PLAIN: Final = "rnn"

PARAMETERS: Final[dict[str, ParameterSpec]] = {
    "cell": ParameterSpec(
        "gru", "choice", choices=(PLAIN, "lstm", "gru"), doc="what carries the state from row to row"
    ),
    "hidden_size": ParameterSpec(64, "int", low=1, doc="numbers in the state, in each direction"),
    "rnn_layers": ParameterSpec(1, "int", low=1, high=100, doc="recurrent layers on top of each other"),
    "nonlinearity": ParameterSpec(
        "tanh", "choice", choices=("tanh", "relu"), when=(Condition("cell", (PLAIN,)),), doc="of the plain cell"
    ),
    "bias": ParameterSpec(True, "bool", doc="whether the recurrent layers learn one"),
    "rnn_dropout": fraction(0.0, "between recurrent layers; without effect on a single one"),
    "bidirectional": ParameterSpec(False, "bool", doc="also read from the last row to the first"),
    **DENSE,
}


def layers(params: Params, shape: Shape, outputs: int) -> list[Layer]:
    """The network these params describe, for images of shape (C, H, W). Every one of them is possible."""
    depth = int(setting(params, PARAMETERS, "rnn_layers"))
    recurrent = Recurrent(
        "recurrent",
        cell=str(setting(params, PARAMETERS, "cell")),
        hidden=int(setting(params, PARAMETERS, "hidden_size")),
        layers=depth,
        nonlinearity=str(setting(params, PARAMETERS, "nonlinearity")),
        bias=bool(setting(params, PARAMETERS, "bias")),
        dropout=float(setting(params, PARAMETERS, "rnn_dropout")) if depth > 1 else 0.0,
        bidirectional=bool(setting(params, PARAMETERS, "bidirectional")),
    )
    return [Rows("rows"), recurrent, *dense_stack(params, outputs)]
