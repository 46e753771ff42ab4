"""What is minimized, what a predictor that knows nothing would score on it, and what else is measured of outputs.

K   outputs        outputs (N, K) as the network gives them; targets (N,) classes or (N, K) numbers
classes, cross entropy    -ln softmax(outputs)[target]                     chance: ln K
classes, squared error    sum_k (softmax(outputs)_k - [k = target])^2      chance: 1 - 1/K     (the quadratic cost)
numbers, squared error    mean_k ((outputs - target)_k / spread_k)^2       chance: 1, the mean predictor

Losses and metrics stay on the device, as tensors of no dimension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

CROSS_ENTROPY = "cross_entropy"
SQUARED_ERROR = "squared_error"


@dataclass(frozen=True)
class Loss:
    """The mean loss of a batch. `plain` is what validation reports: unweighted, unsmoothed.

    spread: of the training targets (K,), for numbers; weights: of the classes (K,), on average 1 over training rows.
    """

    kind: str
    outputs: int
    spread: Tensor | None = None
    weights: Tensor | None = None
    smoothing: float = 0.0

    @classmethod
    def of(cls, kind: str, outputs: int, targets: Tensor, weights: Tensor | None = None) -> Loss:
        """For these training targets: int64 (N,) are classes, floats (N, K) numbers, which have the squared error alone."""
        if targets.dtype == torch.int64:
            return cls(kind, outputs, weights=weights)
        assert kind == SQUARED_ERROR, kind  # study_file/rules.py refuses any other
        return cls(kind, outputs, spread=targets.std(0, correction=0).clamp(min=1e-12))

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
        one_hot = F.one_hot(targets, self.outputs).to(outputs.dtype)
        smooth = one_hot * (1 - self.smoothing) + self.smoothing / self.outputs
        errors = (outputs.softmax(1) - smooth).square().sum(1)
        if self.weights is None:
            return errors.mean()
        weights = self.weights[targets]
        return (errors * weights).sum() / weights.sum()


def confusion(predicted: Tensor, targets: Tensor, classes: int) -> Tensor:
    """predicted, targets (N,) int64 -> (K, K) counts: rows the truth, columns the prediction."""
    return torch.bincount(targets * classes + predicted, minlength=classes * classes).view(classes, classes)


def of_classes(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Balanced accuracy is the mean recall over the classes that occur.

    Macro F1 is the mean of 2 tp / (2 tp + fp + fn) over the classes that occur or are predicted, as in scikit-learn.
    """
    counts = confusion(outputs.argmax(1), targets, outputs.shape[1]).to(torch.float64)
    hits, truth = counts.diagonal(), counts.sum(1)
    both = counts.sum(0) + truth
    return {
        "accuracy": hits.sum() / counts.sum(),
        "balanced_accuracy": (hits / truth.clamp(min=1)).sum() / (truth > 0).sum(),
        "macro_f1": (2 * hits / both.clamp(min=1)).sum() / (both > 0).sum(),
    }


def of_numbers(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """r2 is 1 - squared error / spread of the targets; where they do not spread, 1 if they are met and else 0."""
    errors, spread = (outputs - targets).square(), (targets - targets.mean(0)).square().sum()
    total = errors.sum()
    r2 = torch.where(spread > 0, 1 - total / spread, (total == 0).to(total.dtype))
    return {"mse": errors.mean(), "r2": r2}
