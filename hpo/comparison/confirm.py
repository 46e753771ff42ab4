"""The finalists trained again: how much of the winner's lead was luck, and which small model is as good.

The winner of a search is the trial that was best *and* lucky. Fresh seeds had no part in choosing it, so their values
are fair. All models are tested against each other at once (Tukey's HSD), because the best of them is itself chosen
after looking.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from hpo.comparison.statistics import LEVEL, Interval
from hpo.core import Goal
from hpo.formatting import count, decimals, gap, listed

SIZED = 3  # values each from which a smaller model may be called as good: with fewer nearly all are
ALIKE = 4  # values each from which two constant finalists differ beyond chance: 2 / C(8, 4) < 0.05


@dataclass(frozen=True, slots=True)
class Finalist:
    """value: on the seed that chose it; fresh: on seeds that did not; size: learned parameters, if they are known."""

    trial: int
    value: float
    fresh: tuple[float, ...]
    size: int | None = None

    @property
    def mean(self) -> float:
        return float(np.mean(self.fresh))


@dataclass(frozen=True, slots=True)
class Confirmation:
    """finalists: in the order of the search, the winner first.

    lead, fresh_lead: of the winner over the runner-up, positive is better; luck: the share of the lead that is gone,
    from 0 to 1, nan if there was none. judged: whether the seeds are enough to tell chance from difference. best: first
    on fresh seeds; tied: the trials that cannot be told from it, best included, which alone is there if nothing is judged.
    """

    goal: Goal
    finalists: tuple[Finalist, ...]
    lead: float
    fresh_lead: float
    interval: Interval
    luck: float
    judged: bool
    best: Finalist
    tied: tuple[Finalist, ...]
    smallest: Finalist | None


def confirm(finalists: Sequence[Finalist], goal: Goal, level: float = LEVEL) -> Confirmation:
    """What fresh seeds say about the finalists; every one needs at least one fresh value."""
    assert finalists and all(f.fresh for f in finalists), finalists
    sign = 1.0 if goal.maximize else -1.0
    ranked = sorted(finalists, key=lambda f: (-sign * f.value, f.trial))
    best = max(ranked, key=lambda f: sign * f.mean)
    winner, second = ranked[0], ranked[min(1, len(ranked) - 1)]
    lead, fresh_lead = sign * (winner.value - second.value), sign * (winner.mean - second.mean)
    together = _Together(ranked, level)
    low, high = together.interval(winner, second) if winner is not second else (0.0, 0.0)
    tied = tuple(f for f in ranked if f is best or (together.judges and together.tied(f, best)))
    sized = [f for f in tied if f.size is not None and together.judges and len(f.fresh) >= SIZED]
    return Confirmation(
        goal=goal,
        finalists=tuple(ranked),
        lead=lead,
        fresh_lead=fresh_lead,
        interval=Interval(low, high) if goal.maximize else Interval(-high, -low),
        luck=min(max(1 - fresh_lead / lead, 0.0), 1.0) if lead > 0 else math.nan,
        judged=together.judges,
        best=best,
        tied=tied,
        smallest=min(sized, key=lambda f: (f.size or 0, -sign * f.mean), default=None),
    )


class _Together:
    """All finalists compared at once. Values that are single, or few and alike, have no spread to judge chance by."""

    def __init__(self, finalists: Sequence[Finalist], level: float) -> None:
        self._place = {f.trial: i for i, f in enumerate(finalists)}
        groups = [f.fresh for f in finalists]
        freedom = sum(len(group) - 1 for group in groups)
        spread = any(len(set(group)) > 1 for group in groups)
        enough = len(groups) > 1 and spread and freedom > 0 and min(map(len, groups)) > 1
        self._between = stats.tukey_hsd(*groups).confidence_interval(level) if enough else None
        self._exact = len(groups) > 1 and not spread and min(map(len, groups)) >= ALIKE
        self._means = [f.mean for f in finalists]

    @property
    def judges(self) -> bool:
        return self._between is not None or self._exact

    def interval(self, a: Finalist, b: Finalist) -> tuple[float, float]:
        i, j = self._place[a.trial], self._place[b.trial]
        if self._between is None:
            apart = self._means[i] - self._means[j]
            return (apart, apart) if self._exact else (-math.inf, math.inf)
        return float(np.asarray(self._between.low)[i, j]), float(np.asarray(self._between.high)[i, j])

    def tied(self, a: Finalist, b: Finalist) -> bool:
        low, high = self.interval(a, b)
        return low <= 0 <= high


# -- words -------------------------------------------------------------------------------------------------------


def sentence(confirmation: Confirmation) -> str:
    """How much of the lead was luck, and what to take."""
    return f"{_luck(confirmation)} {_choice(confirmation)}"


def _luck(confirmation: Confirmation) -> str:
    winner = confirmation.finalists[0]
    seeds = count(len(winner.fresh), "fresh seed")
    moved = f"{decimals(winner.value)} on the seed that chose it and {decimals(winner.mean)} over {seeds}"
    if len(confirmation.finalists) < 2:
        return f"Trial {winner.trial} has {moved}; with no other finalist there is no lead to explain."
    second = confirmation.finalists[1]
    if not confirmation.lead > 0:
        return f"Trial {winner.trial} has {moved}; it had no lead over trial {second.trial}."
    low, high = confirmation.interval.low, confirmation.interval.high
    between = f", {LEVEL * 100:.0f} % interval {gap(low)} to {gap(high)}" if math.isfinite(low) else ""
    was, remains = gap(confirmation.lead), gap(confirmation.fresh_lead)
    told = f"Trial {winner.trial} has {moved}. Its lead over trial {second.trial} was {was} and is {remains} on fresh seeds"
    if not confirmation.judged:
        return f"{told}: too few seeds to say how much of it was luck."
    luck = confirmation.luck
    share = f"about {luck * 100:.0f} %" if 0 < luck < 1 else "all" if luck else "none"
    if low <= min(0, confirmation.lead) and confirmation.lead <= high:
        gone = f"{share} of it is gone" if luck else "it did not shrink"
        return f"{told}{between}: {gone}, but that interval has room for the whole lead and for none: take more seeds."
    if low <= 0 <= high and luck < 1:
        return f"{told}{between}: {share} of it is gone, and what is left could be luck too."
    return f"{told}{between}: {share} of it was luck."


def _choice(confirmation: Confirmation) -> str:
    best, smallest = confirmation.best, confirmation.smallest
    others = [f"trial {f.trial}" for f in confirmation.tied if f is not best]
    told = f"Best on fresh seeds is trial {best.trial} ({decimals(best.mean)})"
    if not confirmation.judged and len(confirmation.finalists) > 1:
        return f"{told}; which of the others are as good needs more seeds (hpo confirm --seeds 5)."
    if not others:
        return f"{told}{', ahead of the rest beyond chance' if len(confirmation.finalists) > 1 else ''}."
    told = f"{told}; {listed(others)} cannot be told from it"
    if smallest is None:
        return f"{told}."
    if smallest is best:
        return f"{told}, and it is the smallest of them ({_size(best)})."
    return f"{told}; the smallest of these is trial {smallest.trial} ({_size(smallest)} against {_size(best)})."


def _size(finalist: Finalist) -> str:
    return "unknown size" if finalist.size is None else f"{finalist.size:,} parameters"


def _place(finalist: Finalist, confirmation: Confirmation) -> str:
    if not confirmation.judged or finalist not in confirmation.tied:
        return ""
    return ", the best" if finalist is confirmation.best else ", not told from the best"


def lines(confirmation: Confirmation) -> list[str]:
    """One line a finalist, then the sentence."""
    rows = [
        f"trial {f.trial}: {decimals(f.value)} then, {decimals(f.mean)} on fresh seeds ({decimals(min(f.fresh))} to "
        f"{decimals(max(f.fresh))}), {_size(f)}{_place(f, confirmation)}"
        for f in confirmation.finalists
    ]
    return [*rows, sentence(confirmation)]
