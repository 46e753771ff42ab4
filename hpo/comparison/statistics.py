"""How certain it is that one strategy beats another, or one trial of a study the next, from a handful of seeds.

Glossary
    n       seeds, each run by both strategies
    d       differences a - b, one a seed, shape (..., n); positive means that a is better
    t       mean(d) / (sd(d) / sqrt(n)), Student's t with n - 1 degrees of freedom under "no difference"
    delta   noncentrality of t: sqrt(n) * effect, where effect = true mean / true sd
    alpha   the accepted chance of a false "better" for one pair
    margin  the largest difference that does not matter (`compare.margin`)

Arrays keep their leading axes, so that a test simulates a thousand comparisons in one call.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import scipy  # its parts are imported where they are used: 0.4 s that a report of one study can do without
from numpy.typing import ArrayLike, NDArray

from hpo.core import Goal, Outcome

Floats = NDArray[np.float64]

LEVEL = 0.95
POWER = 0.8  # "would be needed" means: enough to decide in four of five repetitions
MOST_SEEDS = 10_000  # beyond this many no advice is a number
ADVISABLE = 5  # seeds below which a spread is too uncertain to advise by
ALIKE = 6  # seeds from which differences that are all alike say something: 2 ** (1 - 6) < 0.05
SIZED = 3  # fresh values of each from which a smaller model may be called as good: with fewer nearly all are
CONSTANT = 4  # values each from which two constant groups differ beyond chance: 2 / C(8, 4) < 0.05


class Verdict(StrEnum):
    BETTER = "better"
    WORSE = "worse"
    EQUAL = "practically equal"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """What paired seeds say about a - b. p is two-sided and not corrected for the number of pairs."""

    mean: float
    sd: float
    seeds: int
    p: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Advice:
    """How many more seeds would decide, and the range in which this advice itself lies four times in five.

    Infinite where no number up to MOST_SEEDS would do. equal: what they would show is "practically equal".
    """

    more: float
    low: float
    high: float
    equal: bool = False


# -- a pair ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PairedT:
    """Arrays of shape (...): Student's t of d along its last axis."""

    mean: Floats
    sd: Floats
    low: Floats
    high: Floats
    p: Floats


def paired_t(d: ArrayLike) -> PairedT:
    """Student's t interval and test of the mean of d, shape (..., n).

    Differences that are all alike (counts of right answers tie) have no spread. Their p is the exact sign-flip one,
    2 ** (1 - n), and below ALIKE seeds their interval is the whole line, as is that of a single seed.
    """
    values = np.asarray(d, dtype=float)
    n = values.shape[-1]
    mean = values.mean(axis=-1)
    if n < 2:
        whole = np.full(mean.shape, np.inf)
        return PairedT(mean, np.full(mean.shape, np.nan), -whole, whole, np.ones(mean.shape))
    sd = values.std(axis=-1, ddof=1)
    alike = sd <= 1e-9 * np.abs(values).max(axis=-1)
    shaken = np.where(alike[..., None], np.arange(n, dtype=float), values)  # only to keep scipy from dividing by zero
    test = scipy.stats.ttest_1samp(shaken, 0.0, axis=-1)
    between = test.confidence_interval(LEVEL)
    slack = 0.0 if n >= ALIKE else np.inf
    return PairedT(
        mean=mean,
        sd=np.where(alike, 0.0, sd),
        low=np.where(alike, mean - slack, between.low),
        high=np.where(alike, mean + slack, between.high),
        p=np.where(alike, np.where(mean == 0, 1.0, 2.0 ** (1 - n)), test.pvalue),
    )


def paired(a: Sequence[float], b: Sequence[float]) -> Difference:
    """The difference a - b over seeds that both have run."""
    assert len(a) == len(b) > 0, (len(a), len(b))
    t = paired_t(np.subtract(a, b))
    return Difference(float(t.mean), float(t.sd), len(a), float(t.p), Interval(float(t.low), float(t.high)))


def holm(p: ArrayLike) -> Floats:
    """Holm's step-down correction along the last axis (Holm 1979); scipy has only the false discovery rates."""
    values = np.asarray(p, dtype=float)
    order = np.argsort(values, axis=-1, kind="stable")
    steps = values.shape[-1] - np.arange(values.shape[-1])
    corrected = np.maximum.accumulate(np.take_along_axis(values, order, -1) * steps, axis=-1)
    result = np.empty_like(values)
    np.put_along_axis(result, order, np.minimum(corrected, 1.0), -1)
    return result


def verdict(difference: Difference, corrected: float, margin: float) -> Verdict:
    """What may be said of a against b, by Holm's p over all pairs; a difference within the margin is no victory."""
    if difference.seeds < 2:
        return Verdict.UNDECIDED
    if -margin <= difference.interval.low and difference.interval.high <= margin:
        return Verdict.EQUAL
    if corrected < 1 - LEVEL:
        return Verdict.BETTER if difference.mean > 0 else Verdict.WORSE
    return Verdict.UNDECIDED


