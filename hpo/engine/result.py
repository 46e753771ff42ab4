"""The result of a study, for use in Python; and what there is of all studies of a name."""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.core import Goal, Reason, Study, Trial
from hpo.data.dataset import Dataset, kept
from hpo.engine.changes import other_versions, refuse_other_network, stored_data
from hpo.errors import BadInput, Conflict, EnvironmentFailed, Mistake, NoResult
from hpo.files import Folders, holder_of
from hpo.formatting import count, decimals, ending, listed, read_at
from hpo.journal import Journal, read_events
from hpo.models import families
from hpo.space.space import Space
from hpo.strategies.points import UNNAMED
from hpo.study_file.spec import STRATEGIES, TPE, StudySpec
from hpo.training import checkpoints
from hpo.training.diagnosis import diagnosis_of

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

    from hpo.report.document import StudyReport
    from hpo.training.evaluation import RawInputs

log = logging.getLogger(__name__)

FLAGS = {"strategy": "--strategy", "seed": "--seed"}  # of every verb
RUN_FLAGS = {**FLAGS, "budget.time": "--time", "workers": "--workers", "device": "--device"}
GROWING = ("constraints", "start_with")  # what is read of a study does not depend on them
PUBLISHED = "published"  # the journal's note of what was published last
COUNTED = "counted"  # its note of the epochs that ever counted
TIMES = ("seconds", "started", "ended")
COLUMNS = ("trial", "state", "outcome", "value", "counts", "epochs", "until", *TIMES, "attempt", "repeat")


@dataclass(frozen=True, slots=True)
class Published:
    """What became of the best model. test: metrics named test_*; failed: the same command tries it again."""

    test: Mapping[str, float] = field(default_factory=dict)
    model: str | None = None  # models:/m-...
    version: str | None = None
    champion: bool = False
    said: str = ""
    failed: bool = False


