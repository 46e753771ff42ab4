"""Proof before training: what a study's space holds, what of it is impossible and why, and what it needs.

    configuration   a point of the search space; architecture: the network it describes, which several may share
    impossible      no network of that shape exists; excluded: a constraint of the study leaves it out

Torch (`prove`), the clock (`time_step`) and the machine's memory are arguments: nothing here is slow to import, and
what is feasible never depends on the machine.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from statistics import fmean
from typing import Final

from hpo.check.findings import Cause, Coverage, Estimate, Findings, Input, Needs, Proof, Spread
from hpo.core import Params, Value, digest, epochs_of
from hpo.models.families import FAMILIES, Family, feasible, peak_memory
from hpo.models.layers import Impossible, Layer, Summary, summary
from hpo.models.parameters import TRAINING, setting
from hpo.space.grid import Grid, GridImpossible
from hpo.space.space import Space
from hpo.study_file.spec import StudySpec

EVERY: Final = 20_000  # configurations that are all tried; of more, a sample
SAMPLE: Final = 2_000
PROVEN: Final = 2_000  # architectures built on the meta device, some 5 ms each
TIMED: Final = 5  # configurations whose steps are timed
DRAWS: Final = 1_000  # to find those
ODDS: Final = 1.5  # how many times the odds of all its parameter's values a value's must be for it to be a cause
RARE: Final = 0.05  # of the impossible ones; what fewer have may be chance
MOST_VALUES: Final = 32  # of a parameter; of more, none says anything by itself
FORWARD: Final = 1 / 3  # the cost of validating on an image, relative to training on it: one pass of three


@dataclass(frozen=True, slots=True)
class Machine:
    """What the check may use; None skips the warning, the proof, the timing. memory: bytes available to one worker."""

    workers: int = 1
    memory: int | None = None
    prove: Callable[[Summary], str | None] | None = None  # hpo.models.shape_check.disagreement
    time_step: Callable[[Params], float] | None = None  # hpo.training.setup.time_step(...)


def check(spec: StudySpec, data: Input, machine: Machine = Machine()) -> Findings:
    """Try every configuration, or a seeded sample of them."""
    family = FAMILIES.get(spec.model) if spec.train is None else None
    size, grid = spec.space.size(), _grid(spec.space)
    tried = _Tried() if family is None else _try(spec, family, data, size)
    return Findings(
        name=spec.name,
        model=spec.train or spec.model,
        data=data,
        size=size,
        grid=grid,
        coverage=None if family is None else tried.coverage(),
        impossible=len(tried.impossible),
        reasons=_frequent(tried.reasons),
        causes=() if family is None else _causes(tried, family),
        excluded=_frequent(tried.excluded),
        proof=_proof(list(tried.networks.values()), machine, spec.seed),
        needs=_needs(tried.feasible, machine.memory),
        estimate=_estimate(spec, data, machine, grid if spec.strategy == "grid" and isinstance(grid, int) else size),
    )


# -- trying ------------------------------------------------------------------------------------------------------


@dataclass
class _Tried:
    """The configurations tried so far and what became of them."""

    what: str = ""
    complete: bool = True
    count: int = 0
    networks: dict[tuple[Layer, ...], Summary] = field(default_factory=dict)
    feasible: list[tuple[Params, Summary]] = field(default_factory=list)
    impossible: list[Params] = field(default_factory=list)
    values: Counter[tuple[str, Value]] = field(default_factory=Counter)  # how many of those tried have it
    reasons: Counter[str] = field(default_factory=Counter)
    excluded: Counter[str] = field(default_factory=Counter)

    def coverage(self) -> Coverage:
        return Coverage(self.count, self.what, self.complete, len(self.networks), len(self.feasible))


def _try(spec: StudySpec, family: Family, data: Input, size: int | None) -> _Tried:
    what, complete, points = _configurations(spec, family, size)
    tried = _Tried(what, complete)
    for params in points:
        tried.count += 1
        tried.values.update(params.items())
        try:
            layers = tuple(family.layers(params, data.shape, data.outputs))
        except Impossible as impossible:
            tried.impossible.append(params)
            tried.reasons[impossible.why] += 1
            continue
        network = tried.networks.get(layers) or tried.networks.setdefault(layers, summary(layers, data.shape))
        values = {**params, "model_parameters": network.parameters, "multiply_adds": network.multiply_adds}
        broken = [constraint.text for constraint in spec.constraints if not constraint.holds(values)]
        tried.excluded.update(broken)
        if not broken:
            tried.feasible.append((params, network))
    return tried


def _configurations(spec: StudySpec, family: Family, size: int | None) -> tuple[str, bool, Iterable[Params]]:
    """All of the space; or all of what shapes the network, where that alone is small enough; or a sample."""
    if size is not None and size <= EVERY:
        return "every configuration", True, Grid(spec.space.parameters)
    shaping = _shaping(spec.space, family)
    size = shaping.size()
    if size is not None and size <= EVERY:
        return "every combination of architecture, batch size and optimizer", True, Grid(shaping.parameters)
    rng = random.Random(digest(["check", spec.seed]))
    return "a sample of the configurations", False, (spec.space.sample(rng) for _ in range(SAMPLE))


def _shaping(space: Space, family: Family) -> Space:
    """The part of the space on which shapes and memory depend, with the parameters its conditions depend on."""
    kept = {name for name in space.names if _bare(name) in family.parameters or name in ("batch_size", "optimizer")}
    for parameter in reversed(space.parameters):  # parents stand before children
        if parameter.name in kept:
            kept |= {condition.name for condition in parameter.when}
    return Space(tuple(parameter for parameter in space.parameters if parameter.name in kept))


def _bare(name: str) -> str:
    """block2.channels -> channels."""
    return name.rpartition(".")[2]


def _grid(space: Space) -> int | str:
    try:
        return space.grid().size
    except GridImpossible as impossible:
        return f"impossible, {impossible}"


# -- concluding --------------------------------------------------------------------------------------------------


def _frequent(counts: Counter[str]) -> dict[str, int]:
    """The most frequent first; ties in the order of the alphabet."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _causes(tried: _Tried, family: Family) -> tuple[Cause, ...]:
    """Values that are impossible much more often than the parameter's values are on the whole."""
    total = len(tried.impossible)
    with_value = Counter(item for params in tried.impossible for item in params.items())
    with_name = Counter(name for params in tried.impossible for name in params)
    variety, tried_with_name = Counter(name for name, _ in tried.values), Counter[str]()
    for (name, _), times in tried.values.items():
        tried_with_name[name] += times
    causes = []
    for (name, value), impossible in with_value.items():
        times = tried.values[name, value]
        shapes = _bare(name) in family.parameters or name == "batch_size"
        telling = 1 < variety[name] <= MOST_VALUES and impossible > RARE * total
        if shapes and telling and _odds(impossible, times) > ODDS * _odds(with_name[name], tried_with_name[name]):
            causes.append(Cause(name, value, impossible, times, impossible == total))
    return tuple(sorted(causes, key=lambda c: (not c.always, -c.impossible / c.tried, -c.impossible, c.name)))


