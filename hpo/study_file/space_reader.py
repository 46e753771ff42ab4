"""The search space of a study file: nodes in, a Space out, every mistake at its line.

A domain is read first, for itself; then `per: block` is written out; then conditions are resolved, because they ask
about other parameters. What the trainer knows of a parameter decides whether a number is whole and which values mean
something.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from hpo.core import EPOCHS
from hpo.space.domains import Choice, Known, Parameter
from hpo.space.expressions import MEASURES
from hpo.space.space import Space, space_faults
from hpo.study_file import foreign
from hpo.study_file.condition_section import BLOCKS, MOST_BLOCKS, OF_BLOCK, ConditionSection, Entry, block_counts
from hpo.study_file.domain_section import DomainSection
from hpo.study_file.fields import Found, nearest
from hpo.study_file.space_schema import NAME
from hpo.study_file.yaml_nodes import Node

ROOT: Final = "search_space"
DEFAULT_EPOCHS: Final = 10  # where the search space has no `epochs`
EPOCHS_KNOWN: Final = Known(DEFAULT_EPOCHS, "int", low=1, high=1_000_000)


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
        before = len(self.found.mistakes)
        entries: dict[str, Entry] = {}
        for name, child in node.mapping.items():
            entry = self._entry(name, child, node.keys.get(name, child.place))
            if entry is not None:
                entries[name] = entry
        unread = set(node.mapping) - set(entries)
        written = self._written_out(entries, unread)
        conditions = ConditionSection(self.found, self.known, written, unread)
        parameters = [
            Parameter(entry.name, entry.domain, conditions.read(entry, self._known(entry.name)))
            for entry in written.values()
        ]
        if len(self.found.mistakes) == before:
            self._check_together(parameters, written)
        if len(self.found.mistakes) > before:
            return None
        constant = () if EPOCHS in written else (Parameter(EPOCHS, Choice((DEFAULT_EPOCHS,))),)
        return Space((*parameters, *constant))

    def _check_together(self, parameters: Sequence[Parameter], written: Mapping[str, Entry]) -> None:
        for fault in space_faults(parameters):
            name, when, rest = fault.where.partition(".when")
            entry = written[name]
            self.found.note(entry.place, f"{entry.path}{when}{rest}", fault.rule, fault.got, fault.remedy)

    # -- one parameter for itself --------------------------------------------------------------------------------------

    def _entry(self, name: str, node: Node, place: str) -> Entry | None:
        path = f"{ROOT}.{name}"
        known = self._known(name)
        named = self._check_name(name, place, path, known)
        domain = DomainSection(self.found, path, known if named else None).read(node)
        when = self._when(node, path)
        per_block = self._per_block(node, path, name, known)
        if domain is None or not named:
            return None
        if name == EPOCHS and (when or per_block):
            self.found.note(place, path, "must exist in every trial", "", "drop `when` and `per`")
        return Entry(name, domain, when, per_block, place, path)

    def _known(self, name: str) -> Known | None:
        match = OF_BLOCK.fullmatch(name)
        if match is None:
            return self.known.get(name, EPOCHS_KNOWN if name == EPOCHS else None)
        known = self.known.get(match[2])
        return known if known is not None and known.per_block else None

    def _check_name(self, name: str, place: str, path: str, known: Known | None) -> bool:
        if not re.fullmatch(NAME, name) or len(name) > 100:
            rule = "must be named by letters, digits and _, with dots between"
            self.found.note(place, path, rule, "", "write it like learning_rate or block1.channels")
        elif name in MEASURES:
            self.found.note(place, path, "is measured, not searched", "", "name it in constraints")
        elif self.known and known is None:
            self._note_unknown(name, place, path)
        else:
            return True
        return False

    def _note_unknown(self, name: str, place: str, path: str) -> None:
        match = OF_BLOCK.fullmatch(name)
        short = match[2] if match else name
        names = sorted(one for one, known in self.known.items() if known.per_block or not match)
        if match and short in self.known:
            rule = f"is no parameter of a block: {short} is one for the whole network"
            self.found.note(place, path, rule, "", f"write {short}")
            return
        alias = foreign.PARAMETERS.get(short.lower())
        close = alias if alias in names else nearest(short, names)
        guess = f"did you mean {close}? " if close else ""
        knows = f"{'a block' if match else self.model} knows {', '.join(names)}"
        self.found.note(place, path, f"is no parameter that {self.model} knows", "", guess + knows)

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

    # -- blocks --------------------------------------------------------------------------------------------------------

    def _per_block(self, node: Node, path: str, name: str, known: Known | None) -> bool:
        per = node.mapping.get("per") if node.mapping is not None else None
        if per is None:
            return False
        if per.value != "block":
            self.found.note(per, f"{path}.per", "must be block", str(per), "write per: block")
        elif OF_BLOCK.fullmatch(name) or name == BLOCKS:
            self.found.note(per, f"{path}.per", "cannot stand here", "", "drop it")
        elif known is not None and not known.per_block:
            self.found.note(
                per, f"{path}.per", f"cannot stand here: {name} is one for the whole network", "", "drop it"
            )
        return True

    def _written_out(self, entries: Mapping[str, Entry], unread: set[str]) -> dict[str, Entry]:
        """By name, each block's parameter for itself; block2.channels, if the file has it, wins over channels."""
        written: dict[str, Entry] = {}
        for name, entry in entries.items():
            if not entry.per_block:
                written[name] = entry
            elif BLOCKS not in unread:
                for number in range(1, self._most_blocks(entry, entries) + 1):
                    own = f"block{number}.{name}"
                    if own not in entries:
                        written[own] = replace(entry, name=own)
        return written

    def _most_blocks(self, entry: Entry, entries: Mapping[str, Entry]) -> int:
        default = self.known[BLOCKS].default if BLOCKS in self.known and BLOCKS not in entries else None
        counts = block_counts(entries) if default is None else [int(default)]
        if counts and 0 <= counts[-1] <= MOST_BLOCKS:
            return counts[-1]
        rule = f"must have blocks, whole numbers up to {MOST_BLOCKS}, in the search space"
        self.found.note(entry.place, f"{entry.path}.per", rule, "", "add blocks: [1, 2, 3]")
        return 0
