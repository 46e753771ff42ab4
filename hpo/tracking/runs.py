"""What a study and its trials look like as MLflow runs: pure functions of the events, so sending twice adds nothing.

    kind         run                          tags beside the common ones
    study        parent, one a study          hpo.state = running, or why its driver left; hpo.best_trial; what was
                                              known before: hpo.prior, hpo.known, hpo.engine; hpo.learned
    trial        child, one a trial           hpo.trial hpo.state hpo.outcome hpo.attempt hpo.diagnosis hpo.log
                                              hpo.epoch, that it is ranked by; the value there is its metric best_...
    comparison   grandparent of the studies   hpo.state

Times are milliseconds since 1970 as MLflow has them; they come from the events, never from a clock.
"""

import getpass
import math
import os
import posixpath
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hpo.core import BestSoFar, Closed, Ended, Event, Goal, Report, Reported, Scored, State, Study, Trial, digest
from hpo.formatting import count, finite, read_at
from hpo.training.diagnosis import diagnosis_of

LONGEST_KEY, LONGEST_PARAM, LONGEST_TAG = 250, 6_000, 8_000  # characters (mlflow/utils/validation.py)

RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"
INTERRUPTED = "interrupted"  # hpo.state of what stopped before its end; the other values are core.State's
NO_DRIVER = "none"  # hpo.driver of a study that no process drives
DRIVER = "hpo.driver"
PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"


def user_name() -> str:
    """Who runs this; a container may know no name."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


@dataclass(frozen=True, slots=True)
class ComparisonInfo:
    """A comparison: the grandparent of its studies' runs. key: the same whenever this comparison is run again."""

    key: str
    title: str
    artifacts: tuple[Path, ...] = ()

    @property
    def journal(self) -> str:
        """Its hpo.journal: what finds it again."""
        return digest(["group", self.key])


@dataclass(frozen=True, slots=True)
class TrackedStudy:
    """A study that is sent to MLflow.

    journal: where its events are. artifacts: files, and folders of files; missing ones are passed over.
    columns: parameters every trial has, for the saved views. texts: artifact name -> content, as study.yaml.
    driver: "host:pid" of the process that sends it, so that a later one can tell when it is gone.
    """

    journal: Path
    name: str
    strategy: str
    seed: int
    goal: Goal
    texts: Mapping[str, str] = field(default_factory=dict)
    artifacts: tuple[Path, ...] = ()
    columns: tuple[str, ...] = ()
    experiment: str | None = None  # the study's name if None
    source: str = "study.yaml"
    registered: str | None = None  # name the best model is registered under
    comparison: ComparisonInfo | None = None
    learned: Callable[[Study], str] = lambda study: ""  # what the search has learned of its prior
    user: str = field(default_factory=user_name)
    driver: str = field(default_factory=lambda: f"{os.uname().nodename}:{os.getpid()}")

    @property
    def experiment_name(self) -> str:
        return self.experiment or self.name

    @property
    def title(self) -> str:
        return f"{self.strategy}-{self.seed}"


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """One value of a metric; the four together are its identity in MLflow."""

    name: str
    value: float
    time: int
    step: int


@dataclass(frozen=True, slots=True)
class Run:
    """How a run should look now, but for its metrics."""

    name: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    status: str
    started: int
    ended: int | None


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run as it is in MLflow. epochs: those whose metrics this process knows to be there."""

    id: str
    tags: Mapping[str, str]
    params: Mapping[str, str] = field(default_factory=dict)
    status: str = RUNNING
    ended: int | None = None
    deleted: bool = False
    epochs: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """What brings a run up to date. status None leaves it."""

    params: Mapping[str, str] = field(default_factory=dict)
    points: Sequence[MetricPoint] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    status: str | None = None
    ended: int | None = None


def difference(stored: StoredRun, run: Run, points: Sequence[MetricPoint]) -> Change:
    """What the stored run lacks; points are not compared, because MLflow takes each of them only once."""
    same = stored.status == run.status and run.ended in (None, stored.ended)
    return Change(
        params=dict(run.params.items() - stored.params.items()),
        points=points,
        tags=dict(run.tags.items() - stored.tags.items()),
        status=None if same else run.status,
        ended=run.ended,
    )


class History:
    """The events of a study so far, with what its runs show beside the study itself."""

    def __init__(self, tracked: TrackedStudy) -> None:
        self.tracked, self.study = tracked, Study()
        self.best_so_far = BestSoFar(self.study, tracked.goal)
        self.journal = ""  # hpo.journal, which finds the runs again; another one after --fresh
        self.started = self.latest = 0.0
        self.scores: dict[int, list[MetricPoint]] = {}  # trial -> what the test split said
        self._charted: tuple[float, int] | None = None
        self._closed = False

    def apply(self, event: Event) -> list[MetricPoint]:
        """Take in one event; returns the points that it adds to the study's own run."""
        self.study.apply(event)
        self.best_so_far.follow(event)
        self._closed |= isinstance(event, Closed)
        time = event.report.time if isinstance(event, Reported) else event.time
        if not self.journal:
            self.journal = digest([self.tracked.name, self.tracked.strategy, self.tracked.seed, time])
            self.started = time
        self.latest = max(self.latest, time)
        if isinstance(event, Scored):
            step = event.epoch or self.study.trials[event.trial].epoch
            self.scores.setdefault(event.trial, []).extend(score_points(event, step))
            return score_points(event, self.study.epochs)
        return self._best_points(time, isinstance(event, Ended | Closed))

    @property
    def best(self) -> Trial | None:
        """While nothing counts, that of a study that has once been closed is the best of the longest trained."""
        return self.best_so_far.trial or (self.tracked.goal.best(self.study.trials) if self._closed else None)

    def _best_points(self, time: float, always: bool) -> list[MetricPoint]:
        """The curve of the best: a point for each new value, and for each trial that ended."""
        epochs, goal, best = self.study.epochs, self.tracked.goal, self.best_so_far.trial
        if best is None or (value := goal.value(best)) is None:
            return []
        before = self._charted
        if before == (value, epochs) or not (always or before is None or before[0] != value):
            return []
        self._charted = value, epochs
        return [MetricPoint(best_of(goal), finite(value), milliseconds(time), epochs)]


