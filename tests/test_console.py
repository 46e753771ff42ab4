"""What is drawn while a study runs, in a wide and a narrow window, and what is written to a pipe."""

import io
import re
from pathlib import Path

import fakes
import laws
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console as Terminal
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from benchmarks.simulated import SimulatedExecutor
from hpo.cli.console import Console, Utilization, shown, sparkline, trial_line, varying
from hpo.cli.console import Terminal as CleanTerminal
from hpo.core import Ended, Event, Goal, Outcome, Paused, Reason, Report, Reported, Started, State, Study, Trial
from hpo.engine.driver import Driver
from hpo.engine.search import Search
from hpo.engine.trainings import Trainings
from hpo.errors import BadInput, Mistake
from hpo.formatting import printable
from hpo.strategies.points import Problem, Random
from hpo.study_file.spec import Budget

GOAL = Goal()


def drive(console: Console, folder: Path, trials: int = 8) -> Search:
    search = Search(Study(), Random(Problem(fakes.SPACE, seed=1)), GOAL, Budget(trials=trials), laws.identity())
    executor = SimulatedExecutor(fakes.Fake().train, 2)
    Driver([search], executor, Trainings(folder), clock=executor.clock, listeners=[console.receive]).run()
    return search


def drawn(width: int, folder: Path) -> list[str]:
    """The live picture after a study, as lines."""
    terminal = Terminal(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    console = Console(terminal, GOAL, 2, {}, "tiny (random)")
    drive(console, folder)
    out = Terminal(file=io.StringIO(), width=width, color_system=None)
    out.print(console)
    return out.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [60, 80, 130, 200])
def test_no_line_is_wider_than_the_window_and_no_number_is_cut(width: int, tmp_path: Path) -> None:
    lines = drawn(width, tmp_path)
    assert all(len(line) <= width for line in lines), lines
    header = next(line for line in lines if line.startswith("trial"))
    assert "val_accuracy" in header
    assert ("params" in header) is (width >= 100)
    rows = lines[lines.index(header) + 1 :]
    assert len(rows) == 6
    assert all(any(tick in row for tick in "▁▂▃▄▅▆▇█") for row in rows)
    assert not any("…" in row.split("learning_rate")[0] for row in rows)


def test_the_best_trial_and_the_budget_stand_at_the_top(tmp_path: Path) -> None:
    first, second, *_ = drawn(150, tmp_path)
    assert first.startswith("tiny (random)   8/8 trials, ")
    assert second.startswith("best val_accuracy 0.")


def test_the_head_says_what_is_waited_for_once_a_run_is_stopped(tmp_path: Path) -> None:
    console = Console(Terminal(file=io.StringIO(), force_terminal=True, width=200), GOAL, 2, {}, "tiny")
    heads: list[str] = []

    def listen(search: Search, event: Event) -> None:
        console.receive(search, event)
        if isinstance(event, Ended):
            driver.stop(2)
        heads.append(console.__rich__().renderables[0].plain.splitlines()[0])  # type: ignore[union-attr]

    search = Search(Study(), Random(Problem(fakes.SPACE, seed=1)), GOAL, Budget(trials=8, time=1800), laws.identity())
    executor = SimulatedExecutor(fakes.Fake().train, 2)
    driver = Driver([search], executor, Trainings(tmp_path), clock=executor.clock, listeners=[listen])
    driver.run()
    assert search.study.closed is Reason.INTERRUPTED
    assert heads[-1].endswith("   writing the report ...")
    assert heads[-2].endswith("   finishing the running epochs; Ctrl-C again ends at once")
    assert not any("publishing" in head for head in heads)
    assert not any("left" in head for head in heads), "before a trial has ended, the time budget alone is no estimate"


