"""A .npz with X and y. X is read in blocks of rows, so that neither a large nor a lying file fills the memory.

X: (N, D) flat features -> (N, 1, 1, D); (N, H, W) grey; (N, H, W, C) or (N, C, H, W), where the smaller of the two
possible axes is the channels (the last one, if they are equal). y: (N,) integers or texts are classes, floats are
regression. classes: the names of 0, 1, ..., if it is there.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from hpo.data.sources import labels, memory
from hpo.data.sources.contents import Array, Contents, Shape, chosen, rows_a_block
from hpo.data.sources.pixels import fitted, fitted_shape
from hpo.errors import BadInput, Mistake
from hpo.study_file.spec import DataSpec

DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, NotImplementedError, OSError)
HOW = "np.savez(path, X=images, y=labels)"


@dataclass(frozen=True, slots=True)
class Member:
    """One array of the archive, known by its header alone."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool

    @property
    def place(self) -> str:
        return f"{self.path} {self.name}"

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read(path: Path, spec: DataSpec, available: int | None) -> Contents:
    """Raises BadInput for a file that is no .npz with X and y that fit together."""
    members = _members(path)
    images, targets = members["X"], members["y"]
    faults = [*_image_faults(images), *_target_faults(targets, images)]
    if faults:
        raise BadInput(*faults)
    memory.refuse_above(targets.place, targets.bytes, available, "hand over fewer rows")
    numbers, classes = _targets(members, spec)
    (shape, axis), kept = _layout(images.shape), _kept(images)
    if len(images.shape) == 2 and (spec.resize or spec.grey):
        raise BadInput(
            Mistake(
                images.place,
                "must be images to be resized or made grey",
                f"flat features of shape {images.shape}",
                "remove data.resize and data.grey",
            )
        )
    return Contents(
        name=path.stem,
        place=str(path),
        targets=numbers,
        classes=classes,
        shape=fitted_shape(shape, spec, images.place),
        dtype=kept,
        blocks=lambda indices: (fitted(block, spec) for block in chosen(_blocks(images, kept, axis), indices)),
    )


def _members(path: Path) -> dict[str, Member]:
    try:
        with zipfile.ZipFile(path) as archive:
            found = {info.filename[:-4]: info for info in archive.infolist() if info.filename.endswith(".npy")}
            missing = [name for name in ("X", "y") if name not in found]
            if missing:
                there = ", ".join(list(found)[:8]) or "nothing"
                raise BadInput(
                    Mistake(
                        str(path), f"must hold arrays X and y, misses {' and '.join(missing)}", there, f"write {HOW}"
                    )
                )
            wanted = [name for name in ("X", "y", "classes") if name in found]
            return {name: _member(archive, found[name], path, name) for name in wanted}
    except PermissionError as error:
        raise BadInput(Mistake(str(path), "cannot be read", "permission denied", "change its permissions")) from error
    except DAMAGED as error:
        raise BadInput(Mistake(str(path), "is no .npz or is damaged", "", f"write it with {HOW}")) from error


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, name: str) -> Member:
    with archive.open(info) as stream:
        shape, fortran, dtype = _header(stream)
        start = stream.tell()
    member = Member(path, name, shape, dtype, fortran)
    lies = min(shape, default=0) < 0 or info.file_size - start != member.bytes
    if lies and not dtype.hasobject:
        got = f"{info.file_size - start} bytes for shape {shape} of {dtype}"
        raise BadInput(Mistake(member.place, "is damaged", got, f"write it with {HOW}"))
    return member


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(stream)
    if version == (1, 0):
        return npy.read_array_header_1_0(stream)
    if version == (2, 0):
        return npy.read_array_header_2_0(stream)
    raise ValueError(f"npy format {version}")  # 3.0 exists only for structured types with names that are not Latin-1


