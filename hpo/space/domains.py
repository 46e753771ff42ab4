"""What a parameter may be: a choice or a range, when it exists, and what the trainer knows of it.

Words: a *level* is one of the values a domain enumerates; `levels` is None where they are endless. A fault is a
Mistake whose line is not known yet: its place is the name of a parameter, or the key of a choice or range.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from hpo.core import Params, Value
from hpo.errors import Mistake

SIGNIFICANT = 6  # digits of a sampled float: enough to search with, short enough to read
LARGEST_COUNT = 100_000


def exact(value: object) -> str:
    """A value as the study file writes it, to twelve digits."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def as_text(values: Sequence[object]) -> str:
    """A list as one value of a choice: [32,64,128]."""
    return json.dumps(values, separators=(",", ":"))


def rounded(number: float, digits: int = SIGNIFICANT) -> float:
    return float(f"{number:.{digits}g}")


def _key(value: Value) -> tuple[bool, Value]:
    return isinstance(value, bool), value  # 1 == 1.0 is one number, but 1 is not true


@dataclass(frozen=True)
class Choice:
    """One of some values; a constant is a choice of one."""

    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        assert not choice_faults(self.values), self.values

    @cached_property
    def _index(self) -> dict[tuple[bool, Value], int]:
        return {_key(value): position for position, value in enumerate(self.values)}

    @property
    def levels(self) -> int:
        return len(self.values)

    def level(self, index: int) -> Value:
        return self.values[index]

    def index(self, value: Value) -> int | None:
        return self._index.get(_key(value))

    def coerce(self, value: Value) -> Value | None:
        """The level that equals value, or None."""
        index = self.index(value)
        return None if index is None else self.values[index]

    def at(self, u: float) -> Value:
        """The value at u in [0, 1)."""
        return self.values[int(u * len(self.values))]

    def encode(self, value: Value) -> float:
        index = self.index(value)
        assert index is not None, (value, self)
        return 0.5 if len(self.values) == 1 else index / (len(self.values) - 1)

    def __str__(self) -> str:
        names = ", ".join(map(exact, self.values[:12])) + ", ..." * (len(self.values) > 12)
        return "one of " * (len(self.values) > 1) + names


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included; step and count make levels of them."""

    low: float
    high: float
    integer: bool
    log: bool = False
    step: float | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        assert all(map(math.isfinite, (self.low, self.high, self.step or 1))), self
        assert self.step is None or self.step > 0, self
        assert self.count is None or 2 <= self.count <= LARGEST_COUNT, self
        assert not range_faults(self.low, self.high, self.integer, self.log, self.step, self.count), self
        kind = int if self.integer else float
        object.__setattr__(self, "low", kind(self.low))
        object.__setattr__(self, "high", kind(self.high))

    @property
    def gridded(self) -> bool:
        """Whether a grid may enumerate it: a step or a count was asked for."""
        return self.step is not None or self.count is not None or self.low == self.high

    @property
    def levels(self) -> int | None:
        if self.count is not None:
            return len(self._spaced)
        if self.low == self.high:
            return 1
        step = self._step
        if step is None:
            return None
        return 1 + int((self.high - self.low) // step if self.integer else (self.high - self.low) / step + 1e-9)

    @property
    def _step(self) -> float | None:
        return 1 if self.step is None and self.integer else self.step

    @cached_property
    def _spaced(self) -> tuple[int | float, ...]:
        """The levels of a range with a count, ascending, each once."""
        assert self.count is not None
        numbers = [self._between(self.low, self.high, index / (self.count - 1)) for index in range(self.count)]
        numbers[-1] = self.high
        if self.integer:
            return tuple(sorted({math.floor(number + 0.5) for number in numbers}))
        return tuple(sorted({min(max(rounded(number), self.low), self.high) for number in numbers}))

    @property
    def values(self) -> Sequence[Value]:
        """Of a range of whole numbers, all of them, ascending."""
        if self.count is not None:
            return self._spaced
        return range(int(self.low), int(self.high) + 1, int(self._step or 1))

    def level(self, index: int) -> Value:
        if self.count is not None:
            return self._spaced[index]
        number = self.low + index * (self._step or 0)
        return int(number) if self.integer else min(max(rounded(number, 12), self.low), self.high)

    def index(self, value: Value) -> int | None:
        """Which level value is, or None."""
        if isinstance(value, bool | str) or self.levels is None:
            return None
        if self.count is not None:
            levels = self._spaced
            nearest = min(range(len(levels)), key=lambda index: abs(levels[index] - value))
        else:
            nearest = round((value - self.low) / (self._step or 1)) if math.isfinite(value) else -1
        inside = 0 <= nearest < (self.levels or 0)
        return nearest if inside and math.isclose(float(self.level(nearest)), value, rel_tol=1e-9) else None

    def coerce(self, value: Value) -> Value | None:
        """The value in this range's own type, or None if it does not lie in it."""
        if self.levels is not None:
            index = self.index(value)
            return None if index is None else self.level(index)
        if isinstance(value, bool | str) or not self.low <= value <= self.high:
            return None
        return float(value)

    def at(self, u: float) -> Value:
        """The value at u in [0, 1): evenly, or evenly in the logarithm."""
        if self.gridded and self.levels is not None:
            return self.level(int(u * self.levels))
        if self.integer:
            return int(min(max(math.floor(self._between(self.low, self.high + 1, u)), self.low), self.high))
        return min(max(rounded(self._between(self.low, self.high, u)), float(self.low)), float(self.high))

    def _between(self, low: float, high: float, u: float) -> float:
        if self.log:
            return math.exp(math.log(low) + u * (math.log(high) - math.log(low)))
        return low + u * (high - low)

    def encode(self, value: Value) -> float:
        assert not isinstance(value, bool | str), value
        if self.low == self.high:
            return 0.5
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    @property
    def offer(self) -> str:
        """What to write instead, so that a grid can enumerate it."""
        spaced = replace(self, count=min(5, int(self.high - self.low) + 1) if self.integer else 5)
        levels = ", ".join(exact(spaced.level(index)) for index in range(spaced.levels or 0))
        range_ = f"min: {exact(self.low)}, max: {exact(self.high)}{', log: true' * self.log}, count: {spaced.count}"
        return f"{{{range_}}} (it would try {levels})"

    def __str__(self) -> str:
        kind = "a whole number from" if self.integer else "from"
        text = f"{kind} {exact(self.low)} to {exact(self.high)}"
        return text if self.step is None else f"{text} in steps of {exact(self.step)}"


