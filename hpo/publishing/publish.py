"""Scores one model and logs it: `python -m hpo.publishing.publish`, an Order as JSON on stdin, a Published on stdout.

The published model takes images as the data set stores them; `hpo predict` calls the same. What is scored on the test
split is, where MLflow is on, the model that MLflow gives back.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpo.core import Params
from hpo.data.dataset import Dataset
from hpo.engine.result import Published
from hpo.errors import HpoError
from hpo.execution.worker import die_with_parent
from hpo.publishing.publish_best import Order
from hpo.training import metrics
from hpo.training.evaluation import load_network
from hpo.training.feature_maps import save_figures
from hpo.training.metrics import Loss
from hpo.training.recipe import Recipe
from hpo.training.setup import to_device

BATCH = 256
LEAST = 1e-38  # the smallest probability whose logarithm is taken

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

    @torch.inference_mode()
    def predict(images: Array) -> Array:
        outputs: Array = module(torch.from_numpy(images)).numpy()
        return outputs

    return predict


def score_and_log(order: Order) -> Published:
    """Score the model, save its figures, and log it in MLflow. Raises HpoError, OSError, RuntimeError."""
    data = Dataset.open(order.recipe.data)
    network = load_network(replace(order.recipe, device="cpu").setup(), order.params, order.checkpoint)
    model = RawInputs(network.to("cpu"), data).eval()
    if order.figures is not None:
        save_figures(network, data, order.trial, order.figures)
    if order.run is None:
        return Published(
            test=test_metrics(model, data, order.recipe.loss),
            said="tracking is off: the model was scored, not logged to MLflow",
        )
    from hpo.publishing import registry  # mlflow: 3 s that a study without it need not wait for

    return registry.keep(order, model, data, lambda loaded: test_metrics(loaded, data, order.recipe.loss))


def test_metrics(model: nn.Module, data: Dataset, kind: str) -> dict[str, float]:
    """The test split's metrics of a model that takes raw pixels."""
    if len(data.test) == 0:
        return {}
    batches = np.array_split(data.test, -(-len(data.test) // BATCH))
    with torch.inference_mode():
        outputs = torch.cat([model(torch.from_numpy(np.array(data.images[rows]))) for rows in batches])
    on_cpu = to_device(data, torch.device("cpu"))
    targets, known = on_cpu.targets[on_cpu.splits["test"]], on_cpu.targets[on_cpu.splits["train"]]
    logits = outputs if data.classes is None else outputs.clamp(min=LEAST).log()
    scores = metrics.of_numbers(outputs, targets) if data.classes is None else metrics.of_classes(outputs, targets)
    scores["loss"] = Loss.of(kind, data.outputs, known).plain(logits, targets)
    return {f"test_{name}": float(value) for name, value in scores.items()}


def answer(text: str) -> dict[str, object]:
    """What an order comes to, or {"error": one line}."""
    try:
        return asdict(score_and_log(Order.from_json(text)))
    except HpoError as error:
        return {"error": str(error)}
    except (OSError, RuntimeError) as error:
        return {"error": (str(error).strip() or type(error).__name__).splitlines()[0]}


def main() -> int:
    """stdout is for the answer alone: what libraries print goes to stderr."""
    stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    die_with_parent()
    text = json.dumps(answer(sys.stdin.read()))
    with stdout:
        stdout.write(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
