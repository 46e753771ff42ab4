"""What a study came to, as lines for a terminal and as JSON: after a run, and for status, show and best at any time."""

import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.live import Live
from rich.markup import escape
from rich.table import Table

from hpo.cli.console import BEST, Terminal, Utilization, shown, sparkline, varying
from hpo.core import Reason, State, Trial
from hpo.data.dataset import Dataset
from hpo.engine.changes import allowed, warn_of_other_files
from hpo.engine.result import Filter, Result, StudyStatus, command, statuses
from hpo.errors import EnvironmentFailed, NoResult
from hpo.formatting import count, decimals, duration, ending, known_before, listed, nearby, read_at, tabulated
from hpo.strategies.points import CONFIRM
from hpo.study_file.spec import StudySpec
from hpo.training.diagnosis import Tag, diagnosis_of

WATCH_SECONDS = 2.0
FEW_IMAGES = 100  # validation images below which a lead of one is easily luck


def summary_lines(result: Result, utilization: Utilization) -> Iterator[str]:
    """The lines that end a run, with rich markup."""
    study = result.study
    again, later = (escape(command(verb, result.spec, result.folders.state)) for verb in ("run", "sync"))
    states = [f"{len(some)} {state}" for state in State if (some := study.with_state(state))]
    reason = ending(study.closed, result.spec.space.enumerable) if study.closed else ""
    trials, epochs = count(len(study.trials), "trial"), count(study.epochs, "epoch")
    yield f"{escape(result.spec.name)}: {reason}; {trials} ({', '.join(states)}), {epochs}"
    if not utilization.epochs and not utilization.reused:
        yield from nothing_trained(result)
    if result.dataset is not None:
        yield from (escape(line) for line in data_lines(result.dataset))
    yield from (f"[red]{escape(line)}[/red]" for line in failures(result))
    yield from (escape(line) for line in best_lines(result))
    if utilization.share is not None:
        reused = f"; {count(study.reused_epochs, 'epoch')} reused" if study.reused_epochs else ""
        yield f"time:   {duration(study.active_seconds)}; worker utilization {utilization.share:.0%}{reused}"
    yield f"report: {escape(nearby(result.folders.report))}"
    if result.spec.tracking.enabled:
        where = tuple(one for one in result.spec.sets if one.startswith(("name", "tracking")))
        served = command("ui", replace(result.spec, seed=0, sets=where), result.folders.state)
        yield f"MLflow: {escape(result.ui or served)}"
    if result.undelivered or (result.published and result.published.failed and result.published.test):  # not logged
        yield f"[yellow]MLflow has not received everything yet; deliver it later with `{later}`[/yellow]"
    if study.closed is Reason.INTERRUPTED:
        yield f"resume: {again}"
    elif result.stopped_by:
        yield f"[yellow]interrupted after the end; the search is over: {again}[/yellow]"


def nothing_trained(result: Result) -> Iterator[str]:
    """What to raise, where a run found its budget spent, even if the space has grown."""
    most, study = result.spec.budget.total_epochs, result.study
    by_epochs = most is not None and study.epochs >= most
    spent = {Reason.BUDGET: "total_epochs" if by_epochs else "trials", Reason.TIME: "time", Reason.PATIENCE: "patience"}
    if study.closed in spent:
        longer = ", with longer `epochs` too," if by_epochs else ""  # a budget in trials has one more for these
        yield f"        nothing was trained: to go on{longer} raise budget.{spent[study.closed]}"


def data_lines(dataset: Dataset) -> Iterator[str]:
    yield f"data:   {dataset.described()}"
    yield from (f"        {note}" for note in dataset.notes)
    if dataset.classes is not None and len(dataset.val) < FEW_IMAGES:
        step = 100 / max(1, len(dataset.val))
        yield f"        with so few images to validate on, accuracy moves in steps of {step:.1f} %;"
        yield "        `hpo confirm` shows how much of a lead is luck"


def best_lines(result: Result) -> Iterator[str]:
    best = result.spec.goal.best(result.study.trials)
    if best is None:
        yield f"no trial has a {result.spec.metric.name}"
        return
    none = " (as no trial counts yet, the best of those trained longest)"
    where = read_at(best, result.spec.goal) + ("" if result.spec.goal.counted(best) else none)
    constants = result.spec.space.constants
    test = result.test
    own = f"test_{result.spec.metric.name.removeprefix('val_')}"
    shown = [own] if own in test else [name for name in ("test_accuracy", "test_r2", "test_mse") if name in test]
    scored = "".join(f", {name} {decimals(test[name])}" for name in shown)
    yield f"best:   trial {best.number}, {result.spec.metric.name} {decimals(result.best_value)}{where}{scored}"
    yield f"        {varying(best.params, constants)}"
    reading = result.spec.goal.reading(best)  # the model is that of this epoch, whatever the trial became later
    as_read = best if reading is None else replace(best, reports=best.reports[: reading.epoch])
    if (diagnosis := diagnosis_of(as_read)) is not None and Tag.MISSED in diagnosis.sentence:
        rare = diagnosis.tag == Tag.MISSED and not result.spec.class_weights  # else there is a cause to see to first
        yield f"        {diagnosis.sentence}{'; if rare, try class_weights: sampling, or true' if rare else ''}"
    yield from fallen_lines(result, test)
    yield from further_lines(result, best)
    if result.published:
        yield f"model:  {result.published.said}"


