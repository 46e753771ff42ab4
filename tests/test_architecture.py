"""Imports go down the layers only, and what is heavy stays where it belongs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hpo

ROOT = Path(hpo.__file__).parent
# From the ground up. A module may import its own layer and those above it in this list; a folder counts as its modules.
LAYERS = [
    ["core", "errors", "failpoints", "folders", "wording", "terminal"],
    ["space"],
    ["spec", "provenance"],
    ["training.failure", "execution.checkpoints", "journal"],
    ["training"],
    ["execution", "reading"],
    ["strategies"],
    ["virtual", "pool", "search", "driver", "overhead"],
    ["tracking", *(f"comparison.{name}" for name in ("statistics", "curves", "compared", "verdicts", "confirmation"))],
    ["report", "check", "tracking.publish", "tracking.registry"],
    [
        "result",
        "comparison",
        "winner",
        "outlook",
        "assembly",
        "running",
        "exporting",
        "status",
        "console",
        "closing",
        "api",
        "check.checking",
        "check.own",
    ],
    ["flags", "winner.verbs", "cli", "__main__", "__init__"],
]
HEAVY = {
    "torch": ("hpo.training.", "hpo.tracking.publish", "hpo.tracking.registry", "hpo.winner."),
    "mlflow": ("hpo.tracking.registry", "hpo.tracking.store", "hpo.winner.predicting"),
    "optuna": ("hpo.strategies.bayesian", "hpo.report.findings", "hpo.exporting"),
    "ray": ("hpo.execution.",),
}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(ROOT.rglob("*.py")):
        yield ".".join(path.relative_to(ROOT).with_suffix("").parts), path


def layer(name: str) -> int:
    """The deepest entry that names the module or a folder around it."""
    name = name.removesuffix(".__init__") or name
    found = [
        (len(entry), rank)
        for rank, entries in enumerate(LAYERS)
        for entry in entries
        if name == entry or name.startswith(f"{entry}.")
    ]
    assert found, f"hpo.{name} stands in no layer"
    return max(found)[1]


def imported(path: Path) -> Iterator[tuple[str, int, bool]]:
    """(module, line, at the top) of every import of hpo and of what is heavy; TYPE_CHECKING blocks are no imports."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            folder = ROOT / Path(*node.module.split(".")[1:])
            within = [
                alias.name
                for alias in node.names
                if (folder / f"{alias.name}.py").exists() or (folder / alias.name).is_dir()
            ]
            if node.module != "hpo" and len(within) < len(node.names):
                yield node.module, node.lineno, id(node) in top
            yield from ((f"{node.module}.{name}", node.lineno, id(node) in top) for name in within)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, id(node) in top) for alias in node.names)


def test_imports_go_down_the_layers_only() -> None:
    up = []
    for name, path in modules():
        for target, line, at_top in imported(path):
            inner = target.removeprefix("hpo.")
            if not target.startswith("hpo.") or not at_top or inner.startswith("__"):
                continue
            if layer(inner) > layer(name):
                up.append(f"hpo/{path.relative_to(ROOT)}:{line} imports {target}, which is above it")
    assert not up, "\n".join(up)


@pytest.mark.parametrize("package", HEAVY)
def test_heavy_packages_are_imported_where_they_belong(package: str) -> None:
    astray = [
        f"hpo/{path.relative_to(ROOT)}:{line}"
        for name, path in modules()
        for target, line, at_top in imported(path)
        if at_top and target.split(".")[0] == package and not f"hpo.{name}".startswith(HEAVY[package])
    ]
    assert not astray, astray


def test_a_driver_never_imports_torch() -> None:
    """2 s and 200 MB that belong to the workers."""
    probe = "import sys, hpo.running, hpo.console, hpo.comparison.comparing; print([m for m in ('torch', 'mlflow', 'ray') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_no_module_is_longer_than_a_concept_and_no_function_longer_than_a_screen() -> None:
    long = [
        f"{name}: {lines} lines"
        for name, path in modules()
        if (lines := path.read_text().count("\n")) > 400 and name != "core"
    ]
    functions = [
        f"{name}.{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for name, path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.end_lineno and node.end_lineno - node.lineno + 1 > 60
    ]
    assert not long + functions
