"""Early stopping around any strategy: trials are paused at rungs, and only the promising ones are continued.

A rule decides from reports at the same epoch only, so that short and long trials are compared fairly. What a trial may train
to is `until`; nothing beyond it is trained before the decision.
"""

import math
import statistics
from dataclasses import replace

import numpy as np

from hpo.core import Continue, Decision, Goal, Params, Proposal, Start, Stop, Strategy, Study, Trial, epochs_of
from hpo.strategies.surrogate import Surrogate
from hpo.study_file.spec import EarlyStopping


class Median:
    """Stops a trial whose best score so far is worse than the median of the others' running averages at that epoch.

    It looks every `rule.interval` epochs from `min_epochs` on, once `min_trials` others have come that far.
    Source: D. Golovin et al., "Google Vizier", KDD 2017, section 3.2.2 (median stopping rule).
    """

    def __init__(self, strategy: Strategy, goal: Goal, rule: EarlyStopping = EarlyStopping("median")) -> None:
        self._strategy, self._goal, self._rule = strategy, goal, rule

    def propose(self, study: Study, slots: int) -> Proposal:
        judged: list[Decision] = []
        for trial in study.resting():
            if self._is_hopeless(study, trial):
                judged.append(Stop(trial.number))
            elif len(judged) < slots:
                judged.append(Continue(trial.number, min(trial.epochs, trial.epoch + self._rule.interval)))
        return judged or first_rung(self._strategy.propose(study, slots), self._rule.min_epochs)

    def _is_hopeless(self, study: Study, trial: Trial) -> bool:
        cost, epoch = self._goal.cost, trial.epoch
        others = [other for other in study.trials if other.number != trial.number and other.epoch >= epoch]
        if len(others) < self._rule.min_trials:
            return False
        averages = [sum(map(cost, other.reports[:epoch])) / epoch for other in others]
        return min(map(cost, trial.reports)) > statistics.median(averages)


class Asha:
    """Asynchronous successive halving: of the trials that reached a rung, the best 1/reduction continue to the next.

    Rungs are min_epochs * reduction^k. A trial's own epochs are its maximum: it is complete there, whatever the rung.
    Source: L. Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020, algorithm 2.
    """

    def __init__(self, strategy: Strategy, goal: Goal, rule: EarlyStopping = EarlyStopping("asha")) -> None:
        self._strategy, self._goal, self._rule = strategy, goal, rule

    def propose(self, study: Study, slots: int) -> Proposal:
        promoted = self._promotions(study)[:slots]
        return promoted or first_rung(self._strategy.propose(study, slots), self._rule.min_epochs)

    def _promotions(self, study: Study) -> list[Decision]:
        """Resting trials in the top of their rung, highest rung first, best first."""
        resting = {trial.number: trial for trial in study.resting()}
        return [
            Continue(number, min(resting[number].epochs, rung * self._rule.reduction))
            for rung in sorted({trial.epoch for trial in resting.values()}, reverse=True)
            for number in self._top(study, rung)
            if number in resting and resting[number].epoch == rung
        ]

    def _top(self, study: Study, rung: int) -> list[int]:
        """The best 1/reduction of all trials with a report at this rung, best first."""
        reached = [trial for trial in study.trials if trial.epoch >= rung and trial.epochs > rung]
        ranked = sorted((self._goal.cost(trial.reports[rung - 1]), trial.number) for trial in reached)
        best = ranked[: len(reached) // self._rule.reduction]
        return [number for cost, number in best if math.isfinite(cost)]


class Predictive:
    """What promises the largest improvement goes to its next rung: a resting trial, or the strategy's next point."""

    def __init__(
        self, strategy: Strategy, surrogate: Surrogate, goal: Goal, rule: EarlyStopping = EarlyStopping("predictive")
    ) -> None:
        self._strategy, self._surrogate, self._goal, self._rule = strategy, surrogate, goal, rule

    def propose(self, study: Study, slots: int) -> Proposal:
        new = [one for one in self._strategy.propose(study, 1) if isinstance(one, Start)]
        resting = study.resting()
        if not resting:
            return [replace(one, until=self._next(one.params, 0)) for one in new]
        candidates = [*((one.params, 0) for one in new), *((trial.params, trial.epoch) for trial in resting)]
        looks = [self._next(params, epoch) for params, epoch in candidates]
        place = int(np.argmax(self._surrogate.worth(study, candidates, looks)))
        if place < len(new):
            return [replace(new[place], until=looks[place])]
        return [Continue(resting[place - len(new)].number, looks[place])]

    def _next(self, params: Params, epoch: int) -> int:
        """The epoch at which a training that has come to this one is judged again."""
        full = epochs_of(params)
        return full if self._goal.whole(params) else min(rung for rung in self._rule.rungs(full) if rung > epoch)


class Patience:
    """Stops a trial after `rule.waits` epochs without a better one; `strategy` may stop it at its rungs besides.

    A trial rests as soon as it may have to be stopped, and goes on from there if it has improved. A point whose epochs
    depend on how many follow is trained whole.
    """

    def __init__(self, strategy: Strategy, goal: Goal, rule: EarlyStopping) -> None:
        self._strategy, self._goal, self._rule = strategy, goal, rule

    def propose(self, study: Study, slots: int) -> Proposal:
        judged: list[Decision] = []
        for trial in study.resting():
            rung = min(one for one in self._rule.rungs(trial.epochs) if one >= trial.epoch)
            if trial.epoch >= self._limit(trial):
                judged.append(Stop(trial.number))
            elif trial.epoch < rung and len(judged) < slots:
                judged.append(Continue(trial.number, rung))
        return [self._limited(study, one) for one in judged or self._strategy.propose(study, slots)]

    def _limited(self, study: Study, decision: Decision) -> Decision:
        if isinstance(decision, Stop):
            return decision
        own = study.trials[decision.trial] if isinstance(decision, Continue) else decision
        return replace(decision, until=min(decision.until, self._limit(own)))

    def _limit(self, own: Trial | Start) -> int:
        """The epoch at which a trial is to be stopped unless it improves before; the first improves on none."""
        reports = own.reports if isinstance(own, Trial) else ()
        best = min(reports, key=self._goal.cost).epoch if reports else 1
        whole, waits = self._goal.whole(own.params), self._rule.waits or 0
        return epochs_of(own.params) + 1 if whole else max(self._rule.min_epochs, best + waits)


def first_rung(decisions: Proposal, epochs: int) -> Proposal:
    """What the wrapped strategy wants, but no further than the first rung."""
    return [replace(d, until=min(d.until, epochs)) if isinstance(d, Start) else d for d in decisions]
