"""Constraints, and values that follow from others: comparison, arithmetic, and, or, not, min, max, abs; as in

`block1.channels <= block2.channels and model_parameters < 500_000`. Their trees are checked, never compiled.
"""

import ast
import json
import math
import operator
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, NamedTuple

from hpo.core import Params, Value
from hpo.space.domains import Condition, exact, hold, rounded

Compute = Callable[[Mapping[str, Value]], Any]

LONGEST = 500  # characters
DEEPEST = 40
MEASURES: Final = ("model_parameters", "multiply_adds")  # what a network costs: known once it is described

_ARITHMETIC: Final[Mapping[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: math.pow,  # in floats: overflows instead of filling the memory
}
_COMPARISON: Final[Mapping[type[ast.cmpop], Callable[[Any, Any], bool]]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda one, many: one in many,
    ast.NotIn: lambda one, many: one not in many,
}
_ORDERING: Final = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {"min": min, "max": max, "abs": abs}
_LEGAL: Final = "comparisons, + - * / // % **, and, or, not, in, min, max, abs"


class NoExpression(ValueError):
    """The text is not an expression, or no constraint; says the rule that it breaks."""

    def __init__(self, rule: str, got: str = "", remedy: str = "") -> None:
        self.rule, self.got, self.remedy = rule, got, remedy
        super().__init__(rule + (f", got {got}" if got else ""))


@dataclass(frozen=True)
class Constraint:
    """A condition on the values of a point. Raises NoExpression when made of anything else."""

    text: str

    def __post_init__(self) -> None:
        if not _is_condition(_compiled(self.text).tree):
            raise NoExpression("must be a condition", remedy="compare it with something, like <= 500_000")

    @property
    def names(self) -> tuple[str, ...]:
        return _compiled(self.text).names

    def holds(self, values: Mapping[str, Value]) -> bool:
        """Whether it holds; it does where it names something absent, and does not where it cannot be computed."""
        try:
            return self.value(values)
        except (ArithmeticError, TypeError, ValueError):
            return False

    def value(self, values: Mapping[str, Value]) -> bool:
        """As `holds`, but raises ArithmeticError, and TypeError where text is computed with."""
        return any(name not in values for name in self.names) or bool(_compiled(self.text).compute(values))


@dataclass(frozen=True)
class Derived:
    """Follows from others, by an expression or as the k-th of a list: "channels[0]". Raises NoExpression."""

    name: str
    text: str
    when: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        _compiled(self.text)  # for its exception

    @property
    def names(self) -> tuple[str, ...]:
        return _compiled(self.text).names

    def exists(self, params: Params) -> bool:
        return hold(self.when, params) and all(name in params for name in self.names)

    def value(self, params: Params) -> Value | None:
        """Its value at a point, a whole number as such; None where it does not exist, or cannot be computed."""
        try:
            value = _compiled(self.text).compute(params) if self.exists(params) else None
        except (ArithmeticError, LookupError, TypeError, ValueError):
            return None
        if isinstance(value, float):
            return None if not math.isfinite(value) else int(value) if value.is_integer() else rounded(value, 12)
        return value if isinstance(value, int | str) else None


class Compiled(NamedTuple):
    """names: what it needs; compute: its value from theirs."""

    tree: ast.expr
    names: tuple[str, ...]
    compute: Compute


@cache
def _compiled(text: str) -> Compiled:
    """Raises NoExpression."""
    tree, names = _parsed(text), set[str]()
    if match := re.fullmatch(r"([\w.]+)\[([0-9]+)\]", text):
        return Compiled(tree, (match[1],), lambda values: json.loads(str(values[match[1]]))[int(match[2])])
    compute = _computing(tree, names)
    return Compiled(tree, tuple(sorted(names)), compute)


def _parsed(text: str) -> ast.expr:
    if len(text) > LONGEST:
        raise NoExpression(f"must be at most {LONGEST} characters", f"{len(text):,}", "write several constraints")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's advice on a user's text, like "3or"
            return ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        hint = "write == to compare" if "==" in str(error.msg) or "'='" in str(error.msg) else ""
        raise NoExpression("must be an expression", text, hint or "see a <= b, or a * b < 10 and c == 'sgd'") from None
    except (ValueError, MemoryError, RecursionError):
        raise NoExpression("must be an expression", text) from None


def _name(node: ast.AST) -> str | None:
    """A parameter's name: a word, or words joined by dots."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := _name(node.value)) is not None:
        return f"{before}.{node.attr}"
    return None


def _is_condition(node: ast.expr) -> bool:
    match node:
        case ast.Compare() | ast.Name() | ast.Attribute() | ast.UnaryOp(op=ast.Not()):
            return True
        case ast.BoolOp(values=values):
            return all(map(_is_condition, values))
    return False


def _computing(node: ast.expr, names: set[str], depth: int = 0) -> Compute:
    """What computes an expression from the values of a point; enters the names it needs. Raises NoExpression."""
    if depth > DEEPEST:
        raise NoExpression(f"must be nested at most {DEEPEST} deep", remedy="write several constraints")

    def each(nodes: Sequence[ast.expr]) -> list[Compute]:
        return [_computing(one, names, depth + 1) for one in nodes]

    match node:
        case ast.Name() | ast.Attribute() if (name := _name(node)) is not None:
            names.add(name)
            return operator.itemgetter(name)
        case ast.Constant(value=bool() | int() | float() | str() as constant):
            if not isinstance(constant, str) and not abs(constant) < 1e300:
                raise NoExpression("must hold no number above 1e300")
            return lambda values: constant
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            return _applied(_ARITHMETIC[type(op)], each([left, right]))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            [inner] = each([operand])
            return lambda values: not inner(values)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as op, operand=operand):
            return _applied(operator.neg if isinstance(op, ast.USub) else operator.pos, each([operand]))
        case ast.BoolOp(op=op, values=parts):
            combined, inners = all if isinstance(op, ast.And) else any, each(parts)
            return lambda values: combined(inner(values) for inner in inners)
        case ast.Compare(left=left, ops=ops, comparators=right_sides):
            _check_members(ops, right_sides)
            return _compared([type(op) for op in ops], each([left, *right_sides]))
        case ast.Tuple(elts=elements) | ast.List(elts=elements):
            inners = each(elements)
            return lambda values: [inner(values) for inner in inners]
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            if len(arguments) != 1 if name == "abs" else len(arguments) < 2:
                rule = f"must give {name} {'one value' if name == 'abs' else 'two values or more'}"
                raise NoExpression(rule, f"{len(arguments)}")
            return _applied(_FUNCTIONS[name], each(arguments))
    raise NoExpression(f"may use {_LEGAL}", ast.unparse(node)[:60], "write it with these")


def _check_members(ops: Sequence[ast.cmpop], right_sides: Sequence[ast.expr]) -> None:
    for op, right in zip(ops, right_sides, strict=True):
        if type(op) not in _COMPARISON:
            raise NoExpression(f"may use {_LEGAL}", "is", "write ==")
        if isinstance(op, ast.In | ast.NotIn) != isinstance(right, ast.Tuple | ast.List):
            rule = "must have a list after in, and only there"
            raise NoExpression(rule, ast.unparse(right)[:60], "write a in [1, 2]")


def _applied(function: Callable[..., Any], inners: Sequence[Compute]) -> Compute:
    """A function of numbers."""

    def number(value: Any) -> int | float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{exact(value)} is not a number")
        return value

    return lambda values: function(*(number(inner(values)) for inner in inners))


def _compared(ops: Sequence[type[ast.cmpop]], inners: Sequence[Compute]) -> Compute:
    """A chain of comparisons, like a < b <= 3."""

    def compute(values: Mapping[str, Value]) -> bool:
        before = inners[0](values)
        for op, inner in zip(ops, inners[1:], strict=True):
            after = inner(values)
            if op in _ORDERING and (isinstance(before, str | bool) or isinstance(after, str | bool)):
                raise TypeError(f"{exact(before)} and {exact(after)} have no order")
            if not _COMPARISON[op](before, after):
                return False
            before = after
        return True

    return compute
