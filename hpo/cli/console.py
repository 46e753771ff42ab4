"""What a user sees while studies run: a live table on a terminal, plain lines elsewhere. Listens, decides nothing."""

import contextlib
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from typing import Any

import rich.console
from rich.console import ConsoleOptions, Group, RenderableType, RichCast
from rich.live import Live
from rich.markup import escape
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from hpo.core import EPOCHS, Closed, Ended, Event, Goal, Outcome, Params, Paused, Reported, Retried, State, Trial
from hpo.engine import components
from hpo.engine.search import Search
from hpo.formatting import count, decimals, duration, limits, nearby, printable, read_at, wrapped, written
from hpo.study_file.spec import StudySpec

TICKS = "▁▂▃▄▅▆▇█"
PIPED_WIDTH = 10_000  # no line is cut or wrapped for a program
RECENT = 6  # finished trials shown under the running ones
FIXED = 46  # columns that all but the metric's name and the params take
REDRAWS, COMPARISON_REDRAWS = 4.0, 2.0  # a second
NARROW = 30  # columns below which params are left out
BEST = "  <- best"
FINISHING = "finishing the running epochs; Ctrl-C again ends at once"
MARKS = {State.COMPLETE: "green", State.PRUNED: "yellow", State.FAILED: "red", State.PAUSED: "blue"}


class Terminal(rich.console.Console):
    """rich's console, which outlives its reader (`hpo run | head`) and cleans names, which may be a stranger's."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, **options)
        if not self.is_terminal and "width" not in options:
            self.width = PIPED_WIDTH

    def say(self, line: str, markup: bool = False) -> None:
        """Print words, on a terminal in lines of its width."""
        self.print(wrapped(line, self.width), soft_wrap=True, markup=markup)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text, keep="\n"), segment.style)

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


@dataclass(slots=True)
class Utilization:
    """From the first epoch's start to the last report: seconds trained, against what `slots` workers could have trained."""

    slots: int
    trained: float = 0.0
    epochs: int = 0
    reused: int = 0  # epochs that were another trial's or study's
    first: float | None = None
    last: float = 0.0

    def take(self, event: Event) -> None:
        if isinstance(event, Reported) and event.reused:
            self.reused += 1
        elif isinstance(event, Reported):
            report = event.report
            began = report.time - report.seconds
            self.first = began if self.first is None else min(self.first, began)
            self.last = max(self.last, report.time)
            self.trained += report.seconds
            self.epochs += 1

    @property
    def share(self) -> float | None:
        """Between 0 and 1; None before the second report."""
        if self.first is None or self.last <= self.first:
            return None
        return min(1.0, self.trained / (self.slots * (self.last - self.first)))


@contextlib.contextmanager
def watch(terminal: Terminal, spec: StudySpec) -> Iterator["Console"]:
    """A context in which the console of one study is shown. Raises BadInput for a device that is not there."""
    title, slots, fixed = f"{spec.name} ({spec.strategy})", len(components.placement(spec)), spec.space.constants
    what = f"{count(len(spec.space.parameters) - len(fixed), 'parameter')} of {spec.train or spec.model}"
    data = [f"data {nearby(spec.data.source)}"] if spec.data is not None else []
    about = ", ".join([what, *data, *limits(*astuple(spec.budget)), count(slots, "worker")])
    console = Console(terminal, spec.goal, slots, fixed, title)
    with live(terminal, console, REDRAWS, f"{title}: {about}"):
        yield console


def live(terminal: Terminal, table: RichCast, redraws: float, about: str) -> contextlib.AbstractContextManager[object]:
    """Say what is about to run; then the context in which a terminal shows a table, drawn again and again."""
    terminal.say(about)
    if not terminal.is_terminal:
        return contextlib.nullcontext()
    return Live(table, console=terminal, refresh_per_second=redraws, transient=True)


