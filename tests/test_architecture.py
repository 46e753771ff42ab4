"""Imports go down the layers only, and what is heavy stays where it belongs."""

import ast
import functools
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hpo

ROOT = Path(hpo.__file__).parent
# From the ground up, each a rank of its own: what stands here imports only from above it in this list, and from itself.
RANKS = [
    "ground",  # the modules at the top of the package
    "space",
    "study_file",
    "data",
    "models",
    "strategies",
    "training",
    "execution",
    "tracking",
    "comparison",
    "report",
    "engine",
    "check",
    "publishing",
    "commands",
    "cli",
    "api",
    "__init__",
    "__main__",
]
GROUND = ("core", "errors", "files", "formatting", "journal", "provenance")
IN_A_STRING = 0  # the line of an import that is none
MODULE = re.compile(r"hpo\.[a-z_]+\.[a-z_.]+")  # in a string: for import_module, or a process of its own
SLOW = {"torch", "mlflow", "optuna", "ray", "matplotlib", "pandas", "numpy", "scipy", "sklearn", "PIL", "sqlalchemy"}
HEAVY = {
    "torch": ("hpo.training.", "hpo.models.", "hpo.publishing.", "hpo.commands."),
    "mlflow": ("hpo.publishing.registry", "hpo.tracking.store", "hpo.commands.predict"),
    "optuna": ("hpo.strategies.tpe", "hpo.report.findings", "hpo.commands.report"),
    "ray": ("hpo.execution.",),
}


TOP = """pyproject.toml README.md hpo search_spaces tests mlruns docker-compose.yml study.yaml examples docs benchmarks
.ci .dockerignore .editorconfig .env.example .gitignore .pre-commit-config.yaml Dockerfile LICENSE Makefile
CHANGELOG.md CONTRIBUTING.md SECURITY.md constraints.txt docker mkdocs.yml"""


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(ROOT.rglob("*.py")):
        yield ".".join(path.relative_to(ROOT).with_suffix("").parts), path


def rank(name: str) -> int:
    """The place of a module's folder in RANKS."""
    room = name.split(".")[0]
    return RANKS.index("ground" if room in GROUND else room)


@functools.cache
def imported(path: Path) -> list[tuple[str, int, bool]]:
    return [*_imported(path)]


def _imported(path: Path) -> Iterator[tuple[str, int, bool]]:
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
            names = [alias.name for alias in node.names]
            within = [name for name in names if (folder / f"{name}.py").exists() or (folder / name).is_dir()]
            if len(within) < len(names):
                yield "hpo.__init__" if node.module == "hpo" else node.module, node.lineno, id(node) in top
            yield from ((f"{node.module}.{name}", node.lineno, id(node) in top) for name in within)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, id(node) in top) for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and MODULE.fullmatch(node.value):
            yield node.value, IN_A_STRING, False


def arrows() -> Iterator[tuple[str, str, int]]:
    """(importer, imported, line) for every import of hpo in hpo, lazy ones included."""
    for name, path in modules():
        for target, line, _ in imported(path):
            if target.startswith("hpo."):
                yield name, target.removeprefix("hpo."), line


def test_the_top_of_the_project_holds_what_is_named_here_and_nothing_else() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT.parent, capture_output=True, text=True, check=False).stdout
    assert not listed or {file.split("/")[0] for file in listed.split()} == set(TOP.split())


def test_every_folder_has_a_rank_of_its_own_and_imports_go_down_these_only() -> None:
    rooms = {name.split(".")[0] for name, _ in modules()}
    assert rooms - set(GROUND) == set(RANKS) - {"ground"}
    up = {f"{name} -> {target}" for name, target, _ in arrows() if rank(target) > rank(name)}
    assert not up