def _image_faults(images: Member) -> Iterator[Mistake]:
    if images.dtype.hasobject:
        yield _object(images)
    elif images.dtype.kind not in "buif" or images.dtype.itemsize > 8:
        yield Mistake(images.place, "must be numbers", str(images.dtype), "save uint8 or float32")
    if len(images.shape) not in (2, 3, 4):
        rule = "must be (N, D), (N, H, W), (N, H, W, C) or (N, C, H, W)"
        yield Mistake(images.place, rule, f"shape {images.shape}", "reshape it")
    elif 0 in images.shape:
        yield Mistake(images.place, "is empty", f"shape {images.shape}", "put images in")


def _target_faults(targets: Member, images: Member) -> Iterator[Mistake]:
    if targets.dtype.hasobject:
        yield _object(targets)
    if len(targets.shape) != 1:
        rule, remedy = "must be (N,), one label an image", "save y.argmax(1) of one-hot labels, y.ravel() of a column"
        yield Mistake(targets.place, rule, f"shape {targets.shape}", remedy)
    elif images.shape and targets.shape[0] != images.shape[0]:
        got = f"{targets.shape[0]} labels for {images.shape[0]} images"
        yield Mistake(targets.place, "must be as long as X", got, "save one label an image")


def _object(member: Member) -> Mistake:
    rule = "must be no object array, which is a pickle and is never read"
    return Mistake(member.place, rule, str(member.dtype), "save uint8, float32, integers or texts")


def _targets(members: dict[str, Member], spec: DataSpec) -> tuple[Array, tuple[str, ...] | None]:
    values = _whole(members["y"])
    if spec.regression or values.dtype.kind == "f":
        return labels.regressed(values, members["y"].place), None
    return labels.numbered(values, members["y"].place, _names(members.get("classes")))


def _names(member: Member | None) -> list[str] | None:
    if member is None:
        return None
    if member.dtype.hasobject or len(member.shape) != 1 or member.shape[0] > 100_000:
        raise BadInput(Mistake(member.place, "must be a list of texts", f"{member.dtype} {member.shape}", "save texts"))
    return [str(name) for name in _whole(member).tolist()]


def _layout(shape: tuple[int, ...]) -> tuple[Shape, int]:
    """The shape (C, H, W) of an image and the axis of X its channels are on; 0 where X has none."""
    match shape[1:]:
        case (features,):
            return (1, 1, features), 0
        case (height, width):
            return (1, height, width), 0
        case (first, second, third):
            return ((first, second, third), 1) if first < third else ((third, first, second), 3)
    raise AssertionError(shape)


def _kept(images: Member) -> np.dtype[Any]:
    """uint8 as long as that loses nothing; integers beyond 0..255 and floats become float32."""
    if images.dtype.kind == "b" or images.dtype == np.uint8:
        return np.dtype(np.uint8)
    if images.dtype.kind == "f":
        return np.dtype(np.float32)
    inside = all(block.min() >= 0 and block.max() <= 255 for block in _rows(images))
    return np.dtype(np.uint8 if inside else np.float32)


def _blocks(images: Member, kept: np.dtype[Any], axis: int) -> Iterator[Array]:
    """All of X as (n, C, H, W)."""
    (channels, height, width), _ = _layout(images.shape)
    for block in _rows(images):
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, and inf is refused with its index
            block = block.astype(kept, copy=False)
        yield block.transpose(0, 3, 1, 2) if axis == 3 else block.reshape(len(block), channels, height, width)


def _rows(member: Member) -> Iterator[Array]:
    count, row = member.shape[0], member.bytes // member.shape[0]
    step = count if member.fortran else rows_a_block(row)
    try:
        with zipfile.ZipFile(member.path) as archive, archive.open(f"{member.name}.npy") as stream:
            if member.fortran:  # its rows are scattered over the file
                yield npy.read_array(stream, allow_pickle=False)
                return
            _header(stream)
            for start in range(0, count, step):
                rows = min(step, count - start)
                yield np.frombuffer(_exactly(stream, rows * row), member.dtype).reshape(rows, *member.shape[1:])
    except DAMAGED as error:
        raise BadInput(Mistake(member.place, "is damaged", "", f"write it with {HOW}")) from error


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


def _whole(member: Member) -> Array:
    blocks = list(_rows(member)) if member.shape[0] else []
    return np.concatenate(blocks) if blocks else np.empty(0, member.dtype)
