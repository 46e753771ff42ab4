"""Pixels of a whole block of images: grey and of one size."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from hpo.data.sources.contents import Array, Shape
from hpo.errors import BadInput, Mistake
from hpo.study_file.spec import DataSpec

LUMA = (
    19595,
    38470,
    7471,
)  # ITU-R 601 in 1/65536, as Pillow's convert("L") has it, so that both ways give the same grey


def fitted_shape(shape: Shape, spec: DataSpec, place: str) -> Shape:
    """What `fitted` makes of an image of this shape. Raises BadInput where grey has no meaning."""
    channels, height, width = shape
    if spec.grey and channels not in (1, 3, 4):
        raise BadInput(
            Mistake(place, "data.grey needs images of 1, 3 or 4 channels", str(channels), "remove data.grey")
        )
    height, width = spec.resize or (height, width)
    return 1 if spec.grey else channels, height, width


def fitted(block: Array, spec: DataSpec) -> Array:
    """(n, C, H, W) uint8 or float32 -> the same, grey and resized if the study wants it."""
    grey = to_grey(block) if spec.grey and block.shape[1] > 1 else block
    return resized(grey, spec.resize) if spec.resize and grey.shape[2:] != tuple(spec.resize) else grey


def to_grey(block: Array) -> Array:
    """The luma of the first three channels; a fourth, alpha, is left out."""
    if block.dtype != np.uint8:
        weights = np.array(LUMA, dtype=np.float32) / np.float32(65536)
        grey: Array = np.einsum("nchw,c->nhw", block[:, :3], weights)
        return grey[:, None].astype(np.float32)
    weighed: Array = np.einsum("nchw,c->nhw", block[:, :3].astype(np.uint32), np.array(LUMA, np.uint32))
    return ((weighed + 0x8000) >> 16).astype(np.uint8)[:, None]


def resized(block: Array, size: tuple[int, int]) -> Array:
    """Every channel by itself, bilinear with Pillow's antialiasing. size: (height, width)."""
    count, channels = block.shape[:2]
    made: Array = np.empty((count, channels, *size), dtype=block.dtype)
    for image in range(count):
        for channel in range(channels):
            made[image, channel] = _resized(block[image, channel], size)
    return made


def _resized(plane: Array, size: tuple[int, int]) -> np.ndarray[Any, Any]:
    height, width = size
    picture = Image.fromarray(np.ascontiguousarray(plane))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
