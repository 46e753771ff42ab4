"""`hpo check`, proof before training: what a study's space holds, what of it is impossible and why, and what it needs.

    configuration   a point of the search space; architecture: the network it describes, which several may share
    impossible      no network of that shape exists; excluded: a constraint of the study leaves it out

`check_study` loads the data and measures the machine. To `check` torch (`prove`), the clock (`time_steps`) and the
machine's memory are arguments: what is feasible never depends on the machine.
"""

import itertools
import math
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from statistics import fmean, median_low
from typing import Final

from hpo.core import Params, TrainingFailed, digest, epochs_of
from hpo.data import dataset as data_sets
from hpo.data.dataset import Dataset
from hpo.data.sources.contents import available_memory
from hpo.engine import components, opening
from hpo.errors import BadInput, Mistake
from hpo.execution import local
from hpo.execution.job_runner import one_line
from hpo.formatting import byte_size, count, duration, number
from hpo.models import user
from hpo.models.families import FAMILIES, TORCH_BYTES, feasibility, peak_memory
from hpo.models.layers import Summary, across, layer_table
from hpo.models.parameters import setting
from hpo.space.domains import part_of
from hpo.space.grid import GridImpossible, ParameterGrid
from hpo.strategies import prior
from hpo.strategies.encoding import Images
from hpo.strategies.points import WITH_ASHA, Problem, random_points
from hpo.study_file.spec import Budget, StudySpec

EVERY: Final = 20_000  # configurations that are all tried; of more, a sample
SAMPLE: Final = 2_000
PROVEN: Final = 2_000  # architectures built on the meta device, some 5 ms each
TIMED: Final = 5  # random configurations whose steps are timed on each device, in each precision
DRAWS: Final = 1_000  # to find those
SLACK: Final = 2.0  # by how much an epoch of a worker may differ from its steps timed alone, either way
START: Final = (2.0, 8.0, 60.0)  # seconds beside training: at least, usually and at most
TRIED: Final = 50  # configurations of a user's own model, each different
FORWARD: Final = 1 / 3  # the cost of validating on an image, relative to training on it: one pass of three
WORTHWHILE: Final = 1.1  # times as fast; less is noise
SHOWN: Final = 5  # reasons and disagreements that are named


@dataclass(frozen=True, slots=True)
class Machine:
    """What the check may use; None skips the warning and the proof. memory: bytes available to one worker."""

    workers: int = 1
    memory: int | None = None
    prove: Callable[[Summary], str | None] | None = None  # hpo.models.network.disagreement
    time_steps: Mapping[str, Callable[[Params, str], float]] = field(default_factory=dict)  # by device, the own first
    gpus: int = 0  # that the workers share in turn, and whose memory it then is


# -- a study on this machine -------------------------------------------------------------------------------------


def check_study(spec: StudySpec, trust: bool) -> Iterator[str]:
    """The lines to print. A user's own code is imported only where `trust` allows it. Raises BadInput, also at the end."""
    own = [reference for reference in (spec.model, spec.train) if reference and user.is_reference(reference)]
    if own and not trust:
        yield f"{', '.join(own)}: your own code, which check imports only with --trust"
        return
    said = [*opening.notes(spec, spec.budget.trials)]
    compared = replace(spec, strategy=WITH_ASHA["random"], budget=Budget(total_epochs=opening.total_epochs(spec)))
    yield from [*said, *(f"hpo compare: {note}" for note in opening.notes(compared, None) if note not in said)]
    if (known := prior.of(spec)) is not None:
        yours = " and your earlier studies" if spec.warm_start == "studies" else ""
        yield f"prior: it begins with what {known}{yours} have shown"
    folder, place = spec.path.parent if spec.path else Path.cwd(), spec.place("train" if spec.train else "model")
    for reference in own:
        user.resolve(reference, folder, place)
    if spec.data is None or spec.train:
        yield f"{', '.join(own)} imported; custom trainer: model not inspected"
        return
    dataset = data_sets.load_dataset(spec.data, spec.base_seed)
    opening.refuse_unknown_classes(spec, dataset)
    yield f"data: {dataset.described()}"
    yield from dataset.notes
    yield from own_networks(spec, dataset) if own else proof(spec, dataset)


