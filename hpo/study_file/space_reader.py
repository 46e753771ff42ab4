"""The search space of a study file: nodes in, a Space out, every mistake at its line.

A domain is read first, by itself. Then `per` is written out, and a choice between whole lists, from which the values of
the blocks follow. Then conditions are resolved, because they name other parameters. What the trainer knows of a parameter
decides whether a number is whole, which values mean something, and where the parameter has an effect at all: without that
condition (momentum exists only with sgd) two points of the space would be one training.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from graphlib import CycleError, TopologicalSorter
from typing import Final

from hpo.core import EPOCHS, Value
from hpo.space.domains import PARTS, Choice, Condition, Domain, Parameter, ParameterSpec, exact, part_of
from hpo.space.expressions import MEASURES, Derived, NoExpression
from hpo.space.space import Space, faults_of
from hpo.study_file.domain_reader import DomainReader
from hpo.study_file.fields import Mistakes, known_name, nearest, of_parts, other_tools
from hpo.study_file.rules import check_derived
from hpo.study_file.spec import DEFAULT_EPOCHS, StudySpec, with_epochs
from hpo.study_file.yaml_nodes import NOTHING, Node

NAME: Final = r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*"
EPOCHS_KNOWN: Final = ParameterSpec(DEFAULT_EPOCHS, "int", low=1, high=1_000_000)
MOST_PARTS: Final = 100


@dataclass(frozen=True, slots=True)
class Entry:
    """A parameter as the file names it; when: (name, nodes of the values it allows), not resolved yet."""

    name: str
    domain: Domain
    when: tuple[tuple[str, Sequence[Node]], ...]
    per: str  # the part that each has its own of, "" for none
    key: Node
    lists: bool = False  # whether it chooses between lists, with a value for each block
    follows: str = ""  # the expression that its value follows from


def counts_of(part: str, entries: Mapping[str, Entry]) -> list[int]:
    """How many blocks, or dense layers, there may be, ascending; [] where that is missing or no count."""
    counted = PARTS[part].counted
    domain = entries[counted].domain if counted in entries else None
    if domain is None or domain.levels is None or domain.levels > MOST_PARTS + 1:
        return []
    values = [domain.level(index) for index in range(domain.levels)]
    counts = sorted(value for value in values if isinstance(value, int) and not isinstance(value, bool))
    return counts if len(counts) == len(values) else []


Restriction = tuple[str, Sequence[Value], str]  # a parent, the values of it, and why they may clash with others


class SpaceReader:
    """Reads one search space. known: what model and trainer know; empty where a user's own code decides that."""

    def __init__(self, mistakes: Mistakes, known: Mapping[str, ParameterSpec], model: str) -> None:
        self.mistakes, self.known, self.model = mistakes, known, model
        self.names: Sequence[str] = ()  # as the file has them
        self.unread: set[str] = set()  # parameters with mistakes of their own, which explain enough
        self.written: dict[str, Entry] = {}  # every parameter by name, those of blocks and layers written out

    def read(self, node: Node) -> Space | None:
        """The space; None where something is wrong."""
        if not node.mapping:
            self.mistakes.note(node, "must be a mapping of parameters, or a .yaml file", str(node))
            return None
        before = len(self.mistakes.all)
        self.names = tuple(node.mapping)
        every = {name: self._entry(name, child, node.key(name)) for name, child in node.mapping.items()}
        entries = {name: entry for name, entry in every.items() if entry is not None}
        self.unread = set(every) - set(entries)
        self.written = self._written_out(entries)
        when = {name: self._conditions(entry) for name, entry in self.written.items()}
        parameters = [Parameter(name, one.domain, when[name]) for name, one in self.written.items() if not one.follows]
        derived = self._derived(when)
        if len(self.mistakes.all) > before:
            return None
        faults = faults_of(parameters)
        for fault in faults:
            name, under, rest = fault.place.partition(".when")
            key = self.written[name].key
            at = replace(key, path=f"{key.path}{under}{rest}")
            self.mistakes.note(at, fault.rule, fault.got, fault.remedy)
        space = None if faults else with_epochs(Space(tuple(parameters), derived))
        if space is not None:
            check_derived(space, self.known, node, self.mistakes)
        return space

    def _entry(self, name: str, node: Node, key: Node) -> Entry | None:
        known = self._known(name)
        named = self._check_name(name, key, known)
        if named and self._follows(node.value, name, known):
            return Entry(name, Choice((str(node.value),)), (), "", key, follows=str(node.value))
        domain = DomainReader(self.mistakes, known if named else None).read(node)
        when = self._when(node)
        per = self._per(node, name, known)
        if domain is None or not named:
            return None
        if name == EPOCHS and (when or per):
            self.mistakes.note(key, "must exist in every trial", "", "drop `when` and `per`")
        lists = any(one.items for one in node.items or (node.mapping or {}).get("choices", NOTHING).items or ())
        return Entry(name, domain, when, known.per if lists and known else per, key, lists)

    def _known(self, name: str) -> ParameterSpec | None:
        part, _, short = part_of(name)
        known = self.known.get(short, EPOCHS_KNOWN if name == EPOCHS else None)
        return known if not part else replace(known, per="") if known is not None and known.per == part else None

    def _check_name(self, name: str, key: Node, known: ParameterSpec | None) -> bool:
        if not re.fullmatch(NAME, name) or len(name) > 100:
            rule = "must be named by letters, digits and _, with dots between"
            self.mistakes.note(key, rule, "", "write it like learning_rate or block1.channels")
        elif name in MEASURES:
            self.mistakes.note(key, "is measured, not searched", "", "name it in constraints")
        elif self.known and known is None:
            self._note_unknown(name, key)
        else:
            return True
        return False

    def _note_unknown(self, name: str, key: Node) -> None:
        if name in {field.name for field in fields(StudySpec)}:
            remedy = f"write {name} at the left margin"
            self.mistakes.note(key, "is a key of the study file, no parameter", "", remedy)
            return
        part, _, short = part_of(name)
        whole = name.partition(".")[2] if part else ""
        if whole in self.known:
            applies = f"each {self.known[whole].per}" if self.known[whole].per else "the whole network"
            rule = f"is not a parameter of a {part}: {whole} applies to {applies}"
            self.mistakes.note(key, rule, "", f"write {whole}")
            return
        names = sorted(own for own, known in self.known.items() if not part or known.per == part)
        alias = other_tools("names of parameters").get(short.lower())
        close = alias if alias in names else nearest(short, names)
        guess = f"did you mean {close}? " if close else ""
        knows = f"{f'a {part}' if part else self.model} has {', '.join(names)}"
        self.mistakes.note(key, f"is not a parameter of {self.model}", "", guess + knows)

    def _when(self, node: Node) -> tuple[tuple[str, Sequence[Node]], ...]:
        when = (node.mapping or {}).get("when", NOTHING)
        if when.value is not None and not when.mapping:
            self.mistakes.note(when, "must be a mapping", str(when), "write when: {optimizer: sgd}")
        given = {name: one.items if one.items is not None else (one,) for name, one in (when.mapping or {}).items()}
        return tuple((name, [replace(one, path=when.key(name).path) for one in ones]) for name, ones in given.items())

    def _per(self, node: Node, name: str, known: ParameterSpec | None) -> str:
        per = (node.mapping or {}).get("per", NOTHING)
        if per.scalar not in PARTS:
            return ""
        right, counting = known.per if known else str(per.value), any(name == one.counted for one in PARTS.values())
        if not right or counting or part_of(name)[0]:
            why = f": {name} applies to the whole network" if not (right or counting or part_of(name)[0]) else ""
            self.mistakes.note(per, f"cannot be given here{why}", "", "drop it")
        elif right != per.value:
            self.mistakes.note(per, f"must be {right}", str(per), f"write per: {right}")
        return str(per.value)

    def _written_out(self, entries: Mapping[str, Entry]) -> dict[str, Entry]:
        """By name, each block's parameter for itself; block2.channels, if the file has it, wins over channels."""
        written: dict[str, Entry] = {}
        for name, entry in entries.items():
            if not entry.per or entry.lists:
                written[name] = entry
            if entry.per and PARTS[entry.per].counted not in self.unread:
                most = self._most(entry, entries)
                for number in range(1, most + 1):
                    own = PARTS[entry.per].own(number, name)
                    follows = f"{name}[{number - 1}]" if entry.lists else ""
                    if own not in entries:
                        written[own] = replace(entry, name=own, lists=False, follows=follows)
                self._check_lists(entry, most, entries)
        return written

    def _check_lists(self, entry: Entry, most: int, entries: Mapping[str, Entry]) -> None:
        """Two points of the space are not to be one network."""
        fewest = next((one for one in counts_of(entry.per, entries) if one), most)
        lists = [(json.loads(str(one)), one) for one in entry.domain.values] if entry.lists and most else []
        if odd := [exact(text) for values, text in lists if not isinstance(values, list) or len(values) != most]:
            self.mistakes.note(entry.key, f"must be lists with a value for each {entry.per}, {most} each", odd[0])
        elif len({str(values[:fewest]) for values, _ in lists}) < len(lists):
            rule = f"must be lists that differ in their first {fewest}, because there may be no more {entry.per}s"
            self.mistakes.note(entry.key, rule, "", f"raise {PARTS[entry.per].counted}, or drop one")

    def _most(self, entry: Entry, entries: Mapping[str, Entry]) -> int:
        """How many there are at most of the parts that each have their own."""
        counted = PARTS[entry.per].counted
        default = self.known[counted].default if counted in self.known and counted not in entries else None
        counts = counts_of(entry.per, entries) if default is None else [int(default)]
        if counts and 0 <= counts[-1] <= MOST_PARTS:
            return counts[-1]
        rule = f"must have {counted}, whole numbers up to {MOST_PARTS}, in the search space"
        self.mistakes.note(entry.key.key("per"), rule, "", f"add {counted}: [1, 2, 3]")
        return 0

    def _follows(self, text: object, name: str, known: ParameterSpec | None) -> bool:
        """Whether this is no value but an expression; a word alone may be a value of one's own model."""
        if not isinstance(text, str) or name in (EPOCHS, *(one.counted for one in PARTS.values())):
            return False
        try:
            names = Derived(name, text).names if known is None or known.fault(text) is not None else ()
        except NoExpression:
            return False
        there = all(one in self.names or part_of(one)[2] in self.names for one in names)
        numeric = known is not None and known.kind in ("int", "float")
        return bool(names) and (there and known is not None if text in names else there or numeric)

    def _derived(self, when: Mapping[str, tuple[Condition, ...]]) -> tuple[Derived, ...]:
        """Each after those that it follows from."""
        derived = {name: Derived(name, own.follows, when[name]) for name, own in self.written.items() if own.follows}
        for name, named in [(name, named) for name, one in derived.items() for named in one.names]:
            entry = self.written[name]
            if named == EPOCHS:
                rule = "must not follow from epochs: trials that differ only in epochs share one training"
                self.mistakes.note(entry.key, rule)
            elif named not in self.written and named not in self.unread:
                rule, remedy = f"names {named}, which the search space does not have", known_name(named, self.written)
                self.mistakes.note(entry.key, rule, "", remedy)
        try:
            order = TopologicalSorter({name: one.names for name, one in derived.items()}).static_order()
            return tuple(derived[name] for name in order if name in derived)
        except CycleError as error:
            entry, circle = self.written[error.args[1][0]], " -> ".join(error.args[1])
            self.mistakes.note(entry.key, "must not follow from itself", circle)
            return ()

    def _conditions(self, entry: Entry) -> tuple[Condition, ...]:
        """The conditions of one parameter, at most one on each other parameter."""
        conditions: dict[str, Sequence[Value]] = {}
        for conditions_of in (self._of_part, self._of_file, self._of_model):
            for parent, allowed, clash in conditions_of(entry):
                before = conditions.get(parent, allowed)
                conditions[parent] = [value for value in before if value in allowed]
                if before and allowed and not conditions[parent]:
                    self.mistakes.note(entry.key.key("when"), f"can never hold: {clash}", "", "fix the condition")
        return tuple(Condition(name, tuple(allowed)) for name, allowed in conditions.items())

    def _of_part(self, entry: Entry) -> Iterator[Restriction]:
        part, number, _ = part_of(entry.name) if not entry.lists else (entry.per, 1, "")
        counts = counts_of(part, self.written) if part else []
        if not counts:
            return
        counted = PARTS[part].counted
        if number > counts[-1]:
            rule = f"is of a {part} that never exists: {counted} is {self.written[counted].domain}"
            self.mistakes.note(entry.key, rule, "", f"raise {counted}, or drop it")
        yield counted, [count for count in counts if count >= number], ""

    def _of_file(self, entry: Entry) -> Iterator[Restriction]:
        for name, nodes in entry.when:
            parent, key = self._parent(entry, name), entry.key.key("when").key(name)
            if parent is None:
                if name not in self.unread:
                    missing = name in self.known and not of_parts(name, self.written)
                    remedy = f"add {name}" if missing else known_name(name, self.written)
                    self.mistakes.note(nodes[0] if nodes else key, "is not in the search space", "", remedy)
                continue
            domain = self.written[parent].domain
            if not nodes:
                self.mistakes.note(key, "must name at least one value")
            values = [(node, None if node.scalar is None else domain.coerce(node.scalar)) for node in nodes]
            for node, value in values:
                if value is None:
                    rule = f"can never hold: {name} is {domain}"
                    self.mistakes.note(node, rule, str(node), f"write one of {name}'s values")
            yield parent, [value for _, value in values if value is not None], "its block does not exist there"

    def _of_model(self, entry: Entry) -> Iterator[Restriction]:
        known = self._known(entry.name)
        for condition in known.when if known is not None else ():
            name, parent = condition.name, self._parent(entry, condition.name)
            rule = f"has an effect only where {name} is {' or '.join(map(exact, condition.allowed))}"
            some = exact(condition.allowed[0])
            if parent is not None:
                domain = self.written[parent].domain
                allowed = condition.among(domain)
                if not allowed:
                    got, remedy = f"{name}: {domain}", f"leave it out, or add {some} to {name}"
                    self.mistakes.note(entry.key, rule, got, remedy)
                yield parent, allowed, f"{entry.key.path.rpartition('.')[2]} {rule}"
            elif name in self.known and name not in self.unread and not of_parts(name, self.written):
                default = self.known[name].default
                if default is not None and not condition.allows(default):
                    got, remedy = f"{exact(default)}, its default", f"add {name}: {some}"
                    self.mistakes.note(entry.key, rule, got, remedy)

    def _parent(self, entry: Entry, name: str) -> str | None:
        """The parameter meant: of the same block, if there is one."""
        part, number, _ = part_of(entry.name)
        own = PARTS[part].own(number, name) if part else name
        return own if own in self.written else name if name in self.written else None
