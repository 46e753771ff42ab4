"""What the parts of a study file must say together: rules between sections, constraints and points of the space."""

import itertools
import math
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from hpo.core import EPOCHS, Params, Value
from hpo.errors import Mistake
from hpo.formatting import count, listed, written
from hpo.space.domains import Choice, ParameterSpec, as_text, exact, part_of
from hpo.space.expressions import MEASURES, Constraint, NoExpression
from hpo.space.grid import GridImpossible, ParameterGrid, solutions
from hpo.space.space import Space
from hpo.study_file.fields import Mistakes, known_name, nearest, other_tools
from hpo.study_file.spec import DATA_SETS, StudySpec
from hpo.study_file.yaml_nodes import Node, clean

LARGEST_GRID: Final = 1_000_000  # without a budget

# computed only where a study names them; all but top5 of a class too
NAMED: Final = ("auc", "top5", "precision", "recall", "f1")
CLASSIFICATION: Final = ("val_accuracy", "val_balanced_accuracy", "val_macro_f1", *(f"val_{name}" for name in NAMED))
OF_CLASS: Final = tuple(name for name in CLASSIFICATION[3:] if name != "val_top5")
REGRESSION: Final = ("val_mse", "val_r2")
SMALLER: Final = ("loss", "mse", "error", "mae", "rmse", "perplexity", "seconds", "time", "regret", "cost")


def smaller_is_better(metric: str) -> bool:
    return any(part in SMALLER for part in metric.lower().replace("/", "_").replace(".", "_").split("_"))


def check_rules(spec: StudySpec, mistakes: Mistakes) -> None:
    """Note every mistake between sections, but none about a section that is wrong in itself."""
    for rule, sections in RULES.items():
        if not mistakes.within(*sections):
            rule(spec, mistakes)


def _grid(spec: StudySpec, mistakes: Mistakes) -> None:
    if spec.strategy == "grid":
        mistakes.all += grid_mistakes(spec)


def grid_mistakes(spec: StudySpec) -> list[Mistake]:
    """Why a grid search of this study is not possible; [] if it is. Offers the grid it would use."""
    try:
        size = spec.space.grid().size
    except GridImpossible as impossible:
        mistakes = (replace(fault, place=spec.place(_path(spec, fault.place))) for fault in impossible.faults)
        return list(dict.fromkeys(mistakes))  # a parameter of each block is one line of the file
    budget = spec.budget
    if size <= LARGEST_GRID or budget.trials or budget.total_epochs or budget.time:
        return []
    rule = f"must end: without a budget a grid has at most {LARGEST_GRID:,} points"
    remedy = "name budget.trials, or give ranges a smaller count"
    return [Mistake(spec.place("search_space"), rule, f"{size:,} points", remedy)]


def _path(spec: StudySpec, name: str) -> str:
    """Where the file gives a parameter: block1.channels may be written as channels with per: block."""
    own = f"search_space.{name}"
    return own if own in spec.places else f"search_space.{part_of(name)[2]}"


def _data(spec: StudySpec, mistakes: Mistakes) -> None:
    if spec.data is None:
        if spec.train is None:
            mistakes.note(replace(_at(spec, ""), path="data"), "is missing", "", "add data: digits")
        return
    split = spec.data.split
    total = split.train + split.val + split.test
    if not math.isclose(total, 1, abs_tol=1e-6):
        mistakes.note(_at(spec, "data.split"), "must add up to 1", f"{total:.6g}", "write [0.7, 0.15, 0.15]")
    source = spec.data.source
    if source not in DATA_SETS and not _exists(source):
        name, seen = Path(source).name, spec.source(spec.data)
        beside = nearest(name, _beside(source))
        close = nearest(name, DATA_SETS) or (beside and str(Path(seen).with_name(beside)))
        rule = f"must be {', '.join(DATA_SETS)} or the path of a folder or file"
        remedy = f"did you mean {clean(close)}?" if close else "check the path"
        mistakes.note(_at(spec, "data", "source"), rule, clean(seen), remedy)


def _beside(source: str) -> list[str]:
    """What lies where this should be."""
    try:
        return os.listdir(Path(source).parent)  # noqa: PTH208 - names, as they are
    except (OSError, ValueError):
        return []


def _exists(source: str) -> bool:
    try:
        os.stat(source)  # noqa: PTH116 - a Path would say no to a folder that may not be looked into
    except PermissionError:
        return True  # reading it will say so
    except (OSError, ValueError):
        return False
    return True


