"""What a study file says about points of its space: constraints that all must meet, and points to start with."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

from hpo.core import Params, Value
from hpo.space.domains import show
from hpo.space.expressions import MEASURES, Constraint, NoExpression
from hpo.space.space import GridImpossible, Space
from hpo.study_file.fields import Found, did_you_mean
from hpo.study_file.yaml_nodes import Node

SAMPLES: Final = 1_000
ENUMERATED: Final = 2_000  # a space of so few points is looked through
ENOUGH: Final = 100  # points after which a constraint that computes with text would have shown
MOST_CONSTRAINTS: Final = 100
MOST_POINTS: Final = 1_000


def read_constraints(node: Node | None, found: Found) -> tuple[tuple[Constraint, Node], ...]:
    """Each constraint with the node it was written at."""
    items = (node,) if node is not None and isinstance(node.value, str) else () if node is None else node.items
    if node is not None and (items is None or len(items) > MOST_CONSTRAINTS):
        got = str(node) if items is None else f"{len(items):,}"
        rule = f"must be a list of at most {MOST_CONSTRAINTS} conditions"
        found.note(node, "constraints", rule, got, 'write ["model_parameters <= 500_000"]')
        return ()
    read = []
    for index, item in enumerate(items or ()):
        path = f"constraints.{index}"
        if not isinstance(item.value, str):
            found.note(item, path, "must be a condition as text", str(item), 'write "channels <= 32"')
            continue
        try:
            read.append((Constraint(item.value), item))
        except NoExpression as error:
            found.note(item, path, error.rule, error.got, error.remedy)
    return tuple(read)


def check_constraints(constraints: Sequence[tuple[Constraint, Node]], space: Space, seed: int, found: Found) -> None:
    """Names that are none, text that is computed with, and conditions that nothing satisfies."""
    for index, (constraint, node) in enumerate(constraints):
        for name in constraint.names:
            if name not in space and name not in MEASURES:
                rule = f"names {name}, which the search space does not have"
                found.note(node, f"constraints.{index}", rule, "", _remedy(name, space))
    if not constraints or found.within("constraints"):
        return
    held, together, tried = [False] * len(constraints), False, 0
    for point in _points(space, seed):
        now = [_holds(item, index, point, found) for index, item in enumerate(constraints)]
        if found.within("constraints"):
            return
        held = [before or one for before, one in zip(held, now, strict=True)]
        together, tried = together or all(now), tried + 1
        if together and tried >= ENOUGH:
            return
    _note_unmet(constraints, held, together, space, tried, found)


def _holds(item: tuple[Constraint, Node], index: int, point: Params, found: Found) -> bool:
    try:
        return item[0].value(point)
    except ArithmeticError:
        return False
    except TypeError as error:
        rule = "must compare numbers with numbers"
        found.note(item[1], f"constraints.{index}", rule, str(error), "write == for text")
        return False


def _note_unmet(
    constraints: Sequence[tuple[Constraint, Node]],
    held: Sequence[bool],
    together: bool,
    space: Space,
    tried: int,
    found: Found,
) -> None:
    got = f"none of {'its' if space.size() == tried else 'a sample of'} {tried:,} points"
    for index, (_, node) in enumerate(constraints):
        if not held[index]:
            rule = "must hold somewhere in the search space"
            found.note(node, f"constraints.{index}", rule, got, "loosen it, or widen the space")
    if not together and all(held):
        found.note(constraints[0][1], "constraints", "must all hold somewhere in the search space", got, "loosen one")


def _points(space: Space, seed: int) -> Iterable[dict[str, Value]]:
    """All points of a small space, else a seeded sample."""
    size = space.size()
    if size is not None and size <= ENUMERATED:
        try:
            return iter(space.grid())
        except GridImpossible:
            pass
    rng = random.Random(f"constraints-{seed}")
    return islice(iter(lambda: space.sample(rng), None), SAMPLES)


def _remedy(name: str, space: Space) -> str:
    of_blocks = [one for one in space.names if one.endswith(f".{name}")]
    if of_blocks:
        return f"write {' or '.join(of_blocks[:2])}"
    return did_you_mean(name, [*space.names, *MEASURES])


def read_points(
    node: Node | None,
    space: Space,
    constraints: Sequence[Constraint],
    found: Found,
) -> tuple[Params, ...]:
    """The points to start with, in the space's own types."""
    if node is None:
        return ()
    if node.items is None or len(node.items) > MOST_POINTS:
        got = str(node) if node.items is None else f"{len(node.items):,}"
        rule = f"must be a list of at most {MOST_POINTS:,} points"
        found.note(node, "start_with", rule, got, "write [{learning_rate: 1e-3}]")
        return ()
    points = []
    for index, item in enumerate(node.items):
        path = f"start_with.{index}"
        if item.mapping is None:
            found.note(item, path, "must be a mapping of parameters", str(item), "write {learning_rate: 1e-3}")
            continue
        points.append(_point(item, path, space, found))
        for constraint in constraints:
            if not found.within(path) and not constraint.holds(points[-1]):
                found.note(item, path, f"must meet the constraint {constraint.text}", _shown(constraint, points[-1]))
    return tuple(points)


def _point(node: Node, path: str, space: Space, found: Found) -> dict[str, Value]:
    point: dict[str, Value] = {}
    assert node.mapping is not None
    for name, child in node.mapping.items():
        place = node.keys.get(name, node.place)
        if name not in space:
            found.note(place, f"{path}.{name}", "is no parameter of the search space", "", _remedy_point(name, space))
            continue
        value = space[name].domain.coerce(child.scalar) if child.is_scalar and child.scalar is not None else None
        if value is None:
            found.note(child, f"{path}.{name}", f"must be {space[name].domain}", str(child))
        else:
            point[name] = value
    for clash in space.conflicts(point) if not found.within(path) else ():
        place = node.keys.get(clash.where, node.place)
        found.note(place, f"{path}.{clash.where}", clash.rule, clash.got, clash.remedy)
    return point


def _remedy_point(name: str, space: Space) -> str:
    return _remedy(name, space).replace(f", {MEASURES[0]} or {MEASURES[1]}", "")


def _shown(constraint: Constraint, point: Params) -> str:
    return ", ".join(f"{name}: {show(point[name])}" for name in constraint.names if name in point)
