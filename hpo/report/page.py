"""The page around a report: one file, no request to anywhere, for a light screen, a dark one, a phone and paper."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence
from dataclasses import dataclass

from hpo.comparison.text import Rows
from hpo.report.drawing import DARK, LIGHT, Picture


@dataclass(frozen=True, slots=True)
class Html:
    """Text that is markup already; everything else is escaped."""

    text: str


Content = str | Html


def escape(content: Content) -> str:
    return content.text if isinstance(content, Html) else html.escape(content)


def join(parts: Sequence[Content], between: str = "\n") -> Html:
    return Html(between.join(escape(part) for part in parts))


def tag(name: str, content: Content, **attributes: str) -> Html:
    """An element; class_ is written class."""
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{given}>{escape(content)}</{name}>")


def paragraph(content: Content, class_: str = "") -> Html:
    return tag("p", content, class_=class_) if class_ else tag("p", content)


def bullets(items: Sequence[Content]) -> Html:
    return tag("ul", join([tag("li", item) for item in items]))


def section(title: str, *parts: Content) -> Html:
    """A part of the page with its heading; what it says must not be empty."""
    anchor = "".join(c if c.isalnum() else "-" for c in title.lower())
    return tag("section", join([tag("h2", title, id=anchor), *parts]))


def figure(picture: Picture) -> Html:
    kind = "narrow" if picture.narrow else "wide"
    return tag("figure", Html(picture.svg()), class_=kind)


def figures(pictures: Sequence[Picture]) -> Html:
    """Narrow figures share rows."""
    return tag("div", join([figure(picture) for picture in pictures]), class_="grid")


def table(rows: Rows, label: str, class_: str = "") -> Html:
    """A small table of text: the first column names its rows."""
    header = tag("tr", join([tag("th", name, scope="col") for name in rows[0]]))
    body = [
        tag("tr", join([tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])])) for row in rows[1]
    ]
    return scrolling(
        tag("table", join([tag("thead", header), tag("tbody", join(body))]), class_=class_ or "plain"), label
    )


def scrolling(content: Html, label: str) -> Html:
    """Wider than the window: it scrolls by itself, by keyboard too."""
    return tag("div", content, class_="scroll", role="region", aria_label=label, tabindex="0")


def page(title: str, content: Content) -> str:
    """The whole document. The policy lets only this page's own script run, whatever a name in it may contain."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{escape(content)}\n</main>\n"
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _variables(colours: dict[str, str]) -> str:
    return "".join(f"--{name}:{colour};" for name, colour in colours.items())


