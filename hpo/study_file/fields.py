"""What the values of a study file may be: each kind reads a node of the file and describes itself as JSON schema.

A section of the file is a frozen dataclass whose fields are made by `option`; `Record` reads it. One declaration
so gives the value's type, its checks, its message, its schema and its documentation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Final, Protocol

from hpo.errors import BadInput, Mistake
from hpo.study_file.yaml_nodes import MOST_MISTAKES, Node, clean

Schema = dict[str, Any]

DURATION = re.compile(r"(?=[0-9])(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m(?:in)?)?(?:([0-9]+(?:\.[0-9]+)?)s)?")
BYTES = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kKMGT]i?)?B")


class Wrong:
    """What reading a wrong value gives; the mistake has been noted."""


WRONG: Final = Wrong()


class Found:
    """The mistakes found so far."""

    def __init__(self) -> None:
        self.mistakes: list[Mistake] = []
        self._paths: list[str] = []

    def note(self, node: Node | str, path: str, rule: str, got: str = "", remedy: str = "") -> Wrong:
        """Note a mistake at a node, or at a place. Raises BadInput when there are too many to read."""
        place = node if isinstance(node, str) else node.place
        mistake = Mistake(f"{place} {clean(path, 120)}".strip(), clean(rule, 600), clean(got, 200), clean(remedy, 1000))
        if mistake not in self.mistakes:  # a parameter of each block is one line of the file
            self.mistakes.append(mistake)
            self._paths.append(path)
        if len(self.mistakes) >= MOST_MISTAKES:
            raise BadInput(*self.mistakes, Mistake(place, "has more mistakes than these", remedy="mend these first"))
        return WRONG

    def within(self, *paths: str) -> bool:
        """Whether something is wrong at one of these paths or below: what follows from it need not be said."""
        return any(path == one or path.startswith(f"{one}.") for path in self._paths for one in paths)


class Kind(Protocol):
    def read(self, node: Node, path: str, found: Found) -> Any: ...

    def schema(self) -> Schema: ...


def option(kind: Kind, default: Any = MISSING, doc: str = "", key: str = "", example: str = "") -> Any:
    """A field of a section; without default the file must give it. key: its name in the file, if not the field's."""
    return field(default=default, metadata={"kind": kind, "doc": doc, "key": key, "example": example})


def did_you_mean(word: str, known: Collection[str]) -> str:
    """The remedy for a word that is not among the known ones."""
    close = nearest(word, known)
    return f"did you mean {close}?" if close else f"use {' or '.join(_enumerated(known))}"


def instead(word: str, known: Collection[str], foreign: Mapping[str, str]) -> str:
    """As did_you_mean, for a word that may be another tool's, perhaps misspelt."""
    if word.lower() in foreign:
        return f"write {foreign[word.lower()]}"
    close = None if nearest(word, known) else nearest(word, list(foreign))
    return f"write {foreign[close]}" if close else did_you_mean(word, known)


def nearest(word: str, known: Collection[str]) -> str | None:
    lowered = word[:80].lower().replace("-", "_").replace(" ", "_")
    close = get_close_matches(lowered, known, 1, 0.6)
    return close[0] if close else None


def _enumerated(names: Collection[str]) -> list[str]:
    *first, last = names
    return [", ".join(first), last] if first else [last]


def number_of(node: Node) -> int | float | None:
    """The finite number a node holds."""
    value = node.value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