# -- the child run of a trial ------------------------------------------------------------------------------------


def trial_run(history: History, trial: Trial, live: bool, parent: str) -> Run:
    """live: a driver is at work, so that what the journal calls running does run."""
    tracked = history.tracked
    state, status = trial_status(trial, history.study, live)
    tags = {
        **common_tags(history, "trial"),
        PARENT: parent,
        "hpo.trial": str(trial.number),
        "hpo.state": state,
        "hpo.attempt": str(trial.attempt),
    }
    if trial.finished:
        tags["hpo.outcome"] = str(trial.outcome)
    if (judged := judged_by(trial, tracked.goal)) is not None:
        tags["hpo.epoch"] = str(judged.epoch)
    last = max([trial.started, *(report.time for report in trial.reports[-1:])])  # one that is reused may be older
    said = diagnosis_of(trial) if state != State.RUNNING else None
    tags["hpo.diagnosis"] = said.tag if said else ""  # of a trial that goes on, what was said is no longer so
    tags[NOTE] = "\n\n".join(filter(None, [trial.error, said.sentence if said else ""]))
    return Run(
        name=f"{tracked.title} trial {trial.number}",
        tags=trimmed(tags, LONGEST_TAG),
        params=trimmed({legal(name): str(value) for name, value in trial.params.items()}, LONGEST_PARAM),
        status=status,
        started=milliseconds(trial.started),
        ended=None if status == RUNNING else milliseconds(last if trial.ended is None else trial.ended),
    )


def trial_status(trial: Trial, study: Study, live: bool) -> tuple[str, str]:
    """(hpo.state, MLflow's status). A paused trial is finished for MLflow, unless it was interrupted."""
    match trial.state:
        case State.RUNNING:
            return (str(State.RUNNING), RUNNING) if live and study.closed is None else (INTERRUPTED, KILLED)
        case State.PAUSED if study.closed == INTERRUPTED and trial.epoch < trial.until:
            return INTERRUPTED, KILLED
        case State.FAILED:
            return str(State.FAILED), FAILED
        case state:
            return str(state), FINISHED


def judged_by(trial: Trial, goal: Goal) -> Report | None:
    """The report that a trial is ranked by; None while it has none that counts."""
    reading = goal.reading(trial) if goal.counted(trial) else None
    return reading if reading is not None and math.isfinite(goal.cost(reading)) else None


def trial_points(trial: Trial, goal: Goal, after: int) -> list[MetricPoint]:
    """The metrics of its reports behind epoch `after`, a step an epoch, and what it is ranked by after each."""
    points, judged = list[MetricPoint](), judged_by(replace(trial, state=State.RUNNING), goal)
    for report in trial.reports[after:]:
        then = judged_by(replace(trial, reports=trial.reports[: report.epoch], state=State.RUNNING), goal)
        best = {} if then is None else {best_of(goal): then.metrics[goal.metric]}
        metrics, time = {**report.metrics, "seconds": report.seconds, **best}, milliseconds(report.time)
        points += [MetricPoint(legal(name), finite(value), time, report.epoch) for name, value in metrics.items()]
    if (last := judged_by(trial, goal)) not in (None, judged):  # one that counts because the trial is complete
        time = milliseconds(trial.ended or trial.reports[-1].time)
        points.append(MetricPoint(best_of(goal), last.metrics[goal.metric], time, trial.epoch))
    return points


def score_points(scored: Scored, step: int) -> list[MetricPoint]:
    time = milliseconds(scored.time)
    return [MetricPoint(legal(name), finite(value), time, step) for name, value in scored.metrics.items()]


# -- the parent run of a study, and the grandparent of a comparison ----------------------------------------------


