"""What is minimized, and what a predictor that knows nothing would score on it.

K   outputs        outputs (N, K) as the network gives them; targets (N,) classes or (N, K) numbers
classes, cross entropy    -ln softmax(outputs)[target]                     chance: ln K
classes, squared error    sum_k (softmax(outputs)_k - [k = target])^2      chance: 1 - 1/K     (the quadratic cost)
numbers, squared error    mean_k ((outputs - target)_k / spread_k)^2       chance: 1, the mean predictor
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from hpo.errors import BadInput, Mistake

CROSS_ENTROPY = "cross_entropy"
SQUARED_ERROR = "squared_error"

Criterion = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Loss:
    """The mean loss of a batch, of no dimension. `plain` is what validation reports: unweighted, unsmoothed.

    spread: of the training targets (K,), for numbers; weights: of the classes (K,), on average 1 over training rows.
    """

    kind: str
    outputs: int
    spread: Tensor | None = None
    weights: Tensor | None = None
    smoothing: float = 0.0

    @property
    def chance(self) -> float:
        if self.spread is not None:
            return 1.0
        return math.log(self.outputs) if self.kind == CROSS_ENTROPY else 1 - 1 / self.outputs

    @property
    def plain(self) -> Loss:
        return replace(self, weights=None, smoothing=0.0)

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.spread is not None:
            return ((outputs - targets) / self.spread).square().mean()
        if self.kind == CROSS_ENTROPY:
            return F.cross_entropy(outputs, targets, weight=self.weights, label_smoothing=self.smoothing)
        return self._quadratic(outputs, targets)

    def _quadratic(self, outputs: Tensor, targets: Tensor) -> Tensor:
        wanted = F.one_hot(targets, self.outputs).to(outputs.dtype)
        if self.smoothing > 0:
            wanted = wanted * (1 - self.smoothing) + self.smoothing / self.outputs
        each = (outputs.softmax(1) - wanted).square().sum(1)
        if self.weights is None:
            return each.mean()
        own = self.weights[targets]
        return (each * own).sum() / own.sum()


def loss(kind: str, outputs: int, targets: Tensor, weights: Tensor | None = None) -> Loss:
    """The loss of a data set with these training targets: int64 (N,) are classes, floats (N, K) numbers.

    Raises BadInput where the loss is not one of such targets.
    """
    if targets.dtype != torch.int64:
        if kind != SQUARED_ERROR:
            remedy = f"write loss: {SQUARED_ERROR}"
            raise BadInput(Mistake("loss", f"must be {SQUARED_ERROR} where the targets are numbers", kind, remedy))
        return Loss(kind, outputs, spread=targets.std(0, correction=0).clamp(min=1e-12))
    return Loss(kind, outputs, weights=weights)
