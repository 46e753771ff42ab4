"""The command line: verbs, flags, exit codes. Everything heavy is imported inside the verb that needs it."""

import json
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
from click.core import ParameterSource

from hpo.cli.options import PATH, Request, StudyVerb, echo
from hpo.core import Goal, Report
from hpo.errors import BadInput, Mistake, NoResult
from hpo.formatting import decimals, nearby

TRIAL = click.argument("trial", type=int)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
WORKERS = click.option("--workers", metavar="N", help="Trials at a time, or auto.")
DEVICE = click.option("--device", help="auto, cpu, cuda or cuda:1.")


def show_version(ctx: click.Context, option: click.Parameter, wanted: bool) -> None:
    from hpo.provenance import __version__  # 0.03 s that `--help` need not wait for; a checkout has no package to ask

    if wanted:
        echo(f"hpo, version {__version__}")
        ctx.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=show_version, help="Show the version."
)
def cli() -> None:
    """Hyperparameter optimization for convolutional networks.

    \b
    hpo init                 write a commented study.yaml
    hpo run study.yaml       search: bayesian, random or grid (ordered by usefulness)
    hpo ui                   look at every trial in MLflow
    """


@cli.command()
@click.argument("study", type=PATH, default="study.yaml")
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="Images or an .npz file [what lies there].")
def init(study: Path, data: Path | None) -> None:
    """Write a commented STUDY file to start from, for the data beside it."""
    from hpo.data.sources.find import beside, written
    from hpo.study_file.reader import template

    folder = study.absolute().parent
    if study.exists():
        raise BadInput(Mistake(str(study), "must not exist yet", "", "name another file: hpo init other.yaml"))
    data = data or beside(Path(os.path.relpath(folder)))
    named = written(data, folder) if data is not None else "digits"
    study.write_text(template(folder.name if study.stem == "study" else study.stem, named), "utf-8")
    about = "the data in this folder" if data == Path() else data or "digits"
    typed = shlex.quote(str(study))
    echo(f"{study} is written for {about}; look at it, then: hpo check {typed}, hpo run {typed}")


@cli.command(cls=StudyVerb)
@click.option("--trust", is_flag=True, help="Import the study's own Python code too.")
def check(request: Request, trust: bool) -> None:
    """Check a study before training. Impossible configurations, sizes, memory, time; writes nothing."""
    spec = request.spec()
    from hpo.check import check_study

    for line in check_study(spec, trust):
        echo(line)


# -- searching


@cli.command(cls=StudyVerb)
@click.option("--trials", type=click.IntRange(min=1), help="New target number of trials (remembered).")
@click.option("--time", "seconds", metavar="DURATION", help="Stop after this much active time, e.g. 30m.")
@WORKERS
@DEVICE
@click.option("--retry-failed", is_flag=True, help="Start failed trials again first; the budget counts each once.")
@click.option("--fresh", is_flag=True, help="Archive the existing study and start over.")
@click.option("--accept-code", is_flag=True, help="Continue although your own code has been edited.")
@JSON
def run(
    request: Request,
    trials: int | None,
    seconds: str | None,
    workers: str | None,
    device: str | None,
    retry_failed: bool,
    fresh: bool,
    accept_code: bool,
    as_json: bool,
) -> None:
    """Search; the same command again resumes it, up to its target."""
    spec = request.spec({"budget.time": seconds, "workers": workers, "device": device})
    from hpo.cli.console import Terminal, watch
    from hpo.cli.summary import exit_code, result_json, summary_lines
    from hpo.commands import run as running

    terminal = Terminal(stderr=as_json)
    with watch(terminal, spec) as console:
        options = running.RunOptions(
            state=request.folder(spec),
            fresh=fresh,
            trials=trials,
            accept_code=accept_code,
            retry_failed=retry_failed,
            listeners=[console.receive],
            environ=os.environ,
        )
        result = running.run(spec, options)
    if as_json:
        click.echo(json.dumps(result_json(result), indent=2))
    else:
        for line in summary_lines(result, console.utilization):
            terminal.say(line, markup=True)
    sys.exit(exit_code(result))


