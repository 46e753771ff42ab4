"""What every kind of source gives: the targets, which part each image is of, and pixels on request.

Below that, what all sources share: memory limits checked before anything is decoded, and how they refuse.
"""

import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hpo.errors import BadInput, Mistake
from hpo.files import number_in
from hpo.formatting import byte_size
from hpo.study_file.spec import DataSpec

Array = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, int, int]  # channels, height, width
Targets = tuple[Array, tuple[str, ...] | None]  # numbers of classes and the names of these, or what is to be predicted

BLOCK_BYTES = 2**23  # what is read in one go: large enough to be fast, small enough for a peak of memory to go unseen
# ITU-R 601 in 1/65536, as Pillow's convert("L") has it, so that both ways give the same grey
LUMA = (19595, 38470, 7471)
FEW_VALUES = 8  # scans have more; fewer are drawings, masks, or pictures whose bits were lost on the way
MOST_WHOLE = 2**53  # above it a float no longer tells neighbours apart
FAR = 16  # times the largest pixel of other images: another unit, and not brighter pictures
SHOWN = 5  # mistakes of one kind that are shown


class Part(IntEnum):
    TRAIN = 0
    VAL = 1
    TEST = 2

    @property
    def text(self) -> str:
        return self.name.lower()

    @staticmethod
    def named(name: str) -> "Part | None":
        """The part that a folder or an array is of, as seg_train, TrainingSet and x_test say; None for other names."""
        parts = {PART_WORDS.get(word.removesuffix("set")) for word in words(name)} - {None}
        return parts.pop() if len(parts) == 1 else None


