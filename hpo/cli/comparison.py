"""What `hpo compare` shows: progress while its studies run, then the verdicts."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

from rich.console import Group
from rich.live import Live
from rich.table import Table

from hpo.cli.console import Terminal
from hpo.commands.compare import compare_strategies, deliver
from hpo.commands.run import RunOptions
from hpo.comparison import text
from hpo.core import Closed, Ended, Event, Reported
from hpo.engine.search import Search
from hpo.formatting import count, decimals, duration
from hpo.study_file.spec import StudySpec

REDRAWS = 2.0  # a second


def show_comparison(spec: StudySpec, state: Path, rescore: bool, fresh: bool = False, as_json: bool = False) -> None:
    """What `hpo compare` prints; of JSON the progress goes to stderr."""
    terminal = Terminal(stderr=as_json)
    progress = Progress(spec, terminal)
    options = RunOptions(state, fresh, listeners=[progress.hear], environ=os.environ)
    with progress.shown():
        compared = compare_strategies(spec, options, rescore)
    deliver(spec, compared)
    if as_json:
        print(json.dumps(text.as_json(compared.comparison) | {"report": str(compared.report)}, indent=2))
        return
    tty = terminal.is_terminal
    for part in text.shown(compared.comparison, terminal) if tty else text.lines(compared.comparison):
        terminal.print(part, highlight=False, soft_wrap=not tty, markup=False)
    progress.say(
        f"trained {progress.trained} epochs for {progress.charged} charged, this time, without the fresh seeds"
    )
    progress.say(f"report, and what the columns mean: {compared.report}")


class Progress:
    """A listener: on a terminal a table of all studies, elsewhere a line now and then and one for each study that ends.

    Its measure is epochs charged, not seconds.
    """

    def __init__(self, spec: StudySpec, terminal: Terminal) -> None:
        self.spec, self.terminal = spec, terminal
        self.trained = self.charged = 0  # epochs of this run
        self._ended = 0  # trials
        self._began = time.monotonic()
        self._searches: dict[str, Search] = {}

    def shown(self) -> contextlib.AbstractContextManager[object]:
        """The context in which a terminal shows it."""
        if not self.terminal.is_terminal:
            return contextlib.nullcontext()
        return Live(self, console=self.terminal, refresh_per_second=REDRAWS, transient=True)

    def hear(self, search: Search, event: Event) -> None:
        self._searches[search.name] = search
        if isinstance(event, Reported):
            self.charged += 1
            self.trained += not event.reused
        self._ended += isinstance(event, Ended)
        if self.terminal.is_terminal:
            return
        if isinstance(event, Closed):
            self.say(self._line(search))
        elif isinstance(event, Ended) and self._ended % (5 * len(self._searches)) == 0:
            self.say(self._head())

    def say(self, line: str) -> None:
        self.terminal.print(line, highlight=False, soft_wrap=True, markup=False)

    def __rich__(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("study", "trials", "epochs", f"best {self.spec.metric.name}"):
            table.add_column(name, justify="left" if name == "study" else "right")
        for search in self._searches.values():
            epochs = f"{search.study.epochs}/{search.budget.total_epochs}"
            table.add_row(search.name, str(len(search.study)), epochs, _best(search))
        return Group(self._head(), table)

    def _head(self) -> str:
        searches = self._searches.values()
        budget = sum(search.budget.total_epochs or 0 for search in searches)
        done = sum(min(search.study.epochs, search.budget.total_epochs or 0) for search in searches)
        head = f"{self.spec.name}: {count(len(searches), 'study')}, {done} of {budget} epochs"
        if not self.charged:
            return head
        left = (budget - done) * (time.monotonic() - self._began) / self.charged
        return f"{head}, about {duration(left)} left"

    def _line(self, search: Search) -> str:
        epochs = f"{count(search.study.epochs, 'epoch')}, {search.study.reused_epochs} of them reused"
        return f"{search.name}: {search.goal.metric} {_best(search)} after {epochs}"


def _best(search: Search) -> str:
    value = None if search.best is None else search.goal.value(search.best)
    return "-" if value is None else decimals(value)
