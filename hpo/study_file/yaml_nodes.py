"""YAML 1.2 with a place for every value, safe against hostile files.

PyYAML's parser gives events; the tree is built here from them, so that depth and size can be capped.
Numbers and booleans are YAML 1.2's: `1e-4` is a number, `no` and `12:30` are text, `010` is 10; `500_000` is allowed.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from hpo.errors import BadInput, Mistake
from hpo.formatting import printable

LARGEST_FILE = 1 << 20
DEEPEST = 40
MOST_VALUES = 20_000
LARGEST_WHOLE = (1 << 63) - 1
MOST_MISTAKES = 100

Scalar = int | float | str | bool | None

_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml reads 1 MiB in 0.5 s, Python in 14 s
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_WHOLE = re.compile(r"[-+]?[0-9]+(_[0-9]+)*")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(_[0-9]+)*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: Mapping[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


@dataclass(frozen=True, slots=True)
class Node:
    """A value of the file. place: "study.yaml:7:12"; text: a scalar as written; keys: where a mapping's are; path: of keys."""

    value: Scalar | tuple[Node, ...] | Mapping[str, Node]
    place: str
    text: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)
    path: str = ""

    @property
    def mapping(self) -> Mapping[str, Node] | None:
        return self.value if isinstance(self.value, Mapping) else None

    @property
    def items(self) -> tuple[Node, ...] | None:
        return self.value if isinstance(self.value, tuple) else None

    def children(self) -> Iterator[tuple[str, Node]]:
        """By key, or number in a list."""
        items = {str(index): item for index, item in enumerate(self.items or ())}
        yield from (self.mapping or items).items()

    @property
    def scalar(self) -> int | float | str | bool | None:
        """The value, None where it is nothing, a list or a mapping."""
        return None if isinstance(self.value, Mapping | tuple) else self.value

    @property
    def number(self) -> int | float | None:
        """The finite number it holds."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return None
        return value

    @property
    def is_scalar(self) -> bool:
        return not isinstance(self.value, Mapping | tuple)

    def key(self, key: str) -> Node:
        """A key of it, for a message: where it stands, or would stand."""
        return Node(None, self.keys.get(key, self.place), path=f"{self.path}.{key}".removeprefix("."))

    def __str__(self) -> str:
        """What a message says it got."""
        if isinstance(self.value, Mapping):
            return "a mapping" if self.value else "{}"
        if isinstance(self.value, tuple):
            return "a list" if self.value else "[]"
        return "nothing" if self.value is None else clean(self.text)


NOTHING = Node(None, "")


@dataclass(frozen=True, slots=True)
class Document:
    """root is a mapping; mistakes are those after which reading went on (duplicate keys, numbers too large)."""

    root: Node
    mistakes: tuple[Mistake, ...]
    text: str


def clean(text: str, most: int = 60) -> str:
    """Text for a message: short, on one line, without characters that would move a terminal's cursor."""
    return printable(text if len(text) <= most else text[: most - 3] + "...")


def parse(text: str, name: str) -> Document:
    """The document in a text; name stands in every place. Raises BadInput."""
    root, mistakes = _loaded(text, name, lambda mark: f"{name}:{mark.line + 1}:{mark.column + 1}")
    if root is None or root.value is None:
        raise BadInput(Mistake(name, "is empty", remedy="see `hpo init` for a study file to start from"))
    if root.mapping is None:
        raise BadInput(Mistake(root.place, "must be a mapping, like name: digits-cnn", str(root)))
    return Document(root, tuple(mistakes), text)


def value_of(text: str, place: str) -> Node:
    """One value as it stands behind a key, for instance of a flag. Raises BadInput."""
    root, mistakes = _loaded(f"value: {text}" if text.strip() else "value:", place, lambda mark: place)
    if root is None or list(root.mapping or ()) != ["value"]:
        raise BadInput(Mistake(place, "must be one value", clean(text)))
    if mistakes:
        raise BadInput(*mistakes)
    return (root.mapping or {})["value"]


def _loaded(text: str, name: str, place: Callable[[Any], str]) -> tuple[Node | None, Sequence[Mistake]]:
    """The tree, None for an empty text, and the mistakes after which reading went on."""
    bad = _UNPRINTABLE.search(text)
    if bad:
        position, got = _place(name, text, bad.start()), f"U+{ord(bad[0]):04X}"
        raise BadInput(Mistake(position, "must not contain control characters", got, "delete it"))
    loader = _Loader(text, place)
    try:
        return loader.root(), loader.mistakes
    except yaml.MarkedYAMLError as error:
        raise BadInput(*loader.mistakes, _syntax(error, name, text)) from None
    except BadInput as error:
        raise BadInput(*loader.mistakes, *error.mistakes) from None


