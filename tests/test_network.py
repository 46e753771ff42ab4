"""Layers made into torch: the same shapes, counts and gradients as the formulas promise."""

import math
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from unittest.mock import Mock, patch

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hpo.core import Value
from hpo.models import cnn
from hpo.models.families import FAMILIES, sizes
from hpo.models.layers import Impossible, Layer, Shape, Summary, output
from hpo.models.network import build, disagreement, module
from hpo.models.parameters import ACTIVATIONS, MODES
from hpo.training.setup import time_step

ARCHITECTURES = int(os.environ.get("ARCHITECTURES", "800"))  # on the meta device; 5 ms each
META = torch.device("meta")
IMAGES = [(4, 4), (5, 30), (8, 8), (9, 16), (12, 7), (21, 33), (28, 28), (32, 32)]


def walk(net: nn.Sequential, layers: Sequence[Layer], batch: Tensor) -> Iterator[tuple[Layer, Tensor]]:
    """What leaves each layer, in turn."""
    for layer in layers:
        batch = net.get_submodule(layer.name)(batch)
        yield layer, batch


def some_cnn(rng: random.Random) -> dict[str, Value]:
    params: dict[str, Value] = {
        "blocks": rng.randint(0, 4),
        "convs_per_block": rng.choice([1, 1, 2]),
        "activation": rng.choice(ACTIVATIONS),
        "dense_layers": rng.randint(0, 3),
        "dense_units": rng.choice([1, 16, 40]),
        "dense2.units": rng.choice([2, 8]),
        "global_pool": rng.choice(["none", "average"]),
        "dropout": rng.choice([0.0, 0.3]),
    }
    for i in range(1, int(params["blocks"]) + 1):
        block: dict[str, Value] = {
            "channels": rng.choice([1, 3, 8]),
            "kernel_size": rng.randint(1, 7),
            "stride": rng.choice([1, 1, 2, 3]),
            "padding": rng.choice(["valid", "same", "same", 1, "2", 3]),
            "padding_mode": rng.choice(MODES),
            "batch_norm": rng.choice(["off", "before", "after"]),
            "pool": rng.choice(["max", "average", "none"]),
            "pool_size": rng.randint(1, 3),
            "conv_dropout": rng.choice([0.0, 0.2]),
        }
        if rng.random() < 0.3:
            block["pool_stride"] = rng.randint(1, 3)
        params |= {f"block{i}.{name}": value for name, value in block.items()}
    return params


def some_rnn(rng: random.Random) -> dict[str, Value]:
    return {
        "cell": rng.choice(["rnn", "lstm", "gru"]),
        "hidden_size": rng.choice([1, 7, 20]),
        "rnn_layers": rng.randint(1, 3),
        "nonlinearity": rng.choice(["tanh", "relu"]),
        "bias": rng.random() < 0.5,
        "rnn_dropout": rng.choice([0.0, 0.3]),
        "bidirectional": rng.random() < 0.5,
        "activation": rng.choice(ACTIVATIONS),
        "dense_layers": rng.randint(0, 2),
        "dense_units": rng.choice([1, 16, 40]),
    }


def architectures(n: int, seed: int = 1) -> Iterator[tuple[str, dict[str, Value], Shape]]:
    rng = random.Random(seed)
    for i in range(n):
        shape = (rng.choice([1, 3]), *rng.choice(IMAGES))
        model, params = ("rnn", some_rnn(rng)) if i % 10 == 0 else ("cnn", some_cnn(rng))
        yield model, params, shape


def torch_refuses(params: dict[str, Value], shape: Shape, name: str) -> bool:
    """Whether torch cannot use the named layer on the map that the formula says it gets."""
    with patch.object(cnn, "shapes", return_value=[]):  # without its exception
        network = cnn.layers(params, shape, 10)
    for layer in network:
        if layer.name == name:
            break
        shape = output(layer, shape)
    try:
        module(layer, shape, META)(torch.empty((2, *shape), device=META))
    except (RuntimeError, ValueError):
        return True
    return False


def sized(model: str, params: dict[str, Value], shape: Shape) -> Summary | Impossible:
    try:
        return sizes(model, params, shape, 10)
    except Impossible as impossible:
        return impossible


def networks(n: int, seed: int) -> Iterator[tuple[str, dict[str, Value], Summary, list[Layer]]]:
    """Those of n random architectures that are possible."""
    for model, params, shape in architectures(n, seed):
        cost = sized(model, params, shape)
        if isinstance(cost, Summary):
            yield model, params, cost, [row.layer for row in cost.rows]