def fallen_lines(result: Result, test: Mapping[str, float]) -> Iterator[str]:
    """That the test accuracy is lower than the best trial's own by more than chance makes it, where few images chose."""
    own, there, data = result.best_value, test.get("test_accuracy"), result.dataset
    if data is None or there is None or result.spec.metric.name != "val_accuracy":
        return
    chance = math.sqrt(own * (1 - own) / len(data.val) + there * (1 - there) / len(data.test))
    if own - there > 2 * chance > 0:
        yield f"        the test is {own - there:.2f} lower, more than chance makes it: {len(data.val)} images chose this trial"


def further_lines(result: Result, best: Trial) -> Iterator[str]:
    """Which trial is better but does not count; how to train on a best that improved until the longest `epochs` of the space."""
    spec, goal = result.spec, result.spec.goal
    for trial in goal.ahead(result.study.trials)[:1]:
        yield f"        trial {trial.number} has {shown(goal.value(trial))}{read_at(trial, goal)}"
    last = bool(best.reports) and min(best.reports, key=goal.cost) is best.reports[-1]
    longest = best.epochs == spec.space.longest > 1 and allowed(spec, best.params)
    if last and best.state is State.COMPLETE and longest:
        raised = " and raise budget.total_epochs" if spec.budget.total_epochs else ""
        depends = goal.whole(best.params) or not goal.epochs
        why = "other code or versions began it" if result.outdated(best) else ""
        why = why or ("an epoch of it depends on how many follow" if depends else "")
        goes = f"trains it from the start, as {why}" if why else "continues it"
        yield f"        its last epoch is its best: add a larger value to `epochs`{raised}, and `hpo run` {goes}"


def failures(result: Result) -> Iterator[str]:
    failed, replaced = result.study.with_state(State.FAILED), result.study.replaced
    errors: dict[str, list[str]] = {}  # those that differ in numbers alone are one
    for one in failed:
        if one.number not in replaced:
            text = f"{one.outcome}: {one.error}"
            errors.setdefault(re.sub(r"\d[\d.]*", "#", text), []).append(text)
    *shown, rest = *sorted(errors.values(), key=len, reverse=True)[:3], sum(map(len, errors.values()))
    for alike in shown:
        rest -= len(alike)
        yield f"failed: {count(len(alike), 'trial')}, {'as ' if len({*alike}) > 1 else ''}{alike[0]}"
    if rest:
        yield f"failed: {count(rest, 'trial')} otherwise"


def result_json(result: Result) -> dict[str, Any]:
    """The result for programs; `best` is null where no trial has a score."""
    study, best = result.study, result.spec.goal.best(result.study.trials)
    return {
        "name": result.spec.name,
        "strategy": result.spec.strategy,
        "seed": result.spec.seed,
        "closed": study.closed,
        "trials": len(study.trials),
        "epochs": study.epochs,
        "reused_epochs": study.reused_epochs,
        "seconds": round(study.active_seconds, 3),
        "states": {str(state): len(study.with_state(state)) for state in State},
        "best": trial_json(result, best) if best else None,
        "test": dict(result.test) if best else {},
        "model": result.published.model if result.published else None,
        "report": str(result.folders.report),
        "ui": result.ui,
        "undelivered": result.undelivered,
    }


def trial_json(result: Result, trial: Trial) -> dict[str, Any]:
    goal = result.spec.goal
    reading = goal.reading(trial)
    return {
        "trial": trial.number,
        "state": str(trial.state),
        "outcome": str(trial.outcome),
        "metric": result.spec.metric.name,
        "value": goal.value(trial),
        "counts": bool(goal.counted(trial)),
        "epoch": None if reading is None else reading.epoch,
        "epochs": trial.epoch,
        "params": dict(trial.params),
        "error": trial.error,
        "curve": [dict(report.metrics) for report in trial.reports],
    }


def exit_code(result: Result) -> int:
    """0 if the study came to its end, 3 if it has no usable result, 4 if its best was not published, 128 + a signal."""
    if result.stopped_by:
        return 128 + result.stopped_by
    if result.study.closed is Reason.FAILING or result.spec.goal.best(result.study.trials) is None:
        return NoResult.exit_code
    return EnvironmentFailed.exit_code if result.published is not None and result.published.failed else 0