class Console:
    """Listens to one search: a live table, or a line when something ended."""

    def __init__(self, terminal: Terminal, goal: Goal, slots: int, constants: Mapping[str, object], title: str) -> None:
        self.terminal, self.goal, self.slots, self.constants, self.title = terminal, goal, slots, constants, title
        self.utilization = Utilization(slots)
        self._recent: deque[int] = deque(maxlen=RECENT)
        self._ended = 0  # trials, since this driver came
        self._began = time.monotonic()
        self._search: Search | None = None

    def receive(self, search: Search, event: Event) -> None:
        self._search, self.goal = search, search.goal
        self.utilization.take(event)
        if isinstance(event, Retried):
            line = f"attempt {event.attempt} of a training: {event.error}"
            self.terminal.print(line, style="yellow", markup=False, soft_wrap=True)
        self._ended += isinstance(event, Ended)
        if isinstance(event, Ended | Paused):
            best = search.best is not None and search.best.number == event.trial
            if best or isinstance(event, Ended):  # what rests has a line where it is the best
                self._recent.appendleft(event.trial)
                if not self.terminal.is_terminal:
                    line = trial_line(search.study.trials[event.trial], self.goal, self.constants)
                    self.terminal.print(line + BEST * best, markup=False, soft_wrap=True)

    def _left(self, search: Search) -> float | None:
        """Seconds to the end of the budget at the pace so far; None while there is none."""
        budget, study, elapsed = search.budget, search.study, time.monotonic() - self._began
        shares = []
        if budget.trials and self._ended:
            done = len(study.trials) - len(study.running)
            shares.append((budget.trials - done) * elapsed / self._ended)
        if budget.total_epochs and self.utilization.epochs:
            shares.append((budget.total_epochs - study.epochs) * elapsed / self.utilization.epochs)
        if budget.time and (shares or not (budget.trials or budget.total_epochs)):  # by itself it is no estimate
            shares.append(budget.time - study.active_seconds)
        return max(0.0, min(shares)) if shares else None

    # -- the live table

    def __rich__(self) -> Group:
        search = self._search
        if search is None:
            return Group(Text(f"{self.title}: starting {self.slots} workers ...", style="dim"))
        return Group(self._head(search), self._table(search))

    def _head(self, search: Search) -> Text:
        text = Text(self.title, style="bold")
        text.append(f"   {spent(search)}", style="default")
        left = self._left(search)
        if search.stopping or search.study.closed is not None:
            text.append(f"   {ended_by(search)}", style="dim")
        elif left is not None:
            text.append(f"   about {duration(left)} left", style="dim")
        if search.best is not None:
            best = f"\nbest {self.goal.metric} {best_of(search)}{read_at(search.best, self.goal)}"
            text.append(best, style="bold green")
            point = varying(search.best.params, self.constants)
            text.append(f"  trial {search.best.number}  {point}", style="green")
        return text

    def _table(self, search: Search) -> Table:
        room = self.terminal.width - FIXED - len(self.goal.metric)
        table = Table(box=None, pad_edge=False, show_header=True, header_style="dim")
        for name in ("trial", "state", "epoch", self.goal.metric, "curve"):
            table.add_column(name, justify="left" if name in ("state", "curve") else "right", no_wrap=True)
        if room >= NARROW:
            table.add_column("params", max_width=room, no_wrap=True)
        numbers = dict.fromkeys([*search.study.running, *self._recent])
        for trial in (search.study.trials[n] for n in [*numbers][: self.slots + RECENT]):
            numbers_of = str(trial.number), word(trial), f"{trial.epoch}/{trial.epochs}", shown(self.goal.value(trial))
            cells = [*numbers_of, sparkline(trial, self.goal), varying(trial.params, self.constants)]
            table.add_row(*map(escape, cells[: len(table.columns)]), style=MARKS.get(trial.state, "default"))
        return table


def ended_by(search: Search) -> str:
    """What is done between the last decision and the end; what was stopped is not published."""
    if search.stopping and search.study.closed is None:
        return FINISHING
    return f"{'' if search.stopping else 'publishing the best model, '}writing the report ..."


def spent(search: Search) -> str:
    """What of the budget is used: "12/40 trials, 130 epochs"."""
    study, budget = search.study, search.budget
    of = {"trial": (len(study.trials), budget.trials), "epoch": (study.epochs, budget.total_epochs)}
    return ", ".join(f"{done}/{count(most, noun)}" if most else count(done, noun) for noun, (done, most) in of.items())


