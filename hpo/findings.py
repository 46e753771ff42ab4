"""What the trials say: which parameters mattered, what failed trials have in common, and which bounds were in the way."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, create_trial
from scipy import stats

from hpo.core import Goal, Outcome, Params, State, Study, Trial, Value
from hpo.domains import Choice, Known, Range
from hpo.space import Space
from hpo.wording import count, listed, number, written

FEWEST = 10  # trials below which an importance or a hit bound is a guess
CHANCE = 0.002  # a coincidence rarer than this is reported; there are some dozens of chances for one in a space


def searched(space: Space) -> tuple[str, ...]:
    """The parameters that are no constants, in the space's order."""
    return tuple(parameter.name for parameter in space.parameters if parameter.domain.levels != 1)


# -- importances -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Importances:
    """Shares that sum to 1, largest first; or the reason why there are none."""

    shares: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""


def importances(study: Study, goal: Goal, space: Space) -> Importances:
    """PED-ANOVA (Watanabe, Bansal, Hutter, IJCAI 2023): what decides whether a trial is among the best.

    Failed trials count as worst: a parameter that makes trials fail matters.
    """
    told = [trial for trial in study.trials if trial.state in (State.COMPLETE, State.FAILED)]
    finite = [score for trial in told if math.isfinite(score := _score(trial, goal))]
    if len(told) < FEWEST:
        return Importances(reason=f"{count(len(told), 'finished trial')} are too few; {FEWEST} are needed")
    if len(finite) < 2 or min(finite) == max(finite):
        return Importances(reason="all trials have the same value")
    names = [name for name in searched(space) if len({str(t.params[name]) for t in told if name in t.params}) > 1]
    if not names:
        return Importances(reason="no parameter had two values")
    worst = max(finite) + (max(finite) - min(finite))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # optuna warns of what is experimental; the versions are pinned
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        mirror = optuna.create_study()
        mirror.add_trials([_told(trial, names, space, min(_score(trial, goal), worst)) for trial in told])
        best = PedAnovaImportanceEvaluator(target_quantile=min(0.5, max(0.1, 5 / len(told))))
        shares = get_param_importances(mirror, evaluator=best)
    return Importances(dict(sorted(shares.items(), key=lambda item: -item[1])))


def _score(trial: Trial, goal: Goal) -> float:
    return goal.score(trial)[0] if trial.state is State.COMPLETE else math.inf


def _told(trial: Trial, names: Sequence[str], space: Space, score: float) -> FrozenTrial:
    params = {name: trial.params[name] for name in names if name in trial.params}
    return create_trial(params=params, distributions={n: _distribution(space[n].domain) for n in params}, value=score)


def _distribution(domain: Choice | Range) -> BaseDistribution:
    if isinstance(domain, Choice):
        return CategoricalDistribution(domain.values)
    if domain.integer:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log)
    return FloatDistribution(domain.low, domain.high, log=domain.log)


# -- outcomes ----------------------------------------------------------------------------------------------------


def tally(study: Study) -> str:
    """ "40 trials: 29 complete, 6 pruned and 5 failed (4 diverged, 1 oom)"."""
    if not study.trials:
        return "no trials yet"
    parts = []
    for state in (State.COMPLETE, State.PRUNED, State.FAILED, State.PAUSED, State.RUNNING):
        trials = study.with_state(state)
        if trials:
            why = _reasons(trials) if state is State.FAILED else ""
            parts.append(f"{len(trials)} {state.value}{why}")
    return f"{count(len(study.trials), 'trial')}: {listed(parts)}"


def _reasons(trials: Sequence[Trial]) -> str:
    counts = {outcome: sum(t.outcome is outcome for t in trials) for outcome in Outcome}
    return f" ({', '.join(f'{n} {outcome.value}' for outcome, n in counts.items() if n and outcome is not Outcome.OK)})"


@dataclass(frozen=True, slots=True)
class Rule:
    """Something said of one parameter; covers is a mask over the trials."""

    text: str
    covers: np.ndarray


