"""Comparisons and confirmations in words: sentences, tables, JSON."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from hpo.comparison.compare import RANKING, TWICE, Comparison, Pair, StrategyResult
from hpo.comparison.statistics import LEVEL, Advice, Confirmation, Finalist, Verdict
from hpo.formatting import columns, count, decimals, duration, gap, listed, number

UNBOUNDED = 10_000  # characters: the width of a table that nothing limits
ONE_SEED = "one seed says nothing about chance, use at least 5"
SAME_SPLIT = "Fresh seeds share the validation split, so its luck is still in all of these values."
Rows = tuple[tuple[str, ...], list[tuple[str, ...]]]  # a header and its rows


def sentence(comparison: Comparison) -> str:
    """The verdicts, whether the usual ranking holds, and what all that is valid for."""
    return " ".join(filter(None, (verdicts(comparison), ranking(comparison), scope(comparison))))


def verdicts(comparison: Comparison) -> str:
    return " ".join(f"{clause[:1].upper()}{clause[1:]}." for clause in _findings(comparison))


def scope(comparison: Comparison) -> str:
    return f"This holds for {comparison.scope}."


def lines(comparison: Comparison, width: int = UNBOUNDED) -> list[str]:
    """The whole result: two tables, the notes, the sentence. A table wider than `width` is given row by row."""
    shown = [rows for rows in (strategy_rows(comparison), pair_rows(comparison)) if rows[1]]
    tables = [line for rows in shown for line in (*_table(rows, width), "")]
    return [*tables, *comparison.notes, sentence(comparison)]


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The result for programs. What is infinite, as the interval of one seed, is null, as JSON has no word for it."""
    pairs = (*comparison.pairs, *comparison.beside)
    return {
        "metric": comparison.goal.metric,
        "budget": comparison.budget,
        "margin": comparison.margin,
        "target": comparison.target,
        "strategies": [asdict(result, dict_factory=_finite) for result in comparison.results],
        "pairs": [asdict(pair, dict_factory=_finite) for pair in pairs],
        "notes": list(comparison.notes),
        "said": sentence(comparison),
    }


def _finite(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in fields}


def advice_text(advice: Advice | None, seeds: int) -> str:
    """ "about 9 more seeds would be needed (the advice ranges from 3 to 60)"."""
    if advice is None:
        return ONE_SEED if seeds < 2 else "too few seeds to say how many would be enough"
    if math.isinf(advice.more):
        return f"no number of seeds within reason would be enough (the advice starts at {number(advice.low)})"
    purpose = " to call them practically equal" if advice.equal else ""
    needed = f"about {count(advice.more, 'more seed')} would be needed{purpose}"
    return f"{needed} (the advice ranges from {_range(advice)})"


def _range(advice: Advice) -> str:
    return f"{number(advice.low)} to {'any number' if math.isinf(advice.high) else number(advice.high)}"


def _findings(comparison: Comparison) -> list[str]:
    """What is said of the ranked, whose first clause names the budget and the seeds; then of the rivals."""
    budget, metric = count(comparison.budget, "epoch"), comparison.goal.metric
    reached, beside = _reached(comparison.strategies), _reached(comparison.rivals)
    rivals = [f"beside the ranking, {beside}"] if beside else []
    if not comparison.pairs:
        return [f"at {budget} {reached} in {metric}; there is no pair to compare", *rivals]
    seeds = [pair.difference.seeds for pair in comparison.pairs]
    if max(seeds) < 2:
        return [f"at {budget} {reached} in {metric}", *rivals, f"every verdict is undecided: {ONE_SEED}"]
    many = count(max(seeds), "seed") if min(seeds) == max(seeds) else f"{min(seeds)} to {count(max(seeds), 'seed')}"
    first, *others = _clauses(comparison.pairs, comparison)
    rivals = _clauses([pair for pair in comparison.beside if pair.b != TWICE], comparison)
    rivals[:1] = [f"beside the ranking, {one}" for one in rivals[:1]]
    return [f"at {budget} and {many}, {first}", *others, *rivals]


def _reached(results: Sequence[StrategyResult]) -> str:
    return listed([f"{result.strategy} reaches {decimals(result.median)}" for result in results])


def _clauses(pairs: Sequence[Pair], comparison: Comparison) -> list[str]:
    """One for all pairs of which the same is said."""
    said: dict[tuple[str, str], list[str]] = {}
    for pair in pairs:
        before, pair_words, after = _finding(pair, comparison)
        said.setdefault((before, after), []).append(pair_words)
    return [
        f"{before}{listed(words)}{after.format('is' if len(words) == 1 else 'are')}"
        for (before, after), words in said.items()
    ]


