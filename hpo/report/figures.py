"""The figures of a study, of a comparison and of one trained model, each drawn from plain values on a new figure.

Lines are named where they end rather than in a legend, so that no colours have to be matched.
C channels, H x W pixels, K classes, F filters, n samples, m mistakes
"""

from __future__ import annotations

import itertools
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from pathlib import Path
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import NDArray

from hpo.comparison.compare import TWICE, Comparison, CurvePoint
from hpo.core import Goal, Report, State, Study, Trial
from hpo.formatting import decimals, finite, number, printable, written
from hpo.report.page import ACCENT, INK, MUTED, PAPER, SERIES, SMALL, Picture, canvas, label
from hpo.space.domains import Choice, Parameter

MOST_FILTERS, MOST_MAPS, MOST_MISTAKES = 32, 8, 16
ONE_LINE, MOST_LETTERS = 4, 11  # of a class's name over an image: with the confidence in its line, and at all
BESIDE, BELOW, LETTER = 24, 38, 0.075  # most letters of a name beside a figure, of all below a slice; one in inches
DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)), (0, (1, 1)))
LOOKS = (*zip(SERIES, DASHES, strict=True),)  # of coinciding curves the lower ones are seen through the gaps

Array = NDArray[np.generic]


def best_so_far(points: Sequence[CurvePoint], study: Study, goal: Goal) -> Figure:
    """The best value as steps, all trials that ended as dots; those far off are counted at the edge, not drawn."""
    figure, axes = canvas(7.6, 3.3)
    shown = [t for t in study.trials if t.number in study.spent and math.isfinite(goal.score(t))]
    low, high = window([*(_value(trial, goal) for trial in shown), *(point.value for point in points)], goal)
    for complete, face in ((False, PAPER), (True, MUTED)):
        some = [trial for trial in shown if (trial.state is State.COMPLETE) is complete]
        places = [study.spent[trial.number] for trial in some], [_value(trial, goal) for trial in some]
        axes.scatter(*places, s=15, color=face, edgecolor=MUTED, linewidth=0.8, alpha=0.75)
    best, end = points[-1].value, study.epochs
    first = next(point.epochs for point in points if point.value == best)
    steps = [*(p.epochs for p in points), end], [*(p.value for p in points), best]
    axes.step(*steps, where="post", color=ACCENT, lw=2.2)
    axes.scatter([first], [best], s=48, color=ACCENT, zorder=4)
    names = [(best, decimals(best), ACCENT)]
    if goal.target is not None and low <= goal.target <= high:
        axes.axhline(goal.target, color=SERIES[1], linewidth=0.9, linestyle=(0, (4, 3)))
        names.append((goal.target, "target", SERIES[1]))
    _name(axes, end, names, (low, high))
    _remark(axes, sum(not low <= _value(trial, goal) <= high for trial in shown), goal)
    axes.set(ylim=(low, high), xlim=(0, end * 1.01), xlabel="epochs trained", ylabel=goal.metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def learning_curves(trials: Sequence[Trial], best: int, goal: Goal) -> Figure:
    """The metric after each epoch of a few trials, the best in front; nan and infinity leave a gap."""
    figure, axes = canvas(7.6, 3.3)
    curves = [[finite(report.metrics.get(goal.metric, math.nan)) for report in trial.reports] for trial in trials]
    late = [value for values in curves for value in values[len(values) // 4 :] if math.isfinite(value)]
    low, high = window(late, goal)
    ends: dict[int, list[tuple[float, str, str]]] = {}  # by their epochs
    for trial, values in zip(trials, curves, strict=True):
        name, colour, width = f"{trial.number}", MUTED, 1.2
        if trial.number == best:
            name, colour, width = f"trial {best}", ACCENT, 2.0
        epochs = range(1, len(values) + 1)
        axes.plot(epochs, values, color=colour, lw=width, alpha=width / 2, marker="o", ms=1 + width, zorder=1 + width)
        if any(low <= value <= high for value in values):
            ends.setdefault(len(values), []).append((values[-1], name, colour))
    for epoch, names in ends.items():
        _name(axes, epoch, names, (low, high))
    _remark(axes, len(trials) - sum(map(len, ends.values())), goal)
    axes.set(ylim=(low, high), xlabel="epoch", ylabel=goal.metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    return figure


def importances(shares: Mapping[str, float]) -> Figure:
    names = list(shares)[:14]
    figure, axes = canvas(7.6, 0.5 + 0.27 * len(names))
    values = [shares[name] for name in names]
    colours = [ACCENT if value >= 0.1 else MUTED for value in values]
    axes.barh(range(len(names)), values, color=colours, height=0.62)
    for place, value in enumerate(values):
        label(axes, value, place, f"{value:.0%}".replace("%", " %") if value >= 0.01 else "below 1 %", MUTED)
    axes.set_yticks(range(len(names)), [short(name) for name in names], color=INK)
    axes.invert_yaxis()
    axes.set_xlim(0, max(values) * 1.12)
    axes.spines[["bottom", "left"]].set_visible(False)
    axes.set_xticks([])
    axes.grid(False)
    return figure


def slice_of(parameter: Parameter, ranked: Sequence[Trial], failed: Sequence[Trial], goal: Goal) -> Figure:
    """The value of every trial against one parameter; failed trials are crosses at the edge."""
    figure, axes = canvas(2.7, 2.15, fitted=False)
    figure.subplots_adjust(left=0.16, right=0.95, top=0.88, bottom=0.16)
    domain, name = parameter.domain, parameter.name
    low, high = window([_value(trial, goal) for trial in ranked], goal)
    if isinstance(domain, Choice):
        every = math.ceil(len(domain.values) / 6)
        texts = [written(value) for value in domain.values[::every]]
        if (letters := sum(map(len, texts))) > 30:
            axes.tick_params(axis="x", labelsize=6.5)
        if letters > BELOW:
            texts = [short(text, BELOW // len(texts) - 1) for text in texts]
        axes.set_xticks(range(0, len(domain.values), every), texts)
        axes.set_xlim(-0.5, len(domain.values) - 0.5)
    else:
        axes.set(xscale="log" if domain.log else "linear", xlim=(domain.low, domain.high))
        decades = domain.log and domain.high >= 100 * domain.low
        axes.xaxis.set_major_locator(LogLocator(numticks=4) if decades else MaxNLocator(3, integer=domain.integer))
        axes.xaxis.set_major_formatter(lambda value, place: number(value))
        axes.minorticks_off()
    active = [trial for trial in ranked if name in trial.params]
    places = [_place(t, parameter) for t in active], [min(max(_value(t, goal), low), high) for t in active]
    axes.scatter(*places, s=11, color=MUTED, alpha=0.6, lw=0, clip_on=False)
    if ranked[0] in active:  # the best trial may do without this parameter
        best = _place(ranked[0], parameter), _value(ranked[0], goal)
        axes.scatter(*best, s=40, color=ACCENT, zorder=4, lw=0, clip_on=False)
    crosses = [_place(trial, parameter) for trial in failed if name in trial.params]
    edge = low if goal.maximize else high
    axes.scatter(crosses, [edge] * len(crosses), s=20, marker="x", color=SERIES[1], lw=1.2, clip_on=False, zorder=5)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_ylim(low, high)
    axes.set_title(short(name, 30), loc="left", fontsize=9.5, color=INK)
    return figure


def compared(comparison: Comparison) -> Figure:
    """Best so far against epochs: the median over seeds as a line, 10 to 90 % of the seeds as a band."""
    figure, axes = canvas(7.6, 3.6)
    bands = comparison.bands
    late = [value for b in bands.values() for part in (b.low, b.high) for value in part[np.isfinite(part)]]
    low, high = window([float(value) for value in late], comparison.goal)
    names = []
    for (name, b), (colour, dashes) in zip(bands.items(), itertools.cycle(LOOKS), strict=False):
        axes.fill_between(b.epochs, b.low, b.high, step="post", color=colour, alpha=0.13, lw=0)
        axes.step(b.epochs, b.median, where="post", color=colour, lw=2.0, linestyle=dashes)
        names.append((float(b.median[-1]), short(name), colour))
    if comparison.twice is not None and low <= comparison.twice.median <= high:
        axes.axhline(comparison.twice.median, color=MUTED, lw=0.9, linestyle=(0, (1, 2)))
        names.append((comparison.twice.median, TWICE, MUTED))
    _name(axes, comparison.budget, names, (low, high))
    axes.set(ylim=(low, high), xlim=(0, comparison.budget * 1.01))  # what rises with the last epoch is seen to
    axes.set(xlabel="epochs trained", ylabel=f"best {comparison.goal.metric}")
    return figure


# -- one trained model ---------------------------------------------------------------------------------------------


NONE: Callable[[], Array] = partial(np.zeros, 0)


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
    filters: Array = field(default_factory=NONE)
    samples: Array = field(default_factory=NONE)
    maps: Array = field(default_factory=NONE)
    confusion: Array = field(default_factory=NONE)
    mistakes: Array = field(default_factory=NONE)
    truth: Array = field(default_factory=NONE)
    guess: Array = field(default_factory=NONE)
    confidence: Array = field(default_factory=NONE)

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


def pictures_of(model: ModelFigures, reports: Sequence[Report] = ()) -> list[Picture]:
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
    others = [name for name in names if name.startswith("val_") and name not in losses]
    shares = [name for name in others if all(0 <= report.metrics[name] <= 1 for report in reports)]
    groups = [group for group in (losses, shares) if group]
    figure = Figure(figsize=(7.6, 2.9), layout="constrained")
    for place, group in enumerate(groups):
        axes = figure.add_subplot(1, len(groups), place + 1)
        axes.tick_params(length=0)
        axes.set_xlabel("epoch")
        ends = []
        for name, (colour, dashes) in zip(group, itertools.cycle(LOOKS), strict=False):
            line = [finite(report.metrics[name]) for report in reports]
            axes.plot([report.epoch for report in reports], line, color=colour, lw=1.8, linestyle=dashes)
            ends.append((line[-1], name, colour))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _name(axes, reports[-1].epoch, ends, axes.get_ylim())
    return figure


def confusion(model: ModelFigures) -> Figure:
    """Rows are the true classes, columns the predicted ones; the shade is the share of the row, mistakes stand out."""
    table, classes = np.asarray(model.confusion, dtype=float), [short(name) for name in model.classes]
    size, longest = len(table), max(map(len, classes), default=0)
    side = min(max(2.6, 0.36 * size + 0.9) + LETTER * longest, 7.6)
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
    axes.set_xticks(marks, [classes[i] for i in marks], rotation=90 if longest > 3 else 0)
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
    names = [short(model.classes[int(which)], MOST_LETTERS) for which in (truth, guess)]
    between = " " if max(map(len, model.classes)) <= ONE_LINE else "\n"
    sure = f"{between}{float(model.confidence[i]) * 100:.0f} %" if len(model.confidence) else ""
    return f"true {names[0]}\npred. {names[1]}{sure}"


def short(name: str, most: int = BESIDE) -> str:
    """Without its middle where it is too long: names of one kind differ at either end."""
    end = (most - 1) // 2
    return name if len(name) <= most else f"{name[: most - 1 - end]}…{name[len(name) - end :]}"


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


# -- placing -----------------------------------------------------------------------------------------------------


def window(values: Sequence[float], goal: Goal) -> tuple[float, float]:
    """Limits that show the better three quarters well and leave far-off bad values out."""
    ordered = np.sort(np.asarray([value if goal.maximize else -value for value in values], dtype=float))
    if not len(ordered):
        return 0.0, 1.0
    top, quarter = float(ordered[-1]), float(np.quantile(ordered, 0.25))
    bottom = max(float(ordered[0]), quarter - (top - quarter)) if len(ordered) > 7 else float(ordered[0])
    room = (top - bottom) * 0.07 or abs(top) * 0.05 or 0.5
    low, high = bottom - room, top + room
    return (low, high) if goal.maximize else (-high, -low)


def spread(places: Sequence[float], gap: float, low: float = -math.inf, high: float = math.inf) -> list[float]:
    """Places for labels, given in ascending order: gap apart, nearest to their own, between low and high if they fit."""
    n, own = len(places), [place - gap * k for k, place in enumerate(places)]  # these need only ascend
    # isotonic regression by its min-max formula: R. E. Barlow et al., "Statistical Inference under Order Restrictions", 1972
    nearest = (max(min(fmean(own[i : j + 1]) for j in range(k, n)) for i in range(k + 1)) for k in range(n))
    return [max(low, min(place, high - gap * (n - 1))) + gap * k for k, place in enumerate(nearest)]


def _name(axes: Axes, x: float, ends: Sequence[tuple[float, str, str]], limits: tuple[float, float]) -> None:
    """Name curves where they end, at x; ends: value, name, colour. Those of one colour that end together share a label."""
    low, high = limits
    gap = (high - low) * 0.065
    labels: list[tuple[float, str, str]] = []
    known = [(y if math.isfinite(y) else low, name, colour) for y, name, colour in ends]
    for end, name, colour in sorted(known, key=itemgetter(0, 2)):
        last = labels[-1] if labels else (-math.inf, "", "")
        if colour == last[2] and end - last[0] < gap / 2:
            labels[-1] = (last[0], f"{last[1]}, {name}", colour)
        else:
            labels.append((end, name, colour))
    for place, (_, name, colour) in zip(spread([end for end, *_ in labels], gap, low, high), labels, strict=True):
        label(axes, x, place, name, colour)


def _remark(axes: Axes, outside: int, goal: Goal) -> None:
    """How many are too bad to be seen, above the axes, where no point can be."""
    if outside:
        side = "below" if goal.maximize else "above"
        axes.set_title(f"{outside} further {side}", loc="right", color=MUTED, fontsize=SMALL)


def _place(trial: Trial, parameter: Parameter) -> float:
    """Dots of one choice stand side by side, moved by the golden ratio times the trial's number: always the same."""
    value, domain = trial.params[parameter.name], parameter.domain
    if not isinstance(domain, Choice):
        return float(value)
    return domain.values.index(value) + ((trial.number * 0.6180339887) % 1 - 0.5) * 0.45


def _value(trial: Trial, goal: Goal) -> float:
    value = goal.value(trial)
    return math.nan if value is None else value