def in_common(study: Study, space: Space) -> list[str]:
    """A sentence for each way in which two or more trials failed: what they share that the others do not."""
    ended = [trial for trial in study.trials if trial.finished]
    sentences = []
    for outcome in Outcome:
        failed = np.array([t.outcome is outcome and t.state is State.FAILED for t in ended], dtype=bool)
        if failed.sum() >= 2:
            sentences.append(_common(outcome.value, failed, ended, space))
    return sentences


def _common(outcome: str, failed: np.ndarray, trials: Sequence[Trial], space: Space) -> str:
    n, group = len(trials), int(failed.sum())
    best, rarest = None, CHANCE
    for rule in _rules(failed, trials, space):
        inside, all_ = int((rule.covers & failed).sum()), int(rule.covers.sum())
        if inside < 0.8 * group:
            continue
        chance = float(stats.hypergeom.sf(inside - 1, n, all_, group))
        if chance < rarest:
            best, rarest = rule, chance
    noun = f"{outcome} trial{'s' if group > 1 else ''}"
    if best is None:
        return f"The {group} {noun} have no single parameter in common that the others have not."
    inside, others = int((best.covers & failed).sum()), int((best.covers & ~failed).sum())
    who = f"All {group} {noun}" if inside == group else f"{inside} of {group} {noun}"
    rest = f"{others} of the {n - group} others" if others else f"none of the {n - group} others"
    return f"{who} have {best.text}; {rest} {'have' if others > 1 else 'has'}."


def _rules(failed: np.ndarray, trials: Sequence[Trial], space: Space) -> Iterator[Rule]:
    for name in searched(space):
        domain = space[name].domain
        values = [trial.params.get(name) for trial in trials]
        present = np.array([value is not None for value in values])
        if _numeric(domain):
            numbers = np.array([math.nan if value is None else float(value) for value in values])
            yield from _thresholds(name, numbers, failed)
        else:
            for value in {value for value, out in zip(values, failed, strict=True) if out and value is not None}:
                yield Rule(f"{name} {written(value)}", np.array([one == value for one in values]) & present)


def _thresholds(name: str, numbers: np.ndarray, failed: np.ndarray) -> Iterator[Rule]:
    """ "above x" and "below x" at every gap between neighbours, where x is the shortest number in the gap."""
    levels = np.unique(numbers[~np.isnan(numbers)])
    inside = numbers[failed & ~np.isnan(numbers)]
    if len(levels) < 2 or not len(inside):
        return
    least, most = np.quantile(inside, [0.2, 0.8])  # a rule must hold for four in five
    for low, high in zip(levels[:-1], levels[1:], strict=True):
        between = number(shortest(float(low), float(high)))
        if high <= least:
            yield Rule(f"{name} above {between}", np.nan_to_num(numbers, nan=-np.inf) >= high)
        if low >= most:
            yield Rule(f"{name} below {between}", np.nan_to_num(numbers, nan=np.inf) <= low)


def shortest(low: float, high: float) -> float:
    """The number with the fewest digits that is at least low and below high."""
    for digits in range(1, 7):
        for start in (high, low, (low + high) / 2):
            candidate = float(f"{start:.{digits}g}")
            if low <= candidate < high:
                return candidate
    return low


def _numeric(domain: Choice | Range) -> bool:
    if isinstance(domain, Range):
        return True
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in domain.values)


# -- bounds ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hit:
    """The best trials sit at one edge of a parameter; wider is the value to go on to."""

    name: str
    upper: bool
    bound: Value
    wider: Value
    trials: int
    of: int

    @property
    def sentence(self) -> str:
        edge = "upper" if self.upper else "lower"
        where = f"sits at the {edge} edge ({written(self.bound)}) in {self.trials} of the {self.of} best trials"
        return f"{self.name} {where}: widen to {written(self.wider)}."


