"""Updates against torch's own optimizers, and rates against its schedulers."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pictures import bars
from torch import Tensor, nn
from torch.optim import lr_scheduler

from hpo.core import Params
from hpo.models.parameters import optimizer_states
from hpo.training.optimizers import Update, eta, weights


def network() -> nn.Sequential:
    generator = torch.Generator().manual_seed(3)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 2 * 2, 2))
    for parameter in net.parameters():
        nn.init.normal_(parameter, generator=generator)
    return net


def gradients(net: nn.Module, step: int = 0) -> list[Tensor]:
    """Any gradients will do; these differ from step to step."""
    generator = torch.Generator().manual_seed(100 + step)
    made = [torch.randn(parameter.shape, generator=generator) for parameter in net.parameters()]
    for parameter, gradient in zip(net.parameters(), made, strict=True):
        parameter.grad = gradient.clone()
    return made


def moved(steps: int = 3, **params: Any) -> tuple[nn.Module, list[Tensor]]:
    """A network after some updates, and its parameters before."""
    net = network()
    before = [parameter.detach().clone() for parameter in net.parameters()]
    update = Update.of({"epochs": 10, **params}, net)
    for step in range(steps):
        gradients(net, step)
        update.step(0.0, 1.0)
    return net, before


def agree(net: nn.Module, expected: list[Tensor]) -> None:
    for parameter, value in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), value, rtol=1e-5, atol=1e-6)


SGD: Params = {"optimizer": "sgd", "learning_rate": 0.01}
ADAM: Params = {"optimizer": "adam", "learning_rate": 0.01, "beta1": 0.8, "beta2": 0.95}
RMSPROP: Params = {"optimizer": "rmsprop", "learning_rate": 0.01, "rms_decay": 0.7}
TORCHS: list[tuple[Params, Any]] = [
    (SGD, partial(torch.optim.SGD, lr=0.01)),
    ({**SGD, "nesterov": True}, partial(torch.optim.SGD, lr=0.01)),  # without momentum it changes nothing
    ({**SGD, "clip": 1e6}, partial(torch.optim.SGD, lr=0.01)),  # nor does clipping above the norm
    ({**SGD, "momentum": 0.9, "weight_decay": 0.5}, partial(torch.optim.SGD, lr=0.01, momentum=0.9)),
    ({**SGD, "momentum": 0.9, "nesterov": True}, partial(torch.optim.SGD, lr=0.01, momentum=0.9, nesterov=True)),
    ({**ADAM, "momentum": 0.9}, partial(torch.optim.Adam, lr=0.01, betas=(0.8, 0.95))),
    ({**ADAM, "weight_decay": 0.5}, partial(torch.optim.Adam, lr=0.01, betas=(0.8, 0.95))),
    ({**ADAM, "optimizer": "adamw"}, partial(torch.optim.AdamW, lr=0.01, betas=(0.8, 0.95))),
    ({**ADAM, "optimizer": "adamw", "weight_decay": 0.5}, partial(torch.optim.AdamW, lr=0.01, betas=(0.8, 0.95))),
    (RMSPROP, partial(torch.optim.RMSprop, lr=0.01, alpha=0.7)),
    ({**RMSPROP, "momentum": 0.9, "weight_decay": 0.5}, partial(torch.optim.RMSprop, lr=0.01, alpha=0.7, momentum=0.9)),
]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("params", "torchs"), TORCHS)
def test_every_optimizer_agrees_with_torchs_and_keeps_as_many_numbers_and_only_weights_decay(
    params: Params, torchs: Any, layout: torch.memory_format
) -> None:
    ours, theirs = network().to(memory_format=layout), network().to(memory_format=layout)
    ours[1] = theirs[1] = nn.Identity()  # a bias before a norm has no gradient but rounding, which adam blows up
    update = Update.of({"epochs": 1, **params}, ours)
    groups = [(weights(theirs), params.get("weight_decay", 0.0)), ([w for w in theirs.parameters() if w.ndim < 2], 0.0)]
    reference = torchs([{"params": some, "weight_decay": decay} for some, decay in groups])
    images = torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(1)).to(memory_format=layout)
    for _ in range(10):
        for net in (ours, theirs):
            (net(images) - 3).square().mean().backward()
        update.step(0.0, 1.0)
        reference.step()
        reference.zero_grad()
    agree(ours, [parameter.detach() for parameter in theirs.parameters()])
    kept = [tensor for state in reference.state.values() for name, tensor in state.items() if name != "step"]
    numbers = sum(tensor.numel() for tensor in kept if tensor is not None)
    assert numbers == optimizer_states(params) * sum(parameter.numel() for parameter in theirs.parameters())
    assert numbers == sum(tensor.numel() for group in update.groups for mean in group.means for tensor in mean)


def test_parameters_without_a_gradient_or_frozen_stand_still() -> None:
    net = network()
    update = Update.of({"epochs": 1, "optimizer": "adam"}, net)
    before = net[0].weight.detach().clone()
    net[3].weight.grad = torch.ones_like(net[3].weight)
    update.step(0.0, 1.0)
    assert torch.equal(net[0].weight, before)
    net = network()
    net[0].weight.requires_grad_(False)
    update = Update.of({"epochs": 1}, net)
    assert all(parameter is not net[0].weight for parameter in update.parameters)


def test_the_state_of_another_optimizer_is_refused() -> None:
    adam, sgd = (Update.of({"epochs": 1, "optimizer": name}, network()) for name in ("adam", "sgd"))
    with pytest.raises(ValueError, match=r"shorter|longer"):
        adam.load_state_dict(sgd.state_dict())


def test_a_worker_never_pays_for_torchs_compiler(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from hpo.core import Job; from hpo.training.recipe import Recipe;"
        f"train = Recipe('cnn', 'cross_entropy', Path({str(bars(tmp_path / 'bars'))!r}), 'cpu')();"
        "job = Job(training='', params={'epochs': 1}, seed=0, start=0, until=1, known=0, folder=Path());"
        f"next(train(job)).save(Path({str(tmp_path / 'state')!r}));"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


@pytest.mark.parametrize("clip", [0.0, 0.5])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_l1_and_l2_are_parts_of_the_loss_for_every_optimizer(optimizer: str, clip: float) -> None:
    """So their gradients, of weights alone, are clipped with the rest."""
    l1, l2 = 0.03, 0.5
    params = {"epochs": 1, "optimizer": optimizer, "learning_rate": 0.01}
    plain, other = network(), network()
    penalized, written_out = Update.of({**params, "l1": l1, "l2": l2, "clip": clip}, plain), Update.of(params, other)
    for step in range(3):
        gradients(plain, step)
        plain[3].weight.grad = None
        penalized.step(0.0, 1.0)
        gradients(other, step)
        other[3].weight.grad = None
        penalty = sum((l1 * w.abs().sum() + l2 * w.square().sum() for w in weights(other)), torch.zeros(()))
        penalty.backward()
        if clip:
            nn.utils.clip_grad_norm_(other.parameters(), clip)
        written_out.step(0.0, 1.0)
    agree(plain, [parameter.detach() for parameter in other.parameters()])


def test_biases_gamma_and_beta_are_no_weights() -> None:
    assert [tuple(weight.shape) for weight in weights(network())] == [(3, 2, 3, 3), (2, 12)]


@pytest.mark.parametrize("penalties", [{}, {"l1": 3.0}, {"l2": 5.0}, {"l1": 3.0, "l2": 5.0}])
def test_a_clipped_step_is_no_longer_than_clip(penalties: Params) -> None:
    net, before = moved(steps=1, optimizer="sgd", learning_rate=1.0, clip=0.5, **penalties)
    move = torch.cat([(w.detach() - old).flatten() for w, old in zip(net.parameters(), before, strict=True)])
    assert move.norm().item() == pytest.approx(0.5, rel=1e-4)


def test_the_rate_of_an_update_is_that_of_its_place_in_the_schedule() -> None:
    net = network()
    before = [parameter.detach().clone() for parameter in net.parameters()]
    found = gradients(net)
    params = {"epochs": 9, "optimizer": "sgd", "learning_rate": 0.4, "schedule": "step", "step_epochs": 2, "decay": 0.5}
    Update.of(params, net).step(4.5, 5.0)
    agree(net, [w - 0.1 * g for w, g in zip(before, found, strict=True)])


Schedulers = Callable[[Any, int], lr_scheduler.LRScheduler]  # from an optimizer and the steps after its warm-up

SCHEDULES: dict[str, tuple[Params, Schedulers]] = {
    "constant": ({}, lambda optimizer, _: lr_scheduler.ConstantLR(optimizer, 1.0)),
    "step": ({"schedule": "step", "step_epochs": 3, "decay": 0.1}, lambda one, _: lr_scheduler.StepLR(one, 3, 0.1)),
    "exponential": ({"schedule": "exponential", "decay": 0.5}, lambda one, _: lr_scheduler.ExponentialLR(one, 0.5)),
    "cosine": ({"schedule": "cosine"}, lr_scheduler.CosineAnnealingLR),
}


def torchs_rates(name: str, warmup: int, epochs: int, steps: int) -> list[float]:
    """Of each step, `steps` an epoch, by torch.optim.lr_scheduler. Epochs of warm-up come before the schedule."""
    optimizer = torch.optim.SGD([torch.zeros(1)], 1.0)
    warm, rest = min(warmup, epochs) * steps, (epochs - warmup) * steps
    rates = []
    for scheduler, count, pace in (
        (lr_scheduler.LinearLR(optimizer, 1 / max(1, warmup * steps), total_iters=warmup * steps - 1), warm, 1),
        (None, rest, 1 if name == "cosine" else steps),
    ):
        scheduler = scheduler or SCHEDULES[name][1](optimizer, max(1, rest))
        for step in range(1, count + 1):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if step % pace == 0:
                scheduler.step()
    return rates


@given(st.sampled_from(list(SCHEDULES)), st.integers(0, 4), st.integers(1, 8), st.integers(1, 5))
def test_each_step_has_the_rate_that_torchs_schedulers_give_it(name: str, warmup: int, epochs: int, steps: int) -> None:
    params = {"epochs": epochs, "learning_rate": 1.0, "warmup": warmup, **SCHEDULES[name][0]}
    ends = [epoch + step / steps for epoch in range(epochs) for step in range(1, steps + 1)]
    rates = [eta(params, start, end) for start, end in pairwise([0.0, *ends])]
    assert rates == pytest.approx(torchs_rates(name, warmup, epochs, steps))
    assert 0 < min(rates) <= max(rates) <= 1
    assert warmup >= epochs or rates[warmup * steps] == 1


@given(name=st.sampled_from(["constant", "step", "exponential"]), warmup=st.integers(0, 3), at=st.floats(0, 5))
def test_only_cosine_asks_how_many_epochs_follow(name: str, warmup: int, at: float) -> None:
    params = {"learning_rate": 0.1, "warmup": warmup, **SCHEDULES[name][0]}
    assert eta({**params, "epochs": 5}, at, at + 0.1) == eta({**params, "epochs": 50}, at, at + 0.1)