def _finding(pair: Pair, comparison: Comparison) -> tuple[str, str, str]:
    """What is said of a pair: before it, of it alone, and after it, where {} stands for the verb."""
    low, high = pair.difference.interval.low, pair.difference.interval.high
    if pair.better is not None:
        worse = pair.b if pair.better == pair.a else pair.a
        low, high = (low, high) if pair.better == pair.a else (-high, -low)
        size = f"{gap(abs(pair.difference.mean))} in {comparison.goal.metric}"
        return f"{pair.better} is better than ", f"{worse} by {size} ({_interval(low, high)})", ""
    if pair.verdict is Verdict.EQUAL:
        within = f" {{}} practically equal (within {number(comparison.margin)})"
        return "", f"{pair.a} against {pair.b} ({_interval(low, high)})", within
    advice = advice_text(pair.advice, pair.difference.seeds)
    return "", f"{pair.a} against {pair.b} ({_interval(low, high)})", f" {{}} undecided: {advice}"


def _interval(low: float, high: float) -> str:
    if math.isinf(low) or math.isinf(high):
        return "no interval yet"
    return f"{LEVEL * 100:.0f} % interval {gap(low)} to {gap(high)}"


def ranking(comparison: Comparison) -> str:
    """Whether the usual order of the strategies holds for those that ran; "" where study files were compared."""
    ranked = [result.strategy for result in comparison.strategies if result.strategy in RANKING]
    if len(ranked) < 2:
        return "The usual ranking was not tested." if ranked else ""
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
        return f"{order} is not settled here: not confirmed by any pair."
    rest = [f"{pair.a} over {pair.b}" for pair in pairs if pair.verdict is not Verdict.BETTER]
    return f"{order} holds in part: {listed(shown)}, but there is no evidence for {listed(rest)}."


def glossary(comparison: Comparison) -> str:
    """What the columns mean, for readers who see them for the first time."""
    metric = comparison.goal.metric
    return (
        f"{metric}: best so far at the budget, the median over seeds, with the middle 80 % of them. "
        f"Epochs to {number(comparison.target)}: when half of the seeds had it, which is the metric's target or, without "
        "one, what random search, or else the last named, has at the budget; in brackets how many of the seeds ever did. "
        "Difference: the mean over "
        "seeds of what the same seed gave both, so it need not be the difference of the medians; above 0 the first is "
        "better. p (Holm): how often chance alone would show as much, corrected for the number of pairs. "
        "Test: each seed's best trial on the test split; fresh seeds: the same "
        "trial trained again. "
        "Trials and time are medians, up to the last trial that ended within the budget; test and fresh seeds are means."
        + " tpe: Optuna's TPE, which bayesian is without its prior."
        * bool(comparison.rivals)
    )


def strategy_rows(comparison: Comparison) -> Rows:
    """One row a strategy or rival, random with twice the budget last."""
    results = comparison.results
    late = {"test": [_optional(one.test) for one in results], "fresh seeds": [_fresh(one) for one in results]}
    extra = {name: cells for name, cells in late.items() if any(cells)}
    target = f"epochs to {number(comparison.target)}"
    header = ("strategy", "seeds", comparison.goal.metric, "10 to 90 %", target, "trials", "time", *extra)
    return header, [(*_row(one, comparison), *(cells[i] for cells in extra.values())) for i, one in enumerate(results)]


def _optional(value: float | None) -> str:
    return "" if value is None else decimals(value)


def _fresh(result: StrategyResult) -> str:
    """ "0.9700", or "0.9700 (1 of 2 seeds)" where other repetitions failed."""
    counted = f"({result.repeated - result.failed} of {count(result.repeated, 'seed')})" if result.failed else ""
    return f"{_optional(result.fresh)} {counted}".strip()


def _row(result: StrategyResult, comparison: Comparison) -> tuple[str, ...]:
    budget = comparison.budget * (2 if result.strategy == TWICE else 1)
    to_target = f"over {budget}" if math.isinf(result.to_target) else number(result.to_target)
    return (
        result.strategy,
        str(len(result.seeds)),
        decimals(result.median),
        f"{decimals(result.low)} to {decimals(result.high)}",
        f"{to_target} ({result.reached} of {len(result.seeds)})",
        number(result.trials),
        duration(result.seconds),
    )


def pair_rows(comparison: Comparison) -> Rows:
    header = ("pair", "difference", f"{LEVEL * 100:.0f} % interval", "p (Holm)", "verdict")
    return header, [_pair_row(pair) for pair in (*comparison.pairs, *comparison.beside)]


def _pair_row(pair: Pair) -> tuple[str, ...]:
    low, high = pair.difference.interval.low, pair.difference.interval.high
    return (
        f"{pair.a} - {pair.b}",
        _signed(pair.difference.mean),
        "none yet" if math.isinf(low) else f"{_signed(low)} to {_signed(high)}",
        "<0.001" if pair.corrected < 0.001 else f"{pair.corrected:.3f}",
        _verdict(pair),
    )


def _verdict(pair: Pair) -> str:
    if pair.verdict is not Verdict.UNDECIDED or pair.advice is None:
        return pair.verdict.value
    if math.isinf(pair.advice.more):
        return "undecided, and more seeds would not help"
    return f"undecided, about {count(pair.advice.more, 'more seed')} ({_range(pair.advice)})"


