"""Laws of domains, spaces and grids."""

import json
import math
import pickle
import random
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import is_point, refused

from hpo.core import Params, Value
from hpo.engine.changes import clashes
from hpo.errors import BadInput
from hpo.models.families import with_defaults
from hpo.space.domains import Choice, Condition, Domain, Parameter, Range
from hpo.space.expressions import Derived
from hpo.space.grid import GridImpossible
from hpo.space.space import Space
from hpo.strategies.points import frozen

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
    """Up to five parameters, each with conditions on some before it, written in any order; and two that may follow from them."""
    parameters: list[Parameter] = []
    for name in NAMES[: draw(st.integers(1, len(NAMES)))]:
        enumerable = [parent for parent in parameters if parent.domain.levels is not None and parent.domain.levels < 10]
        parents = draw(st.lists(st.sampled_from(enumerable), max_size=2, unique=True)) if enumerable else []
        some = [st.lists(st.sampled_from(levels(parent.domain)), min_size=1, unique=True) for parent in parents]
        when = tuple(Condition(parent.name, tuple(draw(one))) for parent, one in zip(parents, some, strict=True))
        parameters.append(Parameter(name, draw(domains), when))
    last = parameters[-1]
    follow = (Derived("f", f"{last.name} * 2", last.when), Derived("g", f"f + {parameters[0].name}"))
    return Space(tuple(draw(st.permutations(parameters))), follow if draw(st.booleans()) else ())


def points(space: Space) -> Iterator[Params]:
    """Every point of a discrete space, by plain recursion."""

    def extend(params: dict[str, Value], rest: tuple[Parameter, ...]) -> Iterator[Params]:
        if not rest:
            yield space.with_derived(params)
        elif rest[0].active(params):
            for value in levels(rest[0].domain):
                yield from extend({**params, rest[0].name: value}, rest[1:])
        else:
            yield from extend(params, rest[1:])

    return extend({}, space.parameters)


any_spaces = spaces(st.one_of(discrete, continuous))
seeds = st.integers(0, 2**32).map(random.Random)


@given(st.one_of(discrete, continuous), st.floats(0, 1, exclude_max=True))
def test_a_drawn_value_is_its_domains_own(domain: Domain, u: float) -> None:
    value = domain.at(u)
    assert domain.coerce(value) == value
    assert type(domain.coerce(value)) is type(value)
    assert 0 <= domain.encode(value) <= 1


@given(discrete)
def test_levels_differ_and_know_their_index(domain: Domain) -> None:
    every = levels(domain)
    assert len(set(every)) == len(every)
    assert [domain.index(value) for value in every] == list(range(len(every)))
    assert {domain.at((index + 0.5) / len(every)) for index in range(len(every))} == set(every)


@given(st.one_of(counted, continuous))
def test_a_range_reaches_both_ends_and_no_further(domain: Range) -> None:
    assert domain.coerce(domain.low) is not None
    assert domain.coerce(domain.high) is not None
    assert domain.coerce(domain.low - 1) is None
    assert domain.coerce(domain.high + 1) is None
    assert domain.at(0.0) == domain.low
    assert domain.integer or isinstance(domain.at(0.5), float)


@given(st.floats(1e-6, 1e3), st.floats(1.0, 1e6), st.booleans(), st.floats(0, 1, exclude_max=True))
def test_a_sampled_float_has_six_digits_and_stays_inside(low: float, factor: float, log: bool, u: float) -> None:
    domain = Range(low, low * factor, False, log)
    value = domain.at(u)
    assert domain.low <= float(value) <= domain.high
    assert value in (float(f"{value:.6g}"), domain.low, domain.high)


def test_a_log_range_gives_every_decade_and_a_whole_one_both_ends_their_share() -> None:
    """Of 6,000 draws over three decades each holds 2,000 +- 300: eight standard deviations."""
    decade, whole, rng = Range(1e-4, 1e-1, False, log=True), Range(1, 4, True), random.Random(0)
    decades = [math.floor(math.log10(float(decade.at(rng.random())))) for _ in range(6_000)]
    assert all(abs(decades.count(exponent) - 2_000) < 300 for exponent in (-4, -3, -2))
    drawn = [whole.at(rng.random()) for _ in range(4_000)]
    assert all(abs(drawn.count(value) - 1_000) < 200 for value in (1, 2, 3, 4))


