"""A comparison in words: a sentence, tables for a terminal, and plain lines for everything else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from hpo.comparison.compare import RANKING, TWICE, Comparison, Pair, Standing
from hpo.comparison.statistics import LEVEL, Advice, Verdict
from hpo.formatting import count, decimals, duration, gap, listed, number

LAST = 18  # columns that a verdict needs at least: the width of its longest word and some air
ENDLESS = 10_000  # columns: how wide a table is where nothing hems it in
ONE_SEED = "one seed says nothing about chance, take at least 5"
Rows = tuple[tuple[str, ...], list[tuple[str, ...]]]  # a header and its rows


def sentence(comparison: Comparison) -> str:
    """What was found, whether the usual ranking holds, and for what that is said."""
    found = (f"{_capital(clause)}." for clause in _findings(comparison))
    return " ".join((*found, ranking(comparison), _scope(comparison)))


def lines(comparison: Comparison) -> list[str]:
    """The whole result for what is no terminal: two tables in plain text, the notes, the sentence."""
    return [
        *_plain(strategy_rows(comparison)),
        "",
        *_plain(pair_rows(comparison)),
        "",
        *comparison.notes,
        sentence(comparison),
    ]


def shown(comparison: Comparison, terminal: Console) -> Iterator[Table | str]:
    """The same for a terminal: a table that does not fit it is told row by row."""
    for title, rows in (("Strategies", strategy_rows(comparison)), ("Pairs", pair_rows(comparison))):
        table = _rich(title, rows)
        fits = Measurement.get(terminal, terminal.options.update(max_width=ENDLESS), table).minimum <= terminal.width
        yield from [table] if fits else _stacked(rows)
    yield from (*comparison.notes, sentence(comparison))


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The result for programs. What is infinite, as the interval of one seed, is null: JSON has no word for it."""
    everyone = (*comparison.standings, *((comparison.twice,) if comparison.twice else ()))
    return {
        "metric": comparison.goal.metric,
        "budget": comparison.budget,
        "margin": comparison.margin,
        "target": comparison.target,
        "strategies": [_finite(asdict(standing)) for standing in everyone],
        "pairs": [_finite(asdict(pair)) for pair in (*comparison.pairs, *comparison.against_twice)],
        "notes": list(comparison.notes),
        "said": sentence(comparison),
    }


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def advice_text(advice: Advice | None, seeds: int) -> str:
    """ "about 9 more seeds would be needed (the advice ranges from 3 to 60)"."""
    if advice is None:
        return ONE_SEED if seeds < 2 else "too few seeds to say how many would be enough"
    if math.isinf(advice.more):
        return f"no number of seeds within reason would be enough (the advice starts at {number(advice.low)})"
    purpose = " to call them practically equal" if advice.equal else ""
    needed = f"about {count(advice.more, 'more seed')} would be needed{purpose}"
    return f"{needed} (the advice ranges from {number(advice.low)} to {_seeds_at_most(advice)})"


def _seeds_at_most(advice: Advice) -> str:
    return "any number" if math.isinf(advice.high) else number(advice.high)


def _short(pair: Pair) -> str:
    """A verdict for a cell of a table."""
    advice = pair.advice
    if pair.verdict is not Verdict.UNDECIDED or advice is None:
        return pair.verdict.value
    if math.isinf(advice.more):
        return "undecided, and more seeds would not help"
    return f"undecided, about {count(advice.more, 'more seed')} ({number(advice.low)} to {_seeds_at_most(advice)})"


