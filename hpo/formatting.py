"""Numbers and lists as people write them, for every sentence of the terminal, the report and a comparison."""

import math
import os
import re
import textwrap
from collections.abc import Collection, Sequence
from pathlib import Path

from hpo.core import Goal, Reason, Study, Trial, Value

SECRETS = (  # what stands before one, and how it looks; one that holds a space is no part of an address
    re.compile(r"(?<=://)([^/@:\s]*:)\S*(?=@)"),
    re.compile(  # also in an encoded ODBC connection string; a quote or bracket after it is the surrounding text's
        r"((?:[?&;]|%3[bf]|%26)[\w.-]{0,40}(?:passw|pwd|passphrase|secret|token|api_?key|access_?key|signature)"
        r"[\w.-]{0,40}(?:=|%3d))[^&\s]+?(?=&|['\")}\],]*(?:\s|$))",
        re.IGNORECASE,
    ),
)


def without_password(text: str) -> str:
    """A text with addresses in it, to be kept or shown. What may belong to a password is masked."""
    for secret in SECRETS:
        text = secret.sub(r"\1***", text)
    return text


def number(value: float, digits: int = 4) -> str:
    """0.9815, 3e-05, 12345: significant digits, no trailing zeros, no exponent where people would not write one."""
    if not math.isfinite(value):
        return "never" if value == math.inf else "none"
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    if 10**digits <= abs(value) < 1e15:
        return f"{value:.0f}"
    if not 1e-3 <= abs(value) < 1e15:  # a learning rate of 1e-4, not of 0.0001
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        short = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{short}e{int(exponent)}"
    return f"{value:.{digits}g}"


def decimals(value: float) -> str:
    """A metric among its likes: four decimals, unless it is so large or so small that they say nothing."""
    return f"{value:.4f}" if 0.01 <= abs(value) < 1000 else number(value)


def gap(value: float) -> str:
    """A difference between two metrics: two significant digits, no exponent before it is absurdly small."""
    if not math.isfinite(value) or abs(value) < 1e-5:
        return number(value, 2)
    return f"{value:.{max(0, 1 - math.floor(math.log10(abs(value))))}f}"


def written(value: Value) -> str:
    """A parameter's value as the study file writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return number(value) if isinstance(value, float) else str(value)


REASONS = {
    Reason.BUDGET: "budget spent",
    Reason.TIME: "time limit reached",
    Reason.TARGET: "target met",
    Reason.PATIENCE: "no improvement within the patience",
    Reason.EXHAUSTED: "no untried point found",
    Reason.INTERRUPTED: "interrupted",
    Reason.FAILING: "failing, trial after trial with the same error",
}  # why a study ended


def finite(value: float) -> float:
    """nan for infinity: a line has a gap there. MLflow would store it as 1.8e308, which flattens every chart."""
    return float(value) if math.isfinite(value) else math.nan


def ending(reason: Reason, enumerable: bool) -> str:
    """Why a study ended; only of a space that can be walked through is it certain that nothing is left."""
    return "every point of the space tried" if reason is Reason.EXHAUSTED and enumerable else REASONS[reason]


def count(n: float, noun: str) -> str:
    """ "1 seed", "3 seeds", "1,200 epochs", and of what no float can hold "about 10^400 points"."""
    many = noun if n == 1 else noun[:-1] + "ies" if noun.endswith("y") and noun[-2] not in "aeiou" else noun + "s"
    return f"{n:,.0f} {many}" if n < 10**12 else f"about 10^{len(str(int(n))) - 1} {many}"


def listed(words: Sequence[str], last: str = "and") -> str:
    """ "a, b and c"."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {last} {words[-1]}"


def some(words: Sequence[str], most: int = 3) -> str:
    """ "a, b, c, ..."."""
    return ", ".join([*words[:most], *(["..."] if len(words) > most else [])])


def duration(seconds: float) -> str:
    """ "0.4 s", "12 s", "3 min 20 s", "2 h 5 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def limits(trials: int | None, epochs: int | None, seconds: float | None, patience: int | None) -> list[str]:
    """A budget in words: "40 trials", "600 epochs", "30 min", "100 epochs without a new best"."""
    said = [count(most, noun) for most, noun in ((trials, "trial"), (epochs, "epoch")) if most is not None]
    said += [duration(seconds)] if seconds is not None else []
    return said + ([f"{count(patience, 'epoch')} without a new best"] if patience is not None else [])


def byte_size(amount: float) -> str:
    """ "512 kB", "1.4 GB"."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if amount >= scale:
            return f"{amount / scale:,.{1 if amount < 10 * scale else 0}f} {unit}"
    return f"{amount:.0f} bytes"


def printable(text: str, keep: str = "") -> str:
    """What strangers named, for a terminal: nothing moves its cursor or turns text around. keep: what stays."""
    escaped = {letter: f"\\x{ord(letter):02x}" for letter in {*text} if not letter.isprintable()}
    return "".join(letter if letter in keep else {**escaped, "\n": " "}.get(letter, letter) for letter in text)


def nearby(path: str | Path) -> str:
    """A path as it is typed here: relative below the current folder."""
    return os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else str(path)


def columns(rows: Sequence[Sequence[str]], left: Collection[int]) -> list[str]:
    """A line a row, cells below each other; `left` are the columns of words, which are not numbers."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    aligns = ["<" if i in left else ">" for i in range(len(widths))]
    layout = "  ".join(f"{{:{align}{width}}}" for align, width in zip(aligns, widths, strict=True))
    return [layout.format(*row).rstrip() for row in rows]


def wrapped(text: str, width: int) -> str:
    """Lines of at most `width`, broken between words; what goes on is indented, below the words after a `label:`."""
    lines = []
    for line in text.split("\n"):
        start = re.match(r"(?:\w{1,8}:)? {1,12}", line)
        indent = " " * (len(start[0]) if start else 4)
        parts = textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        lines += parts if len(line) > width else [line]
    return "\n".join(lines)


def tabulated(pairs: Sequence[tuple[str, str]], width: int) -> list[str]:
    """Names with their values, below each other, as many a line as fit."""
    cells = columns(pairs, left=(0,))
    widest = max(map(len, cells), default=0)
    each = max(1, (width + 2) // (widest + 4))
    rows = ("    ".join(cell.ljust(widest) for cell in cells[i : i + each]) for i in range(0, len(cells), each))
    return [f"  {row}".rstrip() for row in rows]


def read_at(trial: Trial, goal: Goal) -> str:
    """ ", epoch 9 of 20" where a trial is not read at its end; of one that does not count, from when on it would."""
    reading, counts = goal.reading(trial), bool(goal.counted(trial))
    if reading is None or (counts and reading.epoch == trial.epochs):
        return ""
    first = min([trial.epochs, *(() if goal.whole(trial.params) else goal.epochs)])
    return f", epoch {reading.epoch} of {trial.epochs}{'' if counts else f'; counts from epoch {first} on'}"


def known_before(study: Study) -> str:
    """ "3,984 recorded trainings of 55 tasks": what the search knew before it began; "" for nothing."""
    return str(study.environments[-1].get("known", "")) if study.environments else ""