def test_a_pipe_gets_one_plain_line_a_trial_and_every_best_is_marked(tmp_path: Path) -> None:
    text = io.StringIO()
    search = drive(Console(Terminal(file=text, width=40), GOAL, 2, {}, "tiny"), tmp_path, trials=20)
    lines = text.getvalue().splitlines()
    assert all(line.startswith("trial ") and "\x1b" not in line for line in lines)
    best = -1.0
    for number, line in zip(search.study.spent, lines, strict=True):
        value = GOAL.value(search.study.trials[number])
        assert line.endswith("<- best") == (value is not None and value > best), line
        best = max(best, value or best)
        assert f" {shown(value)} " in line, "the number of the best line too"


def reports(*values: float) -> tuple[Report, ...]:
    return tuple(Report(i, {"val_accuracy": value}, 1.0, 0.0) for i, value in enumerate(values, 1))


def test_a_best_that_rests_has_a_line_too_and_one_that_does_not_count_has_none() -> None:
    text, goal = io.StringIO(), Goal(epochs=(2, 4))
    search = Search(Study(), Random(Problem(fakes.SPACE, seed=1)), goal, Budget(), laws.identity())
    console = Console(Terminal(file=text), goal, 2, {}, "tiny")
    for number, values in enumerate([(0.9,), (0.3, 0.5), (0.2, 0.4)]):
        reported = [Reported(f"k{number}", report) for report in reports(*values)]
        for event in (Started(0.0, number, {"epochs": 4}, 0, f"k{number}", 0, 4), *reported, Paused(0.0, number)):
            search.record(event)
            console.receive(search, event)
    assert re.fullmatch(r"trial   1  paused .* 0\.5000, epoch 2 of 4 .*  <- best\n", text.getvalue())


def test_a_sparkline_rises_with_the_curve_and_survives_what_is_no_number() -> None:
    def trial(*values: float) -> Trial:
        return Trial(0, {"epochs": 9}, 0, "k", 9, reports(*values))

    assert sparkline(trial(0.0, 0.5, 1.0), GOAL) == "▁▄█"
    assert sparkline(trial(0.5), GOAL) == "▁"
    assert sparkline(trial(0.1, float("nan"), 0.2), GOAL) == "▁ █"
    assert sparkline(trial(), GOAL) == ""
    assert len(sparkline(trial(*range(50)), GOAL)) == 12


def test_a_failed_trial_says_why_and_settings_leave_out_what_never_varies_but_the_epochs() -> None:
    failed = Trial(3, {"epochs": 2}, 0, "k", 2, state=State.FAILED, outcome=Outcome.OOM, error="made up")
    line = " ".join(trial_line(failed, GOAL, {}).split())
    assert line == "trial 3 oom val_accuracy - 0 epochs 0.0 s epochs=2 made up"
    assert varying({"a": 1, "b": 0.123456, "epochs": 3}, {"a": 1, "epochs": 3}) == "b=0.1235 epochs=3"


def test_utilization_is_the_share_of_the_workers_time_that_was_trained(tmp_path: Path) -> None:
    console = Console(Terminal(file=io.StringIO()), GOAL, 2, {}, "tiny")
    drive(console, tmp_path, trials=40)
    assert 0.95 < (console.utilization.share or 0.0) <= 1.0
    assert Utilization(4, trained=10.0, first=0.0, last=5.0).share == 0.5


@given(name=st.text(alphabet=st.characters(codec=None, exclude_categories=()), max_size=20))
def test_a_name_reaches_a_terminal_without_escapes(name: str) -> None:
    table = Table(title=Text(name))
    table.add_column(Text(name))
    table.add_row(escape(name))
    shown = io.StringIO()
    hpo_terminal = CleanTerminal(file=shown, width=200)
    hpo_terminal.print(name, table, markup=False)
    line = str(BadInput(Mistake(name, name, name, name), name))
    assert all(text.isprintable() for text in [*shown.getvalue().split("\n"), *line.split("\n")])
    assert not name.isprintable() or (name in printable(name) and str(BadInput(name)) == name)
