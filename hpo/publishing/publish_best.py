"""A study's best model: its checkpoint made available, the model published, the test split read for it once.

Publishing happens in a short-lived process (publish.py), which imports torch and mlflow: the driver stays small, and a
crash there cannot hurt it. It is begun while the last trials train.
"""

import json
import logging
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from hpo.core import Event, Executor, Goal, Job, JobEnded, JobFailed, Params, Report, Reported, Scored, Trial, digest
from hpo.data.dataset import Dataset
from hpo.engine import components
from hpo.engine.changes import other_versions, refuse_other_network
from hpo.engine.opening import OpenStudy
from hpo.engine.result import PUBLISHED, Published, Result
from hpo.engine.search import Search
from hpo.errors import EnvironmentFailed, HpoError, Mistake
from hpo.files import Folders, hit
from hpo.journal import Journal
from hpo.study_file.spec import StudySpec
from hpo.tracking import sync
from hpo.tracking.runs import study_tags
from hpo.tracking.sync import Tracker
from hpo.tracking.ui import SQLITE
from hpo.training import checkpoints
from hpo.training.recipe import Recipe

log = logging.getLogger(__name__)

CHAMPION = "champion"
WHITE = 255.0  # in image files of 8 bits, however dark all of them are
DUE = Published(said="not published", failed=True)  # noted first, so that `hpo sync` knows of a model it must log
KEPT, LAST = 60.0, 10.0  # seconds that a process waits for its order; of a study's time in which it is begun
PATIENCE, PATIENCE_HERE = 30.0, 300.0  # seconds MLflow has to answer; a file of this machine, however busy it is
ENVIRONMENT = sync.ENVIRONMENT | {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
}

OnEpoch = Callable[[Report], None]


@dataclass(frozen=True, slots=True)
class Place:
    """Where in MLflow a study's models go: "" and None where it is off.

    run: the study's; None where MLflow does not answer; holds: whether the files of a model are there.
    """

    uri: str
    run: str | None
    holds: Callable[[str], bool] = lambda model: True

    @classmethod
    def of(cls, tracker: Tracker | None, folders: Folders) -> Self:
        if tracker is None:
            return cls("", None)
        tracker.drain(PATIENCE_HERE if tracker.uri.startswith(SQLITE) else PATIENCE)
        return cls(tracker.uri, tracker.parent(folders.journal), tracker.holds)


@dataclass(frozen=True, slots=True)
class Order:
    """What to publish.

    checkpoint: of the epoch that counts; run: the study's run in MLflow, None to score only; register: the name the
    model is registered under, None to log it only; value: the goal's metric, by which a new champion must be better;
    study: the tags of its runs; alias: any other than the champion's is given to this model unconditionally; figures: the
    file that its feature maps and mistakes are saved to.
    """

    recipe: Recipe
    params: Params
    checkpoint: Path
    uri: str
    run: str | None
    goal: Goal
    value: float
    study: Mapping[str, str]
    trial: int
    epoch: int
    register: str | None = None
    alias: str = CHAMPION
    figures: Path | None = None


def begin(to_mlflow: bool) -> subprocess.Popen[bytes]:
    """A process that imports what it needs, then waits for its order; it ends when this one does."""
    code = f"import gc; gc.disable(); from hpo.publishing.publish import main; main({to_mlflow})"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**ENVIRONMENT, **os.environ, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
    )