Domain = Choice | Range


def choice_faults(values: tuple[Value, ...]) -> list[Mistake]:
    if not values:
        return [Mistake("choices", "must name at least one value", "[]", "write them as a list, like [16, 32, 64]")]
    faults = []
    seen: dict[Value, Value] = {}  # 1 and true are equal here: a choice between them is a slip
    for value in values:
        if isinstance(value, float) and not math.isfinite(value):
            faults.append(Mistake("choices", "must be finite", exact(value), "write a plain number"))
        if value in seen:
            first, second = exact(seen[value]), exact(value)
            got = f"{first} twice" if first == second else f"{first} and {second}"
            faults.append(Mistake("choices", "must differ", got, "keep one of them"))
        seen.setdefault(value, value)
    return faults


def range_faults(
    low: float, high: float, integer: bool, log: bool = False, step: float | None = None, count: int | None = None
) -> list[Mistake]:
    """Every rule these finite numbers break together as a range, with the key to fix as its place."""
    numbers = [(key, number) for key, number in (("min", low), ("max", high), ("step", step)) if number is not None]
    broken = [(key, number) for key, number in numbers if integer and number != int(number)]
    faults = [Mistake(key, "must be a whole number", exact(number), "round it") for key, number in broken]
    if low > high:
        faults.append(Mistake("min", f"must not be above max ({exact(high)})", exact(low), "swap them"))
    if log and low <= 0:
        faults.append(Mistake("min", "must be above 0 because log is true", exact(low), "raise min or leave log out"))
    if step is not None:
        if count is not None:
            faults.append(Mistake("count", "cannot be combined with step", exact(count), "keep one of them"))
        if log:
            faults.append(Mistake("step", "cannot be combined with log", exact(step), "use count, or choices"))
        if 0 < high - low < step:
            most = exact(rounded(high - low, 12))
            faults.append(Mistake("step", f"must not be above max - min ({most})", exact(step)))
    return faults


