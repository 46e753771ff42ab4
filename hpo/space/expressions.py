"""Constraints as expressions: comparison, arithmetic, and, or, not, min, max, abs. Parsed to a tree, never compiled.

`block1.channels <= block2.channels and model_parameters < 500_000`
"""

from __future__ import annotations

import ast
import math
import operator
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from hpo.core import Value

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
    ast.Pow: lambda base, exponent: math.pow(base, exponent),  # in floats: overflows instead of filling the memory
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
_FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {"min": min, "max": max, "abs": abs}
_LEGAL: Final = "comparisons, + - * / // % **, and, or, not, in, min, max, abs"


class NoExpression(ValueError):
    """The text is not a constraint; says the rule that it breaks."""

    def __init__(self, rule: str, got: str = "", remedy: str = "") -> None:
        self.rule, self.got, self.remedy = rule, got, remedy
        super().__init__(rule + (f", got {got}" if got else ""))


@dataclass(frozen=True)
class Constraint:
    """A condition on the values of a point. Raises NoExpression when made of anything else."""

    text: str
    names: tuple[str, ...] = field(init=False, compare=False)
    _tree: ast.expr = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        tree = _parsed(self.text)
        _check(tree, 0)
        if not _is_condition(tree):
            raise NoExpression("must be a condition", remedy="compare it with something, like <= 500_000")
        names = {name for node in ast.walk(tree) if (name := _name(node)) is not None}
        inner = {_name(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        called = {
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        object.__setattr__(self, "_tree", tree)
        object.__setattr__(self, "names", tuple(sorted(names - inner - called)))

    def holds(self, values: Mapping[str, Value]) -> bool:
        """Whether it holds; it does where it names something absent, and does not where it cannot be computed."""
        try:
            return self.value(values)
        except (ArithmeticError, TypeError, ValueError):
            return False

    def value(self, values: Mapping[str, Value]) -> bool:
        """As `holds`, but raises ArithmeticError, and TypeError where text is computed with."""
        if any(name not in values for name in self.names):
            return True
        return bool(_value(self._tree, values))

    def __str__(self) -> str:
        return self.text


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
    if isinstance(node, ast.Attribute):
        before = _name(node.value)
        return None if before is None else f"{before}.{node.attr}"
    return None


def _check(node: ast.expr, depth: int) -> None:
    if depth > DEEPEST:
        raise NoExpression(f"must be nested at most {DEEPEST} deep", remedy="write several constraints")
    match node:
        case ast.Name() | ast.Attribute() if _name(node) is not None:
            return
        case ast.Constant(value=bool() | int() | float() | str() as value):
            if not isinstance(value, str) and not abs(value) < 1e300:
                raise NoExpression("must hold no number above 1e300")
            return
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            children = [left, right]
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() | ast.Not(), operand=operand):
            children = [operand]
        case ast.BoolOp(values=values):
            children = values
        case ast.Compare(left=left, ops=ops, comparators=right_sides):
            _check_members(ops, right_sides)
            children = [left, *right_sides]
        case ast.Tuple(elts=elements) | ast.List(elts=elements):
            children = elements
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            _check_arity(name, len(arguments))
            children = arguments
        case _:
            raise NoExpression(f"may use {_LEGAL}", ast.unparse(node)[:60], "write it with these")
    for child in children:
        _check(child, depth + 1)


def _check_members(ops: list[ast.cmpop], right_sides: list[ast.expr]) -> None:
    for op, right in zip(ops, right_sides, strict=True):
        if type(op) not in _COMPARISON:
            raise NoExpression(f"may use {_LEGAL}", "is", "write ==")
        if isinstance(op, ast.In | ast.NotIn) != isinstance(right, ast.Tuple | ast.List):
            raise NoExpression(
                "must have a list after in, and only there", ast.unparse(right)[:60], "write a in [1, 2]"
            )


def _check_arity(name: str, count: int) -> None:
    if count != 1 if name == "abs" else count < 2:
        raise NoExpression(f"must give {name} {'one value' if name == 'abs' else 'two values or more'}", f"{count}")


def _is_condition(node: ast.expr) -> bool:
    match node:
        case ast.Compare() | ast.Name() | ast.Attribute() | ast.UnaryOp(op=ast.Not()):
            return True
        case ast.BoolOp(values=values):
            return all(map(_is_condition, values))
    return False


def _value(node: ast.expr, values: Mapping[str, Value]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name() | ast.Attribute():
            return values[_name(node) or ""]
        case ast.BoolOp(op=op, values=parts):
            results = (bool(_value(part, values)) for part in parts)
            return all(results) if isinstance(op, ast.And) else any(results)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _value(operand, values)
        case ast.UnaryOp(op=op, operand=operand):
            number = _number(operand, values)
            return -number if isinstance(op, ast.USub) else number
        case ast.BinOp(left=left, op=op, right=right):
            return _ARITHMETIC[type(op)](_number(left, values), _number(right, values))
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return _FUNCTIONS[name](*(_number(one, values) for one in arguments))
        case ast.Tuple(elts=elements) | ast.List(elts=elements):
            return [_value(one, values) for one in elements]
        case ast.Compare(left=left, ops=ops, comparators=right_sides):
            return _compared(left, ops, right_sides, values)
    raise AssertionError(ast.dump(node))  # _check let through what is not computed here


def _compared(left: ast.expr, ops: list[ast.cmpop], right_sides: list[ast.expr], values: Mapping[str, Value]) -> bool:
    before = _value(left, values)
    for op, side in zip(ops, right_sides, strict=True):
        after = _value(side, values)
        ordering = isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE)
        if ordering and (isinstance(before, str | bool) or isinstance(after, str | bool)):
            raise TypeError(f"{_shown(before)} and {_shown(after)} have no order")
        if not _COMPARISON[type(op)](before, after):
            return False
        before = after
    return True


def _number(node: ast.expr, values: Mapping[str, Value]) -> int | float:
    value = _value(node, values)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{_shown(value)} is not a number")
    return value


def _shown(value: object) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
