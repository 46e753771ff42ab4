"""The driver, its journal and its workers at their own speed: 10,000 trials that train nothing, over 8 processes.

python -m benchmarks.journal            target: 200 trials a second, 500 MB
"""

from __future__ import annotations

import platform
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from hpo.core import Goal, Job, Report, State, Study, training_key, training_seed
from hpo.engine.driver import Driver
from hpo.engine.search import Search
from hpo.engine.trainings import Trainings
from hpo.execution.local import LocalExecutor
from hpo.journal import Journal
from hpo.space.domains import Choice, Parameter, Range
from hpo.space.space import Space
from hpo.strategies.points import Problem, Random
from hpo.study_file.spec import Budget
from hpo.training.recipe import Recipe

TRIALS, WORKERS = 10_000, 8
ROOT = Path(__file__).parent.parent
TARGET_RATE, TARGET_BYTES = 200.0, 500e6
SPACE = Space((Parameter("learning_rate", Range(1e-6, 1.0, False)), Parameter("epochs", Choice((1,)))))


def nothing(job: Job) -> Iterator[Report]:
    yield Report(1, {"val_accuracy": float(job.params["learning_rate"])}, 0.0, time.time())


def run(folder: Path, trials: int) -> tuple[Study, float]:
    """The study and the seconds it took, from the moment the workers were there."""
    executor = LocalExecutor(WORKERS)
    executor.begin([Recipe("", "", Path(), "cpu", train="benchmarks.journal:nothing", folder=ROOT)])
    with Journal.open(folder / "journal.db") as journal:
        search = Search(
            Study(),
            Random(Problem(SPACE)),
            Goal(),
            Budget(trials=trials),
            lambda params, repeat: (training_key(params, 0, {}, True), training_seed(0, params, repeat)),
            journal.append,
        )
        began = time.perf_counter()
        Driver([search], executor, Trainings(folder / "trainings")).run()
        seconds = time.perf_counter() - began
    executor.close()
    return search.study, seconds


def main(trials: int = TRIALS) -> int:
    with tempfile.TemporaryDirectory() as place:
        study, seconds = run(Path(place), trials)
        began = time.perf_counter()
        with Journal.open(Path(place, "journal.db"), read_only=True) as journal:
            again = journal.study()
        reading = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    complete = len(study.with_state(State.COMPLETE))
    duplicates = trials - len({tuple(trial.params.items()) for trial in study.trials})
    rate = trials / seconds
    print(f"machine: {platform.processor() or platform.machine()}, {WORKERS} worker processes")
    print(f"n: {trials:,} trials of one epoch that takes no time, {complete:,} complete, {duplicates} duplicates")
    print(f"time: {seconds:.1f} s, {rate:,.0f} trials a second; target {TARGET_RATE:.0f}")
    print(f"memory of the driver: {memory / 1e6:.0f} MB; target {TARGET_BYTES / 1e6:.0f}")
    print(f"reading the journal again: {reading:.2f} s")
    sound = complete == trials and duplicates == 0 and again.trials == study.trials
    return int(not sound or rate < TARGET_RATE or memory > TARGET_BYTES)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
