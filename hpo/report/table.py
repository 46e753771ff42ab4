"""The trials as a table: one row a trial, one column a parameter and a metric, named as MLflow names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hpo.core import Goal, Study, Trial, Value

COLUMNS = ("trial", "state", "outcome", "value", "epochs", "until", "seconds", "started", "ended", "attempt", "repeat")


def frame(study: Study, goal: Goal, notes: Mapping[int, str] | None = None) -> pd.DataFrame:
    """One row a trial, in their order.

    value: the metric that counts; epochs: trained so far; seconds: of training; started, ended: UTC; params.* as they
    were tried, empty where a parameter did not exist; metrics.*: at the epoch that counts; error: what a failed trial
    said; diagnosis: from notes.
    """
    rows = [_row(trial, goal, (notes or {}).get(trial.number, "")) for trial in study.trials]
    params = sorted({name for trial in study.trials for name in trial.params})
    metrics = sorted({name for row in rows for name in row if name.startswith("metrics.")})
    columns = [*COLUMNS, *(f"params.{name}" for name in params), *metrics, "diagnosis", "error", "training"]
    table = pd.DataFrame(rows, columns=columns)
    for name in params:
        table[f"params.{name}"] = _column([trial.params.get(name) for trial in study.trials])
    for name in ("started", "ended"):
        table[name] = pd.to_datetime(table[name], unit="s", utc=True)
    return table.astype({"value": "float64", "seconds": "float64"})


def _column(values: Sequence[Value | None]) -> pd.Series[Any]:
    """Whole numbers and booleans stay what they are where other trials have no such parameter."""
    kinds = {type(value) for value in values if value is not None}
    dtype = {frozenset({int}): "Int64", frozenset({bool}): "boolean", frozenset({float}): "float64"}.get(
        frozenset(kinds)
    )
    return pd.Series(list(values), dtype=dtype or "object")


def _row(trial: Trial, goal: Goal, diagnosis: str) -> dict[str, object]:
    reading = goal.reading(trial)
    return {
        "trial": trial.number,
        "state": trial.state.value,
        "outcome": trial.outcome.value,
        "value": goal.value(trial),
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


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write, then rename: nobody reads half a file."""
    part = path.with_name(f".{path.name}.part")
    table.to_csv(part, index=False)
    part.replace(path)
