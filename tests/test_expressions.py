"""Constraints: what they compute, and that nothing but computing can be written."""

import pickle
import random
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import refused
from test_yamlfile import TABLES

from hpo.core import Value
from hpo.space.domains import Choice, Condition, Parameter, Range
from hpo.space.expressions import Constraint, NoExpression
from hpo.space.grid import ParameterGrid, solutions
from hpo.space.space import Space

LONG = [
    "a == 1 < [1]" + " < 2" * 200,
    "9" * 400 + " > a",
    "(" * 90 + "a" + ")" * 90 + " < " + "-" * 60 + "1",
    "not " * 60 + "deep",
    "a < 1" + " " * 500,
]
VALUES: Mapping[str, Value] = {"a": 2, "b": 3, "block1.channels": 16, "act": "relu", "deep": True}


@pytest.mark.parametrize(("text", "expected"), TABLES["constraints at a point"])
def test_a_constraint_computes_as_python_does(text: str, expected: bool) -> None:
    assert Constraint(text).holds(VALUES) is expected


numbers = st.integers(-5, 5)
expressions = st.recursive(
    st.sampled_from(["a", "b"]) | numbers.map(str),
    lambda inner: (
        st.builds("({} {} {})".format, inner, st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner)
        | st.builds("max({}, {})".format, inner, inner)
        | st.builds("abs({})".format, inner)
    ),
    max_leaves=8,
)


@given(expressions, st.sampled_from(["<", "<=", "==", "!=", ">", ">="]), expressions, numbers, numbers)
def test_any_arithmetic_agrees_with_python(left: str, op: str, right: str, a: int, b: int) -> None:
    text = f"{left} {op} {right}"
    if len(text) > 500:
        return
    point, constraint = {"a": a, "b": b}, Constraint(text)
    try:
        expected = bool(eval(text, {"__builtins__": {"max": max, "abs": abs}}, {**point}))
    except ZeroDivisionError:
        assert constraint.holds(point) is False
        with pytest.raises(ZeroDivisionError):
            constraint.value(point)
    else:
        assert constraint.holds(point) is constraint.value({**point, "unused": 1}) is expected


def test_what_a_constraint_names_are_parameters_and_those_of_one_text_are_equal() -> None:
    constraint = Constraint("block2.channels >= block1.channels and a > 100")
    assert constraint.names == ("a", "block1.channels", "block2.channels")
    assert constraint.holds(VALUES)
    assert not constraint.holds({**VALUES, "block2.channels": 8})
    assert Constraint("max(a, block1.x.y) < model_parameters").names == ("a", "block1.x.y", "model_parameters")
    assert Constraint("block1.x < block1").names == ("block1", "block1.x")
    assert Constraint("1 < 2").names == ()
    constraint = Constraint("a<b")
    assert constraint == Constraint("a<b")
    copy = pickle.loads(pickle.dumps(constraint))
    assert copy == constraint
    assert copy.holds(VALUES)


def test_what_cannot_be_computed_does_not_hold_nor_fill_the_memory() -> None:
    zero = {"a": 0, "b": 10**9, "act": "relu"}
    for text in ("1 / a < 3", "b % a == 0", "b ** b > 1", "act * 2 < 3", "act < 3", "abs(act) > 1", "(-b) ** 0.5 > 0"):
        assert Constraint(text).holds(zero) is False
    assert "relu is not a number" in refused(TypeError, Constraint("act + 1 > 0").value, zero)
    assert Constraint("9 ** 9 ** 9 ** 9 > 1").holds({}) is False
    assert Constraint("(10 ** 300) * (10 ** 300) > 1").holds({}) is True


WHEN = (Condition("a", (1, 2)),)
SPACE = Space(
    (
        Parameter("a", Choice((1, 2, 3))),
        Parameter("b", Range(-2, 2, True), WHEN),
        Parameter("c", Choice((0, 5)), (Condition("b", (1, -1)),)),
        Parameter("rate", Range(0.1, 0.9, False)),
        Parameter("d", Choice(("x", "y"))),
    )
)
PARENTS = {"b": {"a"}, "c": {"a", "b"}}
conditions = st.builds(
    lambda left, op, right: Constraint(f"{left} {op} {right}"),
    st.sampled_from(["a", "b", "c", "a * b", "b - c", "rate", "rate + a", "3"]),
    st.sampled_from(["<", "==", "!=", ">="]),
    st.sampled_from(["a", "b", "c", "max(b, c)", "0", "1"]),
)


@given(
    st.lists(conditions, min_size=1, max_size=3), st.sampled_from([{}, {"a": 2}, {"c": 5}, {"d": "y"}]), st.integers()
)
def test_solutions_are_those_of_all_points(constraints: list[Constraint], partial: dict[str, Any], seed: int) -> None:
    own = [one for one in constraints if "rate" not in one.names]
    named = {*partial, *(name for one in own for name in one.names)}
    named = named.union(*(PARENTS.get(name, set()) for name in named))
    looked_through = {
        tuple((name, value) for name, value in params.items() if name in named)
        for params in ParameterGrid(tuple(one for one in SPACE.parameters if one.name != "rate"))
        if all(one.holds(params) for one in own) and partial.items() <= params.items()
    }
    listed = solutions(SPACE.parameters, tuple(constraints), tuple(partial.items()))
    if not own:
        assert listed is None
        return
    assert listed is not None
    assert {tuple(one.items()) for one in listed} == looked_through
    assert len(listed) == len(looked_through)
    if listed:
        drawn = SPACE.sample(random.Random(seed), tuple(constraints), partial)
        assert partial.items() <= drawn.items()
        assert all(one.holds(drawn) for one in own)


def test_what_is_too_much_to_list_is_not_listed() -> None:
    many = Space(tuple(Parameter(f"p{i}", Choice(tuple(range(10)))) for i in range(8)))
    assert solutions(many.parameters, (Constraint("p0 + p1 + p2 + p3 + p4 + p5 + p6 + p7 == 72"),)) is None
    chain = tuple(Constraint(f"p{i + 1} == p{i} + 1") for i in range(7))
    assert [one["p7"] for one in solutions(many.parameters, chain) or ()] == [7, 8, 9]


@pytest.mark.parametrize("text", [*TABLES["no constraints"], *LONG])
def test_what_is_no_constraint_is_refused(text: str) -> None:
    with pytest.raises(NoExpression):
        Constraint(text)


@given(st.text(max_size=80) | st.text("ab01.<=>+-*/%() ,[]'!|&andorti", max_size=40))
def test_any_text_is_a_constraint_or_refused(text: str) -> None:
    try:
        constraint = Constraint(text)
    except NoExpression:
        return
    assert constraint.holds(dict.fromkeys(constraint.names, 1)) in (True, False)
