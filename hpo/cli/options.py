"""What all verbs about a study have in common: their flags, and how those become a study."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo.formatting import printable, wrapped

if TYPE_CHECKING:
    from hpo.engine.result import Result
    from hpo.study_file.spec import StudySpec

PATH = click.Path(path_type=Path)


def echo(text: str, err: bool = False, nl: bool = True, exact: bool = False) -> None:
    """Print for people, whom the names in it, which may be a stranger's, must not fool; or exactly, for programs."""
    if not exact and (sys.stderr if err else sys.stdout).isatty():
        text = wrapped(text, shutil.get_terminal_size().columns)
    click.echo(text if exact else printable(text, keep="\n"), err=err, nl=nl, color=exact or None)


def load(study: str | Path | Mapping[str, Any], *, sets: Sequence[str] = ()) -> StudySpec:
    """A study file, or the same as a mapping, with `key.path=value`s on top. Raises BadInput with every mistake."""
    from hpo.models import families  # 0.1 s that `--help` need not wait for
    from hpo.study_file.reader import read_study as read_study

    return read_study(study, sets=sets, known=families.known)


def with_flags(sets: Sequence[str], flags: Mapping[str, object]) -> list[str]:
    """A flag that is given is a --set with a short name."""
    return [*sets, *(f"{key}={value}" for key, value in flags.items() if value is not None)]


def state_folder(spec: StudySpec, given: str | Path | None) -> Path:
    """--state, else the folder of the study file, else the current one."""
    if given is not None:
        return Path(given).absolute()
    return spec.path.absolute().parent if spec.path is not None else Path.cwd()


@dataclass(frozen=True)
class Request:
    """The study that a verb is about, as the command line names it."""

    study: Path
    state: Path | None
    strategy: str | None
    seed: int | None
    sets: Sequence[str]

    def spec(self, flags: Mapping[str, object] | None = None) -> StudySpec:
        """The study file with the flags on top. Raises BadInput."""
        own = {"strategy": self.strategy, "seed": self.seed}
        return load(self.study, sets=with_flags(self.sets, {**own, **(flags or {})}))

    def folder(self, spec: StudySpec) -> Path:
        """Where studies/ and mlflow.db are."""
        return state_folder(spec, self.state)

    def result(self, flags: Mapping[str, object] | None = None) -> Result:
        """The study as its journal has it. Raises NoResult before its first run."""
        from hpo.engine.result import read_result

        spec = self.spec(flags)
        return read_result(spec, self.folder(spec))


class StudyVerb(click.Command):
    """A verb about a study: the common flags come with it, and its function gets them as one `request`."""

    def __init__(self, name: str | None, params: Sequence[click.Parameter] | None = None, **rest: Any) -> None:
        super().__init__(name, params=[*(params or ()), *_common()], **rest)

    def invoke(self, ctx: click.Context) -> Any:
        common = {parameter.name: ctx.params.pop(str(parameter.name)) for parameter in _common()}
        ctx.params["request"] = Request(**common)
        return super().invoke(ctx)


def _common() -> list[click.Parameter]:
    return [
        click.Argument(["study"], type=PATH, default="study.yaml"),
        click.Option(["--strategy"], metavar="NAME", help="bayesian, random or grid (ordered by usefulness); or tpe."),
        click.Option(["--seed"], type=int, help="Seed of the search."),
        click.Option(
            ["--set", "sets"],
            multiple=True,
            metavar="KEY=VALUE",
            help="Override one value of the file, as budget.trials=100.",
        ),
        click.Option(["--state"], type=PATH, help="Folder of studies/ and mlflow.db [the study file's]."),
    ]
