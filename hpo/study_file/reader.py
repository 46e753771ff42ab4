"""study.yaml -> frozen StudySpec, every mistake at once, each with file:line:column.

Precedence: flag (`sets`), file, environment, default. The search space may stand in a file of its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import yaml

from hpo.core import Params
from hpo.errors import BadInput, HpoError, Mistake
from hpo.space.domains import Known
from hpo.space.space import Space
from hpo.study_file import foreign
from hpo.study_file.fields import Found, read_fields
from hpo.study_file.overrides import Override
from hpo.study_file.points_section import check_constraints, read_constraints, read_points
from hpo.study_file.rules import check, smaller_is_better
from hpo.study_file.space_reader import SpaceSection
from hpo.study_file.spec import (
    DATA_SETS,
    DataSpec,
    Metric,
    StudySpec,
    Tracking,
)
from hpo.study_file.yaml_nodes import Document, Node, clean, node_of, places, read

KnownTo = Callable[[str, str | None], Mapping[str, Known]]
SPACE_FILE: Final = re.compile(r".+\.ya?ml", re.IGNORECASE)
UNREAD: Final = Node({}, "")  # stands for a space file that could not be read: what follows from that is not said
_PLACED: Final = re.compile(r"(.*?):([0-9]+):([0-9]+)(?: |$)")


def _nothing(model: str, train: str | None) -> Mapping[str, Known]:
    return {}


def load(
    source: Path | str | Mapping[str, Any],
    *,
    sets: Sequence[str] = (),
    known: KnownTo = _nothing,
    environ: Mapping[str, str] = os.environ,
) -> StudySpec:
    """The study in a file, or in a mapping built in code. Raises BadInput with every mistake.

    sets: `--set` values that win over the file; known(model, train): the parameters of a model, {} for no check.
    """
    found = Found()
    if isinstance(source, Mapping):
        document = Document(node_of(source, "study"), (), _dumped(source))
        path, folder = None, Path()
    else:
        path = Path(source)
        document, folder = read(path), path.absolute().parent
    found.mistakes.extend(document.mistakes)
    root, space_text = _completed(document.root, sets, folder, found)
    file = _File(root, folder, found, known, environ)
    spec = file.spec(path=path, text=document.text, space_text=space_text, sets=tuple(sets))
    if found.mistakes:
        raise BadInput(*_in_order(found.mistakes))
    return spec


def _dumped(source: Mapping[str, Any]) -> str:
    try:
        return yaml.safe_dump(dict(source), sort_keys=False)
    except yaml.YAMLError:
        return ""


def _in_order(mistakes: Sequence[Mistake]) -> list[Mistake]:
    """By file in order of appearance, then by line."""
    files: dict[str, int] = {}

    def rank(mistake: Mistake) -> tuple[int, int, int]:
        match = _PLACED.match(mistake.place)
        file, line, column = (match[1], int(match[2]), int(match[3])) if match else ("", 0, 0)
        return files.setdefault(file, len(files)), line, column

    return sorted(mistakes, key=rank)


# -- the tree ---------------------------------------------------------------------------------------------------------


def _completed(root: Node, sets: Sequence[str], folder: Path, found: Found) -> tuple[Node, str]:
    """The tree with the flags' values and the space's own file in it, and that file's text."""
    overrides = []
    for text in sets:
        try:
            overrides.append(Override.read(text))
        except BadInput as error:
            found.mistakes.extend(one for one in error.mistakes if isinstance(one, Mistake))
    within = [one for one in overrides if one.keys[0] == "search_space" and len(one.keys) > 1]
    root = _applied(root, [one for one in overrides if one not in within], found)
    root, text = _with_space_file(root, folder, found)
    return _applied(root, within, found), text


def _applied(root: Node, overrides: Sequence[Override], found: Found) -> Node:
    for override in overrides:
        try:
            root = override.apply(root)
        except BadInput as error:
            found.mistakes.extend(one for one in error.mistakes if isinstance(one, Mistake))
    return root


