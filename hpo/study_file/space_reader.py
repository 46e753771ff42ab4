"""The search space of a study file: nodes in, a Space out, every mistake at its line.

A domain is read first, by itself: a value, a [list], {min, max, ...} or {choices, ...}. Then `per: block` is written
out; then conditions are resolved, because they name other parameters. What the trainer knows of a parameter decides
whether a number is whole, which values mean something, and where the parameter has an effect at all: without that
condition (momentum exists only with sgd) two points of the space would be one training.
"""

# ruff: noqa: RUF009 - option() is dataclasses.field

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from hpo.core import EPOCHS, Value
from hpo.errors import Mistake
from hpo.space.domains import (
    LARGEST_COUNT,
    Choice,
    Condition,
    Domain,
    Parameter,
    ParameterSpec,
    Range,
    choice_faults,
    exact,
    members,
    range_faults,
)
from hpo.space.expressions import MEASURES
from hpo.space.space import Space, space_faults
from hpo.study_file.fields import (
    Mistakes,
    anything,
    flag,
    flag_meant,
    known_name,
    nearest,
    number,
    of_blocks,
    option,
    other_tools,
    read_fields,
    text,
)
from hpo.study_file.spec import DEFAULT_EPOCHS, with_epochs
from hpo.study_file.yaml_nodes import NOTHING, Node

ROOT: Final = "search_space"
NAME: Final = r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*"
EPOCHS_KNOWN: Final = ParameterSpec(DEFAULT_EPOCHS, "int", low=1, high=1_000_000)
BLOCKS: Final = "blocks"
MOST_BLOCKS: Final = 100
OF_BLOCK: Final = re.compile(r"block([1-9][0-9]{0,3})\.(.+)")
_CALL: Final = r"(?s:(log|q|int|rand|uniform|choice|normal|range|np\.|tune\.|hp\.|trial\.)[\w.]*\(.*\))"
_INTERVAL: Final = r"[-+.0-9eE_]+ *(\.\.\.?|to|-|:) *[-+.0-9eE_]+"


# -- domains ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WrittenDomain:
    """The keys of a parameter that is written as a mapping: choices, or a range from min to max."""

    choices: Node | None = option(anything(), None, "the values to choose from, where `when` is needed too")
    min: float | None = option(number(), None, "the smallest value; integers for an integer parameter")
    max: float | None = option(number(), None, "the largest value")
    log: bool = option(flag(), False, "sample on a logarithmic scale")
    step: float | None = option(number(above=0), None, "levels: min, min + step, ...")
    count: int | None = option(number(2, LARGEST_COUNT, whole=True), None, "number of evenly spaced levels")
    when: Node | None = option(
        anything(), None, "active only where each of these parameters has this value (or one of a list)"
    )
    per: str | None = option(text("block", "must be block", "per: block"), None, "a separate parameter for each block")


