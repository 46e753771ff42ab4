"""Whole studies in this process: a torch-free trainer that testifies to every epoch, and a place to run it in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo import api
from hpo.commands.run import RunOptions, run
from hpo.engine.result import Result
from hpo.study_file.spec import StudySpec

TRAINER = '''
"""A curve of the params and the seed, a state that is a sum, and a line in `witness` for every epoch."""
import json, math, time
from pathlib import Path
from hpo.core import Outcome, Report, TrainingFailed
from hpo.training import checkpoints

HERE = Path(__file__).parent

def train(job):
    rate, total, drift = job.params["rate"], 0.0, HERE / "drift.json"
    if job.start:
        total = json.loads(checkpoints.path(job.folder, job.training, job.start).read_text())
    for epoch in range(job.start + 1, int(job.params["epochs"]) + 1):
        if rate >= 1 and epoch == 2:
            raise TrainingFailed(Outcome.DIVERGED, "made to diverge")
        if epoch == 2 and (HERE / "failing").exists():
            raise TrainingFailed(Outcome((HERE / "failing").read_text()), "made to fail")
        total += rate * job.params.get("width", 1) / epoch + job.seed % 997 / 1e4
        with (HERE / "witness").open("a") as file:
            file.write(json.dumps([job.training, epoch, job.start, job.seed]) + "\\n")
        save = lambda path, total=total: path.write_text(json.dumps(total))
        value = 1 - math.exp(-total) + (json.loads(drift.read_text()) if epoch == 2 and drift.exists() else 0)
        yield Report(epoch, {"val_accuracy": value, "total": total}, 0.01, time.time(), save)
'''
SPACE = {"rate": [0.05, 0.1, 0.2, 0.4], "width": [1, 2, 3], "epochs": [2, 4, 8]}
STUDY: dict[str, Any] = {
    "name": "made-up",
    "strategy": "random",
    "train": "studied_trainer:train",
    "prefix_safe": True,
    "search_space": SPACE,
    "budget": {"trials": 6},
    "execution": {"engine": "inline"},
    "tracking": False,
}
TINY: dict[str, Any] = {
    "name": "tiny",
    "data": {"source": "digits", "limit": 120},
    "search_space": {"blocks": 1, "channels": 4, "dropout": 0.3, "optimizer": ["sgd", "adam"], "epochs": [1, 3]},
    "device": "cpu",
    "execution": {"engine": "inline"},
    "tracking": False,
}


@dataclass(frozen=True)
class Place:
    """A folder with the trainer in it; every study in it shares its trainings."""

    folder: Path

    @classmethod
    def made(cls, folder: Path) -> Place:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "studied_trainer.py").write_text(TRAINER)
        return cls(folder)

    def spec(self, **changes: Any) -> StudySpec:
        """The study, with these keys in another way; None leaves a key out."""
        given = {key: value for key, value in {**STUDY, **changes}.items() if value is not None}
        (self.folder / "study.yaml").write_text(json.dumps(given))
        return api.load(self.folder / "study.yaml")

    @property
    def options(self) -> RunOptions:
        return RunOptions(self.folder, publish=False)

    def run(self, **changes: Any) -> Result:
        return run(self.spec(**changes), self.options)

    def witnessed(self) -> list[tuple[str, int, int, int]]:
        """(training, epoch, the epoch its job began after, training seed), in the order in which they were trained."""
        file = self.folder / "witness"
        return [tuple(json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []

    def trained(self) -> list[tuple[str, int]]:
        return [(key, epoch) for key, epoch, _, _ in self.witnessed()]


def hpo(folder: Path, *words: str, code: int | None = 0, **environ: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, as a person uses it. code: what it must end with, None for anything."""
    done = subprocess.run(
        [sys.executable, "-m", "hpo", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100", **environ},
        check=False,
    )
    assert code is None or done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done