def _with_space_file(root: Node, folder: Path, found: Found) -> tuple[Node, str]:
    node = (root.mapping or {}).get("search_space")
    if node is None or not isinstance(node.value, str):
        return root, ""
    if not SPACE_FILE.fullmatch(node.value):
        rule = "must be a mapping of parameters, or a .yaml file of them"
        found.note(node, "search_space", rule, str(node), "write search_spaces/cnn-small.yaml")
        return _with(root, UNREAD), ""
    beside, here = folder / node.value, Path(node.value)
    try:
        document = read(_as_named(here if here.is_file() and not beside.is_file() else beside))
    except BadInput as error:
        _note_file(node, error, found)
        return _with(root, UNREAD), ""
    except OSError as error:
        found.note(node, "search_space", "cannot be read", f"{clean(node.value)}: {error.strerror}", "check the path")
        return _with(root, UNREAD), ""
    found.mistakes.extend(document.mistakes)
    return _with(root, document.root), document.text


def _as_named(path: Path) -> Path:
    """Short in messages: relative to where the person stands, if it lies below."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _note_file(node: Node, error: HpoError, found: Found) -> None:
    """A space file that cannot be read is a mistake of the line that names it; bad syntax in it has its own line."""
    for mistake in error.mistakes:
        assert isinstance(mistake, Mistake)
        if _PLACED.match(mistake.place):
            found.mistakes.append(mistake)
        else:
            got = clean(str(node.value)) + (f": {mistake.got}" if mistake.got else "")
            remedy = "name the parameters in it" if mistake.rule == "is empty" else "check the path"
            found.note(node, "search_space", f"names a file that {mistake.rule}", got, remedy)


def _with(root: Node, space: Node) -> Node:
    return replace(root, value={**(root.mapping or {}), "search_space": space})


# -- the spec ---------------------------------------------------------------------------------------------------------


class _File:
    """One study file being read."""

    def __init__(self, root: Node, folder: Path, found: Found, known: KnownTo, environ: Mapping[str, str]) -> None:
        self.root, self.folder, self.found, self.known, self.environ = root, folder, found, known, environ
        self.places = {"": root.place, **dict(places(root))}

    def spec(self, **about: Any) -> StudySpec:
        """The spec, with a default in place of what is wrong."""
        found = self.found
        values = read_fields(StudySpec, self.root, "", found, foreign.STUDY, "the study file")
        model, train = values.get("model", "cnn"), values.get("train")
        names = self.known(model, train) if not found.within("model", "train") else {}
        node = values.pop("space", UNREAD)
        space = None if node is UNREAD else SpaceSection(found, names, model).read(node)
        constraints = read_constraints(values.pop("constraints", None), found)
        points = values.pop("start_with", None)
        start_with: tuple[Params, ...] = ()
        if space is not None:
            check_constraints(constraints, space, values.get("seed", 0), found)
            start_with = read_points(points, space, [one for one, _ in constraints], found)
        values.setdefault("name", "unnamed")  # its mistake is noted
        self._complete(values)
        spec = StudySpec(
            **values,
            space=space or Space(()),
            constraints=tuple(one for one, _ in constraints),
            start_with=start_with,
            places=self.places,
            **about,
        )
        check(spec, found, space is not None)
        return spec

    def _absolute(self, source: str) -> str:
        return os.path.normpath(self.folder.absolute() / os.path.expanduser(source))  # noqa: PTH111 - may be any text

    def _complete(self, values: dict[str, Any]) -> None:
        """Defaults that depend on other values, and the environment's."""
        data: DataSpec | None = values.get("data")
        if data is not None and data.source not in DATA_SETS:
            values["data"] = data = replace(data, source=self._absolute(data.source))
        if data is not None and data.regression:
            values.setdefault("loss", "squared_error")
            values.setdefault("metric", Metric("val_mse"))
        metric: Metric = values.get("metric", Metric())
        if "metric.goal" not in self.places and smaller_is_better(metric.name):
            values["metric"] = replace(metric, goal="minimize")
        uri = self.environ.get("MLFLOW_TRACKING_URI")
        tracking: Tracking = values.get("tracking", Tracking())
        if tracking.uri is None and uri:
            values["tracking"] = replace(tracking, uri=uri)
