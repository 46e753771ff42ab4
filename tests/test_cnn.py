"""Parameters to convolutional layers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import tables

from hpo.models import cnn
from hpo.models.families import FAMILIES, feasibility, known, sizes
from hpo.models.layers import Conv, Dense, Dropout, Flatten, Impossible, Norm, Pad, Pool, summary
from hpo.models.parameters import CNN, TRAINING, prefix_safe
from hpo.space.domains import PARTS

DIGITS = (1, 8, 8)


def layers(params):
    return cnn.layers(params, (1, 200, 200), 10)


def names(**params) -> list[str]:
    return [layer.name for layer in layers(params)]


def one(kind: type, **params):
    (layer,) = [layer for layer in layers({"blocks": 1, "dense_layers": 0, **params}) if isinstance(layer, kind)]
    return layer


def test_no_block_and_no_dense_layer_is_a_perceptron_and_no_block_an_mlp() -> None:
    assert cnn.layers({"blocks": 0, "dense_layers": 0}, DIGITS, 10) == [Flatten("flatten"), Dense("output", 10)]
    hidden = [f"dense{i}{part}" for i in (1, 2) for part in ("", "_activation", "_dropout")]
    assert names(blocks=0, dense_layers=2, dropout=0.5) == ["flatten", *hidden, "output"]


@pytest.mark.parametrize(("params", "order"), tables("training_tables")["orders of a block"])
def test_in_a_block_a_maximum_goes_before_what_only_rises(params: dict[str, str], order: str) -> None:
    made = names(blocks=1, dense_layers=0, conv_dropout=0.1, **params)
    assert made == [*(f"block1.{name}" for name in order.split()), "flatten", "output"]


def test_of_a_block_a_norm_takes_the_bias_the_first_convolution_strides_and_pooling_moves_by_its_size() -> None:
    assert [one(Conv, batch_norm=position).bias for position in ("off", "before", "after")] == [True, False, True]
    made = layers({"blocks": 1, "convs_per_block": 2, "stride": 2, "dense_layers": 0})
    strides = {layer.name: layer.stride for layer in made if isinstance(layer, Conv)}
    assert strides == {"block1.conv": 2, "block1.conv2": 1}
    assert (one(Pool, pool_size=3).stride, one(Pool, pool_size=3, pool_stride=1).stride) == (3, 1)
    assert one(Pool, pool="average").function == "average"


def test_a_block_takes_its_own_parameter_then_that_of_all_blocks_then_the_default() -> None:
    params = {"blocks": 3, "channels": 4, "block2.channels": 8, "block3.kernel_size": 5, "block1.conv_dropout": 0.2}
    made = layers(params)
    assert [(c.channels, c.kernel) for c in made if isinstance(c, Conv)] == [(4, 3), (8, 3), (4, 5)]
    assert [d.name for d in made if isinstance(d, Dropout)] == ["block1.dropout"]
    made = layers({"blocks": 1, "dropout": 0.25, "conv_dropout": 0.125})
    shares = {layer.name: layer.share for layer in made if isinstance(layer, Dropout)}
    assert shares == {"block1.dropout": 0.125, "dense1_dropout": 0.25}


def test_every_parameter_of_blocks_and_dense_layers_is_read_one_by_one() -> None:
    for name, parameter in CNN.items():
        if parameter.per:
            other = {"padding": "valid", "padding_mode": "reflect", "batch_norm": "after", "pool": "none"}.get(name)
            value = other or (0.5 if parameter.kind == "float" else 3 + (name == "kernel_size"))
            two, own = {"blocks": 2, "dense_layers": 2}, PARTS[parameter.per].own
            for_all = layers({**two, name: value})
            for_each = layers({**two, own(1, name): value, own(2, name): value})
            assert for_all == for_each != layers({**two, own(1, name): value}) != layers(two), name


@given(st.integers(1, 40), st.integers(1, 15), st.sampled_from(["zeros", "replicate"]))
def test_same_padding_keeps_the_size_at_stride_one(n: int, kernel: int, mode: str) -> None:
    params = {"blocks": 1, "kernel_size": kernel, "padding": "same", "padding_mode": mode, "pool": "none"}
    made = cnn.layers(params, (1, n, n), 10)
    (conv,) = [row for row in summary(made, (1, n, n)).rows if isinstance(row.layer, Conv)]
    assert conv.shape == (16, n, n)
    assert any(isinstance(layer, Pad) for layer in made) == (kernel % 2 == 0)


@pytest.mark.parametrize(("padding", "sides"), [("valid", 0), (0, 0), (2, 2), ("2", 2)])
def test_padding_is_a_word_or_a_number_of_pixels_on_each_side(padding: int | str, sides: int) -> None:
    assert one(Conv, padding=padding).padding == sides


def test_an_impossible_architecture_names_parameter_block_image_and_map_as_does_a_norm_over_one_value() -> None:
    params = {"blocks": 3, "kernel_size": 5, "padding": "valid", "pool": "none", "block1.kernel_size": 3}
    with pytest.raises(Impossible) as impossible:
        cnn.layers(params, DIGITS, 10)
    assert impossible.value.why == "kernel_size 5 without padding at block 3 on 8x8: map 0x0"
    assert impossible.value.layer == "block3.conv"
    assert feasibility("cnn", params, DIGITS, 10).reason == impossible.value.why
    assert feasibility("cnn", {**params, "blocks": 2}, DIGITS, 10).reason is None
    params = {"blocks": 4, "batch_norm": "before", "block4.pool": "none"}
    assert feasibility("cnn", {**params, "batch_size": 2}, DIGITS, 10).reason is None
    why = "batch_norm at block 4 on 8x8: one value a channel at batch_size 1, map 1x1"
    assert feasibility("cnn", {**params, "batch_size": 1}, DIGITS, 10).reason == why
    assert one(Norm, batch_norm="before", batch_size=7).batch_size == 7


def test_a_model_knows_its_parameters_each_default_is_a_value_of_it_and_together_they_train() -> None:
    for name, family in FAMILIES.items():
        assert set(known(name)) == set(family.parameters) | set(TRAINING)
        assert not set(family.parameters) & set(TRAINING)
    assert known("mymodels:net") == known("cnn", train="mine:train") == {}
    assert feasibility("mymodels:net", {}, DIGITS, 10).reason is None
    for model in FAMILIES:
        assert sizes(model, {}, DIGITS, 10).rows[-1].shape == (10,)
        for name, parameter in known(model).items():
            assert parameter.default is None or parameter.fault(parameter.default) is None, name
            assert parameter.doc, name


@pytest.mark.parametrize(
    ("model", "values"),
    [
        ("cnn", {"dropout": 1.2, "kernel_size": 0, "leaky_slope": 0.5, "blocks": -1, "learning_rate": 0, "beta1": 1.0}),
        ("cnn", {"dropout": 1.0, "leaky_slope": 0.001, "padding": "full", "activation": "gelu", "batch_size": 0}),
        ("cnn", {"rotation": 181}),
        ("rnn", {"cell": "mamba", "hidden_size": 0, "rnn_layers": 0, "rnn_dropout": 1.0}),
    ],
)
def test_values_out_of_a_parameters_meaning_are_refused(model: str, values: dict[str, int | float | str]) -> None:
    assert all(known(model)[name].fault(value) for name, value in values.items())
    assert "kernel_size" not in known("rnn")


def test_only_a_cosine_depends_on_how_many_epochs_follow() -> None:
    safe = {s: prefix_safe({"schedule": s}) for s in ("constant", "step", "exponential", "cosine")}
    assert safe == {"constant": True, "step": True, "exponential": True, "cosine": False}
    assert prefix_safe({})
