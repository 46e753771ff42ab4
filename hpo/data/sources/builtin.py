"""The data sets known by name: scikit-learn's digits, a harder set made from them, and three of openml.org."""

import os
import socket
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.datasets import fetch_openml, load_digits

from hpo.data.sources.contents import Array, Contents, Part, Shape, labelled, of_arrays, refuse_above
from hpo.errors import BadInput, EnvironmentFailed, Mistake
from hpo.study_file.spec import DataSpec

HARD_SIZE = 16
HARD_SEED = 1797
SILENCE_SECONDS = 30.0  # without an answer for so long a server counts as down

DIGITS = tuple("0123456789")
FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True, slots=True)
class Openml:
    """One data set of openml.org; its last `test` images are the test set its authors chose."""

    name: str
    shape: Shape
    images: int
    test: int
    classes: tuple[str, ...]

    @property
    def pixels(self) -> int:
        return int(np.prod(self.shape))


OPENML = {
    "mnist": Openml("mnist_784", (1, 28, 28), 70_000, 10_000, DIGITS),
    "fashion-mnist": Openml("Fashion-MNIST", (1, 28, 28), 70_000, 10_000, FASHION),
    "cifar10": Openml("CIFAR_10", (3, 32, 32), 60_000, 10_000, CIFAR),
}


def read(name: str, spec: DataSpec, available: int | None) -> Contents:
    """name: digits, digits-hard or one of OPENML. Raises BadInput, or EnvironmentFailed without network and cache."""
    if name in OPENML:
        return _openml(name, OPENML[name], spec, available)
    digits = load_digits()
    images = digits.images.astype(np.uint8)[:, None]  # 0..16, as they were scanned
    targets = labelled(digits.target, spec, name)
    return of_arrays(name, [harder(images) if name == "digits-hard" else images], targets, spec)


def harder(digits: Array) -> Array:
    """Digits (N, 1, 8, 8) of 0..16 -> (N, 1, 16, 16) of 0..255: shifted at random, of random contrast, under noise.

    A small CNN reaches 0.2 to 0.9 after 15 epochs: room that digits do not leave. Integers and a raw bit stream only, so that
    it is the same set on every machine and with every NumPy.
    """
    count = len(digits)
    noise = _raw(HARD_SEED, (count, HARD_SIZE, HARD_SIZE))
    rows, columns, contrast = _raw(HARD_SEED + 1, (3, count))
    free = HARD_SIZE - digits.shape[2] + 1
    canvas = (noise % 32 + (noise >> 32) % 32).astype(np.int64)  # triangular, mean 31
    for image in range(count):
        top, left = int(rows[image] % free), int(columns[image] % free)
        strength = 6 + int(contrast[image] % 7)  # ink is at most 96 to 192 above the ground
        canvas[image, top : top + 8, left : left + 8] += digits[image, 0].astype(np.int64) * strength
    return np.minimum(canvas, 255).astype(np.uint8)[:, None]


def _raw(seed: int, shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
    return np.random.PCG64(seed).random_raw(int(np.prod(shape))).reshape(shape)


def _openml(name: str, known: Openml, spec: DataSpec, available: int | None) -> Contents:
    # scikit-learn parses the text of the whole set into 4 bytes a pixel, twice for a moment
    needed = 8 * known.images * known.pixels
    refuse_above(name, needed, available, "save the data as a folder of IDX files or CIFAR batches")
    images, labels = _fetched(name, known)
    if images.shape[1:] != (known.pixels,) or not len(images) or images.min() < 0 or not images.max() <= 255:
        remedy = f"delete {_home()}/openml to have it fetched again"
        rule = f"must be images of {known.pixels} pixels of 0 to 255"
        raise BadInput(Mistake(name, rule, f"shape {images.shape}", remedy))
    numbers, classes = labelled(labels, spec, name)
    if classes is not None and len(classes) == len(known.classes):
        classes = known.classes
    pixels = images.astype(np.uint8).reshape(-1, *known.shape)
    whole = len(images) == known.images
    arrays = [pixels[: -known.test], pixels[-known.test :]] if whole else [pixels]
    return of_arrays(name, arrays, (numbers, classes), spec, (Part.TRAIN, Part.TEST) if whole else ())


def _fetched(name: str, known: Openml) -> tuple[Array, Array]:
    """Pixels (N, D) and class numbers (N,)."""
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE_SECONDS)  # scikit-learn sets no time limit of its own
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about retries, whose end becomes the error below
            # The types are ours because scikit-learn 1.9's own break with pandas 3.1 (scikit-learn#34892).
            types = {**dict.fromkeys(range(known.pixels), np.float32), known.pixels: str}
            bunch = fetch_openml(known.name, version=1, as_frame=False, n_retries=1, read_csv_kwargs={"dtype": types})
            return np.asarray(bunch.data), np.asarray(bunch.target).astype(np.int64)
    except MemoryError:
        raise
    except Exception as error:  # the network, the server, the cache and the parser all raise what they like
        remedy = f"connect once, copy another machine's {_home()}/openml here, or set data to a folder of the files"
        remedy = f"write data: ./{name}" if Path(name).exists() else remedy
        why = f"{type(error).__name__}: {error}"
        rule = f"is not in the cache and cannot be fetched from openml.org ({known.name})"
        raise EnvironmentFailed(Mistake(name, rule, why, remedy)) from error
    finally:
        socket.setdefaulttimeout(timeout)


def _home() -> Path:
    """scikit-learn's cache (sklearn.datasets.get_data_home would create the folder)."""
    return Path(os.environ.get("SCIKIT_LEARN_DATA") or Path("~", "scikit_learn_data")).expanduser()
