"""A .npz of images and labels. Its headers are read first, so that it is refused before the memory it claims is taken.

Arrays are X and y, or images and labels, or arr_0 and arr_1; or those of each part: x_train, y_train, x_test, y_test.
Images: (N, D) flat features -> (N, 1, 1, D); (N, H, W) grey; (N, H, W, C) or (N, C, H, W), where the smaller of the two
possible axes is the channels (the last one, if they are equal). Labels: (N,) or (N, 1). classes: the names of 0, 1,
..., if it is there.
"""

import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from hpo.data.sources.contents import FAR, Array, Contents, Part, labelled, of_arrays, refuse_above, unreadable, words
from hpo.errors import BadInput, Mistake
from hpo.study_file.spec import DataSpec

DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, NotImplementedError, OSError)
HOW = "np.savez(path, X=images, y=labels)"
MOST_CLASSES = 100_000
SIDE = 8  # rows of as many numbers as the smallest square images have
UNNAMED = {"arr_0": (None, "X"), "arr_1": (None, "y")}  # of np.savez(path, images, labels)
WORDS = {
    **dict.fromkeys(("x", "image", "images", "data"), "X"),
    **dict.fromkeys(("y", "label", "labels", "target", "targets"), "y"),
}


@dataclass(frozen=True, slots=True)
class Member:
    """One array of the archive, known by its header alone."""

    name: str
    place: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read(path: Path, spec: DataSpec, available: int | None) -> Contents:
    """Raises BadInput for a file without images and labels that fit together, or above the available memory."""
    with _refusing(str(path), "is no .npz or is damaged"), zipfile.ZipFile(path) as archive:
        pairs = _pairs(archive, path)
        names = _member(archive, "classes", path) if "classes.npy" in archive.namelist() else None
        members = [*(member for pair in pairs.values() for member in pair), *([names] if names else [])]
        mistakes = [*_unlike([image for image, _ in pairs.values()])]
        for image, label in pairs.values():
            mistakes += [*_image_mistakes(image, spec), *_target_mistakes(label, image, spec)]
        if names and (names.dtype.hasobject or len(names.shape) != 1 or names.shape[0] > MOST_CLASSES):
            got = f"{names.dtype} {names.shape}"
            mistakes.append(Mistake(names.place, "must be a list of texts", got, "save texts"))
        if mistakes:
            raise BadInput(*mistakes)
        refuse_above(str(path), sum(m.bytes for m in members), available, "hand over fewer rows, or images as uint8")
        arrays: dict[Member, Array] = {}
        for member in members:
            with _refusing(member.place, "is damaged"), archive.open(f"{member.name}.npy") as stream:
                arrays[member] = npy.read_array(stream, allow_pickle=False)
    if mistakes := [*_scales([(image, arrays[image]) for image, _ in pairs.values()])]:
        raise BadInput(*mistakes)
    images = [_channels_first(arrays[image]) for image, _ in pairs.values()]
    labels = np.concatenate([arrays[label].reshape(-1) for _, label in pairs.values()])
    classes = [str(name) for name in arrays[names].tolist()] if names else None
    targets = labelled(labels, spec, " and ".join([label.place for _, label in pairs.values()]), classes)
    notes = tuple(_flattened(pairs[Part.TRAIN][0]))
    return replace(of_arrays(path, images, targets, spec, [*pairs]), name=path.stem, notes=notes)


def holds(path: Path) -> bool:
    """Whether images and labels are in it, by their names."""
    try:
        with zipfile.ZipFile(path) as archive:
            return bool(_pairs(archive, path))
    except (*DAMAGED, BadInput):
        return False


@contextmanager
def _refusing(place: str, rule: str) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise unreadable(place) from error
    except DAMAGED as error:
        raise BadInput(Mistake(place, rule, "", f"write it with {HOW}")) from error


