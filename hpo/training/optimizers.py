"""From gradients to updates: optimizers, schedules with warm-up, L1 and L2, clipping.

w      weights: matrices and kernels; biases, gamma and beta are never penalized
eta    learning rate of a step, which leads from one point of the training to another, both in epochs done (1.5 is
       half-way through the second epoch)

The optimizers are torch.optim's functions. Its classes are not used because their first step imports torch's compiler:
2 s and 40 MB more for each worker, measured on torch 2.13.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.rmsprop import rmsprop
from torch.optim.sgd import sgd

from hpo.core import Params, epochs_of
from hpo.models.parameters import ADAM, ADAMW, CONSTANT, COSINE, RMSPROP, SGD, STEP, number, optimizer_states, setting

EPSILON = 1e-8

Optimizer = Callable[[Params, "Group", list[Tensor], float], None]  # (params, group, its gradients, eta): one step


def eta(params: Params, start: float, end: float) -> float:
    """The learning rate of the step from `start` to `end`: linear over the warm-up, then by the schedule.

    As in torch.optim.lr_scheduler, a schedule gives a step the rate of its start: the first has the peak, and none of cosine
    has 0. The warm-up gives it that of its end, so that its first step moves too. Steps and the exponential decay fall between
    epochs, counted from the end of the warm-up.
    """
    peak, warmup = number(params, "learning_rate"), number(params, "warmup")
    if start < warmup:
        return peak * end / warmup
    since, kind = start - warmup, setting(params, "schedule")
    if kind == CONSTANT:
        return peak
    if kind == COSINE:
        return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, since / max(1.0, epochs_of(params) - warmup))))
    every = number(params, "step_epochs") if kind == STEP else 1
    return peak * float(number(params, "decay") ** math.floor(since / every))


def weights(network: nn.Module) -> list[Tensor]:
    """What regularization acts on."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad and parameter.ndim >= 2]


@dataclass
class Group:
    """Parameters of one weight decay. means: running means, list by list as long as `parameters`."""

    parameters: list[Tensor]
    decay: float
    means: list[list[Tensor]]
    steps: list[Tensor]

    @classmethod
    def of(cls, parameters: list[Tensor], decay: float, states: int) -> Self:
        means = [[torch.zeros_like(w) for w in parameters] for _ in range(states)]
        return cls(parameters, decay, means, [torch.zeros((), device=w.device) for w in parameters])

    @property
    def state(self) -> list[Tensor]:
        return [tensor for tensors in (self.steps, *self.means) for tensor in tensors]


@dataclass(frozen=True)
class Update:
    """w <- w - eta * what the optimizer makes of dL/dw, in which L has the penalties, and which is clipped as a whole."""

    params: Params
    optimizer: Optimizer
    groups: Sequence[Group]
    parameters: list[Tensor]  # weights first
    weights: list[Tensor]
    l1: float
    l2: float
    clip: float

    @classmethod
    def of(cls, params: Params, network: nn.Module) -> Self:
        """What these params name. Weight decay is the optimizer's own: it is not part of the loss, nor clipped."""
        penalized = weights(network)
        others: list[Tensor] = [w for w in network.parameters() if w.requires_grad and w.ndim < 2]
        decay = number(params, "weight_decay")
        split = [(penalized, decay), (others, 0.0)] if decay else [(penalized + others, 0.0)]
        return cls(
            params=params,
            optimizer=_OPTIMIZERS[setting(params, "optimizer")],
            groups=[Group.of(tensors, decay, optimizer_states(params)) for tensors, decay in split if tensors],
            parameters=penalized + others,
            weights=penalized,
            l1=number(params, "l1"),
            l2=number(params, "l2"),
            clip=number(params, "clip"),
        )

    @torch.no_grad()
    def step(self, start: float, end: float) -> None:
        """The step from `start` to `end`, in epochs done, with the gradients at hand (none is 0), which it clears."""
        for weight in self.weights:  # d/dw (l1 * sum |w| + l2 * sum w^2) = l1 * sign(w) + 2 * l2 * w
            if self.l1 > 0:
                _gradient(weight).add_(weight.sign(), alpha=self.l1)
            if self.l2 > 0:
                _gradient(weight).add_(weight, alpha=2 * self.l2)
        if self.clip > 0:
            nn.utils.clip_grad_norm_(self.parameters, self.clip, foreach=True)
        rate = eta(self.params, start, end)
        for group in self.groups:
            self.optimizer(self.params, group, [_gradient(w) for w in group.parameters], rate)
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {"groups": [group.state for group in self.groups]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises KeyError or ValueError for the state of another optimizer."""
        for group, saved in zip(self.groups, state["groups"], strict=True):
            for here, there in zip(group.state, saved, strict=True):
                here.copy_(there)


def _gradient(parameter: Tensor) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _sgd(params: Params, group: Group, gradients: list[Tensor], rate: float) -> None:
    """Sutskever et al. 2013, as torch has it: v <- momentum v + g; w <- w - eta v, or eta (g + momentum v)."""
    momentum = number(params, "momentum")
    sgd(
        group.parameters,
        gradients,
        list[Tensor | None](group.means[0] if momentum else ()),
        fused=True,
        weight_decay=group.decay,
        momentum=momentum,
        lr=rate,
        dampening=0.0,
        nesterov=bool(setting(params, "nesterov")) and momentum > 0,
        maximize=False,
    )


def _adam(params: Params, group: Group, gradients: list[Tensor], rate: float) -> None:
    """Kingma & Ba 2015, algorithm 1; adamw: Loshchilov & Hutter 2019, algorithm 2."""
    adam(
        group.parameters,
        gradients,
        group.means[0],
        group.means[1],
        [],
        group.steps,
        fused=True,
        decoupled_weight_decay=setting(params, "optimizer") == ADAMW,
        amsgrad=False,
        beta1=number(params, "beta1"),
        beta2=number(params, "beta2"),
        lr=rate,
        weight_decay=group.decay,
        eps=EPSILON,
        maximize=False,
    )


def _rmsprop(params: Params, group: Group, gradients: list[Tensor], rate: float) -> None:
    """Hinton's lecture 6e: v <- share v + (1 - share) g^2; w <- w - eta g / sqrt(v); momentum is on that quotient."""
    momentum = number(params, "momentum")
    rmsprop(
        group.parameters,
        gradients,
        group.means[0],
        [],
        group.means[1] if momentum else [],
        group.steps,
        foreach=True,
        lr=rate,
        alpha=number(params, "rms_decay"),
        eps=EPSILON,
        weight_decay=group.decay,
        momentum=momentum,
        centered=False,
    )


_OPTIMIZERS: dict[Any, Optimizer] = {SGD: _sgd, ADAM: _adam, ADAMW: _adam, RMSPROP: _rmsprop}
