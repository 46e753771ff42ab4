"""The next study: the same file with limiting bounds moved outwards, everything else as the user wrote it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from hpo.report.findings import Edge
from hpo.space.domains import show


def next_study(text: str, edges: Sequence[Edge], space_text: str | None = None) -> str:
    """The study file with every limiting bound moved and a new name, everything else as it was, comments included.

    text: study.yaml; space_text: the search space's own file, which then goes into the study file. Only the numbers
    change, found by the marks PyYAML gives, so that the user's own layout stays.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, MappingNode), "the study file was read before"
    edits: list[tuple[int, int, str]] = []
    if isinstance(name := _get(root, "name"), ScalarNode):
        edits.append((name.start_mark.index, name.end_mark.index, following(name.value)))
    space = _get(root, "search_space")
    if space_text is not None and isinstance(space, ScalarNode):
        inside = _edited(space_text, _widened(yaml.compose(space_text, Loader=yaml.SafeLoader), edges)).strip("\n")
        indented = "".join(f"\n  {line}" if line.strip() else "\n" for line in inside.split("\n"))
        start, (_, rest, comment) = len(text[: space.start_mark.index].rstrip()), _rest_of_line(text, space)
        edits.append((start, rest, f"  {comment}{indented}" if comment else indented))
    else:
        edits += _widened(space, edges)
    return _edited(text, edits)


def _rest_of_line(text: str, node: Node) -> tuple[int, int, str]:
    """Where a node ends, where its line ends, and the comment between."""
    end = node.end_mark.index
    line = text.find("\n", end)
    line = len(text) if line < 0 else line
    return end, line, text[end:line].strip()


def following(name: str) -> str:
    """digits -> digits-2 -> digits-3: a changed space is another study."""
    numbered = re.fullmatch(r"(.*)-(\d+)", name)
    return f"{numbered[1]}-{int(numbered[2]) + 1}" if numbered else f"{name}-2"


def _widened(space: Node | None, edges: Sequence[Edge]) -> list[tuple[int, int, str]]:
    """Replacements (start, end, text) in the text that `space` was composed from; one a bound."""
    edits = {}
    for edge in edges:
        node = _get(space, edge.name) or _get(space, edge.name.partition(".")[2])
        values = node if isinstance(node, SequenceNode) else _get(node, "choices")
        bound = _get(node, "max" if edge.upper else "min")
        if isinstance(bound, ScalarNode):
            edits[bound.start_mark.index] = (bound.start_mark.index, bound.end_mark.index, show(edge.wider))
        elif isinstance(values, SequenceNode) and values.value:
            edit = _one_more(values, edge)
            edits[edit[0]] = edit
    return list(edits.values())


def _one_more(values: SequenceNode, edge: Edge) -> tuple[int, int, str]:
    """The wider value beside the bound it goes beyond, in the list's own style."""
    at = next((node for node in values.value if node.value == show(edge.bound)), values.value[-1 if edge.upper else 0])
    start, end = at.start_mark, at.end_mark
    between = ", " if values.flow_style else "\n" + " " * (start.column - 2) + "- "
    if edge.upper:
        return end.index, end.index, between + show(edge.wider)
    return start.index, start.index, show(edge.wider) + between


def _get(node: Node | None, key: str) -> Node | None:
    if not isinstance(node, MappingNode):
        return None
    return next((value for name, value in node.value if name.value == key), None)


def _edited(text: str, edits: Sequence[tuple[int, int, str]]) -> str:
    """Back to front, so that earlier places stay where they are."""
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text
