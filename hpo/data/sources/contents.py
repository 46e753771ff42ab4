"""What is known of a data set before its pixels are read, so that it is refused or cut down before that costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from hpo.errors import BadInput, Mistake

Array = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, int, int]  # channels, height, width

TRAIN, VAL, TEST = 0, 1, 2
PARTS = ("train", "val", "test")

BLOCK_BYTES = 2**23  # what is read in one go: large enough to be fast, small enough for a peak nobody sees
SHOWN = 5  # mistakes of one kind that a person is shown


@dataclass(frozen=True, eq=False)
class Contents:
    """One source, described.

    place: what messages begin with; targets: (N,) int64 class numbers, or float32 for regression; classes: their names,
    None for regression; parts: (N,) int8 of TRAIN, VAL, TEST where the source comes split, else None;
    shape, dtype: of one image as `blocks` gives it, resized and grey as the study wants;
    blocks(indices): these images in ascending order of index, as arrays (n, C, H, W). Raises BadInput.
    """

    name: str
    place: str
    targets: Array
    classes: tuple[str, ...] | None
    shape: Shape
    dtype: np.dtype[Any]
    blocks: Callable[[Array], Iterator[Array]]
    parts: Array | None = None

    def __post_init__(self) -> None:
        assert self.parts is None or len(self.parts) == len(self.targets)
        assert self.dtype in (np.dtype(np.uint8), np.dtype(np.float32)), self.dtype

    @property
    def image_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize


def rows_a_block(image_bytes: int) -> int:
    """How many images make one block."""
    return max(1, BLOCK_BYTES // max(1, image_bytes))


def chosen(stored: Iterator[Array], indices: Array) -> Iterator[Array]:
    """Of blocks read one after the other, the images of these ascending indices."""
    start = 0
    for block in stored:
        low, high = np.searchsorted(indices, [start, start + len(block)])
        if high > low:
            yield block[indices[low:high] - start]
        start += len(block)


def refuse(mistakes: Sequence[Mistake], place: str | Path) -> NoReturn:
    """Raise the first of many mistakes, and say how many there are."""
    more = len(mistakes) - SHOWN
    rest = [Mistake(str(place), f"has {more} more mistakes like these")] if more > 0 else []
    raise BadInput(*mistakes[:SHOWN], *rest)


def refuse_any(mistakes: Sequence[Mistake], place: str | Path) -> None:
    """Raise if there are any."""
    if mistakes:
        refuse(mistakes, place)
