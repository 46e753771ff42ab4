"""A driver to be killed: `python tests/victim.py CONFIG.json` runs one study with a fake trainer in real processes.

The journal, the driver, the local executor and the checkpoints are the real ones; what takes seconds is left out
(torch, MLflow, pictures). At its end it prints what it takes the study for, as JSON.
"""

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import fakes
import laws

from hpo.core import Goal, Limits, Strategy
from hpo.engine.driver import Driver
from hpo.engine.search import Search
from hpo.engine.trainings import Trainings
from hpo.errors import HpoError
from hpo.execution.local import LocalExecutor
from hpo.files import DriverLock
from hpo.journal import Journal
from hpo.strategies.early_stopping import Asha
from hpo.strategies.points import Grid, Problem, Random
from hpo.study_file.spec import Budget, EarlyStopping


@dataclass(frozen=True)
class Config:
    """What to run. fake: arguments of fakes.Fake; strategy: random, grid or asha."""

    folder: str
    strategy: str = "random"
    seed: int = 3
    slots: int = 2
    budget: dict[str, Any] = field(default_factory=lambda: {"trials": 10})
    fake: dict[str, Any] = field(default_factory=dict)
    report_seconds: float | None = None
    cap: int = 2**31

    @property
    def journal(self) -> Path:
        return Path(self.folder, "run", "journal.db")

    @property
    def lock(self) -> Path:
        return Path(self.folder, "run", "driver.lock")

    @property
    def trainings(self) -> Path:
        return Path(self.folder, "trainings")

    @property
    def witness(self) -> Path:
        return Path(self.folder, "witness")

    def make_strategy(self) -> Strategy:
        problem = Problem(fakes.DISCRETE if self.strategy == "grid" else fakes.SPACE, Goal(), seed=self.seed)
        if self.strategy == "grid":
            return Grid(problem)
        random = Random(problem)
        return Asha(random, Goal(), EarlyStopping("asha", 1, 2)) if self.strategy == "asha" else random

    def write(self, path: Path) -> Path:
        path.write_text(json.dumps(asdict(self)))
        return path


def run(config: Config) -> None:
    executor = LocalExecutor(config.slots)
    try:
        lock = DriverLock(config.lock)
        with Journal.open(config.journal) as journal:
            executor.begin([fakes.Fake(witness=config.witness, **config.fake)])
            goal, budget = Goal(), Budget(**config.budget)
            study = journal.study()
            search = Search(study, config.make_strategy(), goal, budget, laws.identity(), journal.append)
            limits = Limits(report_seconds=config.report_seconds)
            Driver([search], executor, Trainings(config.trainings, cap=config.cap), limits).run()
            best = goal.best(study.trials)
            print(json.dumps({"closed": study.closed, "best": None if best is None else best.number}))
        lock.release()
    finally:
        executor.close()


def main(path: str) -> int:
    try:
        run(Config(**json.loads(Path(path).read_text())))
    except HpoError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