@dataclass(frozen=True, slots=True)
class Condition:
    """Holds where the named parameter exists and has one of the allowed values."""

    name: str
    allowed: tuple[Value, ...]

    def allows(self, value: Value) -> bool:
        return any(_key(value) == _key(one) for one in self.allowed)

    def among(self, domain: Domain) -> tuple[Value, ...]:
        """The values of a domain under which it holds."""
        values = (domain.coerce(value) for value in self.allowed)
        return tuple(value for value in values if value is not None)


def hold(when: Sequence[Condition], params: Params) -> bool:
    return all(one.name in params and one.allows(params[one.name]) for one in when)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A name, what it may be, and the conditions that must all hold for it to exist."""

    name: str
    domain: Domain
    when: tuple[Condition, ...] = ()

    def active(self, params: Params) -> bool:
        return hold(self.when, params)


@dataclass(frozen=True, slots=True)
class Part:
    """What a network has several of. counted: the parameter that says how many; stem: what each one's own name leaves out."""

    prefix: str
    counted: str
    stem: str = ""

    def own(self, number: int, name: str) -> str:
        """dense2.units for the dense_units of layer 2."""
        return f"{self.prefix}{number}.{name.removeprefix(self.stem)}"


PARTS: Final = {"block": Part("block", "blocks"), "layer": Part("dense", "dense_layers", "dense_")}


def part_of(name: str) -> tuple[str, int, str]:
    """("block", 2, "channels") for block2.channels, ("layer", 1, "dense_units") for dense1.units, else ("", 0, name)."""
    for part, one in PARTS.items():
        if match := re.fullmatch(rf"{one.prefix}([1-9][0-9]{{0,3}})\.(.+)", name):
            return part, int(match[1]), one.stem + match[2]
    return "", 0, name


@dataclass(frozen=True, slots=True)
class ParameterSpec:
    """What a model family or the trainer says about one parameter it reads.

    kind: "int", "float", "choice" or "bool"; low and high belong to the meaning unless open_low, open_high say not.
    per: the part, "block" or "layer", that each may have its own of. when: it has no effect elsewhere.
    """

    default: Value | None
    kind: str
    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False
    choices: tuple[Value, ...] = ()
    per: str = ""
    when: tuple[Condition, ...] = ()
    doc: str = ""

    def fault(self, value: Value) -> str | None:
        """The rule that value breaks, or None."""
        if self.kind == "choice":
            fits = any(_key(value) == _key(one) for one in self.choices)
        elif self.kind == "bool" or isinstance(value, bool | str) or not math.isfinite(value):
            fits = self.kind == "bool" and isinstance(value, bool)
        else:
            above = self.low is None or (value > self.low if self.open_low else value >= self.low)
            below = self.high is None or (value < self.high if self.open_high else value <= self.high)
            fits = above and below and (self.kind == "float" or value == int(value))
        return None if fits else self.rule

    @property
    def rule(self) -> str:
        if self.kind == "choice":
            return f"must be {'one of ' * (len(self.choices) > 1)}{', '.join(map(exact, self.choices))}"
        if self.kind == "bool":
            return "must be true or false"
        ends = [f"{'above' if self.open_low else 'of at least'} {self.low:,}"] if self.low is not None else []
        if self.high is not None:
            ends.append(f"{'below' if self.open_high else 'at most' if ends else 'of at most'} {self.high:,}")
        return f"must be a {'whole ' * (self.kind == 'int')}number {' and '.join(ends)}".strip()

    def coerce(self, value: Value) -> Value:
        """A value without fault in this parameter's own type, so that 1 and 1.0 are one training."""
        if self.kind == "choice":
            return next(one for one in self.choices if _key(one) == _key(value))
        if self.kind == "bool":
            return value
        return int(value) if self.kind == "int" else float(value)
