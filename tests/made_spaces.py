"""Hypothesis strategies of conditional search spaces, small enough to be enumerated by brute force."""

from collections.abc import Iterator

from hypothesis import strategies as st

from hpo.core import Params, Value
from hpo.space.domains import Choice, Condition, Domain, Parameter, Range
from hpo.space.space import Space

NAMES = ("a", "b", "c", "d", "e")

choices = st.lists(st.sampled_from([0, 1, 2, 0.5, "x", "y"]), min_size=1, max_size=3, unique=True).map(
    lambda values: Choice(tuple(values))
)
stepped = st.builds(
    lambda low, count, step, integer: Range(low, low + (count - 1) * step, integer, step=step),
    st.integers(-3, 3),
    st.integers(1, 4),
    st.integers(1, 2),
    st.booleans(),
)
counted = st.builds(
    lambda low, width, count, integer, log: Range(low, low + width, integer, log, count=count),
    st.integers(1, 5),
    st.integers(0, 9),
    st.integers(2, 4),
    st.booleans(),
    st.booleans(),
)
discrete = st.one_of(choices, stepped, counted)
continuous = st.builds(
    lambda low, factor, integer, log: Range(low, low * factor, integer, log),
    st.integers(1, 1000),
    st.integers(1, 1000),
    st.booleans(),
    st.booleans(),
)


def levels(domain: Domain) -> list[Value]:
    assert domain.levels is not None
    return [domain.level(index) for index in range(domain.levels)]


@st.composite
def spaces(draw: st.DrawFn, domains: st.SearchStrategy[Domain] = discrete) -> Space:
    """Up to five parameters, each with conditions on some before it; written in any order."""
    parameters: list[Parameter] = []
    for name in NAMES[: draw(st.integers(1, len(NAMES)))]:
        enumerable = [parent for parent in parameters if parent.domain.levels is not None and parent.domain.levels < 10]
        parents = draw(st.lists(st.sampled_from(enumerable), max_size=2, unique=True)) if enumerable else []
        when = tuple(
            Condition(
                parent.name, tuple(draw(st.lists(st.sampled_from(levels(parent.domain)), min_size=1, unique=True)))
            )
            for parent in parents
        )
        parameters.append(Parameter(name, draw(domains), when))
    return Space(tuple(draw(st.permutations(parameters))))


def points(space: Space) -> Iterator[Params]:
    """Every point of a discrete space, by plain recursion."""

    def extend(params: dict[str, Value], rest: tuple[Parameter, ...]) -> Iterator[Params]:
        if not rest:
            yield params
        elif rest[0].active(params):
            for value in levels(rest[0].domain):
                yield from extend({**params, rest[0].name: value}, rest[1:])
        else:
            yield from extend(params, rest[1:])

    return extend({}, space.parameters)


def frozen(params: Params) -> tuple[tuple[str, Value], ...]:
    return tuple(sorted(params.items()))
