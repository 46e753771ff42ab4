"""HTML elements that escape what they are given, and the page around them: one file that requests nothing."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpo.comparison.text import Rows
from hpo.report.drawing import DARK, LIGHT, Picture

STYLE, SCRIPT = (Path(__file__).with_name(name).read_text("utf-8") for name in ("report.css", "report.js"))


@dataclass(frozen=True, slots=True)
class Html:
    """Text that is markup already; everything else is escaped."""

    text: str


Content = str | Html


def escape(content: Content) -> str:
    return content.text if isinstance(content, Html) else html.escape(content)


def join(parts: Sequence[Content], between: str = "\n") -> Html:
    return Html(between.join(escape(part) for part in parts))


def tag(name: str, content: Content | Sequence[Content], **attributes: str | None) -> Html:
    """An element; attributes that are None are left out; in a name a last _ goes (class_), any other becomes a hyphen."""
    inner = content if isinstance(content, str | Html) else join(content)
    given = {key.rstrip("_").replace("_", "-"): text for key, text in attributes.items() if text is not None}
    pairs = "".join(f' {key}="{html.escape(text)}"' for key, text in given.items())
    return Html(f"<{name}{pairs}>{escape(inner)}</{name}>")


def section(title: str, *parts: Content) -> Html:
    anchor = "".join(c if c.isalnum() else "-" for c in title.lower())
    return tag("section", [tag("h2", title, id=anchor), *parts])


def bullets(items: Sequence[Content]) -> Html:
    return tag("ul", [tag("li", item) for item in items])


def fact_list(values: Mapping[str, str]) -> Html:
    """A few names with a value each, side by side."""
    pairs = [tag("div", [tag("dt", name), tag("dd", value)]) for name, value in values.items()]
    return tag("dl", pairs, class_="facts")


def figure(picture: Picture) -> Html:
    """A wide figure under its caption; a narrow one names itself."""
    if picture.narrow:
        return tag("figure", Html(picture.svg()), class_="narrow")
    return tag("figure", [tag("figcaption", picture.label), tag("div", Html(picture.svg()), class_="wide")])


def table(rows: Rows, label: str, class_: str = "plain") -> Html:
    """A small table of text: the first column names its rows."""
    header, body = rows
    head = tag("tr", [tag("th", name, scope="col") for name in header])
    lines = [tag("tr", [tag("th", first, scope="row"), *(tag("td", cell) for cell in rest)]) for first, *rest in body]
    return scrolling(tag("table", [tag("thead", head), tag("tbody", lines)], class_=class_), label)


def scrolling(content: Html, label: str) -> Html:
    """What may be wider than the window: it scrolls by itself, by keyboard too."""
    return tag("div", content, class_="scroll", role="region", aria_label=label, tabindex="0")


def page(title: str, parts: Sequence[Content]) -> str:
    """The whole document. Its policy allows no script but this page's own, whatever a name in it contains."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    light, dark = ("".join(f"--{name}:{colour};" for name, colour in colours.items()) for colours in (LIGHT, DARK))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<style>\n:root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
        f"@media print {{ :root {{ {light} }} }}\n{STYLE}</style>\n"
        f"</head>\n<body>\n<main>\n{join(parts).text}\n</main>\n"
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )
