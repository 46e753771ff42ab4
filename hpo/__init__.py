"""hpo: hyperparameter optimization for convolutional networks.

import hpo
result = hpo.run("study.yaml")
result.best, result.trials, result.model()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["HpoError", "Result", "StudySpec", "__version__", "load", "run"]

if TYPE_CHECKING:
    from hpo.api import run
    from hpo.cli.options import load
    from hpo.engine.result import Result
    from hpo.errors import HpoError
    from hpo.provenance import __version__
    from hpo.study_file.spec import StudySpec

_HOMES = {
    "run": "hpo.api",
    "load": "hpo.cli.options",
    "Result": "hpo.engine.result",
    "HpoError": "hpo.errors",
    "StudySpec": "hpo.study_file.spec",
    "__version__": "hpo.provenance",
}


def __getattr__(name: str) -> Any:
    """Import on first use: `import hpo` alone costs nothing, which `hpo --help` relies on."""
    if name not in _HOMES:
        raise AttributeError(f"module 'hpo' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
