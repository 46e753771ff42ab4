"""`hpo sync`: MLflow gets what it missed. `hpo ui`: its server on a study's store."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlencode

from hpo.engine.result import PUBLISHED, as_counted, command, learned, read_result
from hpo.errors import BadInput, EnvironmentFailed, Mistake, NoResult
from hpo.files import DriverLock, Folders
from hpo.formatting import without_password
from hpo.journal import Journal
from hpo.publishing.publish_best import Place, about, noted, publish_trial, registered
from hpo.study_file.spec import StudySpec
from hpo.tracking.runs import ComparisonInfo, TrackedStudy
from hpo.tracking.sync import Sync, Tracker
from hpo.tracking.ui import SQLITE, TRIALS, link, sqlite_path, tracking_uri


def sync_these(spec: StudySpec, studies: Sequence[Folders], timeout: float = 60, comparison: str | None = None) -> str:
    """Deliver what MLflow lacks; returns a line. comparison: its title. Raises EnvironmentFailed, Conflict."""
    if not spec.tracking.enabled:
        return "tracking is off in this study"
    uri = tracking_uri(spec, studies[0].state, os.environ)
    specs = [replace(spec, strategy=one.strategy, seed=one.seed) for one in studies]
    with ExitStack() as stack:
        stack.callback(DriverLock(*(one.lock for one in studies)).release)
        info = comparison_info(studies[0], comparison) if comparison is not None else None
        tracked = [tracked_study(*pair, info) for pair in zip(specs, studies, strict=True)]
        trouble = Sync(tracked, uri).deliver(timeout)
        if trouble:
            rule, again = "must answer to be brought up to date", command("sync", spec, studies[0].state)
            raise EnvironmentFailed(Mistake(uri, rule, trouble, f"start it, then: {again}"))
        models = [log_due(*pair, uri) for pair in zip(specs, studies, strict=True)] if comparison is None else []
    return "; ".join([f"MLflow has everything of {', '.join(one.run.name for one in studies)}", *filter(None, models)])


def log_due(spec: StudySpec, folders: Folders, uri: str) -> str:
    """Log the best model that this store has not; returns where it is, "" if none is due. Raises HpoError."""
    with Journal.open(folders.journal, read_only=True) as journal:
        result = read_result(spec, folders.state) if journal.get(PUBLISHED) else None  # what only confirms has none
    if result is None or result.published is None:
        return ""
    with Journal.open(folders.journal) as journal, Tracker([tracked_study(spec, folders)], uri) as tracker:
        place = Place.of(tracker, folders)
        last = noted(journal, PUBLISHED, about(result, result.best), place)
        if last is not None and last.model is not None:
            return ""
        result.refuse_other_code(result.best)
        done = publish_trial(result, result.best, result.checkpoint(), journal, journal.append, place)
    if done.failed:
        raise EnvironmentFailed(f"{folders.run}: {done.said}; run `{command('sync', spec, folders.state)}` again")
    return done.said


def comparison_info(folders: Folders, title: str) -> ComparisonInfo:
    place = folders.study / "compare"
    return ComparisonInfo(key=f"{place}", title=title, artifacts=(place / "report.html", place / "plots"))


def tracked_study(spec: StudySpec, folders: Folders, comparison: ComparisonInfo | None = None) -> TrackedStudy:
    """What MLflow shows of a study beside its events."""
    texts = {"study.yaml": without_password(spec.text), "search_space.yaml": spec.space_text}
    fixed = spec.space.constants
    with Journal.open(folders.journal, read_only=True) as journal:
        goal = as_counted(spec, journal).goal
    return TrackedStudy(
        journal=folders.journal,
        name=spec.name,
        strategy=spec.strategy,
        seed=spec.seed,
        goal=goal,
        texts={name: text for name, text in texts.items() if text},
        artifacts=(folders.report, folders.trials_csv, folders.artifacts),
        columns=tuple(one.name for one in spec.space.parameters if not one.when and one.name not in fixed),
        experiment=spec.tracking.experiment,
        source=str(spec.path or "study.yaml"),
        registered=registered(spec) if comparison is None else None,  # those that are compared are not published
        comparison=comparison,
        learned=partial(learned, spec, folders),
    )


def serve_ui(spec: StudySpec, state: Path, port: int) -> None:
    """Run MLflow's server on the loopback address until it is interrupted; of a server elsewhere print the address.

    It ends with this process, also on SIGTERM. Raises BadInput, NoResult before the first run, EnvironmentFailed.
    """
    if not spec.tracking.enabled:
        raise BadInput(Mistake(spec.place("tracking"), "must not be off to open MLflow", "false", "see the report"))
    uri = tracking_uri(spec, state, os.environ)
    if uri.startswith(SQLITE) and not sqlite_path(uri).exists():
        raise NoResult(f"{sqlite_path(uri)}: MLflow has nothing yet; `{command('run', spec, state)}` begins a study")
    if uri.startswith("http"):
        print(f"MLflow runs at {without_password(uri)}")
        return
    refuse_busy_port(port)
    words = [sys.executable, *f"-m mlflow ui --host 127.0.0.1 --port {port} --workers 1".split()]
    environment = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,  # not among the arguments, which every user of the machine can read
    }
    for ends in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ends, signal.default_int_handler)
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            if (shown := address(server, port, spec)) is not None:
                print(f"MLflow shows this study, until Ctrl-C:\n{shown}", flush=True)
            server.wait()
            log.seek(0)
            last = without_password((log.read().strip().splitlines() or ["no output"])[-1])
            raise EnvironmentFailed(Mistake("MLflow's server", "has ended by itself", last, "start it again"))
        except KeyboardInterrupt:
            pass
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)  # its workers too
            server.wait()


def address(server: subprocess.Popen[bytes], port: int, spec: StudySpec) -> str | None:
    """Where the study is, once the server answers: its front page if MLflow has no such study; None if the server ended."""
    base, name = f"http://127.0.0.1:{port}", urlencode({"experiment_name": spec.tracking.experiment or spec.name})
    while server.poll() is None:
        with closing(HTTPConnection("127.0.0.1", port, timeout=10)) as connection, suppress(OSError, HTTPException):
            connection.request("GET", f"/api/2.0/mlflow/experiments/get-by-name?{name}")
            found = json.load(connection.getresponse()).get("experiment")
            return link(base, found["experiment_id"], TRIALS) if found else f"{base}/?workflowType=machine_learning"
        time.sleep(0.1)
    return None


def refuse_busy_port(port: int) -> None:
    """MLflow would report it in three lines of its log, after our line with the address. Raises EnvironmentFailed."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that has just ended keeps its port
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            rule, remedy = "must be free for the server", f"hpo ui --port {port + 1}"
            raise EnvironmentFailed(Mistake(f"127.0.0.1:{port}", rule, error.strerror or "busy", remedy)) from None