def _pairs(archive: zipfile.ZipFile, path: Path) -> dict[Part, tuple[Member, Member]]:
    """Images and labels of each part; all are of train where the file does not come split. Raises BadInput."""
    names = sorted(name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy"))
    found: dict[tuple[Part | None, str], list[str]] = {}
    for name in names:
        if key := UNNAMED.get(name) if names == [*UNNAMED] else _meaning(name):
            found.setdefault(key, []).append(name)
    doubled = next((same for same in found.values() if len(same) > 1), None)
    parts = sorted({part for part, _ in found}, key=lambda part: -1 if part is None else part) or [None]
    if doubled or (parts != [None] and (None in parts or Part.TRAIN not in parts)):
        got = ", ".join(doubled or (name for same in found.values() for name in same))
        rule = "must hold one pair of arrays, or one for each part, of which one is train"
        raise BadInput(Mistake(str(path), rule, got, "name them x_train, y_train, x_test, y_test"))
    absent = [(part, kind) for part in parts for kind in "Xy" if (part, kind) not in found]
    if missing := [kind if part is None else f"{kind.lower()}_{part.text}" for part, kind in absent]:
        rule = f"must hold arrays X and y, misses {' and '.join(missing)}"
        raise BadInput(Mistake(str(path), rule, ", ".join(names[:8]) or "nothing", f"write {HOW}"))
    return {
        part or Part.TRAIN: (_member(archive, found[part, "X"][0], path), _member(archive, found[part, "y"][0], path))
        for part in parts
    }


def _meaning(name: str) -> tuple[Part | None, str] | None:
    """The part of an array and whether it is X or y; None for one that is neither, as image_ids."""
    others = [word for word in words(name) if word != "set" and Part.named(word) is None]
    return (Part.named(name), WORDS[others[0]]) if len(others) == 1 and others[0] in WORDS else None


def _member(archive: zipfile.ZipFile, name: str, path: Path) -> Member:
    with archive.open(f"{name}.npy") as stream:
        version = npy.read_magic(stream)
        if version > (2, 0):  # only structured types with names that are not Latin-1 need 3.0
            raise ValueError(f"npy format {version}")
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = header(stream)
        stored = archive.getinfo(f"{name}.npy").file_size - stream.tell()
    member = Member(name, f"{path} {name}", shape, dtype)
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


def _target_mistakes(targets: Member, images: Member, spec: DataSpec) -> Iterator[Mistake]:
    if targets.dtype.hasobject:
        yield _object(targets)
    if targets.shape[1:] not in ((), (1,)) or not targets.shape:
        remedy = "save the one column to predict" if spec.regression else "save y.argmax(1) if these are one-hot labels"
        yield Mistake(targets.place, "must be (N,), one label an image", f"shape {targets.shape}", remedy)
    elif images.shape and targets.shape[0] != images.shape[0]:
        got = f"{targets.shape[0]} labels for {images.shape[0]} images"
        yield Mistake(targets.place, f"must be as long as {images.name}", got, "save one label an image")


def _unlike(images: Sequence[Member]) -> Iterator[Mistake]:
    """Parts must be of one shape, and all whole numbers or all not, so that they are on one scale."""
    first = images[0]
    for other in images[1:]:
        if other.shape[1:] != first.shape[1:] or (other.dtype.kind == "f") is not (first.dtype.kind == "f"):
            got = f"{other.dtype} {other.shape[1:]} and {first.dtype} {first.shape[1:]}"
            yield Mistake(other.place, f"must be images as {first.name} has them", got, "save both alike")


def _scales(images: Sequence[tuple[Member, Array]]) -> Iterator[Mistake]:
    """Parts must be on one scale: neither one of them divided by 255, nor bytes beside 16 bits."""
    (first, lowest, highest), *others = [(member, float(array.min()), float(array.max())) for member, array in images]
    for other, low, high in others:
        (small, least), (large, _) = sorted([(max(abs(low), abs(high)), low), (max(abs(lowest), abs(highest)), lowest)])
        if small < large and (large >= FAR * small or (least >= 0 and small <= 1 and large > 1.5)):
            got = f"numbers up to {high:g}, and up to {highest:g} there"
            yield Mistake(other.place, f"must be on the scale of {first.name}", got, "save both undivided")


def _flattened(images: Member) -> Iterator[str]:
    """A sentence on rows that may be images."""
    side = math.isqrt(math.prod(images.shape[1:]))
    if len(images.shape) == 2 and side >= SIDE and side**2 == images.shape[1]:
        yield f"each image is a row of {side**2} numbers: if it is {side}x{side}, save {images.name} as (N, {side}, {side})"


def _object(member: Member) -> Mistake:
    rule = "must not be an object array, which is a pickle and is never loaded"
    return Mistake(member.place, rule, str(member.dtype), "save uint8, float32, integers or texts")


def _channels_first(images: Array) -> Array:
    """A view (N, C, H, W)."""
    if images.ndim < 4:
        return images[:, None] if images.ndim == 3 else images[:, None, None]
    return images if images.shape[1] < images.shape[3] else images.transpose(0, 3, 1, 2)
