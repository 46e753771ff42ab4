"""The command line: verbs, flags, exit codes. Everything heavy is imported inside the verb that needs it."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpo import __version__
from hpo.cli import model as winner_verbs
from hpo.cli.options import STUDY, common, read, stored
from hpo.errors import EnvironmentFailed, HpoError, Mistake, NoResult, Stopped

if TYPE_CHECKING:
    from hpo.engine.result import Result

SIGNALLED, ENVIRONMENT, BUG = 128, EnvironmentFailed.exit_code, HpoError.exit_code


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="hpo")
def cli() -> None:
    """Hyperparameter optimization for convolutional networks.

    \b
    hpo init                 write a commented study.yaml
    hpo run study.yaml       search: bayesian, random or grid (ordered by usefulness)
    hpo ui                   look at every trial in MLflow
    """


@cli.command()
@STUDY
def init(study: Path) -> None:
    """Write a commented STUDY file to start from."""
    from hpo.errors import BadInput, Mistake
    from hpo.study_file.template import template

    if study.exists():
        raise BadInput(Mistake(str(study), "must not exist yet", "", "name another file: hpo init other.yaml"))
    study.write_text(template(study.absolute().parent.name if study.stem == "study" else study.stem))
    click.echo(f"{study} is written; look at it, then: hpo check {study}, hpo run {study}")


@cli.command()
@STUDY
@common
@click.option("--trials", type=click.IntRange(min=1), help="Trials in all from now on; remembered.")
@click.option("--time", "seconds", metavar="DURATION", help="Stop after this much active time, as 30m.")
@click.option("--workers", metavar="N", help="Trials at a time, or auto.")
@click.option("--device", help="auto, cpu, cuda or cuda:1.")
@click.option("--fresh", is_flag=True, help="Set what was run under this name aside and begin anew.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def run(
    study: Path,
    state: Path | None,
    strategy: str | None,
    seed: int | None,
    sets: tuple[str, ...],
    trials: int | None,
    seconds: str | None,
    workers: str | None,
    device: str | None,
    fresh: bool,
    as_json: bool,
) -> None:
    """Search. The same command again goes on with the study, up to its target."""
    flags = {"strategy": strategy, "budget.time": seconds, "workers": workers, "device": device}
    spec = read(study, sets, flags, seed)  # before all that is heavy: a bad file is refused at once

    from hpo import api
    from hpo.cli.summary import closing_lines, result_json
    from hpo.commands.run import Visit
    from hpo.commands.run import run as run_study
    from hpo.engine import reading
    from hpo.terminal import Terminal

    terminal = Terminal(stderr=as_json)
    with api.console_of(terminal, spec) as console:
        visit = Visit(reading.state_folder(spec, state), fresh, trials, listeners=[console.hear], environ=os.environ)
        result = run_study(spec, visit)
    if as_json:
        click.echo(json.dumps(result_json(result), indent=2))
    else:
        for line in closing_lines(result, console.progress.overhead, f"hpo run {study}"):
            terminal.print(line, highlight=False, soft_wrap=True)
    sys.exit(exit_code(result))


@cli.command()
@STUDY
@common
@click.option("--watch", is_flag=True, help="Look again every two seconds until the study rests.")
@click.option("--json", "as_json", is_flag=True)
def status(
    study: Path,
    state: Path | None,
    strategy: str | None,
    seed: int | None,
    sets: tuple[str, ...],
    watch: bool,
    as_json: bool,
) -> None:
    """What every study of this name has done so far, and who drives it now; with --strategy or --seed, these."""
    from hpo.commands.status import show_status
    from hpo.engine import reading

    spec = read(study, sets, {"strategy": strategy}, seed)
    show_status(spec, reading.state_folder(spec, state), watch, as_json, (strategy, seed))


@cli.command()
@click.argument("trial", type=int)
@click.argument("study", type=click.Path(path_type=Path), default="study.yaml")
@common
@click.option("--json", "as_json", is_flag=True)
def show(
    trial: int,
    study: Path,
    state: Path | None,
    strategy: str | None,
    seed: int | None,
    sets: tuple[str, ...],
    as_json: bool,
) -> None:
    """One trial: its params, its epochs, what went well or wrong."""
    from hpo.commands.status import show_trial

    result = stored(study, state, sets, {"strategy": strategy}, seed)
    show_trial(result, trial, as_json)


@cli.command()
@STUDY
@common
def stop(study: Path, state: Path | None, strategy: str | None, seed: int | None, sets: tuple[str, ...]) -> None:
    """Ask the driver of a study to finish its epochs and rest."""
    from hpo.commands.status import stop_driver
    from hpo.engine import reading

    spec = read(study, sets, {"strategy": strategy}, seed)
    click.echo(stop_driver(spec, reading.state_folder(spec, state)))


@cli.command()
@STUDY
@common
@click.option("--trust", is_flag=True, help="Import the study's own Python code too.")
def check(
    study: Path, state: Path | None, strategy: str | None, seed: int | None, sets: tuple[str, ...], trust: bool
) -> None:
    """Proof before training: what is impossible and why, sizes, memory, time. Trains nothing, writes nothing."""
    from hpo.commands.check import check_study

    for line in check_study(read(study, sets, {"strategy": strategy}), trust):
        click.echo(line)


@cli.command()
@STUDY
@common
@click.option("--strategies", metavar="A,B,...", help="Which to compare [the file's].")
@click.option("--seeds", type=click.IntRange(min=1), help="Studies of each strategy [the file's].")
@click.option("--margin", type=float, help="Differences below are practically equal [the file's].")
@click.option("--workers", metavar="N", help="Trials at a time, or auto.")
@click.option("--device", help="auto, cpu, cuda or cuda:1.")
@click.option("--fresh", is_flag=True, help="Set what was run of these studies aside and begin anew.")
@click.option("--no-rescore", is_flag=True, help="Leave out the test score and the fresh seeds of each winner.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def compare(
    study: Path,
    state: Path | None,
    strategy: str | None,
    seed: int | None,
    sets: tuple[str, ...],
    strategies: str | None,
    seeds: int | None,
    margin: float | None,
    workers: str | None,
    device: str | None,
    fresh: bool,
    no_rescore: bool,
    as_json: bool,
) -> None:
    """Which strategy deserves its rank on these data: equal epochs, paired seeds, honest verdicts."""
    from hpo.commands.compare import run_comparison

    names = f"[{strategies}]" if strategies else strategy and f"[{strategy}]"
    flags = {
        "compare.strategies": names,
        "compare.seeds": seeds,
        "compare.margin": margin,
        "workers": workers,
        "device": device,
    }
    spec = read(study, sets, flags, seed)
    run_comparison(spec, state, not no_rescore, fresh, as_json)


@cli.command()
@STUDY
@common
@click.option("--top", type=click.IntRange(min=1), default=3, show_default=True, help="How many finalists.")
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True, help="Fresh training seeds of each.")
def confirm(
    study: Path, state: Path | None, strategy: str | None, seed: int | None, sets: tuple[str, ...], top: int, seeds: int
) -> None:
    """Retrain the finalists with fresh seeds: how much of the lead was luck, and which smallest model is as good."""
    from hpo.commands.confirm import run_confirmation

    for line in run_confirmation(read(study, sets, {"strategy": strategy}, seed), state, top, seeds):
        click.echo(line)


@cli.command()
@STUDY
@common
def report(study: Path, state: Path | None, strategy: str | None, seed: int | None, sets: tuple[str, ...]) -> None:
    """Write report.html and trials.csv of a study again."""
    from hpo.commands.report import show as write_report

    result = stored(study, state, sets, {"strategy": strategy}, seed)
    write_report(result.spec, result.folders, result.study)
    click.echo(str(result.folders.report))


@cli.command()
@STUDY
@common
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to try.")
def sync(
    study: Path, state: Path | None, strategy: str | None, seed: int | None, sets: tuple[str, ...], timeout: float
) -> None:
    """Deliver to MLflow what it missed while it was away."""
    from hpo.commands.sync import sync_all
    from hpo.engine import reading

    spec = read(study, sets, {"strategy": strategy}, seed)
    click.echo(sync_all(spec, reading.state_folder(spec, state), timeout))


@cli.command()
@STUDY
@common
@click.option("--optuna", type=click.Path(path_type=Path), help="Write a journal file that optuna-dashboard opens.")
@click.option("--csv", type=click.Path(path_type=Path), help="Write the trials as a table.")
def export(
    study: Path,
    state: Path | None,
    strategy: str | None,
    seed: int | None,
    sets: tuple[str, ...],
    optuna: Path | None,
    csv: Path | None,
) -> None:
    """Hand a study to other tools."""
    from hpo.commands.export import export_csv, export_optuna

    if optuna is None and csv is None:
        raise click.UsageError("name --optuna FILE or --csv FILE")
    result = stored(study, state, sets, {"strategy": strategy}, seed)
    for path, write in ((optuna, export_optuna), (csv, export_csv)):
        if path is not None:
            write(result, path)
            click.echo(str(path))


@cli.command()
@STUDY
@common
@click.option("--port", default=5000, show_default=True)
def ui(
    study: Path, state: Path | None, strategy: str | None, seed: int | None, sets: tuple[str, ...], port: int
) -> None:
    """Open MLflow on this study's store, on the loopback address."""
    from hpo.commands.ui import serve_ui
    from hpo.engine import reading

    spec = read(study, sets, {"strategy": strategy}, seed)
    sys.exit(serve_ui(spec, reading.state_folder(spec, state), port))


