"""The best model in MLflow: logged once in torch's pt2 format, registered, and the champion if it is better.

It is loaded back without hpo's code and without pickle, and that is what is scored on the test split.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import mlflow.pytorch
import numpy as np
import torch
from mlflow import MlflowClient, entities
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec
from sqlalchemy.exc import SQLAlchemyError
from torch import nn

from hpo.core import digest
from hpo.data.dataset import Dataset
from hpo.engine.result import Published
from hpo.errors import EnvironmentFailed
from hpo.files import scratch
from hpo.formatting import finite
from hpo.publishing.publish_best import CHAMPION, Order, about_images
from hpo.tracking.runs import LONGEST_PARAM, legal, trimmed
from hpo.tracking.store import has_files, quiet, reason

NAME = "best-model"
EXAMPLES = 2  # a batch of one would freeze that dimension (FACTS: torch.export)


def export_nothing() -> None:
    """The first export of a process imports 1.5 s of torch, which it can do before it has an order."""
    torch.export.export(nn.Identity(), (torch.zeros(EXAMPLES),))


def keep(order: Order, net: nn.Module, data: Dataset, score: Callable[[nn.Module], Mapping[str, float]]) -> Published:
    """Log the model on its study's run, score what MLflow gives back, and register it. Raises EnvironmentFailed."""
    assert order.run is not None
    quiet()
    try:
        client = MlflowClient(order.uri, order.uri)
        mlflow.set_tracking_uri(order.uri)  # Model.log takes no URI; this process does nothing else
        mlflow.set_registry_uri(order.uri)
        before = logged(client, order.run, order)
        model = before or log(client, order, net, data)
        test = score(mlflow.pytorch.load_model(f"models:/{model}"))
        if before is None:
            note_data(client, order.run, model, data, test)
        published = Published(test=test, model=f"models:/{model}", said=f"models:/{model}, not registered")
        return published if order.register is None else register(client, order, data, published)
    except (MlflowException, SQLAlchemyError, OSError, RuntimeError) as error:
        raise EnvironmentFailed(reason(error)) from error


def note_data(client: MlflowClient, run: str, model: str, data: Dataset, test: Mapping[str, float]) -> None:
    """The data set, as MLflow has them, on the study's run, and with the test's scores on the model."""
    name, short = Path(data.name).name, data.digest[:36]  # MLflow takes no more
    shape = {
        "images": data.counted,
        "shape": list(data.shape),
        "train, val, test": [*map(len, (data.train, data.val, data.test))],
    }
    known = entities.Dataset(name, short, "local", json.dumps({"uri": data.name}), profile=json.dumps(shape))
    client.log_inputs(run, [entities.DatasetInput(known)])
    for metric, value in test.items():
        score = finite(value)
        client.log_metric(run, legal(metric), score, model_id=model, dataset_name=name, dataset_digest=short)


def identity(order: Order) -> str:
    """The same for the same weights of the same study's run: publishing again finds the model that is there."""
    return digest([order.run, order.trial, order.epoch, order.checkpoint.parent.name])


def logged(client: MlflowClient, run: str, order: Order) -> str | None:
    """The id of this model if an earlier process logged it; one that is not whole, or not any more, is deleted."""
    experiment = client.get_run(run).info.experiment_id
    for model in client.search_logged_models([experiment], f"tags.`hpo.digest` = '{identity(order)}'"):
        if str(model.status) == "READY" and has_files(client, str(model.model_id)):
            return str(model.model_id)
        client.delete_logged_model(model.model_id)
    return None


def log(client: MlflowClient, order: Order, net: nn.Module, data: Dataset) -> str:
    """Log the model on the study's run, with its state_dict and params beside it; returns its id."""
    assert order.run is not None
    tags = {"hpo.digest": identity(order), **order.study, "hpo.trial": str(order.trial)}
    params = trimmed({legal(name): str(value) for name, value in order.params.items()}, LONGEST_PARAM)
    experiment = client.get_run(order.run).info.experiment_id
    name = NAME if order.alias == CHAMPION else f"{order.alias}-model"
    model = client.create_logged_model(experiment, name, order.run, tags, params)
    with scratch() as folder:
        Model.log(
            artifact_path=None,
            flavor=mlflow.pytorch,
            run_id=order.run,
            model_id=model.model_id,
            pytorch_model=net,
            serialization_format="pt2",
            input_example=np.array(data.images[:EXAMPLES]),
            signature=signature(data),
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in ("mlflow", "torch", "numpy")],
            extra_files=beside(folder, order, net.get_submodule("network"), data),
            metadata={**order.study, "hpo.trial": order.trial, **about_images(data)},
        )
    return str(model.model_id)


