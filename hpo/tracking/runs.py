"""What a study and its trials look like as MLflow runs: pure functions of the events, so sending twice adds nothing.

    kind         run                          tags beside the common ones
    study        parent, one a study          hpo.state = running, or why its driver left; hpo.best_trial
    trial        child, one a trial           hpo.trial hpo.state hpo.outcome hpo.attempt hpo.diagnosis
    comparison   grandparent of the studies   hpo.state

Times are milliseconds since 1970 as MLflow has them; they come from the events, never from a clock.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hpo.core import (
    Closed,
    Ended,
    Event,
    Goal,
    Opened,
    Params,
    Report,
    Reported,
    Scored,
    State,
    Study,
    Trial,
    Value,
    digest,
)

MOST_METRICS, MOST_PARAMS, MOST_TAGS, MOST_ENTITIES = (
    1_000,
    100,
    100,
    1_000,
)  # a log_batch call (mlflow/utils/validation.py)
LONGEST_KEY, LONGEST_PARAM, LONGEST_TAG = 250, 6_000, 8_000

RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"
INTERRUPTED = "interrupted"  # hpo.state of what stopped before its end; the other values are core.State's
NOBODY = "none"  # hpo.engine.driver of a study that no process drives
PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"

Diagnose = Callable[[Sequence[Report], Params], tuple[str, str] | None]  # -> tag, sentence


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
    """One study on its way to MLflow.

    journal: where its events are. artifacts: files, and folders whose content is meant; what is missing is passed over.
    columns: parameters every trial has, for the saved views. texts: artifact name -> content, as study.yaml.
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
    diagnose: Diagnose | None = None
    comparison: ComparisonInfo | None = None

    @property
    def experiment_name(self) -> str:
        return self.experiment or self.name

    @property
    def title(self) -> str:
        return f"{self.strategy}-{self.seed}"


@dataclass(frozen=True, slots=True)
class Point:
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
class Change:
    """What brings a run up to date. status None leaves it."""

    params: Mapping[str, str] = field(default_factory=dict)
    points: Sequence[Point] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    status: str | None = None
    ended: int | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """What finds a study's runs again: hpo.journal is one for one journal, also after --fresh. user: who runs it."""

    journal: str
    user: str
    driver: str = ""  # "host:pid", so that a later driver can tell whose RUNNING runs are nobody's


def identity(feed: TrackedStudy, first: Event, user: str, driver: str) -> Identity:
    """From the first event of a journal."""
    time = first.report.time if isinstance(first, Reported) else first.time
    return Identity(digest([feed.name, feed.strategy, feed.seed, time]), user, driver)


# -- the child run of a trial ------------------------------------------------------------------------------------


def trial_run(feed: TrackedStudy, who: Identity, study: Study, trial: Trial, live: bool, parent: str) -> Run:
    """live: a driver is at work, so that what the journal calls running does run."""
    state, status = standing(trial, study, live)
    tags = {
        **common(feed, who, "trial"),
        PARENT: parent,
        "hpo.trial": str(trial.number),
        "hpo.state": state,
        "hpo.attempt": str(trial.attempt),
    }
    if trial.finished:
        tags["hpo.outcome"] = str(trial.outcome)
    notes = [trial.error] if trial.error else []
    if state != State.RUNNING and feed.diagnose is not None and (finding := feed.diagnose(trial.reports, trial.params)):
        tags["hpo.diagnosis"] = finding[0]
        notes.append(finding[1])
    if notes:
        tags[NOTE] = "\n\n".join(notes)
    tags.update(commit(study))
    return Run(
        name=f"{feed.title} trial {trial.number}",
        tags=trimmed(tags, LONGEST_TAG),
        params=trimmed({legal(name): written(value) for name, value in trial.params.items()}, LONGEST_PARAM),
        status=status,
        started=milliseconds(trial.started),
        ended=None if status == RUNNING else milliseconds(_last(trial)),
    )