def test_imports_inside_functions_are_of_what_is_heavy() -> None:
    """Or of modules that import something heavy themselves. Only the command line puts off all: `--help` is at once."""
    names = {name.removesuffix(".__init__"): path for name, path in modules()}
    at_the_top = {
        name: {target.removeprefix("hpo.") if target.startswith("hpo.") else target.split(".")[0] for target in targets}
        for name, path in names.items()
        for targets in [{target for target, _, at_top in imported(path) if at_top}]
    }
    heavy = set(SLOW)
    while more := {name for name, targets in at_the_top.items() if targets & heavy} - heavy:
        heavy |= more
    light = [
        f"hpo.{name}:{line} imports {target}"
        for name, path in names.items()
        for target, line, at_top in imported(path)
        if not at_top and not name.startswith(("cli.", "__init__"))
        if (target.removeprefix("hpo.") if target.startswith("hpo.") else target.split(".")[0]) not in heavy
    ]
    assert not light, "\n".join(light)


def test_no_private_name_of_a_library_is_used() -> None:
    """Each survivor with the reason why it may: what happens without it, as measured."""
    allowed = {
        "os._exit": "a documented function: a worker that must end at once",
        "self._client._tracking_client": "MLflow has no public way to let go of its database: a test's folder stays open",
    }
    private = [
        (f"hpo.{name}:{node.lineno}", ast.unparse(node))
        for name, path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and re.fullmatch(r"_[a-z]\w*", node.attr)
        if ast.unparse(node.value) not in ("self", "cls", "journal", "range_")  # these two are our own
    ]
    assert not [one for one in private if one[1] not in allowed]
    assert {one for _, one in private} == set(allowed), "an entry that is not needed any more goes"
    words = re.compile(r"torch\._|\b_private\b|import _[a-z]|\.(_foreach_|_fused_)")
    assert not [name for name, path in modules() if words.search(path.read_text())]


def test_the_evening_path_is_short_and_imports_nothing_from_above() -> None:
    """What docs/design.md names to be read first: every file exists, and all of it is an evening's reading."""
    text = (ROOT.parent / "docs" / "design.md").read_text().partition("## The evening path")[2].partition("\n## ")[0]
    files = re.findall(r"^    (hpo/[a-z_/]+\.py)", text, re.MULTILINE)
    assert len(files) >= 15
    assert len(set(files)) == len(files)
    assert sum((ROOT.parent / file).read_text().count("\n") for file in files) <= 3_500
    highest = max(rank(".".join(Path(file).with_suffix("").parts[1:])) for file in files)
    assert RANKS[highest] == "commands"


def test_no_module_imports_itself_by_way_of_others() -> None:
    targets: dict[str, set[str]] = {}
    for name, target, line in arrows():
        if line != IN_A_STRING:
            targets.setdefault(name, set()).add(target)
    sorter = graphlib.TopologicalSorter(targets)
    sorter.prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("package", HEAVY)
def test_heavy_packages_are_imported_where_they_belong(package: str) -> None:
    astray = [
        f"hpo/{path.relative_to(ROOT)}:{line}"
        for name, path in modules()
        for target, line, at_top in imported(path)
        if at_top and target.split(".")[0] == package and not f"hpo.{name}".startswith(HEAVY[package])
    ]
    assert not astray, astray


@pytest.mark.parametrize(
    ("light", "absent"),
    [
        ("hpo.cli.main, hpo.study_file.reader", SLOW | {"pydantic"}),  # so that `--help` and a refusal are at once
        ("hpo.commands.run, hpo.cli.console, hpo.commands.compare, hpo.check", {"torch", "mlflow", "ray"}),
        ("benchmarks.gpu", {"mlflow", "optuna", "ray"}),  # so that it runs on a bare machine with torch
        ("hpo.commands.run, hpo.cli.summary", SLOW - {"numpy", "PIL"}),  # before workers start; and `status`
    ],
)
def test_what_must_be_quick_imports_nothing_heavy_and_a_driver_no_torch(light: str, absent: set[str]) -> None:
    """2 s and 200 MB that belong to the workers."""
    probe = f"import sys, {light}; print({absent} & set(sys.modules) or '')"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout == "\n"


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
