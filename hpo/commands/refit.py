"""`hpo best --refit`: the winner trained on train and val together, for use; registered under an alias of its own.

There is no validation split left to choose by, so nothing is chosen: params, epochs and seed are the winner's. The test
split is read once more, and that is recorded.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from hpo.commands import single_run as alone
from hpo.commands.run import load_data
from hpo.commands.single_run import Heard
from hpo.commands.sync import tracked_study
from hpo.core import Broke, Job, Scored, Trial, digest, training_seed
from hpo.data.dataset import Dataset
from hpo.data.normalization import standards
from hpo.engine import components as assembly
from hpo.engine.result import Published, Result
from hpo.errors import BadInput, EnvironmentFailed, Mistake, NoResult
from hpo.files import Folders
from hpo.formatting import count, decimals
from hpo.journal import DriverLock, Journal
from hpo.publishing.publish_best import PATIENCE, Order, publish
from hpo.study_file.spec import StudySpec
from hpo.tracking.sync import Tracker
from hpo.tracking.uri import tracking_uri
from hpo.training import checkpoints

ALIAS = "refit"
META = "refit"  # the journal's note of the last one
PREFIX = "refit_"  # of its test scores: they are not the winner's


@dataclass(frozen=True, slots=True)
class Refit:
    """images: it was trained on; known: it was there before; checkpoint: where its weights are."""

    trial: Trial
    epoch: int
    images: int
    published: Published
    checkpoint: Path
    known: bool = False


def refit(result: Result, environ: Mapping[str, str], heard: Heard = lambda report: None) -> Refit:
    """Train the best trial on train and val, score it on test, register it. Twice is the same as once.

    Raises BadInput where there are no splits, NoResult where it does not train, Conflict while a driver has the study.
    """
    spec, folders, best = result.spec, result.folders, result.best
    if spec.train is not None or spec.data is None:
        rule = "a study with a trainer of its own has no splits that hpo could join"
        raise BadInput(Mistake(spec.place("train"), rule, str(spec.train), "train on all data in your own code"))
    with ExitStack() as stack:
        stack.callback(DriverLock(folders.lock).release)
        journal = stack.enter_context(Journal.open(folders.journal))
        dataset = load_data(spec, folders)
        assert dataset is not None
        plan = _plan(spec, folders, best, together(dataset))
        if (published := _known(plan, journal)) is not None:
            return plan.told(published, True)
        data = plan.data.save(folders.data / ALIAS)
        stack.callback(
            shutil.rmtree, folders.data / ALIAS, ignore_errors=True
        )  # a copy of the images, easily made again
        if not plan.checkpoint.exists():
            _train(plan, data, heard)
        published = _publish(plan, data, environ, stack)
        _record(plan, published, journal)
    return plan.told(published, False)


def together(dataset: Dataset) -> Dataset:
    """Train and val as one training split, standardized by its own statistics; nothing is left to validate on."""
    train = np.union1d(dataset.train, dataset.val)
    mean, std = standards(dataset.images, train)
    name = digest([dataset.digest, "train and val"])
    return replace(dataset, train=train, val=train[:0], mean=mean, std=std, digest=name, folder=None)


@dataclass(frozen=True, slots=True)
class _Plan:
    """name: of the training; epoch: at which the winner counts."""

    spec: StudySpec
    folders: Folders
    best: Trial
    data: Dataset
    name: str
    epoch: int

    @property
    def checkpoint(self) -> Path:
        return checkpoints.path(self.folders.run / ALIAS, self.name, self.epoch)

    def told(self, published: Published, known: bool) -> Refit:
        return Refit(self.best, self.epoch, len(self.data.train), published, self.checkpoint, known)


def _plan(spec: StudySpec, folders: Folders, best: Trial, data: Dataset) -> _Plan:
    report = spec.metric.as_goal().reading(best)
    assert report is not None
    return _Plan(spec, folders, best, data, digest([best.training, report.epoch, data.digest]), report.epoch)


def _known(plan: _Plan, journal: Journal) -> Published | None:
    """What an earlier call came to."""
    key, published = json.loads(journal.get(META) or '["", null]')
    return Published(**published) if key == _key(plan) else None


def _key(plan: _Plan) -> list[str | bool]:
    return [plan.name, plan.spec.tracking.enabled]


def _train(plan: _Plan, data: Dataset, heard: Heard) -> None:
    folder, best, engine = plan.folders.run / ALIAS, plan.best, plan.spec.execution.engine
    shutil.rmtree(folder, ignore_errors=True)
    parts = assembly.parts(plan.spec, data, [alone.device(plan.spec)])
    seed = training_seed(plan.spec.training_seed or 0, best.params, best.repeat)
    job = Job(plan.name, best.params, seed, 0, plan.epoch, 0, folder, parts.limits())
    end = alone.train(parts.factories()[0], job, engine, heard).end
    if isinstance(end, Broke):
        remedy = "run the same command again" if end.lost else "raise the budget and search on"
        got = f"{end.outcome}: {end.error}"
        raise NoResult(Mistake(f"trial {best.number}", "must train on train and val together too", got, remedy))
    if not plan.checkpoint.exists():
        rule = "must be there to register the model"
        raise EnvironmentFailed(Mistake(str(plan.checkpoint), rule, "no file", "run the same command again"))


def _publish(plan: _Plan, data: Dataset, environ: Mapping[str, str], stack: ExitStack) -> Published:
    """The model in MLflow, on the study's run, or only its score where MLflow is off or away."""
    spec, uri, run = plan.spec, "", None
    if spec.tracking.enabled:
        uri = tracking_uri(spec.tracking.uri, plan.folders.state, environ, spec.place("tracking.uri"))
        source = tracked_study(spec, plan.folders)
        tracker = Tracker([source], uri)
        tracker.start()
        stack.callback(tracker.close)
        tracker.drain(PATIENCE)
        run = tracker.parent(source)
    order = Order(
        recipe=assembly.recipe(spec, data, "cpu"),
        params=plan.best.params,
        checkpoint=plan.checkpoint,
        uri=uri,
        experiment=spec.tracking.experiment or spec.name,
        run=run,
        goal=spec.metric.as_goal(),
        value=math.nan,  # there is no validation split to have one on
        study=plan.folders.run.name,
        trial=plan.best.number,
        epoch=plan.epoch,
        register=(spec.tracking.register or spec.name) if run is not None else None,
        alias=ALIAS,
    )
    return publish(order)


def _record(plan: _Plan, published: Published, journal: Journal) -> None:
    """The reading of the test split, under names that are not the winner's; and that it is done, if it is."""
    scores = {f"{PREFIX}{name}": value for name, value in published.test.items()}
    journal.append(Scored(time.time(), plan.best.number, scores))
    if published.model is not None or not plan.spec.tracking.enabled:
        journal.put(META, json.dumps([_key(plan), asdict(published)]))


def lines(found: Refit) -> Iterator[str]:
    """What a person is told."""
    data = f"{count(found.images, 'image')} of train and val, {count(found.epoch, 'epoch')}"
    scores = sorted(found.published.test.items(), key=lambda item: item[0].endswith("_loss"))
    test = ", ".join(f"{name} {decimals(value)}" for name, value in scores)
    again = " (made earlier)" if found.known else ""
    yield f"refit:  trial {found.trial.number} on {data}: {test or 'no test split to score it on'}{again}"
    yield f"model:  {found.published.said}"
    yield f"        its weights are in {found.checkpoint}"
