"""The learned prior: what thousands of recorded trainings on other pictures say of a point, task by task.

prior.npz is made by `python -m benchmarks.prior` and read without pickle: small networks whose outputs are the tasks' values,
and the table of the trainings that they were fitted to. A study of pictures that are in the table is judged by networks
that were fitted without them.
"""

import hashlib
import io
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Protocol
from zipfile import BadZipFile

import numpy as np

from hpo.errors import EnvironmentFailed, Mistake
from hpo.strategies import encoding
from hpo.strategies.points import RANDOM_X2, WITH_ASHA
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

Network = tuple[tuple[Array, Array], ...]  # (weights, bias) of each layer


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

    def __str__(self) -> str:
        rest = f", but for the {self.without} of the same pictures," if self.without else ""
        return f"{self.trainings:,} recorded trainings of {len(self.tasks) + self.without} tasks{rest}"

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


def predictive(spec: StudySpec) -> bool:
    return spec.early_stopping is not None and spec.early_stopping.type == "predictive"


def unknown(spec: StudySpec) -> str:
    """Why nothing is known before a study begins; "" where the learned prior applies."""
    if spec.strategy in (RANDOM_X2, *WITH_ASHA.values()):
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
    return load(left_out=LEFT_OUT.get(spec.data.source, WHOLE))


@cache
def load(path: Path = SHIPPED, left_out: str = WHOLE) -> LearnedPrior:
    """Raises EnvironmentFailed for a file that is torn, of another version or made by hand."""
    try:
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()[:16]
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
                without=len(about["tasks"][WHOLE]) - len(tasks),
            )
        values, fails = prior.predict(np.zeros((1, len(encoding.FEATURES))))
        if values.shape != (1, len(tasks)) or not (np.isfinite(values).all() and np.isfinite(fails).all()):
            raise ValueError(f"does not give {len(tasks)} numbers of a point, one a task")
        return prior
    except (OSError, ValueError, KeyError, TypeError, EOFError, NotImplementedError, zlib.error, BadZipFile) as error:
        why = " ".join(str(error).split())[:120] or type(error).__name__
        mistake = Mistake(str(path), "cannot be read as the learned prior", why, "install hpo again")
        raise EnvironmentFailed(mistake) from error
