"""`hpo predict`: the predictions of a trained model for image files, from a study's best trial or from MLflow.

C channels, H x W pixels, as the data set has them; K classes, or numbers
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from hpo.data.sources.contents import FAR, raise_all
from hpo.data.sources.images import Pixels, decode, header, image_files, left_out, several_frames, usable
from hpo.engine.result import Result
from hpo.errors import BadInput, EnvironmentFailed, Mistake
from hpo.publishing.publish_best import about_images
from hpo.study_file.spec import StudySpec
from hpo.tracking.ui import tracking_uri

CHUNK_BYTES = 2**26  # of images that are in memory at a time
FEW_LEVELS = 128.0  # data whose brightest pixel is below this are not on the scale of image files
BRIGHTEST = 255.0
UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # MLflow's words for a name that is not there

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Model:
    """What turns images (N, C, H, W) into (N, K). classes: none for numbers; largest: the data's brightest pixel."""

    predict: Callable[[Array], Array]
    classes: tuple[str, ...]
    pixels: Pixels
    largest: float

    @classmethod
    def of(cls, predict: Callable[[Array], Array], about: Mapping[str, Any]) -> Self:
        """about: what `about_images` says of its data."""
        channels, height, width = about["shape"]
        background = about.get("background", "white")  # unknown to models published before there was a choice
        pixels = Pixels((channels, height, width), about["dtype"], about["resized"], background)
        return cls(predict, tuple(about["classes"]), pixels, about["largest_pixel"])


@dataclass(frozen=True, slots=True)
class Prediction:
    """For one file. numbers: probabilities in the order of the classes, or what is predicted."""

    file: Path
    classes: tuple[str, ...]
    numbers: tuple[float, ...]

    @property
    def best(self) -> int:
        return int(np.argmax(self.numbers))


def trained(result: Result) -> Model:
    """The best trial, from its checkpoint. Raises NoResult where there is none, BadInput where hpo has no network, Conflict."""
    if (published := result.published) and published.model:
        result.refuse_other_code(result.best, f"add --model {published.model}, its model in MLflow, undo that")
    from hpo.training.evaluation import predictions  # 2 s of torch, which a mistake need not wait for

    return Model.of(partial(predictions, result.model()), about_images(result.data()))


def registered(spec: StudySpec, state: Path, name: str, environ: Mapping[str, str]) -> Model:
    """A model in MLflow by its name, as models:/digits-cnn@champion. Raises BadInput, EnvironmentFailed."""
    if not name.startswith("models:/"):
        rule = "must be the name of a model in MLflow"
        raise BadInput(Mistake("--model", rule, name, "write models:/NAME@champion or models:/NAME/VERSION"))
    uri = tracking_uri(spec, state, environ)
    from mlflow.exceptions import MlflowException  # 4 s of torch and mlflow
    from sqlalchemy.exc import SQLAlchemyError

    from hpo.publishing import registry
    from hpo.tracking import store
    from hpo.training.evaluation import predictions

    try:
        module, about = registry.loaded(uri, name)
    except (OSError, RuntimeError, MlflowException, SQLAlchemyError) as error:
        unknown = getattr(error, "error_code", "") in UNKNOWN
        pickled = "pickle" in str(error)
        why = "a pickle, which could run anything" if pickled else store.reason(error)
        remedy = "`hpo ui` shows which models there are"
        kind = BadInput if unknown or pickled else EnvironmentFailed
        raise kind(Mistake(name, "must be a model in MLflow that can be loaded", why, remedy)) from error
    if "shape" not in about:
        raise BadInput(Mistake(name, "must be a model that hpo published", "another", "load it with mlflow.pytorch"))
    return Model.of(partial(predictions, module), about)


def predict(model: Model, folder: Path, note: Callable[[str], None] = lambda text: None) -> list[Prediction]:
    """Every image file of a folder, or one file; what is damaged or no image is left out.

    note is called with a sentence where files or frames were left out, and where pixels had to be brought to the scale
    of the data. Raises BadInput that names every image of another size or depth, and where no file is left.
    """
    files = image_files(folder)
    for text in several_frames(usable(header, files)[0].values()):
        note(text)
    ratio = _ratio(model, files)
    if ratio != 1:
        note(f"the data's pixels go up to {model.largest:g}, those of the files higher: scaled by {ratio:.3g}")
    predictions: list[Prediction] = []
    unusable: list[Mistake | str] = []
    for paths, images in _chunks(model, files, unusable):
        scaled = images if ratio == 1 else np.round(images * ratio).astype(np.uint8)
        rows = zip(paths, model.predict(scaled), strict=True)
        predictions += [Prediction(path, model.classes, tuple(map(float, numbers))) for path, numbers in rows]
    if not predictions:
        raise_all(unusable, folder)
    if unusable:
        note(left_out(unusable))
    return predictions


def _ratio(model: Model, files: list[Path]) -> float:
    """What brings the files' pixels to the data's scale; 1 where they are on it. Raises BadInput for unbounded ones."""
    if model.pixels.dtype == "uint8" and model.largest >= FEW_LEVELS:
        return 1.0
    brightest = max((float(images.max()) for _, images in _chunks(model, files, [])), default=0.0)
    if model.pixels.dtype == "uint8":
        return 1.0 if brightest <= model.largest else model.largest / BRIGHTEST
    if brightest > FAR * abs(model.largest):
        rule = f"must be on the scale of the data, whose pixels go up to {model.largest:g}"
        raise BadInput(Mistake(str(files[0].parent), rule, f"pixels up to {brightest:g}", "convert the images"))
    return 1.0


def _chunks(model: Model, files: list[Path], unusable: list[Mistake | str]) -> Iterator[tuple[Sequence[Path], Array]]:
    """The files that are images, and their pixels, CHUNK_BYTES at a time; at the end all mistakes at once."""
    size = max(1, CHUNK_BYTES // int(np.prod(model.pixels.shape)))
    mistakes: list[Mistake | str] = []
    for first in range(0, len(files), size):
        try:
            images, others = usable(lambda path: decode(path, model.pixels), files[first : first + size])
        except BadInput as bad:
            mistakes += bad.mistakes
            continue
        unusable += others
        if images and not mistakes:
            yield [*images], np.stack([*images.values()])
    raise_all(mistakes, "the images")


def as_csv(predictions: Sequence[Prediction]) -> str:
    """A header and one line an image: file,class,confidence, or file,value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "class", "confidence") if predictions[0].classes else ("file", "value"))
    for one in predictions:
        if one.classes:
            writer.writerow((one.file, one.classes[one.best], f"{one.numbers[one.best]:.4f}"))
        else:
            writer.writerow((one.file, *map("{:.6g}".format, one.numbers)))
    return text.getvalue()


def as_json(predictions: Sequence[Prediction]) -> str:
    rows: list[dict[str, Any]] = []
    for one in predictions:
        if one.classes:
            probabilities = dict(zip(one.classes, one.numbers, strict=True))
            said = {"class": one.classes[one.best], "confidence": one.numbers[one.best], "probabilities": probabilities}
        else:
            said = {"value": one.numbers[0] if len(one.numbers) == 1 else list(one.numbers)}
        rows.append({"file": str(one.file), **said})
    return json.dumps(rows, indent=1)
