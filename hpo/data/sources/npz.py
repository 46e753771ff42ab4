"""A .npz with X and y. Its headers are read first, so that a file is refused before the memory it claims is taken.

X: (N, D) flat features -> (N, 1, 1, D); (N, H, W) grey; (N, H, W, C) or (N, C, H, W), where the smaller of the two
possible axes is the channels (the last one, if they are equal). y: (N,) integers or texts are classes, floats are
regression. classes: the names of 0, 1, ..., if it is there.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from hpo.data.sources.contents import Array, Contents, labelled, of_arrays, refuse_above, unreadable
from hpo.errors import BadInput, Mistake
from hpo.study_file.spec import DataSpec

DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, NotImplementedError, OSError)
HOW = "np.savez(path, X=images, y=labels)"
MOST_CLASSES = 100_000


@dataclass(frozen=True, slots=True)
class Member:
    """One array of the archive, known by its header alone."""

    place: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read(path: Path, spec: DataSpec, available: int | None) -> Contents:
    """Raises BadInput for a file that is no .npz with X and y that fit together, or is above the available memory."""
    with _refusing(str(path), "is no .npz or is damaged"), zipfile.ZipFile(path) as archive:
        members = _members(archive, path)
        mistakes = [*_image_mistakes(members["X"], spec), *_target_mistakes(members["y"], members["X"])]
        mistakes += _name_mistakes(members.get("classes"))
        if mistakes:
            raise BadInput(*mistakes)
        for member in members.values():
            refuse_above(member.place, member.bytes, available, "hand over fewer rows, or images as uint8")
        arrays: dict[str, Array] = {}
        for name, member in members.items():
            with _refusing(member.place, "is damaged"), archive.open(f"{name}.npy") as stream:
                arrays[name] = npy.read_array(stream, allow_pickle=False)
    names = [str(name) for name in arrays["classes"].tolist()] if "classes" in arrays else None
    targets = labelled(arrays["y"], spec, members["y"].place, names)
    return replace(of_arrays(path, [_channels_first(arrays["X"])], targets, spec), name=path.stem)


@contextmanager
def _refusing(place: str, rule: str) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise unreadable(place) from error
    except DAMAGED as error:
        raise BadInput(Mistake(place, rule, "", f"write it with {HOW}")) from error


def _members(archive: zipfile.ZipFile, path: Path) -> dict[str, Member]:
    names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    missing = [name for name in ("X", "y") if name not in names]
    if missing:
        rule = f"must hold arrays X and y, misses {' and '.join(missing)}"
        raise BadInput(Mistake(str(path), rule, ", ".join(names[:8]) or "nothing", f"write {HOW}"))
    return {name: _member(archive, name, path) for name in ("X", "y", "classes") if name in names}


def _member(archive: zipfile.ZipFile, name: str, path: Path) -> Member:
    with archive.open(f"{name}.npy") as stream:
        version = npy.read_magic(stream)
        if version > (2, 0):  # only structured types with names that are not Latin-1 need 3.0
            raise ValueError(f"npy format {version}")
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = header(stream)
        stored = archive.getinfo(f"{name}.npy").file_size - stream.tell()
    member = Member(f"{path} {name}", shape, dtype)
    if not dtype.hasobject and (min(shape, default=0) < 0 or stored != member.bytes):
        got = f"{stored} bytes for shape {shape} of {dtype}"
        raise BadInput(Mistake(member.place, "is damaged", got, f"write it with {HOW}"))
    return member


def _image_mistakes(images: Member, spec: DataSpec) -> Iterator[Mistake]:
    if images.dtype.hasobject:
        yield _object(images)
    elif images.dtype.kind not in "buif" or images.dtype.itemsize > 8:
        yield Mistake(images.place, "must be numbers", str(images.dtype), "save uint8 or float32")
    if len(images.shape) not in (2, 3, 4):
        rule = "must be (N, D), (N, H, W), (N, H, W, C) or (N, C, H, W)"
        yield Mistake(images.place, rule, f"shape {images.shape}", "reshape it")
    elif 0 in images.shape:
        yield Mistake(images.place, "is empty", f"shape {images.shape}", "put images in")
    elif len(images.shape) == 2 and (spec.resize or spec.grey):
        rule, got = "must be images to be resized or made grey", f"flat features of shape {images.shape}"
        yield Mistake(images.place, rule, got, "remove data.resize and data.grey")


def _target_mistakes(targets: Member, images: Member) -> Iterator[Mistake]:
    if targets.dtype.hasobject:
        yield _object(targets)
    if len(targets.shape) != 1:
        rule, remedy = "must be (N,), one label an image", "save y.argmax(1) of one-hot labels, y.ravel() of a column"
        yield Mistake(targets.place, rule, f"shape {targets.shape}", remedy)
    elif images.shape and targets.shape[0] != images.shape[0]:
        got = f"{targets.shape[0]} labels for {images.shape[0]} images"
        yield Mistake(targets.place, "must be as long as X", got, "save one label an image")


def _name_mistakes(names: Member | None) -> Iterator[Mistake]:
    if names and (names.dtype.hasobject or len(names.shape) != 1 or names.shape[0] > MOST_CLASSES):
        yield Mistake(names.place, "must be a list of texts", f"{names.dtype} {names.shape}", "save texts")


def _object(member: Member) -> Mistake:
    rule = "must not be an object array, which is a pickle and is never loaded"
    return Mistake(member.place, rule, str(member.dtype), "save uint8, float32, integers or texts")


def _channels_first(images: Array) -> Array:
    """A view (N, C, H, W)."""
    if images.ndim < 4:
        return images[:, None] if images.ndim == 3 else images[:, None, None]
    return images if images.shape[1] < images.shape[3] else images.transpose(0, 3, 1, 2)
