"""study.yaml -> frozen StudySpec, every mistake at once, each with file:line:column.

Precedence: flag (`--set key.path=value`), file, default. The search space may stand in a file of its own.
study.schema.json, which docs/schema.py writes, describes the shape of a study file to editors.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import yaml

from hpo.core import Params
from hpo.errors import BadInput, Mistake
from hpo.space.domains import ParameterSpec, part_of
from hpo.space.space import Space
from hpo.study_file.fields import Mistakes, read_fields
from hpo.study_file.rules import check_constraints, check_rules, read_constraints, read_points, smaller_is_better
from hpo.study_file.space_reader import SpaceReader
from hpo.study_file.spec import DATA_SETS, Metric, StudySpec
from hpo.study_file.yaml_nodes import NOTHING, Document, Node, clean, located, node_of, places, read_yaml, value_of

KnownTo = Callable[[str, str | None], Mapping[str, ParameterSpec]]
SPACE_FILE: Final = re.compile(r".+\.ya?ml", re.IGNORECASE)
SHIPPED: Final = {path.stem: path for path in sorted((Path(__file__).parents[1] / "search_spaces").glob("*.yaml"))}
UNREAD: Final = Node({}, "")  # stands for a space file that could not be read: what follows from that is not said
FLAG: Final = "--set"
_PLACED: Final = re.compile(r"(.*?):([0-9]+):([0-9]+)(?: |$)")


def read_study(
    source: Path | str | Mapping[str, Any], *, sets: Sequence[str] = (), known: KnownTo = lambda model, train: {}
) -> StudySpec:
    """The study in a file or a mapping, with `sets` on top. known(model, train): its parameters. Raises BadInput."""
    mistakes = Mistakes()
    if isinstance(source, Mapping):
        text = ""
        with suppress(yaml.YAMLError):
            text = yaml.safe_dump(dict(source), sort_keys=False)
        document = Document(node_of(source, "study"), (), text)
        path, folder = None, Path()
    else:
        path = Path(source)
        document, folder = read_yaml(path), path.absolute().parent
    mistakes.all += document.mistakes
    root, space_text = _completed(document.root, sets, folder, mistakes)
    values = _values(root, known, mistakes)
    _complete(values, root, folder)
    about: dict[str, Any] = {"path": path, "text": document.text, "space_text": space_text, "sets": tuple(sets)}
    spec = StudySpec(**values, **about, places=dict(places(root)))
    check_rules(spec, mistakes)
    if mistakes.all:
        raise BadInput(*_in_order(mistakes.all))
    return spec


def _in_order(mistakes: Sequence[Mistake]) -> list[Mistake]:
    """By file in order of appearance, then by line."""
    files: dict[str, int] = {}

    def rank(mistake: Mistake) -> tuple[int, int, int]:
        match = _PLACED.match(mistake.place)
        file, line, column = (match[1], int(match[2]), int(match[3])) if match else ("", 0, 0)
        return files.setdefault(file, len(files)), line, column

    return sorted(mistakes, key=rank)


def _values(root: Node, known: KnownTo, mistakes: Mistakes) -> dict[str, Any]:
    """The fields of the spec that the file gives; the default in place of what is wrong."""
    values = read_fields(StudySpec, root, mistakes, "the study file")
    values.setdefault("name", "unnamed")  # its mistake is noted
    model, train = values.get("model", "cnn"), values.get("train")
    names = known(model, train) if not mistakes.within("model", "train") else {}
    node = values.get("space", UNREAD)
    space = SpaceReader(mistakes, names, model).read(node) if node.place else None
    written = read_constraints(values.get("constraints"), mistakes)
    constraints = tuple(constraint for constraint, _ in written)
    start_with: Sequence[Params] = ()
    if space is not None:
        start_with = read_points(values.get("start_with"), space, constraints, mistakes)
        starts = () if mistakes.within("start_with") else start_with
        check_constraints(written, space, starts, values.get("seed", 0), mistakes)
    return {**values, "space": space or Space(()), "constraints": constraints, "start_with": tuple(start_with)}


def _complete(values: dict[str, Any], root: Node, folder: Path) -> None:
    """Defaults that depend on other values; paths start at the study file."""
    data = values.get("data")
    if data is not None and data.source not in DATA_SETS:
        source = os.path.normpath(folder.absolute() / os.path.expanduser(data.source))  # noqa: PTH111 - may be any text
        values["data"] = data = replace(data, source=source)
    if data is not None and data.regression:
        values.setdefault("loss", "squared_error")
        values.setdefault("metric", Metric("val_mse"))
    metric: Metric = values.get("metric", Metric())
    goal = ((root.mapping or {}).get("metric", UNREAD).mapping or {}).get("goal", UNREAD)
    if not goal.value and smaller_is_better(metric.name):
        values["metric"] = replace(metric, goal="minimize")


def _completed(root: Node, sets: Sequence[str], folder: Path, mistakes: Mistakes) -> tuple[Node, str]:
    """The tree with the flags' values and the space's own file in it, and that file's text."""
    overrides = [override for flag in sets if (override := _override(flag, mistakes)) is not None]
    within = [(keys, value) for keys, value in overrides if keys[0] == "search_space" and keys[1:]]
    root = _applied(root, [override for override in overrides if override not in within], mistakes)
    root, text = _with_space_file(root, folder, mistakes)
    return located(_applied(root, within, mistakes)), text


