"""What a worker needs to become a trainer, as plain data: the driver makes it, without torch, and workers follow it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hpo.core import Params, Train
from hpo.data.dataset import Dataset
from hpo.models import user


@dataclass(frozen=True)
class Recipe:
    """How to train: everything a trial does not choose.

    data: the folder of a saved Dataset, opened as a memory map; dataset: in its stead, where that folder is not seen;
    folder: the study file's, for a user's own modules.
    """

    model: str
    loss: str
    data: Path
    device: str
    class_weights: bool = False
    train: str | None = None
    folder: Path | None = None
    threads: int = 1
    dataset: Dataset | None = None

    def __call__(self) -> Train:
        """Prepare this process, once. Raises BadInput for a user's module that does not import."""
        if self.train is not None:
            return user.trainer(self.train, self.folder)
        from hpo.training import loop  # 2 s and 200 MB of torch that only a worker should pay for

        return loop.prepare(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Recipe:
        """From `asdict` after a way through JSON."""
        folder = fields["folder"] and Path(fields["folder"])
        return cls(**{**fields, "data": Path(fields["data"]), "folder": folder})


@dataclass(frozen=True)
class ScoreRequest:
    """Checkpoints to score on the test split, all of one recipe; each with its params."""

    recipe: Recipe
    models: Sequence[tuple[Params, Path]]

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> ScoreRequest:
        fields = json.loads(text)
        return cls(Recipe.from_json(fields["recipe"]), [(params, Path(path)) for params, path in fields["models"]])
