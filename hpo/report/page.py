"""How a report looks: its templates, which escape what they are given, and the style of its figures.

The page (page.html) is one file that requests nothing. A figure is drawn in the colours of LIGHT; on the page CSS variables
stand in their place, so that one drawing serves a light page, a dark one and paper. MLflow gets it as PNG.
"""

import base64
import contextlib
import hashlib
import html
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from hpo.formatting import count, decimals, listed, written

with contextlib.suppress(ImportError):  # matplotlib fails where another thread, MLflow's, is importing it
    import_module("IPython")

CSS, SCRIPT = (Path(__file__).with_name(name).read_text("utf-8") for name in ("report.css", "report.js"))
PAPER, INK, MUTED, RULE, SHADE = "#fefefe", "#1c2128", "#626c77", "#d8dde3", "#f1f4f7"
SERIES = ("#0072b2", "#bf4f00", "#007d5c", "#a8508a", "#8a6d00")  # Okabe and Ito's, darkened to be read as text

LIGHT = {"paper": PAPER, "ink": INK, "muted": MUTED, "rule": RULE, "shade": SHADE}
LIGHT |= {f"series{i}": colour for i, colour in enumerate(SERIES)}
DARK = {"paper": "#14181d", "ink": "#e6eaef", "muted": "#9aa5b1", "rule": "#333b44", "shade": "#1d232a"}
DARK |= {"series0": "#56b4e9", "series1": "#f08a4b", "series2": "#3ecf9f", "series3": "#e39cc6", "series4": "#e0c050"}

ACCENT = SERIES[0]
SMALL = 8.5

STYLE: Any = {  # the stubs of matplotlib list every key
    **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), RULE),
    **dict.fromkeys(("axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), MUTED),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize"), SMALL),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "xtick.minor.visible"), False),
    **dict.fromkeys(("axes.facecolor", "figure.facecolor"), "none"),
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "lines.solid_capstyle": "round",
    "text.parse_math": False,
    "image.composite_image": False,
}


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure yet to be drawn. name is a file's stem; label says in words what is seen; narrow figures share a row."""

    name: str
    label: str
    draw: Callable[[], Figure]
    narrow: bool = False

    def svg(self) -> str:
        with mpl.rc_context(STYLE | {"svg.hashsalt": self.name}):
            return _svg(self.draw(), self.label)

    def figure(self) -> Figure:
        with mpl.rc_context(STYLE):
            figure = self.draw()
        figure.set_facecolor(PAPER)
        return figure

    def png(self) -> bytes:
        with mpl.rc_context(STYLE):
            figure = self.figure()
            figure.set_dpi(160)
            return _printed(FigureCanvasAgg(figure).print_png)


def save(pictures: Sequence[Picture], folder: Path) -> None:
    """Each as a PNG file."""
    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        (folder / f"{picture.name}.png").write_bytes(picture.png())


def canvas(width: float, height: float, fitted: bool = True) -> tuple[Figure, Axes]:
    """An empty figure, inches; fitted: the axes leave the room their labels need, which costs a drawing more."""
    figure = Figure(figsize=(width, height), layout="constrained" if fitted else None)
    axes = figure.add_subplot()
    axes.tick_params(length=0)
    return figure, axes


def label(axes: Axes, x: float, y: float, text: str, colour: str) -> None:
    """A text just right of a point, outside the axes if need be; curves go on beneath it. A colour of its own is bold."""
    axes.update_datalim([(x, y)], updatey=False)  # a curve that ends in nan is drawn to where it was finite only
    axes.autoscale_view()
    look: dict[str, Any] = {
        "color": colour,
        "weight": "normal" if colour == MUTED else "bold",
        "va": "center",
        "fontsize": SMALL,
        "zorder": 5,
    }
    look["bbox"] = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.5}
    axes.annotate(text, (x, y), (5, 0), textcoords="offset points", annotation_clip=False, **look)


def _svg(figure: Figure, label: str) -> str:
    unsaid = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    text = _printed(FigureCanvasSVG(figure).print_svg, metadata=unsaid).decode()
    text = text[text.index("<svg") :]
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    for name, colour in LIGHT.items():
        text = text.replace(colour, f"var(--{name})")
    text = re.sub(r"\s*\n\s*", "\n", text)
    width, height = 72 * figure.get_size_inches()
    size = f'viewBox="0 0 {width:g} {height:g}" style="--width:{width:g}px"'
    return f'<svg role="img" aria-label="{html.escape(label)}" {size}>' + text[text.index(">") + 1 :]


def _printed(write: Callable[..., object], **options: object) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # of a class's name: a box in a PNG
        write(file, **options)
    return file.getvalue()


# -- HTML --------------------------------------------------------------------------------------------------------


def _variables(colours: Mapping[str, str]) -> Markup:
    return Markup("".join(f"--{name}:{colour};" for name, colour in colours.items()))


TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=StrictUndefined,
)
TEMPLATES.filters |= {"counted": count, "decimals": decimals, "listed": listed, "written": written}
TEMPLATES.globals |= {
    "css": Markup(CSS),
    "script": Markup(SCRIPT),
    "digest": base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode(),
    "light": _variables(LIGHT),
    "dark": _variables(DARK),
}


def page(template: str, **values: object) -> str:
    """The whole document."""
    return TEMPLATES.get_template(template).render(values)


def inset(text: str, table: str, pictures: Sequence[Picture]) -> str:
    """For a notebook. table: HTML already."""
    return str(TEMPLATES.get_template("parts.html").module.inset(text, table, pictures))  # type: ignore[attr-defined]  # a macro
