"""What the trials show: which parameters mattered, what failed trials have in common, which bounds were in the way."""

import itertools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import scipy

from hpo.core import Goal, Outcome, State, Study, Trial, Value
from hpo.formatting import count, listed, number, written
from hpo.space.domains import Domain, Parameter, ParameterSpec, Range
from hpo.space.space import Space

FEWEST = 10  # trials below which an importance or a limiting bound is a guess
RANKED = 20  # trials below which parameters are not ranked
CHANCE = 0.002  # a limiting bound rarer than this is reported; a space has some dozens of edges
COINCIDENCE = 0.005  # what failed trials share is reported if chance shares it less often


def searched(space: Space) -> list[Parameter]:
    """The parameters that are not constant, in the space's order."""
    return [parameter for parameter in space.parameters if parameter.domain.levels != 1]


def numeric(domain: Domain) -> bool:
    return isinstance(domain, Range) or {int, float}.issuperset(map(type, domain.values))


def within(study: Study, space: Space) -> list[Trial]:
    """The trials with those of their params that the space still has: its file may have changed since."""
    trials = []
    for trial in study.trials:
        coerced = {name: space[name].domain.coerce(value) for name, value in trial.params.items() if name in space}
        trials.append(replace(trial, params={name: value for name, value in coerced.items() if value is not None}))
    return trials


# -- importances -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Importances:
    """Shares that sum to 1, largest first; or the reason why there are none."""

    shares: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""


def importances(trials: Sequence[Trial], goal: Goal, space: Space) -> Importances:
    """PED-ANOVA (Watanabe, Bansal, Hutter, IJCAI 2023): what decides whether a trial is among the best.

    Failed trials count as worst: a parameter that makes trials fail matters.
    """
    ended = [trial for trial in trials if trial.state in (State.COMPLETE, State.FAILED)]
    scores = [goal.score(trial) if trial.state is State.COMPLETE else math.inf for trial in ended]
    finite = [score for score in scores if math.isfinite(score)]
    if len(ended) < RANKED:
        return Importances(reason=f"{count(len(ended), 'finished trial')} are too few; {RANKED} are needed")
    if len(finite) < 2 or min(finite) == max(finite):
        return Importances(reason="all trials have the same value")
    active = {p: [str(t.params[p.name]) for t in ended if p.name in t.params] for p in searched(space)}
    varied = [p for p, values in active.items() if len(values) >= FEWEST and len(set(values)) > 1]
    if not varied:
        return Importances(reason=f"no parameter had two values in {FEWEST} trials")
    import optuna  # with scikit-learn, which it imports: 0.7 s that fewer trials do without
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    from hpo.strategies.tpe import Coordinate, for_optuna

    coordinates = {parameter.name: Coordinate(parameter.domain) for parameter in varied}
    worst = max(finite) + (max(finite) - min(finite))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # optuna warns of what is experimental; the versions are pinned
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        mirror = optuna.create_study()
        values = [min(score, worst) for score in scores]
        mirror.add_trials([for_optuna(t.params, coordinates, value=v) for t, v in zip(ended, values, strict=True)])
        best = PedAnovaImportanceEvaluator(target_quantile=min(0.5, max(0.1, 5 / len(ended))))
        shares = get_param_importances(mirror, evaluator=best)
    return Importances(dict(sorted(shares.items(), key=lambda item: -item[1])))


# -- outcomes ----------------------------------------------------------------------------------------------------


def tally(trials: Sequence[Trial]) -> str:
    """ "40 trials: 29 complete, 6 pruned and 5 failed (4 diverged, 1 oom)"."""
    if not trials:
        return "no trials yet"
    parts = []
    for state in (State.COMPLETE, State.PRUNED, State.FAILED, State.PAUSED, State.RUNNING):
        outcomes = [trial.outcome for trial in trials if trial.state is state]
        if outcomes:
            reasons = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in Outcome if outcome in outcomes)
            parts.append(f"{len(outcomes)} {state}" + (f" ({reasons})" if state is State.FAILED else ""))
    return f"{count(len(trials), 'trial')}: {listed(parts)}"


Rule = tuple[str, np.ndarray]  # a statement about one parameter, and a mask of the trials that it covers


def in_common(trials: Sequence[Trial], space: Space) -> list[str]:
    """A sentence for each way in which two or more trials failed: what they share that the others do not."""
    ended = [trial for trial in trials if trial.finished]
    sentences = []
    for outcome in Outcome:
        failed = np.array([t.outcome is outcome and t.state is State.FAILED for t in ended], dtype=bool)
        if failed.sum() >= 2:
            sentences.append(_common(outcome.value, failed, ended, space))
    return sentences


def _common(outcome: str, failed: np.ndarray, trials: Sequence[Trial], space: Space) -> str:
    n, group = len(trials), int(failed.sum())
    if n == group:
        return f"All {n} trials ended as {outcome}, so there is nothing to compare them with."
    likely: list[tuple[float, str, int, int]] = []  # chance, text, failed trials and others that the rule covers
    for text, covers in _rules(failed, trials, space):
        inside, covered = int((covers & failed).sum()), int(covers.sum())
        chance = float(scipy.stats.hypergeom.sf(inside - 1, n, covered, group))
        if inside >= 0.8 * group and chance < COINCIDENCE:
            likely.append((chance, text, inside, covered - inside))
    if not likely:
        return f"No single parameter sets the {group} {outcome} trials apart from the others."
    _, text, inside, others = min(likely, key=lambda rule: rule[0])
    everyone = "Both" if group == 2 else f"All {group}"
    who = f"{everyone if inside == group else f'{inside} of {group}'} {outcome} trials"
    rest = f"{others or 'none'} of the {n - group} others {'do' if others > 1 else 'does'}"
    return f"{who} have {text}; {rest}."


def _rules(failed: np.ndarray, trials: Sequence[Trial], space: Space) -> Iterator[Rule]:
    for parameter in searched(space):
        name = parameter.name
        values = [trial.params.get(name) for trial in trials]
        if numeric(parameter.domain):
            numbers = np.array([math.nan if value is None else float(value) for value in values])
            yield from _thresholds(name, numbers, failed)
        else:
            for value in {value for value, out in zip(values, failed, strict=True) if out and value is not None}:
                yield f"{name} {written(value)}", np.array([one == value for one in values])


def _thresholds(name: str, numbers: np.ndarray, failed: np.ndarray) -> Iterator[Rule]:
    """ "above x" and "below x" at every gap between neighbours, where x is the shortest number in the gap."""
    levels = np.unique(numbers[~np.isnan(numbers)])
    inside = numbers[failed & ~np.isnan(numbers)]
    if len(levels) < 2 or not len(inside):
        return
    least, most = np.quantile(inside, [0.2, 0.8])  # a rule must hold for four in five
    for low, high in itertools.pairwise(levels):
        between = number(shortest(float(low), float(high)))
        if high <= least:
            yield f"{name} above {between}", np.nan_to_num(numbers, nan=-np.inf) >= high
        if low >= most:
            yield f"{name} below {between}", np.nan_to_num(numbers, nan=np.inf) <= low


def shortest(low: float, high: float) -> float:
    """The number with the fewest digits that is at least low and below high."""
    for digits in range(1, 7):
        for start in (high, low, (low + high) / 2):
            candidate = float(f"{start:.{digits}g}")
            if low <= candidate < high:
                return candidate
    return low


# -- bounds ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Edge:
    """A bound of the space that limits the search: `at` of the `of` best trials are there; wider: a bound further out."""

    name: str
    upper: bool
    bound: Value
    at: int
    of: int
    wider: Value

    def __str__(self) -> str:
        edge = f"{self.name} at {written(self.bound)}, its {'upper' if self.upper else 'lower'} bound"
        return f"{edge}: {self.at} of the {self.of} best trials are there; try {written(self.wider)}"


def edges(trials: Sequence[Trial], goal: Goal, space: Space, known: Mapping[str, ParameterSpec]) -> list[Edge]:
    """Where the best trial sits at a bound with room beyond and chance alone would seldom put so many of the best.

    known: what a parameter may mean, so that no dropout exceeds 1.
    """
    ranked = [trial for trial in goal.ranked(trials) if goal.counted(trial)]
    if len(ranked) < FEWEST:
        return []
    best = ranked[: max(5, len(ranked) // 10)]
    limiting = []
    for name, domain in ((p.name, p.domain) for p in searched(space) if numeric(p.domain)):
        levels, continuous = _levels(domain)
        if name not in best[0].params or (len(levels) == 2 and not continuous):  # two values are nothing but ends
            continue
        active = [float(trial.params[name]) for trial in best if name in trial.params]
        limits = known.get(name) or known.get(name.partition(".")[2])
        for upper in (True, False):
            bound = levels[-1 if upper else 0]
            near = 0.1 if continuous else 1e-9  # the outer tenth of a range, or its last level
            there = [abs(domain.encode(value) - domain.encode(bound)) <= near for value in active]
            share = 0.1 if continuous else max(0.1, 1 / len(levels))  # of the parameter's values, as chance sees it
            rare = scipy.special.bdtrc(sum(there) - 1, len(there), share) < CHANCE  # binom.sf, but no scipy.stats
            if there[0] and rare and sum(there) >= 2 / 3 * len(there):
                wider = _meaningful(_wider(domain, levels, continuous, upper), bound, limits)
                limiting += [Edge(name, upper, bound, sum(there), len(there), wider)] if wider != bound else []
    return limiting


def _levels(domain: Domain) -> tuple[list[int | float], bool]:
    """The numbers, ascending, and whether these are only the ends of a range that is all but continuous."""
    if isinstance(domain, Range) and (domain.levels is None or domain.levels > 10):
        return [domain.low, domain.high], True
    levels = map(domain.level, range(domain.levels or 0))
    return sorted(value for value in levels if not isinstance(value, str)), False


def _wider(domain: Domain, levels: Sequence[int | float], continuous: bool, upper: bool) -> float:
    """Three times as far on a log scale, half the width further on a plain one; a choice gets one more of its kind."""
    bound, inner = (levels[-1], levels[-2]) if upper else (levels[0], levels[1])
    if continuous and isinstance(domain, Range) and domain.log:
        value = float(f"{bound * 3 if upper else bound / 3:.1g}")
    elif continuous:
        value = bound + (bound - inner) / 2
    else:
        geometric = levels[0] > 0 and levels[-1] / levels[0] >= 4
        value = bound * bound / inner if geometric else 2 * bound - inner
    value = float(f"{value:.3g}")
    return round(value) if isinstance(bound, int) else value


def _meaningful(value: float, bound: float, limits: ParameterSpec | None) -> Value:
    """As far as the parameter has a meaning; a number that is not negative stays so."""
    if bound >= 0 > value:
        value = type(bound)(0)
    if bound >= 1 > value and isinstance(bound, int):
        value = 1
    if limits is None or limits.fault(value) is None:
        return value
    end = limits.high if value > bound else limits.low
    if end is None:
        return bound
    middle = float(f"{(bound + end) / 2:.6g}")
    candidates = [type(bound)(end), middle] if isinstance(bound, float) else [int(end)]
    return next((one for one in candidates if limits.fault(one) is None), bound)
