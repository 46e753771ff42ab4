"""Small data sets for tests of the trainer, saved as the workers find them."""

import gzip
import struct
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from hpo.core import Job, Params, Report
from hpo.data.dataset import Dataset, standards


def dataset(
    images: np.ndarray, targets: np.ndarray, classes: int | None, sizes: tuple[int, int], seed: int = 0
) -> Dataset:
    """sizes: rows of train and val; the rest is test."""
    rows = np.arange(len(images))
    groups = targets if classes else None
    train, rest = train_test_split(rows, train_size=sizes[0], random_state=seed, stratify=groups)
    left = None if groups is None else groups[rest]
    val, test = train_test_split(rest, train_size=sizes[1], random_state=seed, stratify=left)
    names = tuple(map(str, range(classes))) if classes else None
    return Dataset("made up", images, targets, names, train, val, test, *standards(images, train), digest="made up")


def bars(folder: Path, count: int = 90, channels: int = 1, size: int = 8, train: int = 49) -> Path:
    """Noisy images with a bright row (class 0), column (1) or diagonal (2), uint8. train is odd on purpose."""
    rng = np.random.default_rng(5)
    images = rng.integers(0, 90, (count, channels, size, size))
    targets = np.arange(count) % 3
    for image, target, where in zip(images, targets, rng.integers(1, size - 1, count), strict=True):
        if target == 0:
            image[:, where] = 220
        elif target == 1:
            image[:, :, where] = 220
        else:
            image[:, np.arange(size), np.arange(size)] = 220
    dataset(images.astype(np.uint8), targets.astype(np.int64), 3, (train, 20)).save(folder)
    return folder


def slopes(folder: Path, count: int = 400) -> Path:
    """Regression: float32 images that brighten to the right; the target is how much, around 50."""
    rng = np.random.default_rng(6)
    slope = rng.normal(size=count)
    images = rng.normal(scale=0.3, size=(count, 1, 6, 6)) + slope[:, None, None, None] * np.linspace(-1, 1, 6)
    targets = 50 + 10 * slope
    dataset(images.astype(np.float32), targets.astype(np.float32), None, (count // 2, count // 4)).save(folder)
    return folder


def noise(folder: Path, count: int = 200) -> Path:
    """Images that say nothing about their four classes: whatever is learned of them is learned by heart."""
    rng = np.random.default_rng(7)
    images = rng.integers(0, 255, (count, 1, 8, 8)).astype(np.uint8)
    dataset(images, rng.permutation(np.arange(count) % 4), 4, (count // 2, count // 4)).save(folder)
    return folder


def idx(path: Path, values: np.ndarray) -> None:
    """An IDX file as the MNIST family ships them, zipped if its name says so."""
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    data = head + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@cache
def digits(folder: Path) -> Path:
    """scikit-learn's digits: 1,257 to train, 270 to validate, 270 to test."""
    found = load_digits()
    images = (found.images[:, None] * 255 / 16).round().astype(np.uint8)
    dataset(images, found.target.astype(np.int64), 10, (1257, 270)).save(folder)
    return folder


def job(params: Params, folder: Path, start: int = 0, seed: int = 11, training: str = "made-up") -> Job:
    epochs = int(params.get("epochs", 4))
    every: dict[str, Any] = {"epochs": epochs, **params}
    return Job(training=training, params=every, seed=seed, start=start, until=epochs, known=start, folder=folder)


def numbers(report: Report) -> Mapping[str, float]:
    """What must be equal bit for bit."""
    return dict(report.metrics)