# -- how many seeds ----------------------------------------------------------------------------------------------


def power(effect: ArrayLike, n: ArrayLike, alpha: float) -> Floats:
    """The chance that the two-sided t test at alpha finds an effect (mean / sd) with n seeds."""
    df = np.asarray(n, dtype=float) - 1
    bar = scipy.stats.t.ppf(1 - alpha / 2, df)
    delta = np.asarray(effect) * np.sqrt(df + 1)
    return np.asarray(1 - _central(df, delta, bar))


def seeds_to_tell_apart(effect: ArrayLike, alpha: float) -> Floats:
    """The smallest n with `power` of at least POWER, found by halving; infinite beyond MOST_SEEDS."""
    effects = np.abs(np.asarray(effect, dtype=float))
    low, high = np.full(effects.shape, 1.0), np.full(effects.shape, float(MOST_SEEDS))
    for _ in range(math.ceil(math.log2(MOST_SEEDS))):
        middle = np.floor((low + high) / 2)
        enough = power(effects, np.maximum(middle, 2), alpha) >= POWER
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(power(effects, MOST_SEEDS, alpha) >= POWER, np.maximum(high, 2), np.inf)


def seeds_to_call_equal(mean: ArrayLike, sd: ArrayLike, margin: float) -> Floats:
    """The smallest n at which the interval lies within +-margin with chance POWER, mean and sd being the true ones."""
    means, sds = np.broadcast_arrays(np.abs(np.asarray(mean, dtype=float)), np.asarray(sd, dtype=float))
    n = np.unique(np.geomspace(2, MOST_SEEDS, 300).astype(int))
    error = sds[..., None] / np.sqrt(n)
    half = scipy.stats.t.ppf(0.5 + LEVEL / 2, n - 1) * error
    room = np.maximum(margin - half, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        upper, lower = (room - means[..., None]) / error, (-room - means[..., None]) / error
    chance = np.where(room > 0, scipy.special.ndtr(upper) - scipy.special.ndtr(lower), 0.0)
    enough = chance >= POWER
    return np.where(enough.any(axis=-1), n[enough.argmax(axis=-1)], np.inf)


def effect_given_undecided(t: ArrayLike, n: int, alpha: float, chance: float = 0.5) -> Floats:
    """The effect at which |t| would stay below the one seen with this chance, among comparisons that stay undecided.

    With chance 0.5 that is the median-unbiased estimate. Only the undecided are advised, and these drew a small t: the plain
    mean / sd asks them for twice the seeds they need (effect 0.7, 10 seeds).
    """
    seen = np.abs(np.asarray(t, dtype=float))
    bar = float(scipy.stats.t.ppf(1 - alpha / 2, n - 1))
    seen = np.minimum(seen, bar * (1 - 1e-6))
    low, high = np.zeros(seen.shape), np.full(seen.shape, bar + 6.0)
    for _ in range(40):
        middle = (low + high) / 2
        below = _central(n - 1, middle, seen) / _central(n - 1, middle, bar)
        low, high = np.where(below > chance, middle, low), np.where(below > chance, high, middle)
    return np.asarray(low / math.sqrt(n))


def more_seeds(t: ArrayLike, n: int, alpha: float, chance: float = 0.5) -> Floats:
    """How many seeds beyond n would tell an undecided pair apart; at least one, infinite where none would do."""
    effect = effect_given_undecided(t, n, alpha, chance)
    return np.maximum(seeds_to_tell_apart(effect, alpha) - n, 1.0)


def advise(difference: Difference, margin: float, pairs: int = 1) -> Advice | None:
    """What an undecided pair among `pairs` still needs, by the shorter way; None without a spread to go by."""
    if difference.seeds < ADVISABLE or not difference.sd > 0:
        return None
    apart = _until_apart(difference, (1 - LEVEL) / pairs)  # Holm's rule: above that p it is undecided
    equal = _until_equal(difference, margin)
    return equal if equal.more < apart.more else apart


def _until_apart(difference: Difference, alpha: float) -> Advice:
    """Just below the bar the estimate is all but infinite; the plain mean / sd keeps the range honest there."""
    n = difference.seeds
    effect = difference.mean / difference.sd
    more, low, high = (float(more_seeds(effect * math.sqrt(n), n, alpha, chance)) for chance in (0.5, 0.1, 0.9))
    return Advice(more, min(low, more), max(more, high, float(seeds_to_tell_apart(effect, alpha)) - n))


def _until_equal(difference: Difference, margin: float) -> Advice:
    """The true mean is estimated with the noise of the seen one taken off; the range is that of the sd."""
    n, sd = difference.seeds, difference.sd
    mean = math.sqrt(max(difference.mean**2 - sd**2 / n, 0.0))
    spread = [sd * math.sqrt((n - 1) / float(scipy.stats.chi2.ppf(q, n - 1))) for q in (0.5, 0.9, 0.1)]
    needed = np.maximum(seeds_to_call_equal(mean, spread, margin) - n, 1.0)
    return Advice(float(needed[0]), float(needed.min()), float(needed.max()), equal=True)


def _central(df: ArrayLike, delta: ArrayLike, bar: ArrayLike) -> Floats:
    """P(|T| <= bar) for noncentral t, delta >= 0."""
    return _below(df, delta, bar) - _below(df, delta, np.negative(bar))


def _below(df: ArrayLike, delta: ArrayLike, bar: ArrayLike) -> Floats:
    """P(T <= bar). Far out in a tail scipy gives nan: there the normal approximation is as good (Johnson & Welch 1940)."""
    freedom, shift, limit = np.broadcast_arrays(*(np.asarray(value, dtype=float) for value in (df, delta, bar)))
    exact = scipy.special.nctdtr(freedom, shift, limit)
    rough = scipy.special.ndtr((limit * (1 - 1 / (4 * freedom)) - shift) / np.sqrt(1 + limit**2 / (2 * freedom)))
    return np.asarray(np.where(np.isnan(exact), rough, exact), dtype=np.float64)


def simultaneous(groups: Sequence[Sequence[float]]) -> tuple[Floats, Floats] | None:
    """The intervals of all differences of the groups' means at once (Tukey's HSD): low and high, shape (groups, groups).

    None where chance cannot be judged: a single group, single values, or fewer than CONSTANT values that are all alike.
    """
    fewest = min(map(len, groups))
    if len(groups) < 2 or fewest < 2:
        return None
    if any(len(set(group)) > 1 for group in groups):
        between = scipy.stats.tukey_hsd(*groups).confidence_interval(LEVEL)
        return np.asarray(between.low), np.asarray(between.high)
    values = np.array([group[0] for group in groups])
    apart = values[:, None] - values
    return (apart, apart) if fewest >= CONSTANT else None


# -- the finalists of a study, trained again ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Finalist:
    """value: with the seed that chose it; fresh, failed: with others, and those without one; size: parameters."""

    trial: int
    value: float
    fresh: tuple[float, ...]
    size: int | None = None
    failed: tuple[Outcome, ...] = ()

    @property
    def mean(self) -> float:
        """Of the repetitions that have a value; not a number where none has."""
        return float(np.mean(self.fresh)) if self.fresh else math.nan


@dataclass(frozen=True, slots=True)
class Confirmation:
    """finalists: in the order of the search, its best trial first.

    lead, fresh_lead: of that trial over the second, positive is better, nan where one has no fresh value; luck: the share
    of the lead that is gone, from 0 to 1, nan if there was none. judged: whether the seeds are enough to tell chance from
    difference. best: first on fresh seeds; tied: the trials as good as it, best included, which stands alone if nothing
    is judged.
    """

    finalists: tuple[Finalist, ...]
    lead: float
    fresh_lead: float
    interval: Interval
    luck: float
    judged: bool
    best: Finalist
    tied: tuple[Finalist, ...]
    smallest: Finalist | None


def confirm(finalists: Sequence[Finalist], goal: Goal) -> Confirmation:
    """What fresh seeds say of the finalists, of which at least one has a fresh value.

    The best trial of a search was good *and* lucky. Fresh seeds had no part in choosing it. All finalists are tested against
    each other at once, because the best of them is itself chosen after looking.
    """
    sign = 1.0 if goal.maximize else -1.0
    ranked = sorted(finalists, key=lambda finalist: (-sign * finalist.value, finalist.trial))
    trained = [one for one in ranked if one.fresh]
    best = max(trained, key=lambda finalist: sign * finalist.mean)
    first, second = ranked[0], ranked[min(1, len(ranked) - 1)]
    lead, fresh_lead = sign * (first.value - second.value), sign * (first.mean - second.mean)
    intervals = simultaneous([finalist.fresh for finalist in trained])
    tied, sized = [best], []
    interval = Interval(-math.inf, math.inf) if len(ranked) > 1 else Interval(0.0, 0.0)
    if intervals is not None:
        lows, highs = intervals
        j = trained.index(best)
        tied = [one for i, one in enumerate(trained) if one is best or lows[i, j] <= 0 <= highs[i, j]]
        sized = [one for one in tied if one.size is not None and len(one.fresh) >= SIZED]
        if trained[:2] == ranked[:2]:
            interval = Interval(*sorted((sign * float(lows[0, 1]), sign * float(highs[0, 1]))))
    return Confirmation(
        finalists=tuple(ranked),
        lead=lead,
        fresh_lead=fresh_lead,
        interval=interval,
        luck=min(max(1 - fresh_lead / lead, 0.0), 1.0) if lead > 0 else math.nan,
        judged=intervals is not None,
        best=best,
        tied=tuple(tied),
        smallest=min(sized, key=lambda one: (one.size or 0, -sign * one.mean), default=None),
    )
