"""What `hpo check` found, and how it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hpo.core import Value
from hpo.formatting import count, duration, number, written
from hpo.models.families import TORCH_BYTES
from hpo.models.layers import Row, Shape, Summary, across

SHOWN = 5  # reasons, blamed values and disagreements a section names


@dataclass(frozen=True, slots=True)
class Input:
    """What the study's data are like; train and val are how many images of each split there are (0: not known)."""

    shape: Shape  # (C, H, W)
    outputs: int
    train: int = 0
    val: int = 0


@dataclass(frozen=True, slots=True)
class Share:
    """So many of all, and what they have in common: a reason or a constraint."""

    what: str
    count: int
    of: int


@dataclass(frozen=True, slots=True)
class Blame:
    """One value of a parameter: impossible of tried configurations; always: every impossible one has it."""

    name: str
    value: Value
    impossible: int
    tried: int
    always: bool


@dataclass(frozen=True, slots=True)
class Spread:
    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True)
class Looked:
    """How many configurations were looked at, which ones, and how many distinct possible networks they describe."""

    tried: int
    what: str
    complete: bool  # nothing of the space was left out
    architectures: int
    feasible: int  # neither impossible nor excluded by a constraint


@dataclass(frozen=True, slots=True)
class Proof:
    """Networks built on torch's meta device, and where torch contradicts the formulas."""

    networks: int
    disagreements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Needs:
    """What the feasible configurations cost; memory in bytes at their batch size, machine: what a worker may take."""

    parameters: Spread
    multiply_adds: Spread
    memory: Spread
    over_memory: int
    machine: int | None
    largest: Summary


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the study will take at most; trials is None where nothing limits it."""

    step_seconds: Spread
    trial_seconds: float
    trials: int | None
    workers: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Findings:
    """looked is None for a user's own model or trainer: nothing is known of its shapes."""

    name: str
    model: str
    data: Input
    size: int | None  # distinct configurations; None where a range is continuous
    grid: int | str  # its points, or why there is none
    looked: Looked | None
    impossible: int
    reasons: tuple[Share, ...]  # most frequent first, as are the next two
    blames: tuple[Blame, ...]
    excluded: tuple[Share, ...]
    proof: Proof | None
    needs: Needs | None  # None where nothing is feasible
    estimate: Estimate | None

    @property
    def hopeless(self) -> bool:
        """Nothing of what was looked at can be trained."""
        return self.looked is not None and self.looked.feasible == 0


def lines(findings: Findings) -> list[str]:
    """The findings as plain text, for people."""
    return [*_head(findings), *_feasibility(findings), *_costs(findings)]


def _head(findings: Findings) -> Iterator[str]:
    data = findings.data
    images = f"{across(data.shape)} {'colour ' if data.shape[0] == 3 else ''}images"
    split = f"{data.train:,} to train, {data.val:,} to validate"
    yield f"{findings.name}: {findings.model} on {images}, {count(data.outputs, 'output')}; {split}"
    space = "continuous" if findings.size is None else many(findings.size, "configuration")
    grid = findings.grid if isinstance(findings.grid, str) else many(findings.grid, "point")
    yield f"search space: {space}; as a grid: {grid}"
    if findings.looked is None:
        yield "architecture: your own code builds it, so nothing is known of its shapes before training"
        return
    looked = findings.looked
    yield f"looked at: {looked.what}, {looked.tried:,}; {count(looked.architectures, 'possible architecture')}"


def _feasibility(findings: Findings) -> Iterator[str]:
    if findings.proof is not None:
        proof = findings.proof
        agrees = f"{len(proof.disagreements):,} DISAGREE with" if proof.disagreements else "all agree with"
        yield f"proof: {proof.networks:,} built on torch's meta device, layer by layer; {agrees} the formulas"
        yield from (f"  {text}" for text in proof.disagreements[:SHOWN])
    if findings.looked is None:
        return
    tried = findings.looked.tried
    yield f"impossible: {_of(findings.impossible, tried)}" if findings.impossible else "impossible: none"
    yield from (f"  {share.what}; {_of(share.count, share.of)}" for share in findings.reasons[:SHOWN])
    yield from _rest(findings.reasons)
    yield from (f"  to blame: {_blamed(blame)}" for blame in findings.blames[:SHOWN])
    yield from (f"constraint {share.what} leaves out {_of(share.count, share.of)}" for share in findings.excluded)
    if findings.hopeless and findings.excluded:
        yield "warning: nothing that is possible meets the constraints; loosen one of them"
    elif findings.hopeless:
        yield "warning: nothing of this can be trained; change the search space or the size of the images"


