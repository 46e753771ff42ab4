"""Bounds that were in the way: where the best trials sit at an edge, and a study file with that edge moved."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import yaml
from scipy import stats
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from hpo.core import Goal, State, Study, Value
from hpo.formatting import written
from hpo.report.findings import CHANCE, FEWEST, numeric, searched
from hpo.space.domains import Choice, Known, Range, show
from hpo.space.space import Space


@dataclass(frozen=True, slots=True)
class Hit:
    """The best trials sit at one edge of a parameter; wider is the value to go on to."""

    name: str
    upper: bool
    bound: Value
    wider: Value
    trials: int
    of: int

    @property
    def sentence(self) -> str:
        edge = f"the {'upper' if self.upper else 'lower'} edge ({written(self.bound)})"
        many = f"{self.trials} of the {self.of} best trials"
        return f"The best values of {self.name} sit at {edge}, in {many}: widen to {written(self.wider)}."


def hits(study: Study, goal: Goal, space: Space, known: Mapping[str, Known] | None = None) -> list[Hit]:
    """Bounds at which the best trial and so many of the best ones sit that chance would do it once in 1 / CHANCE.

    known: what a parameter may mean, so that no dropout is widened beyond 1.
    """
    found = []
    for edge in edges(study, goal, space):
        if edge.at < 2 / 3 * edge.of or stats.binom.sf(edge.at - 1, edge.of, edge.share) >= CHANCE:
            continue
        limits = (known or {}).get(edge.name) or (known or {}).get(edge.name.partition(".")[2])
        wider = _wider(space[edge.name].domain, _ordered(space[edge.name].domain), edge.bound, edge.upper, limits)
        if wider != edge.bound:
            found.append(Hit(edge.name, edge.upper, edge.bound, wider, edge.at, edge.of))
    return found


@dataclass(frozen=True, slots=True)
class Edge:
    """An edge of the space at which the best trial sits. share: of the parameter's values that count as this edge."""

    name: str
    upper: bool
    bound: float
    at: int  # so many of the best trials
    of: int
    share: float

    def __str__(self) -> str:
        return f"{self.name} at {written(self.bound)}, the {'largest' if self.upper else 'smallest'} ({self.at} of {self.of})"


