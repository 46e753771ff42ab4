"""What a study shows to the world: MLflow while it runs; at its end the winner, the table and the report."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from hpo import assembly, winner
from hpo.core import Params, Report
from hpo.driver import Driver
from hpo.errors import HpoError
from hpo.folders import Folders
from hpo.journal import Journal
from hpo.publishing import Published
from hpo.search import Search
from hpo.spec import StudySpec
from hpo.tracking import Feed, Tracker, tracking_uri
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
    ) -> None:
        self._studies = list(zip(parts, folders, searches, journals, strict=True))
        self.undelivered = 0
        self.ui = ""
        self.published: list[Published | None] = []
        spec = parts[0].spec
        self.tracker: Tracker | None = None
        self._feeds = [feed(*pair) for pair in zip([one.spec for one in parts], folders, strict=True)]
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

    def conclude(self, driver: Driver) -> None:
        """Publish each winner, unless the run was stopped, and write what can be looked at."""
        from hpo.showing import show  # matplotlib and pandas: 1 s that the training should not wait for

        for (parts, folders, search, journal), source in zip(self._studies, self._feeds, strict=True):
            published = None
            if not driver.stopping and search.closing != "failing":
                published = self._declare(parts, folders, search, driver, journal, source)
            self.published.append(published)
            show(parts.spec, folders, search.study)
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


def feed(spec: StudySpec, folders: Folders) -> Feed:
    """What the tracker is told of a study."""
    texts = {"study.yaml": spec.text, **({"search_space.yaml": spec.space_text} if spec.space_text else {})}
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
    )


def tag_and_sentence(reports: Sequence[Report], params: Params) -> tuple[str, str] | None:
    if not reports:
        return None
    found = diagnose(reports, params)
    return found.tag, found.sentence