def node_of(value: object, place: str, key: str = "") -> Node:
    """Python's mappings, lists and scalars as a tree, all at one place. Raises BadInput on anything else, with its key."""
    if isinstance(value, Mapping):
        return Node({str(name): node_of(item, place, f"{key}.{name}") for name, item in value.items()}, place)
    if isinstance(value, list | tuple):
        return Node(tuple(node_of(item, place, f"{key}.{i}") for i, item in enumerate(value)), place)
    if value is None or isinstance(value, bool | int | float | str):
        return Node(value, place, str(value).lower() if isinstance(value, bool) else str(value))
    if isinstance(value, os.PathLike):
        return Node(os.fspath(value), place, str(value))
    rule = "must be made of mappings, lists, text, numbers and booleans"
    remedy = "write .tolist() behind an array, list(...) around a range"
    raise BadInput(Mistake(f"{place} {key[1:]}".rstrip(), rule, type(value).__name__, remedy))


def read_yaml(path: Path) -> Document:
    """The document in a file. Raises BadInput."""
    name = clean(str(path), 300)
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # a pipe would make open() wait for ever
            kind = "a folder" if stat.S_ISDIR(mode) else "a device or a pipe"
            raise BadInput(Mistake(name, "must be a file", kind, "name a .yaml file"))
        with path.open("rb") as file:
            raw = file.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        rule = "does not exist"
        raise BadInput(Mistake(name, rule, remedy="check the path, or write one with `hpo init`")) from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput(Mistake(name, "cannot be read", reason.lower(), "check the path")) from None
    if len(raw) > LARGEST_FILE:
        raise BadInput(Mistake(name, "must be at most 1 MiB", "more", "keep data out of it"))
    if b"\0" in raw:
        raise BadInput(Mistake(name, "must be text", "a binary file", "name a .yaml file"))
    try:
        return parse(raw.decode("utf-8-sig"), name)
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8-sig", "replace")
        place, got = _place(name, before, len(before)), f"byte 0x{raw[error.start]:02x}"
        raise BadInput(Mistake(place, "must be UTF-8", got, "save the file as UTF-8")) from None


def _place(name: str, text: str, offset: int) -> str:
    before = text[:offset]
    return f"{name}:{before.count(chr(10)) + 1}:{offset - (before.rfind(chr(10)) + 1) + 1}"


_SYNTAX = (  # in the parser's words, either implementation's -> what the user did -> what to do -> where it began
    ("escape", ("has an unknown escape after \\", "double the \\, or use single quotes", True)),
    ("mapping values are not allowed", ("has a second `: ` in one line", "quote the text, or start a new line", False)),
    ("quoted scalar", ("has a quote that never closes", "close it", True)),
    ("flow sequence", ("has a [ that never closes, or a missing comma", "close it with ]", True)),
    ("flow mapping", ("has a { that never closes, or a missing comma", "close it with }", True)),
    ("flow node", ("has a bracket that never closes", "close it", True)),
    ("simple key", ("has a line without `: `", "write key: value", True)),
    ("block mapping", ("is indented unlike the lines above", "give all keys of one mapping the same indent", False)),
    ("block", ("is indented unlike the lines above", "give all entries of one list the same indent", False)),
    ("cannot start any token", ("has a character that must be quoted", "quote the text", False)),
)


def _syntax(error: yaml.MarkedYAMLError, name: str, text: str) -> Mistake:
    said = f"{error.problem} {error.context}"
    unknown = (f"is not valid YAML: {clean(str(error.problem), 100)}", "", False)
    rule, remedy, began = next((known for words, known in _SYNTAX if words in said), unknown)
    mark = (error.context_mark if began else None) or error.problem_mark or error.context_mark
    if mark is None:
        return Mistake(name, rule, "", remedy)
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    place = f"{name}:{mark.line + 1}:{mark.column + 1}"
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return Mistake(place, "is indented with a tab", "", "use spaces")
    return Mistake(place, rule, clean(line.strip(), 40), remedy)


# -- the tree ---------------------------------------------------------------------------------------------------------


