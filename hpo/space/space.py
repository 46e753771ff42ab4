"""The search space: which parameters there are, when each exists, and what each may be; and what they break together.

Points are Params in which an inactive parameter is absent. `parameters` stand in an order in which every parameter
comes after those that its conditions name.
"""

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any, Self

from hpo.core import EPOCHS, Params, Value
from hpo.errors import BadInput, Mistake
from hpo.formatting import listed
from hpo.space.domains import Choice, Condition, Domain, Parameter, Range, exact
from hpo.space.expressions import Constraint, Derived
from hpo.space.grid import GridImpossible, ParameterGrid, solutions

LARGEST_ENUMERATED = 10_000_000  # points
MOST_PARAMETERS = 1_000


@dataclass(frozen=True)
class Space:
    """Frozen and checked when made: BadInput names every parameter that is wrong."""

    parameters: tuple[Parameter, ...]
    derived: tuple[Derived, ...] = ()  # not searched, they follow from the rest; each after those it follows from
    _by_name: Mapping[str, Parameter] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        faults = faults_of(self.parameters)
        if faults:
            raise BadInput(*(replace(fault, place=f"search_space.{fault.place}") for fault in faults))
        parameters, _ = ordered(self.parameters)
        object.__setattr__(self, "parameters", tuple(parameters))
        object.__setattr__(self, "_by_name", {parameter.name: parameter for parameter in parameters})

    @property
    def everything(self) -> tuple[Parameter | Derived, ...]:
        return (*self.parameters, *self.derived)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._by_name)

    def __getitem__(self, name: str) -> Parameter:
        return self._by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    @property
    def constants(self) -> dict[str, Value]:
        """The parameters that have the same value in every point."""
        certain: dict[str, Domain] = {}  # parameters that every point has
        for parameter in self.parameters:
            if all(
                c.name in certain and len(set(c.among(certain[c.name]))) == certain[c.name].levels
                for c in parameter.when
            ):
                certain[parameter.name] = parameter.domain
        return {name: domain.level(0) for name, domain in certain.items() if domain.levels == 1}

    @property
    def longest(self) -> int:
        """The most epochs that a point of this space trains for."""
        return max(self.lengths)

    @property
    def lengths(self) -> Sequence[int]:
        """The values of `epochs`."""
        values = self[EPOCHS].domain.values
        return values if isinstance(values, range) else [int(value) for value in values]

    def sample(
        self, rng: random.Random, constraints: tuple[Constraint, ...] = (), given: Params = MappingProxyType({})
    ) -> dict[str, Value]:
        """A random point with the given values that meets the constraints, as far as what does can be listed.

        Only rng.random() is called: its stream is the same in every Python.
        """
        listed = solutions(self.parameters, constraints, tuple(given.items())) if constraints else None
        return self.complete(listed[int(rng.random() * len(listed))] if listed else given, rng)

    def complete(self, partial: Params, rng: random.Random) -> dict[str, Value]:
        """A point with the values of partial, which has no `conflicts`; the rest is drawn so that they exist."""
        forced, clashes = self._forced(partial)
        assert not clashes, clashes
        params: dict[str, Value] = {}
        for parameter in self.parameters:
            if not parameter.active(params):
                continue
            if parameter.name in partial:
                value = parameter.domain.coerce(partial[parameter.name])
                assert value is not None, (parameter, partial)
            elif parameter.name in forced:
                options = forced[parameter.name]
                value = options[int(rng.random() * len(options))]
            else:
                value = parameter.domain.at(rng.random())
            params[parameter.name] = value
        return self.with_derived(params)

    def with_derived(self, params: Params) -> dict[str, Value]:
        """A point with the values that follow from it."""
        whole = dict(params)
        for one in self.derived:
            if (value := one.value(whole)) is not None:
                whole[one.name] = value
        return whole

    def part(self, names: Collection[str]) -> "Space":
        """The space of these parameters, and of what they follow from and depend on."""
        kept = set(names)
        for one in reversed(self.everything):
            if one.name in kept:
                kept |= {condition.name for condition in one.when}.union(one.names if isinstance(one, Derived) else ())
        return Space(
            tuple(one for one in self.parameters if one.name in kept),
            tuple(one for one in self.derived if one.name in kept),
        )

    def conflicts(self, partial: Params) -> list[Mistake]:
        """Why no point of this space has these values; [] if one has."""
        known = self.with_derived({name: value for name, value in partial.items() if name in self})
        faults = [Mistake(name, "is not in the search space") for name in partial if known.get(name) != partial[name]]
        for name, value in partial.items():
            if name in self and self[name].domain.coerce(value) is None:
                faults.append(Mistake(name, f"must be {self[name].domain}", exact(value)))
        return faults + self._forced(partial)[1]

    def _forced(self, partial: Params) -> tuple[dict[str, tuple[Value, ...]], list[Mistake]]:
        """What the parents of the given parameters must be for these to exist, and where they cannot."""
        forced: dict[str, tuple[Value, ...]] = {}
        clashes = []
        for parameter in reversed(self.parameters):
            if parameter.name not in partial and parameter.name not in forced:
                continue
            for condition in parameter.when:
                name = condition.name
                open_ = forced[name] if name in forced else condition.among(self[name].domain)
                forced[name] = tuple(value for value in open_ if condition.allows(value))
                given = name in partial and not condition.allows(partial[name])
                if given or not forced[name]:
                    got = f"{name}: {exact(partial[name])}" if given else ""
                    rule = f"exists only when {name} is {listed([*map(exact, condition.allowed)], 'or')}"
                    clashes.append(Mistake(parameter.name, rule, got, "leave one of them out"))
        return forced, clashes

    def size(self) -> int | None:
        """The number of distinct points; None where it is not finite or too entangled to count."""
        if any(parameter.domain.levels is None for parameter in self.parameters):
            return None
        try:
            return ParameterGrid(self.parameters).size
        except GridImpossible:
            return None

    @property
    def enumerable(self) -> bool:
        """Whether every point can be walked through, so that the last untried one is found."""
        return 0 < (self.size() or 0) <= LARGEST_ENUMERATED

    def grid(self) -> ParameterGrid:
        """Every point; GridImpossible names the ranges without step or count and offers some."""
        rule = "must have step or count, because a grid tries every value"
        ranges = [(one.name, one.domain) for one in self.parameters if isinstance(one.domain, Range)]
        faults = [Mistake(name, rule, remedy=f"write {one.offer}") for name, one in ranges if not one.gridded]
        if faults:
            raise GridImpossible(*faults)
        return ParameterGrid(self.parameters)

    def record(self) -> list[dict[str, Any]]:
        """This space as JSON; `from_record` reads it."""
        when = {one.name: [[c.name, list(c.allowed)] for c in one.when] for one in self.everything}
        searched = [{"name": one.name, "domain": asdict(one.domain), "when": when[one.name]} for one in self.parameters]
        return searched + [{"name": one.name, "follows": one.text, "when": when[one.name]} for one in self.derived]

    @classmethod
    def from_record(cls, record: Sequence[Mapping[str, Any]]) -> Self:
        parameters, derived = list[Parameter](), list[Derived]()
        for entry in record:
            name, when = entry["name"], tuple(Condition(name, tuple(allowed)) for name, allowed in entry["when"])
            if "follows" in entry:
                derived.append(Derived(name, entry["follows"], when))
            else:
                fields = entry["domain"]
                domain = Choice(tuple(fields["values"])) if "values" in fields else Range(**fields)
                parameters.append(Parameter(name, domain, when))
        return cls(tuple(parameters), tuple(derived))


