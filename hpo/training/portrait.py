"""What there is to see of one trained model, as plain arrays in a file: made where the model is, drawn by the report.

C channels, H x W pixels, K classes, F filters, n samples, m mistakes
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]


def _none() -> Array:
    return np.zeros(0)


@dataclass(frozen=True)
class Portrait:
    """What there is to see of one trained model.

    filters (F, C, h, w); samples (n, C, H, W) with maps (n, F, h, w), the first layer's output for them; confusion (K,
    K) counts, rows are the truth; mistakes (m, C, H, W), worst first, with truth, guess, confidence (m,). classes:
    names, empty for regression, where truth and guess are numbers and confidence stays empty; split: where all is from.
    """

    trial: int
    classes: tuple[str, ...] = ()
    split: str = "test"
    filters: Array = field(default_factory=_none)
    samples: Array = field(default_factory=_none)
    maps: Array = field(default_factory=_none)
    confusion: Array = field(default_factory=_none)
    mistakes: Array = field(default_factory=_none)
    truth: Array = field(default_factory=_none)
    guess: Array = field(default_factory=_none)
    confidence: Array = field(default_factory=_none)

    def save(self, path: Path) -> None:
        """One .npz without pickle; written, then renamed."""
        part = path.with_name(f".{path.name}.part")
        arrays: Any = {f.name: np.asarray(getattr(self, f.name)) for f in fields(self)}  # its stub has no arrays
        with part.open("wb") as file:
            np.savez_compressed(file, **arrays | {"classes": np.array(self.classes, dtype=np.str_)})
        part.replace(path)

    @classmethod
    def open(cls, path: Path) -> Portrait | None:
        """None where there is none, or none that can be read: it costs the report its pictures of the winner only."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                told = {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return None
        classes = tuple(str(name) for name in told.pop("classes"))
        return cls(int(told.pop("trial")), classes, str(told.pop("split", "test")), **told)