# -- kinds ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Text:
    """Text; with a pattern, text of one form, which `rule` says."""

    pattern: str = ".+"
    rule: str = "must be text"
    example: str = ""
    secret: bool = False  # a URI may hold a password: never shown

    def read(self, node: Node, path: str, found: Found) -> Any:
        if isinstance(node.value, str) and re.fullmatch(self.pattern, node.value):
            return node.value
        got = "a value that is not shown" if self.secret and node.is_scalar and node.value is not None else str(node)
        remedy = f"write {self.example}" if self.example else ""
        if number_of(node) is not None and re.fullmatch(self.pattern, node.text):
            remedy = f'write "{clean(node.text)}"'
        return found.note(node, path, self.rule, got, remedy)

    def schema(self) -> Schema:
        return {"type": "string"} if self.pattern == ".+" else {"type": "string", "pattern": f"^(?:{self.pattern})$"}


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of some words. foreign: words of other tools and what is meant."""

    words: tuple[str, ...]
    foreign: Mapping[str, str] = field(default_factory=dict)

    def read(self, node: Node, path: str, found: Found) -> Any:
        if node.value in self.words and isinstance(node.value, str):
            return node.value
        said = str(node).lower()
        close = nearest(said, self.words)
        remedy = f"did you mean {close}?" if close else ""
        remedy = f"write {self.foreign[said]}" if said in self.foreign else remedy
        return found.note(node, path, f"must be {' or '.join(_enumerated(self.words))}", str(node), remedy)

    def schema(self) -> Schema:
        return {"enum": list(self.words)}


@dataclass(frozen=True, slots=True)
class Number:
    """A number within bounds, or one of some words."""

    low: float | None = None
    high: float | None = None
    whole: bool = False
    open_low: bool = False
    words: tuple[str, ...] = ()

    def read(self, node: Node, path: str, found: Found) -> Any:
        if isinstance(node.value, str) and node.value in self.words:
            return node.value
        number = number_of(node)
        if number is None or not self._fits(number):
            return found.note(node, path, self._rule(), str(node), self._remedy(node))
        return int(number) if self.whole else number

    def _fits(self, number: float) -> bool:
        if self.whole and number != int(number):
            return False
        above = self.low is None or number > self.low or (number == self.low and not self.open_low)
        return above and (self.high is None or number <= self.high)

    def _rule(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        low = "" if self.low is None else f" {'above' if self.open_low else 'of at least'} {self.low:,}"
        high = "" if self.high is None else f"{' and' if low else ' of'} at most {self.high:,}"
        return f"must be {kind}{low}{high}" + "".join(f", or {word}" for word in self.words)

    def _remedy(self, node: Node) -> str:
        quoted = isinstance(node.value, str) and node.text.startswith('"') and node.value.replace(".", "", 1).isdigit()
        return "leave the quotes out" if quoted else ""

    def schema(self) -> Schema:
        number: Schema = {"type": "integer" if self.whole else "number"}
        if self.low is not None:
            number["exclusiveMinimum" if self.open_low else "minimum"] = self.low
        if self.high is not None:
            number["maximum"] = self.high
        return {"anyOf": [{"enum": list(self.words)}, number]} if self.words else number


_FLAGS: Final = {"yes": "true", "on": "true", "1": "true", "no": "false", "off": "false", "0": "false"}


def flag_meant(node: Node) -> str:
    """The remedy for another language's true or false."""
    return f"write {_FLAGS[node.text.lower()]}" if node.text.lower() in _FLAGS else ""


@dataclass(frozen=True, slots=True)
class Flag:
    """true or false, and nothing else: `no` is text in YAML 1.2."""

    def read(self, node: Node, path: str, found: Found) -> Any:
        if isinstance(node.value, bool):
            return node.value
        return found.note(node, path, "must be true or false", str(node), flag_meant(node))

    def schema(self) -> Schema:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Duration:
    """Seconds as a float; written 90, 90s, 30m, 2h, 1h30m or 2d."""

    def read(self, node: Node, path: str, found: Found) -> Any:
        seconds = number_of(node)
        match = DURATION.fullmatch(node.value) if isinstance(node.value, str) else None
        if match and any(match.groups()):
            parts = (float(part or 0) for part in match.groups())
            seconds = sum(part * unit for part, unit in zip(parts, (86_400, 3_600, 60, 1), strict=True))
        if seconds is None or not 0 < seconds < 1e10:
            return found.note(node, path, "must be a time above 0", str(node), "write 30m, 90s, 2h, 1h30m or seconds")
        return float(seconds)

    def schema(self) -> Schema:
        text = {"type": "string", "pattern": f"^{DURATION.pattern}$", "examples": ["30m", "1h30m", "90s"]}
        return {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, text]}


