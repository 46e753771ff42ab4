"""The learned prior: what thousands of recorded trainings on other pictures say of a point, task by task.

prior.npz is made by `python -m benchmarks.prior` and read without pickle: small networks whose outputs are the tasks' values,
and the table of the trainings that they were fitted to. A study of pictures that are in the table is judged by networks
that were fitted without them. Each of the user's earlier studies may be one more task: the blend of the tasks that says
best what it read, written into the last layer, so that a prior with them is a file like the one that ships.
"""

import hashlib
import io
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final, Protocol
from zipfile import BadZipFile

import numpy as np

from hpo.errors import EnvironmentFailed, Mistake
from hpo.files import cannot_write, replace_file
from hpo.strategies import encoding
from hpo.strategies.points import UNNAMED
from hpo.study_file.spec import StudySpec

Array = np.ndarray[Any, np.dtype[Any]]

SHIPPED: Final = Path(__file__).with_name("prior.npz")
LAYOUT: Final = 1  # of the file
FAR: Final = 3.0  # standard deviations from the recorded trainings beyond which a feature says no more
WHOLE: Final = ""  # nothing left out
LEFT_OUT: Final[Mapping[str, str]] = {  # a data set known by name, and the networks that have not seen its pictures
    "digits": "handwriting",
    "digits-hard": "handwriting",
    "mnist": "handwriting",
}

DOUBT: Final = 0.5  # how strongly a blend is drawn to the mean of all tasks
OWN: Final = 7.0  # how much more an earlier study may weigh than a task of the package

Network = tuple[tuple[Array, Array], ...]  # (weights, bias) of each layer
# of a study: features (n, D) of points at epochs, and what was read there (n,), as of a task
Experience = tuple[Array, Array]


class Prior(Protocol):
    """What a surrogate asks: see LearnedPrior."""

    @property
    def tasks(self) -> tuple[str, ...]: ...

    def predict(self, features: Array) -> tuple[Array, Array]: ...


@dataclass(frozen=True, eq=False)
class LearnedPrior:
    """tasks: their names; trainings: recorded of them; centre, spread (D,): of the features; digest: of the file.

    The last layer of a network gives one value a task, in standard deviations of that task, and the log odds of failing.
    """

    tasks: tuple[str, ...]
    trainings: int
    centre: Array
    spread: Array
    networks: tuple[Network, ...]
    digest: str
    without: int = 0  # tasks left out
    left_out: str = WHOLE
    studies: tuple[str, ...] = ()  # the user's own, the last of the tasks
    regression: bool = False  # whether the study that begins with it is one

    def __str__(self) -> str:
        kind = ", none of them a regression," if self.regression else ""
        rest = f", the {self.without} of the same pictures left out," if self.without else ""
        own = f" and earlier studies ({', '.join(self.studies)})" if self.studies else ""
        count = len(self.tasks) - len(self.studies) + self.without
        return f"{self.trainings:,} recorded trainings of {count} tasks{kind}{rest}{own}"

    def predict(self, features: Array) -> tuple[Array, Array]:
        """Features (n, D) of points at epochs -> values (n, tasks), larger is better, and chances of failing (n,)."""
        inputs = np.clip((features - self.centre) / self.spread, -FAR, FAR).astype(np.float32)
        outputs = np.mean([_forward(network, inputs) for network in self.networks], axis=0).astype(np.float64)
        return outputs[:, :-1], 1 / (1 + np.exp(-outputs[:, -1]))


def _forward(network: Network, inputs: Array) -> Array:
    *hidden, (weights, bias) = network
    for own, shift in hidden:
        inputs = np.maximum(inputs @ own + shift, 0)
    return inputs @ weights + bias


def blend(prior: LearnedPrior, features: Array, values: Array) -> Array:
    """Weights (tasks,) of the blend of tasks that says best what a study read: a ridge regression towards their mean."""
    z, count = prior.predict(features)[0], len(prior.tasks)
    z, missed = z - z.mean(axis=0), values - values.mean() - (z - z.mean(axis=0)).mean(axis=1)
    return np.asarray(1 / count + np.linalg.solve(z.T @ z + DOUBT * count * np.eye(count), z.T @ missed))


