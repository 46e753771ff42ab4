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
from hpo.mlflow_runs import legal

PREFIX = "mlflow.sharedViewState."
TRIALS, STRATEGIES = "hpo-trials", "hpo-strategies"
CREATED = 1_750_000_000_000  # one for all, so that the same study makes the same tags
MOST_COLUMNS = 24  # a tag of an experiment holds 20,000 characters
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
    charts = [
        line("curves", metric),
        line("losses", "val_loss", "train_loss"),
        {**card("parallel", "PARALLEL"), "selectedParams": params, "selectedMetrics": [metric], "showAllRuns": True},
        {**card("bars", "BAR"), "metricKey": metric, "runsCountToCompare": 20},
    ]
    shown = [column("metrics", metric), column("tags", "hpo.state"), *(column("params", name) for name in params)]
    found = "tags.`hpo.kind` = 'trial'"
    return view(found, column("metrics", metric), not goal.maximize, [*shown, column("tags", "hpo.strategy")], charts)


def strategies(goal: Goal) -> Json:
    """One run a study: best so far against epochs spent."""
    best = legal(f"best_{goal.metric}")
    shown = [
        column("metrics", best),
        *(column("tags", f"hpo.{name}") for name in ("strategy", "seed", "state", "best_trial")),
    ]
    charts = [line("best", best), {**card("best-bars", "BAR"), "metricKey": best, "runsCountToCompare": 100}]
    return view("tags.`hpo.kind` = 'study'", column("metrics", best), not goal.maximize, shown, charts)


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


def unpacked(tag: str) -> Json:
    """What packed() was given."""
    state: str = json.loads(tag)["state"]
    found: Json = json.loads(zlib.decompress(base64.b64decode(state.removeprefix("deflate;"))))
    return found


def view(search: str, order: str, ascending: bool, shown: Sequence[str], charts: Sequence[Mapping[str, Any]]) -> Json:
    sections = [
        {"uuid": "hpo", "name": "hpo", "display": True, "isReordered": True, "deleted": False, "isGenerated": False}
    ]
    return {
        "searchFilter": search,
        "orderByKey": order,
        "orderByAsc": ascending,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(shown),
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunCharts": list(charts),
        "compareRunSections": sections,
        "isAccordionReordered": True,
    }


def column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"


def card(uuid: str, kind: str) -> Json:
    """What every chart has."""
    return {
        "uuid": f"hpo-{uuid}",
        "type": kind,
        "metricSectionId": "hpo",
        "deleted": False,
        "isGenerated": False,
        "runsCountToCompare": 10,
    }


def line(uuid: str, *metrics: str) -> Json:
    """Metrics against their step."""
    axes = {
        "xAxisKey": "step",
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
    }
    ways = {
        "lineSmoothness": 0,
        "useGlobalXaxisKey": False,
        "useGlobalLineSmoothing": True,
        "range": {},
        "ignoreOutliers": False,
    }
    return {**card(uuid, "LINE"), "metricKey": metrics[0], "selectedMetricKeys": list(metrics), **axes, **ways}