def faults_of(parameters: Sequence[Parameter]) -> list[Mistake]:
    """Every rule the parameters break together."""
    if len(parameters) > MOST_PARAMETERS:
        rule = f"must be at most {MOST_PARAMETERS:,} parameters"
        return [Mistake(parameters[MOST_PARAMETERS].name, rule, f"{len(parameters):,}")]
    domains = {parameter.name: parameter.domain for parameter in parameters}
    faults = [Mistake(one.name, "is given twice") for one in parameters if domains[one.name] is not one.domain]
    for name, condition in ((one.name, condition) for one in parameters for condition in one.when):
        domain = domains.get(condition.name)
        impossible = [value for value in condition.allowed if domain is None or domain.coerce(value) is None]
        if impossible or not condition.allowed:
            rule = f"can never hold: {condition.name} is {domain or 'not there'}"
            faults.append(Mistake(f"{name}.when.{condition.name}", rule, ", ".join(map(exact, impossible))))
    return faults or ordered(parameters)[1]


def ordered(parameters: Sequence[Parameter]) -> tuple[list[Parameter], list[Mistake]]:
    """Parents before children, else as written; and the circle that prevents it."""
    found: list[Parameter] = []
    placed: set[str] = set()
    rest = list(parameters)
    while rest:
        ready = []
        for parameter in rest:
            if all(condition.name in placed for condition in parameter.when):
                ready.append(parameter)
                placed.add(parameter.name)
        if not ready:
            return found, [_circle({parameter.name: parameter for parameter in rest})]
        found += ready
        rest = [parameter for parameter in rest if parameter.name not in placed]
    return found, []


def _circle(rest: Mapping[str, Parameter]) -> Mistake:
    path = [next(iter(rest))]
    while True:
        name = next(condition.name for condition in rest[path[-1]].when if condition.name in rest)
        if name in path:
            circle = [*path[path.index(name) :], name]
            shown = " -> ".join(circle if len(circle) < 9 else [*circle[:4], "...", *circle[-3:]])
            return Mistake(f"{circle[0]}.when", "must not depend on itself", shown, "drop one of these conditions")
        path.append(name)
