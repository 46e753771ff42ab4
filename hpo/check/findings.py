"""The findings of `hpo check` and the lines that report them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median_low

from hpo.core import Params, Value
from hpo.formatting import byte_size, columns, count, duration, number, written
from hpo.models.families import TORCH_BYTES
from hpo.models.layers import Shape, Summary, across

SHOWN = 5  # reasons, causes and disagreements a section names


@dataclass(frozen=True, slots=True)
class Input:
    """The study's data; train and val are how many images of each split there are (0: not known)."""

    shape: Shape  # (C, H, W)
    outputs: int
    train: int = 0
    val: int = 0


@dataclass(frozen=True, slots=True)
class Cause:
    """A value that makes configurations impossible: so many of those tried with it; always: every impossible one has it."""

    name: str
    value: Value
    impossible: int
    tried: int
    always: bool

    def __str__(self) -> str:
        always = "every impossible configuration has it; " if self.always else ""
        share = f"{self.impossible:,} of its {self.tried:,} are impossible, {100 * self.impossible / self.tried:.0f} %"
        return f"{self.name} {written(self.value)}: {always}{share}"


@dataclass(frozen=True, slots=True)
class Spread:
    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(min(values), median_low(values), max(values))

    def text(self, write: Callable[[float], str]) -> str:
        return f"{write(self.low)} to {write(self.high)}, median {write(self.median)}"


@dataclass
class Coverage:
    """The configurations that were tried and what became of them."""

    what: str
    tried: int = 0
    architectures: dict[Summary, Summary] = field(default_factory=dict)  # those possible, each once
    feasible: list[tuple[Params, Summary]] = field(default_factory=list)  # neither impossible nor excluded
    impossible: list[Params] = field(default_factory=list)
    values: Counter[tuple[str, Value]] = field(default_factory=Counter)  # how many of those tried have it
    reasons: Counter[str] = field(default_factory=Counter)  # of the impossible ones
    excluded: Counter[str] = field(default_factory=Counter)  # by constraint

    def share(self, some: int) -> str:
        """ "312 of 2,592 configurations, 12 %"."""
        percent = 100 * some / self.tried
        share = f"{percent:.0f} %" if percent >= 1 else "under 1 %"
        return f"{some:,} of {count(self.tried, 'configuration')}, {share}"


@dataclass(frozen=True, slots=True)
class Needs:
    """What the feasible configurations cost; memory in bytes at their batch size, available: to one worker."""

    parameters: Spread
    multiply_adds: Spread
    memory: Spread
    over_memory: int
    available: int | None
    largest: Summary


@dataclass(frozen=True, slots=True)
class Estimate:
    """The study will take `low` to `high` seconds, inf where nothing limits it; trials is None where only time does."""

    step_seconds: Spread
    trial_seconds: Spread
    trials: int | None
    workers: int
    low: float
    high: float

    def __str__(self) -> str:
        low, high = (number(1e3 * step, 2) for step in (self.step_seconds.low, self.step_seconds.high))
        steps = f"{low} ms" if low == high else f"{low} to {high} ms"
        trial, workers = f"{self.trial_seconds.text(duration)} each at {steps} per step", count(self.workers, "worker")
        if math.isinf(self.high):
            return f"time: not limited; trials take {trial} on {workers}"
        trials = "" if self.trials is None else f"{count(self.trials, 'trial')}, "
        return f"time: {duration(self.low)} to {duration(self.high)} ({trials}{trial}, {workers})"


@dataclass(frozen=True, slots=True)
class Findings:
    name: str
    model: str
    data: Input
    size: int | None  # distinct configurations; None where a range is continuous
    grid: int | str  # its points, or why there is none
    coverage: Coverage
    causes: tuple[Cause, ...]
    proof: tuple[str | None, ...]  # how torch contradicts the formulas, for each network built on its meta device
    needs: Needs | None  # None where nothing is feasible
    estimate: Estimate | None

    @property
    def hopeless(self) -> bool:
        """Nothing that was tried can be trained."""
        return not self.coverage.feasible

    def lines(self) -> list[str]:
        """The findings as plain text."""
        return [*self._head(), *self._feasibility(), *self._costs()]

    def _head(self) -> Iterator[str]:
        data = self.data
        images = f"{across(data.shape)} {'colour ' if data.shape[0] == 3 else ''}images"
        split = f"{data.train:,} to train, {data.val:,} to validate"
        yield f"{self.name}: {self.model} on {images}, {count(data.outputs, 'output')}; {split}"
        space = "continuous" if self.size is None else count(self.size, "configuration")
        grid = self.grid if isinstance(self.grid, str) else count(self.grid, "point")
        yield f"search space: {space}; as a grid: {grid}"
        architectures = count(len(self.coverage.architectures), "possible architecture")
        yield f"checked: {self.coverage.what}, {self.coverage.tried:,}; {architectures}"

        if self.proof:
            wrong = [disagreement for disagreement in self.proof if disagreement is not None]
            agrees = f"{len(wrong):,} DISAGREE with" if wrong else "all agree with"
            yield f"proof: {len(self.proof):,} built on torch's meta device, layer by layer; {agrees} the formulas"
            yield from (f"  {text}" for text in wrong[:SHOWN])

    def _feasibility(self) -> Iterator[str]:
        coverage = self.coverage
        yield f"impossible: {coverage.share(len(coverage.impossible)) if coverage.impossible else 'none'}"
        reasons = coverage.reasons.most_common()
        yield from (f"  {reason}; {coverage.share(n)}" for reason, n in reasons[:SHOWN])
        if rest := reasons[SHOWN:]:
            yield f"  and {count(len(rest), 'other reason')}; {coverage.share(sum(n for _, n in rest))}"
        yield from (f"  likely cause: {cause}" for cause in self.causes[:SHOWN])
        yield from (
            f"excluded by constraint {text}: {coverage.share(n)}" for text, n in coverage.excluded.most_common()
        )
        if self.hopeless and coverage.excluded:
            yield "warning: no possible configuration meets the constraints; relax one of them"
        elif self.hopeless:
            yield "warning: no configuration can be trained; change the search space or the size of the images"

    def _costs(self) -> Iterator[str]:
        needs = self.needs
        if needs is not None:
            yield f"model parameters: {needs.parameters.text('{:,.0f}'.format)}"
            yield f"multiply-adds per image: {needs.multiply_adds.text('{:,.0f}'.format)}"
            torch = byte_size(TORCH_BYTES)
            yield f"memory per worker at the batch size: {needs.memory.text(byte_size)}, plus {torch} for torch itself"
            if needs.over_memory and needs.available is not None:
                there = f"the {byte_size(needs.available)} available to a worker"
                yield f"warning: {self.coverage.share(needs.over_memory)} may need more than {there}; lower batch_size"
        if self.estimate is not None and not self.hopeless:
            yield str(self.estimate)
        if needs is not None:
            yield "the largest network, layer by layer:"
            yield from (f"  {line}" for line in layer_table(needs.largest))


def layer_table(network: Summary) -> list[str]:
    """A network layer by layer, in columns: name, shape of what leaves it, model parameters, multiply-adds."""
    cells = [("input", "x".join(map(str, network.shape)), "", "")]
    for row in network.rows:
        parameters = count(row.parameters, "parameter") if row.parameters else ""
        work = count(row.multiply_adds, "multiply-add") if row.multiply_adds else ""
        cells.append((row.name, "x".join(map(str, row.shape)), parameters, work))
    return columns(cells, left=(0, 1))
