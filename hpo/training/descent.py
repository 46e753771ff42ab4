"""SGD, Adam and RMSprop on lists of tensors: one kernel for all of them, on CPU too.

torch.optim has the same kernels, but its step imports the compiler (2 s and 40 MB of a worker's start) and takes 0.1 ms
of Python, a tenth of a step of a small network. The tests hold these against the equations and against torch.optim.

    w, g     parameters and their gradients, list by list the same shapes and strides
    m, v     running means of the gradient (SGD: its momentum) and of its square
    decay    weight decay: added to the gradient (coupled), or taken from w (decoupled, AdamW)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

EPSILON = 1e-8


class Algorithm(Protocol):
    """How a list of parameters is moved; `moments` are the running means that belong to it."""

    @property
    def moments(self) -> int: ...

    def move(
        self, w: list[Tensor], g: list[Tensor], moments: Sequence[list[Tensor]], step: Tensor, rate: float, decay: float
    ) -> None:
        """One step in place; step counts from 1."""


@dataclass(frozen=True)
class Sgd:
    """Sutskever et al. 2013, as torch has it: v <- momentum v + g; w <- w - rate v, or rate (g + momentum v)."""

    momentum: float = 0.0
    nesterov: bool = False

    @property
    def moments(self) -> int:
        return 1 if self.momentum else 0

    def move(
        self, w: list[Tensor], g: list[Tensor], moments: Sequence[list[Tensor]], step: Tensor, rate: float, decay: float
    ) -> None:
        torch._fused_sgd_(
            w,
            g,
            moments[0] if moments else [],
            weight_decay=decay,
            momentum=self.momentum,
            lr=rate,
            dampening=0.0,
            nesterov=self.nesterov and self.momentum > 0,
            maximize=False,
            is_first_step=False,
        )


@dataclass(frozen=True)
class Adam:
    """Kingma & Ba 2015, algorithm 1; decoupled: Loshchilov & Hutter 2019, algorithm 2."""

    beta1: float
    beta2: float
    decoupled: bool = False

    @property
    def moments(self) -> int:
        return 2

    def move(
        self, w: list[Tensor], g: list[Tensor], moments: Sequence[list[Tensor]], step: Tensor, rate: float, decay: float
    ) -> None:
        kernel = torch._fused_adamw_ if self.decoupled else torch._fused_adam_
        kernel(
            w,
            g,
            moments[0],
            moments[1],
            [],
            [step] * len(w),
            lr=rate,
            beta1=self.beta1,
            beta2=self.beta2,
            weight_decay=decay,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
        )


@dataclass(frozen=True)
class RmsProp:
    """Hinton's lecture 6e: v <- share v + (1 - share) g^2; w <- w - rate g / sqrt(v); momentum is on that quotient."""

    share: float
    momentum: float = 0.0

    @property
    def moments(self) -> int:
        return 2 if self.momentum else 1

    def move(
        self, w: list[Tensor], g: list[Tensor], moments: Sequence[list[Tensor]], step: Tensor, rate: float, decay: float
    ) -> None:
        if decay:
            g = list(torch._foreach_add(g, w, alpha=decay))
        squares = moments[0]
        torch._foreach_mul_(squares, self.share)
        torch._foreach_addcmul_(squares, g, g, value=1 - self.share)
        root = list(torch._foreach_sqrt(squares))
        torch._foreach_add_(root, EPSILON)
        if not self.momentum:
            torch._foreach_addcdiv_(w, g, root, value=-rate)
            return
        torch._foreach_mul_(moments[1], self.momentum)
        torch._foreach_addcdiv_(moments[1], g, root, value=1.0)
        torch._foreach_add_(w, moments[1], alpha=-rate)


@dataclass
class Group:
    """Parameters that decay alike."""

    tensors: list[Tensor]
    decay: float
    moments: list[list[Tensor]] = field(default_factory=list)


class Optimizer:
    """An algorithm with its state. Parameters that got no gradient stand still but for their decay and momentum."""

    def __init__(self, algorithm: Algorithm, groups: Sequence[Group]) -> None:
        self.algorithm = algorithm
        self.groups = [group for group in groups if group.tensors]
        for group in self.groups:
            group.moments = [[torch.zeros_like(w) for w in group.tensors] for _ in range(algorithm.moments)]
        device = self.groups[0].tensors[0].device if self.groups else torch.device("cpu")
        self.count = torch.zeros((), dtype=torch.float32, device=device)

    def step(self, rate: float) -> None:
        """Called without autograd."""
        self.count += 1
        for group in self.groups:
            gradients = [w.grad if w.grad is not None else torch.zeros_like(w) for w in group.tensors]
            self.algorithm.move(group.tensors, gradients, group.moments, self.count, rate, group.decay)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "moments": [group.moments for group in self.groups]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises KeyError or ValueError for the state of another optimizer."""
        self.count.copy_(state["count"])
        for group, saved in zip(self.groups, state["moments"], strict=True):
            for mine, theirs in zip(group.moments, saved, strict=True):
                for here, there in zip(mine, theirs, strict=True):
                    here.copy_(there)
