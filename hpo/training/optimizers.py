"""From gradients to updates: optimizers, schedules with warm-up, L1 and L2, clipping.

w      weights: matrices and kernels; biases, gamma and beta are never penalized
eta    learning rate at a point of the training, in epochs done (1.5 = half-way through the second epoch)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hpo.core import Params, epochs_of
from hpo.models.parameters import ADAM, ADAMW, CONSTANT, COSINE, RMSPROP, SGD, STEP, TRAINING, setting
from hpo.training.descent import Adam, Algorithm, Group, Optimizer, RmsProp, Sgd


def _number(params: Params, name: str) -> float:
    return float(setting(params, TRAINING, name))


def eta(params: Params, done: float) -> float:
    """The learning rate after `done` epochs: it rises linearly over the warm-up, then follows the schedule.

    Within an epoch only the warm-up and the cosine move; steps and the exponential decay fall between epochs, counted
    from the end of the warm-up.
    """
    peak, warmup = _number(params, "learning_rate"), _number(params, "warmup")
    if done < warmup:
        return peak * done / warmup
    since, kind = done - warmup, setting(params, TRAINING, "schedule")
    if kind == CONSTANT:
        return peak
    if kind == COSINE:
        return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, since / max(1.0, epochs_of(params) - warmup))))
    every = _number(params, "step_epochs") if kind == STEP else 1
    return peak * float(_number(params, "decay") ** math.floor(since / every))


def weights(network: nn.Module) -> list[Tensor]:
    """What regularization acts on."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad and parameter.ndim >= 2]


@dataclass(frozen=True)
class Rule:
    """w <- w - eta * what the optimizer makes of dL/dw, with the penalties' gradients added and the whole clipped."""

    optimizer: Optimizer
    params: Params
    parameters: list[Tensor]
    weights: list[Tensor]
    l1: float
    l2: float  # the part that the optimizer's own decay does not already do
    clip: float

    @torch.no_grad()
    def update(self, done: float) -> None:
        """One step with the gradients at hand; `done` epochs are over when it has been made."""
        self._penalize()
        if self.clip > 0:
            nn.utils.clip_grad_norm_(self.parameters, self.clip, foreach=True)
        self.optimizer.step(eta(self.params, done))
        for parameter in self.parameters:
            parameter.grad = None

    def _penalize(self) -> None:
        """Add d/dw (l1 * sum |w| + l2 * sum w^2) = l1 * sign(w) + 2 * l2 * w."""
        if self.l1 == 0 and self.l2 == 0:
            return
        held = [weight for weight in self.weights if weight.grad is not None]
        gradients = [weight.grad for weight in held if weight.grad is not None]
        if self.l1 > 0:
            torch._foreach_add_(gradients, torch._foreach_sign(held), alpha=self.l1)
        if self.l2 > 0:
            torch._foreach_add_(gradients, held, alpha=2 * self.l2)


def rule(params: Params, network: nn.Module) -> Rule:
    """The update rule these params name.

    L2 rides on the optimizer's coupled weight decay (2 * l2 * w, for nothing), but for adamw, whose decay is decoupled.
    """
    penalized = weights(network)
    others: list[Tensor] = [
        parameter for parameter in network.parameters() if parameter.requires_grad and parameter.ndim < 2
    ]
    l2, decay = _number(params, "l2"), _number(params, "weight_decay")
    decoupled = setting(params, TRAINING, "optimizer") == ADAMW
    groups = [Group(penalized, decay if decoupled else decay + 2 * l2), Group(others, 0.0)]
    return Rule(
        optimizer=Optimizer(_algorithm(params), groups),
        params=params,
        parameters=penalized + others,
        weights=penalized,
        l1=_number(params, "l1"),
        l2=l2 if decoupled else 0.0,
        clip=_number(params, "clip"),
    )


def _algorithm(params: Params) -> Algorithm:
    name, momentum = setting(params, TRAINING, "optimizer"), _number(params, "momentum")
    if name == SGD:
        return Sgd(momentum, bool(setting(params, TRAINING, "nesterov")))
    if name == RMSPROP:
        return RmsProp(_number(params, "rms_decay"), momentum)
    assert name in (ADAM, ADAMW), name
    return Adam(_number(params, "beta1"), _number(params, "beta2"), decoupled=name == ADAMW)