def publish(order: Order, begun: subprocess.Popen[bytes] | None = None, timeout: float = 600.0) -> Published:
    """Score the model on the test split, log it, register it; twice is as once. begun: it waits. Raises EnvironmentFailed."""
    with begun if begun is not None and begun.poll() is None else begin(order.run is not None) as process:
        try:
            stdout, stderr = process.communicate(pickle.dumps(order), timeout)
        except subprocess.TimeoutExpired:
            raise EnvironmentFailed(_failed(f"no end after {timeout:.0f} s")) from None
        finally:
            process.kill()
    try:
        answer: dict[str, Any] = json.loads(stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        last = stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
        raise EnvironmentFailed(_failed(last[0][:300])) from None
    if "error" in answer:
        raise EnvironmentFailed(_failed(str(answer["error"])))
    return Published(**answer)


def _failed(why: str) -> Mistake:
    return Mistake("the best model", "could not be published", why, "fix it, then run the same command again")


class Publisher:
    """Has its process import torch and mlflow, 3 s of a core, while the last trials train: a listener of the driver.

    Where nobody can tell when these are, from the first report on; it goes again after KEPT seconds, for it holds 500 MB.
    """

    def __init__(self, to_mlflow: bool) -> None:
        self._to_mlflow = to_mlflow
        self._process: subprocess.Popen[bytes] | None = None
        self._begun = 0.0
        self._occasions = [may_end_soon, nearly_over]  # to begin it, each used once

    def receive(self, search: Search, event: Event) -> None:
        if self._process is not None and time.monotonic() - self._begun > KEPT:
            self.close()
        if search.study.running and (due := [one for one in self._occasions if one(search)]):
            self._occasions = [one for one in self._occasions if one not in due]
            with suppress(OSError):  # no room for it now: `publish` tries again
                self._process, self._begun = self._process or begin(self._to_mlflow), time.monotonic()

    def publish(self, study: OpenStudy, executor: Executor, place: Place) -> Published | None:
        """A model that cannot be published is said in one line: the study and its checkpoint are there."""
        try:
            return publish_best(study, executor, place, self._process)
        except HpoError as error:
            log.error("%s", error)
            return replace(DUE, said=f"{DUE.said}: {error}")

    def close(self) -> None:
        if self._process is not None:
            with self._process:
                self._process.kill()
            self._process = None


def may_end_soon(search: Search) -> bool:
    """Whether it trains, and a target, patience or the last point of the space may end it at any time."""
    budget = search.budget
    limited = budget.trials is not None or budget.total_epochs is not None
    return search.study.epochs > 0 and (search.goal.target is not None or budget.patience is not None or not limited)


def nearly_over(search: Search) -> bool:
    """Whether no more is left to begin than is being trained, or hardly any time."""
    budget, study = search.budget, search.study
    epochs, granted = budget.total_epochs, search.total_granted
    few_trials = budget.trials is not None and budget.trials - len(study) <= len(study.running)
    late = budget.time is not None and budget.time - study.active_seconds_at(time.time()) < LAST
    return few_trials or late or (epochs is not None and epochs - granted <= granted - study.epochs)


def publish_best(
    study: OpenStudy, executor: Executor, place: Place, begun: subprocess.Popen[bytes] | None = None
) -> Published | None:
    """Publish the best trial's model unless this store has it already. None where there is nothing to publish."""
    if (wanted := note_due(study)) is None:
        return None
    result, best, epoch = wanted
    last = noted(study.journal, PUBLISHED, model := about(result, best), place)
    if last is not None and study.folders.model_figures.exists():
        return last
    checkpoint = restore(study, executor, best, epoch)
    study.journal.put(PUBLISHED, json.dumps([model, asdict(DUE)]))
    return publish_trial(result, best, checkpoint, study.journal, study.search.record, place, begun)


def note_due(study: OpenStudy) -> tuple[Result, Trial, int] | None:
    """The best trial and the epoch it is read after, noted as due unless it was published; None for no model.

    Noted before MLflow is waited for: if this process ends there, `hpo sync` publishes it.
    """
    components, search = study.components, study.search
    best = search.goal.best(search.study.trials)
    if best is None or components.dataset is None or components.spec.train is not None:
        return None
    result = Result(components.spec, study.folders, search.study, components.dataset)
    key = json.loads(study.journal.get(PUBLISHED) or "[{}]")[0]
    if not (model := about(result, best)).items() <= key.items():
        study.journal.put(PUBLISHED, json.dumps([model, asdict(DUE)]))
    hit("publish.due")
    return result, best, search.goal.epoch(best)


def publish_trial(
    result: Result,
    best: Trial,
    checkpoint: Path,
    journal: Journal,
    record: Callable[[Event], object],
    place: Place,
    begun: subprocess.Popen[bytes] | None = None,
) -> Published:
    """Publish this model and note in the journal what became of it. record: takes the event of its test score."""
    epoch = result.spec.goal.epoch(best)
    order = order_for(result.spec, result.data(), result.folders, best, checkpoint, place)
    hit("publish.begin")
    published = publish(replace(order, figures=result.folders.model_figures), begun)
    hit("publish.done")
    if not result.study.tested(best.number, epoch):
        record(Scored(time.time(), best.number, dict(published.test), epoch))
    hit("publish.scored")
    note(journal, PUBLISHED, about(result, best), place, published)
    return published


def about(result: Result, best: Trial) -> dict[str, Any]:
    """Which model a note is about, and the name it was to be registered under."""
    return {"trial": best.number, "epoch": result.spec.goal.epoch(best), "register": registered(result.spec)}


def note(journal: Journal, name: str, model: Mapping[str, Any], place: Place, published: Published) -> None:
    key = {**model, "store": digest(place.uri), "run": place.run}
    journal.put(name, json.dumps([key, asdict(published)]))


def noted(journal: Journal, name: str, model: Mapping[str, Any], place: Place) -> Published | None:
    """What became of this model in this place, if that was noted and its files are still there."""
    key, published = json.loads(journal.get(name) or "[{}, {}]")
    known = {**model, "store": digest(place.uri), "run": place.run or key.get("run")}
    model_id = str(published.get("model") or "").rpartition("/")[2]
    return Published(**published) if key == known and (not model_id or place.holds(model_id)) else None


def order_for(spec: StudySpec, data: Dataset, folders: Folders, trial: Trial, checkpoint: Path, place: Place) -> Order:
    """For the study's run in MLflow, or only for the score where MLflow is off or away."""
    goal = spec.goal
    return Order(
        recipe=components.recipe(spec, data, "cpu"),
        params=trial.params,
        checkpoint=checkpoint,
        uri=place.uri,
        run=place.run,
        goal=replace(goal, epochs=(), unsafe=None),  # what counts has been decided
        value=goal.value(trial) or 0.0,
        study=study_tags(folders.name, folders.strategy, folders.seed),
        trial=trial.number,
        epoch=goal.epoch(trial),
        register=registered(spec) if place.run is not None else None,
    )


def registered(spec: StudySpec) -> str | None:
    """The name under which the best model is registered; None where it is only logged."""
    return (spec.name if spec.tracking.register is None else spec.tracking.register) or None


def about_images(data: Dataset) -> dict[str, Any]:
    """What must be known of a model's images and outputs to use the model alone."""
    of_files = data.files and data.images.dtype == np.uint8
    return {
        "classes": list(data.classes or ()),
        "shape": list(data.shape),
        "dtype": str(data.images.dtype),
        "resized": data.resize is not None,
        "background": data.background,
        "largest_pixel": WHITE if of_files else float(data.images.max()),  # tells data of 16 levels from data of 256
    }


def restore(study: OpenStudy, executor: Executor, trial: Trial, epoch: int) -> Path:
    """The checkpoint after this epoch; trained again if it has been pruned away, which costs time only.

    Raises Conflict where the user's other code, EnvironmentFailed where another version of hpo or torch trained it.
    """
    components, folders = study.components, study.folders
    code, first = str(components.numerics["user_code"]), "undo that and repeat `hpo run --accept-code`"
    refuse_other_network(study.spec, study.search.study, trial, code, first)
    path = checkpoints.path(folders.trainings, trial.training, epoch)
    if checkpoints.whole(path):
        return path
    if changes := other_versions(study.search.study, trial.training, components.numerics):
        remedy = "go back to that, or set the study aside with --fresh"
        rule = "is gone, and is made by the same versions only"
        raise EnvironmentFailed(Mistake(str(path), rule, ", ".join(changes), remedy))
    path.unlink(missing_ok=True)
    start = checkpoints.newest(folders.trainings, trial.training, epoch)
    _, seed = components.identity()(trial.params, trial.repeat)
    limits, split = components.limits(), components.numerics.get("split")
    job = Job(trial.training, trial.params, seed, start, epoch, trial.epoch, folders.trainings, limits, split)
    end = run_job(executor, job)
    if not path.exists():
        rule = "must be there to score the model"
        raise EnvironmentFailed(Mistake(str(path), rule, str(end), "run the study again"))
    return path


def run_job(executor: Executor, job: Job, on_epoch: OnEpoch = lambda report: None) -> JobEnded | JobFailed:
    """Train one job to its end, while the executor has no other."""
    executor.submit(job)
    while True:
        for message in executor.wait(None):
            if not isinstance(message, Reported):
                return message
            on_epoch(message.report)
