"""One parameter as the study file writes it: a value, a [list], {min, max, ...} or {choices, ...}; and its schema."""

# ruff: noqa: RUF009 - option() is dataclasses.field

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hpo.core import Value
from hpo.errors import Mistake
from hpo.space.domains import LARGEST_COUNT, Choice, Domain, ParameterSpec, Range, choice_faults, range_faults, show
from hpo.study_file.fields import (
    Mistakes,
    anything,
    flag,
    flag_meant,
    meanings,
    nearest,
    number,
    number_of,
    option,
    read_fields,
    record_schema,
    text,
)
from hpo.study_file.yaml_nodes import Node

NAME: Final = r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*"
VALUES: Final = meanings(  # what other tools call a value
    {"silu": "swish", "leaky_relu": "leakyrelu lrelu", "sigmoid": "logistic", "sgd": "gd momentum"}
)
_CALL: Final = r"(?s:(log|q|int|rand|uniform|choice|normal|range|np\.|tune\.|hp\.|trial\.)[\w.]*\(.*\))"
_INTERVAL: Final = r"[-+.0-9eE_]+ *(\.\.\.?|to|-|:) *[-+.0-9eE_]+"

_VALUE: Final[dict[str, Any]] = {"type": ["number", "string", "boolean"]}
_VALUES: Final[dict[str, Any]] = {"type": "array", "items": _VALUE, "minItems": 1, "uniqueItems": True}
_WHEN: Final[dict[str, Any]] = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {"anyOf": [_VALUE, _VALUES]},
}


@dataclass(frozen=True)
class _Written:
    """The keys of a parameter that is written as a mapping: choices, or a range from min to max."""

    choices: Node | None = option(
        anything(_VALUES),
        None,
        "a choice with conditions",
        {"choices: [...]": "values value categorical choice options categories grid_search"},
    )
    min: float | None = option(
        number(),
        None,
        "the least; numbers are whole where the parameter is whole",
        {
            "min": "low lower lower_bound start",
            "min: ..., max: ...": "uniform quniform q_uniform int_uniform float int range",
        },
    )
    max: float | None = option(number(), None, "the largest", "high upper upper_bound stop")
    log: bool = option(
        flag(),
        False,
        "even in the logarithm",
        {
            "log: true": "scale log_scale base",
            "min: ..., max: ..., log: true": "log_uniform loguniform log_uniform_values reciprocal qloguniform",
            "log: true for log_uniform, nothing for uniform": "distribution type _type dist",
        },
    )
    step: float | None = option(number(above=0), None, "levels: min, min + step, ...", "q quantization")
    count: int | None = option(number(2, LARGEST_COUNT, whole=True), None, "so many even levels", "num n steps")
    when: Node | None = option(
        anything(_WHEN),
        None,
        "it exists only where each of these parameters has this value (a list: one of these)",
        {"when": "condition conditions if parent depends_on", "start_with in the study file": "default"},
    )
    per: str | None = option(text("block", "must be block", "per: block"), None, "one such parameter for each block")


_IN_FULL: Final = {
    **record_schema(_Written),
    "oneOf": [{"required": ["choices"]}, {"required": ["min", "max"]}],
    "not": {"required": ["step", "count"]},
}
_PARAMETERS: Final[dict[str, Any]] = {
    "type": "object",
    "minProperties": 1,
    "propertyNames": {"pattern": f"^{NAME}$"},
    "additionalProperties": {"anyOf": [_VALUE, _VALUES, _IN_FULL]},
}
SEARCH_SPACE: Final[dict[str, Any]] = {
    "anyOf": [{"type": "string", "pattern": r"\.ya?ml$", "description": "a file of parameters"}, _PARAMETERS]
}
CONSTRAINTS: Final[dict[str, Any]] = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    "examples": [["model_parameters <= 500_000", "block1.channels <= block2.channels"]],
}
START_WITH: Final[dict[str, Any]] = {"type": "array", "items": {"type": "object", "additionalProperties": _VALUE}}