@dataclass(frozen=True, repr=False)
class Result:
    """A study as it is stored. `trials` is a DataFrame, `best` the best trial, `predict(images)` what its network says."""

    spec: StudySpec
    folders: Folders
    study: Study
    dataset: Dataset | None
    stopped_by: int = 0  # the signal that ended the run before its time
    published: Published | None = None
    undelivered: int = 0  # what MLflow has not got yet
    ui: str = ""  # the address of MLflow's UI on this study, "" where `hpo ui` serves it

    def __repr__(self) -> str:
        """Two lines, for a notebook."""
        spec, study, best = self.spec, self.study, self.spec.goal.best(self.study.trials)
        head = f"{spec.name} ({spec.strategy}, seed {spec.seed}): "
        head += f"{ending(study.closed, spec.space.enumerable)}; " if study.closed else ""
        head += f"{count(len(study), 'trial')}, {count(study.epochs, 'epoch')}"
        line = "none"
        if best is not None:
            line = f"trial {best.number}, {spec.metric.name} {decimals(self.best_value)}{read_at(best, spec.goal)}"
        return f"{head}\nbest: {line}   (.best, .trials, .test, .model(), .predict(images))"

    def _repr_html_(self) -> str:
        """For a notebook: the best trials and the best so far; it loads nothing."""
        from hpo.report.page import inset

        best = [trial.number for trial in self.spec.goal.ranked(self.study.trials)[:8]]
        table = self.trials.filter(regex=r"^(trial|value|epochs|params\..*)$").set_index("trial", drop=False).loc[best]
        drawn = study_report(self.spec, self.folders, self.study, {}).pictures()
        return inset(repr(self), table.to_html(index=False, na_rep=""), drawn[:1] if best else [])

    @property
    def best(self) -> Trial:
        """Raises NoResult where no trial has a score."""
        best = self.spec.goal.best(self.study.trials)
        if best is None:
            none = f"no trial has a {self.spec.metric.name}; see `hpo status`"
            raise NoResult(f"{self.folders.run}: {none}")
        return best

    def trial(self, number: int) -> Trial:
        """Raises BadInput for a number no trial has."""
        trials = self.study.trials
        if not 0 <= number < len(trials):
            rule, there = "there must be a trial of that number", f"0 to {len(trials) - 1}" if trials else "none yet"
            raise BadInput(Mistake(str(self.folders.run), rule, str(number), f"trials: {there}"))
        return trials[number]

    def outdated(self, trial: Trial) -> bool:
        """Whether other code of the user's, or another version, began this trial than would go on with it."""
        return bool(other_versions(self.study, trial.training, self.study.environments[-1]))

    @property
    def test(self) -> Mapping[str, float]:
        """What the best trial scored on the test split, if that was read for it."""
        return self.study.tested(self.best.number, self.spec.goal.epoch(self.best))

    @property
    def best_value(self) -> float:
        value = self.spec.goal.value(self.best)
        assert value is not None
        return value

    @cached_property
    def trials(self) -> pd.DataFrame:
        """One row a trial: its params, its state and outcome, its metrics."""
        return trials_table(self.study, self.spec.goal)

    def figure(self, name: str) -> Figure:
        """A figure of the report as the study is now. Raises BadInput with the names of all for another name."""
        drawn = {picture.name: picture for picture in study_report(self.spec, self.folders, self.study, {}).pictures()}
        if name not in drawn:
            place, there = f"{self.folders.run.name}: figure", listed([*drawn]) or "none yet"
            raise BadInput(Mistake(place, "must be a figure of the report", name, f"there are: {there}"))
        return drawn[name].figure()

    def checkpoint(self, trial: Trial | None = None) -> Path:
        """Where the state of a trial at the epoch that counts is. Raises NoResult where it has been pruned away."""
        trial = trial or self.best
        path = checkpoints.path(self.folders.trainings, trial.training, self.spec.goal.epoch(trial))
        if not path.exists():
            remedy = f"`hpo reproduce {trial.number}` trains it again and puts it back"
            raise NoResult(f"{path}: the checkpoint of trial {trial.number} is gone; {remedy}")
        return path

    def refuse_other_code(self, trial: Trial, first: str = "undo that") -> None:
        """Raises Conflict where the user's own code is not the one that trained this trial. first: what to do."""
        from hpo.engine import components

        refuse_other_network(self.spec, self.study, trial, components.user_code(self.spec), first)

    def data(self) -> Dataset:
        """What the networks are trained on. Raises BadInput where a trainer of one's own has its data for itself."""
        spec = self.spec
        if spec.train is not None or spec.data is None:
            rule = "a study with a trainer of its own has no network that hpo knows"
            raise BadInput(Mistake(spec.place("train"), rule, str(spec.train), "predict in your own code"))
        assert self._stored is not None, "the study names its data"
        return self._stored

    @cached_property
    def _stored(self) -> Dataset | None:
        return self.dataset or stored_data(self.spec, self.folders, self.study)

    def model(self, trial: Trial | None = None) -> RawInputs:
        """The network of a trial (the best by default), in eval mode, as the champion is published.

        It takes raw pixels (N, C, H, W) as the data set stores them and returns probabilities, or numbers; `.network`
        in it takes standardized ones and returns logits. Raises BadInput where hpo has no network.
        """
        trial, data = trial or self.best, self.data()
        self.refuse_other_code(trial)
        checkpoint = self.checkpoint(trial)
        from hpo.engine import components
        from hpo.training.evaluation import RawInputs, load_network

        network = load_network(components.recipe(self.spec, data, "cpu").setup(), trial.params, checkpoint)
        return RawInputs(network, data).eval()

    def predict(self, images: np.ndarray[Any, Any], trial: Trial | None = None) -> np.ndarray[Any, Any]:
        """Probabilities (N, classes), or numbers (N, K), for raw pixels on the scale of the data set's. Raises BadInput.

        images: (N, C, H, W), (N, H, W, C), (N, H, W), flat features, or one image.
        """
        from hpo.training.evaluation import as_stored, predictions

        return predictions(self.model(trial), as_stored(images, self.data()))


def learned(spec: StudySpec, folders: Folders, study: Study) -> str:
    """What the search has learned of its prior, in a sentence that follows from the study's events; "" for nothing."""
    from hpo.engine.components import Components  # with the next two 0.3 s, which `hpo status` does without
    from hpo.strategies import prior
    from hpo.strategies.surrogate import Surrogate

    began = study.environments[-1] if study.environments else {}
    path, data = folders.study / "priors" / f"{began.get('prior')}.npz", kept(str(began.get("data")), folders.data)
    if data is None or spec.data is None or not path.exists():
        return ""
    with suppress(EnvironmentFailed):  # a prior that is damaged: the next run says so
        known = prior.load(path, prior.LEFT_OUT.get(spec.data.source, prior.WHOLE), path.stem)
        return Surrogate(Components(spec, data, [], {}, known).problem(), known).learned(study)
    return ""


