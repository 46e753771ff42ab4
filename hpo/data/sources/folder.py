"""A folder of images: one sub-folder a class, directly or under train, val and test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpo.data.sources.contents import PARTS, TEST, TRAIN, VAL, Array, Contents, Shape, labelled, refuse_any
from hpo.data.sources.images import Header, bad_links, decode_all, header, hidden, walk
from hpo.errors import BadInput, Mistake
from hpo.study_file.spec import DataSpec

PART_NAMES = {
    "train": TRAIN,
    "training": TRAIN,
    "val": VAL,
    "valid": VAL,
    "validation": VAL,
    "test": TEST,
    "testing": TEST,
}
LAYOUT = "make one sub-folder a class"


@dataclass(frozen=True, slots=True)
class Labelled:
    path: Path
    label: str
    part: int | None


def read(root: Path, spec: DataSpec) -> Contents:
    """Raises BadInput that names every file which is no image, and different sizes where data.resize is not set."""
    files = _files(root)
    shape = _shape(root, _headers(files, root), spec)
    names = np.array([file.label for file in files])
    targets, classes = labelled(_as_numbers(names, root) if spec.regression else names, spec, str(root))
    return Contents(
        name=root.name,
        place=str(root),
        targets=targets,
        classes=classes,
        shape=shape,
        dtype=np.dtype(np.uint8),
        pixels=lambda indices: decode_all([files[index].path for index in indices], shape, bool(spec.resize)),
        parts=None if files[0].part is None else np.array([file.part for file in files], np.int8),
    )


def _files(root: Path) -> list[Labelled]:
    files: list[Labelled] = []
    mistakes: list[Mistake] = []
    for folder, part in _part_folders(root):
        for label in _class_folders(folder, root):
            paths = walk(label, within=root)
            files += [Labelled(path, _text(label.name), part) for path in paths]
            if not paths:
                mistakes.append(Mistake(str(label), "holds no images", "", "put images there or remove the folder"))
    refuse_any(mistakes, root)
    if not files:
        names = sorted(path.name for path in root.iterdir())
        got = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise BadInput(Mistake(str(root), "holds no images in class folders", got, LAYOUT))
    return files


def _part_folders(root: Path) -> Sequence[tuple[Path, int | None]]:
    """The folders train, val and test, if these are what root holds; else root itself."""
    folders = _folders(root, root)
    parts = [(folder, PART_NAMES[folder.name.lower()]) for folder in folders if folder.name.lower() in PART_NAMES]
    if TRAIN not in (part for _, part in parts):
        return [(root, None)]
    others = [folder.name for folder in folders if folder.name.lower() not in PART_NAMES]
    if others:
        rule = "must hold either class folders or train, val and test"
        raise BadInput(Mistake(str(root), rule, f"both, such as {others[0]}", "move the class folders into train"))
    for part, name in enumerate(PARTS):
        names = [folder.name for folder, number in parts if number == part]
        if len(names) > 1:
            raise BadInput(Mistake(str(root), f"must hold one folder for {name}", ", ".join(names), "join them"))
    return parts


def _folders(folder: Path, root: Path) -> list[Path]:
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not hidden(path.name))
    refuse_any(bad_links(folders, root), root)
    return folders


def _class_folders(folder: Path, root: Path) -> list[Path]:
    """The sub-folders. Images loose beside them are refused; any other file there (a licence) is left out."""
    loose = [path for path in sorted(folder.iterdir()) if path.is_file() and not hidden(path.name) and _is_image(path)]
    refuse_any([Mistake(str(path), "must lie in the folder of its class", "", LAYOUT) for path in loose], folder)
    return _folders(folder, root)


def _is_image(path: Path) -> bool:
    try:
        header(path)
        return True
    except BadInput:
        return False


def _text(name: str) -> str:
    """A folder's name as text that can be written anywhere, whatever bytes the disk has."""
    return name.encode("utf-8", "replace").decode()


def _headers(files: Sequence[Labelled], root: Path) -> dict[Path, Header]:
    headers: dict[Path, Header] = {}
    mistakes: list[Mistake | str] = []
    for file in files:
        try:
            headers[file.path] = header(file.path)
        except BadInput as bad:
            mistakes += bad.mistakes
    refuse_any(mistakes, root)
    return headers


def _shape(root: Path, headers: dict[Path, Header], spec: DataSpec) -> Shape:
    """Colour if any image is; of one size, or resized."""
    channels = 3 if not spec.grey and any(head.colour for head in headers.values()) else 1
    if spec.resize:
        return channels, *spec.resize
    sizes: dict[tuple[int, int], Path] = {}
    for path, head in headers.items():
        sizes.setdefault((head.height, head.width), path)
    smallest = min(sizes, key=lambda size: size[0] * size[1])
    if len(sizes) > 1:
        shown = [f"{height}x{width} ({path.relative_to(root)})" for (height, width), path in list(sizes.items())[:3]]
        got = ", ".join(shown) + (f" and {len(sizes) - 3} more sizes" if len(sizes) > 3 else "")
        remedy = f"set data.resize, for example resize: {list(smallest)}"
        raise BadInput(Mistake(str(root), "images must have one size (height x width)", got, remedy))
    return channels, *smallest


def _as_numbers(names: Array, root: Path) -> Array:
    try:
        return names.astype(np.float32)
    except ValueError as error:
        rule, remedy = "folders must be named by numbers for regression", "hand the data over as .npz with numbers as y"
        raise BadInput(Mistake(str(root), rule, ", ".join(np.unique(names)[:3]), remedy)) from error
