"""`hpo check`, proof before training: what a study's space holds, what of it is impossible and why, and what it needs.

    configuration   a point of the search space; architecture: the network it describes, which several may share
    impossible      no network of that shape exists; excluded: a constraint of the study leaves it out

`check_study` loads the data and measures the machine. To `check` torch (`prove`), the clock (`time_step`) and the
machine's memory are arguments: what is feasible never depends on the machine.
"""

import itertools
import math
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from typing import Final

from hpo.check.findings import Cause, Coverage, Estimate, Findings, Input, Needs, Spread
from hpo.core import Params, TrainingFailed, Value, digest, epochs_of
from hpo.data import dataset as data_sets
from hpo.data.dataset import Dataset
from hpo.data.sources.contents import available_memory
from hpo.engine import components, opening
from hpo.errors import BadInput, Mistake
from hpo.execution.job_runner import one_line
from hpo.formatting import count
from hpo.models import user
from hpo.models.families import FAMILIES, Family, feasibility, peak_memory
from hpo.models.layers import Summary
from hpo.models.parameters import TRAINING, setting
from hpo.space.expressions import draw
from hpo.space.grid import GridImpossible, ParameterGrid
from hpo.space.space import Space
from hpo.strategies.points import Problem, random_points
from hpo.study_file.spec import StudySpec

EVERY: Final = 20_000  # configurations that are all tried; of more, a sample
SAMPLE: Final = 2_000
PROVEN: Final = 2_000  # architectures built on the meta device, some 5 ms each
TIMED: Final = 5  # random configurations whose steps are timed
SLACK: Final = 2.0  # by how much an epoch of a worker may differ from its steps timed alone, either way
START: Final = Spread(2.0, 15.0, 60.0)  # seconds for the workers' start, the data, publishing and the report
DRAWS: Final = 1_000  # to find those
ODDS: Final = 1.5  # how many times the odds of all its parameter's values a value's must be for it to be a cause
RARE: Final = 0.05  # of the impossible ones; what fewer have may be chance
MOST_VALUES: Final = 32  # of a parameter; of more, none says anything by itself
TRIED: Final = 50  # configurations of a user's own model, each different
FORWARD: Final = 1 / 3  # the cost of validating on an image, relative to training on it: one pass of three


@dataclass(frozen=True, slots=True)
class Machine:
    """What the check may use; None skips the warning, the proof, the timing. memory: bytes available to one worker."""

    workers: int = 1
    memory: int | None = None
    prove: Callable[[Summary], str | None] | None = None  # hpo.models.network.disagreement
    time_step: Callable[[Params], float] | None = None  # hpo.training.setup.time_step(...)


# -- a study on this machine -------------------------------------------------------------------------------------


def check_study(spec: StudySpec, trust: bool) -> Iterator[str]:
    """The lines to print. A user's own code is imported only where `trust` allows it. Raises BadInput, also at the end."""
    own = [reference for reference in (spec.model, spec.train) if reference and user.is_reference(reference)]
    if own and not trust:
        yield f"{', '.join(own)}: your own code, which check imports only with --trust"
        return
    yield from opening.notes(spec, spec.budget.trials)
    folder, place = spec.path.parent if spec.path else Path.cwd(), spec.place("train" if spec.train else "model")
    for reference in own:
        user.resolve(reference, folder, place)
    if spec.data is None or spec.train:
        yield f"{', '.join(own)} imported; custom trainer: model not inspected"
        return
    dataset = data_sets.load_dataset(spec.data, spec.base_seed)
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


# -- of our own models -------------------------------------------------------------------------------------------


def check(spec: StudySpec, data: Input, machine: Machine = Machine()) -> Findings:
    """Try every configuration of a study of one of our models, or a seeded sample of them."""
    size, grid, coverage = spec.space.size(), _grid(spec.space), _coverage(spec, data)
    return Findings(
        name=spec.name,
        model=spec.model,
        data=data,
        size=size,
        grid=grid,
        coverage=coverage,
        causes=_causes(coverage, FAMILIES[spec.model]),
        proof=_proof(coverage, machine, spec.seed),
        needs=_needs(coverage, machine.memory),
        estimate=_estimate(spec, data, machine, grid if spec.strategy == "grid" and isinstance(grid, int) else size),
    )


# -- trying ------------------------------------------------------------------------------------------------------


def _coverage(spec: StudySpec, data: Input) -> Coverage:
    what, points = _configurations(spec)
    coverage = Coverage(what)
    rng = random.Random(digest(["rare", spec.seed]))
    drawn = (draw(spec.space, spec.constraints, rng) for _ in range(DRAWS if spec.constraints else 0))
    rare = itertools.takewhile(lambda _: not coverage.feasible, drawn)
    for params in itertools.chain(points, rare):
        coverage.tried += 1
        coverage.values.update(params.items())
        judged = feasibility(spec.model, params, data.shape, data.outputs, spec.constraints)
        coverage.excluded.update(judged.broken)
        if judged.network is not None:
            network = coverage.architectures.setdefault(judged.network, judged.network)
            if not judged.broken:
                coverage.feasible.append((params, network))
        elif judged.impossible:
            coverage.impossible.append(params)
            coverage.reasons[judged.impossible] += 1
    return coverage