def _loss(spec: StudySpec, mistakes: Mistakes) -> None:
    regression = spec.data is not None and spec.data.regression
    if spec.train is None and regression and spec.loss == "cross_entropy":
        mistakes.note(_at(spec, "loss"), "must be squared_error where data.regression is true", spec.loss)
    if regression and (got := spec.class_weights):
        mistakes.note(
            _at(spec, "class_weights"), "must be false where data.regression is true", written(got), "drop it"
        )


def _metric(spec: StudySpec, mistakes: Mistakes) -> None:
    name, target = spec.metric.name, spec.metric.target
    at = _at(spec, "metric", "name")
    if name.startswith("test"):
        mistakes.note(at, "must not read the test split, which is for the best trial", name, f"write val{name[4:]}")
    if spec.train is not None:
        if spec.metrics:
            mistakes.note(_at(spec, "metrics"), "is for the built-in training", "", "report them from your own")
        return
    regression = spec.data is not None and spec.data.regression
    names = (*(REGRESSION if regression else CLASSIFICATION), "val_loss", "train_loss")
    given = [(one, _at(spec, "metrics", f"{index}")) for index, one in enumerate(spec.metrics) if ":" not in one]
    if all(":" not in one for one in spec.metrics) and not name.startswith("test"):  # else a function may give it
        given.insert(0, (name, at))
    for one, here in given:
        if _kind(one) not in names:
            where = f" where data.regression is {'true' if regression else 'not true'}"
            meant = other_tools("metrics").get(one.removeprefix("val_"), one)
            near = [f"val_{one}"] if f"val_{one}" in names else get_close_matches(meant, names, 3, 0.75)
            rule = f"must be one of {', '.join(names)}{where if one in (*REGRESSION, *CLASSIFICATION) else ''}"
            mistakes.note(here, rule, one, f"did you mean {listed(near, 'or')}?" if near else "")
    if _kind(name) in CLASSIFICATION and target is not None and not 0 <= target <= 1:
        remedy = f"write {target / 100:g}" if 1 < target <= 100 else ""
        mistakes.note(_at(spec, "metric.target"), f"must be from 0 to 1, as {name} is", f"{target:g}", remedy)


def measured(spec: StudySpec) -> tuple[str, ...]:
    """What is computed because the study names it: "auc", "f1.cat", or a function of the user's own."""
    every = dict.fromkeys(() if spec.train else (spec.metric.name, *spec.metrics))
    return tuple(one.removeprefix("val_") for one in every if ":" in one or _kind(one) in CLASSIFICATION[3:])


def _kind(metric: str) -> str:
    """val_f1 for val_f1.cat, which is that of one class."""
    kind = metric.partition(".")[0]
    return kind if kind in OF_CLASS else metric


def _trainer(spec: StudySpec, mistakes: Mistakes) -> None:
    if spec.prefix_safe is not None and spec.train is None:
        rule = "is for a training function of your own, and train is not given"
        mistakes.note(_at(spec, "prefix_safe"), rule, "", "drop it")
    for key, value, usual in (("precision", spec.precision, "fp32"), ("class_weights", spec.class_weights, False)):
        if value != usual and spec.train is not None:
            rule = "is for hpo's own training, and train names another"
            mistakes.note(_at(spec, key), rule, written(value), "drop it, and set it in your code")


def _stopping(spec: StudySpec, mistakes: Mistakes) -> None:
    longest = spec.space.longest
    if spec.early_stopping is not None and spec.early_stopping.min_epochs >= longest:
        rule = f"must be below the epochs of the longest trial ({longest})"
        remedy = "lower it, or raise epochs, or drop early_stopping"
        mistakes.note(_at(spec, "early_stopping.min_epochs"), rule, f"{spec.early_stopping.min_epochs}", remedy)


def _patience(spec: StudySpec, mistakes: Mistakes) -> None:
    own = spec.early_stopping
    if own is not None and own.patience and (own.type == "patience" or "early_stopping.type" not in spec.places):
        rule, remedy = "stands beside another type", f"write {{type: patience, epochs: {own.patience}}}"
        mistakes.note(_at(spec, "early_stopping.patience"), rule, "", remedy)
    elif own is not None and own.epochs and own.type != "patience":
        rule, remedy = "is for type patience", f"write patience: {own.epochs}"
        mistakes.note(_at(spec, "early_stopping.epochs"), rule, "", remedy)


