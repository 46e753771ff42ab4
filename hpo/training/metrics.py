"""What a split's outputs are worth, on the device they are on: every result is a tensor of no dimension.

K   classes        confusion (K, K): rows the truth, columns the prediction, counts
"""

from __future__ import annotations

import torch
from torch import Tensor


def confusion(predicted: Tensor, targets: Tensor, classes: int) -> Tensor:
    """predicted, targets (N,) int64 -> (K, K) counts."""
    return torch.bincount(targets * classes + predicted, minlength=classes * classes).view(classes, classes)


def accuracy(counts: Tensor) -> Tensor:
    return counts.diagonal().sum() / counts.sum()


def balanced_accuracy(counts: Tensor) -> Tensor:
    """Mean recall over the classes that occur."""
    truth = counts.sum(1)
    recall = counts.diagonal() / truth.clamp(min=1)
    return recall.sum() / (truth > 0).sum()


def macro_f1(counts: Tensor) -> Tensor:
    """Mean of 2 tp / (2 tp + fp + fn) over the classes that occur or are predicted (as scikit-learn has it)."""
    both = counts.sum(0) + counts.sum(1)
    return (2 * counts.diagonal() / both.clamp(min=1)).sum() / (both > 0).sum()


def mse(predicted: Tensor, targets: Tensor) -> Tensor:
    return (predicted - targets).square().mean()


def r2(predicted: Tensor, targets: Tensor) -> Tensor:
    """1 - squared error / spread of the targets; where they do not spread, 1 if they are met and else 0."""
    spread = (targets - targets.mean(0)).square().sum()
    error = (predicted - targets).square().sum()
    return torch.where(spread > 0, 1 - error / spread, (error == 0).to(error.dtype))


def of_classes(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """outputs (N, K), targets (N,)."""
    counts = confusion(outputs.argmax(1), targets, outputs.shape[1]).to(torch.float64)
    return {"accuracy": accuracy(counts), "balanced_accuracy": balanced_accuracy(counts), "macro_f1": macro_f1(counts)}


def of_numbers(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """outputs, targets (N, K)."""
    return {"mse": mse(outputs, targets), "r2": r2(outputs, targets)}
