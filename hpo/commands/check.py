"""`hpo check`: the data are loaded, the machine is measured, and what the search space can build is proven."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from hpo.check.findings import Input
from hpo.check.proof import Machine, check
from hpo.core import Params, TrainingFailed
from hpo.data import dataset as data
from hpo.data.dataset import Dataset
from hpo.data.sources.contents import available_memory
from hpo.engine import components
from hpo.errors import BadInput, Mistake
from hpo.execution.job_runner import one_line
from hpo.formatting import count
from hpo.models import user
from hpo.strategies.points import Problem, random_points
from hpo.study_file.spec import StudySpec

TRIED = 50  # configurations of a user's own model, each different


def check_study(spec: StudySpec, trust: bool) -> Iterator[str]:
    """The lines to print. A user's own code is imported only where `trust` allows it. Raises BadInput, also at the end."""
    own = [reference for reference in (spec.model, spec.train) if reference and user.is_reference(reference)]
    if own and not trust:
        yield f"{', '.join(own)}: your own code, which check imports only with --trust"
        return
    folder, place = spec.path.parent if spec.path else Path.cwd(), spec.place("train" if spec.train else "model")
    for reference in own:
        user.resolve(reference, folder, place)
    if spec.data is None or spec.train:
        yield f"{', '.join(own)} imported; custom trainer: model not inspected"
        return
    dataset = data.load_dataset(spec.data, spec.base_seed)
    yield f"data: {dataset.described()}"
    yield from dataset.notes
    yield from own_networks(spec, dataset) if own else proof(spec, dataset)


def proof(spec: StudySpec, dataset: Dataset) -> Iterator[str]:
    """Lines on every network of the space. Raises BadInput at the end where none of them can be trained."""
    from hpo.models.network import disagreement  # torch: 2 s that a refused file should not wait for
    from hpo.training.setup import time_step

    workers, free = len(components.placement(spec)), available_memory()
    machine = Machine(
        workers=workers,
        memory=None if free is None else free // workers,
        prove=disagreement,
        time_step=time_step(spec.model, dataset.shape, dataset.outputs),
    )
    findings = check(spec, Input(dataset.shape, dataset.outputs, len(dataset.train), len(dataset.val)), machine)
    yield from findings.lines()
    if findings.hopeless:
        rule, got = "must hold at least one point that can be trained", f"none of {findings.coverage.tried:,}"
        raise BadInput(Mistake(spec.place("search_space"), rule, got, "see the likely causes above"))


def own_networks(spec: StudySpec, dataset: Dataset) -> list[str]:
    """Lines on a sample of the space: how many networks the user's model builds that take two blank images."""
    sizes: list[int] = []
    failed: Counter[str] = Counter()
    examples: dict[str, Params] = {}
    with tempfile.TemporaryDirectory(prefix="hpo-check-") as folder:
        ready = components.recipe(spec, dataset.save(Path(folder, "data")), "cpu").setup()
        for params in islice(random_points(Problem(spec.space, seed=spec.seed)), TRIED):
            try:
                sizes.append(sum(weight.numel() for weight in ready.network(params, spec.seed).parameters()))
            except Exception as error:  # whatever a user's function raises
                why = str(error) if isinstance(error, TrainingFailed) else one_line(error)
                failed[why] += 1
                examples.setdefault(why, {n: v for n, v in params.items() if n not in spec.space.constants})
    tried = count(len(sizes) + failed.total(), "configuration")
    range_ = f" of {min(sizes):,} to {max(sizes):,} parameters" if sizes else ""
    reasons = [
        f"    {times} fail: {why} (as with {' '.join(f'{name}={value}' for name, value in examples[why].items())})"
        for why, times in failed.most_common()
    ]
    return [f"{tried} tried: {spec.model} builds {count(len(sizes), 'network')}{range_}", *reasons]
