"""Probes against what they claim to measure, by hand; and that they change nothing."""

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pictures import bars, job, numbers
from torch import nn

from hpo.training import loop, probes
from hpo.training.probes import Gradients, activations, probe_places, spikes
from hpo.training.recipe import Recipe


def network() -> nn.Sequential:
    block = OrderedDict(conv=nn.Conv2d(1, 4, 3), norm=nn.BatchNorm2d(4), activation=nn.ReLU())
    layers = OrderedDict(block1=nn.Sequential(block), flatten=nn.Flatten(), dense1=nn.Linear(4 * 4 * 4, 6))
    layers |= OrderedDict(dense1_activation=nn.Sigmoid(), output=nn.Linear(6, 2))
    return nn.Sequential(layers)


def test_places_are_named_from_input_to_output_and_after_the_layer_before_an_activation() -> None:
    found = probe_places(network(), ours=True)
    assert list(found.weights) == ["block1.conv", "dense1", "output"]
    assert [name for name, _ in found.activations] == ["block1", "dense1"]
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))
    found = probe_places(nn.Sequential(net), ours=False)
    assert list(found.weights) == ["0.0", "0.2", "0.4"]
    assert [name for name, _ in found.activations] == ["0.0", "0.2"]
    net = nn.Sequential()
    net.add_module("recurrent", nn.GRU(4, 3, num_layers=2, bidirectional=True))
    weights = probe_places(net, ours=True).weights
    assert {name: len(held) for name, held in weights.items()} == {"recurrent.l0": 4, "recurrent.l1": 4}


def test_gradient_norms_are_root_mean_squares_over_the_steps_looked_at() -> None:
    net = network()
    gradients = Gradients(probe_places(net, ours=True))
    norms = []
    for step in (1.0, 3.0):
        for parameter in net.parameters():
            parameter.grad = torch.full_like(parameter, step)
        gradients.add()
        norms.append(step * (4 * 9) ** 0.5)
    found = gradients.metrics()
    expected = ((norms[0] ** 2 + norms[1] ** 2) / 2) ** 0.5
    assert found["gradient/block1.conv"].item() == pytest.approx(expected)
    weight = net.get_parameter("block1.conv.weight").norm().item()
    assert found["ratio/block1.conv"].item() == pytest.approx(expected / weight)


def test_a_layer_that_received_no_gradient_has_none() -> None:
    net = network()
    gradients = Gradients(probe_places(net, ours=True))
    net.get_parameter("output.weight").grad = torch.ones(2, 6)
    gradients.add()
    assert gradients.metrics()["gradient/dense1"].item() == 0


@given(steps=st.integers(1, 200))
def test_every_epoch_is_looked_at_and_not_too_often(steps: int) -> None:
    gradients = Gradients(probe_places(nn.Linear(1, 1), False))
    due = [step for step in range(steps) if gradients.due(step, steps)]
    assert 1 <= len(due) <= max(1, steps // probes.EVERY + 1)


def test_dead_units_never_fire_saturated_values_are_at_an_end_and_no_hook_is_left() -> None:
    net = network()
    with torch.no_grad():
        net.get_parameter("block1.norm.bias").copy_(torch.tensor([-99.0, 0.0, 0.0, 0.0]))  # one of four channels
        net.get_parameter("dense1.weight").zero_()
        net.get_parameter("dense1.bias").copy_(torch.tensor([9.0, 9.0, -9.0, 0.0, 1.0, -1.0]))  # three of six
    with activations(probe_places(net, ours=True)) as found:
        net.eval()(torch.randn(20, 1, 6, 6, generator=torch.Generator().manual_seed(0)))
    assert {name: value.item() for name, value in found.items()} == {"dead/block1": 0.25, "saturated/dense1": 0.5}
    net = network()
    with activations(probe_places(net, ours=True)) as found:
        pass
    net.eval()(torch.zeros(2, 1, 6, 6))
    assert not found


@pytest.mark.parametrize(
    ("bias", "batches"),
    [
        pytest.param(-5.0, [[[0.0]] * 99 + [[6.0]]], id="one image of a batch is enough"),
        pytest.param(0.0, [[[1.0]], [[-1.0]]], id="only the first batch is watched"),
    ],
)
def test_a_unit_that_fires_is_not_dead(bias: float, batches: list[list[list[float]]]) -> None:
    net = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[0].bias.fill_(bias)
    with activations(probe_places(net, ours=False)) as shares:
        for batch in batches:
            net(torch.tensor(batch))
    assert shares["dead/0"].item() == 0


def test_a_spike_is_far_above_the_median_and_worse_than_knowing_nothing() -> None:
    usual = [0.5] * 9
    assert spikes(torch.tensor([*usual, 5.0]), chance=2.3).item() == pytest.approx(0.1)
    assert spikes(torch.tensor([*usual, 2.0]), chance=2.3).item() == 0
    assert spikes(torch.tensor([2.0] * 9 + [5.0]), chance=2.3).item() == 0


def test_looking_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = Recipe("cnn", "cross_entropy", bars(tmp_path / "bars"), "cpu")()
    params = {"channels": 4, "dropout": 0.2, "batch_size": 8, "epochs": 3}
    seen = [numbers(report) for report in train(job(params, tmp_path))]
    monkeypatch.setattr(loop.probes.Gradients, "due", lambda *_: False)
    monkeypatch.setattr(loop.probes, "WATCHED", ())
    blind = [numbers(report) for report in train(job(params, tmp_path))]
    assert all("/" not in name for report in blind for name in report)
    assert [{name: report[name] for name in blind[0]} for report in seen] == blind
