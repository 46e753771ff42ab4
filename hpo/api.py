"""hpo in Python: the same as on the command line, in a script, a notebook or under `if __name__ == "__main__"`."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpo.cli.console import Terminal, watch
from hpo.cli.options import load, state_folder
from hpo.commands.run import RunOptions
from hpo.commands.run import run as run_study
from hpo.engine.result import Result
from hpo.errors import HpoError
from hpo.provenance import __version__
from hpo.study_file.spec import StudySpec


def run(
    study: str | Path | Mapping[str, Any] | StudySpec,
    *,
    state: str | Path | None = None,
    sets: Sequence[str] = (),
    trials: int | None = None,
    fresh: bool = False,
    accept_code: bool = False,
    retry_failed: bool = False,
    quiet: bool = False,
) -> Result:
    """Bring a study to its target and return its result. Run again, it resumes the same study.

    state: the folder of studies/ and mlflow.db; the study file's folder by default; accept_code: continue with your code
    as it is now; retry_failed: start failed trials again, before anything new. Raises HpoError.
    """
    spec = study if isinstance(study, StudySpec) else load(study, sets=sets)
    options = RunOptions(
        state=state_folder(spec, state),
        fresh=fresh,
        trials=trials,
        environ=os.environ,
        accept_code=accept_code,
        retry_failed=retry_failed,
    )
    if quiet:
        return run_study(spec, options)
    with watch(Terminal(), spec) as console:
        return run_study(spec, replace(options, listeners=[console.receive]))


__all__ = ["HpoError", "Result", "StudySpec", "__version__", "load", "run"]