def standing(trial: Trial, study: Study, live: bool) -> tuple[str, str]:
    """(hpo.state, MLflow's status). Paused is a rest, unless it is where the driver was interrupted."""
    match trial.state:
        case State.RUNNING:
            return (str(State.RUNNING), RUNNING) if live and study.closed is None else (INTERRUPTED, KILLED)
        case State.PAUSED if study.closed == INTERRUPTED and trial.epoch < trial.until:
            return INTERRUPTED, KILLED
        case State.FAILED:
            return str(State.FAILED), FAILED
        case state:
            return str(state), FINISHED


def trial_points(trial: Trial, after: int) -> list[Point]:
    """The metrics of its reports behind epoch `after`, a step an epoch."""
    return [
        Point(legal(name), finite(value), milliseconds(report.time), report.epoch)
        for report in trial.reports[after:]
        for name, value in {**report.metrics, "seconds": report.seconds}.items()
    ]


def score_points(scored: Scored, step: int) -> list[Point]:
    """What the test split said."""
    return [
        Point(legal(name), finite(value), milliseconds(scored.time), step) for name, value in scored.metrics.items()
    ]


def _last(trial: Trial) -> float:
    if trial.ended is not None:
        return trial.ended
    return trial.reports[-1].time if trial.reports else trial.started


# -- the parent run of a study -----------------------------------------------------------------------------------


class Progress:
    """What the parent shows beside the study itself: best so far against epochs spent. Fed with every applied event."""

    def __init__(self, goal: Goal) -> None:
        self.goal = goal
        self.opened: float | None = None
        self.latest = 0.0
        self.best: Trial | None = None
        self._sent: tuple[float, int] | None = None

    def take(self, event: Event, study: Study) -> list[Point]:
        """Points this event adds to the parent run; the same ones whenever these events are read again."""
        self.latest = max(self.latest, event.report.time if isinstance(event, Reported) else event.time)
        match event:
            case Opened(time=time) if self.opened is None:
                self.opened = time
            case Ended(time=time, trial=number):
                self._judge(study.trials[number])
                return self._points(time, study)
            case Closed(time=time):
                self.best = self.goal.best(study.trials)
                return self._points(time, study)
            case Scored():
                return score_points(event, study.epochs)
        return []

    def _judge(self, trial: Trial) -> None:
        """As Goal.best, one trial at a time."""
        if trial.state is not State.COMPLETE or not math.isfinite(self.goal.score(trial)[0]):
            return
        best = self.best
        if best is None or best.state is not State.COMPLETE or self._rank(trial) < self._rank(best):
            self.best = trial

    def _rank(self, trial: Trial) -> tuple[tuple[float, ...], int]:
        return self.goal.score(trial), trial.number

    def _points(self, time: float, study: Study) -> list[Point]:
        if self.best is None or (value := self.goal.value(self.best)) is None or self._sent == (value, study.epochs):
            return []
        self._sent = value, study.epochs
        return [Point(legal(f"best_{self.goal.metric}"), finite(value), milliseconds(time), study.epochs)]


def study_run(
    feed: TrackedStudy, who: Identity, study: Study, progress: Progress, live: bool, parent: str | None
) -> Run:
    """parent: the run of the comparison this study belongs to."""
    going = live and study.closed is None
    state = str(State.RUNNING) if going else study.closed or INTERRUPTED
    tags = {
        **common(feed, who, "study"),
        "hpo.state": state,
        "hpo.engine.driver": who.driver if going else NOBODY,
        NOTE: note(feed, study, progress),
    }
    if progress.best is not None:
        tags["hpo.best_trial"] = str(progress.best.number)
    if parent is not None:
        tags[PARENT] = parent
    tags.update(commit(study))
    started = progress.opened if progress.opened is not None else progress.latest
    return Run(
        name=feed.title,
        tags=trimmed(tags, LONGEST_TAG),
        params={},
        status=RUNNING if going else {INTERRUPTED: KILLED, "failing": FAILED}.get(state, FINISHED),
        started=milliseconds(started),
        ended=None if going else milliseconds(progress.latest),
    )