@cli.command(cls=StudyVerb)
@click.argument("first", type=PATH, required=False, metavar="[STUDY]")
@click.option("--strategies", metavar="A,B,...", help="Which to compare [the file's].")
@click.option("--seeds", type=click.IntRange(min=1), help="Studies of each strategy [the file's].")
@click.option("--margin", type=float, help="Differences below are practically equal [the file's].")
@WORKERS
@DEVICE
@click.option("--fresh", is_flag=True, help="Archive the existing studies and start over.")
@click.option("--no-rescore", is_flag=True, help="Leave out the test score and the fresh seeds of each best trial.")
@JSON
def compare(
    request: Request,
    first: Path | None,
    strategies: str | None,
    seeds: int | None,
    margin: float | None,
    workers: str | None,
    device: str | None,
    fresh: bool,
    no_rescore: bool,
    as_json: bool,
) -> None:
    """Compare search strategies on these data, or two study files. Equal epochs, paired seeds, confidence intervals."""
    names = strategies or request.strategy
    values = {"strategies": names and f"[{names}]", "seeds": seeds, "margin": margin}
    flags: dict[str, object] = {"strategy": None, "workers": workers, "device": device}
    flags |= {f"compare.{name}": value for name, value in values.items()}
    other = None
    if first is not None:
        alone = click.get_current_context().get_parameter_source("study") is ParameterSource.DEFAULT
        if names and not alone:
            why = "two study files have strategies of their own: leave out --strategies and --strategy"
            raise click.UsageError(why)
        other = None if alone else request.spec(flags)
        request = replace(request, study=first)
    spec = request.spec(flags)
    from hpo.cli.console import COMPARISON_REDRAWS, ComparisonProgress, Terminal, live
    from hpo.commands.compare import beginning, compare_and_deliver, epochs_in_all
    from hpo.commands.run import RunOptions
    from hpo.comparison import text

    terminal = Terminal(stderr=as_json)
    progress = ComparisonProgress(spec, terminal, epochs_in_all(spec, other))
    options = RunOptions(request.folder(spec), fresh, listeners=[progress.receive], environ=os.environ)
    with live(terminal, progress, COMPARISON_REDRAWS, beginning(spec, other)):
        compared = compare_and_deliver(spec, other, options, not no_rescore)
    if as_json:
        click.echo(json.dumps(text.as_json(compared.comparison) | {"report": str(compared.report)}, indent=2))
        return
    lines = text.lines(compared.comparison, *([terminal.width] if terminal.is_terminal else []))
    terminal.print(*lines, sep="\n", markup=False)
    charged = f"for {progress.charged} charged, this time, without the fresh seeds"
    terminal.say(f"trained {progress.trained} epochs {charged}")
    terminal.say(f"report, and what the columns mean: {nearby(compared.report)}")


@cli.command(cls=StudyVerb)
@click.option("--top", type=click.IntRange(min=1), default=3, show_default=True, help="How many finalists.")
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True, help="Fresh training seeds of each.")
def confirm(request: Request, top: int, seeds: int) -> None:
    """Retrain the finalists with fresh seeds. How much of the lead was luck, and which smallest model is as good."""
    spec = request.spec()
    from hpo.commands.confirm import run_confirmation

    for line in run_confirmation(spec, request.folder(spec), top, seeds):
        echo(line)


@cli.command(cls=StudyVerb)
def stop(request: Request) -> None:
    """Ask the driver of a study to finish its epochs and pause."""
    from hpo.engine.result import stop_driver

    spec = request.spec()
    echo(stop_driver(spec, request.folder(spec)))


# -- looking


@cli.command(cls=StudyVerb)
@click.option("--watch", is_flag=True, help="Look again every two seconds while a driver is running.")
@JSON
def status(request: Request, watch: bool, as_json: bool) -> None:
    """Show progress and driver of every study of this name. Or of one --strategy or --seed."""
    from hpo.cli.summary import show_status
    from hpo.strategies.points import UNNAMED

    spec = request.spec({"strategy": None} if request.strategy in UNNAMED else {})
    show_status(spec, request.folder(spec), (request.strategy, request.seed), watch, as_json)


@cli.command(cls=StudyVerb)
@TRIAL
@click.option("--log", is_flag=True, help="Show what your own code printed and logged.")
@JSON
def show(request: Request, trial: int, log: bool, as_json: bool) -> None:
    """Show one trial: parameters, curve, diagnosis."""
    from hpo.cli.summary import show_trial
    from hpo.files import read_log

    result = request.result()
    shown = result.trial(trial)
    if log:
        ray = "Ray keeps it in session_latest/logs/worker-* of the machine that trained"
        where = ray if result.spec.execution.engine == "ray" else "nothing was printed"
        text = read_log(result.folders.study, shown.training)
        echo(text or f"trial {trial} has no log: {where}\n", err=not text, nl=False)
    else:
        show_trial(result, shown, as_json)


