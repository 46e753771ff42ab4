"""When a parameter exists: what its `when` says, its block, and what the trainer knows.

The last adds the conditions without which a parameter has no effect (momentum exists only with sgd): otherwise two
points of the space would be one training, and a strategy would pay for it twice.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hpo.core import Value
from hpo.space.domains import Condition, Domain, Known, show
from hpo.study_file.fields import Found, did_you_mean
from hpo.study_file.yaml_nodes import Node

BLOCKS: Final = "blocks"
MOST_BLOCKS: Final = 100
OF_BLOCK: Final = re.compile(r"block([1-9][0-9]{0,3})\.(.+)")


@dataclass(frozen=True, slots=True)
class Entry:
    """A parameter as the file names it; when: (name, nodes of the values it allows), not resolved yet."""

    name: str
    domain: Domain
    when: tuple[tuple[str, Sequence[Node]], ...]
    per_block: bool
    place: str  # of the key
    path: str

    @property
    def block(self) -> int | None:
        match = OF_BLOCK.fullmatch(self.name)
        return None if match is None else int(match[1])


def block_counts(written: Mapping[str, Entry]) -> list[int]:
    """The values of `blocks`, ascending; [] where it is missing or they are no counts."""
    domain = written[BLOCKS].domain if BLOCKS in written else None
    if domain is None or domain.levels is None or domain.levels > MOST_BLOCKS + 1:
        return []
    values = [domain.level(index) for index in range(domain.levels)]
    counts = sorted(value for value in values if isinstance(value, int) and not isinstance(value, bool))
    return counts if len(counts) == len(values) else []


@dataclass(frozen=True)
class ConditionSection:
    """written: every parameter by name; unread: names of those with mistakes of their own, which explain enough."""

    found: Found
    known: Mapping[str, Known]
    written: Mapping[str, Entry]
    unread: Collection[str]

    def read(self, entry: Entry, known: Known | None) -> tuple[Condition, ...]:
        """The conditions of one parameter, at most one on each other parameter."""
        conditions: dict[str, list[Value]] = {}
        self._add_block(entry, conditions)
        for name, nodes in entry.when:
            self._add_written(entry, name, nodes, conditions)
        for condition in known.when if known is not None else ():
            self._add_known(entry, condition, conditions)
        return tuple(Condition(name, tuple(allowed)) for name, allowed in conditions.items())

    def _add_block(self, entry: Entry, conditions: dict[str, list[Value]]) -> None:
        counts = block_counts(self.written)
        if entry.block is None or not counts:
            return
        conditions[BLOCKS] = [count for count in counts if count >= (entry.block or 0)]
        if not conditions[BLOCKS]:
            rule = f"is of a block that never exists: blocks is {self.written[BLOCKS].domain}"
            self.found.note(entry.place, entry.path, rule, "", "raise blocks, or drop it")

    def _add_written(self, entry: Entry, name: str, nodes: Sequence[Node], conditions: dict[str, list[Value]]) -> None:
        parent, path = self._parent(entry, name), f"{entry.path}.when.{name}"
        if parent is None:
            if name not in self.unread:
                place = nodes[0].place if nodes else entry.place
                self.found.note(place, path, "is no parameter of the search space", "", self._remedy(name))
            return
        domain, allowed = self.written[parent].domain, []
        if not nodes:
            self.found.note(entry.place, path, "must name at least one value")
        for node in nodes:
            value = domain.coerce(node.scalar) if node.is_scalar and node.scalar is not None else None
            if value is None:
                rule = f"can never hold: {name} is {domain}"
                self.found.note(node, path, rule, str(node), f"write one of {name}'s values")
            else:
                allowed.append(value)
        self._and(entry, parent, allowed, conditions, "its block does not exist there")

    def _add_known(self, entry: Entry, condition: Condition, conditions: dict[str, list[Value]]) -> None:
        parent = self._parent(entry, condition.name)
        rule = f"has an effect only where {condition.name} is {' or '.join(map(show, condition.allowed))}"
        some = show(condition.allowed[0])
        if parent is not None:
            domain = self.written[parent].domain
            members = (domain.coerce(value) for value in condition.allowed)
            allowed = [value for value in members if value is not None]
            if not allowed:
                got, remedy = f"{condition.name}: {domain}", f"leave it out, or add {some} to {condition.name}"
                self.found.note(entry.place, entry.path, rule, got, remedy)
            self._and(entry, parent, allowed, conditions, f"{entry.path.rpartition('.')[2]} {rule}")
        elif not self._somewhere(condition.name):
            default = self.known[condition.name].default
            if default is not None and not condition.allows(default):
                got, remedy = f"{show(default)}, its default", f"add {condition.name}: {some}"
                self.found.note(entry.place, entry.path, rule, got, remedy)

    def _and(
        self, entry: Entry, parent: str, allowed: Sequence[Value], conditions: dict[str, list[Value]], why: str
    ) -> None:
        before = conditions.get(parent)
        both = [value for value in before if value in allowed] if before is not None else list(allowed)
        if before and allowed and not both:
            self.found.note(entry.place, f"{entry.path}.when", f"can never hold: {why}", "", "mend the condition")
        conditions[parent] = both

    def _parent(self, entry: Entry, name: str) -> str | None:
        """The parameter meant: of the same block, if there is one."""
        own = f"block{entry.block}.{name}"
        return own if own in self.written else name if name in self.written else None

    def _remedy(self, name: str) -> str:
        of_blocks = self._of_blocks(name)
        if of_blocks:
            return f"write {' or '.join(of_blocks[:2])}"
        return f"add {name}" if name in self.known else did_you_mean(name, list(self.written))

    def _somewhere(self, name: str) -> bool:
        """Whether some block has a parameter of its own of this name, or it could not be read, or nobody knows it."""
        return bool(self._of_blocks(name)) or name in self.unread or name not in self.known

    def _of_blocks(self, name: str) -> list[str]:
        return [one for one in self.written if one.endswith(f".{name}") and OF_BLOCK.fullmatch(one)]