@dataclass(frozen=True)
class DomainReader:
    """Reads a value, a [list], {min, max, ...} or {choices, ...}.

    known: what the trainer says about the parameter; None: numbers are whole or not as they are written.
    """

    mistakes: Mistakes
    path: str
    known: ParameterSpec | None

    def read(self, node: Node) -> Domain | None:
        """The domain; None where something is wrong."""
        if node.items is not None:
            return self._choice(node, node.items, self.path)
        if node.mapping is None:
            return self._constant(node)
        before = len(self.mistakes.all)
        written = read_fields(_Written, node, self.path, self.mistakes, "a parameter")
        if "choices" not in written:
            return self._range(node, written, before)
        for key in written.keys() & {"min", "max", "log", "step", "count"}:
            self._note(node.key_place(key), key, "cannot be combined with choices", "", "drop it")
        choices: Node = written["choices"]
        if choices.items is None:
            self._note(choices, "choices", "must be a list", str(choices), "write choices: [16, 32, 64]")
            return None
        return self._choice(choices, choices.items, f"{self.path}.choices")

    def _note(self, node: Node | str, key: str, rule: str, got: str = "", remedy: str = "") -> None:
        self.mistakes.note(node, f"{self.path}.{key}" if key else self.path, rule, got, remedy)

    def _constant(self, node: Node) -> Domain | None:
        if node.value is None:
            self._note(node, "", "must have a value", "nothing", "write a value, a [list] or {min: ..., max: ...}")
            return None
        if isinstance(node.value, str) and re.fullmatch(f"{_CALL}|{_INTERVAL}", node.value):
            log = ", log: true" if "log" in node.value else ""
            remedy = "write a [list]" if "choice" in node.value else f"write {{min: ..., max: ...{log}}}"
            self._note(node, "", "must be a value, a list or a range", str(node), remedy)
            return None
        value = self._value(node, self.path)
        return None if value is None else Choice((value,))

    def _choice(self, node: Node, items: Sequence[Node], path: str) -> Domain | None:
        values = [self._value(item, f"{path}.{index}") for index, item in enumerate(items)]
        good = tuple(value for value in values if value is not None)
        if len(good) < len(values):
            return None
        faults = choice_faults(good)
        for fault in faults:
            self.mistakes.note(node, path, fault.rule, fault.got, fault.remedy)
        return None if faults else Choice(good)

    def _value(self, node: Node, path: str) -> Value | None:
        """One value of a choice, in the parameter's own type."""
        value = node.scalar
        if value is None or (isinstance(value, float) and number_of(node) is None):
            self.mistakes.note(node, path, "must be a number, text, true or false", str(node))
            return None
        rule = None if self.known is None else self.known.fault(value)
        if self.known is None or rule is None:
            return value if self.known is None else self.known.coerce(value)
        words = [choice for choice in self.known.choices if isinstance(choice, str)]
        close = VALUES.get(str(value).lower()) or nearest(str(value), words)
        remedy = flag_meant(node) if self.known.kind == "bool" else f"did you mean {close}?" if close in words else ""
        self.mistakes.note(node, path, rule, str(node), remedy)
        return None

    def _range(self, node: Node, written: Mapping[str, Any], before: int) -> Domain | None:
        known = self.known
        if known is not None and known.kind in ("choice", "bool"):
            some = "true, false" if known.kind == "bool" else ", ".join(map(show, known.choices[:3]))
            self._note(node, "", "must be a value or a list, not a range", "", f"write [{some}]")
            return None
        self._check_ends(node, before)
        if len(self.mistakes.all) > before:
            return None
        low, high, step = (written.get(key) for key in ("min", "max", "step"))
        assert low is not None
        assert high is not None
        whole = known.kind == "int" if known else not any(isinstance(part, float) for part in (low, high, step))
        numbers = (low, high, whole, written.get("log", False), step, written.get("count"))
        faults = self._meaning(low, high) or range_faults(*numbers)
        for fault in faults:
            self._note((node.mapping or {})[fault.place], fault.place, fault.rule, fault.got, fault.remedy)
        return None if faults else Range(*numbers)

    def _check_ends(self, node: Node, before: int) -> None:
        """Note the first end that is missing, unless a remedy noted since says how to give it."""
        remedies = " ".join(mistake.remedy for mistake in self.mistakes.all[before:])
        given = [key for key, child in (node.mapping or {}).items() if child.value is not None]
        missing = [key for key in ("min", "max") if key not in given]
        if missing and not re.search("min|max|choices", remedies):
            self._note(node, "", f"must have {missing[0]}", "", "write {min: ..., max: ...} or {choices: [...]}")

    def _meaning(self, low: float, high: float) -> list[Mistake]:
        """Ends that lie outside of what the parameter can mean."""
        rules = [(key, end, self.known.fault(end)) for key, end in (("min", low), ("max", high)) if self.known]
        return [Mistake(key, rule, show(end)) for key, end, rule in rules if rule is not None]