def _configurations(spec: StudySpec) -> tuple[str, Iterable[Params]]:
    """All of the space; or all of what shapes the network, where that alone is small enough; or a sample."""
    shaping = _shaping(spec.space, FAMILIES[spec.model])
    combinations = "every combination of architecture, batch size and optimizer"
    for what, space in (("every configuration", spec.space), (combinations, shaping)):
        if (size := space.size()) is not None and size <= EVERY:
            return what, ParameterGrid(space.parameters)
    rng = random.Random(digest(["check", spec.seed]))
    return "a sample of the configurations", (spec.space.sample(rng) for _ in range(SAMPLE))


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


def _causes(coverage: Coverage, family: Family) -> tuple[Cause, ...]:
    """Values that are impossible much more often than the parameter's values are on the whole."""
    total, impossible = len(coverage.impossible), Counter(item for p in coverage.impossible for item in p.items())
    tried: dict[str, dict[Value, int]] = {}
    for (name, value), times in coverage.values.items():
        if _bare(name) in family.parameters or name == "batch_size":
            tried.setdefault(name, {})[value] = times
    causes = []
    for name, values in tried.items():
        usual = ODDS * _odds(sum(impossible[name, value] for value in values), sum(values.values()))
        for value, times in values.items() if 1 < len(values) <= MOST_VALUES else ():
            some = impossible[name, value]
            if some > RARE * total and _odds(some, times) > usual:
                causes.append(Cause(name, value, some, times, some == total))
    return tuple(sorted(causes, key=lambda c: (not c.always, -c.impossible / c.tried, -c.impossible, c.name)))


def _odds(some: int, tried: int) -> float:
    return (some + 0.5) / (tried - some + 0.5)  # the halves keep it finite (Haldane 1956)


def _proof(coverage: Coverage, machine: Machine, seed: int) -> tuple[str | None, ...]:
    if machine.prove is None:
        return ()
    networks = list(coverage.architectures)
    some = random.Random(digest(["proof", seed])).sample(networks, min(PROVEN, len(networks)))
    return tuple(machine.prove(network) for network in some)


def _needs(coverage: Coverage, memory: int | None) -> Needs | None:
    if not coverage.feasible:
        return None
    peaks = [peak_memory(network, params) for params, network in coverage.feasible]
    networks = [network for _, network in coverage.feasible]
    return Needs(
        parameters=Spread.of([network.parameters for network in networks]),
        multiply_adds=Spread.of([network.multiply_adds for network in networks]),
        memory=Spread.of(peaks),
        over_memory=0 if memory is None else sum(bytes_ > memory for bytes_ in peaks),
        available=memory,
        largest=max(networks, key=lambda network: network.parameters),
    )


# -- timing ------------------------------------------------------------------------------------------------------


def _estimate(spec: StudySpec, data: Input, machine: Machine, points: int | None) -> Estimate | None:
    """Steps of a few configurations, timed and counted up: random ones, and the cheapest and dearest of many.

    points: that the strategy can try. The range is from all trials as the quickest to all as the slowest.
    """
    rng = random.Random(digest(["timing", spec.seed]))
    images = data.train + FORWARD * data.val
    possible: list[tuple[float, float, Params]] = []  # steps, multiply-adds, params
    for params in (spec.space.sample(rng) for _ in range(DRAWS if machine.time_step is not None and data.train else 0)):
        judged = feasibility(spec.model, params, data.shape, data.outputs, spec.constraints)
        if judged.reason is None and judged.network is not None:
            steps = epochs_of(params) * images / int(setting(params, TRAINING, "batch_size"))
            possible.append((steps, epochs_of(params) * judged.network.multiply_adds, params))
    if machine.time_step is None or not possible:
        return None
    extremes = [choose(possible, key=itemgetter(by)) for choose in (min, max) for by in (0, 1)]
    timed = [(count, machine.time_step(params)) for count, _, params in [*possible[:TIMED], *extremes]]
    seconds = Spread.of([count * step for count, step in timed])
    trials = _trials(spec, points, fmean(epochs_of(params) for _, _, params in possible))
    low, high = _range(spec, seconds, trials, machine.workers)
    return Estimate(Spread.of([step for _, step in timed]), seconds, trials, machine.workers, low, high)


def _range(spec: StudySpec, trial: Spread, trials: int | None, workers: int) -> tuple[float, float]:
    """The seconds of a study. What ends early, or shares a training, takes less than its trials would."""
    low, high, limit = math.inf, math.inf, spec.budget.time
    if trials is not None:
        early = spec.metric.target is not None or spec.budget.patience is not None
        rest = spec.early_stopping.min_epochs / spec.space.longest if spec.early_stopping is not None else 1.0
        shared = len(spec.space.lengths) if spec.strategy == "grid" else 1
        low = (1 if early else trials) * trial.low * min(1.0, rest) / shared / workers / SLACK
        high = (trials / workers + 1) * trial.high * SLACK  # the last may begin when all others end (Graham 1966)
    if limit is not None:
        low, high = min(low, limit), min(high, limit + trial.high * SLACK)
    return low + START.low, high + START.high


def _trials(spec: StudySpec, points: int | None, epochs: float) -> int | None:
    """How many trials the budget pays for; None where nothing but the time ends them."""
    total = spec.budget.total_epochs
    limits = (spec.budget.trials, None if total is None else max(1, round(total / epochs)), points)
    return min((limit for limit in limits if limit is not None), default=None)