def _signed(value: float) -> str:
    size = abs(round(value, 10))  # what is left of no difference in floats is none
    return f"{'-' if value < 0 < size else '+'}{gap(size) if 0 < size < 5e-4 else f'{size:.4f}'}"


def _table(rows: Rows, width: int) -> Iterator[str]:
    header, body = rows
    table = columns([header, *body], left=(0, len(header) - 1))
    if max(map(len, table)) <= width:
        yield from table
        return
    for name, *cells in body:
        yield name
        yield from (f"  {title}: {cell}" for title, cell in zip(header[1:], cells, strict=True) if cell)


# -- the finalists of a study, trained again ---------------------------------------------------------------------


def confirmation_lines(confirmation: Confirmation, split: bool = True) -> list[str]:
    """One line a finalist; then how much of the lead was luck, and what to take. split: hpo made a validation split."""
    rows = [
        f"trial {one.trial}: {decimals(one.value)} then, {_again(one)}{_rank(one, confirmation)}"
        for one in confirmation.finalists
    ]
    return [*rows, f"{_luck(confirmation)} {_choice(confirmation)} {SAME_SPLIT if split else ''}".strip()]


def _again(one: Finalist) -> str:
    if not one.fresh:
        return _failed(one) or "not trained again"
    between = f"({decimals(min(one.fresh))} to {decimals(max(one.fresh))})"
    return f"{decimals(one.mean)} on fresh seeds {between}, {_size(one)}{_failed(one, ', ')}"


def _failed(one: Finalist, before: str = "") -> str:
    """ "failed on 1 of 3 fresh seeds (diverged)"; nothing where none did."""
    seeds, outcomes = count(len(one.fresh) + len(one.failed), "fresh seed"), listed(sorted(set(one.failed)))
    return f"{before}failed on {len(one.failed)} of {seeds} ({outcomes})" if one.failed else ""


def _luck(confirmation: Confirmation) -> str:
    first, *others = confirmation.finalists
    moved = f"Trial {first.trial} has {decimals(first.value)} on the seed that chose it and"
    if not first.fresh:
        return f"{moved} {_again(first)}."
    moved += f" {decimals(first.mean)} over {count(len(first.fresh), 'fresh seed')}{_failed(first, ', ')}"
    if not others:
        return f"{moved}; with no other finalist there is no lead to explain."
    second = others[0].trial
    if not others[0].fresh:
        return f"{moved}; trial {second}: {_again(others[0])}, so nothing is known of the lead."
    if not confirmation.lead > 0:
        return f"{moved}; it had no lead over trial {second}."
    low, high = confirmation.interval.low, confirmation.interval.high
    was, remains = gap(confirmation.lead), gap(confirmation.fresh_lead)
    lead = f"{moved}. Its lead over trial {second} was {was} and is {remains} on fresh seeds"
    if not confirmation.judged:
        return f"{lead}: too few seeds to say how much of it was luck."
    lead += f", {_interval(low, high)}" if math.isfinite(low) else ""
    luck = confirmation.luck
    share = f"about {luck * 100:.0f} %" if 0 < luck < 1 else "all" if luck else "none"
    if low <= min(0, confirmation.lead) and confirmation.lead <= high:
        gone = f"{share} of it is gone" if luck else "it did not shrink"
        return f"{lead}: {gone}, but that interval includes both the whole lead and none of it: use more seeds."
    if low <= 0 <= high and luck < 1:
        return f"{lead}: {share} of it is gone, and what is left could be luck too."
    return f"{lead}: {share} of it was luck."


def _choice(confirmation: Confirmation) -> str:
    best, smallest = confirmation.best, confirmation.smallest
    others = [f"trial {one.trial}" for one in confirmation.tied if one is not best]
    first = f"Best on fresh seeds is trial {best.trial} ({decimals(best.mean)}{_failed(best, ', ')})"
    single = sum(bool(one.fresh) for one in confirmation.finalists) == 1
    if not confirmation.judged and not single:
        return f"{first}; which of the others are as good needs more seeds (hpo confirm --seeds 5)."
    if not others:
        return f"{first}{'' if single else ', ahead of the rest beyond chance'}."
    first += f"; {listed(others)} cannot be distinguished from it"
    if smallest is None:
        return f"{first}."
    if smallest is best:
        return f"{first}, and it is the smallest of them ({_size(best)})."
    small = f"{_size(smallest)}{_failed(smallest, ', ')}{',' if smallest.failed else ''}"
    return f"{first}; the smallest of these is trial {smallest.trial} ({small} against {_size(best)})."


def _size(finalist: Finalist) -> str:
    return "unknown size" if finalist.size is None else f"{finalist.size:,} parameters"


def _rank(finalist: Finalist, confirmation: Confirmation) -> str:
    if not confirmation.judged or finalist not in confirmation.tied:
        return ""
    return ", the best" if finalist is confirmation.best else ", not distinguishable from the best"