def edges(study: Study, goal: Goal, space: Space) -> list[Edge]:
    """Where the best trial sits at an end of a number's values; two values have nothing but ends."""
    complete = sorted(study.with_state(State.COMPLETE), key=lambda t: (goal.score(t), t.number))
    if len(complete) < FEWEST:
        return []
    best = complete[: max(5, len(complete) // 10)]
    found = []
    for name in searched(space):
        domain = space[name].domain
        active = [float(trial.params[name]) for trial in best if name in trial.params and numeric(domain)]
        if not active or name not in best[0].params or not isinstance(domain, Choice | Range):
            continue
        levels = _ordered(domain)
        if len(levels) == 2:
            continue
        for upper in (True, False):
            bound = (levels[-1] if upper else levels[0]) if levels else (domain.high if upper else domain.low)  # type: ignore[union-attr]  # no levels: a Range
            at_edge = [_at_edge(domain, value, bound, upper, levels) for value in active]
            if at_edge[0]:
                share = max(0.1, 1 / len(levels)) if levels else 0.1
                found.append(Edge(name, upper, bound, sum(at_edge), len(active), share))
    return found


def _ordered(domain: Choice | Range) -> list[int | float]:
    """The numbers of a choice or of a short enumerated range, ascending; none where the range is all but continuous."""
    if isinstance(domain, Choice):
        return sorted(value for value in domain.values if not isinstance(value, str))
    if domain.levels is None or domain.levels > 10:
        return []
    return [value for i in range(domain.levels) if not isinstance(value := domain.level(i), str)]


def _at_edge(domain: Choice | Range, value: float, bound: float, upper: bool, levels: Sequence[float]) -> bool:
    if levels or isinstance(domain, Choice):
        beyond = value > bound if upper else value < bound  # as after `extend`
        return beyond or math.isclose(value, bound)
    place = domain.encode(value)
    return place >= 0.9 if upper else place <= 0.1


def _wider(domain: Choice | Range, levels: Sequence[float], bound: float, upper: bool, limits: Known | None) -> Value:
    """Three times as far on a log scale, half the width further on a plain one; a choice gets one more of its kind."""
    whole = isinstance(bound, int)
    if levels:
        inner = levels[-2] if upper else levels[1]
        geometric = min(levels) > 0 and max(levels) / min(levels) >= 4
        value = bound * bound / inner if geometric else 2 * bound - inner
    elif isinstance(domain, Range) and domain.log:
        value = bound * 3 if upper else bound / 3
    else:
        width = domain.high - domain.low if isinstance(domain, Range) else 0.0
        value = bound + width / 2 if upper else bound - width / 2
    value = float(f"{value:.1g}" if isinstance(domain, Range) and domain.log and not levels else f"{value:.3g}")
    return _inside(round(value) if whole else value, bound, limits)


def _inside(value: float, bound: float, limits: Known | None) -> Value:
    """As far as the parameter has a meaning; a number that is not negative stays so."""
    if bound >= 0 > value:
        value = 0 if isinstance(bound, int) else 0.0
    if bound >= 1 > value and isinstance(bound, int):
        value = 1
    if limits is None or limits.fault(value) is None:
        return value
    end = limits.high if value > bound else limits.low
    if end is None:
        return bound
    middle = float(f"{(bound + end) / 2:.6g}")
    candidates = [type(bound)(end), middle] if isinstance(bound, float) else [int(end)]
    return next((one for one in candidates if limits.fault(one) is None), bound)


# -- the next study ----------------------------------------------------------------------------------------------


def next_study(text: str, hits: Sequence[Hit], space_text: str | None = None) -> str:
    """The study file with every hit bound moved and a new name, everything else as it was, comments included.

    text: study.yaml; space_text: the search space's own file, which then goes into the study file. Only the numbers
    change, found by the marks PyYAML gives, so that the person's own layout stays.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, MappingNode), "the study file was read before"
    edits: list[tuple[int, int, str]] = []
    if isinstance(name := _get(root, "name"), ScalarNode):
        edits.append((name.start_mark.index, name.end_mark.index, following(name.value)))
    space = _get(root, "search_space")
    if space_text is not None and isinstance(space, ScalarNode):
        inside = _edited(space_text, _widened(yaml.compose(space_text, Loader=yaml.SafeLoader), hits)).strip("\n")
        indented = "".join(f"\n  {line}" if line.strip() else "\n" for line in inside.split("\n"))
        start, (_, rest, comment) = len(text[: space.start_mark.index].rstrip()), _rest_of_line(text, space)
        edits.append((start, rest, f"  {comment}{indented}" if comment else indented))
    else:
        edits += _widened(space, hits)
    return _edited(text, edits)


def _rest_of_line(text: str, node: Node) -> tuple[int, int, str]:
    """Where a node ends, where its line ends, and the comment between."""
    end = node.end_mark.index
    line = text.find("\n", end)
    line = len(text) if line < 0 else line
    return end, line, text[end:line].strip()


def following(name: str) -> str:
    """digits -> digits-2 -> digits-3: a changed space is another study."""
    found = re.fullmatch(r"(.*)-(\d+)", name)
    return f"{found[1]}-{int(found[2]) + 1}" if found else f"{name}-2"


def _widened(space: Node | None, hits: Sequence[Hit]) -> list[tuple[int, int, str]]:
    """Replacements (start, end, text) in the text that `space` was composed from; one a bound."""
    edits = {}
    for hit in hits:
        node = _get(space, hit.name) or _get(space, hit.name.partition(".")[2])
        values = node if isinstance(node, SequenceNode) else _get(node, "choices")
        bound = _get(node, "max" if hit.upper else "min")
        if isinstance(bound, ScalarNode):
            edits[bound.start_mark.index] = (bound.start_mark.index, bound.end_mark.index, show(hit.wider))
        elif isinstance(values, SequenceNode) and values.value:
            edit = _one_more(values, hit)
            edits[edit[0]] = edit
    return list(edits.values())


def _one_more(values: SequenceNode, hit: Hit) -> tuple[int, int, str]:
    """The wider value beside the bound it goes beyond, in the list's own style."""
    at = next((node for node in values.value if node.value == show(hit.bound)), values.value[-1 if hit.upper else 0])
    start, end = at.start_mark, at.end_mark
    between = ", " if values.flow_style else "\n" + " " * (start.column - 2) + "- "
    if hit.upper:
        return end.index, end.index, between + show(hit.wider)
    return start.index, start.index, show(hit.wider) + between


def _get(node: Node | None, key: str) -> Node | None:
    if not isinstance(node, MappingNode):
        return None
    return next((value for name, value in node.value if name.value == key), None)


def _edited(text: str, edits: Sequence[tuple[int, int, str]]) -> str:
    """Back to front, so that earlier places stay where they are."""
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text
