"""Saved views of MLflow's UI, "Trials" and "Strategies", as tags of the experiment, and the links that open them.

The format is undocumented: it was read out of mlflow 3.17's own JavaScript (what reads `mlflow.sharedViewState.`), and
a test opens both views in a browser. A UI that does not know it shows its default list.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from hpo.core import Goal
from hpo.strategies.points import CONFIRM
from hpo.tracking.runs import legal

PREFIX = "mlflow.sharedViewState."
TRIALS, STRATEGIES = "hpo-trials", "hpo-strategies"
CREATED = 1_750_000_000_000  # one for all, so that the same study makes the same tags
MOST_COLUMNS = 24  # a tag of an experiment holds 20,000 characters
EVERY_RUN = {"showAllRuns": True}
HEIGHT = 360  # pixels of a chart
LOCAL = "http://127.0.0.1:5000"

Json = dict[str, Any]


def tags(goal: Goal, columns: Sequence[str]) -> dict[str, str]:
    """The experiment's tags. columns: parameters every trial has."""
    return {
        "mlflow.experimentKind": "custom_model_development",
        PREFIX + TRIALS: packed("Trials", trials(goal, columns)),
        PREFIX + STRATEGIES: packed("Strategies", strategies(goal)),
    }


def trials(goal: Goal, columns: Sequence[str]) -> Json:
    """All trials, best first; their learning curves, and parameters against the metric."""
    metric, params = legal(goal.metric), [legal(name) for name in columns][:MOST_COLUMNS]
    sections = {
        "Learning curves": [line(metric), line("val_loss", "train_loss")],
        "Parameters": [card("PARALLEL", metric) | {"selectedParams": params, "selectedMetrics": [metric]} | EVERY_RUN],
        "Ranking": [card("BAR", metric) | {"metricKey": metric, "runsCountToCompare": 20}],
    }
    shown = [column("metrics", metric), column("tags", "hpo.state"), *(column("params", name) for name in params)]
    return view("trial", metric, not goal.maximize, [*shown, column("tags", "hpo.strategy")], sections)


def strategies(goal: Goal) -> Json:
    """One run a study: best so far against epochs spent."""
    best = legal(f"best_{goal.metric}")
    tagged = (column("tags", f"hpo.{name}") for name in ("strategy", "seed", "state", "best_trial"))
    sections = {
        "Best so far against epochs spent": [line(best)],
        "Best": [card("BAR", best) | {"metricKey": best, "runsCountToCompare": 100}],
    }
    return view("study", best, not goal.maximize, [column("metrics", best), *tagged], sections)


def link(base: str, experiment: str, key: str, charts: bool = False) -> str:
    """The address that opens a saved view. base: where the server is."""
    query = {"workflowType": "machine_learning", "viewStateShareKey": key} | (
        {"compareRunsMode": "CHART"} if charts else {}
    )
    return f"{base.rstrip('/')}/#/experiments/{experiment}/runs?{urlencode(query)}"


# -- the format --------------------------------------------------------------------------------------------------


def packed(name: str, state: Json) -> str:
    text = base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()
    return json.dumps({"name": name, "createdAt": CREATED, "updatedAt": CREATED, "state": f"deflate;{text}"})


def view(kind: str, order: str, ascending: bool, shown: Sequence[str], charts: Mapping[str, Sequence[Json]]) -> Json:
    """Runs of one hpo.kind by one metric; charts by the name of their section."""
    return {
        "searchFilter": f"tags.`hpo.kind` = '{kind}' AND tags.`hpo.strategy` != '{CONFIRM}'",  # no part of a search
        "orderByKey": column("metrics", order),
        "orderByAsc": ascending,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(shown),
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunCharts": [chart | {"metricSectionId": name} for name, held in charts.items() for chart in held],
        "compareRunSections": [section(name, len(held)) for name, held in charts.items()],
        "isAccordionReordered": True,
    }


def section(name: str, columns: int) -> Json:
    made = {"display": True, "isReordered": True, "deleted": False, "isGenerated": False}
    return made | {"uuid": name, "name": name, "columns": columns, "cardHeight": HEIGHT}


def column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"


def card(kind: str, about: str) -> Json:
    """What every chart has."""
    return {
        "uuid": f"hpo-{kind}-{about}",
        "type": kind,
        "deleted": False,
        "isGenerated": False,
        "runsCountToCompare": 10,
    }


def line(*metrics: str) -> Json:
    """Metrics against their step."""
    axes = {"xAxisKey": "step", "xAxisScaleType": "linear", "scaleType": "linear", "yAxisKey": "metric", "range": {}}
    ways = {"lineSmoothness": 0, "displayPoints": False, "useGlobalXaxisKey": False, "useGlobalLineSmoothing": True}
    held = {
        "metricKey": metrics[0],
        "selectedMetricKeys": list(metrics),
        "yAxisExpressions": [],
        "ignoreOutliers": False,
    }
    return card("LINE", metrics[0]) | held | axes | ways
