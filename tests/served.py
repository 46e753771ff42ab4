"""A whole chain, for tests and benchmarks: workers, driver, journal, MLflow's server; then a look at what has arrived.

    python -m tests.served FOLDER --trials 40 --slots 8        prints one JSON object; MLFLOW_TRACKING_URI says where

It is run on the stage (stage.py), where the server has its name.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import fakes
import laws
from mlflow_fixtures import check_delivered
from mlflow_real import kept

from hpo.core import Goal, Study
from hpo.engine.driver import Driver
from hpo.engine.search import Search
from hpo.engine.trainings import Trainings
from hpo.execution.local import LocalExecutor
from hpo.journal import Journal
from hpo.strategies.points import Problem, Random
from hpo.study_file.spec import Budget
from hpo.tracking.runs import TrackedStudy
from hpo.tracking.sync import ENVIRONMENT, Tracker


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds an epoch takes")
    options = parser.parse_args()
    uri = os.environ["MLFLOW_TRACKING_URI"]
    os.environ.update(ENVIRONMENT)
    options.folder.mkdir(parents=True)
    tracked = TrackedStudy(options.folder / "journal.db", options.folder.name, "random", 3, Goal())
    executor = LocalExecutor(options.slots)
    executor.begin([fakes.Fake(pause=options.pause, saves=False)])
    tracker = Tracker([tracked], uri)
    began = time.perf_counter()
    tracker.start()
    try:
        with Journal.open(tracked.journal) as journal:
            strategy = Random(Problem(fakes.SPACE, seed=3))
            search = Search(Study(), strategy, Goal(), Budget(trials=options.trials), laws.identity(), journal.append)
            Driver([search], executor, Trainings(options.folder / "trainings")).run()
            driven = time.perf_counter() - began
            events = [event for _, event in journal.events()]
    finally:
        executor.close()
        undelivered = tracker.close(600.0)
    delivered = time.perf_counter() - began
    study = laws.check(events, trials=options.trials)
    check_delivered(kept(uri, tracked.experiment_name), tracked, events, live=False)
    reports = sum(len(training.reports) for training in study.trainings.values())
    result = {"trials": len(study), "reports": reports, "undelivered": undelivered}
    print(json.dumps({**result, "driven": driven, "delivered": delivered}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