@dataclass(frozen=True)
class DomainReader:
    """Reads a value, a [list], {min, max, ...} or {choices, ...}.

    known: what the trainer says about the parameter; None: numbers are whole or not as they are written.
    """

    mistakes: Mistakes
    path: str
    known: ParameterSpec | None

    def read(self, node: Node) -> Domain | None:
        """The domain; None where something is wrong."""
        if node.items is not None:
            return self._choice(node, node.items, self.path)
        if node.mapping is None:
            return self._constant(node)
        before = len(self.mistakes.all)
        written = read_fields(WrittenDomain, node, self.path, self.mistakes, "a parameter")
        if "choices" not in written:
            return self._range(node, written, before)
        for key in written.keys() & {"min", "max", "log", "step", "count"}:
            self._note(node.key_place(key), key, "cannot be combined with choices", "", "drop it")
        choices: Node = written["choices"]
        if choices.items is None:
            self._note(choices, "choices", "must be a list", str(choices), "write choices: [16, 32, 64]")
            return None
        return self._choice(choices, choices.items, f"{self.path}.choices")

    def _note(self, node: Node | str, key: str, rule: str, got: str = "", remedy: str = "") -> None:
        self.mistakes.note(node, f"{self.path}.{key}" if key else self.path, rule, got, remedy)

    def _constant(self, node: Node) -> Domain | None:
        if node.value is None:
            self._note(node, "", "must have a value", "nothing", "write a value, a [list] or {min: ..., max: ...}")
            return None
        if isinstance(node.value, str) and re.fullmatch(f"{_CALL}|{_INTERVAL}", node.value):
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
            self.mistakes.note(node, path, fault.rule, fault.got, fault.remedy)
        return None if faults else Choice(good)

    def _value(self, node: Node, path: str) -> Value | None:
        """One value of a choice, in the parameter's own type."""
        value = node.scalar
        if value is None or (isinstance(value, float) and node.number is None):
            self.mistakes.note(node, path, "must be a number, text, true or false", str(node))
            return None
        if self.known is None:
            return value
        rule = self.known.fault(value)
        if rule is None:
            return self.known.coerce(value)
        words = [choice for choice in self.known.choices if isinstance(choice, str)]
        close = other_tools("values").get(str(value).lower()) or nearest(str(value), words)
        remedy = flag_meant(node) if self.known.kind == "bool" else f"did you mean {close}?" if close in words else ""
        self.mistakes.note(node, path, rule, str(node), remedy)
        return None

    def _range(self, node: Node, written: Mapping[str, Any], before: int) -> Domain | None:
        known = self.known
        if known is not None and known.kind in ("choice", "bool"):
            some = "true, false" if known.kind == "bool" else ", ".join(map(exact, known.choices[:3]))
            self._note(node, "", "must be a value or a list, not a range", "", f"write [{some}]")
            return None
        remedies = " ".join(mistake.remedy for mistake in self.mistakes.all[before:])
        missing = [key for key in ("min", "max") if (node.mapping or {}).get(key, NOTHING).value is None]
        if missing and not re.search("min|max|choices", remedies):  # no remedy says how to give it
            self._note(node, "", f"must have {missing[0]}", "", "write {min: ..., max: ...} or {choices: [...]}")
        if len(self.mistakes.all) > before:
            return None
        low, high, step = (written.get(key) for key in ("min", "max", "step"))
        assert low is not None
        assert high is not None
        whole = known.kind == "int" if known else not any(isinstance(part, float) for part in (low, high, step))
        numbers = (low, high, whole, written.get("log", False), step, written.get("count"))
        ends = [(key, end, known.fault(end)) for key, end in (("min", low), ("max", high)) if known]
        outside = [Mistake(key, rule, exact(end)) for key, end, rule in ends if rule is not None]
        faults = outside or range_faults(*numbers)
        for fault in faults:
            self._note((node.mapping or {})[fault.place], fault.place, fault.rule, fault.got, fault.remedy)
        return None if faults else Range(*numbers)


# -- spaces -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """A parameter as the file names it; when: (name, nodes of the values it allows), not resolved yet."""

    name: str
    domain: Domain
    when: tuple[tuple[str, Sequence[Node]], ...]
    per_block: bool
    place: str  # of the key
    path: str


def block_of(name: str) -> tuple[int | None, str]:
    """(2, "channels") for block2.channels, (None, "channels") for channels."""
    match = OF_BLOCK.fullmatch(name)
    return (int(match[1]), match[2]) if match else (None, name)


def block_counts(entries: Mapping[str, Entry]) -> list[int]:
    """The values of `blocks`, ascending; [] where it is missing or they are no counts."""
    domain = entries[BLOCKS].domain if BLOCKS in entries else None
    if domain is None or domain.levels is None or domain.levels > MOST_BLOCKS + 1:
        return []
    values = [domain.level(index) for index in range(domain.levels)]
    counts = sorted(value for value in values if isinstance(value, int) and not isinstance(value, bool))
    return counts if len(counts) == len(values) else []


Restriction = tuple[str, Sequence[Value], str]  # a parent, the values of it, and why they may clash with others