@cli.command(cls=StudyVerb)
@click.option(
    "--script", is_flag=True, help="Write a stand-alone train.py of it, with its data; needs torch and numpy only."
)
@click.option("--to", type=PATH, metavar="FOLDER", help="Where --script writes [the study's own].")
@click.option("--refit", is_flag=True, help="Train it on train and val together and register that as @refit.")
@JSON
def best(request: Request, script: bool, to: Path | None, refit: bool, as_json: bool) -> None:
    """Show the best trial so far. Or write it as a script of its own, or train it again on all data."""
    from hpo.cli.summary import further_lines, result_json, show_trial
    from hpo.engine.changes import warn_of_other_files
    from hpo.engine.result import learned

    if to is not None and not script:
        raise click.UsageError("--to says where --script writes: name both")
    result = request.result()
    if script:
        from hpo.commands.best import DATA, write_script

        path = nearby(write_script(result, to or result.folders.run / "best"))
        echo(f"{path} is written, with {DATA} beside it; run: python {shlex.quote(path)}")
    if refit:
        from hpo.commands.best import refit as train_on_all
        from hpo.commands.best import refit_lines

        for line in refit_lines(train_on_all(result, os.environ, epochs_shown(result.spec.goal))):
            echo(line)
    if as_json:
        click.echo(json.dumps(result_json(result), indent=2))
    elif not (script or refit):
        warn_of_other_files(result.spec, result.folders, result.study)
        show_trial(result, result.best)
        for line in (*further_lines(result, result.best), learned(result.spec, result.folders, result.study)):
            if line:
                echo(line.strip())


@cli.command(cls=StudyVerb)
def report(request: Request) -> None:
    """Write report.html and trials.csv of a study again."""
    result = request.result()
    from hpo.commands.report import write_report
    from hpo.engine.changes import warn_of_other_files

    warn_of_other_files(result.spec, result.folders, result.study)
    write_report(result.spec, result.folders, result.study)
    echo(str(result.folders.report))


@cli.command(cls=StudyVerb)
@click.option("--port", default=5000, show_default=True)
def ui(request: Request, port: int) -> None:
    """Open MLflow on this study's store, on the loopback address."""
    spec = request.spec()
    from hpo.commands.sync import serve_ui

    serve_ui(spec, request.folder(spec), port)


# -- using


@cli.command(cls=StudyVerb)
@TRIAL
@DEVICE
def reproduce(request: Request, trial: int, device: str | None) -> None:
    """Train TRIAL again and compare every number bit for bit. Exit code 3 if one differs."""
    result = request.result({"device": device})
    from hpo.commands import reproduce as reproducing

    reproduced = reproducing.reproduce(result, trial, epochs_shown(result.spec.goal))
    for line in reproducing.lines(reproduced):
        echo(line)
    sys.exit(0 if reproduced.identical else NoResult.exit_code)


@cli.command(cls=StudyVerb)
@click.argument("folder", type=PATH)
@click.option("--model", metavar="NAME", help="A model in MLflow, as models:/digits-cnn@champion [the best trial].")
@JSON
def predict(request: Request, folder: Path, model: str | None, as_json: bool) -> None:
    """Classify the images in FOLDER; prints file,class,confidence."""
    spec = request.spec()
    from hpo.commands import predict as predicting

    if model is not None:
        source = predicting.registered(spec, request.folder(spec), model, os.environ)
    else:
        source = predicting.trained(request.result())
    predictions = predicting.predict(source, folder, lambda text: echo(text, err=True))
    table = predicting.as_json(predictions) if as_json else predicting.as_csv(predictions)
    echo(table, nl=as_json, exact=not sys.stdout.isatty())


@cli.command(cls=StudyVerb)
@click.option("--optuna", type=PATH, help="Write a journal file that optuna-dashboard opens.")
@click.option("--csv", type=PATH, help="Write the trials as a table.")
@click.option("--onnx", type=PATH, help="Write the best model for ONNX; it takes raw pixels, in the network's size.")
def export(request: Request, optuna: Path | None, csv: Path | None, onnx: Path | None) -> None:
    """Export a study for other tools."""
    if optuna is None and csv is None and onnx is None:
        raise click.UsageError("name --optuna FILE, --csv FILE or --onnx FILE")
    result = request.result()
    from hpo.commands.report import export_csv, export_onnx, export_optuna

    for path, write in ((optuna, export_optuna), (csv, export_csv), (onnx, export_onnx)):
        if path is not None:
            write(result, path)
            echo(str(path))


@cli.command(cls=StudyVerb)
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to try.")
def sync(request: Request, timeout: float) -> None:
    """Deliver to MLflow what it missed while it was away."""
    spec = request.spec()
    from hpo.commands.sync import sync_these
    from hpo.engine.result import statuses

    echo(sync_these(spec, [one.folders for one in statuses(spec, request.folder(spec))], timeout))


def epochs_shown(goal: Goal) -> Callable[[Report], None]:
    """A listener that prints every epoch on a terminal."""

    def show_epoch(report: Report) -> None:
        if sys.stderr.isatty():
            value = report.metrics.get(goal.metric)
            shown = "" if value is None else f"  {goal.metric} {decimals(value)}"
            echo(f"epoch {report.epoch}{shown}  {report.seconds:.1f} s", err=True)

    return show_epoch
