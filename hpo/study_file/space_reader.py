"""The search space of a study file: nodes in, a Space out, every mistake at its line.

A domain is read first, by itself; then `per: block` is written out; then conditions are resolved, because they name
other parameters. What the trainer knows of a parameter decides whether a number is whole, which values mean
something, and where the parameter has an effect at all: without that condition (momentum exists only with sgd) two
points of the space would be one training, and a strategy would pay for it twice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from hpo.core import EPOCHS, Value
from hpo.space.domains import Choice, Condition, Domain, Parameter, ParameterSpec, show
from hpo.space.expressions import MEASURES
from hpo.space.space import Space, space_faults
from hpo.study_file.domain_reader import NAME, DomainReader
from hpo.study_file.fields import Mistakes, did_you_mean, meanings, nearest
from hpo.study_file.yaml_nodes import Node

ROOT: Final = "search_space"
DEFAULT_EPOCHS: Final = 10  # where the search space has no `epochs`
EPOCHS_KNOWN: Final = ParameterSpec(DEFAULT_EPOCHS, "int", low=1, high=1_000_000)
BLOCKS: Final = "blocks"
MOST_BLOCKS: Final = 100
OF_BLOCK: Final = re.compile(r"block([1-9][0-9]{0,3})\.(.+)")

# What other tools call a parameter.
PARAMETERS: Final = meanings(
    {
        "learning_rate": "lr eta step_size learningrate",
        "batch_size": "bs batch batchsize train_batch_size",
        "epochs": "n_epochs num_epochs max_epochs epoch iterations",
        "channels": "filters num_filters n_filters out_channels width",
        "kernel_size": "kernel kernels filter_size ksize",
        "blocks": "n_layers num_layers conv_layers depth n_blocks num_blocks",
        "activation": "act activation_function",
        "dropout": "dropout_rate drop keep_prob",
        "optimizer": "opt solver",
        "weight_decay": "wd",
        "dense_units": "units hidden_units fc_units",
        "leaky_slope": "alpha negative_slope",
    }
)


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


def block_counts(entries: Mapping[str, Entry]) -> list[int]:
    """The values of `blocks`, ascending; [] where it is missing or they are no counts."""
    domain = entries[BLOCKS].domain if BLOCKS in entries else None
    if domain is None or domain.levels is None or domain.levels > MOST_BLOCKS + 1:
        return []
    values = [domain.level(index) for index in range(domain.levels)]
    counts = sorted(value for value in values if isinstance(value, int) and not isinstance(value, bool))
    return counts if len(counts) == len(values) else []


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
        read = {name: self._entry(name, child, node.key_place(name)) for name, child in node.mapping.items()}
        entries = {name: entry for name, entry in read.items() if entry is not None}
        self.unread = set(read) - set(entries)
        self.written = self._written_out(entries)
        parameters = [Parameter(entry.name, entry.domain, self._conditions(entry)) for entry in self.written.values()]
        if len(self.mistakes.all) == before:
            self._check_together(parameters)
        if len(self.mistakes.all) > before:
            return None
        constant = () if EPOCHS in self.written else (Parameter(EPOCHS, Choice((DEFAULT_EPOCHS,))),)
        return Space((*parameters, *constant))

    def _check_together(self, parameters: Sequence[Parameter]) -> None:
        for fault in space_faults(parameters):
            name, when, rest = fault.place.partition(".when")
            entry = self.written[name]
            self.mistakes.note(entry.place, f"{entry.path}{when}{rest}", fault.rule, fault.got, fault.remedy)

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
        match = OF_BLOCK.fullmatch(name)
        if match is None:
            return self.known.get(name, EPOCHS_KNOWN if name == EPOCHS else None)
        known = self.known.get(match[2])
        return known if known is not None and known.per_block else None

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
        match = OF_BLOCK.fullmatch(name)
        short = match[2] if match else name
        if match and short in self.known:
            rule = f"is not a parameter of a block: {short} applies to the whole network"
            self.mistakes.note(place, path, rule, "", f"write {short}")
            return
        names = sorted(own for own, known in self.known.items() if known.per_block or not match)
        alias = PARAMETERS.get(short.lower())
        close = alias if alias in names else nearest(short, names)
        guess = f"did you mean {close}? " if close else ""
        knows = f"{'a block' if match else self.model} has {', '.join(names)}"
        self.mistakes.note(place, path, f"is not a parameter of {self.model}", "", guess + knows)

    def _when(self, node: Node, path: str) -> tuple[tuple[str, Sequence[Node]], ...]:
        when = (node.mapping or {}).get("when")
        if when is None or when.value is None:
            return ()
        if not when.mapping:
            self.mistakes.note(when, f"{path}.when", "must be a mapping", str(when), "write when: {optimizer: sgd}")
        return tuple(
            (name, one.items if one.items is not None else (one,)) for name, one in (when.mapping or {}).items()
        )

    # -- blocks --------------------------------------------------------------------------------------------------------

    def _per_block(self, node: Node, path: str, name: str, known: ParameterSpec | None) -> bool:
        per = (node.mapping or {}).get("per")
        if per is None or per.value is None:
            return False
        if OF_BLOCK.fullmatch(name) or name == BLOCKS:
            self.mistakes.note(per, f"{path}.per", "cannot be given here", "", "drop it")
        elif known is not None and not known.per_block:
            rule = f"cannot be given here: {name} applies to the whole network"
            self.mistakes.note(per, f"{path}.per", rule, "", "drop it")
        return True

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
        conditions = self._of_block(entry)
        for name, nodes in entry.when:
            self._add_written(entry, name, nodes, conditions)
        known = self._known(entry.name)
        for condition in known.when if known is not None else ():
            self._add_known(entry, condition, conditions)
        return tuple(Condition(name, tuple(allowed)) for name, allowed in conditions.items())

    def _of_block(self, entry: Entry) -> dict[str, list[Value]]:
        counts = block_counts(self.written)
        if entry.block is None or not counts:
            return {}
        if entry.block > counts[-1]:
            rule = f"is of a block that never exists: blocks is {self.written[BLOCKS].domain}"
            self.mistakes.note(entry.place, entry.path, rule, "", "raise blocks, or drop it")
        return {BLOCKS: [count for count in counts if count >= entry.block]}

    def _add_written(self, entry: Entry, name: str, nodes: Sequence[Node], conditions: dict[str, list[Value]]) -> None:
        parent, path = self._parent(entry, name), f"{entry.path}.when.{name}"
        if parent is None:
            if name not in self.unread:
                place = nodes[0].place if nodes else entry.place
                self.mistakes.note(place, path, "is not in the search space", "", self._remedy(name))
            return
        domain, allowed = self.written[parent].domain, []
        if not nodes:
            self.mistakes.note(entry.place, path, "must name at least one value")
        for node in nodes:
            value = domain.coerce(node.scalar) if node.scalar is not None else None
            if value is None:
                rule = f"can never hold: {name} is {domain}"
                self.mistakes.note(node, path, rule, str(node), f"write one of {name}'s values")
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
                self.mistakes.note(entry.place, entry.path, rule, got, remedy)
            self._and(entry, parent, allowed, conditions, f"{entry.path.rpartition('.')[2]} {rule}")
        elif not self._somewhere(condition.name):
            default = self.known[condition.name].default
            if default is not None and not condition.allows(default):
                got, remedy = f"{show(default)}, its default", f"add {condition.name}: {some}"
                self.mistakes.note(entry.place, entry.path, rule, got, remedy)

    def _and(
        self, entry: Entry, parent: str, allowed: Sequence[Value], conditions: dict[str, list[Value]], why: str
    ) -> None:
        before = conditions.get(parent)
        both = [value for value in before if value in allowed] if before is not None else list(allowed)
        if before and allowed and not both:
            self.mistakes.note(entry.place, f"{entry.path}.when", f"can never hold: {why}", "", "fix the condition")
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
        """Whether some block has a parameter of its own of this name, or it could not be read, or is unknown."""
        return bool(self._of_blocks(name)) or name in self.unread or name not in self.known

    def _of_blocks(self, name: str) -> list[str]:
        return [own for own in self.written if own.endswith(f".{name}") and OF_BLOCK.fullmatch(own)]