def test_formula_and_torch_agree_on_random_architectures_and_a_wrong_formula_is_noticed() -> None:
    possible = 0
    for model, params, shape in architectures(ARCHITECTURES):
        cost = sized(model, params, shape)
        if isinstance(cost, Impossible):
            assert torch_refuses(params, shape, cost.layer), (params, shape, cost)
        else:
            possible += 1
            assert cost.rows[-1].shape == (10,)
            assert disagreement(cost) is None, (params, shape)
    assert 0.2 < possible / ARCHITECTURES < 0.8
    made = sizes("cnn", {"blocks": 1}, (1, 8, 8), 10)
    first, *rest = made.rows
    for wrong in (replace(first, shape=(16, 7, 8)), replace(first, parameters=161)):
        assert "block1.conv" in (disagreement(Summary(made.shape, (wrong, *rest))) or "")


@pytest.mark.parametrize("seed", range(40))
def test_gradients_are_finite_and_reach_every_weight(seed: int) -> None:
    rng = random.Random(seed)
    model, make = ("rnn", some_rnn) if seed % 3 == 0 else ("cnn", some_cnn)
    shape = (rng.choice([1, 3]), 16, 16)
    while isinstance(cost := sized(model, params := make(rng), shape), Impossible):
        pass
    layers = [row.layer for row in cost.rows]
    net = build(layers, shape, torch.Generator().manual_seed(seed)).train()
    torch.manual_seed(seed)
    loss = nn.functional.cross_entropy(net(torch.randn(16, *shape)), torch.randint(10, (16,)))
    loss.backward()
    assert loss.isfinite()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), (name, params)


def test_multiply_adds_are_half_the_operations_torch_counts() -> None:
    for model, params, cost, layers in networks(60, seed=3):
        if model == "rnn":
            continue  # torch counts a whole recurrent layer as nothing
        net = build(layers, cost.shape).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(torch.randn(1, *cost.shape))
        assert counter.get_total_flops() == 2 * cost.multiply_adds, params


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch warns of the copy it makes
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
def test_same_padding_is_the_one_torch_calls_same(kernel: int) -> None:
    params = {"blocks": 1, "kernel_size": kernel, "padding": "same", "pool": "none"}
    layers = FAMILIES["cnn"].layers(params, (3, 7, 9), 2)
    net, images = build(layers, (3, 7, 9)), torch.randn(2, 3, 7, 9)
    convolved = {layer.name: batch for layer, batch in walk(net, layers, images)}["block1.conv"]
    conv = net.get_submodule("block1.conv")
    expected = nn.functional.conv2d(images, conv.weight, conv.bias, padding="same")
    assert torch.allclose(convolved, expected, atol=1e-5)


