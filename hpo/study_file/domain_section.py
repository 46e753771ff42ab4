"""One parameter's domain as the study file writes it: a value, a [list], {min, max, ...} or {choices, ...}."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hpo.core import Value
from hpo.space.domains import Choice, Domain, Fault, Known, Range, choice_faults, range_faults, show
from hpo.study_file import foreign
from hpo.study_file.fields import Found, flag_meant, instead, nearest, number_of
from hpo.study_file.yaml_nodes import Node

_CALL: Final = re.compile(
    r"(log|q|int|rand|uniform|choice|normal|range|np\.|tune\.|hp\.|trial\.)[\w.]*\(.*\)", re.DOTALL
)
_INTERVAL: Final = re.compile(r"[-+.0-9eE_]+ *(\.\.\.?|to|-|:) *[-+.0-9eE_]+")
_ENDS: Final = ("min", "max")
_RANGE_KEYS: Final = (*_ENDS, "log", "step", "count")
_KEYS: Final = (*_RANGE_KEYS, "choices", "when", "per")


@dataclass(frozen=True)
class DomainSection:
    """known: what the trainer says about the parameter; None: numbers are whole or not as they are written."""

    found: Found
    path: str
    known: Known | None

    def read(self, node: Node) -> Domain | None:
        """The domain; None where something is wrong."""
        if node.items is not None:
            return self._choice(node, node.items, self.path)
        if node.mapping is None:
            return self._constant(node)
        self._check_keys(node)
        choices = node.mapping.get("choices")
        if choices is None:
            return self._range(node)
        for key in (key for key in _RANGE_KEYS if key in node.mapping):
            self._note(node.keys.get(key, node.place), key, "cannot stand beside choices", "", "drop it")
        if choices.items is None:
            self._note(choices, "choices", "must be a list", str(choices), "write choices: [16, 32, 64]")
            return None
        return self._choice(choices, choices.items, f"{self.path}.choices")

    def _note(self, node: Node | str, key: str, rule: str, got: str = "", remedy: str = "") -> None:
        self.found.note(node, f"{self.path}.{key}" if key else self.path, rule, got, remedy)

    def _check_keys(self, node: Node) -> None:
        for key in node.mapping or ():
            if key not in _KEYS:
                place = node.keys.get(key, node.place)
                self._note(place, key, "is no key of a parameter", "", instead(key, _KEYS, foreign.DOMAIN))

    # -- choices -----------------------------------------------------------------------------------------------------

    def _constant(self, node: Node) -> Domain | None:
        if node.value is None:
            self._note(node, "", "must have a value", "nothing", "write a value, a [list] or {min: ..., max: ...}")
            return None
        if isinstance(node.value, str) and (_CALL.fullmatch(node.value) or _INTERVAL.fullmatch(node.value)):
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
            self.found.note(node, path, fault.rule, fault.got, fault.remedy)
        return None if faults else Choice(good)

    def _value(self, node: Node, path: str) -> Value | None:
        """One value of a choice, in the parameter's own type."""
        if not node.is_scalar or node.scalar is None or (isinstance(node.value, float) and number_of(node) is None):
            self.found.note(node, path, "must be a number, text, true or false", str(node))
            return None
        value = node.scalar
        if self.known is None:
            return value
        rule = self.known.fault(value)
        if rule is None:
            return self.known.coerce(value)
        words = [one for one in self.known.choices if isinstance(one, str)]
        close = foreign.VALUES.get(str(value).lower()) or nearest(str(value), words)
        remedy = flag_meant(node) if self.known.kind == "bool" else f"did you mean {close}?" if close in words else ""
        self.found.note(node, path, rule, str(node), remedy)
        return None

    # -- ranges ------------------------------------------------------------------------------------------------------

    def _range(self, node: Node) -> Domain | None:
        known, before = self.known, len(self.found.mistakes)
        if known is not None and known.kind in ("choice", "bool"):
            some = "true, false" if known.kind == "bool" else ", ".join(map(show, known.choices[:3]))
            self._note(node, "", "must be a value or a list, not a range", "", f"write [{some}]")
            return None
        low, high, step, count = (self._number(node, key) for key in ("min", "max", "step", "count"))
        log = self._log(node)
        if low is None or high is None or len(self.found.mistakes) > before:
            return None
        whole = known.kind == "int" if known is not None else not any(isinstance(n, float) for n in (low, high, step))
        faults = self._meaning(low, high)
        if count is not None and count != int(count):
            faults.append(Fault("count", "must be a whole number", show(count)))
        levels = None if count is None else int(count)
        faults = faults or range_faults(low, high, whole, log, step, levels)
        for fault in faults:
            self._note((node.mapping or {})[fault.where], fault.where, fault.rule, fault.got, fault.remedy)
        return None if faults else Range(low, high, whole, log, step, levels)

    def _meaning(self, low: float, high: float) -> list[Fault]:
        """Ends that lie outside of what the parameter can mean."""
        if self.known is None:
            return []
        rules = ((key, number, self.known.fault(number)) for key, number in zip(_ENDS, (low, high), strict=True))
        return [Fault(key, rule, show(number)) for key, number, rule in rules if rule is not None]

    def _log(self, node: Node) -> bool:
        log = (node.mapping or {}).get("log")
        if log is not None and not isinstance(log.value, bool):
            self._note(log, "log", "must be true or false", str(log))
        return log is not None and log.value is True

    def _number(self, node: Node, key: str) -> int | float | None:
        keys = node.mapping or {}
        if key not in keys:
            if key in _ENDS and not self._said_otherwise(node, key):
                self._note(node, "", f"must have {key}", "", "write {min: ..., max: ...} or {choices: [...]}")
            return None
        number = number_of(keys[key])
        if number is None:
            self._note(keys[key], key, "must be a number", str(keys[key]))
        return number

    def _said_otherwise(self, node: Node, key: str) -> bool:
        """Whether another message covers that this end is missing."""
        keys = node.mapping or {}
        meant = [foreign.DOMAIN[word.lower()] for word in keys if word.lower() in foreign.DOMAIN]
        return (key == "max" and "min" not in keys) or any(one.startswith(("min", "max", "choices")) for one in meant)
