"""The search space of a study file: nodes in, a Space out, every mistake at its line.

A domain is read first, for itself; then `per: block` is written out; then conditions are resolved, because they ask
about other parameters. What the trainer knows of a parameter decides whether a number is whole and which values mean
something; it also adds the conditions without which a parameter has no effect (momentum exists only with sgd).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from hpo import foreign
from hpo.core import EPOCHS, Value
from hpo.domain_section import DomainSection
from hpo.domains import Choice, Condition, Domain, Known, Parameter, show
from hpo.expressions import MEASURES
from hpo.fields import Found, did_you_mean, nearest
from hpo.space import Space, space_faults
from hpo.space_schema import NAME
from hpo.yamlfile import Node

BLOCKS: Final = "blocks"
MOST_BLOCKS: Final = 100
ROOT: Final = "search_space"

EPOCHS_KNOWN: Final = Known(10, "int", low=1, high=1_000_000)

_OF_BLOCK: Final = re.compile(r"block([1-9][0-9]*)\.(.+)")


@dataclass(frozen=True, slots=True)
class _Entry:
    """A parameter as the file names it; when: (name, its allowed nodes) not resolved yet."""

    name: str
    domain: Domain
    when: tuple[tuple[str, Sequence[Node]], ...]
    per_block: bool
    place: str  # of the key
    path: str

    @property
    def block(self) -> str | None:
        match = _OF_BLOCK.fullmatch(self.name)
        return None if match is None else match[1]


@dataclass(frozen=True)
class SpaceSection:
    """Reads one search space. known: what model and trainer know; empty where a user's own code decides that."""

    found: Found
    known: Mapping[str, Known] = field(default_factory=dict)
    model: str = ""

    def read(self, node: Node) -> Space | None:
        """The space; None where something is wrong."""
        if node.mapping is None or not node.mapping:
            self.found.note(node, ROOT, "must be a mapping of parameters, or a .yaml file", str(node))
            return None
        entries: list[_Entry] = []
        for name, child in node.mapping.items():
            entry = self._entry(name, child, node.keys.get(name, child.place))
            if entry is not None:
                entries.append(entry)
        unread = {name for name in node.mapping if not any(entry.name == name for entry in entries)}
        written = self._expanded(entries, unread)
        parameters = [self._parameter(entry, written, unread) for entry in written.values()]
        if self.found.within(ROOT):
            return None
        if EPOCHS not in written:
            parameters.append(Parameter(EPOCHS, Choice((int(EPOCHS_KNOWN.default or 10),))))
        for fault in space_faults(parameters):
            name, _, rest = fault.where.partition(".when")
            entry = written[name]
            path = entry.path + (f".when{rest}" if "when" in fault.where else "")
            self.found.note(entry.place, path, fault.rule, fault.got, fault.remedy)
        return None if self.found.within(ROOT) else Space(tuple(parameters))

    # -- one parameter for itself --------------------------------------------------------------------------------------

    def _entry(self, name: str, node: Node, place: str) -> _Entry | None:
        path = f"{ROOT}.{name}"
        known = self._known(name)
        before = len(self.found.mistakes)
        self._check_name(name, place, path, known)
        named = len(self.found.mistakes) == before
        domain = DomainSection(self.found, path, known if named else None).read(node)
        when = self._when(node, path)
        per_block = self._per_block(node, path, name, known)
        if domain is None or not named:
            return None
        if name == EPOCHS and (when or per_block):
            self.found.note(place, path, "must exist in every trial", "", "drop `when` and `per`")
        return _Entry(name, domain, when, per_block, place, path)

    def _known(self, name: str) -> Known | None:
        match = _OF_BLOCK.fullmatch(name)
        if match is None:
            return self.known.get(name, EPOCHS_KNOWN if name == EPOCHS else None)
        known = self.known.get(match[2])
        return known if known is not None and known.per_block else None

    def _check_name(self, name: str, place: str, path: str, known: Known | None) -> None:
        if not re.fullmatch(NAME, name) or len(name) > 100:
            rule = "must be named by letters, digits and _, with dots between"
            self.found.note(place, path, rule, "", "write it like learning_rate or block1.channels")
        elif name in MEASURES:
            self.found.note(place, path, "is measured, not searched", "", "name it in constraints")
        elif self.known and known is None:
            self.found.note(place, path, *self._unknown(name))

    def _unknown(self, name: str) -> tuple[str, str, str]:
        match = _OF_BLOCK.fullmatch(name)
        short = match[2] if match else name
        names = sorted(one for one, known in self.known.items() if known.per_block or not match)
        knows = f"{'a block' if match else self.model} knows {', '.join(names)}"
        if match and short in self.known:
            return f"is no parameter of a block: {short} is one for the whole network", "", f"write {short}"
        alias = foreign.PARAMETERS.get(short.lower())
        close = alias if alias in names else nearest(short, names)
        guess = f"did you mean {close}? " if close else ""
        return f"is no parameter that {self.model} knows", "", guess + knows

    def _per_block(self, node: Node, path: str, name: str, known: Known | None) -> bool:
        per = node.mapping.get("per") if node.mapping is not None else None
        if per is None:
            return False
        if per.value != "block":
            self.found.note(per, f"{path}.per", "must be block", str(per), "write per: block")
        elif _OF_BLOCK.fullmatch(name) or name == BLOCKS:
            self.found.note(per, f"{path}.per", "cannot stand here", "", "drop it")
        elif known is not None and not known.per_block:
            self.found.note(
                per, f"{path}.per", f"cannot stand here: {name} is one for the whole network", "", "drop it"
            )
        return True

    # -- conditions ----------------------------------------------------------------------------------------------------

    def _when(self, node: Node, path: str) -> tuple[tuple[str, Sequence[Node]], ...]:
        when = node.mapping.get("when") if node.mapping is not None else None
        if when is None:
            return ()
        if not when.mapping:
            self.found.note(when, f"{path}.when", "must be a mapping", str(when), "write when: {optimizer: sgd}")
            return ()
        return tuple(
            (name, (allowed,) if allowed.items is None else allowed.items) for name, allowed in when.mapping.items()
        )

    def _expanded(self, entries: Sequence[_Entry], unread: set[str]) -> dict[str, _Entry]:
        """By name, with `per: block` written out; block2.channels, written itself, wins over channels."""
        written = {entry.name: entry for entry in entries if not entry.per_block}
        ordered: dict[str, _Entry] = {}
        for entry in entries:
            if not entry.per_block:
                ordered[entry.name] = entry
            elif BLOCKS not in unread:
                for number in range(1, self._most_blocks(entry, written) + 1):
                    name = f"block{number}.{entry.name}"
                    if name not in written:
                        ordered[name] = _Entry(name, entry.domain, entry.when, True, entry.place, entry.path)
        return ordered

    def _most_blocks(self, entry: _Entry, written: Mapping[str, _Entry]) -> int:
        default = self.known[BLOCKS].default if BLOCKS in self.known else None
        counts = self._block_counts(written) if BLOCKS in written else [int(default)] if default is not None else []
        last = counts[-1] if counts else -1
        if not 0 <= last <= MOST_BLOCKS:
            rule = f"must have blocks, whole numbers up to {MOST_BLOCKS}, in the search space"
            self.found.note(entry.place, f"{entry.path}.per", rule, "", "add blocks: [1, 2, 3]")
            return 0
        return last

    def _block_counts(self, written: Mapping[str, _Entry]) -> list[int]:
        """The values of `blocks`, ascending; [] where they are no counts."""
        domain = written[BLOCKS].domain
        if domain.levels is None or domain.levels > 10 * MOST_BLOCKS:
            return []
        values = [domain.level(index) for index in range(domain.levels)]
        counts = sorted(value for value in values if isinstance(value, int) and not isinstance(value, bool))
        return counts if len(counts) == len(values) else []

    def _parameter(self, entry: _Entry, written: Mapping[str, _Entry], unread: set[str]) -> Parameter:
        conditions: dict[str, list[Value]] = {}
        self._add_block(entry, written, conditions)
        for name, nodes in entry.when:
            self._add_written(entry, name, nodes, written, unread, conditions)
        self._add_known(entry, written, unread, conditions)
        when = tuple(Condition(name, tuple(allowed)) for name, allowed in conditions.items())
        return Parameter(entry.name, entry.domain, when)

    def _add_block(self, entry: _Entry, written: Mapping[str, _Entry], conditions: dict[str, list[Value]]) -> None:
        if entry.block is None or BLOCKS not in written:
            return
        counts = self._block_counts(written)
        allowed = [count for count in counts if count >= int(entry.block)]
        if allowed:
            conditions[BLOCKS] = list(allowed)
        elif counts:
            got = f"blocks is {written[BLOCKS].domain}"
            self.found.note(
                entry.place, entry.path, "must be of a block that can exist", got, "raise blocks, or drop it"
            )

    def _add_written(
        self,
        entry: _Entry,
        name: str,
        nodes: Sequence[Node],
        written: Mapping[str, _Entry],
        unread: set[str],
        conditions: dict[str, list[Value]],
    ) -> None:
        parent, path = self._parent(entry, name, written), f"{entry.path}.when.{name}"
        if parent is None:
            if name not in unread:
                place = nodes[0].place if nodes else entry.place
                self.found.note(place, path, "is no parameter of the search space", "", self._remedy(name, written))
            return
        domain, allowed = written[parent].domain, []
        if not nodes:
            self.found.note(entry.place, path, "must name at least one value")
        for node in nodes:
            value = domain.coerce(node.scalar) if node.is_scalar and node.scalar is not None else None
            if value is None:
                rule = f"can never hold: {name} is {domain}"
                self.found.note(node, path, rule, str(node), f"write one of {name}'s values")
            else:
                allowed.append(value)
        self._and(entry, path, parent, allowed, conditions)

    def _remedy(self, name: str, written: Mapping[str, _Entry]) -> str:
        of_blocks = [one for one in written if one.endswith(f".{name}") and _OF_BLOCK.fullmatch(one)]
        if of_blocks:
            return f"write {' or '.join(of_blocks[:2])}"
        return f"add {name}" if name in self.known else did_you_mean(name, list(written))

    def _parent(self, entry: _Entry, name: str, written: Mapping[str, _Entry]) -> str | None:
        """The parameter meant: of the same block, if there is one."""
        own = f"block{entry.block}.{name}"
        return own if own in written else name if name in written else None

    def _and(
        self, entry: _Entry, path: str, parent: str, allowed: Sequence[Value], conditions: dict[str, list[Value]]
    ) -> None:
        if parent in conditions:
            both = [value for value in conditions[parent] if value in allowed]
            if not both and allowed and not self.found.within(path):
                self.found.note(
                    entry.place, path, f"can never hold together with what else {entry.name} needs of {parent}"
                )
            allowed = both
        conditions[parent] = list(allowed)

    def _add_known(
        self, entry: _Entry, written: Mapping[str, _Entry], unread: set[str], conditions: dict[str, list[Value]]
    ) -> None:
        """What the trainer says: elsewhere the parameter has no effect, and two points would be one training."""
        known = self._known(entry.name)
        for condition in known.when if known is not None else ():
            parent = self._parent(entry, condition.name, written)
            needs = " or ".join(map(show, condition.allowed))
            if parent is not None:
                domain = written[parent].domain
                members = (domain.coerce(value) for value in condition.allowed)
                allowed = [value for value in members if value is not None]
                if not allowed:
                    rule = f"has an effect only where {condition.name} is {needs}"
                    got = f"{condition.name}: {domain}"
                    self.found.note(entry.place, entry.path, rule, got, f"leave it out, or add to {condition.name}")
                self._and(entry, entry.path, parent, allowed, conditions)
            elif not self._somewhere(condition.name, written, unread):
                default = self.known[condition.name].default
                if default is not None and not condition.allows(default):
                    rule = f"has an effect only where {condition.name} is {needs}"
                    got = f"{show(default)}, its default"
                    remedy = f"add {condition.name}: {show(condition.allowed[0])}"
                    self.found.note(entry.place, entry.path, rule, got, remedy)

    def _somewhere(self, name: str, written: Mapping[str, _Entry], unread: set[str]) -> bool:
        """Whether some block has a parameter of its own of this name, or it could not be read, or nobody knows it."""
        of_blocks = any(one.endswith(f".{name}") and _OF_BLOCK.fullmatch(one) for one in written)
        return of_blocks or name in unread or name not in self.known
