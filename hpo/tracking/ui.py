"""Which MLflow a study goes to, and what opens its UI: links, and the saved views "Trials" and "Strategies". Imports no mlflow.

The views are tags of the experiment, in a format that is undocumented and was read out of mlflow 3.17's JavaScript; a test
opens both in a browser. A UI that does not know it shows its default list.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

from hpo.core import Goal
from hpo.errors import BadInput, Mistake
from hpo.formatting import without_password
from hpo.strategies.points import CONFIRM
from hpo.study_file.spec import StudySpec
from hpo.tracking.runs import best_of, legal

SQLITE = "sqlite:///"
VARIABLE = "MLFLOW_TRACKING_URI"
DATABASES = ("postgresql", "mysql", "mssql")
SCHEMES = ("http", "https", "sqlite", "databricks", *DATABASES)

PREFIX = "mlflow.sharedViewState."
TRIALS, STRATEGIES = "hpo-trials", "hpo-strategies"
CREATED = 1_750_000_000_000  # one for all, so that the same study makes the same tags
MOST_COLUMNS = 24  # a tag of an experiment holds 20,000 characters

Json = dict[str, Any]
SECTION: Json = {"display": True, "isReordered": True, "deleted": False, "isGenerated": False, "cardHeight": 360}


def sqlite_uri(path: Path) -> str:
    """Quoted, because SQLAlchemy reads % and ? in it."""
    return SQLITE + quote(str(path.absolute()))


def sqlite_path(uri: str) -> Path:
    return Path(unquote(uri.removeprefix(SQLITE).partition("?")[0]))


def tracking_uri(spec: StudySpec, state: Path, environ: Mapping[str, str]) -> str:
    """The study file's store, the environment's, or mlflow.db in the state folder. Raises BadInput."""
    place = spec.place("tracking.uri") if spec.tracking.uri else VARIABLE
    uri = spec.tracking.uri or environ.get(VARIABLE)
    if not uri:
        return sqlite_uri(state / "mlflow.db")
    scheme = uri.partition(":")[0].partition("+")[0].lower()
    if scheme not in SCHEMES or (scheme == "sqlite" and not uri.startswith(SQLITE)):
        remedy = f"write http://host:5000, or {SQLITE}mlflow.db, or leave it out"
        raise BadInput(Mistake(place, "must be an MLflow server or database", uri, remedy))
    try:
        missing = missing_package(uri, scheme)
    except ValueError:
        remedy = "write the port as a number, and special characters of a password as %40 and the like"
        raise BadInput(Mistake(place, "must be an address that can be read", uri, remedy)) from None
    if missing:
        remedy = "in a checkout of hpo: pip install '.[postgres]'" if missing == "psycopg" else f"pip install {missing}"
        raise BadInput(Mistake(place, f"needs the package {missing}", f"{uri}, and none here", remedy))
    return sqlite_uri(Path.cwd() / sqlite_path(uri)) if scheme == "sqlite" else uri


def missing_package(uri: str, scheme: str) -> str:
    """What this Python lacks to speak to a database, "" for nothing. Raises ValueError for an address that cannot be read."""
    if scheme not in DATABASES:
        _ = urlsplit(uri).port  # raises ValueError
        return ""
    from sqlalchemy.engine import make_url  # 0.4 s that no other address need wait for
    from sqlalchemy.exc import ArgumentError

    try:
        make_url(uri).get_dialect().import_dbapi()
    except ArgumentError as error:
        raise ValueError(str(error)) from None
    except ImportError as error:
        return {"MySQLdb": "mysqlclient"}.get(error.name or "", error.name or str(error))
    return ""


def ui_address(uri: str, experiment: str | None) -> str:
    """Where a server shows the study, "" for a database, which `hpo ui` serves. experiment: its id, once MLflow has answered."""
    base = without_password(uri) if uri.startswith("http") else ""
    if not base or experiment is None:
        return base and f"{base}/?workflowType=machine_learning"
    return link(base, experiment, TRIALS)


def link(base: str, experiment: str, key: str) -> str:
    """The address that opens a saved view. base: where the server is."""
    query = {"workflowType": "machine_learning", "viewStateShareKey": key}
    return f"{base.rstrip('/')}/#/experiments/{experiment}/runs?{urlencode(query)}"


# -- saved views


def tags(goal: Goal, columns: Sequence[str]) -> dict[str, str]:
    """The experiment's tags. columns: parameters every trial has."""
    return {
        "mlflow.experimentKind": "custom_model_development",
        PREFIX + TRIALS: packed("Trials", trials(goal, columns)),
        PREFIX + STRATEGIES: packed("Strategies", strategies(goal)),
    }


def trials(goal: Goal, columns: Sequence[str]) -> Json:
    """All trials, best first; their learning curves, and parameters against the metric."""
    metric, best, params = legal(goal.metric), best_of(goal), [legal(name) for name in columns][:MOST_COLUMNS]
    chosen = {"selectedParams": params, "selectedMetrics": [best], "showAllRuns": True}
    sections = {
        "Learning curves": [line(metric), line("val_loss", "train_loss")],
        "Parameters": [card("PARALLEL", best) | chosen],
        "Ranking": [card("BAR", best) | {"metricKey": best, "runsCountToCompare": 20}],
    }
    shown = [column("metrics", best), column("tags", "hpo.state"), *(column("params", name) for name in params)]
    return view("trial", best, not goal.maximize, [*shown, column("tags", "hpo.strategy")], sections)


def strategies(goal: Goal) -> Json:
    """One run a study: best so far against epochs spent."""
    best = best_of(goal)
    tagged = (column("tags", f"hpo.{name}") for name in ("strategy", "seed", "state", "best_trial"))
    sections = {
        "Best so far against epochs spent": [line(best)],
        "Best": [card("BAR", best) | {"metricKey": best, "runsCountToCompare": 100}],
    }
    return view("study", best, not goal.maximize, [column("metrics", best), *tagged], sections)


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
        "compareRunCharts": [chart | {"metricSectionId": name} for name, cards in charts.items() for chart in cards],
        "compareRunSections": [SECTION | {"uuid": name, "name": name, "columns": len(charts[name])} for name in charts],
        "isAccordionReordered": True,
    }


def column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"


def card(kind: str, about: str) -> Json:
    fixed = {"deleted": False, "isGenerated": False, "runsCountToCompare": 10}
    return fixed | {"uuid": f"hpo-{kind}-{about}", "type": kind}


def line(*metrics: str) -> Json:
    """Metrics against their step."""
    axes = {"xAxisKey": "step", "xAxisScaleType": "linear", "scaleType": "linear", "yAxisKey": "metric", "range": {}}
    ways = {"lineSmoothness": 0, "displayPoints": False, "useGlobalXaxisKey": False, "useGlobalLineSmoothing": True}
    shown = {"metricKey": metrics[0], "selectedMetricKeys": list(metrics)}
    return card("LINE", metrics[0]) | shown | axes | ways | {"yAxisExpressions": [], "ignoreOutliers": False}
