"""hpo in Python: the same as on the command line, in a script, a notebook or under `if __name__ == "__main__"`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console as Terminal

from hpo.console import Console
from hpo.errors import HpoError
from hpo.result import Result
from hpo.running import Visit
from hpo.running import run as run_study
from hpo.spec.loading import StudySpec
from hpo.spec.loading import load as read_study
from hpo.training import families


def load(study: str | Path | Mapping[str, Any], *, sets: Sequence[str] = ()) -> StudySpec:
    """A study file, or the same as a mapping, as a frozen StudySpec. Raises BadInput with every mistake.

    sets: `key.path=value`, as for `--set`.
    """
    return read_study(study, sets=sets, known=families.known, environ=os.environ)


def run(
    study: str | Path | Mapping[str, Any] | StudySpec,
    *,
    state: str | Path | None = None,
    sets: Sequence[str] = (),
    trials: int | None = None,
    fresh: bool = False,
    quiet: bool = False,
) -> Result:
    """Bring a study to its target and return what came of it. Run twice is the same study gone on with.

    state: the folder of studies/ and mlflow.db; the study file's folder by default. Raises HpoError.
    """
    spec = study if isinstance(study, StudySpec) else load(study, sets=sets)
    visit = Visit(state_folder(spec, state), fresh, trials, environ=os.environ)
    if quiet:
        return run_study(spec, visit)
    terminal = Terminal()
    with console_of(terminal, spec) as console:
        return run_study(spec, replace(visit, listeners=[console.hear]))


def state_folder(spec: StudySpec, given: str | Path | None) -> Path:
    """--state, else the folder of the study file, else the current one."""
    if given is not None:
        return Path(given).absolute()
    return spec.path.absolute().parent if spec.path is not None else Path.cwd()


def console_of(terminal: Terminal, spec: StudySpec) -> Console:
    from hpo import assembly

    slots = len(assembly.placement(spec))
    return Console(terminal, spec.metric.as_goal(), slots, spec.space.constants, f"{spec.name} ({spec.strategy})")


__all__ = ["HpoError", "Result", "load", "run"]
