"""A folder of images: one sub-folder a class, directly or under train, val and test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpo.data.sources import labels
from hpo.data.sources.contents import (
    PARTS,
    SHOWN,
    TEST,
    TRAIN,
    VAL,
    Array,
    Contents,
    Shape,
    refuse,
    refuse_any,
    rows_a_block,
)
from hpo.data.sources.images import Header, decode, header, hidden, linked_folder, own, walk
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
    files = _labelled(root)
    shape = _shape(root, _headers(files, root), files, spec)
    numbers, classes = labels.numbered(np.array([file.label for file in files]), str(root))
    return Contents(
        name=root.name,
        place=str(root),
        targets=_as_numbers(root, classes)[numbers] if spec.regression else numbers,
        classes=None if spec.regression else classes,
        shape=shape,
        dtype=np.dtype(np.uint8),
        blocks=lambda indices: _decoded([files[index].path for index in indices], shape, bool(spec.resize), root),
        parts=None if files[0].part is None else np.array([file.part for file in files], np.int8),
    )


def _labelled(root: Path) -> list[Labelled]:
    parts = _part_folders(root)
    found: list[Labelled] = []
    mistakes: list[Mistake] = []
    for folder, part in parts:
        for label in _class_folders(folder, root):
            files = walk(label, within=root)
            found += [Labelled(path, _text(label.name), part) for path in files]
            if not files:
                mistakes.append(Mistake(str(label), "holds no images", "", "put images there or remove the folder"))
    refuse_any(mistakes, root)
    if not found:
        raise BadInput(Mistake(str(root), "holds no images in class folders", _first_names(root), LAYOUT))
    return found


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
    numbers = [part for _, part in parts]
    for part in set(numbers):
        if numbers.count(part) > 1:
            names = ", ".join(folder.name for folder, number in parts if number == part)
            raise BadInput(Mistake(str(root), f"must hold one folder for {PARTS[part]}", names, "join them"))
    return parts


def _folders(folder: Path, root: Path) -> list[Path]:
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not hidden(path.name))
    refuse_any([linked_folder(path, root.resolve()) for path in folders if path.is_symlink()], root)
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


def _first_names(root: Path) -> str:
    names = sorted(path.name for path in root.iterdir())
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if names else "an empty folder"


def _headers(files: Sequence[Labelled], root: Path) -> list[Header]:
    headers: list[Header] = []
    mistakes: list[Mistake] = []
    for file in files:
        try:
            headers.append(header(file.path))
        except BadInput as bad:
            mistakes.extend(own(bad))
    refuse_any(mistakes, root)
    return headers


def _shape(root: Path, headers: Sequence[Header], files: Sequence[Labelled], spec: DataSpec) -> Shape:
    """Colour if any image is; of one size, or resized."""
    channels = 3 if not spec.grey and any(head.colour for head in headers) else 1
    if spec.resize:
        return channels, *spec.resize
    sizes: dict[tuple[int, int], int] = {}
    for index, head in enumerate(headers):
        sizes.setdefault((head.height, head.width), index)
    if len(sizes) > 1:
        shown = [
            f"{height}x{width} ({files[index].path.relative_to(root)})"
            for (height, width), index in list(sizes.items())[:3]
        ]
        rest = f" and {len(sizes) - 3} more sizes" if len(sizes) > 3 else ""
        remedy = "set data.resize, for example resize: [{}, {}]".format(*min(sizes, key=lambda size: size[0] * size[1]))
        raise BadInput(
            Mistake(str(root), "images must have one size (height x width)", ", ".join(shown) + rest, remedy)
        )
    return channels, headers[0].height, headers[0].width


def _as_numbers(root: Path, classes: tuple[str, ...]) -> Array:
    try:
        return np.array([float(name) for name in classes], np.float32)
    except ValueError as error:
        rule, remedy = "folders must be named by numbers for regression", "hand the data over as .npz with numbers as y"
        raise BadInput(Mistake(str(root), rule, ", ".join(classes[:3]), remedy)) from error


def _decoded(paths: Sequence[Path], shape: Shape, resize: bool, root: Path) -> Iterator[Array]:
    """Blocks of images; all damaged files are named together, at the end."""
    mistakes: list[Mistake] = []
    step = rows_a_block(int(np.prod(shape)))
    for start in range(0, len(paths), step):
        block = np.zeros((len(paths[start : start + step]), *shape), np.uint8)
        for row, path in enumerate(paths[start : start + step]):
            try:
                block[row] = decode(path, shape, resize)
            except BadInput as bad:
                mistakes.extend(own(bad))
        if len(mistakes) > SHOWN:
            refuse(mistakes, root)
        yield block
    refuse_any(mistakes, root)