# -- one trial


def show_trial(result: Result, trial: Trial, as_json: bool = False) -> None:
    terminal = Terminal()
    if as_json:
        terminal.print_json(json.dumps(trial_json(result, trial)), ensure_ascii=True)
        return
    for line in trial_lines(result, trial, terminal.width if terminal.is_terminal else 0):
        terminal.say(line)


def trial_lines(result: Result, trial: Trial, width: int) -> Iterator[str]:
    goal = result.spec.goal
    state = f"{trial.state}, {trial.outcome}, after {trial.epoch} of {count(trial.epochs, 'epoch')}"
    yield f"trial {trial.number} of {result.folders.run.name}: {state}{BEST * (goal.best(result.study.trials) == trial)}"
    yield f"{goal.metric} {shown(goal.value(trial))}{read_at(trial, goal)}  {sparkline(trial, goal, 40)}"
    yield varying(trial.params, {})
    diagnosis = diagnosis_of(trial)
    if diagnosis:
        yield diagnosis.sentence
    if trial.error and (diagnosis is None or trial.error not in diagnosis.text):
        yield trial.error
    if reading := goal.reading(trial):
        yield f"after epoch {reading.epoch}:"
        probes = [name for name in reading.metrics if "/" in name or name == "spikes"]
        scores = sorted(reading.metrics.keys() - probes, key=lambda name: (not name.endswith("loss"), name))
        for names in filter(None, (scores, probes)):
            yield from tabulated([(name, decimals(reading.metrics[name])) for name in names], width)


# -- all studies of a name


def show_status(spec: StudySpec, state: Path, only: Filter, watch: bool, as_json: bool) -> None:
    """Print the status of every study of this name, again and again with `watch`. Raises NoResult where there is none."""
    terminal = Terminal()
    first = statuses(spec, state, only)[0]
    warn_of_other_files(spec, first.folders, first.study)
    drawn = watch and terminal.is_terminal and not as_json
    with Live(console=terminal, auto_refresh=False) if drawn else nullcontext() as screen:
        while True:
            found = statuses(spec, state, only)
            studies = [one for one in found if only[0] == CONFIRM or one.folders.strategy != CONFIRM]
            if as_json:
                terminal.print_json(json.dumps([status_json(one) for one in studies]), ensure_ascii=True)
            elif screen is not None:
                screen.update(status_table(spec, studies), refresh=True)
            else:
                terminal.print(status_table(spec, studies))
                for line in beginnings(studies):
                    terminal.say(line)
            if not watch or not any(one.driver for one in studies):
                return
            time.sleep(WATCH_SECONDS)


def beginnings(studies: list[StudyStatus]) -> Iterator[str]:
    """What studies knew before they began, each once."""
    names: dict[str, list[str]] = {}
    for one in studies:
        names.setdefault(known_before(one.study), []).append(one.folders.run.name)
    yield from (f"{listed(own)} began with what {known} have shown" for known, own in names.items() if known)


def status_table(spec: StudySpec, studies: list[StudyStatus]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    driven = ["driver"] if any(one.driver for one in studies) else []
    for name in ("study", "state", "trials", "epochs", "time", f"best {spec.metric.name}", *driven):
        right, name_column = name in ("trials", "epochs", "time"), name == "study"
        table.add_column(name, justify="right" if right else "left", no_wrap=name_column, overflow="fold")
    for one in studies:
        best, goal = one.goal.best(one.study.trials), one.goal
        table.add_row(
            one.folders.run.name,
            ending(one.state, spec.space.enumerable) if isinstance(one.state, Reason) else one.state,
            str(len(one.study)),
            str(one.study.epochs),
            duration(one.study.active_seconds),
            "-" if best is None else f"{decimals(goal.value(best) or 0.0)} (trial {best.number}{read_at(best, goal)})",
            *([one.driver or "-"] if driven else []),
        )
    return table


def status_json(one: StudyStatus) -> dict[str, Any]:
    goal, best = one.goal, one.goal.best(one.study.trials)
    told: dict[str, Any] = {}
    if best is not None and (reading := goal.reading(best)) is not None:
        about = {"trial": best.number, "value": goal.value(best), "counts": bool(goal.counted(best))}
        told = {**about, "epoch": reading.epoch, "params": {**best.params}}
    return {
        "study": one.folders.run.name,
        "state": str(one.state),
        "trials": len(one.study),
        "epochs": one.study.epochs,
        "states": {str(state): len(one.study.with_state(state)) for state in State},
        "best": told or None,
        "driver": one.driver or None,
        "known": known_before(one.study).rstrip(",") or None,
    }
