"""The verbs about what a search has found: best, reproduce, predict. `register` puts them into a group."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpo.cli.options import STUDY, common, read, stored
from hpo.errors import NoResult

if TYPE_CHECKING:
    from hpo.core import Goal, Report

TRIAL = click.argument("trial", type=int)


def register(cli: click.Group) -> None:
    for command in (best, reproduce, predict):
        cli.add_command(command)


@click.command()
@STUDY
@common
@click.option(
    "--script", is_flag=True, help="Write a stand-alone train.py of it, with its data; needs torch and numpy only."
)
@click.option(
    "--to", type=click.Path(path_type=Path), metavar="FOLDER", help="Where --script writes [the study's own]."
)
@click.option("--refit", is_flag=True, help="Train it on train and val together and register that as @refit.")
@click.option("--json", "as_json", is_flag=True)
def best(
    study: Path,
    state: Path | None,
    strategy: str | None,
    seed: int | None,
    sets: tuple[str, ...],
    script: bool,
    to: Path | None,
    refit: bool,
    as_json: bool,
) -> None:
    """The best trial so far; as a script of its own, or trained again on all data."""
    from hpo.cli.summary import result_json
    from hpo.commands.status import show_trial

    if to is not None and not script:
        raise click.UsageError("--to says where --script writes: name both")
    result = stored(study, state, sets, {"strategy": strategy}, seed)
    if script:
        from hpo.commands.best import DATA, write_script

        path = write_script(result, to or result.folders.run / "winner")
        click.echo(f"{path} is written, with {DATA} beside it; run: python {path}")
    if refit:
        from hpo.commands import refit as refitting

        for line in refitting.lines(refitting.refit(result, os.environ, teller(result.spec.metric.as_goal()))):
            click.echo(line)
    if as_json:
        click.echo(json.dumps(result_json(result), indent=2))
    elif not (script or refit):
        show_trial(result, result.best.number, False)


@click.command()
@TRIAL
@STUDY
@common
@click.option("--device", help="auto, cpu, cuda or cuda:1.")
def reproduce(
    trial: int,
    study: Path,
    state: Path | None,
    strategy: str | None,
    seed: int | None,
    sets: tuple[str, ...],
    device: str | None,
) -> None:
    """Train TRIAL again from nothing and compare every number bit for bit; exit code 3 if one differs."""
    from hpo.commands import reproduce as reproducing

    result = stored(study, state, sets, {"strategy": strategy, "device": device}, seed)
    found = reproducing.reproduce(result, trial, teller(result.spec.metric.as_goal()))
    for line in reproducing.lines(found):
        click.echo(line)
    sys.exit(0 if found.identical else NoResult.exit_code)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@STUDY
@common
@click.option("--model", metavar="NAME", help="A model in MLflow, as models:/digits-cnn@champion [the best trial].")
@click.option("--json", "as_json", is_flag=True, help="Every class's probability too.")
def predict(
    folder: Path,
    study: Path,
    state: Path | None,
    strategy: str | None,
    seed: int | None,
    sets: tuple[str, ...],
    model: str | None,
    as_json: bool,
) -> None:
    """Say what the images in FOLDER show: file,class,confidence."""
    from hpo.commands import predict as predicting
    from hpo.commands.status import read_result
    from hpo.engine import reading

    spec = read(study, sets, {"strategy": strategy}, seed)
    place = reading.state_folder(spec, state)
    if model is not None:
        asked = predicting.registered(spec, place, model, os.environ)
    else:
        asked = predicting.trained(read_result(spec, place))
    found = predicting.predict(asked, folder, lambda text: click.echo(text, err=True))
    click.echo(predicting.as_json(found) if as_json else predicting.as_csv(found), nl=as_json)


def teller(goal: Goal) -> Callable[[Report], None]:
    """Says every epoch on a terminal, so that nobody wonders whether anything happens."""

    def tell(report: Report) -> None:
        if sys.stderr.isatty():
            value = report.metrics.get(goal.metric)
            shown = "" if value is None else f"  {goal.metric} {value:.4f}"
            click.echo(f"epoch {report.epoch}{shown}  {report.seconds:.1f} s", err=True)

    return tell
