"""The declared winner: its checkpoint made sure of, its model published, the test split read for it once."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

from hpo.core import Executor, Job, Reported, Rested, Scored, Trial
from hpo.engine import components as assembly
from hpo.engine.search import Search
from hpo.errors import EnvironmentFailed, Mistake
from hpo.failpoints import hit
from hpo.files import Folders
from hpo.journal import Journal
from hpo.publishing.publisher import Order, Published, publish
from hpo.tracking.runs import TrackedStudy
from hpo.tracking.tracker import Tracker
from hpo.training import checkpoints

PUBLISHED = "published"  # the journal's note of what was published last
PATIENCE = 30.0  # seconds MLflow has to answer before the model is only scored


def declare(
    parts: assembly.Parts,
    folders: Folders,
    search: Search,
    executor: Executor,
    journal: Journal,
    outlet: tuple[Tracker, TrackedStudy] | None,
) -> Published | None:
    """Publish the best trial's model if it is another than last time. None where there is nothing to publish."""
    best, goal = search.goal.best(search.study.trials), search.goal
    report = goal.reading(best) if best is not None else None
    if best is None or report is None or parts.dataset is None or parts.spec.train is not None:
        return None
    key = {"trial": best.number, "epoch": report.epoch, "run": outlet is not None}
    if (known := remembered(journal)) is not None and known[0] == key and folders.portrait.exists():
        return known[1]
    path = restore(parts, folders, executor, best, report.epoch)
    run = None
    if outlet is not None:
        tracker, feed = outlet
        tracker.drain(PATIENCE)
        run = tracker.parent(feed)
    spec = parts.spec
    order = Order(
        recipe=assembly.recipe(spec, parts.dataset, "cpu"),
        params=best.params,
        checkpoint=path,
        uri=outlet[0].uri if outlet is not None else "",
        experiment=spec.tracking.experiment or spec.name,
        run=run,
        goal=goal,
        value=goal.value(best) or 0.0,
        study=folders.run.name,
        trial=best.number,
        epoch=report.epoch,
        register=spec.tracking.register if run is not None else None,
        portrait=folders.portrait,
    )
    hit("publish.begin")
    published = publish(order)
    hit("publish.done")
    if not any(is_of(scored, best) for scored in search.study.scores):
        search.record(Scored(time.time(), best.number, dict(published.test)))
    hit("publish.scored")
    if (run is not None) == (outlet is not None):
        journal.put(PUBLISHED, json.dumps([key, asdict(published)]))
    return published


def is_of(scored: Scored, trial: Trial) -> bool:
    """Whether this is the trial's own test score; that of a refit is another model's."""
    return scored.trial == trial.number and any(name.startswith("test_") for name in scored.metrics)


def remembered(journal: Journal) -> tuple[dict[str, object], Published] | None:
    """What was published last, and of which trial."""
    text = journal.get(PUBLISHED)
    if text is None:
        return None
    key, told = json.loads(text)
    return key, Published(**told)


def restore(parts: assembly.Parts, folders: Folders, executor: Executor, trial: Trial, epoch: int) -> Path:
    """The checkpoint after this epoch; trained again if it has been pruned away, which costs time only."""
    path = checkpoints.path(folders.trainings, trial.training, epoch)
    if path.exists():
        return path
    start = checkpoints.newest(folders.trainings, trial.training, epoch)
    _, seed = parts.identity()(trial.params, trial.repeat)
    executor.submit(
        Job(trial.training, trial.params, seed, start, epoch, trial.epoch, folders.trainings, parts.limits())
    )
    while True:
        for message in executor.wait(None):
            if isinstance(message, Rested) and path.exists():
                return path
            if not isinstance(message, Reported):
                raise EnvironmentFailed(
                    Mistake(str(path), "must be there to publish the model", str(message), "run the study again")
                )
