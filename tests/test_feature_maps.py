"""What is seen of a network: filters, maps and errors that can be counted by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import bars, slopes
from torch import Tensor, nn

from hpo.core import Params
from hpo.data.dataset import Dataset
from hpo.models.families import FAMILIES
from hpo.models.network import build
from hpo.report.figures import ModelFigures, pictures_of
from hpo.training import feature_maps
from hpo.training.setup import to_device

torch.manual_seed(0)


def network(data: Dataset, model: str, params: Params) -> nn.Module:
    layers = FAMILIES[model].layers(params, data.shape, data.outputs)
    return build(layers, data.shape, torch.Generator().manual_seed(1)).eval()


class Oracle(nn.Module):
    """Says what the data set says, but for some rows, of which it is ever less sure that it errs."""

    def __init__(self, data: Dataset, wrong: dict[int, float]) -> None:
        super().__init__()
        held = to_device(data, torch.device("cpu"))
        rows = held.splits["test"]
        self.images, targets = held.pixels(rows), held.targets[rows]
        share = torch.full((len(rows),), 0.9)
        for row, sure in wrong.items():
            targets[row] = (targets[row] + 1) % 3
            share[row] = sure
        rest = (1 - share) / 2
        self.logits = torch.where(nn.functional.one_hot(targets, 3) > 0, share[:, None], rest[:, None]).log()

    def forward(self, images: Tensor) -> Tensor:
        same = (images[:, None] == self.images[None]).flatten(2).all(2)
        return self.logits[same.int().argmax(1)]


def test_mistakes_are_counted_and_the_surest_comes_first(tmp_path: Path) -> None:
    data = Dataset.open(bars(tmp_path / "data"))
    rows = data.test
    found = feature_maps.model_figures(Oracle(data, {3: 0.6, 5: 0.99, 8: 0.7}), data)
    assert found["confusion"].sum() == len(rows)
    assert found["confusion"].trace() == len(rows) - 3
    assert found["confidence"] == pytest.approx([0.99, 0.7, 0.6])
    assert np.array_equal(found["mistakes"], data.images[rows[[5, 8, 3]]].astype(np.float32))
    assert np.array_equal(found["truth"], data.targets[rows[[5, 8, 3]]])
    assert np.array_equal(found["guess"], (data.targets[rows[[5, 8, 3]]] + 1) % 3)


def test_a_network_without_a_mistake_has_no_worst_ones_and_large_images_are_shrunk(tmp_path: Path) -> None:
    data = Dataset.open(bars(tmp_path / "data"))
    found = feature_maps.model_figures(Oracle(data, {}), data)
    assert "mistakes" not in found
    drawn = [picture.name for picture in pictures_of(ModelFigures(0, data.classes or (), **found))]
    assert drawn == ["best-confusion"]
    assert feature_maps.shrunk(torch.ones(2, 3, 400, 200)).shape == (2, 3, 96, 48)
    assert feature_maps.shrunk(torch.ones(2, 1, 8, 96)).shape == (2, 1, 8, 96)


def test_a_feature_map_is_what_leaves_the_first_blocks_activation(tmp_path: Path) -> None:
    data = Dataset.open(bars(tmp_path / "data", channels=3))
    net = network(data, "cnn", {"blocks": 2, "channels": 5, "kernel_size": 3, "batch_norm": "before"})
    found = feature_maps.model_figures(net, data)
    first = net.get_submodule("block1")
    assert np.array_equal(found["filters"], first.get_submodule("conv").weight.detach().numpy())
    assert found["samples"].shape == (3, 3, 8, 8)
    held = to_device(data, torch.device("cpu"))
    some = feature_maps.some(held, held.splits["test"])
    assert sorted(held.targets[some].tolist()) == [0, 1, 2]
    with torch.no_grad():
        x = held.pixels(some)
        for name in ("conv", "norm", "activation"):
            x = first.get_submodule(name)(x)
    assert np.array_equal(found["maps"], x.numpy())
    assert found["maps"].min() == 0


@pytest.mark.parametrize(
    ("model", "params", "expected"),
    [
        ("cnn", {"blocks": 0, "dense_units": 7}, {"filters": (7, 1, 8, 8)}),
        ("cnn", {"blocks": 0, "dense_layers": 0}, {"filters": (3, 1, 8, 8)}),
        ("rnn", {"hidden_size": 64}, {}),  # its dense layer takes 64 numbers too, and they are no pixels
    ],
)
def test_what_is_not_there_is_left_out(tmp_path: Path, model: str, params: Params, expected: dict[str, object]) -> None:
    data = Dataset.open(bars(tmp_path / "data"))
    found = feature_maps.model_figures(network(data, model, params), data)
    errors = ("confusion", "mistakes", "truth", "guess", "confidence")
    assert {name: array.shape for name, array in found.items() if name not in errors} == expected


def test_a_network_of_ones_own_shows_its_first_convolution(tmp_path: Path) -> None:
    data = Dataset.open(bars(tmp_path / "data"))
    own = nn.Sequential(nn.Conv2d(1, 40, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(160, 3)).eval()
    found = feature_maps.model_figures(own, data)
    assert found["filters"].shape == (feature_maps.FILTERS, 1, 5, 5)
    assert found["maps"].shape == (3, feature_maps.MAPS, 2, 2)
    grouped = nn.Sequential(nn.Flatten(), nn.Unflatten(1, (4, 16)), nn.Conv1d(4, 4, 1), nn.Flatten(), nn.Linear(64, 3))
    assert "filters" not in feature_maps.model_figures(grouped.eval(), data)


def test_of_numbers_the_largest_errors_are_shown(tmp_path: Path) -> None:
    data = Dataset.open(slopes(tmp_path / "data", 80))
    net = network(data, "cnn", {"blocks": 1, "channels": 2})
    found = feature_maps.model_figures(net, data)
    apart = np.abs(found["truth"] - found["guess"])
    assert "confusion" not in found
    assert len(apart) == feature_maps.MISTAKES
    assert np.array_equal(apart, np.sort(apart)[::-1])
    assert len(found["samples"]) == feature_maps.SAMPLES
    drawn = [picture.name for picture in pictures_of(ModelFigures(0, **found))]
    assert drawn == ["best-mistakes", "best-filters", "best-maps"]
    assert all(picture.png() for picture in pictures_of(ModelFigures(0, **found)))


def test_without_a_test_split_it_looks_at_val_and_says_so(tmp_path: Path) -> None:
    data = Dataset.open(bars(tmp_path / "data"))
    without = replace(data, test=data.test[:0])
    assert (feature_maps.split_shown(data), feature_maps.split_shown(without)) == ("test", "val")
    net = network(data, "cnn", {"blocks": 1, "channels": 2})
    assert feature_maps.model_figures(net, without)["confusion"].sum() == len(data.val)
    labels = [one.label for one in pictures_of(ModelFigures(4, ("a", "b", "c"), "val", confusion=np.eye(3)))]
    assert labels == ["Confusion matrix of trial 4 on the val split"]
