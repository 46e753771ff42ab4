"""What the verbs that read a study have in common: their flags, and how those become a spec."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from hpo.engine.result import Result
    from hpo.study_file.spec import StudySpec

Command = TypeVar("Command", bound=Callable[..., Any])
STUDY = click.argument("study", type=click.Path(path_type=Path), default="study.yaml")


def common(command: Command) -> Command:
    """The flags of every verb that reads a study."""
    for option in (
        click.option(
            "--set",
            "sets",
            multiple=True,
            metavar="KEY=VALUE",
            help="Override one value of the file, as budget.trials=100.",
        ),
        click.option("--seed", type=int, help="Seed of the search."),
        click.option("--strategy", metavar="NAME", help="bayesian, random or grid (ordered by usefulness)."),
        click.option(
            "--state", type=click.Path(path_type=Path), help="Folder of studies/ and mlflow.db [the study file's]."
        ),
    ):
        command = option(command)
    return command


def read(study: Path, sets: Sequence[str], flags: Mapping[str, object], seed: int | None = None) -> StudySpec:
    """The study file with the flags on top; a flag is a --set with a short name.

    --seed is the search's alone: the training seed stays the file's, so that seeds share trainings and can be compared.
    """
    from hpo.engine import reading

    given = [f"{key}={value}" for key, value in flags.items() if value is not None]
    spec = reading.load(study, sets=[*sets, *given])
    return spec if seed is None else replace(spec, seed=seed)


def stored(
    study: Path, state: Path | None, sets: Sequence[str], flags: Mapping[str, object], seed: int | None = None
) -> Result:
    """A study as its journal has it. Raises NoResult before its first run."""
    from hpo.commands.status import read_result
    from hpo.engine import reading

    spec = read(study, sets, flags, seed)
    return read_result(spec, reading.state_folder(spec, state))