def with_studies(prior: LearnedPrior, studies: Mapping[str, Experience]) -> bytes:
    """The file of a prior in which these studies are tasks too."""
    weights = np.array([OWN * blend(prior, *read) for read in studies.values()]).reshape(-1, len(prior.tasks)).T
    arrays = {"centre": prior.centre, "spread": prior.spread}
    for i, network in enumerate(prior.networks):
        for j, layer in enumerate(network):
            for name, array in zip(("weights", "bias"), layer, strict=True):
                if layer is network[-1]:
                    own = array[..., :-1], array[..., :-1] @ weights, array[..., -1:]
                    array = np.concatenate(own, axis=-1, dtype=np.float32)
                arrays[f"{prior.left_out}{name}{i}-{j}"] = array
    about = {"layout": LAYOUT, "features": encoding.FEATURES, "depth": len(prior.networks[0])}
    about |= {"networks": len(prior.networks), "trainings": prior.trainings, "without": prior.without}
    about |= {"studies": [*studies], "tasks": {prior.left_out: [*prior.tasks, *map("study {}".format, studies)]}}
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez_compressed(content := io.BytesIO(), allow_pickle=False, **arrays)
    return content.getvalue()


def in_words(task: str) -> str:
    """The name of a task without its numbers; that of a study, which is the user's own, whole."""
    return f"your {task}" if task.startswith("study ") else " ".join(s for s in task.split("-") if not s.isdigit())


def predictive(spec: StudySpec) -> bool:
    return spec.early_stopping is not None and spec.early_stopping.type == "predictive"


def unknown(spec: StudySpec) -> str:
    """Why nothing is known before a study begins; "" where the learned prior applies."""
    if spec.strategy in UNNAMED:
        return "a comparison leaves it out"
    if spec.warm_start == "none":
        return "warm_start is none"
    if spec.train is not None or spec.data is None:
        return "the learned prior says nothing of a trainer of your own"
    if spec.model != "cnn":
        return f"the learned prior says nothing of {'rnn' if spec.model == 'rnn' else 'a network of your own'}"
    return ""


def of(spec: StudySpec) -> LearnedPrior | None:
    """What a study begins with, where it asks for that; of pictures in the prior, networks that have not seen them."""
    if unknown(spec) or spec.data is None or not (spec.strategy == "bayesian" or predictive(spec)):
        return None
    return replace(load(left_out=LEFT_OUT.get(spec.data.source, WHOLE)), regression=spec.data.regression)


def keep(content: bytes, folder: Path) -> str:
    """Write a prior's file there, once, and return its digest, which names it. Raises EnvironmentFailed."""
    digest = hashlib.sha256(content).hexdigest()[:16]
    path = folder / f"{digest}.npz"
    try:
        if not path.exists():
            with replace_file(path) as draft:
                draft.write_bytes(content)
    except OSError as error:
        raise EnvironmentFailed(cannot_write(path, error.strerror or str(error))) from None
    return digest


@cache
def load(path: Path = SHIPPED, left_out: str = WHOLE, began: str | None = None) -> LearnedPrior:
    """began: the digest that it must have, of one stored with a study. Raises EnvironmentFailed for any other file."""
    try:
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()[:16]
        if digest != (began or digest):
            raise ValueError("is not the file that the study began with")
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            about = json.loads(bytes(stored["about"]))
            if about["layout"] != LAYOUT or about["features"] != [*encoding.FEATURES]:
                raise ValueError(f"is of layout {about['layout']}, this version reads {LAYOUT}")
            tasks = about["tasks"][left_out]
            depth, count = about["depth"], about["networks"]
            networks = [
                tuple((stored[f"{left_out}weights{i}-{j}"], stored[f"{left_out}bias{i}-{j}"]) for j in range(depth))
                for i in range(count)
            ]
            prior = LearnedPrior(
                tasks=tuple(tasks),
                trainings=about["trainings"],
                centre=stored["centre"],
                spread=stored["spread"],
                networks=tuple(networks),
                digest=digest,
                without=about["without"] if began else len(about["tasks"][WHOLE]) - len(tasks),
                left_out=left_out,
                studies=tuple(about.get("studies", ())),
            )
        values, fails = prior.predict(np.zeros((1, len(encoding.FEATURES))))
        if values.shape != (1, len(tasks)) or not (np.isfinite(values).all() and np.isfinite(fails).all()):
            raise ValueError(f"does not give {len(tasks)} numbers of a point, one a task")
        return prior
    except (OSError, ValueError, KeyError, TypeError, EOFError, NotImplementedError, zlib.error, BadZipFile) as error:
        why = " ".join(str(error).split())[:120] or type(error).__name__
        remedy = "restore it from a copy, or set the study aside with --fresh" if began else "install hpo again"
        mistake = Mistake(str(path), "cannot be read as the learned prior", why, remedy)
        raise EnvironmentFailed(mistake) from error