def note(feed: TrackedStudy, study: Study, progress: Progress) -> str:
    """Markdown for the parent run's page."""
    counts = {state: len(study.with_state(state)) for state in State}
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    lines = [f"{len(study)} trials ({said or 'none yet'}), {study.epochs} epochs."]
    if study.closed is not None:
        lines[0] += f" Stopped by: {study.closed}."
    best = progress.best
    if best is not None and (reading := feed.goal.reading(best)) is not None:
        value = feed.goal.value(best)
        scores = [scored.metrics for scored in study.scores if scored.trial == best.number]
        test = [f"{name} {number:.4g}" for metrics in scores for name, number in metrics.items()]
        lines.append(f"**Best: trial {best.number}**, {feed.goal.metric} **{value:.4g}** at epoch {reading.epoch}")
        lines[-1] += f" (tested: {', '.join(test)})" if test else ""
        rows = [f"| {name} | {cell(value)} |" for name, value in best.params.items()]
        lines.append("\n".join(["| parameter | value |", "|---|---|", *rows]))
    if feed.registered and study.scores:
        lines.append(f"Best model: `models:/{feed.registered}@champion`")
    return "\n\n".join(lines)


def group_run(
    feed: TrackedStudy, info: ComparisonInfo, who: Identity, statuses: Collection[str], started: float, ended: float
) -> Run:
    """The grandparent; as bad as its worst study. Times in seconds."""
    worst = next((status for status in (RUNNING, KILLED, FAILED) if status in statuses), FINISHED)
    tags = common(feed, replace(who, journal=info.journal), "comparison")
    tags = {name: text for name, text in tags.items() if name not in ("hpo.strategy", "hpo.seed")}
    tags["hpo.state"] = {RUNNING: str(State.RUNNING), KILLED: INTERRUPTED}.get(worst, worst.lower())
    tags["hpo.engine.driver"] = who.driver if worst == RUNNING else NOBODY
    end = None if worst == RUNNING else milliseconds(ended)
    return Run(info.title, trimmed(tags, LONGEST_TAG), {}, worst, milliseconds(started), end)


# -- small print -------------------------------------------------------------------------------------------------


def common(feed: TrackedStudy, who: Identity, kind: str) -> dict[str, str]:
    return {
        "hpo.kind": kind,
        "hpo.study": feed.name,
        "hpo.strategy": feed.strategy,
        "hpo.seed": str(feed.seed),
        "hpo.journal": who.journal,
        "mlflow.user": who.user,
        "mlflow.source.name": feed.source,
        "mlflow.source.type": "LOCAL",
    }


def commit(study: Study) -> dict[str, str]:
    """The commit the last driver ran from, where it is known."""
    found = study.environments[-1].get("commit") if study.environments else None
    return {"mlflow.source.git.commit": str(found)} if found else {}


def milliseconds(seconds: float) -> int:
    return round(seconds * 1_000)


def finite(value: float) -> float:
    """MLflow stores an infinity as 1.8e308, which flattens every chart it is in; not a number leaves a gap."""
    number = float(value)
    return number if math.isfinite(number) else math.nan


def written(value: Value) -> str:
    return str(value)


def cell(value: Value) -> str:
    return written(value).replace("|", "\\|").replace("\n", " ")


def legal(name: str) -> str:
    """A name MLflow takes for a param or metric; one that had to be changed ends in digits that keep it distinct."""
    bad = re.sub(r"[^\w.\- :/]", "_", name)
    if posixpath.normpath(bad) != bad or bad.startswith(("/", "..")) or bad == ".":
        bad = re.sub(r"^\.*$|^\.+|/", "_", bad)
    if bad == name and len(name) <= LONGEST_KEY:
        return name
    return f"{bad[: LONGEST_KEY - 8]}-{digest(name)[:6]}"


def trimmed(texts: Mapping[str, str], longest: int) -> dict[str, str]:
    """No text longer than MLflow keeps; one that was cut says so."""
    return {name: text if len(text) <= longest else cut(text, longest) for name, text in texts.items()}


def cut(text: str, longest: int) -> str:
    end = f" ... ({len(text)} characters)"
    return text[: longest - len(end)] + end