def _findings(comparison: Comparison) -> list[str]:
    """One clause a pair; the first says the budget and the seeds."""
    budget = count(comparison.budget, "epoch")
    reached = [f"{s.strategy} reaches {decimals(s.median)}" for s in comparison.standings]
    if not comparison.pairs:
        return [f"at {budget} {listed(reached)} in {comparison.goal.metric}; there is no pair to compare"]
    if all(pair.difference.seeds < 2 for pair in comparison.pairs):
        return [f"at {budget} {listed(reached)} in {comparison.goal.metric}", f"every verdict is undecided: {ONE_SEED}"]
    where = f"at {budget} and {_seeds(comparison.pairs)}, "
    clauses = [_finding(pair, comparison) for pair in comparison.pairs]
    return [where + clauses[0], *clauses[1:]]


def _seeds(pairs: Sequence[Pair]) -> str:
    least, most = (f(pair.difference.seeds for pair in pairs) for f in (min, max))
    return count(most, "seed") if least == most else f"{least} to {count(most, 'seed')}"


def _finding(pair: Pair, comparison: Comparison) -> str:
    low, high = pair.difference.interval.low, pair.difference.interval.high
    if pair.winner is not None:
        first, second = (pair.a, pair.b) if pair.winner == pair.a else (pair.b, pair.a)
        low, high = (low, high) if pair.winner == pair.a else (-high, -low)
        size = f"{gap(abs(pair.difference.mean))} in {comparison.goal.metric}"
        return f"{first} is better than {second} by {size} ({_interval(low, high)})"
    if pair.verdict is Verdict.EQUAL:
        return (
            f"{pair.a} and {pair.b} are practically equal (within {number(comparison.margin)}; {_interval(low, high)})"
        )
    advice = advice_text(pair.advice, pair.difference.seeds)
    return f"{pair.a} against {pair.b} is undecided ({_interval(low, high)}): {advice}"


def _interval(low: float, high: float) -> str:
    if math.isinf(low) or math.isinf(high):
        return "no interval yet"
    return f"{LEVEL:.0%} interval {gap(low)} to {gap(high)}".replace("%", " %")


def ranking(comparison: Comparison) -> str:
    """Whether the order people put them in holds for those of its strategies that ran."""
    ranked = [s.strategy for s in comparison.standings if s.strategy in RANKING]
    if len(ranked) < 2:
        return "The usual ranking was not put to the test."
    order = f"The usual ranking ({', '.join(ranked)})"
    pairs = [pair for pair in comparison.pairs if pair.a in ranked and pair.b in ranked]
    against = [f"{pair.b} beats {pair.a}" for pair in pairs if pair.verdict is Verdict.WORSE]
    if against:
        return f"{order} does not hold here: {listed(against)}."
    if pairs and all(pair.verdict is Verdict.BETTER for pair in pairs):
        return f"{order} holds here."
    if pairs and all(pair.verdict is Verdict.EQUAL for pair in pairs):
        return f"{order} makes no difference here."
    shown = [f"{pair.a} beats {pair.b}" for pair in pairs if pair.verdict is Verdict.BETTER]
    if not shown:
        return f"{order} is not settled here: no pair bears it out."
    rest = [f"{pair.a} over {pair.b}" for pair in pairs if pair.verdict is not Verdict.BETTER]
    return f"{order} is borne out in part: {listed(shown)}, but nothing is shown for {listed(rest)}."


