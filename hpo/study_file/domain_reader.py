"""What one parameter of a search space may be, read from its node: a value, a [list], {min, max, ...} or {choices, ...}."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hpo.core import Value
from hpo.errors import Mistake
from hpo.space.domains import Choice, Domain, ParameterSpec, Range, as_text, choice_faults, exact, range_faults
from hpo.study_file.fields import Mistakes, WrittenDomain, flag_meant, nearest, other_tools, read_fields
from hpo.study_file.yaml_nodes import NOTHING, Node

_CALL: Final = r"(?s:(log|q|int|rand|uniform|choice|normal|range|np\.|tune\.|hp\.|trial\.)[\w.]*\(.*\))"
_INTERVAL: Final = r"[-+.0-9eE_]+ *(\.\.\.?|to|-|:) *[-+.0-9eE_]+"


@dataclass(frozen=True)
class DomainReader:
    """known: what the trainer says about the parameter; None: numbers are whole or not as they are written."""

    mistakes: Mistakes
    known: ParameterSpec | None

    def read(self, node: Node) -> Domain | None:
        """The domain; None where something is wrong."""
        if node.items is not None:
            return self._choice(node, node.items)
        if node.mapping is None:
            return self._constant(node)
        before = len(self.mistakes.all)
        written = read_fields(WrittenDomain, node, self.mistakes, "a parameter")
        if "choices" not in written:
            return self._range(node, written, before)
        for key in written.keys() & {"min", "max", "log", "step", "count"}:
            self.mistakes.note(node.key(key), "cannot be combined with choices", "", "drop it")
        choices: Node = written["choices"]
        if choices.items is None:
            self.mistakes.note(choices, "must be a list", str(choices), "write choices: [16, 32, 64]")
            return None
        return self._choice(choices, choices.items)

    def _constant(self, node: Node) -> Domain | None:
        if node.value is None:
            self.mistakes.note(node, "must have a value", "nothing", "write a value, a [list] or {min: ..., max: ...}")
            return None
        if isinstance(node.value, str) and re.fullmatch(f"{_CALL}|{_INTERVAL}", node.value):
            log = ", log: true" if "log" in node.value else ""
            remedy = "write a [list]" if "choice" in node.value else f"write {{min: ..., max: ...{log}}}"
            self.mistakes.note(node, "must be a value, a list or a range", str(node), remedy)
            return None
        value = self._value(node)
        return None if value is None else Choice((value,))

    def _choice(self, node: Node, items: Sequence[Node]) -> Domain | None:
        values = [self._either(item) for item in items]
        good = tuple(value for value in values if value is not None)
        if len(good) < len(values):
            return None
        faults = choice_faults(good)
        for fault in faults:
            self.mistakes.note(node, fault.rule, fault.got, fault.remedy)
        return None if faults else Choice(good)

    def _either(self, node: Node) -> Value | None:
        """One value of a choice, or a list of values as text."""
        if not node.items or self.known is None or not self.known.per:
            return self._value(node)
        values = [self._value(item) for item in node.items]
        return None if None in values else as_text(values)

    def _value(self, node: Node) -> Value | None:
        """One value of a choice, in the parameter's own type."""
        value = node.scalar
        if value is None or (isinstance(value, float) and node.number is None):
            self.mistakes.note(node, "must be a number, text, true or false", str(node))
            return None
        if self.known is None:
            return value
        rule = self.known.fault(value)
        if rule is None:
            return self.known.coerce(value)
        words = [choice for choice in self.known.choices if isinstance(choice, str)]
        close = other_tools("values").get(str(value).lower()) or nearest(str(value), words)
        remedy = flag_meant(node) if self.known.kind == "bool" else f"did you mean {close}?" if close in words else ""
        self.mistakes.note(node, rule, str(node), remedy)
        return None

    def _range(self, node: Node, written: Mapping[str, Any], before: int) -> Domain | None:
        known = self.known
        if known is not None and known.kind in ("choice", "bool"):
            some = "true, false" if known.kind == "bool" else ", ".join(map(exact, known.choices[:3]))
            self.mistakes.note(node, "must be a value or a list, not a range", "", f"write [{some}]")
            return None
        remedies = " ".join(mistake.remedy for mistake in self.mistakes.all[before:])
        missing = [key for key in ("min", "max") if (node.mapping or {}).get(key, NOTHING).value is None]
        if missing and not re.search("min|max|choices", remedies):  # no remedy says how to give it
            self.mistakes.note(node, f"must have {missing[0]}", "", "write {min: ..., max: ...} or {choices: [...]}")
        if len(self.mistakes.all) > before:
            return None
        low, high, step = (written.get(key) for key in ("min", "max", "step"))
        assert low is not None
        assert high is not None
        whole = known.kind == "int" if known else not any(isinstance(part, float) for part in (low, high, step))
        numbers = (low, high, whole, written.get("log", False), step, written.get("count"))
        ends = [(key, end, known.fault(end)) for key, end in (("min", low), ("max", high)) if known]
        outside = [Mistake(key, rule, exact(end)) for key, end, rule in ends if rule is not None]
        faults = outside or range_faults(*numbers)
        for fault in faults:
            self.mistakes.note((node.mapping or {})[fault.place], fault.rule, fault.got, fault.remedy)
        return None if faults else Range(*numbers)
