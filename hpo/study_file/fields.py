"""What the values of a study file may be: each kind reads a node of the file.

A section of the file is a frozen dataclass whose fields are declared by `option`; `Record` reads it. One declaration
gives the value's type, its checks, its message, its documentation and its part of the schema for editors
(docs/schema.py); what other tools call a key or a value is in other_tools.json. A kind reads a wrong value as None and
notes the mistake; no good value is None.
"""

# ruff: noqa: RUF009 - option() is dataclasses.field

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from hpo.errors import BadInput, Mistake
from hpo.formatting import listed
from hpo.space.domains import LARGEST_COUNT, PARTS, ParameterSpec, part_of
from hpo.study_file.yaml_nodes import MOST_MISTAKES, Node, clean

Schema = dict[str, Any]


class Mistakes:
    def __init__(self) -> None:
        self.all: list[Mistake] = []
        self._paths: list[str] = []

    def note(self, node: Node, rule: str, got: str = "", remedy: str = "", about: str = "") -> None:
        """Note a mistake. about: the path of what is wrong by it, if not the node. Raises BadInput at too many."""
        at = f"{node.place} {clean(node.path, 120)}".strip()
        self.add(Mistake(at, clean(rule, 600), clean(got, 200), clean(remedy, 1000)), path=about or node.path)
        if len(self.all) >= MOST_MISTAKES:
            raise BadInput(*self.all, Mistake(node.place, "has more mistakes than these", remedy="fix these first"))

    def add(self, *mistakes: Mistake | str, path: str = "") -> None:
        for mistake in mistakes:
            if isinstance(mistake, Mistake) and mistake not in self.all:  # a parameter of each block is one line
                self.all.append(mistake)
                self._paths.append(path)

    def within(self, *paths: str) -> bool:
        """Whether something is wrong at one of these paths or below: what follows from it need not be said."""
        return any(wrong == path or wrong.startswith(f"{path}.") for wrong in self._paths for path in paths)


# -- remedies ---------------------------------------------------------------------------------------------------------


def did_you_mean(word: str, known: Collection[str]) -> str:
    """The remedy for a word that is not among the known ones."""
    close = nearest(word, known)
    return f"did you mean {close}?" if close else f"use {listed([*known], 'or')}"


def of_parts(name: str, names: Iterable[str]) -> list[str]:
    """The parameters of this name that single blocks or layers have."""
    return [own for own in names if own != name and part_of(own)[2] == name]


def known_name(name: str, names: Collection[str], *more: str) -> str:
    """The remedy for a name that is not a parameter."""
    own = of_parts(name, names)
    return f"write {' or '.join(own[:2])}" if own else did_you_mean(name, [*names, *more])


def instead(word: str, known: Collection[str], foreign: Mapping[str, str]) -> tuple[str, str]:
    """What a word stands for, "" if unknown, and the remedy; it may be another tool's, perhaps misspelt."""
    close = nearest(word, known)
    meant = foreign.get(word.lower()) or foreign.get((not close and nearest(word, list(foreign))) or "")
    return (meant, f"write {meant}") if meant else (close or "", did_you_mean(word, known))


def nearest(word: str, known: Collection[str]) -> str | None:
    lowered = word[:80].lower().replace("-", "_").replace(" ", "_")
    close = get_close_matches(lowered, known, 1, 0.6)
    return close[0] if close else None


@cache
def other_tools(group: str) -> Mapping[str, str]:
    """Another tool's word -> what to write instead; in the file, that -> other words, separated by spaces."""
    groups = json.loads(Path(__file__).with_name("other_tools.json").read_text(encoding="utf-8"))
    return {word: meant for meant, words in groups.get(group, {}).items() for word in words.split()}


_FLAGS: Final = {"yes": "true", "on": "true", "1": "true", "no": "false", "off": "false", "0": "false"}


def flag_meant(node: Node) -> str:
    """The remedy for another language's true or false."""
    return f"write {_FLAGS[node.text.lower()]}" if node.text.lower() in _FLAGS else ""


# -- scalars ----------------------------------------------------------------------------------------------------------


class Kind(Protocol):
    def read(self, node: Node, mistakes: Mistakes) -> Any: ...


@dataclass(frozen=True, slots=True)
class Plain:
    """A value of one rule. value(node): what it means, None where it breaks the rule; remedy(node): for that case."""

    rule: str
    schema: Schema
    value: Callable[[Node], Any]
    remedy: Callable[[Node], str] = lambda node: ""
    secret: bool = False  # an address may hold a password: never shown

    def read(self, node: Node, mistakes: Mistakes) -> Any:
        value = self.value(node)
        if value is None:
            got = "a value that is not shown" if self.secret and node.scalar is not None else str(node)
            mistakes.note(node, self.rule, got, self.remedy(node))
        return value


NODE: Final = Plain("", {}, lambda node: node)  # a value that is read later