def test_steps_have_few_digits_true_is_not_one_and_an_impossible_range_cannot_be_made() -> None:
    assert levels(Range(0, 0.5, False, step=0.1)) == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert levels(Range(1, 10, True, step=4)) == [1, 5, 9]
    assert levels(Range(1e-3, 1e-1, False, log=True, count=3)) == [0.001, 0.01, 0.1]
    assert levels(Range(1, 4, True, count=9)) == [1, 2, 3, 4]
    assert Choice((1, 2)).coerce(True) is None
    assert Choice((1, 2)).coerce(1.0) == 1
    assert Range(0, 1, False).coerce(True) is None
    assert not Condition("a", (1,)).allows(True)
    assert Range(0, 3, True).coerce(2.5) is None
    with pytest.raises(AssertionError):
        Range(2, 1, False)


@given(any_spaces, seeds)
def test_a_sample_is_a_point(space: Space, rng: random.Random) -> None:
    point = space.sample(rng)
    assert is_point(point, space)
    assert all(type(value) in (int, float, str, bool) for value in point.values())


@given(any_spaces, seeds, st.data())
def test_a_part_of_a_point_can_be_completed_and_is_kept(space: Space, rng: random.Random, data: st.DataObject) -> None:
    point = space.sample(rng)
    searched = sorted(point.keys() & set(space.names))
    names = data.draw(st.sets(st.sampled_from(searched))) if searched else set()
    partial = {name: point[name] for name in names}
    assert space.conflicts(partial) == []
    whole = space.complete(partial, rng)
    assert is_point(whole, space)
    assert partial.items() <= whole.items()


@given(spaces(), seeds, st.data())
def test_values_without_conflicts_share_a_point(space: Space, rng: random.Random, data: st.DataObject) -> None:
    """Both directions, against brute force."""
    names = data.draw(st.sets(st.sampled_from(space.names), max_size=3))
    partial = {name: space[name].domain.at(rng.random()) for name in names}
    exists = any(partial.items() <= point.items() for point in points(space))
    assert (space.conflicts(partial) == []) == exists
    if exists:
        assert partial.items() <= space.complete(partial, rng).items()


def test_a_sample_calls_nothing_but_random() -> None:
    """The stream of rng.random() is promised to be the same in every Python; randrange and choice are not."""
    domains = {"a": Range(1, 9, True), "b": Choice(("x", "y")), "c": Range(1, 2, False)}
    space = Space(tuple(Parameter(name, domain) for name, domain in domains.items()))
    assert space.sample(SimpleNamespace(random=random.Random(7).random)) == {"a": 3, "b": "x", "c": 1.65093}  # type: ignore[arg-type]


@settings(max_examples=300)
@given(spaces())
def test_a_grid_holds_every_point_exactly_once(space: Space) -> None:
    expected = {frozen(point) for point in points(space)}
    grid = space.grid() if all(isinstance(p.domain, Choice) or p.domain.gridded for p in space.parameters) else None
    if grid is not None:
        every = [frozen(space.with_derived(point)) for point in grid]
        assert len(every) == len(set(every)) == grid.size
        assert set(every) == expected
    assert space.size() == len(expected)