def study_report(
    spec: StudySpec, folders: Folders, study: Study, facts: Mapping[str, str], drawn: Mapping[str, str] | None = None
) -> StudyReport:
    """What the report is made from. facts: what the study is about; drawn: as SVG, by name, what is drawn already."""
    from hpo.report.document import StudyReport  # matplotlib: 0.6 s
    from hpo.report.figures import ModelFigures

    return StudyReport(
        name=spec.name,
        strategy=spec.strategy,
        seed=spec.seed,
        goal=spec.goal,
        space=spec.space,
        events=read_events(folders.journal),
        facts=facts,
        diagnoses=diagnoses(study),
        known=families.known(spec.model, spec.train),
        model=ModelFigures.open(folders.model_figures),
        learned=partial(learned, spec, folders, study),
        drawn=drawn or {},
    )


def diagnoses(study: Study) -> dict[int, str]:
    """What is to be said of each trial that has trained or failed, in a sentence."""
    found = {trial.number: diagnosis_of(trial) for trial in study.trials}
    return {number: diagnosis.sentence for number, diagnosis in found.items() if diagnosis is not None}


def trials_table(study: Study, goal: Goal) -> pd.DataFrame:
    """One row a trial, in their order, its columns named as MLflow names them.

    value: the metric that counts, or (counts: False) the last as long as none does; epochs: trained so far; seconds: of
    training; started, ended: UTC; params.* as they were tried, empty where a parameter did not exist; metrics.*: of the
    epoch that `value` is of; error: of a failed trial.
    """
    import pandas as pd  # takes 0.4 s that a run should not wait for

    said = diagnoses(study)
    rows = [_row(trial, goal, said.get(trial.number, "")) for trial in study.trials]
    params = sorted({f"params.{name}" for trial in study.trials for name in trial.params})
    metrics = sorted({name for row in rows for name in row if name.startswith("metrics.")})
    table = pd.DataFrame(rows, columns=[*COLUMNS, *params, *metrics, "diagnosis", "error", "training"])
    for name in params:  # whole numbers and booleans stay what they are where other trials have no such parameter
        kinds = {type(row[name]) for row in rows if name in row}
        for kind, dtype in ((int, "Int64"), (bool, "boolean")):
            if kinds == {kind}:
                table[name] = pd.Series([row.get(name) for row in rows], dtype=dtype)
    for name in ("started", "ended"):
        table[name] = pd.to_datetime(table[name], unit="s", utc=True)
    return table.astype({"value": "float64", "seconds": "float64"})


def _row(trial: Trial, goal: Goal, diagnosis: str) -> dict[str, object]:
    reading = goal.reading(trial)
    return {
        "trial": trial.number,
        "state": trial.state.value,
        "outcome": trial.outcome.value,
        "value": goal.value(trial),
        "counts": bool(goal.counted(trial)),
        "epochs": trial.epoch,
        "until": trial.until,
        "seconds": sum(report.seconds for report in trial.reports),
        "started": trial.started,
        "ended": trial.ended,
        "attempt": trial.attempt,
        "repeat": trial.repeat,
        **{f"params.{name}": value for name, value in trial.params.items()},
        **{f"metrics.{name}": value for name, value in (reading.metrics if reading else {}).items()},
        "diagnosis": diagnosis,
        "error": trial.error,
        "training": trial.training,
    }


def read_result(spec: StudySpec, state: Path) -> Result:
    """A study as its journal has it. Raises NoResult before its first run."""
    folders = Folders(state, spec.name, spec.strategy, spec.seed)
    if not folders.journal.exists():
        raise NoResult(f"{folders.run}: this study has not been run; `{command('run', spec, state)}` begins it")
    with Journal.open(folders.journal, read_only=True) as journal:
        study, note = journal.study(), journal.get(PUBLISHED)
        spec = as_counted(as_run(spec, folders, journal), journal)
    best, (key, published) = spec.goal.best(study.trials), json.loads(note or "[{}, {}]")
    current = best and (key.get("trial"), key.get("epoch")) == (best.number, spec.goal.epoch(best))
    return Result(spec, folders, study, None, published=Published(**published) if current else None)


def as_counted(spec: StudySpec, journal: Journal) -> StudySpec:
    """With the epochs that ever counted in this study, so that a change of `epochs` makes no best worse."""
    return replace(spec, counted=json.loads(journal.get(COUNTED) or "[]"))


