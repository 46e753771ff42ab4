"""Scores one model and logs it: a process that `publish_best.begin` starts, an Order on stdin, a Published as JSON on stdout.

Where MLflow is on, the model that it gives back is scored on the test split. `hpo predict` calls the same code.
"""

import gc
import json
import os
import pickle
import sys
from dataclasses import asdict, replace

import torch
from torch import nn

from hpo.data.dataset import Dataset
from hpo.data.sources.contents import in_blocks
from hpo.engine.result import Published
from hpo.errors import HpoError
from hpo.execution.worker import die_with_parent
from hpo.publishing.publish_best import Order
from hpo.training.evaluation import RawInputs, load_network, of_classes, of_numbers, predictions, probabilities
from hpo.training.feature_maps import save_figures
from hpo.training.recipe import Recipe
from hpo.training.setup import Loss, to_device

LEAST = 1e-38  # the smallest probability whose logarithm is taken


def score_and_log(order: Order) -> Published:
    """Score the model, save its figures, and log it in MLflow. Raises HpoError, OSError, RuntimeError."""
    data = order.recipe.open_data()
    network = load_network(replace(order.recipe, device="cpu").setup(), order.params, order.checkpoint)
    model = RawInputs(network.to("cpu"), data).eval()
    if order.figures is not None:
        save_figures(network, data, order.trial, order.figures)
    if order.run is None:
        away = order.uri != ""
        said = f"{'MLflow did not answer' if away else 'tracking is off'}: the model was scored, not logged to MLflow"
        return Published(test=test_metrics(model, data, order.recipe), said=said, failed=away)
    from hpo.publishing import registry  # mlflow: 3 s that a study without it need not wait for

    return registry.keep(order, model, data, lambda loaded: test_metrics(loaded, data, order.recipe))


def test_metrics(model: nn.Module, data: Dataset, recipe: Recipe) -> dict[str, float]:
    """The test split's metrics of a model that takes raw pixels."""
    if len(data.test) == 0:
        return {}
    blocks = in_blocks(data.test, data.images[:1].nbytes)
    outputs = torch.cat([torch.from_numpy(predictions(model, data.images[rows])) for rows in blocks])
    on_cpu = to_device(data, torch.device("cpu"))
    targets, known = on_cpu.targets[on_cpu.splits["test"]], on_cpu.targets[on_cpu.splits["train"]]
    logits = outputs if data.classes is None else outputs.clamp(min=LEAST).log()
    scores = (of_numbers if data.classes is None else of_classes)(outputs, targets)
    scores["loss"] = Loss.of(recipe.loss, data.outputs, known).plain(logits, targets)
    values = {f"test_{name}": float(value) for name, value in scores.items()}
    said = probabilities(logits, data.classes).numpy()
    return values | recipe.besides(data)(said, targets.numpy(), "test", values)


def answer(order: Order) -> dict[str, object]:
    """What an order comes to, or {"error": one line}."""
    try:
        return asdict(score_and_log(order))
    except HpoError as error:
        return {"error": str(error)}
    except (OSError, RuntimeError) as error:
        return {"error": (str(error).strip() or type(error).__name__).splitlines()[0]}


def main(to_mlflow: bool) -> None:
    """stdout is for the answer alone: what libraries print goes to stderr. Without an order there is none."""
    stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    die_with_parent()
    if to_mlflow:
        from hpo.publishing import registry

        registry.export_nothing()
    if order := sys.stdin.buffer.read():
        with stdout:
            stdout.write(json.dumps(answer(pickle.loads(order))) + "\n")
    gc.freeze()  # leaving goes through every object of torch otherwise: 1 s
