"""Writes docs/parameters.md from the tables that the code itself reads: `python docs/parameters.py`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from hpo.core import Value
from hpo.formatting import number, written
from hpo.models.families import FAMILIES
from hpo.models.parameters import DENSE, TRAINING
from hpo.space.domains import ParameterSpec

_HEAD = """# Every parameter

What a search space may name. A parameter that it leaves out has its default. Those marked "per block" may be written
once for all blocks (`channels: 32`), once for each (`channels: {choices: [16, 32], per: block}`), or for one
(`block2.channels: 64`); "per layer" likewise (`dense_units: {choices: [64, 128], per: layer}`, `dense2.units: 64`).
A choice between whole lists, `channels: [[32, 64], [16, 32]]`, is one parameter, from which block1.channels and
block2.channels follow. Any value may follow from others: `block2.channels: "2 * block1.channels"`, written as conditions
are. "Only when" says where a parameter has an effect: give it the same `when`, so that no two points of the space are one
training.

This page is made by `python docs/parameters.py`.
"""

_TITLES = {"cnn": "Convolutional network: `model: cnn`", "rnn": "Recurrent network over image rows: `model: rnn`"}


def page() -> str:
    """The whole page."""
    shared = set(DENSE)
    parts = [_HEAD]
    for name, family in FAMILIES.items():
        own = {key: known for key, known in family.parameters.items() if key not in shared}
        parts.append(_section(_TITLES.get(name, f"`model: {name}`"), own))
    parts.append(_section("Dense layers and activation: every model", DENSE))
    parts.append(_section("Training: every model", TRAINING))
    return "\n".join(parts)


def _section(title: str, table: Mapping[str, ParameterSpec]) -> str:
    rows = ["| parameter | values | default | only when | what it is |", "|---|---|---|---|---|"]
    for name, known in table.items():
        marked = f"`{name}`" + (f" per {known.per}" if known.per else "")
        rows.append(f"| {marked} | {_values(known)} | {_default(known)} | {_when(known)} | {_cell(known.doc)} |")
    return f"## {title}\n\n" + "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    """Markdown ends a cell at a bar."""
    return text.replace("|", "\\|")


def _values(known: ParameterSpec) -> str:
    if known.kind == "bool":
        return "`true`, `false`"
    if known.kind == "choice":
        numbers = [value for value in known.choices if isinstance(value, int)]
        words = [value for value in known.choices if not isinstance(value, int)]
        return _list(words) + (f", {min(numbers)} to {max(numbers)}" if numbers else "")
    kind = "integer" if known.kind == "int" else "number"
    low = "" if known.low is None else f" {'>' if known.open_low else '>='} {number(known.low)}"
    high = "" if known.high is None else f" {'<' if known.open_high else '<='} {number(known.high)}"
    return f"{kind}{low}{',' if low and high else ''}{high}"


def _default(known: ParameterSpec) -> str:
    return "" if known.default is None else _list([known.default])


def _when(known: ParameterSpec) -> str:
    return " and ".join(f"`{condition.name}` is {_list(condition.allowed)}" for condition in known.when)


def _list(values: Iterable[Value]) -> str:
    return ", ".join(f"`{written(value)}`" for value in values)


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page(), encoding="utf-8")
