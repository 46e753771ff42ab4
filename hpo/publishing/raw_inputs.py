"""A network that takes images as the data set stores them: what is published, and what `hpo predict` calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpo.core import Params
from hpo.data.dataset import Dataset
from hpo.training.evaluation import load_network
from hpo.training.recipe import Recipe
from hpo.training.setup import to_device

MANY = 4096  # images whose largest pixel stands for all

Array = np.ndarray[Any, np.dtype[Any]]
Predict = Callable[[Array], Array]  # raw images (N, C, H, W) -> probabilities or numbers (N, K)


class RawInputs(nn.Module):
    """Raw pixels (N, C, H, W), as the data set stores them, -> probabilities (N, classes), or numbers (N, K).

    Standardizes as training does: stored * scale + offset. size: what images are resized to; bytes are rounded to
    integers, because that is how the data set was made.
    """

    def __init__(self, network: nn.Module, data: Dataset) -> None:
        super().__init__()
        on_cpu = to_device(data, torch.device("cpu"))
        self.network = network
        self.scale, self.offset = nn.Buffer(on_cpu.scale), nn.Buffer(on_cpu.offset)
        self.size = data.resize
        self.bytes, self.classes = data.images.dtype == np.uint8, data.classes is not None

    def forward(self, pixels: Tensor) -> Tensor:
        images = pixels.to(torch.float32)
        if self.size is not None:
            images = F.interpolate(images, self.size, mode="bilinear", align_corners=False, antialias=True)
            images = images.round().clamp(0, 255) if self.bytes else images
        outputs = self.network(torch.addcmul(self.offset, images, self.scale))
        result: Tensor = outputs.softmax(1) if self.classes else outputs
        return result


def of_checkpoint(recipe: Recipe, params: Params, checkpoint: Path) -> Predict:
    """A checkpoint as a function of images that have the size of the data set's."""
    data = replace(Dataset.open(recipe.data), resize=None)
    return of_module(RawInputs(load_network(recipe.setup(), params, checkpoint), data).eval())


def of_module(module: nn.Module) -> Predict:
    """A module as a function of arrays."""

    def predict(images: Array) -> Array:
        with torch.inference_mode():
            outputs: Array = module(torch.from_numpy(images)).numpy()
        return outputs

    return predict


def largest_pixel(data: Dataset) -> float:
    """Of the first images, to tell data of 16 levels from data of 256."""
    return float(data.images[:MANY].max())
