"""Figures of one trained model: learning curves, confusion matrix, worst mistakes, first-layer filters and feature maps.

Plain arrays in, figures out. Empty arrays leave their figure out.

    C channels, H x W pixels, K classes, F filters, n samples, m mistakes
"""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hpo.core import Report
from hpo.formatting import finite, number, printable
from hpo.report.figures import spread
from hpo.report.page import ACCENT, INK, MUTED, SERIES, Picture, canvas, label

Array = NDArray[np.generic]

MOST_FILTERS, MOST_MAPS, MOST_MISTAKES = 32, 8, 16
ONE_LINE, MOST_LETTERS = 4, 11  # of a class's name over an image: with the confidence in its line, and at all


def _none() -> Array:
    return np.zeros(0)


@dataclass(frozen=True)
class ModelFigures:
    """The arrays that training/feature_maps.py saved of one trained model.

    filters (F, C, h, w); samples (n, C, H, W) with maps (n, F, h, w), the first layer's output for them; confusion (K,
    K) counts, rows are the truth; mistakes (m, C, H, W), worst first, with truth, guess, confidence (m,). classes:
    names, empty for regression, where truth and guess are numbers and confidence stays empty; split: the images' split.
    """

    trial: int
    classes: tuple[str, ...] = ()
    split: str = "test"
    filters: Array = field(default_factory=_none)
    samples: Array = field(default_factory=_none)
    maps: Array = field(default_factory=_none)
    confusion: Array = field(default_factory=_none)
    mistakes: Array = field(default_factory=_none)
    truth: Array = field(default_factory=_none)
    guess: Array = field(default_factory=_none)
    confidence: Array = field(default_factory=_none)

    @classmethod
    def open(cls, path: Path) -> ModelFigures | None:
        """None for a file that is missing or cannot be read: the report then goes without these figures."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
                arrays = dict(saved)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return None
        classes = tuple(printable(str(name)) for name in arrays.pop("classes"))
        return cls(int(arrays.pop("trial")), classes, str(arrays.pop("split")), **arrays)


def pictures(model: ModelFigures, reports: Sequence[Report] = ()) -> list[Picture]:
    """Those for which there is data; reports: the trial's, for its learning curves."""
    who, where = f"trial {model.trial}", f"on the {model.split} split"
    drawn: list[tuple[object, str, str, Callable[[], Figure]]] = [
        (len(reports) > 1, "learning", f"Training and validation of {who} after each epoch", lambda: learning(reports)),
        (model.confusion.size, "confusion", f"Confusion matrix of {who} {where}", lambda: confusion(model)),
        (model.mistakes.size, "mistakes", f"Worst mistakes of {who} {where}", lambda: mistakes(model)),
        (model.filters.size, "filters", f"First-layer filters of {who}", lambda: filters(model.filters)),
        (model.maps.size, "maps", f"Feature maps of {who}", lambda: feature_maps(model)),
    ]
    return [Picture(f"best-{name}", caption, draw) for there, name, caption, draw in drawn if there]


def learning(reports: Sequence[Report]) -> Figure:
    """Losses on the left, the other validation metrics that lie in [0, 1] on the right."""
    names = [name for name in reports[-1].metrics if all(name in report.metrics for report in reports)]
    losses = [name for name in names if name.endswith("_loss")]
    shares = [
        n for n in names if n.startswith("val_") and n not in losses and all(0 <= r.metrics[n] <= 1 for r in reports)
    ]
    groups = [group for group in (losses, shares) if group]
    figure = Figure(figsize=(7.6, 2.9), layout="constrained")
    for place, group in enumerate(groups):
        axes = figure.add_subplot(1, len(groups), place + 1)
        axes.tick_params(length=0)
        axes.set_xlabel("epoch")
        lines = [[finite(report.metrics[name]) for report in reports] for name in group]
        for line, colour in zip(lines, itertools.cycle(SERIES), strict=False):
            axes.plot([report.epoch for report in reports], line, color=colour, lw=1.8)
        low, high = axes.get_ylim()
        ends = [line[-1] if np.isfinite(line[-1]) else low for line in lines]
        places = spread(ends, (high - low) * 0.07, low, high)
        for name, end, colour in zip(group, places, itertools.cycle(SERIES), strict=False):
            label(axes, reports[-1].epoch, end, name, colour)
    return figure


