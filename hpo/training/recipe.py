"""What a worker needs to become a trainer, as plain data: the driver makes it without torch.

`python -m hpo.training.recipe` scores checkpoints: a recipe and a list of them on stdin, their metrics as JSON on stdout.
"""

import json
import pickle
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.core import Params, Train
from hpo.data.dataset import Dataset
from hpo.models import user
from hpo.models.families import FAMILIES

if TYPE_CHECKING:
    from torch import Tensor

    from hpo.training.evaluation import Besides
    from hpo.training.setup import Setup


@dataclass(frozen=True)
class Recipe:
    """How to train: everything a trial does not choose. Called, it makes the trainer of the process it is called in.

    data: the folder of a saved Dataset, opened as a memory map; dataset: in its stead, where that folder is not seen;
    class_weights: as in the study file, whose folder `folder` is, for a user's own modules; metrics: named besides; split:
    of the data, None for the one saved first. A job may ask for another: the worker keeps each that it has met. precision:
    of the training steps; all else is fp32.
    """

    model: str
    loss: str
    data: Path
    device: str
    class_weights: bool | str = False
    train: str | None = None
    folder: Path | None = None
    metrics: Sequence[str] = ()
    threads: int = 1
    dataset: Dataset | None = None
    split: int | None = None
    precision: str = "fp32"

    def __call__(self) -> Train:
        """Raises BadInput for a user's module that does not import."""
        if self.train is not None:
            return user.user_trainer(self.train, self.folder)
        from hpo.training.loop import trainer  # 2 s and 200 MB of torch that only a worker should pay for

        own = self.setup()

        @cache
        def of(split: int | None) -> Train:
            return trainer(own if split == self.split else replace(self, split=split).setup(own.data.images))

        return lambda job: of(self.split if job.split is None else int(job.split))(job)

    def open_data(self) -> Dataset:
        data = self.dataset or Dataset.open(self.data)
        return data if self.split is None else data.with_split(self.split)

    def setup(self, images: "Tensor | None" = None) -> "Setup":
        """What trainings share, loaded into this process; images: those of the data, on the device. Raises BadInput."""
        import torch

        from hpo.training.setup import Loss, Setup, compute_as_workers, to_device

        compute_as_workers(self.device, self.threads)
        function = None if self.model in FAMILIES else user.resolve(self.model, self.folder, "model")
        data = to_device(self.open_data(), torch.device(self.device), images)
        weights = torch.from_numpy(data.dataset.class_weights()).to(data.device) if self.class_weights is True else None
        targets = data.targets[data.splits["train"]]
        kinds = targets.sort()[0] if self.class_weights == "sampling" else None
        counts = None if kinds is None else torch.unique_consecutive(kinds, return_counts=True)[1]
        data = replace(data, besides=self.besides(data.dataset) if self.metrics else None, balanced=counts)
        loss = Loss.of(self.loss, data.dataset.outputs, targets, weights)
        return Setup(self.model, function, data, loss, self.precision)

    def besides(self, data: Dataset) -> "Besides":
        """What measures the metrics that the study names. Raises BadInput."""
        from hpo.training.evaluation import Besides

        own = [one for one in self.metrics if user.is_reference(one)]
        functions = {one: user.measuring(user.resolve(one, self.folder, "metrics"), one) for one in own}
        return Besides([one for one in self.metrics if one not in own], functions, data.classes)


def scores(recipe: Recipe, models: Iterable[tuple[Params, Path, int | None]]) -> list[dict[str, float]]:
    """The test split's metrics of checkpoints, all of one recipe, each with its params and the split it was trained on."""
    from hpo.training.evaluation import score  # torch

    ready = cache(lambda split: replace(recipe, split=split).setup())
    return [score(ready(split), params, path) for params, path, split in models]


if __name__ == "__main__":
    print(json.dumps(scores(*pickle.load(sys.stdin.buffer))))