def _scope(comparison: Comparison) -> str:
    said = comparison.said
    return (
        f"This is said for {said.data}, split seed {said.split_seed} and training seed {said.training_seed}; "
        "other splits and seeds may say otherwise."
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def glossary(comparison: Comparison) -> str:
    """What the columns mean, for who sees them for the first time."""
    metric = comparison.goal.metric
    return (
        f"{metric}: best so far at the budget, the median over seeds, with the middle 80 % of them. Average: the mean of "
        "best so far from the first epoch at which all have one. "
        f"Epochs to {number(comparison.target)}: when half of the seeds had it, which is the metric's target or, without "
        "one, what random search has at the budget; in brackets how many of the seeds ever did. Difference: the mean over "
        "seeds of what the same seed gave both, so it need not be the difference of the medians; above 0 the first is "
        "better. p (Holm): how often chance alone would show as much, corrected for the number of pairs. A beats b: how "
        "often the first wins at a new seed. Test: the winners on the test split; fresh seeds: the winners trained again. "
        "Trials and time are medians, up to the last trial that ended within the budget; average, test and fresh seeds are means."
    )


# -- tables ------------------------------------------------------------------------------------------------------


def strategy_rows(comparison: Comparison) -> Rows:
    """One row a strategy, random with twice the budget last."""
    everyone = (*comparison.standings, *((comparison.twice,) if comparison.twice else ()))
    tested, retrained = (
        any(v is not None for v in vs) for vs in ([s.test for s in everyone], [s.fresh for s in everyone])
    )
    extra = (*(("test",) if tested else ()), *(("fresh seeds",) if retrained else ()))
    target = f"epochs to {number(comparison.target)}"
    header = ("strategy", "seeds", comparison.goal.metric, "10 to 90 %", "average", target, "trials", "time", *extra)
    return header, [_row(standing, comparison, extra) for standing in everyone]


def _row(standing: Standing, comparison: Comparison, extra: Sequence[str]) -> tuple[str, ...]:
    budget = comparison.budget * (2 if standing.strategy == TWICE else 1)
    late = {"test": standing.test, "fresh seeds": standing.fresh}
    reached = f"{standing.reached} of {len(standing.seeds)}"
    to_target = f"over {budget}" if math.isinf(standing.to_target) else number(standing.to_target)
    return (
        standing.strategy,
        str(len(standing.seeds)),
        decimals(standing.median),
        f"{decimals(standing.low)} to {decimals(standing.high)}",
        decimals(standing.average),
        f"{to_target} ({reached})",
        number(standing.trials),
        duration(standing.seconds),
        *("" if (value := late[name]) is None else decimals(value) for name in extra),
    )


def pair_rows(comparison: Comparison) -> Rows:
    header = ("pair", "difference", f"{LEVEL * 100:.0f} % interval", "p (Holm)", "a beats b", "verdict")
    return header, [_pair_row(pair) for pair in (*comparison.pairs, *comparison.against_twice)]


def _pair_row(pair: Pair) -> tuple[str, ...]:
    low, high = pair.difference.interval.low, pair.difference.interval.high
    chance, between = pair.probability.value, pair.probability.interval
    return (
        f"{pair.a} - {pair.b}",
        _signed(pair.difference.mean),
        "none yet" if math.isinf(low) else f"{_signed(low)} to {_signed(high)}",
        "<0.001" if pair.corrected < 0.001 else f"{pair.corrected:.3f}",
        f"{chance * 100:.0f} % ({between.low * 100:.0f} to {between.high * 100:.0f})",
        _short(pair),
    )


def _signed(value: float) -> str:
    return f"{round(value, 4) + 0.0:+.4f}"  # there is no -0.0000


def _plain(rows: Rows) -> list[str]:
    """Columns two spaces apart, text left and the rest right."""
    cells = [rows[0], *rows[1]]
    last = len(rows[0]) - 1
    widths = [max(len(row[i]) for row in cells) for i in range(last + 1)]
    return [
        "  ".join(
            text.ljust(width) if i in (0, last) else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def _stacked(rows: Rows) -> list[str]:
    """Each row by itself, what it holds below its name."""
    header, body = rows
    return [
        line
        for name, *cells in body
        for line in (name, *(f"  {title}: {cell}" for title, cell in zip(header[1:], cells, strict=True) if cell), "")
    ]


def _rich(title: str, rows: Rows) -> Table:
    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    header, body = rows
    for i, name in enumerate(header):
        whole = max(len(row[i]) for row in (header, *body))
        least = whole if i < len(header) - 1 else min(whole, LAST)
        table.add_column(name, justify="right" if 0 < i < len(header) - 1 else "left", min_width=least)
    for row in body:
        table.add_row(*row)
    return table
