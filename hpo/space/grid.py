"""What can be listed of a space: the grid of all its points, and those parts of points that constraints allow.

A grid is counted before it is built, read at any index, each active combination once.

Walking the parameters in order, all that matters to later ones of the values so far is which conditions hold. So the
points are the paths of a small graph whose states are sets of holding conditions; counting paths backwards gives
the size and, with it, random access. Nothing grows with the number of points.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from hpo.core import Params, Value
from hpo.errors import Mistake
from hpo.space.domains import Choice, Condition, Parameter
from hpo.space.expressions import Constraint

ROUNDS = 4  # of the Feistel network that shuffles a grid
MOST_WORK = 300_000  # states times the conditions checked in each: about a second
MOST_TRIED = 300_000  # partial points that are tried for a list of solutions: about a second
Holding = frozenset[Condition]  # the conditions that hold and that a later parameter still has


class GridImpossible(ValueError):
    """The space cannot be enumerated; faults names each parameter in the way, with the remedy."""

    def __init__(self, *faults: Mistake) -> None:
        self.faults = faults
        super().__init__("; ".join(map(str, faults)))


@dataclass(frozen=True, slots=True)
class _Branch:
    """Levels of one parameter that let the same conditions hold. indices None: all that are not in `named`."""

    size: int
    adds: Holding
    indices: tuple[int, ...] | None
    named: tuple[int, ...] = ()

    def index(self, position: int) -> int:
        if self.indices is not None:
            return self.indices[position]
        for index in self.named:  # ascending
            position += index <= position
        return position


ABSENT = _Branch(1, frozenset(), ())  # of a parameter that does not exist


class ParameterGrid:
    """All points of ordered parameters whose domains have levels."""

    def __init__(self, parameters: tuple[Parameter, ...]) -> None:
        conditions = {condition for parameter in parameters for condition in parameter.when}
        self.parameters = parameters
        self._branches = [_branches(parameter, conditions) for parameter in parameters]
        self._positions = {parameter.name: index for index, parameter in enumerate(parameters)}
        self._pending: list[list[tuple[Condition, ...]]] = [[] for _ in range(len(parameters) + 1)]
        for index, parameter in enumerate(parameters):
            first = min((self._positions[condition.name] + 1 for condition in parameter.when), default=index + 1)
            for position in range(first, index + 1):
                self._pending[position].append(parameter.when)
        self._paths = self._count()

    @property
    def size(self) -> int:
        return self._paths[0][frozenset()]

    def __iter__(self) -> Iterator[dict[str, Value]]:
        return (self.point(index) for index in range(self.size))

    def point(self, index: int) -> dict[str, Value]:
        """The index-th point; 0 <= index < size."""
        assert 0 <= index < self.size, (index, self.size)
        holding: Holding = frozenset()
        params: dict[str, Value] = {}
        for position, parameter in enumerate(self.parameters):
            for branch, follows in self._steps(position, holding):
                paths = self._paths[position + 1][follows]
                if index < branch.size * paths:
                    if branch is not ABSENT:
                        params[parameter.name] = parameter.domain.level(branch.index(index // paths))
                    index, holding = index % paths, follows
                    break
                index -= branch.size * paths
        return params

    def _count(self) -> list[dict[Holding, int]]:
        states: list[set[Holding]] = [{frozenset()}]
        work = 0
        for position in range(len(self.parameters)):
            states.append({follows for state in states[-1] for _, follows in self._steps(position, state)})
            work += len(states[-1]) * (1 + len(self._pending[position]))
            if work > MOST_WORK:
                name = self.parameters[position].name
                raise GridImpossible(Mistake(name, "has conditions too entangled to count", remedy="drop some `when`"))
        paths: list[dict[Holding, int]] = [dict.fromkeys(states[-1], 1)]
        for position in reversed(range(len(self.parameters))):
            after = paths[-1]
            paths.append({})
            for state in states[position]:
                steps = self._steps(position, state)
                paths[-1][state] = sum(branch.size * after[follows] for branch, follows in steps)
        return paths[::-1]

    def _steps(self, position: int, holding: Holding) -> Iterator[tuple[_Branch, Holding]]:
        """The branches open in a state and the states they lead to."""
        exists = holding.issuperset(self.parameters[position].when)
        for branch in self._branches[position] if exists else [ABSENT]:
            yield branch, self._trim(position + 1, holding | branch.adds)

    def _trim(self, position: int, holding: Holding) -> Holding:
        """Drop what no parameter from position on depends on: states that differ in nothing else are one."""
        if not holding:
            return holding
        keep = set[Condition]()
        for when in self._pending[position]:
            if all(condition in holding or self._positions[condition.name] >= position for condition in when):
                keep.update(when)
        return holding & keep


def _branches(parameter: Parameter, conditions: set[Condition]) -> list[_Branch]:
    levels = parameter.domain.levels
    assert levels is not None, parameter
    holds: dict[int, set[Condition]] = {}
    for condition in conditions:
        for value in condition.allowed if condition.name == parameter.name else ():
            if (index := parameter.domain.index(value)) is not None:
                holds.setdefault(index, set()).add(condition)
    groups: dict[Holding, list[int]] = {}
    for index in sorted(holds):
        groups.setdefault(frozenset(holds[index]), []).append(index)
    branches = [_Branch(len(indices), adds, tuple(indices)) for adds, indices in groups.items()]
    if len(holds) < levels:
        branches.insert(0, _Branch(levels - len(holds), frozenset(), None, tuple(sorted(holds))))
    return branches


def permutation(size: int, seed: str) -> Iterator[int]:
    """A seeded order of 0..size-1 that is never built: a Feistel network over the next power of four, walking its cycles.

    Source: J. Black, P. Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002, sections 3 and 5.
    """
    half = max(1, ((max(size, 1) - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    for index in range(1 << (2 * half)):
        left, right = index >> half, index & mask
        for number in range(ROUNDS):
            word = hashlib.blake2b(f"{seed}/{number}/{right}".encode(), digest_size=32).digest()
            left, right = right, left ^ (int.from_bytes(word, "big") & mask)
        if (shuffled := (left << half) | right) < size:
            yield shuffled


@lru_cache(maxsize=16)
def solutions(
    parameters: tuple[Parameter, ...],
    constraints: tuple[Constraint, ...],
    given: tuple[tuple[str, Value], ...] = (),
    most: int = MOST_TRIED,
    whole: bool = False,
) -> Sequence[Params] | None:
    """All that the parameters which constraints name can be together, with those they depend on: [] is a proof.

    Constraints on what is not countable, and on measures of the network, are left out. given: part of every solution; whole:
    with all other parameters, too. None where there is nothing to list, or more than `most` partial points would be tried.
    """
    fixed = dict(given)
    searched = [replace(p, domain=Choice((fixed[p.name],))) if p.name in fixed else p for p in parameters]
    own, needed = _listable(searched, constraints, set(fixed))
    if not own:
        return None
    points: list[Params] = [{}] if all(one.holds({}) for one in own if not one.names) else []
    decided, tried = set[str](), 0
    rest = [one for one in searched if one.name not in needed] if whole else []
    for parameter in [*(one for one in searched if one.name in needed), *rest]:
        levels = parameter.domain.levels
        tried += len(points) * (levels or most + 1)
        if levels is None or tried > most:
            return None
        decided.add(parameter.name)
        due = [one for one in own if parameter.name in one.names and decided.issuperset(one.names)]
        values = [parameter.domain.level(index) for index in range(levels)]
        absent: Sequence[Params] = () if parameter.name in fixed else ({},)
        grown: Iterator[Params] = (
            {**point, **more}
            for point in points
            for more in ([{parameter.name: value} for value in values] if parameter.active(point) else absent)
        )
        points = [point for point in grown if all(constraint.holds(point) for constraint in due)]
    return points


def _listable(
    parameters: Sequence[Parameter], constraints: Sequence[Constraint], fixed: set[str]
) -> tuple[Sequence[Constraint], set[str]]:
    """The constraints on countable parameters; and what these and `fixed` depend on, themselves included."""
    countable = set[str]()
    for parameter in parameters:  # parents first
        if parameter.domain.levels is not None and all(c.name in countable for c in parameter.when):
            countable.add(parameter.name)
    own = [constraint for constraint in constraints if countable.issuperset(constraint.names)]
    needed = fixed.union(*(constraint.names for constraint in own))
    for parameter in reversed(parameters):
        needed |= {condition.name for condition in parameter.when if parameter.name in needed}
    return own, needed