class _Loader:
    """Builds the tree from the parser's events, depth first; the caps keep recursion and memory small."""

    def __init__(self, text: str, place: Callable[[Any], str]) -> None:
        self.mistakes: list[Mistake] = []
        self._events = yaml.parse(text, _PARSER)
        self._place = place
        self._path: list[str] = []  # the keys that lead to the current value
        self._size = 0  # values so far

    def root(self) -> Node | None:
        root = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent) and root is not None:
                place = self._place(event.start_mark)
                raise BadInput(Mistake(place, "must be one document", "a second one after ---", "delete the line ---"))
            if isinstance(event, yaml.NodeEvent):
                root = self._node(event, 0)
        return root

    def _node(self, event: Any, depth: int) -> Node:
        place = self._place(event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            raise BadInput(Mistake(place, "must not be an alias", f"*{clean(str(event.anchor))}", "write it out"))
        _refuse(event, place)
        self._size += 1
        if self._size > MOST_VALUES:
            raise BadInput(Mistake(place, f"must hold at most {MOST_VALUES:,} values", "more"))
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, place)
        if depth >= DEEPEST:
            raise BadInput(Mistake(place, f"must be nested at most {DEEPEST} deep", "deeper", "flatten it"))
        if isinstance(event, yaml.SequenceStartEvent):
            return Node(tuple(self._node(item, depth + 1) for item in self._until(yaml.SequenceEndEvent)), place)
        return self._mapping(place, depth + 1)

    def _until(self, end: type[yaml.Event]) -> Iterator[Any]:
        for event in self._events:
            if isinstance(event, end):
                return
            yield event

    def _mapping(self, place: str, depth: int) -> Node:
        values: dict[str, Node] = {}
        lines: dict[str, int] = {}
        keys: dict[str, str] = {}
        for event in self._until(yaml.MappingEndEvent):
            key, key_place, line = self._key(event), self._place(event.start_mark), event.start_mark.line + 1
            self._path.append(key)
            if key in lines:
                self._note(key_place, f"is given twice, first in line {lines[key]}", "", "keep one")
            lines.setdefault(key, line)
            keys.setdefault(key, key_place)
            values.setdefault(key, self._node(next(self._events), depth))
            self._path.pop()
        return Node(values, place, "", keys)

    def _key(self, event: Any) -> str:
        place = self._place(event.start_mark)
        if not isinstance(event, yaml.ScalarEvent):
            got = f"*{clean(str(event.anchor))}" if isinstance(event, yaml.AliasEvent) else "a list or a mapping"
            raise BadInput(Mistake(place, "a key must be a word", got, "write key: value"))
        _refuse(event, place)
        return str(event.value)

    def _note(self, place: str, rule: str, got: str, remedy: str) -> None:
        place = f"{place} {'.'.join(map(clean, self._path))}"
        self.mistakes.append(Mistake(place, rule, got, remedy))
        if len(self.mistakes) >= MOST_MISTAKES:
            raise BadInput(Mistake(place, "has more mistakes than these", "", "fix these first"))

    def _scalar(self, event: Any, place: str) -> Node:
        text: str = event.value
        if not event.implicit[0]:
            return Node(text, place, f'"{text}"' if event.style in ("'", '"') else text)
        value = _resolved(text)
        if isinstance(value, int) and abs(value) > LARGEST_WHOLE:
            self._note(place, "must be below 2^63", clean(text, 40), "")
            value = 1
        return Node(value, place, text)


def _refuse(event: Any, place: str) -> None:
    if event.tag is not None:
        tag = clean(str(event.tag).replace("tag:yaml.org,2002:", "!!"))
        raise BadInput(Mistake(place, "must not have a tag", tag, "delete it; quote what is to be text"))
    if isinstance(event, yaml.ScalarEvent) and _HIDDEN.search(event.value):  # an escape such as "\e" in double quotes
        raise BadInput(Mistake(place, "must not contain control characters", clean(event.value), "delete them"))


def _resolved(text: str) -> Scalar:
    """The value of plain text; a whole number of many digits as one that is too large."""
    if text in _WORDS:
        return _WORDS[text]
    digits = text.replace("_", "")
    if _WHOLE.fullmatch(text) or _BASED.fullmatch(text):
        return LARGEST_WHOLE + 1 if len(digits) > 30 else int(digits, 0 if _BASED.fullmatch(text) else 10)
    return float(digits) if _FLOAT.fullmatch(text) else text


def located(node: Node, path: str = "") -> Node:
    """The tree in which every value has its path."""
    inner = {key: located(child, f"{path}.{key}".removeprefix(".")) for key, child in node.children()}
    value = inner if node.mapping is not None else tuple(inner.values()) if node.items is not None else node.value
    return replace(node, value=value, path=path)


def places(node: Node) -> Iterator[tuple[str, str]]:
    """(path, place) of every value of a tree."""
    yield node.path, node.place
    for _, child in node.children():
        yield from places(child)
