"""What `hpo check` needs beside check.py: the data, the machine, and torch for the proof."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hpo.check.architectures import Machine, check
from hpo.check.findings import Input, lines
from hpo.data import dataset as data
from hpo.data.memory import available
from hpo.engine import components as assembly
from hpo.errors import BadInput, Mistake
from hpo.models import user
from hpo.study_file.spec import StudySpec


def check_study(spec: StudySpec, trust: bool) -> Iterator[str]:
    """Lines for a person. A user's own code is imported only where `trust` says so. Raises BadInput, also at the end."""
    own = [reference for reference in (spec.model, spec.train) if reference and user.is_reference(reference)]
    if own and not trust:
        yield f"{', '.join(own)}: your own code, which check does not import; with --trust it does"
        return
    for reference in own:
        user.resolve(
            reference, spec.path.parent if spec.path else Path.cwd(), spec.place("train" if spec.train else "model")
        )
    if spec.data is None or spec.train:
        yield f"{', '.join(own)} imports; what it trains is known to it alone"
        return
    dataset = data.load(spec.data, spec.training_seed or 0)
    if dataset.classes is None and spec.loss == "cross_entropy":
        raise BadInput(
            Mistake(
                spec.place("loss"),
                "must be squared_error, because the targets are numbers",
                spec.loss,
                "write loss: squared_error",
            )
        )
    if own:
        from hpo.check import own as theirs

        yield from theirs.networks(spec, dataset)
        return
    from hpo.models.shape_check import disagreement  # torch: 2 s that a refused file should not wait for
    from hpo.training.step_time import time_step

    workers, free = len(assembly.placement(spec)), available()
    machine = Machine(
        workers=workers,
        memory=None if free is None else free // workers,
        prove=disagreement,
        time_step=time_step(spec.model, dataset.shape, dataset.outputs),
    )
    found = check(spec, Input(dataset.shape, dataset.outputs, len(dataset.train), len(dataset.val)), machine)
    yield from lines(found)
    if found.hopeless:
        rule, got = (
            "must hold at least one point that can be trained",
            f"none of {found.looked.tried if found.looked else 0:,}",
        )
        raise BadInput(Mistake(spec.place("search_space"), rule, got, "see above what is to blame"))