PART_WORDS = {
    **dict.fromkeys(("train", "training"), Part.TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev"), Part.VAL),
    **dict.fromkeys(("test", "testing"), Part.TEST),
}


def words(name: str) -> list[str]:
    """In lower case: "seg_train2" and "SegTrain" are seg and train."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


@dataclass(frozen=True, eq=False)
class Contents:
    """One source, described before its pixels are read, so that it is refused or cut down before that costs.

    place: what messages begin with; targets: (N,) int64 class numbers, or float32 for regression; classes: their names,
    None for regression; parts: (N,) int8 of Part where the source comes split, else None;
    shape, dtype: of one image as `pixels` gives it, resized and grey as the study wants, uint8 or float32;
    pixels(indices): these images (n, C, H, W), by ascending indices. Raises BadInput with every damaged one;
    notes: sentences on what people should know of it; files: whether they are image files, in which 255 is white
    however dark all of them are; advice: what to say where there is nothing to see in them.
    """

    name: str
    place: str
    targets: Array
    classes: tuple[str, ...] | None
    shape: Shape
    dtype: np.dtype[Any]
    pixels: Callable[[Array], Array]
    parts: Array | None = None
    notes: tuple[str, ...] = ()
    files: bool = False
    advice: str = "nothing is in it to learn from"

    @property
    def image_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


# -- targets -----------------------------------------------------------------------------------------------------


def labelled(values: Array, spec: DataSpec, place: str, names: Sequence[str] | None = None) -> Targets:
    """Targets (N,) of a source -> class numbers (N,) int64 and class names, or numbers (N,) float32 and None.

    names: of the classes 0, 1, ...; without them the labels that occur are the classes, in order. Raises BadInput.
    """
    if spec.regression:
        return _numbers(values, place), None
    if values.dtype.kind == "f":
        wide = values.astype(np.float64)
        fractional = ~(np.abs(wide) <= MOST_WHOLE) | (wide != np.round(wide))
        remedy = "set data.regression: true if these are numbers to predict"
        _refuse_where(fractional, values, place, "must be whole numbers to be classes", remedy)
        values = values.astype(np.int64)
    if values.dtype.kind in "iu":
        _refuse_where(values < 0, values, place, "must be class numbers from 0 on", "remove or fix these rows")
        if names is not None:
            rule = f"must be below the number of class names ({len(names)})"
            _refuse_where(values >= len(names), values, place, rule, "name every class or fix the labels")
            return values.astype(np.int64), tuple(names)
    elif values.dtype.kind not in "bUS":
        raise BadInput(Mistake(place, "must be class numbers or names", f"{values.dtype}", "save integers or texts"))
    labels, numbers = np.unique(values, return_inverse=True)
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8", "backslashreplace")
    return numbers.reshape(-1).astype(np.int64), tuple(map(str, labels.tolist()))


def _numbers(values: Array, place: str) -> Array:
    if values.dtype.kind not in "iufb":
        remedy = "save numbers as y of an .npz"
        raise BadInput(Mistake(place, "must be numbers for regression", f"{values.dtype}", remedy))
    with np.errstate(over="ignore"):
        numbers = values.astype(np.float32)
    _refuse_where(~np.isfinite(numbers), values, place, "must hold finite numbers", "remove or fix these rows")
    return numbers


def _refuse_where(bad: Array, values: Array, place: str, rule: str, remedy: str) -> None:
    indices = np.flatnonzero(bad)
    if len(indices):
        more = f" and {len(indices) - 1} more" if len(indices) > 1 else ""
        raise BadInput(Mistake(place, rule, f"{values[indices[0]]} at index {indices[0]}{more}", remedy))


# -- pixels ------------------------------------------------------------------------------------------------------


def of_arrays(
    place: str | Path, arrays: Sequence[Array], targets: Targets, spec: DataSpec, parts: Sequence[int] = ()
) -> Contents:
    """Contents of images (N, C, H, W), one array after the other. targets: of `labelled`; parts: of each array."""
    place = Path(place)
    shape = fitted_shape(arrays[0].shape[1:], spec, str(place))
    dtype = np.result_type(*map(_kept, arrays))
    starts = np.cumsum([0, *map(len, arrays)])

    def pixels(indices: Array) -> Array:
        cuts = np.searchsorted(indices, starts)
        slices = zip(arrays, starts, cuts, cuts[1:], strict=False)
        chosen = np.concatenate([array[indices[low:high] - start] for array, start, low, high in slices])
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, and inf is refused with its index
            return fitted(chosen.astype(dtype, copy=False), spec)

    part_of_each = np.repeat(np.array(parts, np.int8), [*map(len, arrays)]) if len(set(parts)) > 1 else None
    return Contents(place.name, str(place), *targets, shape, dtype, pixels, part_of_each)


def in_blocks(indices: Array, image_bytes: int) -> Iterator[Array]:
    """The indices in pieces whose images take about BLOCK_BYTES."""
    step = max(1, BLOCK_BYTES // max(1, image_bytes))
    return (indices[start : start + step] for start in range(0, len(indices), step))


def fitted_shape(shape: Shape, spec: DataSpec, place: str) -> Shape:
    """What `fitted` makes of an image of this shape. Raises BadInput where grey has no meaning."""
    channels, height, width = shape
    if spec.grey and channels not in (1, 3, 4):
        rule = "data.grey needs images of 1, 3 or 4 channels"
        raise BadInput(Mistake(place, rule, str(channels), "remove data.grey"))
    height, width = spec.resize or (height, width)
    return 1 if spec.grey else channels, height, width


def fitted(block: Array, spec: DataSpec) -> Array:
    """(n, C, H, W) uint8 or float32 -> the same, grey and resized if the study wants it."""
    grey = to_grey(block) if spec.grey and block.shape[1] > 1 else block
    return resized(grey, spec.resize) if spec.resize and grey.shape[2:] != tuple(spec.resize) else grey


def to_grey(block: Array) -> Array:
    """The luma of the first three channels; a fourth, alpha, is left out."""
    luma: Array = np.einsum("nchw,c->nhw", block[:, :3], np.array(LUMA) / 65536)[:, None]  # float64: bytes stay exact
    return (np.floor(luma + 0.5) if block.dtype == np.uint8 else luma).astype(block.dtype)


def resized(block: Array, size: tuple[int, int]) -> Array:
    """Every channel by itself, bilinear with Pillow's antialiasing. size: (height, width)."""
    out: Array = np.empty((*block.shape[:2], *size), block.dtype)
    for index in np.ndindex(*block.shape[:2]):
        plane = Image.fromarray(np.ascontiguousarray(block[index]))
        out[index] = np.asarray(plane.resize(size[::-1], Image.Resampling.BILINEAR))
    return out


def _kept(images: Array) -> np.dtype[Any]:
    """uint8 as long as that loses nothing; integers beyond 0..255 and floats become float32."""
    if images.dtype.kind == "b" or images.dtype == np.uint8:
        return np.dtype(np.uint8)
    inside = images.dtype.kind in "iu" and images.min() >= 0 and images.max() <= 255
    return np.dtype(np.uint8 if inside else np.float32)


def dull(images: Array, advice: str) -> Iterator[str]:
    """Sentences on images (N, C, H, W) in which there is little to see; flat features are none."""
    if images.shape[2] == 1:
        return
    if all((image == image[:, :1, :1]).all() for image in images):
        yield f"every image is of one colour all over: {advice}"
        return
    levels: set[float] = set()
    for image in images:
        levels.update(np.unique(image).tolist())
        if len(levels) > FEW_VALUES:
            return
    values = ", ".join(f"{level:g}" for level in sorted(levels))
    yield f"the pixels of all images take {len(levels)} values only ({values}): look at how the files were written"


def available_memory(root: Path = Path("/")) -> int:
    """Free bytes of the machine, or of its container (cgroups, version 2), whose file cache counts as free."""
    free, cgroup = 1024 * number_in(root / "proc/meminfo", "MemAvailable:"), root / "sys/fs/cgroup"
    with suppress(OSError, ValueError):  # no container, or "max": no limit
        most, used = (int((cgroup / name).read_text()) for name in ("memory.max", "memory.current"))
        return max(0, min(free, most - used + number_in(cgroup / "memory.stat", "inactive_file")))
    return free


def refuse_above(place: str, needed: int, available: int | None, remedy: str) -> None:
    if available is not None and needed > available:
        raise BadInput(Mistake(place, f"needs {byte_size(needed)} of memory", byte_size(available), remedy))


def raise_all(mistakes: Sequence[Mistake | str], place: str | Path) -> None:
    """Raise BadInput with the first mistakes and, if there are more, a file of all; nothing if there is none."""
    shown = [*mistakes[:SHOWN]]
    if more := len(mistakes) - len(shown):
        listed = ""  # where no file can be written
        with suppress(OSError):
            handle, name = tempfile.mkstemp(".txt", "hpo-mistakes-")
            Path(name).write_text("\n".join(map(str, mistakes)) + "\n", encoding="utf-8", errors="backslashreplace")
            os.close(handle)
            listed = f"all are listed in {name}"
        shown.append(Mistake(str(place), f"has {more} more mistakes like these", "", listed))
    if shown:
        raise BadInput(*shown)


def unreadable(path: Path | str) -> BadInput:
    return BadInput(Mistake(str(path), "cannot be read", "permission denied", "change its permissions"))
