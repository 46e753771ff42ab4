"""A user's own functions: `model: package.module:function` and `train: package.module:function`.

    def model(params, shape, classes): ...   # shape = (C, H, W) -> torch.nn.Module from (B, C, H, W) to (B, classes)
    def train(job): ...                      # -> generator of hpo.core.Report or {metric: number}, one an epoch

A trainer resumes after epoch `job.start`: checkpoints.path(job.folder, job.training, job.start) is what its Report.save
wrote. One that yields plain mappings cannot be saved and always starts at epoch 1.
"""

import ast
import importlib
import importlib.util
import math
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.machinery import PathFinder
from numbers import Real
from pathlib import Path
from types import FunctionType
from typing import Any

from hpo import core
from hpo.core import Outcome, Report, Train, TrainingFailed
from hpo.errors import BadInput, Mistake

Function = Callable[..., Any]


def is_reference(text: str) -> bool:
    """Whether this names a user's function rather than one of our own models."""
    return ":" in text


def resolve(reference: str, folder: Path | None, place: str) -> Function:
    """The function that `package.module:function` names, sought in `folder`, then here. Raises BadInput at `place`."""
    module_name, _, name = reference.partition(":")
    if not module_name or not name.isidentifier():
        remedy = "name a function of a module"
        raise BadInput(Mistake(place, "must be package.module:function", repr(reference), remedy))
    _look_in(module_name, [str(path.resolve()) for path in (folder, Path.cwd()) if path is not None])
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a user's module may raise anything while it is imported
        why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
        remedy = f"fix it or put it into {folder or 'the current folder'}"
        raise BadInput(Mistake(place, f"module {module_name} does not import", why, remedy)) from error
    function: object = vars(module).get(name)
    if not callable(function):
        there = ", ".join(key for key, value in vars(module).items() if isinstance(value, FunctionType)) or "none"
        raise BadInput(Mistake(place, f"no function {name} in {module_name}", "", f"functions there: {there}"))
    return function


def code_digest(reference: str, folder: Path | None, place: str) -> str:
    """Of the syntax trees of a user's module and of what it imports from the same folders. Raises BadInput.

    Comments, docstrings and layout do not count. A module from elsewhere, as from an installed package, counts alone.
    """
    resolve(reference, folder, place)
    name, folders = reference.partition(":")[0], [path.resolve() for path in (folder, Path.cwd()) if path is not None]
    trees: dict[str, object] = {}
    names = [name]
    while names:
        module = names.pop()
        if module not in trees and module.partition(".")[0] != "hpo" and (file := _file(module, folders)) is not None:
            tree = _parsed(file)
            trees[module] = _plain(tree)
            names += _imports(tree, module if file.stem == "__init__" else module.rpartition(".")[0])
    if not trees:
        spec = importlib.util.find_spec(name)
        file = Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None
        trees[name] = _plain(_parsed(file)) if file else None
    return core.digest(trees)[:16]


def _parsed(file: Path) -> ast.Module:
    """Its syntax tree; one of its bytes where it is no Python, as a module may be that is imported on some days only."""
    try:
        return ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return ast.Module([ast.Expr(ast.Constant(file.read_bytes()))], [])


def _file(module: str, folders: Sequence[Path]) -> Path | None:
    """The source of a module in one of the folders; None where it is not there."""
    stems = (folder.joinpath(*module.split(".")) for folder in folders)
    candidates = (file for stem in stems for file in (stem / "__init__.py", stem.with_suffix(".py")))
    return next((file for file in candidates if file.is_file()), None)


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """The modules that may be imported anywhere in it, packages above them included."""
    for node in ast.walk(tree):
        found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            found = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        for name in found:
            parts = name.split(".")
            yield from (".".join(parts[:length]) for length in range(1, len(parts) + 1))


def _plain(node: object) -> object:
    """A syntax tree as JSON, without docstrings and without what is empty: Python's versions add empty fields."""
    if isinstance(node, list):
        return [_plain(one) for one in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    given = dict(ast.iter_fields(node))
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node):
        given["body"] = node.body[1:]
    return [type(node).__name__, {name: _plain(one) for name, one in given.items() if one not in (None, [])}]


def _look_in(module_name: str, folders: list[str]) -> None:
    """Put the folders first on the path, and forget a module of that name that came from elsewhere (another study)."""
    sys.path[:0] = [folder for folder in dict.fromkeys(folders) if folder not in sys.path]
    top = module_name.partition(".")[0]
    importlib.invalidate_caches()
    spec = PathFinder.find_spec(top, folders)
    loaded = sys.modules.get(top)
    if spec is not None and spec.origin is not None and loaded is not None and loaded.__file__ != spec.origin:
        for folder in reversed(folders):
            sys.path.remove(folder)
            sys.path.insert(0, folder)
        for name in [name for name in sys.modules if name == top or name.startswith(f"{top}.")]:
            del sys.modules[name]


def user_trainer(reference: str, folder: Path | None) -> Train:
    """A user's generator of reports as a Train; what it yields is checked."""
    function = resolve(reference, folder, "train")
    return lambda job: _reports(function(job), job.start, reference)


def measuring(function: Function, reference: str) -> Callable[[Any, Any], dict[str, float]]:
    """A user's function (targets, outputs) -> mapping of numbers, whose answer is checked."""

    def measure(targets: Any, outputs: Any) -> dict[str, float]:
        said = function(targets, outputs)
        if not isinstance(said, Mapping):
            raise invalid(f"{reference} must return a mapping of metrics, got {_name(said)}")
        return numbers(said, reference)

    return measure


def _reports(yielded: object, start: int, reference: str) -> Iterator[Report]:
    if not isinstance(yielded, Iterator):
        raise invalid(f"{reference} must be a generator of reports, got {_name(yielded)}; write `yield`")
    began = time.perf_counter()
    try:
        for epoch, item in enumerate(yielded, start + 1):
            yield _report(item, epoch, time.perf_counter() - began, reference)
            began = time.perf_counter()
    finally:
        if isinstance(yielded, Generator):
            yielded.close()


def _report(item: object, epoch: int, seconds: float, reference: str) -> Report:
    report = Report(epoch, item, seconds, time.time()) if isinstance(item, Mapping) else item
    if not isinstance(report, Report):
        raise invalid(f"{reference} must yield a Report or a mapping of metrics, got {_name(item)}")
    if report.epoch != epoch:
        raise invalid(f"{reference} must report every epoch once, got epoch {report.epoch} after {epoch - 1}")
    return replace(report, metrics=numbers(report.metrics, reference))


def numbers(metrics: Mapping[str, Any], reference: str) -> dict[str, float]:
    """What a function of the user's own measured; numpy's numbers cannot be sent as they are. Raises TrainingFailed."""
    for name, value in metrics.items():
        if not isinstance(name, str) or isinstance(value, bool) or not isinstance(value, Real):
            remedy = ""
            if type(value).__module__.partition(".")[0] in ("torch", "numpy"):
                one = math.prod(getattr(value, "shape", ())) == 1
                remedy = "; write .item()" if one else "; reduce it to one number, as by .mean().item()"
            raise invalid(f"{reference} must report numbers by name, got {name!r}: {value!r}{remedy}")
    return {name: float(value) for name, value in metrics.items()}


def invalid(text: str) -> TrainingFailed:
    return TrainingFailed(Outcome.INVALID, text)


def _name(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