class SpaceReader:
    """Reads one search space. known: what model and trainer know; empty where a user's own code decides that."""

    def __init__(self, mistakes: Mistakes, known: Mapping[str, ParameterSpec], model: str) -> None:
        self.mistakes, self.known, self.model = mistakes, known, model
        self.unread: set[str] = set()  # parameters with mistakes of their own, which explain enough
        self.written: dict[str, Entry] = {}  # every parameter by name, those of blocks written out

    def read(self, node: Node) -> Space | None:
        """The space; None where something is wrong."""
        if not node.mapping:
            self.mistakes.note(node, ROOT, "must be a mapping of parameters, or a .yaml file", str(node))
            return None
        before = len(self.mistakes.all)
        every = {name: self._entry(name, child, node.key_place(name)) for name, child in node.mapping.items()}
        entries = {name: entry for name, entry in every.items() if entry is not None}
        self.unread = set(every) - set(entries)
        self.written = self._written_out(entries)
        parameters = [Parameter(entry.name, entry.domain, self._conditions(entry)) for entry in self.written.values()]
        if len(self.mistakes.all) > before:
            return None
        faults = space_faults(parameters)
        for fault in faults:
            name, when, rest = fault.place.partition(".when")
            entry = self.written[name]
            self.mistakes.note(entry.place, f"{entry.path}{when}{rest}", fault.rule, fault.got, fault.remedy)
        return None if faults else with_epochs(Space(tuple(parameters)))

    def _entry(self, name: str, node: Node, place: str) -> Entry | None:
        path = f"{ROOT}.{name}"
        known = self._known(name)
        named = self._check_name(name, place, path, known)
        domain = DomainReader(self.mistakes, path, known if named else None).read(node)
        when = self._when(node, path)
        per_block = self._per_block(node, path, name, known)
        if domain is None or not named:
            return None
        if name == EPOCHS and (when or per_block):
            self.mistakes.note(place, path, "must exist in every trial", "", "drop `when` and `per`")
        return Entry(name, domain, when, per_block, place, path)

    def _known(self, name: str) -> ParameterSpec | None:
        block, short = block_of(name)
        known = self.known.get(short, EPOCHS_KNOWN if name == EPOCHS else None)
        return known if block is None or (known is not None and known.per_block) else None

    def _check_name(self, name: str, place: str, path: str, known: ParameterSpec | None) -> bool:
        if not re.fullmatch(NAME, name) or len(name) > 100:
            rule = "must be named by letters, digits and _, with dots between"
            self.mistakes.note(place, path, rule, "", "write it like learning_rate or block1.channels")
        elif name in MEASURES:
            self.mistakes.note(place, path, "is measured, not searched", "", "name it in constraints")
        elif self.known and known is None:
            self._note_unknown(name, place, path)
        else:
            return True
        return False

    def _note_unknown(self, name: str, place: str, path: str) -> None:
        block, short = block_of(name)
        if block and short in self.known:
            rule = f"is not a parameter of a block: {short} applies to the whole network"
            self.mistakes.note(place, path, rule, "", f"write {short}")
            return
        names = sorted(own for own, known in self.known.items() if known.per_block or not block)
        alias = other_tools("names of parameters").get(short.lower())
        close = alias if alias in names else nearest(short, names)
        guess = f"did you mean {close}? " if close else ""
        knows = f"{'a block' if block else self.model} has {', '.join(names)}"
        self.mistakes.note(place, path, f"is not a parameter of {self.model}", "", guess + knows)

    def _when(self, node: Node, path: str) -> tuple[tuple[str, Sequence[Node]], ...]:
        when = (node.mapping or {}).get("when", NOTHING)
        if when.value is not None and not when.mapping:
            self.mistakes.note(when, f"{path}.when", "must be a mapping", str(when), "write when: {optimizer: sgd}")
        given = (when.mapping or {}).items()
        return tuple((name, one.items if one.items is not None else (one,)) for name, one in given)

    # -- blocks --------------------------------------------------------------------------------------------------------

    def _per_block(self, node: Node, path: str, name: str, known: ParameterSpec | None) -> bool:
        per = (node.mapping or {}).get("per", NOTHING)
        whole = known is not None and not known.per_block and name != BLOCKS
        if per.value is not None and (whole or name == BLOCKS or OF_BLOCK.fullmatch(name)):
            why = f": {name} applies to the whole network" if whole else ""
            self.mistakes.note(per, f"{path}.per", f"cannot be given here{why}", "", "drop it")
        return per.value is not None

    def _written_out(self, entries: Mapping[str, Entry]) -> dict[str, Entry]:
        """By name, each block's parameter for itself; block2.channels, if the file has it, wins over channels."""
        written: dict[str, Entry] = {}
        for name, entry in entries.items():
            if not entry.per_block:
                written[name] = entry
            elif BLOCKS not in self.unread:
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
        self.mistakes.note(entry.place, f"{entry.path}.per", rule, "", "add blocks: [1, 2, 3]")
        return 0

    # -- conditions ----------------------------------------------------------------------------------------------------

    def _conditions(self, entry: Entry) -> tuple[Condition, ...]:
        """The conditions of one parameter, at most one on each other parameter."""
        conditions: dict[str, Sequence[Value]] = {}
        for conditions_of in (self._of_block, self._of_file, self._of_model):
            for parent, allowed, clash in conditions_of(entry):
                before = conditions.get(parent, allowed)
                conditions[parent] = [value for value in before if value in allowed]
                if before and allowed and not conditions[parent]:
                    rule = f"can never hold: {clash}"
                    self.mistakes.note(entry.place, f"{entry.path}.when", rule, "", "fix the condition")
        return tuple(Condition(name, tuple(allowed)) for name, allowed in conditions.items())

    def _of_block(self, entry: Entry) -> Iterator[Restriction]:
        block, _ = block_of(entry.name)
        counts = block_counts(self.written)
        if block is None or not counts:
            return
        if block > counts[-1]:
            rule = f"is of a block that never exists: blocks is {self.written[BLOCKS].domain}"
            self.mistakes.note(entry.place, entry.path, rule, "", "raise blocks, or drop it")
        yield BLOCKS, [count for count in counts if count >= block], ""

    def _of_file(self, entry: Entry) -> Iterator[Restriction]:
        for name, nodes in entry.when:
            parent, path = self._parent(entry, name), f"{entry.path}.when.{name}"
            if parent is None:
                if name not in self.unread:
                    place = nodes[0].place if nodes else entry.place
                    missing = name in self.known and not of_blocks(name, self.written)
                    remedy = f"add {name}" if missing else known_name(name, self.written)
                    self.mistakes.note(place, path, "is not in the search space", "", remedy)
                continue
            domain = self.written[parent].domain
            if not nodes:
                self.mistakes.note(entry.place, path, "must name at least one value")
            values = [(node, None if node.scalar is None else domain.coerce(node.scalar)) for node in nodes]
            for node, value in values:
                if value is None:
                    rule = f"can never hold: {name} is {domain}"
                    self.mistakes.note(node, path, rule, str(node), f"write one of {name}'s values")
            yield parent, [value for _, value in values if value is not None], "its block does not exist there"

    def _of_model(self, entry: Entry) -> Iterator[Restriction]:
        known = self._known(entry.name)
        for condition in known.when if known is not None else ():
            parent = self._parent(entry, condition.name)
            rule = f"has an effect only where {condition.name} is {' or '.join(map(exact, condition.allowed))}"
            some = exact(condition.allowed[0])
            if parent is not None:
                domain = self.written[parent].domain
                allowed = members(domain, condition)
                if not allowed:
                    got, remedy = f"{condition.name}: {domain}", f"leave it out, or add {some} to {condition.name}"
                    self.mistakes.note(entry.place, entry.path, rule, got, remedy)
                yield parent, allowed, f"{entry.path.rpartition('.')[2]} {rule}"
            elif condition.name in self.known and not (
                condition.name in self.unread or of_blocks(condition.name, self.written)
            ):
                default = self.known[condition.name].default
                if default is not None and not condition.allows(default):
                    got, remedy = f"{exact(default)}, its default", f"add {condition.name}: {some}"
                    self.mistakes.note(entry.place, entry.path, rule, got, remedy)

    def _parent(self, entry: Entry, name: str) -> str | None:
        """The parameter meant: of the same block, if there is one."""
        own = f"block{block_of(entry.name)[0]}.{name}"
        return own if own in self.written else name if name in self.written else None
