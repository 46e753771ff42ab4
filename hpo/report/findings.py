"""What the trials say: which parameters mattered, what failed trials have in common, what the search was worth."""

from __future__ import annotations

import itertools
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

from hpo.core import Goal, Outcome, Params, State, Study, Trial
from hpo.formatting import count, gap, listed, number, written
from hpo.space.domains import Choice, Range
from hpo.space.space import Space

FEWEST = 10  # trials below which an importance or a hit bound is a guess
CHANCE = 0.002  # a hit bound rarer than this is reported; a space has some dozens of edges
COINCIDENCE = 0.005  # what failed trials share is said if chance shares it less often


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
    kept = {name: space[name].domain.coerce(trial.params[name]) for name in names if name in trial.params}
    params = {name: value for name, value in kept.items() if value is not None}  # the space may have changed since
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
    best, rarest = None, COINCIDENCE
    for rule in _rules(failed, trials, space):
        inside, all_ = int((rule.covers & failed).sum()), int(rule.covers.sum())
        if inside < 0.8 * group:
            continue
        chance = float(stats.hypergeom.sf(inside - 1, n, all_, group))
        if chance < rarest:
            best, rarest = rule, chance
    if n == group:
        return f"All {n} trials ended {outcome}: nothing sets these apart."
    noun = f"{outcome} trial{'s' if group > 1 else ''}"
    if best is None:
        return f"The {group} {noun} have no single parameter in common that the others have not."
    inside, others = int((best.covers & failed).sum()), int((best.covers & ~failed).sum())
    everyone = "Both" if group == 2 else f"All {group}"
    who = f"{everyone} {noun}" if inside == group else f"{inside} of {group} {noun}"
    rest = f"{others} of the {n - group} others" if others else f"none of the {n - group} others"
    return f"{who} have {best.text}; {rest} {'have' if others > 1 else 'has'}."


def _rules(failed: np.ndarray, trials: Sequence[Trial], space: Space) -> Iterator[Rule]:
    for name in searched(space):
        domain = space[name].domain
        values = [trial.params.get(name) for trial in trials]
        present = np.array([value is not None for value in values])
        if numeric(domain):
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
    for low, high in itertools.pairwise(levels):
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


def numeric(domain: Choice | Range) -> bool:
    if isinstance(domain, Range):
        return True
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in domain.values)


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
    lead = (won - had) if goal.maximize else (had - won)
    best = f"trial {mine.number}, {number(had)}"
    return f"The winner is {gap(lead)} better than the best of your start_with points ({best})."