def proof(spec: StudySpec, dataset: Dataset) -> Iterator[str]:
    """Lines on every network of the space. Raises BadInput at the end where none of them can be trained."""
    from hpo.models.network import disagreement  # torch: 2 s that a refused file should not wait for
    from hpo.training.setup import time_step

    devices = components.placement(spec)
    device = devices[0] if spec.execution.engine != "ray" else "cpu"  # a cluster's GPU may not be here
    free = local.gpu_memory()
    used = [free[int(one.removeprefix("cuda:"))] for one in {*devices}] if device != "cpu" else []
    here = (device, "cpu") if device != "cpu" else (device, *["cuda:0"][: len(free)])
    timed = {one: time_step(spec.model, dataset.shape, dataset.outputs, one) for one in here}
    memory = min(used) if used else available_memory()
    each = memory // -(-len(devices) // len(used or [0]))  # the first of the GPUs has the most workers
    machine = Machine(len(devices), each, disagreement, timed, len(used))
    findings = check(spec, Images(dataset.shape, dataset.outputs, len(dataset.train), len(dataset.val)), machine)
    yield from findings.lines()
    if findings.hopeless:
        rule, got = "must hold at least one point that can be trained", f"none of {findings.coverage.tried:,}"
        raise BadInput(Mistake(spec.place("search_space"), rule, got, "see the reasons above"))


def own_networks(spec: StudySpec, dataset: Dataset) -> Iterator[str]:
    """Lines on a sample of the space: how many networks the user's model builds that take two blank images."""
    sizes: list[int] = []
    failed: dict[str, list[Params]] = {}
    with tempfile.TemporaryDirectory(prefix="hpo-check-") as folder:
        ready = components.recipe(spec, dataset.save(Path(folder, "data")), "cpu").setup()
        for params in itertools.islice(random_points(Problem(spec.space, seed=spec.seed)), TRIED):
            try:
                sizes.append(sum(weight.numel() for weight in ready.network(params, spec.seed).parameters()))
            except Exception as error:  # whatever a user's function raises
                why = str(error) if isinstance(error, TrainingFailed) else one_line(error)
                failed.setdefault(why, []).append(params)
    tried = count(len(sizes) + sum(map(len, failed.values())), "configuration")
    range_ = f" of {min(sizes):,} to {max(sizes):,} parameters" if sizes else ""
    yield f"{tried} tried: {spec.model} builds {count(len(sizes), 'network')}{range_}"
    for why, points in sorted(failed.items(), key=lambda item: -len(item[1])):
        varied = " ".join(f"{name}={value}" for name, value in points[0].items() if name not in spec.space.constants)
        yield f"    {len(points)} fail: {why} (as with {varied})"


# -- of our own models -------------------------------------------------------------------------------------------


@dataclass
class Coverage:
    """The configurations that were tried and what became of them."""

    what: str
    tried: int = 0
    architectures: dict[Summary, Summary] = field(default_factory=dict)  # those possible, each once
    feasible: list[tuple[Params, Summary]] = field(default_factory=list)  # neither impossible nor excluded
    reasons: Counter[str] = field(default_factory=Counter)  # of the impossible ones
    excluded: Counter[str] = field(default_factory=Counter)  # by constraint

    def share(self, some: int) -> str:
        """ "312 of 2,592 configurations, 12 %"."""
        share = f"{percent:.0f} %" if (percent := 100 * some / self.tried) >= 1 else "under 1 %"
        return f"{some:,} of {count(self.tried, 'configuration')}, {share}"


def check(spec: StudySpec, data: Images, machine: Machine = Machine()) -> "Findings":
    """Try every configuration of a study of one of our models, or a seeded sample of them."""
    coverage = _coverage(spec, data)
    try:
        grid: int | str = spec.space.grid().size
    except GridImpossible as impossible:
        grid = f"impossible, {impossible}"
    points = grid if spec.strategy == "grid" and isinstance(grid, int) else spec.space.size()
    networks = list(coverage.architectures) if machine.prove is not None else []
    some = random.Random(digest(["proof", spec.seed])).sample(networks, min(PROVEN, len(networks)))
    proofs = tuple(machine.prove(network) for network in some if machine.prove is not None)
    estimate = _estimate(spec, data, machine, points)
    return Findings(spec, data, machine, grid, coverage, proofs, estimate)


def _coverage(spec: StudySpec, data: Images) -> Coverage:
    what, points = _configurations(spec)
    coverage = Coverage(what)
    rng = random.Random(digest(["rare", spec.seed]))
    drawn = (spec.space.sample(rng, spec.constraints) for _ in range(DRAWS if spec.constraints else 0))
    rare = itertools.takewhile(lambda _: not coverage.feasible, drawn)
    for params in itertools.chain(points, rare):
        coverage.tried += 1
        judged = feasibility(spec.model, params, data.shape, data.outputs, spec.constraints)
        coverage.excluded.update(judged.broken)
        if judged.network is not None:
            network = coverage.architectures.setdefault(judged.network, judged.network)
            if not judged.broken:
                coverage.feasible.append((params, network))
        elif judged.impossible:
            coverage.reasons[judged.impossible] += 1
    return coverage


