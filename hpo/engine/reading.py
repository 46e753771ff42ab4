"""A study file read with everything that decides about it: the flags, the environment, what the model knows. Nothing heavy."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpo.models import families
from hpo.study_file.reader import load as read_study
from hpo.study_file.spec import StudySpec


def load(study: str | Path | Mapping[str, Any], *, sets: Sequence[str] = ()) -> StudySpec:
    """A study file, or the same as a mapping, as a frozen StudySpec. Raises BadInput with every mistake.

    sets: `key.path=value`, as for `--set`.
    """
    return read_study(study, sets=sets, known=families.known, environ=os.environ)


def state_folder(spec: StudySpec, given: str | Path | None) -> Path:
    """--state, else the folder of the study file, else the current one."""
    if given is not None:
        return Path(given).absolute()
    return spec.path.absolute().parent if spec.path is not None else Path.cwd()