def _budget(spec: StudySpec, mistakes: Mistakes) -> None:
    domain, total = spec.space[EPOCHS].domain, spec.budget.total_epochs
    shortest = int(min(map(int, domain.values)) if isinstance(domain, Choice) else domain.low)
    if total is not None and total < shortest:
        rule = f"must be enough for one trial ({count(shortest, 'epoch')})"
        mistakes.note(_at(spec, "budget.total_epochs"), rule, f"{total}", "raise it, or lower epochs")


def _execution(spec: StudySpec, mistakes: Mistakes) -> None:
    engine = spec.execution.engine
    if spec.execution.address is not None and engine != "ray":
        mistakes.note(_at(spec, "execution.address"), f"is for engine ray, and engine is {engine}", "", "drop it")
    if engine == "inline" and spec.workers not in ("auto", 1):
        mistakes.note(_at(spec, "workers"), "must be 1 with engine inline", f"{spec.workers}", "write engine: local")


def _at(spec: StudySpec, path: str, key: str = "") -> Node:
    """Where the file has a value; or a key in it, where the file gives that."""
    path = f"{path}.{key}" if f"{path}.{key}" in spec.places else path
    return Node(None, spec.place(path).removesuffix(path).rstrip(), path=path)


RULES: Final[Mapping[Callable[[StudySpec, Mistakes], None], tuple[str, ...]]] = {  # rule -> the sections it reads
    _data: ("data", "train"),
    _loss: ("data", "loss", "train", "class_weights"),
    _metric: ("data", "loss", "train", "metric", "metrics"),
    _trainer: ("train", "prefix_safe", "precision", "class_weights"),
    _stopping: ("search_space", "early_stopping"),
    _patience: tuple(f"early_stopping.{key}" for key in ("type", "epochs", "patience")),
    _budget: ("search_space", "budget"),
    _execution: ("execution", "workers"),
    _grid: ("search_space", "strategy", "budget"),
}


# -- constraints ------------------------------------------------------------------------------------------------------

Written = Sequence[tuple[Constraint, Node]]  # each constraint with the node it was written at
SAMPLES: Final = 50_000  # draws for a point that meets the constraints, where what does cannot be listed
POINTS: Final = 2_000  # at which a value that follows from others is looked at
ENOUGH: Final = 100  # points after which a constraint that computes with text would have shown
MOST_CONSTRAINTS: Final = 100
MOST_POINTS: Final = 1_000


def read_constraints(node: Node | None, mistakes: Mistakes) -> Written:
    if node is None:
        return ()
    items = (replace(node, path=f"{node.path}.0"),) if isinstance(node.value, str) else node.items
    if items is None or len(items) > MOST_CONSTRAINTS:
        got = str(node) if items is None else f"{len(items):,}"
        rule = f"must be a list of at most {MOST_CONSTRAINTS} conditions"
        mistakes.note(node, rule, got, 'write ["model_parameters <= 500_000"]')
        return ()
    constraints = []
    for item in items:
        try:
            if not isinstance(item.value, str):
                raise NoExpression("must be a condition as text", str(item), 'write "channels <= 32"')
            constraints.append((Constraint(item.value), item))
        except NoExpression as error:
            mistakes.note(item, error.rule, error.got, error.remedy)
    return tuple(constraints)


def check_constraints(
    constraints: Written, space: Space, start_with: Sequence[Params], seed: int, mistakes: Mistakes
) -> None:
    """Names that are none, text that is computed with, and conditions that nothing satisfies."""
    names = [one.name for one in space.everything]
    for constraint, node in constraints:
        for name in constraint.names:
            if name not in names and name not in MEASURES:
                remedy = known_name(name, names, *MEASURES)
                mistakes.note(node, f"names {name}, which the search space does not have", "", remedy)
    if not constraints or mistakes.within("constraints"):
        return
    rng = random.Random(f"constraints-{seed}")
    few = ParameterGrid(space.parameters) if 0 < (space.size() or 0) <= ENOUGH else None
    for point in map(space.with_derived, few or (space.sample(rng) for _ in range(ENOUGH))):
        for constraint, node in constraints:
            _note_text(constraint, node, point, mistakes)
        if mistakes.within("constraints"):
            return
    for constraint, node in constraints:
        if got := _nowhere(space, (constraint,), start_with, rng):
            mistakes.note(node, "must hold somewhere in the search space", got, "loosen it, or widen the space")
    everything = tuple(constraint for constraint, _ in constraints)
    if not mistakes.within("constraints") and (got := _nowhere(space, everything, start_with, rng)):
        rule = "must all hold somewhere in the search space"
        mistakes.note(replace(constraints[0][1], path="constraints"), rule, got, "loosen one")


