"""YAML 1.2 with a place for every value, safe against hostile files.

PyYAML's parser gives events; the tree is built here without recursion, so that depth, size and aliases can be capped.
Numbers and booleans are YAML 1.2's: `1e-4` is a number, `no` and `12:30` are text, `010` is 10; `500_000` is allowed.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from hpo.errors import BadInput, Mistake

LARGEST_FILE = 1 << 20
DEEPEST = 40
MOST_VALUES = 20_000  # aliases counted as often as they are used: what a bomb is made of
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
    """A value of the file. place: "study.yaml:7:12"; text: a scalar as it was written; keys: where a mapping's are."""

    value: Scalar | tuple[Node, ...] | Mapping[str, Node]
    place: str
    text: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)

    @property
    def mapping(self) -> Mapping[str, Node] | None:
        return self.value if isinstance(self.value, Mapping) else None

    @property
    def items(self) -> tuple[Node, ...] | None:
        return self.value if isinstance(self.value, tuple) else None

    @property
    def scalar(self) -> Scalar:
        assert not isinstance(self.value, Mapping | tuple), self
        return self.value

    @property
    def is_scalar(self) -> bool:
        return not isinstance(self.value, Mapping | tuple)

    def __str__(self) -> str:
        """What a message says it got."""
        if isinstance(self.value, Mapping):
            return "a mapping" if self.value else "{}"
        if isinstance(self.value, tuple):
            return "a list" if self.value else "[]"
        return "nothing" if self.value is None else clean(self.text)


@dataclass(frozen=True, slots=True)
class Document:
    """root is a mapping; mistakes are those after which reading went on (duplicate keys, numbers too large)."""

    root: Node
    mistakes: tuple[Mistake, ...]
    text: str


def clean(text: str, most: int = 60) -> str:
    """Text for a message: short, on one line, without characters that would move a terminal's cursor."""
    short = text if len(text) <= most else text[: most - 3] + "..."
    return "".join(one if one.isprintable() else " " if one == "\n" else f"\\x{ord(one):02x}" for one in short)


def read(path: Path) -> Document:
    """The document in a file. Raises BadInput."""
    return parse(_text(path), clean(str(path), 300))


def parse(text: str, name: str) -> Document:
    """The document in a text; name stands in every place. Raises BadInput."""
    bad = _UNPRINTABLE.search(text)
    if bad:
        place, got = _place(name, text, bad.start()), f"U+{ord(bad[0]):04X}"
        raise BadInput(Mistake(place, "must not contain control characters", got, "delete it"))
    builder = _Builder(name)
    try:
        for event in yaml.parse(text, _PARSER):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        raise BadInput(*builder.mistakes, _syntax(error, name, text)) from None
    except _Fatal as error:
        raise BadInput(*builder.mistakes, error.mistake) from None
    root = builder.root
    if root is None or root.value is None:
        raise BadInput(Mistake(name, "is empty", remedy="see `hpo init` for a study file to start from"))
    if root.mapping is None:
        raise BadInput(Mistake(root.place, "must be a mapping, like name: digits-cnn", str(root)))
    return Document(root, tuple(builder.mistakes), text)


def value_of(text: str, place: str) -> Node:
    """One value as it stands behind a key, for instance of a flag. Raises BadInput."""
    root = parse(f"value: {text}" if text.strip() else "value:", place).root.mapping
    if root is None or list(root) != ["value"]:
        raise BadInput(Mistake(place, "must be one value", clean(text)))
    return _moved(root["value"], place)


def node_of(value: object, place: str) -> Node:
    """Python's mappings, lists and scalars as a tree, all at one place. Raises BadInput on anything else."""
    if isinstance(value, Mapping):
        return Node({str(key): node_of(one, place) for key, one in value.items()}, place)
    if isinstance(value, list | tuple):
        return Node(tuple(node_of(one, place) for one in value), place)
    if value is None or isinstance(value, bool | int | float | str):
        return Node(value, place, str(value).lower() if isinstance(value, bool) else str(value))
    if isinstance(value, os.PathLike):
        return Node(os.fspath(value), place, str(value))
    raise BadInput(Mistake(place, "must be made of mappings, lists, text, numbers and booleans", type(value).__name__))


