"""`hpo predict`: what a trained model says about image files, from a study's best trial or from MLflow.

C channels, H x W pixels, as the data set has them; K classes, or numbers
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from hpo.commands.run import load_data
from hpo.data.dataset import Dataset
from hpo.data.sources.images import image_files, read_images
from hpo.engine import components as assembly
from hpo.engine.result import Result
from hpo.errors import BadInput, EnvironmentFailed, Mistake
from hpo.study_file.spec import StudySpec
from hpo.tracking.uri import tracking_uri

CHUNK_BYTES = 2**26  # of images that are in memory at a time
FEW_LEVELS = 128.0  # data whose brightest pixel is below this are on a scale of their own, not on that of image files
BRIGHTEST = 255.0
UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # MLflow's words for a name that is not there

Array = np.ndarray[Any, np.dtype[Any]]
Answer = Callable[[Array], Array]
Shape = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Model:
    """A function from images (N, C, H, W) to (N, K), and what must be known to hand it files.

    classes: empty where the answers are numbers; resized: whether files may have any size; largest: the data's
    brightest pixel.
    """

    answer: Answer
    classes: tuple[str, ...]
    shape: Shape
    dtype: str
    resized: bool
    largest: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model said of one file. numbers: probabilities in the order of the classes, or what is predicted."""

    file: Path
    classes: tuple[str, ...]
    numbers: tuple[float, ...]

    @property
    def best(self) -> int:
        return int(np.argmax(self.numbers))


# -- models --------------------------------------------------------------------------------------------------------


def trained(result: Result) -> Model:
    """The best trial, from its checkpoint. Raises NoResult where there is none, BadInput where hpo has no network."""
    spec = result.spec
    dataset = load_data(spec, result.folders)
    if spec.train is not None or dataset is None:
        rule = "a study with a trainer of its own has no network that hpo knows"
        raise BadInput(Mistake(spec.place("train"), rule, str(spec.train), "predict in your own code"))
    raw = import_module("hpo.publishing.raw_inputs")  # 2 s of torch, which a mistake above need not wait for
    ask = raw.answer(assembly.recipe(spec, dataset, "cpu"), result.best.params, result.checkpoint())
    return _model(ask, dataset, raw.largest_pixel(dataset))


def _model(ask: Answer, data: Dataset, largest: float) -> Model:
    return Model(ask, data.classes or (), data.shape, str(data.images.dtype), data.resize is not None, largest)


def registered(spec: StudySpec, state: Path, name: str, environ: Mapping[str, str]) -> Model:
    """A model in MLflow by its name, as models:/digits-cnn@champion. Raises BadInput, EnvironmentFailed."""
    if not name.startswith("models:/"):
        rule = "must be the name of a model in MLflow"
        raise BadInput(Mistake("--model", rule, name, "write models:/NAME@champion or models:/NAME/VERSION"))
    uri = tracking_uri(spec.tracking.uri, state, environ, spec.place("tracking.uri"))
    store, registry = (
        import_module("hpo.tracking.store"),
        import_module("hpo.publishing.registry"),
    )  # 4 s of torch and mlflow
    try:
        ask, about = registry.loaded(uri, name)
    except (OSError, RuntimeError, registry.MlflowException) as error:
        unknown = getattr(error, "error_code", "") in UNKNOWN
        pickled = "pickle" in str(error)
        why = "a pickle, which could run anything" if pickled else store.reason(error)
        remedy = "`hpo ui` shows which models there are"
        kind = BadInput if unknown or pickled else EnvironmentFailed
        raise kind(Mistake(name, "must be a model in MLflow that can be loaded", why, remedy)) from error
    if "shape" not in about:
        raise BadInput(Mistake(name, "must be a model that hpo published", "another", "load it with mlflow.pytorch"))
    channels, height, width = about["shape"]
    shape = (channels, height, width)
    return Model(ask, tuple(about["classes"]), shape, about["dtype"], about["resized"], about["largest_pixel"])


# -- predicting ----------------------------------------------------------------------------------------------------


def predict(model: Model, folder: Path, noted: Callable[[str], None] = lambda text: None) -> list[Prediction]:
    """Every image file of a folder, or one file. Raises BadInput that names every file which is no usable image.

    noted: told in a sentence where the pixels had to be brought to the scale of the data.
    """
    if model.dtype != "uint8":
        rule = "the model takes numbers of a scale that image files do not have"
        remedy = 'load it in Python: hpo.run("study.yaml").model()'
        raise BadInput(Mistake(str(folder), rule, model.dtype, remedy))
    ratio = _ratio(model, folder)
    if ratio != 1:
        noted(f"the data's pixels go up to {model.largest:g}, those of the files higher: scaled by {ratio:.3g}")
    found: list[Prediction] = []
    for paths, images in _chunks(model, folder):
        scaled = images if ratio == 1 else np.round(images * ratio).astype(np.uint8)
        numbers = model.answer(scaled)
        found += [
            Prediction(path, model.classes, tuple(map(float, row))) for path, row in zip(paths, numbers, strict=True)
        ]
    return found


def _ratio(model: Model, folder: Path) -> float:
    """What brings the files' pixels to the data's scale; 1 where they are on it."""
    if model.largest >= FEW_LEVELS:
        return 1.0
    brightest = max(float(images.max()) for _, images in _chunks(model, folder))
    return 1.0 if brightest <= model.largest else model.largest / BRIGHTEST


def _chunks(model: Model, folder: Path) -> Iterator[tuple[Sequence[Path], Array]]:
    """Files and their pixels, as many at a time as memory is meant to hold; at the end all mistakes at once."""
    files = image_files(folder)
    size = max(1, CHUNK_BYTES // int(np.prod(model.shape)))
    mistakes: list[Mistake | str] = []
    for first in range(0, len(files), size):
        some = files[first : first + size]
        try:
            images = read_images(some, model.shape, resize=model.resized)
        except BadInput as bad:
            mistakes += bad.mistakes
            continue
        if not mistakes:
            yield some, images
    if mistakes:
        raise BadInput(*mistakes)


# -- what is printed -------------------------------------------------------------------------------------------------


def as_csv(predictions: Sequence[Prediction]) -> str:
    """A header and one line an image: file,class,confidence, or file,value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "class", "confidence") if predictions[0].classes else ("file", "value"))
    for one in predictions:
        known = (
            (one.classes[one.best], f"{one.numbers[one.best]:.4f}")
            if one.classes
            else map("{:.6g}".format, one.numbers)
        )
        writer.writerow((one.file, *known))
    return text.getvalue()


def as_json(predictions: Sequence[Prediction]) -> str:
    return json.dumps([_told(one) for one in predictions], indent=1)


def _told(one: Prediction) -> dict[str, Any]:
    if not one.classes:
        return {"file": str(one.file), "value": one.numbers[0] if len(one.numbers) == 1 else list(one.numbers)}
    probabilities = dict(zip(one.classes, one.numbers, strict=True))
    return {
        "file": str(one.file),
        "class": one.classes[one.best],
        "confidence": one.numbers[one.best],
        "probabilities": probabilities,
    }
