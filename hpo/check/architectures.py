"""Proof before training: what a study's space holds, what of it is impossible and why, and what it needs.

    configuration   a point of the search space; architecture: the network it describes, which several may share
    impossible      no network of that shape exists; excluded: a constraint of the study leaves it out

Torch (`prove`), the clock (`time_step`) and the machine's memory are handed in: nothing here is slow to import, and
what is feasible never depends on the machine.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from statistics import fmean, median_low
from typing import Final

from hpo.check.findings import Blame, Estimate, Findings, Input, Looked, Needs, Proof, Share, Spread, lines
from hpo.core import Params, Value, digest, epochs_of
from hpo.models.families import FAMILIES, Family, feasible, peak_memory
from hpo.models.layers import Impossible, Layer, Summary, summary
from hpo.models.parameters import TRAINING, setting
from hpo.space.space import Grid, GridImpossible, Space
from hpo.study_file.spec import StudySpec

__all__ = ["Findings", "Input", "Machine", "check", "lines"]

EVERY: Final = 20_000  # configurations that are all looked at; of more, a sample
SAMPLE: Final = 2_000
PROVEN: Final = 2_000  # architectures built on the meta device, some 5 ms each
TIMED: Final = 5  # configurations whose steps are timed
DRAWS: Final = 1_000  # to find those
ODDS: Final = 1.5  # how many times the odds of all its parameter's values a value's must be for it to be blamed
RARE: Final = 0.05  # of the impossible ones; what fewer have may be chance
MOST_VALUES: Final = 32  # of a parameter; of more, none says anything by itself
FORWARD: Final = 1 / 3  # the cost of looking at an image instead of learning from it: one pass of three


@dataclass(frozen=True, slots=True)
class Machine:
    """What the check may use; None skips the warning, the proof, the timing. memory: bytes that one worker may take."""

    workers: int = 1
    memory: int | None = None
    prove: Callable[[Summary], str | None] | None = None  # hpo.models.shape_check.disagreement
    time_step: Callable[[Params], float] | None = None  # hpo.training.step_time.time_step(...)


def check(spec: StudySpec, data: Input, machine: Machine = Machine()) -> Findings:
    """Look at every configuration, or at a seeded sample of them."""
    family = FAMILIES.get(spec.model) if spec.train is None else None
    size, grid = spec.space.size(), _grid(spec.space)
    seen = _Seen() if family is None else _look(spec, family, data, size)
    return Findings(
        name=spec.name,
        model=spec.train or spec.model,
        data=data,
        size=size,
        grid=grid,
        looked=None if family is None else seen.looked(),
        impossible=len(seen.impossible),
        reasons=_shares(seen.reasons, seen.tried),
        blames=() if family is None else _blames(seen, family),
        excluded=_shares(seen.excluded, seen.tried),
        proof=_proof(list(seen.networks.values()), machine, spec.seed),
        needs=_needs(seen.feasible, machine.memory),
        estimate=_estimate(spec, data, machine, grid if spec.strategy == "grid" and isinstance(grid, int) else size),
    )


# -- looking -----------------------------------------------------------------------------------------------------


@dataclass
class _Seen:
    """What looking at configurations has shown so far."""

    what: str = ""
    complete: bool = True
    tried: int = 0
    networks: dict[tuple[Layer, ...], Summary] = field(default_factory=dict)
    feasible: list[tuple[Params, Summary]] = field(default_factory=list)
    impossible: list[Params] = field(default_factory=list)
    values: Counter[tuple[str, Value]] = field(default_factory=Counter)  # how many of those tried have it
    reasons: Counter[str] = field(default_factory=Counter)
    excluded: Counter[str] = field(default_factory=Counter)

    def looked(self) -> Looked:
        return Looked(self.tried, self.what, self.complete, len(self.networks), len(self.feasible))


def _look(spec: StudySpec, family: Family, data: Input, size: int | None) -> _Seen:
    what, complete, points = _configurations(spec, family, size)
    seen = _Seen(what, complete)
    for params in points:
        seen.tried += 1
        seen.values.update(params.items())
        try:
            layers = tuple(family.layers(params, data.shape, data.outputs))
        except Impossible as impossible:
            seen.impossible.append(params)
            seen.reasons[impossible.why] += 1
            continue
        made = seen.networks.get(layers) or seen.networks.setdefault(layers, summary(layers, data.shape))
        broken = _broken(spec, params, made)
        seen.excluded.update(broken)
        if not broken:
            seen.feasible.append((params, made))
    return seen


def _broken(spec: StudySpec, params: Params, made: Summary) -> list[str]:
    """The constraints that leave this configuration out."""
    values = {**params, "model_parameters": made.parameters, "multiply_adds": made.multiply_adds}
    return [constraint.text for constraint in spec.constraints if not constraint.holds(values)]


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
    """The part of the space on which shapes and memory depend, with what its conditions ask about."""
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


def _shares(counts: Mapping[str, int], tried: int) -> tuple[Share, ...]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Share(what, count, tried) for what, count in ordered)


def _blames(seen: _Seen, family: Family) -> tuple[Blame, ...]:
    """Values that are impossible much more often than the parameter's values are on the whole."""
    total = len(seen.impossible)
    found = Counter(item for params in seen.impossible for item in params.items())
    found_any = Counter(name for params in seen.impossible for name in params)
    variety, tried_any = Counter(name for name, _ in seen.values), Counter[str]()
    for (name, _), tried in seen.values.items():
        tried_any[name] += tried
    blames = []
    for (name, value), impossible in found.items():
        tried = seen.values[name, value]
        shapes = _bare(name) in family.parameters or name == "batch_size"
        telling = 1 < variety[name] <= MOST_VALUES and impossible > RARE * total
        if shapes and telling and _odds(impossible, tried) > ODDS * _odds(found_any[name], tried_any[name]):
            blames.append(Blame(name, value, impossible, tried, impossible == total))
    return tuple(sorted(blames, key=lambda b: (not b.always, -b.impossible / b.tried, -b.impossible, b.name)))


def _odds(some: int, tried: int) -> float:
    return (some + 0.5) / (tried - some + 0.5)  # the halves keep it finite (Haldane 1956)


def _proof(networks: Sequence[Summary], machine: Machine, seed: int) -> Proof | None:
    if machine.prove is None or not networks:
        return None
    some = random.Random(digest(["proof", seed])).sample(networks, min(PROVEN, len(networks)))
    answers = [machine.prove(made) for made in some]
    return Proof(len(answers), tuple(answer for answer in answers if answer is not None))


def _needs(feasible: Sequence[tuple[Params, Summary]], memory: int | None) -> Needs | None:
    if not feasible:
        return None
    peaks = [peak_memory(made, params) for params, made in feasible]
    return Needs(
        parameters=_spread([made.parameters for _, made in feasible]),
        multiply_adds=_spread([made.multiply_adds for _, made in feasible]),
        memory=_spread(peaks),
        over_memory=0 if memory is None else sum(bytes_ > memory for bytes_ in peaks),
        machine=memory,
        largest=max((made for _, made in feasible), key=lambda made: made.parameters),
    )


def _spread(values: Sequence[float]) -> Spread:
    return Spread(min(values), median_low(values), max(values))


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
    return Estimate(_spread(steps), seconds, trials, machine.workers, whole)


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