def test_a_grid_is_read_anywhere_and_a_range_without_step_or_count_has_none() -> None:
    space = Space(
        (
            Parameter("big", Range(0, 10**18, True, step=1)),
            *(Parameter(name, Range(0, 1, False, count=1000)) for name in "abcd"),
            Parameter("child", Choice((1, 2, 3)), (Condition("a", (0.0,)),)),
        )
    )
    grid = space.grid()
    assert grid.size == (10**18 + 1) * 1000**3 * (999 + 3)
    for index in (0, 1, 10**20 + 17, grid.size - 1):
        assert is_point(grid.point(index), space)
    assert len({frozen(grid.point(index)) for index in range(grid.size - 500, grid.size)}) == 500
    space = Space((Parameter("a", Range(1, 9, True)), Parameter("b", Range(0, 1, False)), Parameter("c", Choice((1,)))))
    with pytest.raises(GridImpossible) as impossible:
        space.grid()
    assert [fault.place for fault in impossible.value.faults] == ["a", "b"]
    assert "count: 5" in impossible.value.faults[0].remedy
    assert space.size() is None
    assert Space((Parameter("a", Range(1, 9, True)),)).size() == 9


def test_conditions_on_many_parents_are_counted_and_refused_where_they_are_too_entangled() -> None:
    parents = [Parameter(f"p{i}", Choice((False, True))) for i in range(60)]
    child = Parameter("child", Choice((1, 2, 3)), tuple(Condition(f"p{i}", (True,)) for i in range(60)))
    assert Space((*parents, child)).size() == 2**60 - 1 + 3
    parents = [Parameter(f"p{i}", Choice((0, 1))) for i in range(24)]
    whens = [(Condition(f"p{i}", (0,)), Condition(f"p{(i + 7) % 24}", (1,))) for i in range(24)]
    children = [Parameter(f"c{i}", Choice((0, 1)), when) for i, when in enumerate(whens)]
    space = Space((*parents, *children))
    assert "too entangled" in refused(GridImpossible, space.grid)
    assert space.size() is None


@given(any_spaces)
def test_a_space_comes_back_from_json_and_from_pickle_and_parents_stand_before_their_children(space: Space) -> None:
    assert Space.from_record(json.loads(json.dumps(space.record()))) == space
    assert pickle.loads(pickle.dumps(space)) == space
    assert clashes(space, space, {}) == []
    for position, parameter in enumerate(space.parameters):
        assert {condition.name for condition in parameter.when} <= set(space.names[:position])


ONE = Parameter("a", Choice((1,)))


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ([ONE, Parameter("a", Choice((2,)))], "search_space.a: is given twice"),
        ([replace(ONE, when=(Condition("b", (1,)),))], "a.when.b: can never hold: b is not there, got 1"),
        ([replace(ONE, when=(Condition("a", (1,)),))], "a.when: must not depend on itself, got a -> a"),
        ([ONE, Parameter("b", ONE.domain, (Condition("a", (2,)),))], "b.when.a: can never hold: a is 1, got 2"),
    ],
)
def test_an_impossible_space_cannot_be_made(parameters: list[Parameter], words: str) -> None:
    assert words in refused(BadInput, Space, tuple(parameters))


def test_values_follow_where_what_they_follow_from_exists_and_can_be_computed() -> None:
    lists, many = Parameter("c", Choice(("[4,0.5,true]", '[8,1,"off"]'))), (Condition("n", (2,)),)
    texts = {"first": "c[0]", "half": "first / 2", "none": "4 // n"}
    texts |= {"word": "c[2]", "beyond": "c[3]", "huge": "first ** 999"}
    derived = [Derived(name, text) for name, text in texts.items()]
    space = Space((lists, Parameter("n", Choice((0, 2)))), (*derived, Derived("tenth", "first / 10", many)))
    point = space.complete({"c": "[4,0.5,true]", "n": 2}, random.Random(0))
    assert point == {"c": "[4,0.5,true]", "n": 2, "first": 4, "half": 2, "none": 2, "word": True, "tenth": 0.4}
    assert type(point["half"]) is int
    assert space.complete({"c": '[8,1,"off"]', "n": 0}, random.Random(0)).keys() == {"c", "n", "first", "half", "word"}
    assert (space.size(), space.conflicts(point)) == (4, [])
    assert [fault.place for fault in space.conflicts({**point, "half": 3})] == ["half"]
    other = replace(space, derived=space.derived[1:])
    assert clashes(space, other, {}) == ["first followed from c[0], now from nothing"]