def _configurations(spec: StudySpec) -> tuple[str, Iterable[Params]]:
    """All of the space; or all on which shapes and memory depend, where that alone is small enough; or a sample."""
    space, known = spec.space, {*FAMILIES[spec.model].parameters, "batch_size", "optimizer"}
    shaping = space.part([one.name for one in space.everything if part_of(one.name)[2] in known])
    combinations = "every combination of architecture, batch size and optimizer"
    for what, some in (("every configuration", space), (combinations, shaping)):
        if (size := some.size()) is not None and size <= EVERY:
            return what, map(some.with_derived, ParameterGrid(some.parameters))
    rng = random.Random(digest(["check", spec.seed]))
    return "a sample of the configurations", (space.sample(rng) for _ in range(SAMPLE))


# -- timing ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Estimate:
    """The study will take `low` to `high` seconds, inf where nothing limits it; trials is None where only time does.

    seconds: of one trial, of each configuration timed; epochs: of one epoch by (device, precision), the study's own first.
    """

    seconds: Sequence[float]
    trials: int | None
    workers: int
    low: float
    high: float
    epochs: Mapping[tuple[str, str], float]

    def lines(self) -> Iterator[str]:
        fit = {at: f"{number(mean, 2)} s on {' in '.join(at)}" for at, mean in self.epochs.items() if mean < math.inf}
        own, best = next(iter(self.epochs)), min(self.epochs, key=lambda one: self.epochs[one])
        named = zip(("device", "precision"), own, best, strict=True)
        keys = " and ".join(f"`{key}: {new}`" for key, old, new in named if new != old)
        speed = self.epochs[own] / self.epochs[best]
        yield self._time()
        yield f"epoch: {', '.join(fit.values())} (means; the first as the study has it)"
        yield f"faster: {f'{keys}, {speed:.1f} times' if speed >= WORTHWHILE else 'no other device or precision here'}"

    def _time(self) -> str:
        trial, workers = f"{_spread(self.seconds, duration)} each", count(self.workers, "worker")
        if math.isinf(self.high):
            return f"time: not limited; trials take {trial} on {workers}"
        trials = "" if self.trials is None else f"{count(self.trials, 'trial')}, "
        usual = START[1] + fmean(self.seconds) * (self.trials or math.inf) / self.workers
        about, low, high = map(duration, (min(usual, self.high), self.low, self.high))
        return f"time: about {about}, {low} to {high} whatever is tried ({trials}{trial}, {workers})"


def _spread(values: Sequence[float], write: Callable[[float], str]) -> str:
    return f"{write(min(values))} to {write(max(values))}, median {write(median_low(values))}"


def _estimate(spec: StudySpec, data: Images, machine: Machine, points: int | None) -> Estimate | None:
    """Steps of random configurations, and of the cheapest and dearest, timed. points: that the strategy can try."""
    rng = random.Random(digest(["timing", spec.seed]))
    images = data.train + FORWARD * data.val
    possible: list[tuple[float, float, Params]] = []  # steps, multiply-adds, params
    for params in (spec.space.sample(rng) for _ in range(DRAWS if machine.time_steps and data.train else 0)):
        judged = feasibility(spec.model, params, data.shape, data.outputs, spec.constraints)
        if judged.reason is None and judged.network is not None:
            steps = epochs_of(params) * images / int(setting(params, "batch_size"))
            possible.append((steps, epochs_of(params) * judged.network.multiply_adds, params))
    if not possible:
        return None
    extremes = [choose(possible, key=itemgetter(by)) for choose in (min, max) for by in (0, 1)]
    step, *_ = machine.time_steps.values()
    seconds = [count * step(params, spec.precision) for count, _, params in [*possible[:TIMED], *extremes]]
    by_device = _epochs(spec, data, machine, [params for *_, params in possible[:TIMED]])
    if math.inf in (*seconds, next(iter(by_device.values()))):
        return None
    epochs, total = fmean(epochs_of(params) for _, _, params in possible), spec.budget.total_epochs
    limits = (spec.budget.trials, None if total is None else max(1, round(total / epochs)), points)
    trials = min((limit for limit in limits if limit is not None), default=None)  # None: nothing but the time ends them
    low, high = _range(spec, min(seconds), max(seconds), trials, machine.workers)
    return Estimate(seconds, trials, machine.workers, low, high, by_device)


def _epochs(spec: StudySpec, data: Images, machine: Machine, some: Sequence[Params]) -> dict[tuple[str, str], float]:
    """Seconds of an epoch by device and precision, the study's own first, on the mean of these points; inf: do not fit."""
    found = {(device, one): 0.0 for device in machine.time_steps for one in (spec.precision, "fp32", "bf16")}
    for device, step in machine.time_steps.items():
        sized = [(params, int(setting(params, "batch_size"))) for params in some]
        fp32, bf16 = (fmean(step(params, one) / size for params, size in sized) for one in ("fp32", "bf16"))
        found[device, "fp32"] = (data.train + FORWARD * data.val) * fp32
        found[device, "bf16"] = data.train * bf16 + FORWARD * data.val * fp32  # validation is in fp32
    return found