def _moved(node: Node, place: str) -> Node:
    if isinstance(node.value, Mapping):
        moved = {key: _moved(one, place) for key, one in node.value.items()}
        return Node(moved, place, "", dict.fromkeys(moved, place))
    if isinstance(node.value, tuple):
        return Node(tuple(_moved(one, place) for one in node.value), place)
    return Node(node.value, place, node.text)


# -- bytes ------------------------------------------------------------------------------------------------------------


def _text(path: Path) -> str:
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
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8-sig", "replace")
        place, got = _place(name, before, len(before)), f"byte 0x{raw[error.start]:02x}"
        raise BadInput(Mistake(place, "must be UTF-8", got, "save the file as UTF-8")) from None


def _place(name: str, text: str, offset: int) -> str:
    before = text[:offset]
    return f"{name}:{before.count(chr(10)) + 1}:{offset - (before.rfind(chr(10)) + 1) + 1}"


# -- syntax -----------------------------------------------------------------------------------------------------------

_SYNTAX = (  # in the parser's words, either implementation's -> what a person did -> what to do -> where it began
    ("escape", ("has an unknown escape after \\", "double the \\, or use single quotes", True)),
    ("mapping values are not allowed", ("has a second `: ` in one line", "quote the text, or start a new line", False)),
    ("quoted scalar", ("has a quote that never closes", "close it", True)),
    ("flow sequence", ("has a [ that never closes, or a missing comma", "close it with ]", True)),
    ("flow mapping", ("has a { that never closes, or a missing comma", "close it with }", True)),
    ("flow node", ("has a bracket that never closes", "close it", True)),
    ("simple key", ("has a line without `: `", "write key: value", True)),
    ("block mapping", ("is indented unlike the lines above", "give all keys of one mapping the same indent", False)),
    ("block collection", ("is indented unlike the lines above", "give all entries of one list the same indent", False)),
    ("block sequence", ("is indented unlike the lines above", "give all entries of one list the same indent", False)),
    ("cannot start any token", ("has a character that must be quoted", "quote the text", False)),
)


def _syntax(error: yaml.MarkedYAMLError, name: str, text: str) -> Mistake:
    said = f"{error.problem} {error.context}"
    unknown = (f"is no valid YAML: {clean(str(error.problem), 100)}", "", False)
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


class _Fatal(Exception):
    def __init__(self, place: str, rule: str, got: str = "", remedy: str = "") -> None:
        self.mistake = Mistake(place, rule, got, remedy)


@dataclass(slots=True)
class _Open:
    """A collection whose end has not come yet."""

    place: str
    anchor: str | None
    mapping: dict[str, Node] | None
    items: list[Node]
    keys: dict[str, str]
    key: str | None = None
    size: int = 1
    height: int = 1


