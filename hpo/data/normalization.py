"""Mean and deviation of every channel over the training split: what images are standardized by."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from hpo.data.sources.contents import Array, in_blocks

EPSILON = 1e-8  # under the root, so that what never varies is divided by 1e-4 and not by 0


def standards(images: Array, train: Array) -> tuple[Array, Array]:
    """images: (N, C, H, W); train: indices -> mean and sqrt(variance + EPSILON), (C,) float32 each.

    Of x / 255 where images are uint8, of x as it is where they are float32.
    """
    mean, variance = _of_bytes(images, train) if images.dtype == np.uint8 else _of_floats(images, train)
    return mean.astype(np.float32), np.sqrt(variance + EPSILON).astype(np.float32)


def _blocks(images: Array, indices: Array) -> Iterator[Array]:
    return (images[rows] for rows in in_blocks(indices, images[:1].nbytes))


def _of_bytes(images: Array, train: Array) -> tuple[Array, Array]:
    """Of x / 255, exactly: 256 counts a channel, the same in whatever order they are taken."""
    channels = images.shape[1]
    counts = np.zeros((channels, 256), np.int64)
    for block in _blocks(images, train):
        for channel in range(channels):
            counts[channel] += np.bincount(block[:, channel].reshape(-1), minlength=256)
    values = np.arange(256) / 255
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ values
    return mean, (share * (values - mean[:, None]) ** 2).sum(axis=1)


def _of_floats(images: Array, train: Array) -> tuple[Array, Array]:
    """Two passes: the mean first, so that a large mean does not swallow a small variance."""
    count = len(train) * math.prod(images.shape[2:])
    mean = sum(block.sum(axis=(0, 2, 3), dtype=np.float64) for block in _blocks(images, train)) / count
    centre = np.asarray(mean)[:, None, None]
    squares = sum(((block - centre) ** 2).sum(axis=(0, 2, 3)) for block in _blocks(images, train))
    return np.asarray(mean), np.asarray(squares) / count