@dataclass(frozen=True, slots=True)
class Bytes:
    """A number of bytes; written 2GiB, 500MB or as a whole number."""

    def read(self, node: Node, path: str, found: Found) -> Any:
        size = number_of(node)
        match = BYTES.fullmatch(node.value) if isinstance(node.value, str) else None
        if match:
            unit = match[2] or ""
            power = " KMGT".index(unit[0].upper()) if unit else 0
            size = float(match[1]) * (1024 if unit.endswith("i") else 1000) ** power
        if size is None or size != int(size) or not 0 < size < 1 << 63:
            return found.note(node, path, "must be a number of bytes above 0", str(node), "write 2GiB or 500MB")
        return int(size)

    def schema(self) -> Schema:
        text = {"type": "string", "pattern": f"^{BYTES.pattern}$", "examples": ["2GiB", "500MB"]}
        return {"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, text]}


@dataclass(frozen=True, slots=True)
class Several:
    """A list of one kind, as a tuple. unique: no value twice."""

    kind: Kind
    least: int = 0
    most: int | None = None
    unique: bool = False

    def read(self, node: Node, path: str, found: Found) -> Any:
        items = node.items
        bounds = (
            f" of {self.least} values" if self.most == self.least else f" of at least {self.least}" * (self.least > 0)
        )
        if items is None or len(items) < self.least or (self.most is not None and len(items) > self.most):
            got = f"{len(items)}" if items is not None else str(node)
            return found.note(
                node, path, f"must be a list{bounds}", got, f"write [{node}]" if self._alone(node) else ""
            )
        values = [self.kind.read(item, f"{path}.{index}", found) for index, item in enumerate(items)]
        if WRONG in values:
            return WRONG
        for index, value in enumerate(values):
            if self.unique and value in values[:index]:
                return found.note(items[index], f"{path}.{index}", "must differ", f"{items[index]} twice", "keep one")
        return tuple(values)

    def _alone(self, node: Node) -> bool:
        return self.least <= 1 and node.is_scalar and node.value is not None

    def schema(self) -> Schema:
        schema: Schema = {"type": "array", "items": self.kind.schema(), "minItems": self.least}
        if self.most is not None:
            schema["maxItems"] = self.most
        return {**schema, "uniqueItems": True} if self.unique else schema


@dataclass(frozen=True, slots=True)
class Either:
    """A short form, or the long one. The short one is tried where its test says so."""

    short: Kind
    long: Kind
    is_short: str  # "scalar" or "list"
    made: Any = None  # what the short value becomes; None: itself

    def read(self, node: Node, path: str, found: Found) -> Any:
        if node.is_scalar if self.is_short == "scalar" else node.items is not None:
            value = self.short.read(node, path, found)
            return value if self.made is None or value is WRONG else self.made(value)
        return self.long.read(node, path, found)

    def schema(self) -> Schema:
        return {"anyOf": [self.short.schema(), self.long.schema()]}


@dataclass(frozen=True, slots=True)
class Anything:
    """A value that somebody else reads; comes out as its node."""

    described: Mapping[str, Any]

    def read(self, node: Node, path: str, found: Found) -> Any:
        return node

    def schema(self) -> Schema:
        return dict(self.described)


@dataclass(frozen=True, slots=True)
class Record:
    """A section: a mapping read into a dataclass. foreign: words of other tools and what to write instead."""

    made: Any
    noun: str
    foreign: Mapping[str, str] = field(default_factory=dict)

    def read(self, node: Node, path: str, found: Found) -> Any:
        if node.mapping is None:
            some = ", ".join(f"{key}: ..." for key in list(options(self.made))[:2])
            return found.note(node, path, "must be a mapping", str(node), f"write {{{some}}}")
        values = read_fields(self.made, node, path, found, self.foreign, self.noun)
        missing = [one for one in options(self.made).values() if one.default is MISSING and one.name not in values]
        return WRONG if missing else self.made(**values)

    def schema(self) -> Schema:
        return record_schema(self.made)


def options(made: Any) -> dict[str, Any]:
    """The fields of a section that a file may give, by key."""
    return {one.metadata["key"] or one.name: one for one in fields(made) if "kind" in one.metadata}


def read_fields(
    made: Any, node: Node, path: str, found: Found, foreign: Mapping[str, str], noun: str
) -> dict[str, Any]:
    """The good values of a mapping by field; an empty value counts as not given. Notes unknown and missing keys."""
    known = options(made)
    values: dict[str, Any] = {}
    assert node.mapping is not None
    for key, child in node.mapping.items():
        inner = f"{path}.{key}" if path else key
        if key not in known:
            place = node.keys.get(key, node.place)
            found.note(place, inner, f"is no key of {noun}", "", instead(key, list(known), foreign))
        elif child.value is not None:
            value = known[key].metadata["kind"].read(child, inner, found)
            if value is not WRONG:
                values[known[key].name] = value
    for key, one in known.items():
        if one.default is MISSING and getattr(node.mapping.get(key), "value", None) is None:
            found.note(
                node, f"{path}.{key}" if path else key, "is missing", "", f"add {key}: {one.metadata['example']}"
            )
    return values


def record_schema(made: Any) -> Schema:
    """What `Record` reads; an empty value stands for the default."""
    properties = {}
    for key, one in options(made).items():
        kind = one.metadata["kind"].schema()
        optional = {"anyOf": [*kind.pop("anyOf", [kind]), {"type": "null"}]} if one.default is not MISSING else kind
        properties[key] = {"description": one.metadata["doc"], **optional}
        if isinstance(one.default, bool | int | float | str):
            properties[key]["default"] = one.default
    required = [key for key, one in options(made).items() if one.default is MISSING]
    schema: Schema = {"type": "object", "additionalProperties": False, "properties": properties}
    return {**schema, "required": required} if required else schema