class _Builder:
    def __init__(self, name: str) -> None:
        self.name = name
        self.root: Node | None = None
        self.mistakes: list[Mistake] = []
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Node, int, int]] = {}  # name -> node, size, height
        self._documents = 0

    def take(self, event: Any) -> None:
        mark = event.start_mark
        place = f"{self.name}:{mark.line + 1}:{mark.column + 1}"
        match event:
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    raise _Fatal(place, "must be one document", "a second one after ---", "delete the line ---")
            case yaml.ScalarEvent():
                self._refuse_tag(event, place)
                self._scalar(event, place)
            case yaml.AliasEvent():
                self._alias(str(event.anchor), place)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._refuse_tag(event, place)
                self._begin(event, place)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self._end()

    def _begin(self, event: Any, place: str) -> None:
        if self._expects_key():
            raise _Fatal(place, "a key must be a word", "a list or a mapping", "write key: value")
        if len(self._open) >= DEEPEST:
            raise _Fatal(place, f"must be nested at most {DEEPEST} deep", "deeper", "flatten it")
        mapping: dict[str, Node] | None = {} if isinstance(event, yaml.MappingStartEvent) else None
        self._open.append(_Open(place, event.anchor, mapping, [], {}))

    def _end(self) -> None:
        done = self._open.pop()
        value = tuple(done.items) if done.mapping is None else done.mapping
        self._put(Node(value, done.place, "", done.keys), done.size, done.height, done.anchor)

    def _scalar(self, event: Any, place: str) -> None:
        if _HIDDEN.search(event.value):  # an escape such as "\e" in double quotes
            raise _Fatal(place, "must not contain control characters", clean(event.value), "delete them")
        if self._expects_key():
            self._key(event.value, place)
            return
        if event.implicit[0]:
            node = Node(self._resolved(event.value, place), place, event.value)
        else:
            node = Node(event.value, place, f'"{event.value}"' if event.style in ("'", '"') else event.value)
        self._put(node, 1, 0, event.anchor)

    def _key(self, key: str, place: str) -> None:
        top = self._open[-1]
        assert top.mapping is not None
        if key in top.keys:
            first = top.keys[key].removeprefix(f"{self.name}:").partition(":")[0]
            place = f"{place} {self._path(key)}"
            self.mistakes.append(Mistake(place, f"is given twice, first in line {first}", "", "keep one"))
            if len(self.mistakes) >= MOST_MISTAKES:
                raise _Fatal(place, "has more mistakes than these", "", "mend these first")
        top.keys.setdefault(key, place)
        top.key = key

    def _path(self, *more: str) -> str:
        """The keys that lead to where the parser is."""
        return ".".join(clean(key) for key in (*(one.key for one in self._open), *more) if key)

    def _alias(self, anchor: str, place: str) -> None:
        if any(one.anchor == anchor for one in self._open):
            raise _Fatal(place, f"*{clean(anchor)} must not contain itself", remedy="write it out")
        if anchor not in self._anchors:
            raise _Fatal(place, f"*{clean(anchor)} has no anchor &{clean(anchor)} before it", remedy="write it out")
        if self._expects_key():
            raise _Fatal(place, "a key must be a word", f"*{clean(anchor)}", "write key: value")
        node, size, height = self._anchors[anchor]
        if len(self._open) + height > DEEPEST:
            raise _Fatal(place, f"must be nested at most {DEEPEST} deep", "deeper", "flatten it")
        self._put(replace(node, place=place), size, height, None)

    def _put(self, node: Node, size: int, height: int, anchor: str | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = (node, size, height)
        if not self._open:
            self.root = node
            return
        top = self._open[-1]
        top.size += size
        top.height = max(top.height, height + 1)
        if sum(one.size for one in self._open) > MOST_VALUES:
            raise _Fatal(node.place, f"must hold at most {MOST_VALUES:,} values, aliases written out", "more")
        if top.mapping is None:
            top.items.append(node)
        else:
            assert top.key is not None
            top.mapping.setdefault(top.key, node)
            top.key = None

    def _expects_key(self) -> bool:
        return bool(self._open) and self._open[-1].mapping is not None and self._open[-1].key is None

    def _refuse_tag(self, event: Any, place: str) -> None:
        if event.tag is not None:
            tag = clean(str(event.tag).replace("tag:yaml.org,2002:", "!!"))
            raise _Fatal(place, "must not have a tag", tag, "delete it; quote what is to be text")

    def _resolved(self, text: str, place: str) -> Scalar:
        if text in _WORDS:
            return _WORDS[text]
        if _WHOLE.fullmatch(text) or _BASED.fullmatch(text):
            digits = text.replace("_", "")
            number = LARGEST_WHOLE + 1 if len(digits) > 30 else int(digits, 0 if _BASED.fullmatch(text) else 10)
            if abs(number) > LARGEST_WHOLE:
                self.mistakes.append(Mistake(f"{place} {self._path()}", "must be below 2^63", clean(text, 40)))
                return 1
            return number
        return float(text.replace("_", "")) if _FLOAT.fullmatch(text) else text


def places(node: Node, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, place) of every value of a tree."""
    if path:
        yield path, node.place
    children: Mapping[str, Node] = {}
    if node.mapping is not None:
        children = node.mapping
    elif node.items is not None:
        children = {str(index): one for index, one in enumerate(node.items)}
    for key, child in children.items():
        yield from places(child, f"{path}.{key}" if path else key)