def confusion(model: ModelFigures) -> Figure:
    """Rows are the true classes, columns the predicted ones; the shade is the share of the row, mistakes stand out."""
    table, classes = np.asarray(model.confusion, dtype=float), model.classes
    size = len(table)
    side = min(max(2.6, 0.36 * size + 0.9), 6.5)
    figure, axes = canvas(side, side)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    right = np.eye(size, dtype=bool)
    strength = np.where(right, shares * 0.85, np.minimum(shares * 3, 0.9))
    tint = np.where(right[..., None], to_rgb(ACCENT), to_rgb(SERIES[1]))
    axes.imshow(np.dstack([tint, strength]), interpolation="none")
    for row, column in np.argwhere(table > 0) if size <= 20 else ():
        ink = "#ffffff" if strength[row, column] > 0.5 else INK  # white in the dark too: tints are no variables
        text = f"{table[row, column]:.0f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color=ink)
    marks = range(0, size, max(1, size // 25))
    axes.set_xticks(marks, [classes[i] for i in marks], rotation=90 if max(map(len, classes), default=0) > 3 else 0)
    axes.set_yticks(marks, [classes[i] for i in marks])
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), xlabel="predicted", ylabel="true", aspect="equal")
    axes.spines[:].set_visible(False)
    axes.grid(False)
    return figure


def mistakes(model: ModelFigures) -> Figure:
    """The images with the worst mistakes, each with its true and its predicted class or number."""
    shown = range(min(len(model.mistakes), MOST_MISTAKES))
    titles = [_mistake(model, i) for i in shown]
    lines = max((title.count("\n") + 1 for title in titles), default=0)
    return _gallery([model.mistakes[i] for i in shown], titles, columns=8, room=0.12 + 0.18 * lines)


def _mistake(model: ModelFigures, i: int) -> str:
    truth, guess = model.truth[i], model.guess[i]
    if not model.classes:
        return f"true {number(float(truth))}\npred. {number(float(guess))}"
    names = [model.classes[int(which)] for which in (truth, guess)]
    names = [name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 1]}…" for name in names]
    between = " " if max(map(len, model.classes)) <= ONE_LINE else "\n"
    sure = f"{between}{float(model.confidence[i]) * 100:.0f} %" if len(model.confidence) else ""
    return f"true {names[0]}\npred. {names[1]}{sure}"


def filters(weights: Array) -> Figure:
    """Each filter of the first layer, averaged over its channels unless they are colours; grey is 0, white positive."""
    some = np.asarray(weights, dtype=float)[:MOST_FILTERS]
    if some.shape[1] != 3:
        some = some.mean(axis=1, keepdims=True)
    top = np.abs(some).max() or 1.0
    numbers = [f"{i}" for i in range(len(some))]
    return _gallery(list(some / top / 2 + 0.5), numbers, columns=16, room=0.36, limits=(0.0, 1.0))


def feature_maps(model: ModelFigures) -> Figure:
    """One row a sample: the image, then what the first layers' filters make of it."""
    images: list[Array] = []
    for sample, maps in zip(model.samples[:4], model.maps[:4], strict=True):
        images += [sample, *(one[None] for one in maps[:MOST_MAPS])]
    columns = 1 + min(model.maps.shape[1], MOST_MAPS)
    titles = ["image", *map(str, range(columns - 1)), *[""] * (len(images) - columns)]
    return _gallery(images, titles, columns=columns, head=0.26)


def _gallery(
    images: Sequence[Array],
    titles: Sequence[str],
    columns: int,
    room: float = 0.06,
    head: float = 0.0,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Small images (C, h, w) side by side, pixels left sharp; each on its own scale unless limits are given.

    room: above each row for its titles, in widths of an image; head: what the first row has more of it.
    """
    columns = min(columns, max(len(images), 1))
    rows = -(-len(images) // columns)
    shape = np.shape(images[0])
    high, wide = shape[-2] / shape[-1], columns * 1.08
    tall = room + high + 0.02
    whole = rows * tall + head
    figure = Figure(figsize=(width := min(7.6, 0.95 * columns), whole * width / wide))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    for place, (image, title) in enumerate(zip(images, titles, strict=True)):
        left, top = place % columns * 1.08, head + room + place // columns * tall
        least, most = limits or (None, None)
        extent = (left, left + 1, top + high, top)
        axes.imshow(_visible(image), cmap="gray", vmin=least, vmax=most, interpolation="none", extent=extent)
        axes.text(left, top - 0.05, title, fontsize=7.5, color=MUTED, va="bottom")
    axes.set(xlim=(-0.02, wide), ylim=(whole, 0), aspect="auto")
    return figure


def _visible(image: Array) -> NDArray[np.float64]:
    """(C, h, w) as imshow wants it: colour scaled to [0, 1], anything else the mean of its channels."""
    values = np.asarray(image, dtype=float)
    if len(values) != 3:
        return np.asarray(values.mean(axis=0))
    low, high = values.min(), values.max()
    return np.asarray(np.moveaxis((values - low) / ((high - low) or 1.0), 0, -1))
