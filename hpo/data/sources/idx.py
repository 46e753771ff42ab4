"""A folder of IDX files as the MNIST family ships them: train-images-idx3-ubyte, t10k-labels.idx1-ubyte.gz, ...

An IDX file is two zero bytes, a byte for the type (8: unsigned bytes), a byte for the number of dimensions, each
dimension as a big-endian uint32, then the values (http://yann.lecun.com/exdb/mnist).
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from itertools import chain
from pathlib import Path

import numpy as np

from hpo.data.sources import labels, memory
from hpo.data.sources.contents import TEST, TRAIN, Array, Contents, chosen, refuse_any, rows_a_block
from hpo.data.sources.pixels import fitted, fitted_shape
from hpo.errors import BadInput, Mistake
from hpo.study_file.spec import DataSpec

# also EMNIST's "emnist-letters-train-images-idx3-ubyte.gz"
NAME = re.compile(
    r"(?P<family>.*?)(?P<part>train|t10k|test)-(?P<kind>images|labels)[-.]idx(?P<dimensions>[13])(-ubyte)?(\.gz)?"
)
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, OSError, struct.error)
UNSIGNED_BYTES = 8


@dataclass(frozen=True, slots=True)
class Idx:
    """One file, known by its header alone."""

    path: Path
    shape: tuple[int, ...]


def holds_idx(folder: Path) -> bool:
    """Whether this folder holds IDX files."""
    return any(NAME.fullmatch(path.name) for path in folder.iterdir())


def read(folder: Path, spec: DataSpec, available: int | None) -> Contents:
    """Raises BadInput for files that are missing, damaged or do not fit together."""
    parts = _headers(_files(folder))
    _refuse_misfits(folder, parts)
    for _, marks in parts.values():
        memory.refuse_above(str(marks.path), math.prod(marks.shape), available, "hand over fewer labels")
    values = {part: np.concatenate(list(_rows(marks))) for part, (_, marks) in parts.items()}
    joined = np.concatenate(list(values.values()))
    numbers, classes = labels.numbered(joined, str(folder))
    height, width = parts[TRAIN][0].shape[1:]
    files = [images for images, _ in parts.values()]
    return Contents(
        name=folder.name,
        place=str(folder),
        targets=joined.astype(np.float32) if spec.regression else numbers,
        classes=None if spec.regression else classes,
        shape=fitted_shape((1, height, width), spec, str(folder)),
        dtype=np.dtype(np.uint8),
        blocks=lambda indices: (fitted(block[:, None], spec) for block in chosen(_all_rows(files), indices)),
        parts=np.repeat(list(values), [len(part) for part in values.values()]).astype(np.int8)
        if TEST in values
        else None,
    )


def _files(folder: Path) -> dict[int, dict[str, Path]]:
    """part -> kind -> file; a plain file goes before a gzipped one."""
    matches = [(match, path) for path in sorted(folder.iterdir()) if (match := NAME.fullmatch(path.name))]
    families = sorted({match["family"] for match, _ in matches})
    if len(families) > 1:
        got = ", ".join(family.strip("-") or "one without a name" for family in families)
        raise BadInput(Mistake(str(folder), "must hold one set of IDX files", got, "put each into a folder of its own"))
    files: dict[int, dict[str, Path]] = {TRAIN: {}}
    for match, path in matches:
        files.setdefault(TRAIN if match["part"] == "train" else TEST, {}).setdefault(match["kind"], path)
    for part, kinds in files.items():
        for kind, dimensions in (("images", 3), ("labels", 1)):
            if kind not in kinds:
                name = f"{families[0]}{('train', '', 't10k')[part]}-{kind}-idx{dimensions}-ubyte[.gz]"
                raise BadInput(Mistake(str(folder), f"must hold {name}", "", "put the file there"))
    return dict(sorted(files.items()))


def _headers(files: dict[int, dict[str, Path]]) -> dict[int, tuple[Idx, Idx]]:
    read: dict[Path, Idx] = {}
    mistakes: list[Mistake] = []
    for kinds in files.values():
        for kind, path in kinds.items():
            try:
                read[path] = Idx(path, _shape(path, 3 if kind == "images" else 1))
            except BadInput as bad:
                mistakes.extend(mistake for mistake in bad.mistakes if isinstance(mistake, Mistake))
    refuse_any(mistakes, "IDX files")
    return {part: (read[kinds["images"]], read[kinds["labels"]]) for part, kinds in files.items()}


def _shape(path: Path, dimensions: int) -> tuple[int, ...]:
    try:
        with _opened(path) as stream:
            magic = _exactly(stream, 4)
            if magic != bytes([0, 0, UNSIGNED_BYTES, dimensions]):
                rule = f"must begin with 00 00 08 {dimensions:02} (unsigned bytes in {dimensions}-d)"
                raise BadInput(Mistake(str(path), rule, magic.hex(" "), "fetch the file again"))
            return struct.unpack(f">{dimensions}I", _exactly(stream, 4 * dimensions))
    except PermissionError as error:
        raise BadInput(Mistake(str(path), "cannot be read", "permission denied", "change its permissions")) from error
    except DAMAGED as error:
        raise _damaged(path, "ends early" if isinstance(error, EOFError) else "is damaged") from error


def _refuse_misfits(folder: Path, parts: dict[int, tuple[Idx, Idx]]) -> None:
    mistakes = []
    for images, marks in parts.values():
        if images.shape[0] != marks.shape[0]:
            got = f"{marks.shape[0]} labels for {images.shape[0]} images"
            mistakes.append(Mistake(str(marks.path), "must be as long as the images", got, "fetch the files again"))
        if 0 in images.shape:
            mistakes.append(Mistake(str(images.path), "is empty", f"shape {images.shape}", "fetch the file again"))
    sizes = {images.shape[1:] for images, _ in parts.values()}
    if len(sizes) > 1:
        got = " and ".join(f"{images.shape[1]}x{images.shape[2]} ({images.path.name})" for images, _ in parts.values())
        mistakes.append(Mistake(str(folder), "images must have one size", got, "use files of one data set"))
    refuse_any(mistakes, folder)


def _all_rows(files: list[Idx]) -> Iterator[Array]:
    return chain.from_iterable(map(_rows, files))


def _rows(idx: Idx) -> Iterator[Array]:
    """The values in blocks, never more than the header says: what a gzip bomb holds beyond is not unpacked."""
    count, row = idx.shape[0], math.prod(idx.shape[1:])
    step = rows_a_block(row)
    try:
        with _opened(idx.path) as stream:
            _exactly(stream, 4 + 4 * len(idx.shape))
            for start in range(0, count, step):
                rows = min(step, count - start)
                yield np.frombuffer(_exactly(stream, rows * row), np.uint8).reshape(rows, *idx.shape[1:])
            if stream.read(1):
                raise _damaged(idx.path, f"holds more than the {count} of its header")
    except DAMAGED as error:
        raise _damaged(idx.path, "ends early" if isinstance(error, EOFError) else "is damaged") from error


def _opened(path: Path) -> gzip.GzipFile | BufferedReader:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _exactly(stream: gzip.GzipFile | BufferedReader, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


def _damaged(path: Path, rule: str) -> BadInput:
    return BadInput(Mistake(str(path), rule, "", "fetch the file again"))