def _odds(some: int, tried: int) -> float:
    return (some + 0.5) / (tried - some + 0.5)  # the halves keep it finite (Haldane 1956)


def _proof(networks: Sequence[Summary], machine: Machine, seed: int) -> Proof | None:
    if machine.prove is None or not networks:
        return None
    some = random.Random(digest(["proof", seed])).sample(networks, min(PROVEN, len(networks)))
    answers = [machine.prove(network) for network in some]
    return Proof(len(answers), tuple(answer for answer in answers if answer is not None))


def _needs(feasible: Sequence[tuple[Params, Summary]], memory: int | None) -> Needs | None:
    if not feasible:
        return None
    peaks = [peak_memory(network, params) for params, network in feasible]
    return Needs(
        parameters=Spread.of([network.parameters for _, network in feasible]),
        multiply_adds=Spread.of([network.multiply_adds for _, network in feasible]),
        memory=Spread.of(peaks),
        over_memory=0 if memory is None else sum(bytes_ > memory for bytes_ in peaks),
        available=memory,
        largest=max((network for _, network in feasible), key=lambda network: network.parameters),
    )


# -- timing ------------------------------------------------------------------------------------------------------


def _estimate(spec: StudySpec, data: Input, machine: Machine, points: int | None) -> Estimate | None:
    """Steps of a few random configurations, timed and counted up. points: that the strategy can try."""
    timed = _timed(spec, data) if machine.time_step is not None and data.train else []
    if machine.time_step is None or not timed:
        return None
    steps = [machine.time_step(params) for params in timed]
    seconds = fmean(_trial_seconds(params, step, data) for params, step in zip(timed, steps, strict=True))
    trials = _trials(spec, points, fmean(epochs_of(params) for params in timed))
    limit = spec.budget.time
    whole = seconds * (trials or 0) / machine.workers
    if limit is not None and (trials is None or whole > limit):
        trials, whole = math.ceil(limit / seconds * machine.workers), limit
    return Estimate(Spread.of(steps), seconds, trials, machine.workers, whole)


def _timed(spec: StudySpec, data: Input) -> list[Params]:
    rng = random.Random(digest(["timing", spec.seed]))
    drawn = (spec.space.sample(rng) for _ in range(DRAWS))
    possible = (p for p in drawn if feasible(spec.model, p, data.shape, data.outputs) is None)
    return list(islice(possible, TIMED))


def _trial_seconds(params: Params, step: float, data: Input) -> float:
    images = data.train + FORWARD * data.val
    return epochs_of(params) * step * images / int(setting(params, TRAINING, "batch_size"))


def _trials(spec: StudySpec, points: int | None, epochs: float) -> int | None:
    """How many trials the budget pays for; None where nothing but the time ends them."""
    total = spec.budget.total_epochs
    limits = (spec.budget.trials, None if total is None else max(1, round(total / epochs)), points)
    return min((limit for limit in limits if limit is not None), default=None)