def _range(spec: StudySpec, least: float, most: float, trials: int | None, workers: int) -> tuple[float, float]:
    """The seconds of a study, at `least` to `most` a trial. What ends early, or shares a training, takes less."""
    low, high, limit = math.inf, math.inf, spec.budget.time
    if trials is not None:
        early = spec.metric.target is not None or spec.budget.patience is not None
        rest = spec.early_stopping.min_epochs / spec.space.longest if spec.early_stopping is not None else 1.0
        shared = len(spec.space.lengths) if spec.strategy == "grid" else 1
        low = (1 if early else trials) * least * min(1.0, rest) / shared / workers / SLACK
        high = (trials / workers + 1) * most * SLACK  # the last may begin when all others end (Graham 1966)
    if limit is not None:
        low, high = min(low, limit), min(high, limit + most * SLACK)
    return low + START[0], high + START[2]


# -- what is said ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Findings:
    """grid: its points, or why there is none; proof: how torch contradicts the formulas, for each network it built."""

    spec: StudySpec
    data: Images
    machine: Machine
    grid: int | str
    coverage: Coverage
    proof: tuple[str | None, ...]
    estimate: Estimate | None

    @property
    def hopeless(self) -> bool:
        return not self.coverage.feasible  # nothing that was tried can be trained

    def lines(self) -> list[str]:
        return [*self._head(), *self._feasibility(), *([] if self.hopeless else self._costs())]

    def _head(self) -> Iterator[str]:
        spec, data, size = self.spec, self.data, self.spec.space.size()
        images = f"{across(data.shape)} {'colour ' if data.shape[0] == 3 else ''}images"
        split = f"{data.train:,} to train, {data.val:,} to validate"
        yield f"{spec.name}: {spec.model} on {images}, {count(data.outputs, 'output')}; {split}"
        space = "continuous" if size is None else count(size, "configuration")
        yield f"search space: {space}; as a grid: {self.grid if isinstance(self.grid, str) else count(self.grid, 'point')}"
        architectures = count(len(self.coverage.architectures), "possible architecture")
        yield f"checked: {self.coverage.what}, {self.coverage.tried:,}; {architectures}"
        if self.proof:
            wrong = [disagreement for disagreement in self.proof if disagreement is not None]
            agrees = f"{len(wrong):,} DISAGREE with" if wrong else "all agree with"
            yield f"proof: {len(self.proof):,} built on torch's meta device, layer by layer; {agrees} the formulas"
            yield from (f"  {text}" for text in wrong[:SHOWN])

    def _feasibility(self) -> Iterator[str]:
        coverage, reasons = self.coverage, self.coverage.reasons.most_common()
        yield f"impossible: {coverage.share(coverage.reasons.total()) if reasons else 'none'}"
        yield from (f"  {reason}; {coverage.share(n)}" for reason, n in reasons[:SHOWN])
        if rest := reasons[SHOWN:]:
            yield f"  and {count(len(rest), 'other reason')}; {coverage.share(sum(n for _, n in rest))}"
        for text, n in coverage.excluded.most_common():
            yield f"excluded by constraint {text}: {coverage.share(n)}"
        if self.hopeless and coverage.excluded:
            yield "warning: no possible configuration meets the constraints; relax one of them"
        elif self.hopeless:
            yield "warning: no configuration can be trained; change the search space or the size of the images"

    def _costs(self) -> Iterator[str]:
        """Of the feasible configurations, memory at their batch size."""
        networks, available = [network for _, network in self.coverage.feasible], self.machine.memory
        peaks = [peak_memory(network, params) for params, network in self.coverage.feasible]
        yield f"model parameters: {_spread([network.parameters for network in networks], '{:,.0f}'.format)}"
        yield f"multiply-adds per image: {_spread([network.multiply_adds for network in networks], '{:,.0f}'.format)}"
        yield f"memory per worker at the batch size: {_spread(peaks, byte_size)}, plus {byte_size(TORCH_BYTES)} for torch itself"
        if available is not None and (over := sum(peak > available for peak in peaks)):
            there = f"the {byte_size(available)} available to a worker"
            yield f"warning: {self.coverage.share(over)} may need more than {there}; lower batch_size"
        gpus, workers, need = self.machine.gpus, self.machine.workers, max(peaks) + TORCH_BYTES
        fit = min(local.cores(), gpus * ((available or 0) * -(-workers // gpus) // need)) if gpus else 0
        if fit > workers:
            yield f"GPU: {fit:,} trainings at a time fit; small networks fill it together: `workers: {fit}`"
        if self.estimate is not None:
            yield from self.estimate.lines()
        yield "the largest network, layer by layer:"
        yield from (f"  {line}" for line in layer_table(max(networks, key=lambda network: network.parameters)))
