"""How much memory a training will need, by arithmetic. A forecast for people: feasibility never reads it."""

from __future__ import annotations

from typing import Final

from hpo.core import Params
from hpo.models.layers import FLOAT_BYTES, Summary
from hpo.models.parameters import ADAM, ADAMW, RMSPROP, SGD, TRAINING, setting

TORCH_BYTES: Final = 220_000_000  # a worker with torch imported and nothing else (docs/design.md: 218 MB)
_STATES: Final = {SGD: 0, ADAM: 2, ADAMW: 2, RMSPROP: 1}  # running means a weight, besides the momentum


def peak(made: Summary, params: Params) -> int:
    """Bytes at the height of a step: weights, gradients, optimizer state, and what a batch keeps to go backward.

    Two more tensors as large as the widest: the gradients that enter and leave a layer. Without torch itself and the
    work space of its kernels.
    """
    copies = 2 + optimizer_states(params)
    batch = int(setting(params, TRAINING, "batch_size"))
    return FLOAT_BYTES * copies * made.parameters + batch * (made.kept + 2 * FLOAT_BYTES * made.widest)


def optimizer_states(params: Params) -> int:
    """Numbers that the optimizer keeps for each weight."""
    name = str(setting(params, TRAINING, "optimizer"))
    momentum = name in (SGD, RMSPROP) and float(setting(params, TRAINING, "momentum")) > 0
    return _STATES[name] + momentum