def test_constants_are_in_every_point_and_a_thousand_in_a_chain_are_ordered_without_recursion() -> None:
    free, fixed = Parameter("a", Choice((1, 2))), Parameter("b", Choice((3,)))
    below = Parameter("c", Choice((4,)), (Condition("a", (1,)),)), Parameter("d", Choice((5,)), (Condition("b", (3,)),))
    assert Space((free, fixed, *below)).constants == {"b": 3, "d": 5}
    chain = [Parameter("p0", Choice((1,)))]
    chain += [Parameter(f"p{i}", Choice((1,)), (Condition(f"p{i - 1}", (1,)),)) for i in range(1, 1000)]
    space = Space(tuple(reversed(chain)))
    assert space.names == tuple(f"p{i}" for i in range(1000))
    assert space.size() == 1
    assert len(space.constants) == 1000


@st.composite
def changed(draw: st.DrawFn, old: Space) -> Space:
    """A space that differs in one or two things; whether old trials can stay is for `clashes` to say."""
    parameters = list(old.parameters)
    for _ in range(draw(st.integers(1, 2))):
        index = draw(st.integers(0, len(parameters) - 1))
        one = parameters[index]
        match draw(st.sampled_from(["domain", "more", "when", "new"])):
            case "domain":
                parameters[index] = replace(one, domain=draw(discrete))
            case "more" if isinstance(one.domain, Choice):
                parameters[index] = replace(one, domain=Choice(tuple({*one.domain.values, 7})))
            case "when":
                parameters[index] = replace(one, when=one.when[1:])
            case "new":
                when = (Condition(one.name, (draw(st.sampled_from([*levels(one.domain), 7])),)),)
                parameters.append(Parameter(f"n{len(parameters)}", Choice((1, 2)), draw(st.sampled_from([(), when]))))
    try:
        return replace(old, parameters=tuple(parameters))
    except BadInput:
        return old


@settings(max_examples=300)
@given(spaces(), st.data())
def test_an_old_point_is_one_of_a_space_without_clashes_unless_it_lost_a_value(old: Space, data: st.DataObject) -> None:
    new = data.draw(changed(old))
    defaults = {name: data.draw(st.sampled_from([1, 3])) for name in new.names if data.draw(st.booleans())}
    if clashes(old, new, defaults):
        return
    for point in points(old):
        whole = with_defaults(point, new, defaults)
        assert point.items() <= whole.items()
        if all(new[name].domain.coerce(value) is not None for name, value in point.items() if name in new):
            assert is_point(whole, new)


OLD = (
    Parameter("optimizer", Choice(("adam", "sgd"))),
    Parameter("rate", Range(0.1, 1.0, False, log=True)),
    Parameter("momentum", Choice((0.5,)), (Condition("optimizer", ("sgd",)),)),
)
MORE = replace(OLD[0], domain=Choice(("adam", "sgd", "rmsprop")))


@pytest.mark.parametrize(
    ("new", "reasons"),
    [
        ((MORE, *OLD[1:], Parameter("decay", Choice((0.9,)), (Condition("optimizer", ("rmsprop",)),))), []),
        ((replace(OLD[0], domain=Choice(("adam",))), OLD[1]), []),  # no optimizer has a momentum
        (
            (OLD[0], replace(OLD[1], domain=Range(0.1, 1.0, False)), OLD[2]),
            ["rate counts in another way (whole numbers or log)"],
        ),
        (
            (*OLD, Parameter("clip", Choice((1.0, 2.0)))),
            ["clip is new, and the trials so far have its default, 0, which is no value of it"],
        ),
        ((*OLD[:2], replace(OLD[2], when=())), ["momentum exists under another condition"]),
        ((*OLD, Parameter("decay", Choice((0.9,)))), ["decay is new, and the trials so far have no value of it"]),
    ],
)
def test_beside_what_space_old_trials_can_stay(new: tuple[Parameter, ...], reasons: list[str]) -> None:
    assert clashes(Space(OLD), Space(new), {"clip": 0.0}) == reasons
