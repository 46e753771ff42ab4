"""What the sections of a study file must say together. Each rule looks at a whole spec and notes its mistakes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from hpo.core import EPOCHS
from hpo.errors import Mistake
from hpo.space.domains import Choice, Domain
from hpo.space.space import GridImpossible, Space
from hpo.study_file.fields import Found, nearest
from hpo.study_file.spec import DATA_SETS, StudySpec
from hpo.study_file.yaml_nodes import clean

LARGEST_GRID: Final = 1_000_000  # without a budget

CLASSIFICATION: Final = ("val_accuracy", "val_balanced_accuracy", "val_macro_f1")
REGRESSION: Final = ("val_mse", "val_r2")
METRICS: Final = (*CLASSIFICATION, *REGRESSION, "val_loss", "train_loss")  # of the built-in training
SMALLER: Final = ("loss", "mse", "error", "mae", "rmse", "perplexity", "seconds", "time", "regret", "cost")


def smaller_is_better(metric: str) -> bool:
    return any(part in SMALLER for part in metric.lower().replace("/", "_").replace(".", "_").split("_"))


def check(spec: StudySpec, found: Found, with_space: bool) -> None:
    """Note every mistake between sections, but none about a section that is wrong in itself."""
    for rule, sections in RULES.items():
        if not found.within(*sections) and (with_space or "search_space" not in sections):
            rule(spec, found)
    if spec.strategy == "grid" and with_space and not found.within("strategy", "budget"):
        found.mistakes.extend(grid_mistakes(spec))


def grid_mistakes(spec: StudySpec) -> list[Mistake]:
    """Why a grid search of this study is not possible; [] if it is. Offers the grid it would use."""
    try:
        size = spec.space.grid().size
    except GridImpossible as impossible:
        place = spec.place
        mistakes = (Mistake(place(_path(spec, f.where)), f.rule, f.got, f.remedy) for f in impossible.faults)
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
    return own if own in spec.places else f"search_space.{name.partition('.')[2] or name}"


def _data(spec: StudySpec, found: Found) -> None:
    if spec.data is None:
        if spec.train is None:
            found.note(spec.place(""), "data", "is missing", "", "add data: digits")
        return
    split = spec.data.split
    total = split.train + split.val + split.test
    if not math.isclose(total, 1, abs_tol=1e-6):
        found.note(*_at(spec, "data.split"), "must add up to 1", f"{total:.6g}", "write [0.7, 0.15, 0.15]")
    source = spec.data.source
    if source not in DATA_SETS and not _exists(source):
        written = Path(source).name
        close = nearest(written, DATA_SETS)
        at = _at(spec, "data.source" if "data.source" in spec.places else "data")
        rule = f"must be {', '.join(DATA_SETS)} or the path of a folder or file"
        found.note(*at, rule, clean(spec.source(spec.data)), f"did you mean {close}?" if close else "check the path")


def _exists(source: str) -> bool:
    try:
        os.stat(source)  # noqa: PTH116 - a Path would say no to a folder that may not be looked into
    except PermissionError:
        return True  # reading it will say so
    except (OSError, ValueError):
        return False
    return True


def _loss(spec: StudySpec, found: Found) -> None:
    regression = spec.data is not None and spec.data.regression
    if spec.train is None and regression and spec.loss == "cross_entropy":
        found.note(*_at(spec, "loss"), "must be squared_error where data.regression is true", spec.loss)
    if regression and spec.class_weights:
        found.note(*_at(spec, "class_weights"), "must be false where data.regression is true", "true", "drop it")


def _metric(spec: StudySpec, found: Found) -> None:
    name, target = spec.metric.name, spec.metric.target
    at = _at(spec, "metric.name" if "metric.name" in spec.places else "metric")
    if name.startswith("test"):
        found.note(*at, "must not read the test split, which is for the winner", name, f"write val{name[4:]}")
    elif spec.train is None and name not in METRICS:
        close = f"val_{name}" if f"val_{name}" in METRICS else nearest(name, METRICS)
        remedy = f"did you mean {close}?" if close else ""
        found.note(*at, f"must be one of {', '.join(METRICS)}", name, remedy)
    regression = spec.data is not None and spec.data.regression
    if spec.train is None and regression and name in CLASSIFICATION:
        found.note(*at, "must be val_mse, val_r2 or val_loss where data.regression is true", name)
    if spec.train is None and spec.loss == "cross_entropy" and not regression and name in REGRESSION:
        found.note(*at, "must be of classes, because loss is cross_entropy", name, "write val_accuracy")
    if spec.train is None and name in CLASSIFICATION and target is not None and not 0 <= target <= 1:
        remedy = f"write {target / 100:g}" if 1 < target <= 100 else ""
        found.note(*_at(spec, "metric.target"), f"must be from 0 to 1, as {name} is", f"{target:g}", remedy)


def _trainer(spec: StudySpec, found: Found) -> None:
    if spec.prefix_safe is not None and spec.train is None:
        rule = "is said of a training of your own, and train is not given"
        found.note(*_at(spec, "prefix_safe"), rule, "", "drop it")


def _stopping(spec: StudySpec, found: Found) -> None:
    if spec.early_stopping is None:
        return
    longest = max(_epochs(spec.space), default=1)
    if spec.early_stopping.min_epochs >= longest:
        rule = f"must be below the epochs of the longest trial ({longest})"
        got = f"{spec.early_stopping.min_epochs}"
        at = _at(spec, "early_stopping.min_epochs")
        found.note(*at, rule, got, "lower it, or raise epochs, or drop early_stopping")


def _budget(spec: StudySpec, found: Found) -> None:
    shortest = min(_epochs(spec.space), default=1)
    total = spec.budget.total_epochs
    if total is not None and total < shortest:
        rule = f"must be enough for one trial ({shortest} epochs)"
        found.note(*_at(spec, "budget.total_epochs"), rule, f"{total}", "raise it, or lower epochs")


def _execution(spec: StudySpec, found: Found) -> None:
    engine = spec.execution.engine
    if spec.execution.address is not None and engine != "ray":
        found.note(*_at(spec, "execution.address"), f"is for engine ray, and engine is {engine}", "", "drop it")
    if engine == "inline" and spec.workers not in ("auto", 1):
        found.note(*_at(spec, "workers"), "must be 1 with engine inline", f"{spec.workers}", "write engine: local")


def _epochs(space: Space) -> Iterator[int]:
    domain: Domain = space[EPOCHS].domain
    ends = domain.values if isinstance(domain, Choice) else (domain.low, domain.high)
    return (int(end) for end in ends)


def _at(spec: StudySpec, path: str) -> tuple[str, str]:
    place, _, _ = spec.place(path).rpartition(f" {path}")
    return place, path


RULES: Final[Mapping[Callable[[StudySpec, Found], None], tuple[str, ...]]] = {  # rule -> the sections it reads
    _data: ("data", "train"),
    _loss: ("data", "loss", "train", "class_weights"),
    _metric: ("data", "loss", "train", "metric"),
    _trainer: ("train", "prefix_safe"),
    _stopping: ("search_space", "early_stopping"),
    _budget: ("search_space", "budget"),
    _execution: ("execution", "workers"),
}