def check_derived(space: Space, known: Mapping[str, ParameterSpec], node: Node, mistakes: Mistakes) -> None:
    """Note where a value that follows from others cannot be computed or has no meaning: at every point of them, or at many."""
    for one in space.derived:
        some, spec, rng = space.part([one.name]), known.get(part_of(one.name)[2]), random.Random(one.name)
        every = ParameterGrid(some.parameters) if 0 < (some.size() or 0) <= POINTS else None
        for point in map(some.with_derived, every or (some.sample(rng) for _ in range(POINTS))):
            value = point.get(one.name)
            rule = "must be computable everywhere" if value is None else spec and spec.fault(value)
            if rule and one.exists(point):
                where = ", ".join(f"{name} is {exact(point[name])}" for name in one.names)
                got = f"{'nothing' if value is None else exact(value)} where {where}"
                mistakes.note(node.key(one.name), rule, got)
                break


def _nowhere(space: Space, constraints: tuple[Constraint, ...], starts: Sequence[Params], rng: random.Random) -> str:
    """What was looked through in vain for a point that meets all of these; "" where there is one, or a run will find out."""
    if solutions(space.parameters, constraints) == []:
        return f"none of its {space.size():,} points" if space.size() else "none of its points"
    drawn = (space.sample(rng, constraints) for _ in range(SAMPLES))
    points = itertools.chain((space.complete(partial, rng) for partial in starts), drawn)
    if any(all(constraint.holds(point) for constraint in constraints) for point in points) or space.enumerable:
        return ""
    return f"none of a sample of {SAMPLES:,} points"


def _note_text(constraint: Constraint, node: Node, point: Params, mistakes: Mistakes) -> None:
    try:
        constraint.value(point)
    except ArithmeticError:
        return
    except TypeError as error:
        mistakes.note(node, "must compare numbers with numbers", str(error), "write == for text")


def read_points(
    node: Node | None, space: Space, constraints: Sequence[Constraint], mistakes: Mistakes
) -> tuple[Params, ...]:
    """The points to start with, in the space's own types."""
    if node is None:
        return ()
    if node.items is None or len(node.items) > MOST_POINTS:
        got = str(node) if node.items is None else f"{len(node.items):,}"
        rule = f"must be a list of at most {MOST_POINTS:,} points"
        mistakes.note(node, rule, got, "write [{learning_rate: 1e-3}]")
        return ()
    points = []
    for item in node.items:
        if item.mapping is None:
            mistakes.note(item, "must be a mapping of parameters", str(item), "write {learning_rate: 1e-3}")
            continue
        point = _point(item, space, mistakes)
        points.append(point)
        for constraint in constraints:
            if not mistakes.within(item.path) and not constraint.holds(point):
                got = ", ".join(f"{name}: {exact(point[name])}" for name in constraint.names if name in point)
                mistakes.note(item, f"must meet the constraint {constraint.text}", got)
    return tuple(points)


def _point(node: Node, space: Space, mistakes: Mistakes) -> dict[str, Value]:
    point: dict[str, Value] = {}
    for name, child in (node.mapping or {}).items():
        if name not in space:
            follows = next((one.text for one in space.derived if one.name == name), "")
            rule, remedy = "is not in the search space", known_name(name, space.names)
            rule, remedy = (f"follows from {follows}", "leave it out") if follows else (rule, remedy)
            mistakes.note(node.key(name), rule, "", remedy)
            continue
        written = child.scalar if child.items is None else as_text([one.scalar for one in child.items])
        value = space[name].domain.coerce(written) if written is not None else None
        if value is None:
            mistakes.note(child, f"must be {space[name].domain}", str(child))
        else:
            point[name] = value
    for clash in space.conflicts(point) if not mistakes.within(node.path) else ():
        mistakes.note(node.key(clash.place), clash.rule, clash.got, clash.remedy)
    return point
