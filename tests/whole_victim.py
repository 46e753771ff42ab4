"""A whole `hpo run` to be killed, without what takes seconds: `python tests/whole_victim.py FOLDER run study.yaml`.

The command line, run_all, journal, publishing and the delivery to MLflow are the real ones. The trainer
is fakes.Fake, the process that publishes answers at once, the report is drawn by nobody, and MLflow is a file.
"""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import fakes
import numpy as np
from mlflow_fixtures import FakeMlflow, FakeStore, Kept

from hpo import __main__ as program
from hpo.engine import components, result
from hpo.engine.result import Published
from hpo.publishing import publish_best
from hpo.publishing.publish_best import Order
from hpo.tracking import sync as tracking

REAL = "REAL" in os.environ  # train with torch after all
STUDY = """\
name: whole
strategy: random
data: data.npz
search_space:
  learning_rate: {min: 1e-3, max: 1e-1, log: true}
  dense_layers: 1
  epochs: [2, 4]
budget: {trials: 6}
workers: 2
device: cpu
"""


class Filed(FakeMlflow):
    """An MLflow in a file: what was there when its client was killed is there for the next one."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.runs = stored(path)
        self._ids = (f"run{number}" for number in range(len(self.runs), 10_000))

    def call(self, work: Callable[[], str | None]) -> str:
        done = super().call(work)
        draft = self.path.with_suffix(".draft")
        draft.write_bytes(pickle.dumps(self.runs))
        draft.replace(self.path)
        return done


def stored(path: Path) -> dict[str, Kept]:
    runs: dict[str, Kept] = pickle.loads(path.read_bytes()) if path.exists() else {}
    return runs


def published(order: Order, begun: object = None) -> Published:
    """What the real process would answer, had it a network; it notes that it was asked."""
    assert order.checkpoint.exists()
    assert order.figures is not None
    order.figures.write_bytes(b"")
    epoch = order.epoch if REAL else json.loads(order.checkpoint.read_text())["epoch"]
    with Path("published").open("a") as file:
        file.write(f"{order.trial} {order.epoch} {epoch}\n")
    return Published(test={"test_accuracy": 0.5}, model="models:/m-1", said="published")


def stub(name: str, **members: object) -> None:
    """A module that is not imported."""
    module = ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module


class ModelFigures:
    @staticmethod
    def open(path: Path) -> None:
        """An empty one."""


class Table:
    def to_csv(self, path: Path, index: bool) -> None:
        path.write_text("table")


class StudyReport(dict[str, object]):
    def document(self) -> str:
        return "report"

    search_pictures = model_pictures = ()


def connect(uri: str, experiment: str, tags: Mapping[str, str]) -> FakeStore:
    return Filed(Path("mlflow.pickle")).connect(uri, experiment, tags)


def lighten() -> None:
    """The report is a word: matplotlib and pandas take seconds."""
    stub("hpo.report.figures", ModelFigures=ModelFigures)
    comparison = {"comparison_document": None, "comparison_picture": None}  # no run draws them
    stub("hpo.report.document", StudyReport=StudyReport, **comparison)
    stub("hpo.report.page", save=lambda pictures, folder: None)
    result.trials_table = lambda *_: Table()  # type: ignore[assignment,return-value]


def prepare(folder: Path) -> None:
    os.chdir(folder)
    if not Path("study.yaml").exists():
        images = np.random.default_rng(0).integers(0, 255, (600 if REAL else 30, 8, 8), np.uint8)
        np.savez("data.npz", X=images, y=np.arange(len(images)) % 2)
        Path("study.yaml").write_text(STUDY)
    lighten()
    if not REAL:
        recipe = fakes.Fake(witness=folder / "witness", pause=float(os.environ.get("PAUSE", "0.01")))
        components.HEAVY = ()
        components.recipe = lambda *_: recipe  # type: ignore[assignment,return-value]
    publish_best.publish = published  # type: ignore[assignment]
    publish_best.begin = lambda to_mlflow: subprocess.Popen(["cat"], stdin=subprocess.PIPE, text=True)
    tracking.connect_mlflow = connect
    tracking.PACE = 0.05


if __name__ == "__main__":
    prepare(Path(sys.argv[1]).absolute())
    sys.argv = ["hpo", *sys.argv[2:]]
    program.main()