STYLE = f"""
:root {{ {_variables(LIGHT)} --shade:#f1f4f7; color-scheme: light dark; }}
@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} --shade:#1d232a; }} }}
@media print {{ :root {{ {_variables(LIGHT)} --shade:#f1f4f7; }} }}
* {{ box-sizing: border-box; }}
html {{ -webkit-text-size-adjust: 100%; }}
body {{ margin: 0; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }}
main {{ max-width: 58rem; margin: 0 auto; padding: 2.5rem 1.25rem 5rem; }}
h1 {{ font-size: 1.05rem; font-weight: 600; margin: 0; color: var(--muted); }}
h2 {{ font-size: 1.2rem; font-weight: 650; letter-spacing: -0.01em; margin: 3.2rem 0 0.6rem; padding-top: 1rem;
  border-top: 1px solid var(--rule); }}
h3 {{ font-size: 1rem; font-weight: 600; margin: 1.6rem 0 0.3rem; }}
p, ul {{ margin: 0.5rem 0; max-width: 42rem; }}
ul {{ padding-left: 1.2rem; }}
.headline {{ font-size: 1.6rem; line-height: 1.3; font-weight: 600; letter-spacing: -0.015em;
  margin: 0.5rem 0 0.8rem; text-wrap: balance; }}
.headline b {{ color: var(--series0); font-weight: 700; }}
.quiet {{ color: var(--muted); font-size: 0.92rem; }}
.point {{ display: flex; flex-wrap: wrap; gap: 0.4rem 0.5rem;
  margin: 1rem 0; padding: 0; list-style: none; max-width: none; }}
.point li {{ background: var(--shade); border-radius: 0.4rem; padding: 0.15rem 0.6rem; font-size: 0.92rem; }}
.point span {{ color: var(--muted); margin-right: 0.45em; }}
.facts {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr));
  gap: 0.9rem 1.2rem; margin: 1.4rem 0; }}
.facts dt {{ color: var(--muted); font-size: 0.82rem; }}
.facts dd {{ margin: 0; font-size: 1.05rem; font-weight: 550; }}
figure {{ margin: 1rem 0; }}
figure.wide {{ overflow-x: auto; }}
figure svg {{ display: block; width: 100%; height: auto; max-width: calc(var(--width) * 1.42); }}
figure.wide svg {{ min-width: min(calc(var(--width) * 1.1), 38rem); }}
figure svg text {{ font-family: inherit !important; }}
figure svg image {{ image-rendering: pixelated; }}
.grid {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(13.5rem, 1fr));
  gap: 0.6rem 1.2rem; margin: 1rem 0; }}
.grid figure {{ margin: 0; }}
.scroll {{ overflow-x: auto; margin: 1rem 0; }}
.scroll:focus-visible, th button:focus-visible {{ outline: 2px solid var(--series0); outline-offset: 2px; }}
table {{ border-collapse: collapse; font-size: 0.88rem; min-width: 100%; overflow-wrap: normal; }}
th, td {{ padding: 0.32rem 0.6rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--rule); font-weight: 400; }}
thead th {{ color: var(--muted); font-size: 0.82rem; vertical-align: bottom; }}
th:first-child, td.word, th.word {{ text-align: left; }}
table.words td, table.words th, table.plain td:last-child, table.plain th:last-child {{ text-align: left; }}
table.words td, table.plain td:last-child {{ white-space: normal; }}
table.plain td:last-child {{ min-width: 9rem; }}
table.words td:nth-child(2) {{ min-width: 11rem; }}
tbody th {{ font-weight: 550; }}
th:first-child {{ position: sticky; left: 0; background: var(--paper); padding-left: 0; }}
tr.best > * {{ color: var(--series0); font-weight: 650; }}
td.failed {{ color: var(--series1); }}
th button {{ all: unset; cursor: pointer; }}
th button::after {{ content: ""; display: inline-block; width: 0.9em; }}
th[aria-sort=ascending] button::after {{ content: " ↑"; }}
th[aria-sort=descending] button::after {{ content: " ↓"; }}
pre {{ background: var(--shade); border-radius: 0.5rem; padding: 0.9rem 1.1rem; overflow-x: auto;
  font: 0.84rem/1.5 ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; }}
code {{ font: 0.92em ui-monospace, Menlo, "DejaVu Sans Mono", monospace; }}
@media (max-width: 34rem) {{ main {{ padding: 1.5rem 1rem 3rem; }} .headline {{ font-size: 1.3rem; }} }}
@media print {{ main {{ max-width: none; padding: 0; }} figure, tr, pre {{ break-inside: avoid; }}
  h2 {{ break-after: avoid; }}
  .scroll, figure.wide, pre {{ overflow: visible; }} pre {{ white-space: pre-wrap; }} table {{ font-size: 0.7rem; }} }}
"""

SCRIPT = """
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const number = text => text === "" ? NaN : Number(text);
  const key = (row, column) => { const cell = row.cells[column]; return cell.dataset.v ?? cell.textContent; };
  function compare(a, b, column) {
    const x = key(a, column), y = key(b, column);
    if (x === "" || y === "") return x === y ? 0 : x === "" ? Infinity : -Infinity;
    const gap = number(x) - number(y);
    return Number.isNaN(gap) ? x.localeCompare(y) : gap;
  }
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.ariaSort === "ascending" || (head.ariaSort === null && head.dataset.first === "descending");
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].sort((a, b) => {
        const order = compare(a, b, column);
        return Number.isFinite(order) ? (down ? -order : order) : order;
      });
      body.append(...rows);
    });
  });
}
"""