def test_the_same_generator_gives_the_same_weights_and_leaves_the_global_one_alone() -> None:
    for model in FAMILIES:
        layers = FAMILIES[model].layers({"batch_norm": "after"}, (1, 8, 8), 10)
        before = torch.get_rng_state()
        one, two, other = (build(layers, (1, 8, 8), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
        assert torch.equal(before, torch.get_rng_state())
        assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
        assert not torch.equal(one.output.weight, other.output.weight)
        torch.manual_seed(5)
        seeded = build(layers, (1, 8, 8))
        torch.manual_seed(5)
        assert torch.equal(seeded.output.weight, build(layers, (1, 8, 8)).output.weight)


def test_every_number_of_a_new_network_was_set() -> None:
    """to_empty leaves whatever was in memory, so fill it with nonsense and look for that."""
    for _, _, cost, layers in networks(60, seed=5):
        net = build(layers, cost.shape)
        assert all(value.isfinite().all() and value.abs().max() < 100 for value in net.state_dict().values())
        norms = [part for part in net.modules() if isinstance(part, nn.BatchNorm2d)]
        assert all(norm.running_mean.eq(0).all() and norm.running_var.eq(1).all() for norm in norms)
        assert all(norm.weight.eq(1).all() and norm.num_batches_tracked == 0 for norm in norms)
        biases = [part.bias for part in net.modules() if isinstance(part, nn.Linear | nn.Conv2d)]
        assert all(bias is None or bias.eq(0).all() for bias in biases)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh", "silu"])
@pytest.mark.parametrize("slope", [0.01, 0.3])
def test_signals_neither_fade_nor_grow_through_twenty_layers_at_the_start(activation: str, slope: float) -> None:
    """SiLU loses some at each layer (its slope at 0 is a half), tanh a little; Glorot's rule loses 2^-10 of relu."""
    params = {"blocks": 0, "dense_layers": 20, "dense_units": 256, "activation": activation, "leaky_slope": slope}
    layers = FAMILIES["cnn"].layers(params, (1, 16, 16), 10)
    net = build(layers, (1, 16, 16), torch.Generator().manual_seed(0))
    images = torch.randn(64, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    spread = {layer.name: batch.std().item() for layer, batch in walk(net, layers, images)}
    low = {"silu": 1e-3, "tanh": 0.2}.get(activation, 0.3)
    assert low < spread["dense20_activation"] / spread["dense1_activation"] < 3


def test_an_lstm_starts_by_not_forgetting_a_relu_rnn_by_copying_and_a_state_has_read_the_whole_image() -> None:
    lstm = build(FAMILIES["rnn"].layers({"cell": "lstm", "hidden_size": 3}, (1, 8, 8), 10), (1, 8, 8))
    assert lstm.recurrent.cells.bias_ih_l0.tolist() == [0] * 3 + [1] * 3 + [0] * 6
    relu = {"cell": "rnn", "nonlinearity": "relu", "hidden_size": 3}
    plain = build(FAMILIES["rnn"].layers(relu, (1, 8, 8), 10), (1, 8, 8))
    assert torch.equal(plain.recurrent.cells.weight_hh_l0, torch.eye(3))
    layers = FAMILIES["rnn"].layers({"bidirectional": True, "hidden_size": 6}, (1, 8, 8), 10)
    net, images = build(layers, (1, 8, 8)), torch.randn(1, 1, 8, 8, requires_grad=True)
    state, (steps, _) = net.recurrent(net.rows(images)), net.recurrent.cells(net.rows(images))
    assert torch.equal(state, torch.cat((steps[:, -1, :6], steps[:, 0, 6:]), dim=1))
    for half in (state[0, :6], state[0, 6:]):
        (gradient,) = torch.autograd.grad(half.sum(), images, retain_graph=True)
        assert gradient[0, 0].abs().sum(dim=1).gt(0).all()


@pytest.mark.parametrize(("model", "factor"), [("cnn", 1.5), ("rnn", 2.0)])
def test_kept_bytes_are_what_the_backward_pass_holds(model: str, factor: float) -> None:
    """Against what autograd saves, for every network; a layer or an activation left out is more than the factor."""
    checked = 0
    for i, (_, params, shape) in enumerate(architectures(25, seed=7)):
        if model == "rnn":
            params = some_rnn(random.Random(i)) | {"hidden_size": 32 + i % 90}
        cost = sized(model, params, shape)
        if isinstance(cost, Summary):
            held = saved_bytes(build([row.layer for row in cost.rows], shape), shape, batch=32) / 32
            assert 1 / factor < cost.kept / held < factor, (params, cost.kept, held)
            checked += 1
    assert checked > 10


def saved_bytes(net: nn.Module, shape: Shape, batch: int) -> int:
    """Bytes of the distinct tensors that autograd keeps, without the weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
    saved: dict[int, tuple[int, torch.Tensor]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    images = torch.randn(batch, *shape)
    saved[images.untyped_storage().data_ptr()] = (images.untyped_storage().nbytes(), images)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = net.train()(images)
    assert result.requires_grad
    return sum(size for size, _ in saved.values())


def test_a_step_is_timed_at_its_own_batch_size_with_the_clock_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 1_000, 5))
    timed = time_step("cnn", (1, 8, 8), 10, clock=lambda: float(next(now)))
    assert timed({"batch_size": 4, "blocks": 1, "optimizer": "rmsprop"}, "bf16") == 5.0
    monkeypatch.setattr(torch.autograd, "backward", Mock(side_effect=torch.OutOfMemoryError))
    assert timed({"batch_size": 4}, "fp32") == math.inf, "where it does not fit"


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("batch_norm", ["off", "before", "after"])
def test_where_the_pooling_stands_changes_neither_function_nor_gradients(activation: str, batch_norm: str) -> None:
    """Convolution, norm, activation, pooling is what a block means, whatever order is cheaper."""
    given: dict[str, Value] = {"blocks": 1, "activation": activation, "batch_norm": batch_norm, "pool_size": 3}
    layers = cnn.layers({**given, "dense_layers": 0}, (2, 9, 9), 3)
    net = build(layers, (2, 9, 9), torch.Generator().manual_seed(1))
    block = net.get_submodule("block1")
    meant = {"off": ["activation"], "before": ["norm", "activation"], "after": ["activation", "norm"]}[batch_norm]
    images = torch.randn(8, 2, 9, 9, generator=torch.Generator().manual_seed(2))
    results = []
    for run in (block, nn.Sequential(*(block.get_submodule(name) for name in ("conv", *meant, "pool")))):
        net.zero_grad()
        made = run(images)
        (made**2).sum().backward()
        results.append([made.detach(), *(weight.grad.clone() for weight in block.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
