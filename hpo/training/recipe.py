"""What a worker needs to become a trainer. Imports no torch: the driver makes recipes, workers follow them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hpo.core import Train
from hpo.models import user


@dataclass(frozen=True)
class Recipe:
    """How to train: everything a trial does not choose.

    data: the folder of a saved Dataset, opened as a memory map; folder: the study file's, for a user's own modules.
    """

    model: str
    loss: str
    data: Path
    device: str
    class_weights: bool = False
    train: str | None = None
    folder: Path | None = None
    threads: int = 1

    def __call__(self) -> Train:
        """Prepare this process, once. Raises BadInput for a user's module that does not import."""
        if self.train is not None:
            return user.trainer(self.train, self.folder)
        from hpo.training import loop  # 2 s and 200 MB of torch that only a worker should pay for

        return loop.prepare(self)