def signature(data: Dataset) -> ModelSignature:
    """Any number of images; of any size if the model resizes them."""
    channels, height, width = data.shape
    size = (height, width) if data.resize is None else (-1, -1)
    inputs = TensorSpec(data.images.dtype, (-1, channels, *size))
    outputs = TensorSpec(np.dtype(np.float32), (-1, data.outputs))
    return ModelSignature(Schema([inputs]), Schema([outputs]))


def beside(folder: Path, order: Order, network: nn.Module, data: Dataset) -> list[str]:
    """For further training: the network's weights as pure tensors, and everything that says what they are."""
    torch.save(dict(network.state_dict()), folder / "state_dict.pt")
    about = {
        "model": order.recipe.model,
        "params": dict(order.params),
        "shape": data.shape,
        "classes": data.classes,
        "mean": data.mean.tolist(),
        "std": data.std.tolist(),
        "resize": data.resize,
        "data_digest": data.digest,
    }
    (folder / "params.json").write_text(json.dumps(about, indent=1))
    return [str(folder / "state_dict.pt"), str(folder / "params.json")]


def loaded(uri: str, name: str) -> tuple[nn.Module, dict[str, Any]]:
    """A model in MLflow (models:/digits-cnn@champion) that takes raw images, and what `about_images` says of it."""
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"  # a registered model must not run its author's code
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    about = mlflow.models.get_model_info(name).metadata or {}
    return mlflow.pytorch.load_model(name), about


# -- the registry --------------------------------------------------------------------------------------------------


def register(client: MlflowClient, order: Order, data: Dataset, published: Published) -> Published:
    """A version of the registered model; it becomes the champion if it is better on the same data and metric."""
    name = str(order.register)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    versions = client.search_model_versions(f"tags.`hpo.digest` = '{identity(order)}'")  # of an earlier process
    own = (one for one in versions if one.name == name and one.source == published.model)
    mine = next((str(version.version) for version in own), None)
    mine = mine or create_version(client, name, order, data, published)
    published = replace(published, version=mine)
    holder = client.get_registered_model(name).aliases.get(CHAMPION)  # a version
    if order.alias == CHAMPION and holder is not None and str(holder) != mine:
        best = client.get_model_version(name, holder)
        source = best.source or ""
        logged = source.removeprefix("models:/") if source.startswith("models:/m-") else None
        if has_files(client, logged) and (obstacle := why_not_better(best.tags, order, data)):
            said = f"models:/{name}/{mine}; {CHAMPION} stays version {holder}, {obstacle}"
            return replace(published, said=said)
    client.set_registered_model_alias(name, order.alias, mine)
    said = f"models:/{name}@{order.alias} is version {mine}"
    return replace(published, champion=order.alias == CHAMPION, said=said)


def create_version(client: MlflowClient, name: str, order: Order, data: Dataset, published: Published) -> str:
    tags = {
        "hpo.digest": identity(order),
        **order.study,
        "hpo.trial": str(order.trial),
        "hpo.data": data.digest,
        "hpo.metric": order.goal.metric,
        "hpo.value": repr(order.value),
        **{legal(f"hpo.{metric}"): repr(value) for metric, value in published.test.items()},
    }
    model = str(published.model)
    return str(client.create_model_version(name, model, order.run, tags, model_id=model.rpartition("/")[2]).version)


def why_not_better(tags: dict[str, str], order: Order, data: Dataset) -> str:
    """Why the champion with these tags stays, "" if it does not. The test split is never read to choose."""
    if tags.get("hpo.data") != data.digest or tags.get("hpo.metric") != order.goal.metric:
        return "because it was chosen on other data or by another metric"
    value = float(tags.get("hpo.value", "nan"))
    if order.value > value if order.goal.maximize else order.value < value:
        return ""
    return f"because its {order.goal.metric} is {value:.4g} and this one's {order.value:.4g}"
