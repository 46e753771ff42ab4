"""Shapes, parameters and multiply-adds by the formulas of the notes, without torch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.models import layers
from hpo.models.families import rnn_layers
from hpo.models.layers import Activation, Conv, Impossible, Pad, Pool, Recurrent, Rows, out, place, spoken, summary


@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 5), st.integers(0, 6))
def test_the_output_size_is_the_number_of_places_a_kernel_fits(n: int, k: int, stride: int, padding: int) -> None:
    fits = len(range(0, n + 2 * padding - k + 1, stride))
    assert max(0, out(n, k, stride, padding)) == fits


def test_a_recurrent_layer_reads_rows_and_gives_its_final_state() -> None:
    layers = [Rows("rows"), Recurrent("recurrent", "lstm", 5, layers=2, bidirectional=True)]
    rows, recurrent = summary(layers, (3, 8, 6)).rows
    assert rows.shape == (8, 18)
    assert recurrent.shape == (10,)
    assert recurrent.parameters == 2 * 4 * 5 * (18 + 5 + 2) + 2 * 4 * 5 * (10 + 5 + 2)
    assert recurrent.multiply_adds == 8 * (2 * 4 * 5 * (18 + 5) + 2 * 4 * 5 * (10 + 5))


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        ([Conv("block1.conv", 4, 11, padding=1)], "kernel_size 11 with padding 1 at block 1 on 8x8: map 0x0"),
        ([Pool("block2.pool", "max", 9, 1)], "pool_size 9 at block 2 on 8x8: map 0x0"),
        (
            [Conv("block1.conv", 4, 3, padding=8, mode="reflect")],
            "padding_mode reflect with padding 8 at block 1 on 8x8: needs a map of 9x9, has 8x8",
        ),
        (
            [Pool("block1.pool", "max", 4, 4), Pad("block2.pad2", 3, 4, "circular")],
            "padding_mode circular with padding 4 at block 2 on 8x8: needs a map of 4x4, has 2x2",
        ),
    ],
)
def test_an_impossible_network_names_its_layer_and_what_came_of_it(layers: list, why: str) -> None:
    with pytest.raises(Impossible) as impossible:
        summary(layers, (1, 8, 8))
    assert impossible.value.why == why
    assert impossible.value.layer == layers[-1].name


def test_a_map_that_is_lost_in_one_dimension_is_impossible() -> None:
    with pytest.raises(Impossible, match=r"kernel_size 5 without padding at block 1 on 9x4: map 5x0"):
        summary([Conv("block1.conv", 4, 5)], (1, 9, 4))


@pytest.mark.parametrize("mode", ["zeros", "replicate"])
def test_zeros_and_the_nearest_pixel_can_be_padded_without_end(mode: str) -> None:
    assert summary([Conv("block1.conv", 4, 3, padding=50, mode=mode)], (1, 2, 2)).rows[0].shape == (4, 100, 100)


def test_layers_have_a_place_and_a_name_to_speak_of() -> None:
    names = ("block3.conv", "block12.norm2", "dense1", "dense2_activation", "output")
    assert [place(name) for name in names] == ["block3", "block12", "dense1", "dense2", "output"]
    assert [spoken(place(name)) for name in names] == ["block 3", "block 12", "dense 1", "dense 2", "output"]
    assert [spoken(name) for name in ("block3.conv", "block3.conv2")] == ["block 3", "block 3 (conv2)"]


def test_what_an_image_keeps_for_the_backward_pass_is_counted_once() -> None:
    conv, relu, flat, dense = Conv("c", 2, 1), Activation("a", "relu"), layers.Flatten("f"), layers.Dense("o", 3)
    image, map_ = 4 * 16, 4 * 32
    assert summary([conv, relu, flat, dense], (1, 4, 4)).widest == 32
    assert summary([conv, relu, flat, dense], (1, 4, 4)).kept == image + map_  # relu keeps its result, dense reads it
    silu = Activation("a", "silu")
    assert summary([conv, silu, flat, dense], (1, 4, 4)).kept == image + 2 * map_  # silu keeps its argument
    dropped = summary([conv, relu, layers.Dropout("d", 0.5), flat, dense], (1, 4, 4)).kept
    assert dropped == image + 3 * map_  # the mask, and what the mask left
    pooled = summary([conv, relu, Pool("p", "max", 2, 2), flat, dense], (1, 4, 4)).kept
    assert pooled == image + map_ + 8 * (4 + 8)


def recurrent(**params) -> Recurrent:
    (layer,) = [layer for layer in rnn_layers(params, (1, 8, 8), 10) if isinstance(layer, Recurrent)]
    return layer


def test_each_parameter_reaches_the_recurrent_layer_and_dropout_is_for_two_of_them() -> None:
    params = {"cell": "rnn", "hidden_size": 7, "rnn_layers": 2, "nonlinearity": "relu", "bias": False}
    layer = recurrent(**params, rnn_dropout=0.5, bidirectional=True)
    assert layer == Recurrent("recurrent", "rnn", 7, 2, "relu", False, 0.5, True)
    assert recurrent(rnn_dropout=0.5, rnn_layers=1).dropout == 0.0
