"""What is said when a run ends: why it ended, what it found, how to look and how to go on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.markup import escape

from hpo.cli.console import settings
from hpo.core import State
from hpo.data.dataset import Dataset
from hpo.engine.result import Result
from hpo.engine.utilization import Overhead
from hpo.errors import NoResult
from hpo.formatting import count, decimals, duration

FEW_IMAGES = 100  # validation images below which a lead of one is easily luck
REASONS = {
    "budget": "the budget is spent",
    "time": "the time is up",
    "target": "the target is met",
    "patience": "no improvement for as long as the patience lasts",
    "exhausted": "every point of the space has been tried",
    "interrupted": "interrupted",
    "failing": "stopped, because trial after trial failed with the same error",
}


def closing_lines(result: Result, overhead: Overhead, again: str) -> Iterator[str]:
    """Lines for a person, with rich markup."""
    study = result.study
    states = [
        f"{sum(t.state is state for t in study.trials)} {state}"
        for state in State
        if any(t.state is state for t in study.trials)
    ]
    reason = REASONS.get(study.closed or "", study.closed or "")
    trials, epochs = count(len(study.trials), "trial"), count(study.epochs, "epoch")
    yield f"{escape(result.spec.name)}: {reason}; {trials} ({', '.join(states)}), {epochs}"
    if result.dataset is not None:
        yield from (escape(line) for line in data_lines(result.dataset))
    yield from (f"[red]{escape(line)}[/red]" for line in failures(result))
    yield from (escape(line) for line in best_lines(result))
    if overhead.share is not None:
        reused = f"; {count(study.reused_epochs, 'epoch')} reused" if study.reused_epochs else ""
        busy = f"from the first epoch to the last workers trained {overhead.share:.0%} of the time"
        yield f"time: {duration(study.active_seconds)}; {busy}{reused}"
    yield f"report: {escape(str(result.folders.report))}"
    if result.ui:
        yield f"look:   {escape(result.ui)}"
    if result.undelivered:
        later = escape(f"hpo sync {result.spec.path or ''}".strip())
        yield f"[yellow]MLflow has not got everything yet; deliver it later with `{later}`[/yellow]"
    if result.stopped_by or any(trial.state is State.PAUSED and trial.epoch < trial.until for trial in study.trials):
        yield f"go on:  {escape(again)}"


def data_lines(dataset: Dataset) -> Iterator[str]:
    yield f"data:   {dataset.described()}"
    if dataset.classes is not None and len(dataset.val) < FEW_IMAGES:
        step = 100 / max(1, len(dataset.val))
        yield f"        so few to validate move the accuracy in steps of {step:.1f} %; `hpo confirm` says what of a lead is luck"


def best_lines(result: Result) -> Iterator[str]:
    try:
        best = result.best
    except NoResult:
        yield f"no trial has a {result.spec.metric.name}"
        return
    complete = (
        ""
        if best.state is State.COMPLETE
        else f" (no trial is complete; this one trained longest, {best.epoch} of {best.epochs} epochs)"
    )
    constants = result.spec.space.constants
    test = result.test
    scored = "".join(
        f", {name} {decimals(value)}"
        for name, value in test.items()
        if name in ("test_accuracy", "test_r2", "test_mse")
    )
    yield f"best:   trial {best.number}, {result.spec.metric.name} {decimals(result.best_value)}{scored}{complete}"
    yield f"        {settings(best.params, constants)}"
    if result.published:
        yield f"model:  {result.published.said}"


def failures(result: Result) -> Iterator[str]:
    """Why trials failed, each reason once."""
    errors: dict[str, int] = {}
    for trial in result.study.with_state(State.FAILED):
        text = f"{trial.outcome}: {trial.error}"
        errors[text] = errors.get(text, 0) + 1
    for text, times in sorted(errors.items(), key=lambda item: -item[1])[:3]:
        yield f"failed: {count(times, 'trial')}, {text}"


def result_json(result: Result) -> dict[str, Any]:
    """The result for programs; `best` is null where no trial has a score."""
    try:
        best: dict[str, Any] | None = trial_json(result, result.best.number)
    except NoResult:
        best = None
    study = result.study
    return {
        "name": result.spec.name,
        "strategy": result.spec.strategy,
        "seed": result.spec.seed,
        "closed": study.closed,
        "trials": len(study.trials),
        "epochs": study.epochs,
        "reused_epochs": study.reused_epochs,
        "seconds": round(study.active_seconds, 3),
        "states": {str(state): sum(trial.state is state for trial in study.trials) for state in State},
        "best": best,
        "test": dict(result.test) if best else {},
        "model": result.published.model if result.published else None,
        "report": str(result.folders.report),
        "ui": result.ui,
        "undelivered": result.undelivered,
    }


def trial_json(result: Result, number: int) -> dict[str, Any]:
    trial = result.study.trials[number]
    return {
        "trial": trial.number,
        "state": str(trial.state),
        "outcome": str(trial.outcome),
        "metric": result.spec.metric.name,
        "value": result.spec.metric.as_goal().value(trial),
        "epochs": trial.epoch,
        "params": dict(trial.params),
        "error": trial.error,
        "curve": [dict(report.metrics) for report in trial.reports],
    }
