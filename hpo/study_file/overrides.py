"""`--set key.path=value`: a value of the study file replaced from the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hpo.errors import BadInput, Mistake
from hpo.study_file.yaml_nodes import Node, clean, value_of

PLACE = "--set"
_KEY = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)*")
_BLOCK = re.compile(r"block[1-9][0-9]*")


@dataclass(frozen=True, slots=True)
class Override:
    """keys: the path, split at dots; a parameter's own dots (block1.channels) are put together when it is applied."""

    keys: tuple[str, ...]
    value: Node

    @classmethod
    def read(cls, text: str) -> Override:
        """Raises BadInput."""
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not _KEY.fullmatch(key):
            raise BadInput(Mistake(f"{PLACE} {clean(text)}", "must be key.path=value", remedy="write budget.trials=40"))
        try:
            node = value_of(value.strip(), PLACE)
        except BadInput as error:
            wrong = error.mistakes[0]
            rule = wrong.rule if isinstance(wrong, Mistake) else str(wrong)
            raise BadInput(Mistake(f"{PLACE} {key}", rule, clean(value.strip()))) from None
        return cls(tuple(key.split(".")), node)

    def apply(self, root: Node) -> Node:
        """The tree with this value in it. Raises BadInput where the path leads through a value that has no keys."""
        return _put(root, self.keys, self.value, ())


def _put(node: Node, keys: Sequence[str], value: Node, done: tuple[str, ...]) -> Node:
    if not keys:
        return value
    if node.items is not None:
        return _put_item(node, keys, value, done)
    if node.mapping is None and node.value is not None:
        path = ".".join((*done, *keys))
        raise BadInput(
            Mistake(
                f"{PLACE} {path}",
                f"{'.'.join(done)} must have keys",
                str(node),
                f"set it as a whole: --set '{'.'.join(done)}={{...}}'",
            )
        )
    mapping = dict(node.mapping or {})
    key, rest = _next(mapping, keys)
    child = mapping.get(key, Node({}, PLACE) if rest else value)
    mapping[key] = _put(child, rest, value, (*done, key))
    return replace(node, value=mapping, keys={**node.keys, **({} if key in node.keys else {key: PLACE})})


def _put_item(node: Node, keys: Sequence[str], value: Node, done: tuple[str, ...]) -> Node:
    items = list(node.items or ())
    if not keys[0].isdigit() or int(keys[0]) >= len(items):
        path = ".".join((*done, *keys))
        raise BadInput(
            Mistake(f"{PLACE} {path}", f"{'.'.join(done)} is a list of {len(items)}", keys[0], "count from 0")
        )
    items[int(keys[0])] = _put(items[int(keys[0])], keys[1:], value, (*done, keys[0]))
    return replace(node, value=tuple(items))


def _next(mapping: Mapping[str, Node], keys: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The longest key that is there already; else one word, or two of a block's parameter."""
    for count in range(len(keys), 0, -1):
        if ".".join(keys[:count]) in mapping:
            return ".".join(keys[:count]), keys[count:]
    count = 2 if _BLOCK.fullmatch(keys[0]) and len(keys) > 1 else 1
    return ".".join(keys[:count]), keys[count:]
