"""Which MLflow a study goes to, and how a person gets there. Imports no mlflow."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from hpo.errors import BadInput, Mistake
from hpo.tracking import views

SQLITE = "sqlite:///"
VARIABLE = "MLFLOW_TRACKING_URI"
SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")


def sqlite_uri(path: Path) -> str:
    """Quoted, because SQLAlchemy reads % and ? in it."""
    return SQLITE + quote(str(path.absolute()))


def sqlite_path(uri: str) -> Path:
    return Path(unquote(uri.removeprefix(SQLITE).partition("?")[0]))


def tracking_uri(given: str | None, state: Path, environ: Mapping[str, str], place: str = "tracking.uri") -> str:
    """The study file's, else the environment's, else MLflow's own default in the state folder.

    With the default a plain `mlflow ui` typed there shows everything. Raises BadInput for what this MLflow cannot use.
    """
    uri = given or environ.get(VARIABLE) or ""
    place = place if given else VARIABLE
    if not uri:
        return sqlite_uri(state / "mlflow.db")
    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme not in SCHEMES or (scheme == "sqlite" and not uri.startswith(SQLITE)):
        rule, remedy = (
            "must be an MLflow server or database",
            f"write http://host:5000, or {SQLITE}mlflow.db, or leave it out",
        )
        raise BadInput(Mistake(place, rule, without_password(uri), remedy))
    return sqlite_uri(Path.cwd() / sqlite_path(uri)) if scheme == "sqlite" else uri


def without_password(text: str) -> str:
    """An address, or a text with addresses in it, for messages, logs and whatever is kept or shown."""
    return re.sub(r"(?<=://)([^/@:\s]*):[^\s'\"]*@", r"\1:***@", text)


def program(name: str) -> str:
    """A program of this Python as a person must type it here: its name where the shell finds it, else its path."""
    beside = Path(sys.executable).with_name(name)
    return name if shutil.which(name) or not beside.exists() else shlex.quote(os.path.relpath(beside))


def ui_line(uri: str, experiment: str | None, key: str = views.TRIALS) -> str:
    """The one line that opens the UI. experiment: its id, None while MLflow has not answered yet.

    A server has an address; a database needs `mlflow ui`, which works from any folder with this option.
    """
    local = not uri.startswith("http")
    base = views.LOCAL if local else without_password(uri)
    address = views.link(base, experiment, key) if experiment is not None else f"{base}/?workflowType=machine_learning"
    if not local:
        return address
    return f"{program('mlflow')} ui --backend-store-uri {shlex.quote(without_password(uri))}, then open {address}"
