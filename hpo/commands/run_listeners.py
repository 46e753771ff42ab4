"""What a study shows to the world: MLflow while it runs; at its end the winner, the table and the report."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Self

from hpo.core import Params, Report
from hpo.engine import components as assembly
from hpo.engine.driver import Driver
from hpo.engine.search import Search
from hpo.errors import EnvironmentFailed, HpoError, Mistake, NoResult
from hpo.files import Folders
from hpo.journal import Journal
from hpo.publishing import publish_best as winner
from hpo.publishing.publisher import Published
from hpo.study_file.spec import StudySpec
from hpo.tracking.tracker import Feed, Group, Tracker, sync, tracking_uri
from hpo.tracking.uri import without_password
from hpo.training.diagnosis import diagnose

log = logging.getLogger(__name__)


class Outlook:
    """A context around a driver: inside it MLflow listens; `conclude` shows what came of the studies."""

    def __init__(
        self,
        parts: Sequence[assembly.Parts],
        folders: Sequence[Folders],
        searches: Sequence[Search],
        journals: Sequence[Journal],
        environ: Mapping[str, str],
        group: str | None = None,
    ) -> None:
        self._studies = list(zip(parts, folders, searches, journals, strict=True))
        self.undelivered = 0
        self.ui = ""
        self.published: list[Published | None] = []
        spec = parts[0].spec
        self.tracker: Tracker | None = None
        together = None if group is None else compared(folders[0], group)
        self._feeds = [feed(one.spec, place, together) for one, place in zip(parts, folders, strict=True)]
        if spec.tracking.enabled:
            uri = tracking_uri(spec.tracking.uri, folders[0].state, environ, spec.place("tracking.uri"))
            self.tracker = Tracker(self._feeds, uri)

    def __enter__(self) -> Self:
        if self.tracker is not None:
            self.tracker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.tracker is not None:
            self.undelivered = self.tracker.close(3.0 if kind is not None else 30.0)
            self.ui = self.tracker.ui_line()

    def conclude(self, driver: Driver, publish: bool) -> None:
        """Publish each winner, unless the run was stopped, and write what can be looked at."""
        if not publish:
            self.published = [None] * len(self._studies)
            return
        showing = (
            "hpo.commands.report"  # matplotlib and pandas: 1 s, spent while a process of its own publishes the model
        )
        threading.Thread(target=import_module, args=(showing,), daemon=True).start()
        for (parts, folders, search, journal), source in zip(self._studies, self._feeds, strict=True):
            published = None
            if not driver.stopping and search.closing != "failing":
                published = self._declare(parts, folders, search, driver, journal, source)
            self.published.append(published)
            import_module(showing).show(parts.spec, folders, search.study)
        if self.tracker is not None:
            self.tracker.artifacts()

    def _declare(
        self, parts: assembly.Parts, folders: Folders, search: Search, driver: Driver, journal: Journal, source: Feed
    ) -> Published | None:
        """A model that cannot be published costs a warning: the study and its checkpoint are there."""
        outlet = None if self.tracker is None else (self.tracker, source)
        try:
            return winner.declare(parts, folders, search, driver.executor, journal, outlet)
        except HpoError as error:
            log.warning("%s", error)
            return None


def compared(folders: Folders, title: str) -> Group:
    """The comparison a study is part of: its parent in MLflow."""
    place = folders.study / "compare"
    return Group(key=f"{place}", title=title, artifacts=(place / "report.html", place / "plots"))


def feed(spec: StudySpec, folders: Folders, group: Group | None = None) -> Feed:
    """What the tracker is told of a study."""
    texts = {
        "study.yaml": without_password(spec.text),
        **({"search_space.yaml": spec.space_text} if spec.space_text else {}),
    }
    constants = spec.space.constants
    always = [parameter.name for parameter in spec.space.parameters if not parameter.when]
    return Feed(
        journal=folders.journal,
        name=spec.name,
        strategy=spec.strategy,
        seed=spec.seed,
        goal=spec.metric.as_goal(),
        texts=texts,
        artifacts=(folders.report, folders.trials_csv, folders.artifacts),
        columns=tuple(name for name in always if name not in constants),
        experiment=spec.tracking.experiment,
        source=str(spec.path or "study.yaml"),
        registered=spec.tracking.register,
        diagnose=tag_and_sentence,
        group=group,
    )


def tag_and_sentence(reports: Sequence[Report], params: Params) -> tuple[str, str] | None:
    if not reports:
        return None
    found = diagnose(reports, params)
    return found.tag, found.sentence


def deliver(spec: StudySpec, state: Path, timeout: float = 60.0) -> str:
    """Bring MLflow up to date with every study of this name; says what is still missing. Raises EnvironmentFailed."""
    found = [
        Folders(state, spec.name, *named(path)) for path in sorted((state / "studies" / spec.name).glob("*/journal.db"))
    ]
    if not found:
        raise NoResult(f"{state / 'studies' / spec.name}: no study of this name has been run")
    return deliver_all(spec, found, state, timeout)


def named(journal: Path) -> tuple[str, int]:
    strategy, _, seed = journal.parent.name.rpartition("-")
    return strategy, int(seed)


def deliver_all(spec: StudySpec, folders: Sequence[Folders], state: Path, timeout: float = 60.0) -> str:
    if not spec.tracking.enabled:
        return "tracking is off in this study"
    uri = tracking_uri(spec.tracking.uri, state, os.environ, spec.place("tracking.uri"))
    feeds = [feed(replace(spec, strategy=one.strategy, seed=one.seed), one) for one in folders]  # type: ignore[arg-type]
    standing = sync(feeds, uri, timeout)
    if standing.undelivered:
        raise EnvironmentFailed(
            Mistake(
                uri,
                "must answer to be brought up to date",
                standing.trouble,
                "start it, then run `hpo sync` again",
            )
        )
    return f"MLflow has everything of {', '.join(one.run.name for one in folders)}"


def serve_ui(spec: StudySpec, state: Path, port: int) -> int:
    """Run MLflow's server on this study's store until it is interrupted; a server elsewhere is only named."""
    uri = tracking_uri(spec.tracking.uri, state, os.environ, spec.place("tracking.uri"))
    if uri.startswith("http"):
        print(f"MLflow runs at {without_password(uri)}")
        return 0
    refuse_a_busy(port)
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port)]
    environment = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,  # not among the arguments, which everybody on the machine can read
    }
    print(f"http://127.0.0.1:{port}/?workflowType=machine_learning  (Ctrl-C ends it)", flush=True)
    try:
        return subprocess.run(command, env=environment, check=False).returncode
    except KeyboardInterrupt:
        return 0


def refuse_a_busy(port: int) -> None:
    """MLflow would say so in three lines of its log, after our own that it serves. Raises EnvironmentFailed."""
    with socket.socket() as listener:
        listener.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # a server that has just ended leaves its port so
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            rule, remedy = "must be free for the server", f"hpo ui --port {port + 1}"
            raise EnvironmentFailed(Mistake(f"127.0.0.1:{port}", rule, error.strerror or "busy", remedy)) from None