def text(
    pattern: str = ".+", rule: str = "must be text", example: str = "", secret: bool = False, off: bool = False
) -> Plain:
    """Text; with a pattern, text of one form, which `rule` states. off: or false."""

    def remedy(node: Node) -> str:
        if node.number is not None and re.fullmatch(pattern, node.text):
            return f'write "{clean(node.text)}"'
        return f"write {example}" if example else ""

    def value(node: Node) -> str | Literal[False] | None:
        if off and node.value is False:
            return False
        return node.value if isinstance(node.value, str) and re.fullmatch(pattern, node.value) else None

    schema: Schema = {"type": "string"} if pattern == ".+" else {"type": "string", "pattern": f"^(?:{pattern})$"}
    if off:
        return Plain(f"{rule}, or false", {"anyOf": [schema, {"const": False}]}, value, remedy, secret)
    return Plain(rule, schema, value, remedy, secret)


def one_of(*words: str, absent: str = "", both: str = "") -> Plain:
    """One of some words. absent: what to write for another tool's word for none; both: written as [first word, both]."""
    pair = [words[0], both] if both else []

    def remedy(node: Node) -> str:
        written = str(node).lower()
        meant, close = other_tools("values").get(written), nearest(written, words)
        return f"write {meant}" if meant in (*words, absent) else f"did you mean {close}?" if close else ""

    def value(node: Node) -> str | None:
        if pair and [item.value for item in node.items or ()] == pair:
            return both
        return node.value if isinstance(node.value, str) and node.value in words else None

    written = [*words, f"[{', '.join(pair)}]"] if pair else words
    return Plain(f"must be {listed(written, 'or')}", {"enum": [*words, *([pair] if pair else [])]}, value, remedy)


def number(
    low: float | None = None,
    high: float | None = None,
    *,
    whole: bool = False,
    above: float | None = None,
    word: str = "",
) -> Plain:
    """A number within bounds, or a word that stands for one."""
    lowest, open_low = (low, False) if above is None else (above, True)
    spec = ParameterSpec(None, "int" if whole else "float", lowest, high, open_low)

    def value(node: Node) -> int | float | str | None:
        number = node.number
        if word and node.value == word:
            return word
        if number is None or spec.fault(number) is not None:
            return None
        return int(number) if whole else number

    def remedy(node: Node) -> str:
        quoted = isinstance(node.value, str) and node.text.startswith('"') and node.value.replace(".", "", 1).isdigit()
        return "remove the quotes" if quoted else ""

    limits = {"minimum": low, "exclusiveMinimum": above, "maximum": high}
    schema: Schema = {"type": "integer" if whole else "number"}
    schema |= {key: limit for key, limit in limits.items() if limit is not None}
    rule, schema = (f"{spec.rule}, or {word}", {"anyOf": [{"enum": [word]}, schema]}) if word else (spec.rule, schema)
    return Plain(rule, schema, value, remedy)


def _flag(node: Node) -> bool | None:
    return node.value if isinstance(node.value, bool) else None


def flag_or(word: str) -> Plain:
    """A flag, or a word that stands for a third way."""
    schema: Schema = {"enum": [True, False, word]}
    value = lambda node: word if node.value == word else _flag(node)  # noqa: E731
    return Plain(f"must be true, false or {word}", schema, value, flag_meant)


FLAG: Final = Plain("must be true or false", {"type": "boolean"}, _flag, flag_meant)  # `no` is text in YAML 1.2
DURATION: Final = r"(?=[0-9])(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m(?:in)?)?(?:([0-9]+(?:\.[0-9]+)?)s)?"
SIZE: Final = r"([0-9]+(?:\.[0-9]+)?) ?([kKMGT]i?)?B"


def seconds_of(node: Node) -> float | None:
    """Written 90, 90s, 30m, 2h, 1h30m or 2d."""
    seconds = node.number
    match = re.fullmatch(DURATION, node.value) if isinstance(node.value, str) else None
    if match and any(match.groups()):
        parts = (float(part or 0) for part in match.groups())
        seconds = sum(part * unit for part, unit in zip(parts, (86_400, 3_600, 60, 1), strict=True))
    return float(seconds) if seconds is not None and 0 < seconds < 1e10 else None


def bytes_of(node: Node) -> int | None:
    """Written 2GiB, 500MB or as a whole number."""
    size = node.number
    match = re.fullmatch(SIZE, node.value) if isinstance(node.value, str) else None
    if match:
        unit = match[2] or ""
        power = " KMGT".index(unit[0].upper()) if unit else 0
        size = float(match[1]) * (1024 if unit.endswith("i") else 1000) ** power
    return int(size) if size is not None and size == int(size) and 0 < size < 1 << 63 else None


def _number_or_text(number: Schema, pattern: str, examples: list[str]) -> Schema:
    written = {"type": "string", "pattern": f"^{pattern}$", "examples": examples}
    return {"anyOf": [{**number, "exclusiveMinimum": 0}, written]}


_TIME: Final = _number_or_text({"type": "number"}, DURATION, ["30m", "1h30m", "90s"])
_BYTES: Final = _number_or_text({"type": "integer"}, SIZE, ["2GiB", "500MB"])
TIME: Final = Plain("must be a time above 0", _TIME, seconds_of, lambda node: "write 30m, 90s, 2h, 1h30m or seconds")
BYTES: Final = Plain("must be a number of bytes above 0", _BYTES, bytes_of, lambda node: "write 2GiB or 500MB")


