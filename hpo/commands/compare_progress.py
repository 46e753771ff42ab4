"""The progress of a comparison: many studies at once, one line each on a terminal, one line a finished study elsewhere."""

from __future__ import annotations

import time

from rich.console import Group
from rich.table import Table
from rich.text import Text

from hpo.cli.console import Picture, number
from hpo.core import Closed, Ended, Event, Reported
from hpo.engine.search import Search
from hpo.formatting import count, duration
from hpo.study_file.spec import StudySpec
from hpo.terminal import Terminal

REDRAWS = 2.0  # a second


class Watch(Picture):
    """Listens to the searches of a comparison. Epochs charged, not seconds, are its measure of progress."""

    def __init__(self, terminal: Terminal, spec: StudySpec) -> None:
        self.spec = spec
        self._searches: dict[int, Search] = {}
        self._began = time.monotonic()
        self.trained = self.charged = 0  # epochs of this visit
        super().__init__(terminal, REDRAWS)

    def hear(self, search: Search, event: Event) -> None:
        self._searches[id(search)] = search
        if isinstance(event, Reported):
            self.charged += 1
            self.trained += not event.reused
        if self._live is None and isinstance(event, Closed):
            self.terminal.print(self._line(search), highlight=False, soft_wrap=True)
        if self._live is None and isinstance(event, Ended) and self._due():
            self.terminal.print(self._head(), highlight=False, soft_wrap=True)

    def _due(self) -> bool:
        """Plain output says how far it is a handful of times, not once a trial."""
        ended = sum(len(search.errors) for search in self._searches.values())
        return ended % max(1, 5 * len(self._searches)) == 0

    def _head(self) -> Text:
        searches = list(self._searches.values())
        charged = sum(min(search.study.epochs, search.budget.total_epochs or 0) for search in searches)
        budget = sum(search.budget.total_epochs or 0 for search in searches)
        text = Text(f"{self.spec.name}: {count(len(searches), 'study')}, {charged} of {budget} epochs")
        if self.charged:
            left = (budget - charged) * (time.monotonic() - self._began) / self.charged
            text.append(f", about {duration(left)} left")
        return text

    def _line(self, search: Search) -> str:
        value = None if search.best is None else search.goal.value(search.best)
        study = search.study
        found = f"{self._name(search)}: {search.goal.metric} {number(value)}"
        return f"{found} after {count(study.epochs, 'epoch')}, {study.reused_epochs} of them reused"

    def _name(self, search: Search) -> str:
        return search.name or "study"

    def _picture(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("study", "trials", "epochs", f"best {self.spec.metric.name}"):
            table.add_column(name, justify="left" if name == "study" else "right")
        for search in self._searches.values():
            value = None if search.best is None else search.goal.value(search.best)
            table.add_row(
                self._name(search),
                str(len(search.study)),
                f"{search.study.epochs}/{search.budget.total_epochs}",
                number(value),
            )
        return Group(self._head(), table)
