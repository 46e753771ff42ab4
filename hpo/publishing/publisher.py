"""Having the winner's model published: the order, what came of it, and the short-lived process that does it.

The process (publish.py) imports torch and mlflow and is gone afterwards; the driver stays small and cannot be hurt.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from hpo.core import Goal, Params
from hpo.errors import EnvironmentFailed, Mistake
from hpo.training.recipe import Recipe

CHAMPION = "champion"
ENVIRONMENT = {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "GIT_PYTHON_REFRESH": "quiet",
}


@dataclass(frozen=True, slots=True)
class Order:
    """What to publish.

    checkpoint: of the epoch that counts; run: the study's run in MLflow, None to score only; register: the name the
    model is registered under, None to log it only; value: the goal's metric, by which a new champion must be better;
    alias: another than the champion's goes to this model without a contest; portrait: a file for what there is to see.
    """

    recipe: Recipe
    params: Params
    checkpoint: Path
    uri: str
    experiment: str
    run: str | None
    goal: Goal
    value: float
    study: str
    trial: int
    epoch: int
    register: str | None = None
    alias: str = CHAMPION
    portrait: Path | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Order:
        told = json.loads(text)
        recipe = told["recipe"]
        recipe |= {"data": Path(recipe["data"]), "folder": recipe["folder"] and Path(recipe["folder"])}
        made = {"recipe": Recipe(**recipe), "goal": Goal(**told["goal"]), "checkpoint": Path(told["checkpoint"])}
        return cls(**told | made | {"portrait": told["portrait"] and Path(told["portrait"])})


@dataclass(frozen=True, slots=True)
class Published:
    """What came of it. test: metrics of the model as it lies in MLflow, named test_*; said: a sentence for a person."""

    test: Mapping[str, float] = field(default_factory=dict)
    model: str | None = None  # models:/m-...
    version: str | None = None
    champion: bool = False
    said: str = ""


def publish(order: Order, timeout: float = 600.0) -> Published:
    """Score the model on the test split, log it, register it. May be repeated: what is there is not made twice.

    Raises EnvironmentFailed with one line.
    """
    command = [sys.executable, "-m", "hpo.publishing.publish"]
    environment = {**ENVIRONMENT, **os.environ, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    text = replace(order, checkpoint=order.checkpoint.absolute()).to_json()
    try:
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise EnvironmentFailed(_failed(f"no end after {timeout:.0f} s")) from None
    told = _answer(done.stdout)
    if told is None:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise EnvironmentFailed(_failed(last[0][:300]))
    if "error" in told:
        raise EnvironmentFailed(_failed(str(told["error"])))
    return Published(**told)  # type: ignore[arg-type]  # what _answer wrote


def _answer(output: str) -> dict[str, object] | None:
    lines = output.strip().splitlines()
    try:
        told: dict[str, object] = json.loads(lines[-1])
    except (IndexError, json.JSONDecodeError):
        return None
    return told


def _failed(why: str) -> Mistake:
    return Mistake("the best model", "could not be published", why, "mend it, then run the same command again")
