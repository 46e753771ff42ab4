"""Parameters to recurrent layers."""

from hpo.models.families import rnn_layers, sizes
from hpo.models.layers import Recurrent, Rows


def recurrent(**params) -> Recurrent:
    (layer,) = [layer for layer in rnn_layers(params, (1, 8, 8), 10) if isinstance(layer, Recurrent)]
    return layer


def test_an_image_is_read_row_by_row_with_all_its_channels_and_both_directions_double_the_features() -> None:
    for both, features in ((False, 20), (True, 40)):
        rows = sizes("rnn", {"hidden_size": 20, "dense_layers": 0, "bidirectional": both}, (3, 32, 24), 10).rows
        assert isinstance(rows[0].layer, Rows)
        assert [row.shape for row in rows] == [(32, 72), (features,), (10,)]


def test_each_parameter_reaches_the_layer() -> None:
    params = {"cell": "rnn", "hidden_size": 7, "rnn_layers": 2, "nonlinearity": "relu", "bias": False}
    layer = recurrent(**params, rnn_dropout=0.5, bidirectional=True)
    assert layer == Recurrent("recurrent", "rnn", 7, 2, "relu", False, 0.5, True)


def test_dropout_between_recurrent_layers_needs_two_of_them() -> None:
    assert recurrent(rnn_dropout=0.5, rnn_layers=1).dropout == 0.0


def test_the_dense_stack_is_that_of_every_family() -> None:
    made = [layer.name for layer in rnn_layers({"dense_layers": 1, "dropout": 0.2}, (1, 8, 8), 3)]
    assert made == ["rows", "recurrent", "dense1", "dense1_activation", "dense1_dropout", "output"]
