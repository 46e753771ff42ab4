"""Looking at studies from outside: journals are read, nothing is written."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from hpo.cli.console import settings, sparkline
from hpo.cli.summary import trial_json
from hpo.core import Event, State, Study
from hpo.engine.result import Result
from hpo.errors import BadInput, Conflict, Mistake, NoResult
from hpo.files import Folders
from hpo.formatting import decimals, duration
from hpo.journal import holder_of, read_events
from hpo.study_file.spec import StudySpec
from hpo.terminal import Terminal
from hpo.training.diagnosis import diagnose

STATES = {  # what ended a study, in a word or two
    "budget": "done",
    "time": "time is up",
    "target": "target met",
    "patience": "done, no gain",
    "exhausted": "done, all tried",
    "interrupted": "interrupted",
    "failing": "failing",
}


Asked = tuple[str | None, int | None]  # strategy, seed


@dataclass(frozen=True)
class Standing:
    """One study of a name as it stands."""

    folders: Folders
    study: Study
    events: tuple[Event, ...]
    driver: str  # "pid 12 on host", "" for nobody


def standings(spec: StudySpec, state: Path, only: Asked = (None, None)) -> list[Standing]:
    """Every study of this name, by strategy and seed; only: one strategy, or one seed."""
    found = []
    for journal in sorted((state / "studies" / spec.name).glob("*/journal.db")):
        strategy, _, seed = journal.parent.name.rpartition("-")
        if any(asked not in (None, own) for asked, own in zip(only, (strategy, int(seed)), strict=True)):
            continue
        folders = Folders(state, spec.name, strategy, int(seed))
        events = read_events(folders.journal)
        holder = holder_of(folders.lock)
        driver = f"pid {holder.get('pid')} on {holder.get('host')}" if holder else ""
        found.append(Standing(folders, Study(events), events, driver))
    return found


def read_result(spec: StudySpec, state: Path) -> Result:
    """A study as its journal has it. Raises NoResult before its first run."""
    folders = Folders(state, spec.name, spec.strategy, spec.seed)
    if not folders.journal.exists():
        raise NoResult(f"{folders.run}: this study has not been run; `hpo run {spec.path or ''}` begins it")
    return Result(spec, folders, Study(read_events(folders.journal)), None)


def show_status(
    spec: StudySpec,
    state: Path,
    watch: bool,
    as_json: bool,
    only: Asked = (None, None),
    terminal: Terminal | None = None,
) -> None:
    terminal = terminal or Terminal()
    while True:
        found = standings(spec, state, only)
        if not found:
            asked = zip(("strategy", "seed"), only, strict=True)
            which = " and ".join(f"{name} {one}" for name, one in asked if one is not None)
            raise NoResult(
                f"{state / 'studies' / spec.name}: no study of {which or 'this name'} has been run; `hpo run` begins one"
            )
        if as_json:
            terminal.print_json(json.dumps([standing_json(spec, one) for one in found]))
        else:
            table = status_table(spec, found)
            terminal.print(table, soft_wrap=not terminal.is_terminal)
        if not watch or not any(one.driver for one in found):
            return
        time.sleep(2.0)


def status_table(spec: StudySpec, found: list[Standing]) -> Table:
    goal = spec.metric.as_goal()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("study", "state", "trials", "epochs", "time", f"best {goal.metric}", "driver"):
        table.add_column(name, justify="right" if name in ("trials", "epochs", "time") else "left")
    for one in found:
        best = goal.best(one.study.trials)
        value = "-" if best is None else f"{decimals(goal.value(best) or 0.0)} (trial {best.number})"
        state = "running" if one.driver else STATES.get(one.study.closed or "interrupted", "interrupted")
        trials = f"{len(one.study.trials)}"
        table.add_row(
            one.folders.run.name,
            state,
            trials,
            f"{one.study.epochs}",
            duration(one.study.active_seconds),
            value,
            one.driver or "-",
        )
    return table


def standing_json(spec: StudySpec, one: Standing) -> dict[str, Any]:
    goal = spec.metric.as_goal()
    best = goal.best(one.study.trials)
    return {
        "study": one.folders.run.name,
        "state": "running" if one.driver else one.study.closed or "interrupted",
        "trials": len(one.study.trials),
        "epochs": one.study.epochs,
        "states": {str(state): sum(trial.state is state for trial in one.study.trials) for state in State},
        "best": None
        if best is None
        else {"trial": best.number, "value": goal.value(best), "params": dict(best.params)},
        "driver": one.driver or None,
    }


def show_trial(result: Result, number: int, as_json: bool, terminal: Terminal | None = None) -> None:
    terminal = terminal or Terminal()
    trials = result.study.trials
    if not 0 <= number < len(trials):
        there = f"0 to {len(trials) - 1}" if trials else "none yet"
        raise BadInput(
            Mistake(str(result.folders.run), "there must be a trial of that number", str(number), f"trials: {there}")
        )
    if as_json:
        terminal.print_json(json.dumps(trial_json(result, number)))
        return
    trial, goal = trials[number], result.spec.metric.as_goal()
    value = goal.value(trial)
    terminal.print(
        f"trial {number} of {result.folders.run.name}: {trial.state}, {trial.outcome}, {trial.epoch} of {trial.epochs} epochs",
        highlight=False,
    )
    terminal.print(
        f"{goal.metric} {'-' if value is None else decimals(value)}  {sparkline(trial, goal, 40)}", highlight=False
    )
    terminal.print(settings(trial.params, {}), highlight=False, soft_wrap=True)
    if trial.reports:
        terminal.print(diagnose(trial.reports, trial.params, trial.outcome).sentence, highlight=False, soft_wrap=True)
        terminal.print(
            "  ".join(f"{name} {decimals(one)}" for name, one in trial.reports[-1].metrics.items() if "." not in name),
            highlight=False,
            soft_wrap=True,
        )
    if trial.error:
        terminal.print(trial.error, style="red", highlight=False, markup=False, soft_wrap=True)


def stop_driver(spec: StudySpec, state: Path) -> str:
    """Send the driver of a study what Ctrl-C would."""
    folders = Folders(state, spec.name, spec.strategy, spec.seed)
    holder = holder_of(folders.lock)
    if holder is None:
        return f"{folders.run.name}: nobody drives it"
    if holder.get("host") != socket.gethostname():
        raise Conflict(
            Mistake(
                str(folders.run),
                "can be stopped on the machine of its driver only",
                str(holder.get("host")),
                "run `hpo stop` there",
            )
        )
    os.kill(int(holder["pid"]), signal.SIGINT)
    return f"{folders.run.name}: asked pid {holder['pid']} to finish its epochs and rest"