def _with_space_file(root: Node, folder: Path, mistakes: Mistakes) -> tuple[Node, str]:
    node = replace((root.mapping or {}).get("search_space", NOTHING), path="search_space")
    if not isinstance(node.value, str):
        return root, ""
    space, text = UNREAD, ""
    if not SPACE_FILE.fullmatch(node.value) and node.value not in SHIPPED:
        rule = f"must be a mapping of parameters, a .yaml file of them, or one of {', '.join(SHIPPED)}"
        mistakes.note(node, rule, str(node), "write cnn-small")
    else:
        beside, here, current = folder / node.value, Path(node.value), Path.cwd()
        try:
            file = SHIPPED.get(node.value) or (here if here.is_file() and not beside.is_file() else beside)
            short = file.relative_to(current) if file.is_relative_to(current) else file  # in messages
            document = read_yaml(short)
            mistakes.all += document.mistakes
            space, text = document.root, document.text
        except BadInput as error:
            _note_file(node, error, mistakes)
        except OSError as error:
            mistakes.note(node, "cannot be read", f"{clean(node.value)}: {error.strerror}", "check the path")
    return replace(root, value={**(root.mapping or {}), "search_space": space}), text


def _note_file(node: Node, error: BadInput, mistakes: Mistakes) -> None:
    """A space file that cannot be read is a mistake of the line that names it; bad syntax in it has its own line."""
    for mistake in error.mistakes:
        assert isinstance(mistake, Mistake)
        if _PLACED.match(mistake.place):
            mistakes.add(mistake, path="search_space")
        else:
            got = clean(str(node.value)) + (f": {mistake.got}" if mistake.got else "")
            remedy = "name the parameters in it" if mistake.rule == "is empty" else "check the path"
            mistakes.note(node, f"names a file that {mistake.rule}", got, remedy)


Override = tuple[Sequence[str], Node]  # the path split at dots, those of block1.channels too; and the value


def _override(flag: str, mistakes: Mistakes) -> Override | None:
    """What one `--set key.path=value` says; None where something is wrong."""
    key, equals, value = map(str.strip, flag.partition("="))
    if not equals or not re.fullmatch(r"[A-Za-z_][\w-]*(\.[\w-]+)*", key):
        mistakes.add(Mistake(f"{FLAG} {clean(flag)}", "must be key.path=value", remedy="write budget.trials=40"))
        return None
    try:
        return key.split("."), value_of(value, FLAG)
    except BadInput as error:
        wrong = error.mistakes[0]
        assert isinstance(wrong, Mistake)
        below = wrong.place.removeprefix(f"{FLAG} value") if " " in wrong.place else ""  # the path within the value
        mistakes.add(Mistake(f"{FLAG} {key}{below}", wrong.rule, clean(value)))
        return None


def _applied(root: Node, overrides: Sequence[Override], mistakes: Mistakes) -> Node:
    """The tree with these values in it; notes a path that leads through a value that has no keys."""
    for keys, value in overrides:
        try:
            root = _put(root, keys, value, ())
        except BadInput as error:
            mistakes.add(*error.mistakes)
    return root


def _put(node: Node, keys: Sequence[str], value: Node, done: tuple[str, ...]) -> Node:
    if not keys:
        return value
    parent, place = ".".join(done), f"{FLAG} {'.'.join((*done, *keys))}"
    if node.items is not None or node.scalar is not None:
        remedy = f"set it as a whole: {FLAG} '{parent}=...'"
        raise BadInput(Mistake(place, f"{parent} must have keys", str(node), remedy))
    mapping = dict(node.mapping or {})
    key, rest = _next(mapping, keys)
    mapping[key] = _put(mapping.get(key, Node({}, FLAG)), rest, value, (*done, key))
    return replace(node, value=mapping, keys={key: FLAG, **node.keys})


def _next(mapping: Mapping[str, Node], keys: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The longest key that is there already; else one word, or two of a block's or layer's parameter."""
    given = (count for count in range(len(keys), 0, -1) if ".".join(keys[:count]) in mapping)
    count = next(given, 2 if part_of(".".join(keys[:2]))[0] else 1)
    return ".".join(keys[:count]), keys[count:]


def template(name: str = "digits-cnn", data: str = "digits") -> str:
    """The study file that `hpo init` writes: it runs as it is, and every other key is in it as a comment."""
    text = Path(__file__).with_name("template.yaml").read_text(encoding="utf-8")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "study"
    return text.replace("digits-cnn", name).replace("\ndata: digits\n", f"\ndata: {data}\n")
