"""What a study shows to the world: MLflow while it runs; at its end the winner, the table and the report."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import TracebackType
from typing import Self

from hpo.commands.sync import comparison_info, tracked_study
from hpo.engine import components as assembly
from hpo.engine.driver import Driver
from hpo.engine.result import Published
from hpo.engine.search import Search
from hpo.errors import HpoError
from hpo.files import Folders
from hpo.journal import Journal
from hpo.publishing.publish_best import publish_best
from hpo.tracking.runs import TrackedStudy
from hpo.tracking.sync import Tracker
from hpo.tracking.uri import tracking_uri

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
        together = None if group is None else comparison_info(folders[0], group)
        self._feeds = [tracked_study(one.spec, place, together) for one, place in zip(parts, folders, strict=True)]
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

    def _declare(
        self,
        parts: assembly.Parts,
        folders: Folders,
        search: Search,
        driver: Driver,
        journal: Journal,
        source: TrackedStudy,
    ) -> Published | None:
        """A model that cannot be published costs a warning: the study and its checkpoint are there."""
        outlet = None if self.tracker is None else (self.tracker, source)
        try:
            return publish_best(parts, folders, search, driver.executor, journal, outlet)
        except HpoError as error:
            log.warning("%s", error)
            return None
