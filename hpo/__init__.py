"""hpo: hyperparameter optimization for convolutional networks.

import hpo
result = hpo.run("study.yaml")
result.best, result.trials, result.model()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["HpoError", "Result", "StudySpec", "__version__", "compare", "load", "open", "run"]

if TYPE_CHECKING:
    from hpo.api import HpoError, Result, StudySpec, __version__, compare, load, open, run


def __getattr__(name: str) -> Any:
    """Import on first use: `import hpo` alone costs nothing, which `hpo --help` relies on."""
    if name not in __all__:
        raise AttributeError(f"module 'hpo' has no attribute {name!r}")
    from hpo import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return __all__  # what is imported on first use, too
