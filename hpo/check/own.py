"""A user's own networks: what they hold is known only by building some, as a worker would."""

from __future__ import annotations

import tempfile
from collections import Counter
from itertools import islice
from pathlib import Path

from hpo.core import Params
from hpo.data.dataset import Dataset
from hpo.engine import components as assembly
from hpo.execution.job_runner import one_line
from hpo.formatting import count
from hpo.models.failure import TrainingFailed
from hpo.space.space import Space
from hpo.strategies.points import Problem, random_points
from hpo.study_file.spec import StudySpec
from hpo.training.setup import setup

TRIED = 50  # configurations, each different


def networks(spec: StudySpec, dataset: Dataset) -> list[str]:
    """Lines on a sample of the space: how many networks are built and pass two blank images, and why others do not."""
    sizes: list[int] = []
    failed: Counter[str] = Counter()
    examples: dict[str, Params] = {}
    with tempfile.TemporaryDirectory(prefix="hpo-check-") as folder:
        ready = setup(assembly.recipe(spec, dataset.save(Path(folder, "data")), "cpu"))
        for params in islice(random_points(Problem(spec.space, seed=spec.seed)), TRIED):
            try:
                sizes.append(sum(weight.numel() for weight in ready.network(params, spec.seed).parameters()))
            except Exception as error:  # whatever a user's function raises
                why = str(error) if isinstance(error, TrainingFailed) else one_line(error)
                failed[why] += 1
                examples.setdefault(why, params)
    tried = len(sizes) + failed.total()
    built = f"{count(tried, 'configuration')} tried: {spec.model} builds {count(len(sizes), 'network')}"
    range_ = f" of {min(sizes):,} to {max(sizes):,} parameters" if sizes else ""
    reasons = [
        f"    {number} fail: {why} (as with {_varied(examples[why], spec.space)})"
        for why, number in failed.most_common()
    ]
    return [f"{built}{range_}", *reasons]


def _varied(params: Params, space: Space) -> str:
    return " ".join(f"{name}={value}" for name, value in params.items() if name not in space.constants)