def as_run(spec: StudySpec, folders: Folders, journal: Journal) -> StudySpec:
    """The spec with the search space of the study's last run, as what counts depends on it. Warns where they differ."""
    both = json.loads(journal.get("study") or "{}"), json.loads(json.dumps(spec.fixed()))
    before, now = ({"precision": "fp32", **one} for one in both)
    file_space = json.dumps(spec.space.record())
    space = json.loads(journal.get("space") or file_space)
    if space != json.loads(file_space):
        log.warning("%s: read with the search space of its last run, which is another than the file's", folders.run)
    if other := [key for key in before if key in now and key not in GROWING and before[key] != now[key]]:
        flags = "repeat the flags of the run, or undo the change of the file"
        log.warning("%s: was last run with another %s; %s", folders.run, listed(other), flags)
    return replace(spec, space=Space.from_record(space))


def command(verb: str, spec: StudySpec, state: Path | None = None) -> str:
    """What to type in a shell for a verb on this very study: its file, and the flags that made it another one."""
    words = ["hpo", verb, *([str(spec.path)] if spec.path is not None else [])]
    flags, sets = RUN_FLAGS if verb == "run" else FLAGS, [flag.partition("=")[::2] for flag in spec.sets]
    for key, value in {**dict(sets), **({"seed": str(spec.seed)} if spec.seed else {})}.items():
        words += [flags[key], value] if key in flags else ["--set", f"{key}={value}"]
    if state is not None and state != (spec.path.absolute().parent if spec.path is not None else Path.cwd()):
        words += ["--state", str(state)]
    return shlex.join(words)


# -- all studies of a name

Filter = tuple[str | None, int | None]  # strategy, seed; None is any


@dataclass(frozen=True)
class StudyStatus:
    """One study of a name. driver: "pid 12 on host", "" where none is running."""

    folders: Folders
    study: Study
    driver: str
    goal: Goal

    @property
    def state(self) -> Reason | str:
        """Why it ended, or that it is running."""
        return "running" if self.driver else self.study.closed or Reason.INTERRUPTED


def studies_of(state: Path, name: str) -> list[Folders]:
    """Every study of a name, by strategy and seed; another folder with a journal, as random-0.bak, is skipped with a line."""
    studies = []
    for journal in sorted((state / "studies" / name).glob("*/journal.db")):
        strategy, _, seed = journal.parent.name.rpartition("-")
        own = Folders(state, name, strategy, int(seed) if seed.isdecimal() else 0)
        if own.journal == journal and strategy in (*STRATEGIES, TPE, *UNNAMED):
            studies.append(own)
        else:
            log.warning("%s: skipped, because no study has a folder of this name", journal.parent)
    return studies


def statuses(spec: StudySpec, state: Path, only: Filter = (None, None)) -> list[StudyStatus]:
    """Every study of this name; only: one strategy, with what a comparison made of it, or one seed. Raises NoResult."""
    studies = []
    for folders in studies_of(state, spec.name):
        own = (None, folders.strategy, folders.strategy.removesuffix("-asha"))  # the last as a comparison calls it
        if only[0] not in own or only[1] not in (None, folders.seed):
            continue
        holder = holder_of(folders.lock)
        driver = f"pid {holder.get('pid')} on {holder.get('host')}" if holder else ""
        try:
            with Journal.open(folders.journal, read_only=True) as journal:
                studies.append(StudyStatus(folders, journal.study(), driver, as_counted(spec, journal).goal))
        except EnvironmentFailed as error:
            log.warning("%s; skipped", error)
    if not studies:
        which = " and ".join(f"{k} {v}" for k, v in zip(("strategy", "seed"), only, strict=True) if v is not None)
        place = state / "studies" / spec.name
        none = f"no study of {which or 'this name'} has been run"
        raise NoResult(f"{place}: {none}; `{command('run', spec, state)}` begins one")
    return studies


def stop_driver(spec: StudySpec, state: Path) -> str:
    """Send the driver of a study what Ctrl-C would; returns a line that says so. Raises Conflict for another machine's."""
    folders = Folders(state, spec.name, spec.strategy, spec.seed)
    holder = holder_of(folders.lock)
    if holder is None:
        return f"{folders.run.name}: not running"
    if holder.get("host") != socket.gethostname():
        rule = "can be stopped only on the machine that its driver runs on"
        raise Conflict(Mistake(str(folders.run), rule, str(holder.get("host")), "run `hpo stop` there"))
    os.kill(int(holder["pid"]), signal.SIGINT)
    return f"{folders.run.name}: asked pid {holder['pid']} to finish its epochs and pause"
