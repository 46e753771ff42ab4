"""The recurrent family: reads an image row by row, (batch, H, C * W); the final state goes to dense layers."""

from __future__ import annotations

from typing import Final

from hpo.core import Params
from hpo.models import dense
from hpo.models.layers import Layer, Recurrent, Rows, Shape
from hpo.models.parameters import setting
from hpo.space.space import Condition, Known

PLAIN: Final = "rnn"

PARAMETERS: Final[dict[str, Known]] = {
    "cell": Known("gru", "choice", choices=(PLAIN, "lstm", "gru"), doc="what carries the state from row to row"),
    "hidden_size": Known(64, "int", low=1, doc="numbers in the state, in each direction"),
    "rnn_layers": Known(1, "int", low=1, high=100, doc="recurrent layers on top of each other"),
    "nonlinearity": Known(
        "tanh", "choice", choices=("tanh", "relu"), when=(Condition("cell", (PLAIN,)),), doc="of the plain cell"
    ),
    "bias": Known(True, "bool", doc="whether the recurrent layers learn one"),
    "rnn_dropout": Known(
        0.0, "float", low=0, high=1, open_high=True, doc="between recurrent layers; without effect on a single one"
    ),
    "bidirectional": Known(False, "bool", doc="also read from the last row to the first"),
    **dense.PARAMETERS,
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
    return [Rows("rows"), recurrent, *dense.stack(params, outputs)]
