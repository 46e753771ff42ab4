"""Arrays that show a trained network: its first filters, its feature maps, and its mistakes (report/figures.py).

What a network does not have is left out. The images are those of the split that the best trial is scored on.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpo.data.dataset import Dataset
from hpo.data.sources.contents import Array
from hpo.files import replace_file
from hpo.training.evaluation import confusion, outputs
from hpo.training.setup import DeviceData, to_device

FILTERS, MAPS, SAMPLES, MISTAKES = 32, 8, 4, 16
WIDEST = 96  # pixels; larger images are shrunk, a report is no archive


def save_figures(network: nn.Module, dataset: Dataset, trial: int, path: Path) -> None:
    """Save the arrays as one .npz without pickle. Raises OSError."""
    about = {"trial": trial, "split": split_shown(dataset), "classes": np.array(dataset.classes or (), np.str_)}
    arrays: Any = about | model_figures(network, dataset)  # numpy's stub has no **arrays
    with replace_file(path) as draft:
        np.savez_compressed(draft, **arrays)


def model_figures(network: nn.Module, dataset: Dataset) -> dict[str, Array]:
    """The arrays by name. network: in eval mode, on the CPU; it takes standardized images."""
    data = to_device(dataset, torch.device("cpu"))
    rows = data.splits[split_shown(dataset)]
    with torch.inference_mode():
        return {**first_layer(network, data, rows), **errors(network, data, rows)}


def split_shown(dataset: Dataset) -> str:
    """Where it is looked at: test, as the score, if there is one."""
    return "test" if len(dataset.test) else "val"


def first_layer(network: nn.Module, data: DeviceData, rows: Tensor) -> dict[str, Array]:
    """Filters, and what a convolution makes of sample images; the weights of a dense layer are images too."""
    channels, height, width = data.shape
    first = next((module for module in network.modules() if any(True for _ in module.parameters(recurse=False))), None)
    if isinstance(first, nn.Linear) and first.in_features == channels * height * width:
        return {"filters": shrunk(first.weight[:FILTERS].view(-1, channels, height, width))}
    if not isinstance(first, nn.Conv2d) or first.in_channels != channels or first.groups != 1:
        return {}
    samples = some(data, rows)
    maps = _maps(network, first, data.pixels(samples))
    figures = {"filters": shrunk(first.weight[:FILTERS])}
    if maps.ndim == 4 and len(maps) == len(samples):
        figures |= {"samples": shrunk(data.images[samples].float()), "maps": shrunk(maps[:, :MAPS])}
    return figures


def _maps(network: nn.Module, first: nn.Module, images: Tensor) -> Tensor:
    """What leaves the first layer; in a network of ours its activation, whole though pooling goes before it."""
    caught: list[Tensor] = []
    handle = first.register_forward_hook(lambda module, inputs, result: caught.append(result))
    try:
        network(images)
    finally:
        handle.remove()
    maps = caught[0] if caught and isinstance(caught[0], Tensor) else images.new_zeros(0)
    modules: dict[str, nn.Module] = dict(network.named_modules())
    if modules.get("block1.conv") is first:
        for name, module in modules["block1"].named_children():
            if name in ("norm", "activation"):
                maps = module(maps)
            if name == "activation":
                break
    return maps


def some(data: DeviceData, rows: Tensor) -> Tensor:
    """A few rows that differ: of different classes, or spread over the targets."""
    targets = data.targets[rows]
    if data.dataset.classes is None:
        order = targets[:, 0].argsort()
        return rows[order[torch.linspace(0, len(rows) - 1, min(SAMPLES, len(rows))).long()]]
    classes = torch.unique(targets)
    chosen = classes[torch.linspace(0, len(classes) - 1, min(SAMPLES, len(classes))).long()]
    return torch.stack([rows[targets == one][0] for one in chosen])


def shrunk(images: Tensor) -> Array:
    """(N, C, H, W) as floats, no side above WIDEST."""
    height, width = images.shape[-2:]
    ratio = WIDEST / max(height, width)
    if ratio < 1:
        images = F.adaptive_avg_pool2d(images, (max(1, round(height * ratio)), max(1, round(width * ratio))))
    return np.asarray(images.float())


def errors(network: nn.Module, data: DeviceData, rows: Tensor) -> dict[str, Array]:
    """Confusion matrix and worst mistakes of classes; the largest errors of numbers."""
    predicted, targets = outputs(network, data, rows), data.targets[rows]
    if data.dataset.classes is None:
        worst = (predicted - targets).abs().sum(1).argsort(descending=True)[:MISTAKES]
        return _mistakes(data, rows[worst], {"truth": targets[worst, 0], "guess": predicted[worst, 0]})
    confidence, guess = predicted.softmax(1).max(1)
    wrong = torch.where(guess != targets, confidence, -1.0).argsort(descending=True, stable=True)
    wrong = wrong[: min(MISTAKES, int((guess != targets).sum()))]
    values = {"truth": targets[wrong], "guess": guess[wrong], "confidence": confidence[wrong]}
    counts = confusion(guess, targets, len(data.dataset.classes))
    return {"confusion": counts.numpy(), **_mistakes(data, rows[wrong], values)}


def _mistakes(data: DeviceData, rows: Tensor, values: Mapping[str, Tensor]) -> dict[str, Array]:
    if len(rows) == 0:
        return {}
    return {"mistakes": shrunk(data.images[rows].float()), **{name: each.numpy() for name, each in values.items()}}