# -- lists and sections -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Several:
    """A list of one kind: of `count` values, or of some that differ. broadcast: one value alone stands for all."""

    kind: Kind
    count: int | None = None
    broadcast: bool = False

    def read(self, node: Node, mistakes: Mistakes) -> tuple[Any, ...] | None:
        if self.broadcast and node.is_scalar:
            value = self.kind.read(node, mistakes)
            return None if value is None else (value,) * (self.count or 1)
        items = node.items
        if not items or len(items) != (self.count or len(items)):
            got = str(node) if items is None else f"{len(items)}"
            remedy = f"write [{node}]" if not self.count and node.scalar is not None else ""
            rule = f"must be a list of {f'{self.count} values' if self.count else 'at least 1'}"
            mistakes.note(node, rule, got, remedy)
            return None
        values = [self.kind.read(item, mistakes) for item in items]
        twice = next((i for i, value in enumerate(values) if not self.count and value in values[:i]), None)
        if None not in values and twice is not None:
            mistakes.note(items[twice], "must differ", f"{items[twice]} twice", "keep one")
        return None if None in values or twice is not None else tuple(values)


@dataclass(frozen=True, slots=True)
class Record:
    """A section as a dataclass. short: the field that a value alone stands for; listed: the kind of a list of all."""

    section: Any
    noun: str
    short: str = ""
    listed: Several | None = None

    def read(self, node: Node, mistakes: Mistakes) -> Any:
        if self.short and node.is_scalar:
            value = options(self.section)[self.short].metadata["kind"].read(node, mistakes)
            return None if value is None else self.section(**{self.short: value})
        if self.listed is not None and node.items is not None:
            values = self.listed.read(node, mistakes)
            return None if values is None else self.section(*values)
        if node.mapping is None:
            some = ", ".join(f"{key}: ..." for key in list(options(self.section))[:2])
            mistakes.note(node, "must be a mapping", str(node), f"write {{{some}}}")
            return None
        given = read_fields(self.section, node, mistakes, self.noun)
        required = [item.name for item in options(self.section).values() if item.default is MISSING]
        return None if set(required) - set(given) else self.section(**given)


def option(kind: Kind, default: Any = MISSING, doc: str = "", key: str = "", example: str = "") -> Any:
    """A field that the file must give unless it has a default. key: its name there; example: for the remedy."""
    return field(default=default, metadata={"kind": kind, "doc": doc, "key": key, "example": example})


def options(section: Any) -> dict[str, Any]:
    """The fields of a section that a file may give, by key."""
    return {item.metadata["key"] or item.name: item for item in fields(section) if "kind" in item.metadata}


def _other_words(section: Any, noun: str) -> dict[str, str]:
    """Other tools' words for the keys of a section and, after them, all words for the keys of the sections in it."""
    words = dict(other_tools(noun))
    for key, item in options(section).items():
        kind = item.metadata["kind"]
        if isinstance(kind, Record):
            inner = {**{name: name for name in options(kind.section)}, **_other_words(kind.section, kind.noun)}
            words = {**{word: f"{key}.{meant}" for word, meant in inner.items()}, **words}
    return words


def read_fields(section: Any, node: Node, mistakes: Mistakes, noun: str) -> dict[str, Any]:
    """The good values of a mapping by field; an empty value counts as not given. Notes unknown and missing keys."""
    known, given = options(section), node.mapping or {}
    values: dict[str, Any] = {}
    for key, child in given.items():
        if key not in known:
            gone = other_tools(f"no longer in {noun}").get(key)
            meant, remedy = instead(key, list(known), _other_words(section, noun))
            rule = f"is {'no longer' if gone else 'not'} a key of {noun}"
            about = f"{node.path}.{meant}".strip(".") if meant and not gone else ""
            mistakes.note(node.key(key), rule, "", gone or remedy, about)
        elif child.value is not None:
            value = known[key].metadata["kind"].read(child, mistakes)
            if value is not None:
                values[known[key].name] = value
    for key, item in known.items():
        at = replace(node.key(key), place=node.place)
        missing = item.default is MISSING and (key not in given or given[key].value is None)
        if missing and not mistakes.within(at.path):  # else another key stands for it
            mistakes.note(at, "is missing", "", f"add {key}: {item.metadata['example']}")
    return values


@dataclass(frozen=True)
class WrittenDomain:
    """The keys of a parameter that is written as a mapping: choices, or a range from min to max."""

    choices: Node | None = option(NODE, None, "the values to choose from, where `when` is needed too")
    min: float | None = option(number(), None, "the smallest value; integers for an integer parameter")
    max: float | None = option(number(), None, "the largest value")
    log: bool = option(FLAG, False, "sample on a logarithmic scale")
    step: float | None = option(number(above=0), None, "levels: min, min + step, ...")
    count: int | None = option(number(2, LARGEST_COUNT, whole=True), None, "number of evenly spaced levels")
    when: Node | None = option(
        NODE, None, "active only where each of these parameters has this value (or one of a list)"
    )
    per: str | None = option(one_of(*PARTS), None, "a separate parameter for each block, or for each dense layer")