def trial_line(trial: Trial, goal: Goal, constants: Mapping[str, object]) -> str:
    """One trial in one line, for logs."""
    seconds = sum(report.seconds for report in trial.reports)
    epochs = f"{count(trial.epoch, 'epoch'):>10}"
    value, cost = f"{shown(goal.value(trial)):>7}{read_at(trial, goal)}", f"{epochs}  {seconds:6.1f} s"
    head = f"trial {trial.number:>3}  {word(trial):<8}  {goal.metric} {value}  {cost}"
    line = f"{head}  {varying(trial.params, constants)}"
    return f"{line}  {trial.error}" if trial.error else line


def word(trial: Trial) -> str:
    return str(trial.outcome) if trial.outcome is not Outcome.OK else str(trial.state)


def varying(params: Params, constants: Mapping[str, object]) -> str:
    """What tells a trial from others: also where it is older than what is constant now."""
    shown = {name: value for name, value in params.items() if name == EPOCHS or constants.get(name) != value}
    return " ".join(f"{name}={written(value)}" for name, value in shown.items())


def shown(value: float | None) -> str:
    return "-" if value is None else decimals(value)


def best_of(search: Search) -> str:
    return shown(None if search.best is None else search.goal.value(search.best))


def sparkline(trial: Trial, goal: Goal, width: int = 12) -> str:
    """The metric over the epochs in one character each, the last `width` of them."""
    values = [report.metrics[goal.metric] for report in trial.reports if goal.metric in report.metrics][-width:]
    finite = [value for value in values if abs(value) < float("inf") and value == value]
    if not finite:
        return ""
    low, high = min(finite), max(finite)
    scale = (len(TICKS) - 1) / (high - low) if high > low else 0.0
    return "".join(TICKS[int((value - low) * scale)] if value in finite else " " for value in values)


class ComparisonProgress:
    """A listener: on a terminal a table of all studies, elsewhere a line now and then and one for each that ends."""

    def __init__(self, spec: StudySpec, terminal: Terminal, budget: int) -> None:
        self.spec, self.terminal, self.budget = spec, terminal, budget  # epochs of all its studies, begun or not
        self.trained = self.charged = 0  # epochs of this run
        self._ended = 0  # trials
        self._began = time.monotonic()
        self._searches: dict[int, Search] = {}  # by identity: two study files have studies of one name

    def receive(self, search: Search, event: Event) -> None:
        self._searches[id(search)] = search
        if isinstance(event, Reported):
            self.charged += 1
            self.trained += not event.reused
        self._ended += isinstance(event, Ended)
        if self.terminal.is_terminal:
            return
        if isinstance(event, Closed):
            epochs = f"{count(search.study.epochs, 'epoch')}, {search.study.reused_epochs} of them reused"
            self.terminal.say(f"{search.name}: {search.goal.metric} {best_of(search)} after {epochs}")
        elif isinstance(event, Ended) and self._ended % (5 * len(self._searches)) == 0:
            self.terminal.say(self._head())

    def __rich__(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("study", "trials", "epochs", f"best {self.spec.metric.name}"):
            table.add_column(name, justify="left" if name == "study" else "right")
        for search in self._searches.values():
            epochs = f"{search.study.epochs}/{search.budget.total_epochs}"
            table.add_row(search.name, str(len(search.study)), epochs, best_of(search))
        return Group(self._head(), table)

    def _head(self) -> str:
        searches = self._searches.values()
        done = sum(min(search.study.epochs, search.budget.total_epochs or 0) for search in searches)
        head = f"{self.spec.name}: {count(len(searches), 'study')}, {done} of {count(self.budget, 'epoch')}"
        if any(search.stopping for search in searches):
            return f"{head}, {FINISHING}"
        if not self.charged:
            return head
        left = (self.budget - done) * (time.monotonic() - self._began) / self.charged
        return f"{head}, about {duration(left)} left"
