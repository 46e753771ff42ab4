"""One training by one worker, outside of any study: to fit the winner again, or to see a trial come out the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from hpo.core import Broke, Executor, Job, Report, Reported, Rested
from hpo.engine.components import HEAVY, Factory, placement
from hpo.execution.in_process import InlineExecutor
from hpo.execution.local import LocalExecutor
from hpo.study_file.spec import StudySpec
from hpo.training import checkpoints

Heard = Callable[[Report], None]


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of it. The checkpoint after the last report is there, those before are gone."""

    reports: Sequence[Report]
    end: Rested | Broke


def train(recipe: Factory, job: Job, engine: str, heard: Heard) -> Trained:
    """Train the job to its end. heard: told of every epoch; engine: `inline` for this process, else a worker's."""
    with ExitStack() as stack:
        worker = one_worker(recipe, engine)
        stack.callback(worker.close)
        return _trained(worker, job, heard)


def device(spec: StudySpec) -> str:
    """Of one worker on this machine, whatever cluster the study runs on. Raises BadInput for one that is not there."""
    own = spec.execution
    return placement(replace(spec, execution=own if own.engine == "inline" else replace(own, engine="local")))[0]


def one_worker(recipe: Factory, engine: str) -> Executor:
    worker = InlineExecutor() if engine == "inline" else LocalExecutor(1, HEAVY)
    worker.begin([recipe])
    return worker


def _trained(worker: Executor, job: Job, heard: Heard) -> Trained:
    reports: list[Report] = []
    worker.submit(job)
    while True:
        for message in worker.wait(None):
            if not isinstance(message, Reported):
                return Trained(reports, message)
            reports.append(message.report)
            heard(message.report)
            checkpoints.forget(job.folder, job.training, message.report.epoch - 1)