winner_verbs.register(cli)


def exit_code(result: Result) -> int:
    """0 if the study came to its end, 3 if nothing of it can be used, 128 + signal if it was stopped."""
    if result.stopped_by:
        return SIGNALLED + result.stopped_by
    if result.study.closed == "failing" or result.spec.metric.as_goal().best(result.study.trials) is None:
        return NoResult.exit_code
    return 0


def main() -> None:
    """The entry point: errors become lines on stderr and an exit code, never a traceback."""
    try:
        cli.main(standalone_mode=False)
    except HpoError as error:
        fail(str(error), error.exit_code)
    except click.exceptions.Exit as leaving:
        sys.exit(leaving.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.exceptions.Abort, KeyboardInterrupt) as leaving:
        if isinstance(leaving.__cause__, EOFError):  # click takes a file that ends too soon for a person's Ctrl-D
            fail_by_bug(leaving.__cause__)
        for again in (signal.SIGINT, signal.SIGTERM):  # who presses Ctrl-C once more gets no traceback for it
            signal.signal(again, signal.SIG_IGN)
        cause = leaving if isinstance(leaving, Stopped) else leaving.__cause__
        number = cause.number if isinstance(cause, Stopped) else signal.SIGINT
        fail("stopped; the same command goes on", SIGNALLED + number)
    except BrokenPipeError:  # `hpo status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        place, why = error.filename or "the machine", error.strerror or type(error).__name__
        fail(str(Mistake(str(place), "must work", why, "mend that, then run the same command again")), ENVIRONMENT)
    except Exception as error:
        fail_by_bug(error)


def fail_by_bug(error: Exception) -> None:
    place = keep_traceback(error)
    fail(f"{place}: a bug of hpo, {type(error).__name__}; please report it with this file", BUG)


def keep_traceback(error: Exception) -> str:
    """The whole traceback in a file, for whoever mends it; "hpo" where none can be written."""
    try:
        descriptor, name = tempfile.mkstemp(prefix="hpo-bug-", suffix=".txt")
        with os.fdopen(descriptor, "w") as file:
            traceback.print_exception(error, file=file)
    except OSError:
        return "hpo"
    return name


def fail(text: str, code: int) -> None:
    click.echo(text, err=True)
    sys.exit(code)