def hits(study: Study, goal: Goal, space: Space, known: Mapping[str, Known] | None = None) -> list[Hit]:
    """Bounds at which the best trial and so many of the best ones sit that chance would do it once in 1 / CHANCE.

    known: what a parameter may mean, so that no dropout is widened beyond 1.
    """
    complete = sorted(study.with_state(State.COMPLETE), key=lambda t: (goal.score(t), t.number))
    if len(complete) < FEWEST:
        return []
    best = complete[: max(5, len(complete) // 10)]
    found = []
    for name in searched(space):
        domain = space[name].domain
        active = [trial.params for trial in best if name in trial.params]
        if not _numeric(domain) or not active or name not in best[0].params:
            continue
        limits = (known or {}).get(name) or (known or {}).get(name.partition(".")[2])
        found += [hit for upper in (True, False) if (hit := _hit(name, domain, active, upper, limits))]
    return found


def _hit(name: str, domain: Choice | Range, best: Sequence[Params], upper: bool, limits: Known | None) -> Hit | None:
    levels = _ordered(domain)
    bound = (levels[-1] if upper else levels[0]) if levels else (domain.high if upper else domain.low)  # type: ignore[union-attr]  # no levels: a Range
    share = max(0.1, 1 / len(levels)) if levels else 0.1
    at_edge = [_at_edge(domain, float(params[name]), bound, upper, levels) for params in best]
    if len(levels) == 2 or not at_edge[0] or stats.binom.sf(sum(at_edge) - 1, len(best), share) >= CHANCE:
        return None
    wider = _wider(domain, levels, bound, upper, limits)
    return None if wider == bound else Hit(name, upper, bound, wider, sum(at_edge), len(best))


def _ordered(domain: Choice | Range) -> list[int | float]:
    """The numbers of a choice or of a short enumerated range, ascending; none where the range is all but continuous."""
    if isinstance(domain, Choice):
        return sorted(value for value in domain.values if not isinstance(value, str))
    if domain.levels is None or domain.levels > 10:
        return []
    return [value for i in range(domain.levels) if not isinstance(value := domain.level(i), str)]


def _at_edge(domain: Choice | Range, value: float, bound: float, upper: bool, levels: Sequence[float]) -> bool:
    if levels or isinstance(domain, Choice):
        return math.isclose(value, bound)
    place = domain.encode(value)
    return place >= 0.9 if upper else place <= 0.1


def _wider(domain: Choice | Range, levels: Sequence[float], bound: float, upper: bool, limits: Known | None) -> Value:
    """Three times as far on a log scale, half the width further on a plain one; a choice gets one more of its kind."""
    whole = isinstance(bound, int)
    if levels:
        inner = levels[-2] if upper else levels[1]
        geometric = min(levels) > 0 and max(levels) / min(levels) >= 4
        value = bound * bound / inner if geometric else 2 * bound - inner
    elif isinstance(domain, Range) and domain.log:
        value = bound * 3 if upper else bound / 3
    else:
        width = domain.high - domain.low if isinstance(domain, Range) else 0.0
        value = bound + width / 2 if upper else bound - width / 2
    value = float(f"{value:.1g}" if isinstance(domain, Range) and domain.log and not levels else f"{value:.3g}")
    return _inside(round(value) if whole else value, bound, limits)


def _inside(value: float, bound: float, limits: Known | None) -> Value:
    """As far as the parameter has a meaning; a number that is not negative stays so."""
    if bound >= 0 > value:
        value = 0 if isinstance(bound, int) else 0.0
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


# -- what people brought along -----------------------------------------------------------------------------------


def against_start(study: Study, goal: Goal, start_with: Sequence[Params]) -> str:
    """The winner against the best of the points the person had in mind; "" where none was tried to its end."""
    own = [
        trial
        for trial in study.trials[: len(start_with)]
        if any(all(trial.params.get(name) == value for name, value in given.items()) for given in start_with)
    ]
    winner, mine = goal.best(study.trials), goal.best([t for t in own if t.state is State.COMPLETE])
    if winner is None or mine is None:
        return ""
    won, had = goal.value(winner), goal.value(mine)
    assert won is not None and had is not None, (winner, mine)
    if winner.number == mine.number:
        return f"The winner is your own start_with point (trial {mine.number}): the search found nothing better."
    gap = (won - had) if goal.maximize else (had - won)
    return f"The winner is {number(gap, 2)} better than the best of your start_with points (trial {mine.number}, {number(had)})."
