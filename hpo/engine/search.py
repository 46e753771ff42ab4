"""One study being driven: its trials, its strategy, its budget, its journal."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from hpo.core import BestSoFar, Ended, Event, Goal, Outcome, Params, Reason, State, Strategy, Study, Trial, Value
from hpo.study_file.spec import Budget

FAILING_FIRST, FAILING_IN_A_ROW = 3, 5  # trials that fail with the same error before the study gives up

Identity = Callable[[Params, int], tuple[str, int]]  # params, repeat -> training key, training seed


@dataclass(eq=False)
class Search:
    """A study and what may still be spent on it."""

    study: Study
    strategy: Strategy
    goal: Goal
    budget: Budget
    identity: Identity  # names the training of a point
    journal: Callable[[Event], object] = lambda event: None  # writes an event before the study takes it in
    max_running: int | None = None  # trials that may run at a time; None: as many as there are workers
    name: str = ""
    numerics: Mapping[str, Value] = field(default_factory=dict)  # of its trainings

    def __post_init__(self) -> None:
        self.closing: Reason | None = None  # why it ends, once that is certain
        self.stopping = False  # asked to finish the running epochs and end
        self.granted = {key: len(training.reports) for key, training in self.study.trainings.items()}
        self.total_granted = sum(self.granted.values())
        self.best_so_far = BestSoFar(self.study, self.goal)
        self.errors: list[str] = []  # of the trials that end from now on, in that order; "" where that is a result

    def record(self, event: Event) -> None:
        """Journal first: what a user is shown is on disk."""
        self.journal(event)
        self.study.apply(event)
        if isinstance(event, Ended):
            trial = self.study.trials[event.trial]
            cause = trial.outcome is Outcome.CRASHED or (trial.outcome is Outcome.INVALID and self.best is None)
            self.errors.append(trial.error if cause else "")
        self.best_so_far.follow(event)

    @property
    def best(self) -> Trial | None:
        """The best by an epoch that counts."""
        return self.best_so_far.trial

    def running(self, key: str) -> list[Trial]:
        return [trial for trial in self.study.readers(key) if trial.state is State.RUNNING]

    def wanted(self, key: str) -> int:
        """The epoch up to which running trials are to take a training, and have paid for it."""
        return max((min(trial.until, self.granted[key]) for trial in self.running(key)), default=0)

    def resting(self) -> Iterator[tuple[str, float]]:
        """Trainings of trials paused at a rung, with their place there from 0, the best: early stopping continues these."""
        for trial in self.study.resting():
            as_far = [one for one in self.study.trials if one.epoch >= trial.epoch]
            costs = [self.goal.cost(one.reports[trial.epoch - 1]) for one in as_far]
            yield trial.training, sum(cost < self.goal.cost(trial.reports[-1]) for cost in costs) / len(costs)

    def finalist(self) -> Trial | None:
        """The best paused trial, as long as none is complete: early stopping may have paused them all."""
        if any(math.isfinite(self.goal.score(trial)) for trial in self.study.with_state(State.COMPLETE)):
            return None
        return self.goal.best(self.study.trials[number] for number in self.study.paused)

    def grant(self, key: str, until: int) -> int:
        """Reserve epochs of a training up to `until`, as far as the budget goes; returns the epoch it may reach."""
        have = self.granted.get(key, 0)
        wanted = max(0, until - have)
        most = self.budget.total_epochs
        if most is not None:
            wanted = min(wanted, max(0, most - self.total_granted))
        self.granted[key] = have + wanted
        self.total_granted += wanted
        return min(until, have + wanted)

    def release(self, key: str) -> None:
        """Give back what was reserved and will not be trained now."""
        keep = max(len(self.study.trainings[key].reports), self.wanted(key))
        self.total_granted -= self.granted[key] - keep
        self.granted[key] = keep

    def may_start(self) -> bool:
        return self.budget.trials is None or len(self.study) < self.budget.trials

    def affordable(self) -> bool:
        most = self.budget.total_epochs
        return (most is None or self.total_granted < most) and (self.may_start() or bool(self.study.paused))

    def ending(self, now: float) -> Reason | None:
        """Why this study is over although trials may be running; None if it is not."""
        if self.best is not None and self.goal.reached(self.best):
            return Reason.TARGET
        if self._is_failing():
            return Reason.FAILING
        budget, waited = self.budget, self.study.epochs - self.best_so_far.at
        if budget.time is not None and self.study.active_seconds_at(now) >= budget.time:
            return Reason.TIME
        patient = budget.patience is None or self.best is None or waited < budget.patience
        return None if patient else Reason.PATIENCE

    def _is_failing(self) -> bool:
        runs = (self.errors[:FAILING_FIRST], FAILING_FIRST), (self.errors[-FAILING_IN_A_ROW:], FAILING_IN_A_ROW)
        return any(len(errors) == count and errors[0] and len(set(errors)) == 1 for errors, count in runs)