def study_run(history: History, live: bool, comparison: str | None) -> Run:
    """comparison: the run of the comparison this study belongs to."""
    study = history.study
    running = live and study.closed is None
    state = str(State.RUNNING) if running else study.closed or INTERRUPTED
    tags = {
        **common_tags(history, "study"),
        "hpo.state": state,
        DRIVER: history.tracked.driver if running else NO_DRIVER,
        NOTE: note(history),
    }
    before = study.environments[-1] if study.environments else {}
    tags |= {f"hpo.{name}": str(before[name]) for name in ("prior", "engine", "known") if name in before}
    if study.closed is not None and (learned := history.tracked.learned(study)):
        tags["hpo.learned"] = learned
    if history.best is not None:
        tags["hpo.best_trial"] = str(history.best.number)
    if comparison is not None:
        tags[PARENT] = comparison
    return Run(
        name=history.tracked.title,
        tags=trimmed(tags, LONGEST_TAG),
        params={},
        status=RUNNING if running else {INTERRUPTED: KILLED, "failing": FAILED}.get(state, FINISHED),
        started=milliseconds(history.started),
        ended=None if running else milliseconds(history.latest),
    )


def note(history: History) -> str:
    """Markdown for the page of the study's run."""
    study, goal, best = history.study, history.tracked.goal, history.best
    counts = {state: len(study.with_state(state)) for state in State}
    states = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    lines = [f"{count(len(study), 'trial')} ({states or 'none yet'}), {count(study.epochs, 'epoch')}."]
    if study.closed is not None:
        lines[0] += f" Stopped by: {study.closed}."
    if best is not None:
        test = ", ".join(f"{name} {value:.4g}" for name, value in study.tested(best.number, goal.epoch(best)).items())
        read = f"**{goal.value(best):.4g}**{read_at(best, goal)}"
        lines.append(f"**Best: trial {best.number}**, {goal.metric} {read}{f' (tested: {test})' if test else ''}")
        cells = {name: str(value).replace("|", "\\|").replace("\n", " ") for name, value in best.params.items()}
        rows = [f"| {name} | {cell} |" for name, cell in cells.items()]
        lines.append("\n".join(["| parameter | value |", "|---|---|", *rows]))
    if history.tracked.registered and study.scores:
        lines.append(f"Best model: `models:/{history.tracked.registered}@champion`")
    return "\n\n".join(lines)


def comparison_run(info: ComparisonInfo, histories: Sequence[History], statuses: Collection[str]) -> Run:
    """Its status is the worst among its studies' statuses."""
    worst = next((status for status in (RUNNING, KILLED, FAILED) if status in statuses), FINISHED)
    tags = common_tags(histories[0], "comparison")
    tags = {name: text for name, text in tags.items() if name not in ("hpo.strategy", "hpo.seed")}
    tags["hpo.journal"] = info.journal
    tags["hpo.state"] = {RUNNING: str(State.RUNNING), KILLED: INTERRUPTED}.get(worst, worst.lower())
    tags[DRIVER] = histories[0].tracked.driver if worst == RUNNING else NO_DRIVER
    started, ended = min(one.started for one in histories), max(one.latest for one in histories)
    end = None if worst == RUNNING else milliseconds(ended)
    return Run(info.title, trimmed(tags, LONGEST_TAG), {}, worst, milliseconds(started), end)


def common_tags(history: History, kind: str) -> dict[str, str]:
    tracked, environments = history.tracked, history.study.environments
    now = environments[-1] if environments else {}
    found = {"mlflow.source.git.commit": now.get("commit"), "hpo.precision": now.get("precision")}
    return {
        "hpo.kind": kind,
        **study_tags(tracked.name, tracked.strategy, tracked.seed),
        "hpo.journal": history.journal,
        "mlflow.user": tracked.user,
        "mlflow.source.name": tracked.source,
        "mlflow.source.type": "LOCAL",
    } | {tag: str(value) for tag, value in found.items() if value}


def study_tags(name: str, strategy: str, seed: int) -> dict[str, str]:
    """Which study something in MLflow is of: a run, a logged model, a version of a registered one."""
    return {"hpo.study": name, "hpo.strategy": strategy, "hpo.seed": str(seed)}


def milliseconds(seconds: float) -> int:
    return round(seconds * 1_000)


def legal(name: str) -> str:
    """A name MLflow takes for a param or metric; one that had to be changed ends in digits that keep it distinct."""
    legalized = re.sub(r"[^\w.\- :/]", "_", name)
    if posixpath.normpath(legalized) != legalized or legalized.startswith(("/", "..")) or legalized == ".":
        legalized = re.sub(r"^\.*$|^\.+|/", "_", legalized)
    if legalized == name and len(name) <= LONGEST_KEY:
        return name
    return f"{legalized[: LONGEST_KEY - 8]}-{digest(name)[:6]}"


def best_of(goal: Goal) -> str:
    """The metric by which trials and studies are ranked."""
    return legal(f"best_{goal.metric}")


def trimmed(texts: Mapping[str, str], longest: int) -> dict[str, str]:
    """No text longer than MLflow keeps; one that was cut says so."""
    ends = {name: f" ... ({len(text)} characters)" for name, text in texts.items() if len(text) > longest}
    return {**texts, **{name: texts[name][: longest - len(end)] + end for name, end in ends.items()}}