def _costs(findings: Findings) -> Iterator[str]:
    needs = findings.needs
    if needs is not None:
        yield f"learned parameters: {_spread(needs.parameters, whole)}"
        yield f"multiply-adds an image: {_spread(needs.multiply_adds, whole)}"
        torch = size(TORCH_BYTES)
        yield f"memory of a worker at the batch size: {_spread(needs.memory, size)}, besides {torch} of torch itself"
        if needs.over_memory and needs.machine is not None and findings.looked is not None:
            over = _of(needs.over_memory, findings.looked.tried)
            yield f"warning: {over} may need more than the {size(needs.machine)} a worker can have; lower batch_size"
    if findings.estimate is not None and not findings.hopeless:
        yield _time(findings.estimate)
    if needs is not None:
        yield "the largest network, layer by layer:"
        yield from (f"  {text}" for text in table(needs.largest))


def table(made: Summary) -> list[str]:
    """A network layer by layer, in columns: name, shape of what leaves it, learned parameters, multiply-adds."""
    cells = [("input", "x".join(map(str, made.shape)), "", ""), *map(_cells, made.rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(4)]
    return [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}".rstrip() for a, b, c, d in cells]


def size(amount: float) -> str:
    """Bytes as people write them: "512 kB", "1.4 GB"."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if amount >= scale:
            return f"{amount / scale:,.{1 if amount < 10 * scale else 0}f} {unit}"
    return f"{amount:.0f} bytes"


def many(n: int, noun: str) -> str:
    """Also what no float can hold: "2,592 configurations", "about 10^31 points"."""
    return count(n, noun) if n < 10**12 else f"about 10^{len(str(n)) - 1} {noun}s"


def whole(amount: float) -> str:
    return f"{amount:,.0f}"


def _cells(row: Row) -> tuple[str, str, str, str]:
    learned = count(row.parameters, "parameter") if row.parameters else ""
    work = count(row.multiply_adds, "multiply-add") if row.multiply_adds else ""
    return row.name, "x".join(map(str, row.shape)), learned, work


def _of(some: int, tried: int) -> str:
    """As the messages say it: 312 of 2,592 configurations, 12 %."""
    percent = 100 * some / tried
    return f"{some:,} of {count(tried, 'configuration')}, " + (f"{percent:.0f} %" if percent >= 1 else "under 1 %")


def _blamed(blame: Blame) -> str:
    always = "every impossible one has it; " if blame.always else ""
    share = f"{blame.impossible:,} of its {blame.tried:,} are impossible, {100 * blame.impossible / blame.tried:.0f} %"
    return f"{blame.name} {written(blame.value)}: {always}{share}"


def _rest(shares: tuple[Share, ...]) -> Iterator[str]:
    if len(shares) > SHOWN:
        more = sum(share.count for share in shares[SHOWN:])
        yield f"  and {count(len(shares) - SHOWN, 'other reason')}; {_of(more, shares[0].of)}"


def _spread(spread: Spread, write: Callable[[float], str]) -> str:
    return f"{write(spread.low)} to {write(spread.high)}, median {write(spread.median)}"


def _time(estimate: Estimate) -> str:
    steps = f"{number(1e3 * estimate.step_seconds.low, 2)} to {number(1e3 * estimate.step_seconds.high, 2)} ms a step"
    trial = f"{duration(estimate.trial_seconds)} a trial ({steps})"
    workers = count(estimate.workers, "worker")
    if estimate.trials is None:
        return f"time: nothing limits it; about {trial} on each of {workers}"
    return f"time: at most about {duration(estimate.seconds)}: {count(estimate.trials, 'trial')}, {trial}, {workers}"
