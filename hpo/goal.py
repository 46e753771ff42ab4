"""What is wanted of a trial: the one rule that says after which epoch it is read, and the best trial so far by it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from hpo.core import (
    EPOCHS,
    Continued,
    Ended,
    Event,
    Feasible,
    Outcome,
    Params,
    Report,
    Reported,
    Started,
    State,
    Study,
    Trial,
    Value,
    epochs_of,
)


@dataclass(frozen=True, slots=True)
class Goal:
    """Which number is wanted of a trial, and which direction is better. `reading` is the one rule of what counts.

    epochs: the lengths of training that are asked for (StudySpec.goal). Once a trial has passed one of them it counts for
    ever, whatever becomes of the trial, because a training of that length is the same; so the best never gets worse.
    unsafe: the parameter and value with which it is not the same: such a trial counts once it is complete.
    at="last" reads a trial at the best of the epochs that count; at="best" at the best of all up to the last of these.
    """

    metric: str = "val_accuracy"
    maximize: bool = True
    at: str = "last"
    target: float | None = None
    epochs: Collection[int] = ()
    unsafe: tuple[str, Value] | None = None

    def cost(self, report: Report) -> float:
        """The metric turned so that smaller is better; infinite where it is missing or not a number."""
        value = report.metrics.get(self.metric, math.nan)
        if math.isnan(value):
            return math.inf
        return -value if self.maximize else value

    def counted(self, trial: Trial) -> list[Report]:
        """The reports after the epochs that count."""
        unsafe = self.unsafe is not None and trial.params.get(self.unsafe[0]) == self.unsafe[1]
        last = trial.epoch if trial.state is State.COMPLETE else 0
        return [r for r in trial.reports if r.epoch == last or (r.epoch in self.epochs and not unsafe)]

    def reading(self, trial: Trial) -> Report | None:
        """The report that a trial is judged by; its last one as long as none counts."""
        reports: Sequence[Report] = self.counted(trial)
        if reports and self.at == "best":
            reports = trial.reports[: reports[-1].epoch]
        return min(reports or trial.reports[-1:], key=self.cost, default=None)

    def length(self, trial: Trial) -> int:
        """The epochs that a trial must be given to be read like this again."""
        reading = self.reading(trial)
        counted = [one for one in self.counted(trial) if reading is not None and one.epoch >= reading.epoch]
        if not counted or (trial.state is State.COMPLETE and counted[0] is trial.reports[-1]):
            return trial.epochs
        return counted[0].epoch

    def extended(self, params: Params, feasible: Feasible) -> Params:
        """The point at the longest training it may have; where a shorter training is another one, as it is."""
        if self.unsafe is not None and params.get(self.unsafe[0]) == self.unsafe[1]:
            return params
        more = sorted((one for one in self.epochs if one > epochs_of(params)), reverse=True)
        return next((one for epochs in more if feasible(one := {**params, EPOCHS: epochs}) is None), params)

    def value(self, trial: Trial) -> float | None:
        """The metric as people read it; None while there is none."""
        report = self.reading(trial)
        return None if report is None else report.metrics.get(self.metric)

    def score(self, trial: Trial) -> tuple[float, ...]:
        """Smaller is better. One number today, several objectives later."""
        report = self.reading(trial)
        return (math.inf if report is None else self.cost(report),)

    def ranked(self, trials: Iterable[Trial]) -> list[Trial]:
        """Those with a score, best first; of those without an epoch that counts, last, the longest trained first.

        Ties go to the earlier. A failed trial without an epoch that counts has no rank.
        """
        keys = []
        for trial in trials:
            score, counts = self.score(trial), bool(self.counted(trial))
            if math.isfinite(score[0]) and (counts or trial.state is not State.FAILED):
                keys.append((not counts, 0 if counts else -trial.epoch, score, trial.number, trial))
        return [key[-1] for key in sorted(keys, key=lambda key: key[:-1])]

    def best(self, trials: Iterable[Trial]) -> Trial | None:
        return next(iter(self.ranked(trials)), None)

    def reached(self, trial: Trial) -> bool:
        """Whether a trial meets the target at an epoch that counts."""
        if self.target is None or not self.counted(trial):
            return False
        return self.score(trial)[0] <= (-self.target if self.maximize else self.target)


def completed(trial: Trial, goal: Goal, now: float) -> Ended:
    """The end of a trial whose training is over. One that has no number to be compared by has failed."""
    value = goal.value(replace(trial, state=State.COMPLETE))
    if value is None:
        return Ended(now, trial.number, State.FAILED, Outcome.INVALID, f"{goal.metric} is not reported")
    if not math.isfinite(value):
        return Ended(now, trial.number, State.FAILED, Outcome.NAN, f"{goal.metric} is {value} at the end")
    return Ended(now, trial.number, State.COMPLETE)


class BestSoFar:
    """The best trial of a study, kept up to date event by event; a function of the study, in whichever order it came.

    at: epochs of the study when its value was reached; a tie is the earlier trial's, and no progress.
    """

    def __init__(self, study: Study, goal: Goal) -> None:
        self.study, self.goal = study, goal
        self.at = 0
        self._best: tuple[tuple[float, ...], int] = ((math.inf,), -1)  # score, trial
        for trial in study.trials:
            self._judge(trial)

    @property
    def trial(self) -> Trial | None:
        return self.study.trials[self._best[1]] if self._best[1] >= 0 else None

    def follow(self, event: Event) -> None:
        """Take in an event that the study has taken in."""
        match event:
            case Reported(training=key):
                trials = self.study.readers(key)
            case Started(trial=number) | Continued(trial=number) | Ended(trial=number):
                trials = [self.study.trials[number]]
            case _:
                trials = []
        for trial in trials:
            self._judge(trial)

    def _judge(self, trial: Trial) -> None:
        best, score = self._best, self.goal.score(trial)
        if not self.goal.counted(trial) or not math.isfinite(score[0]) or score > best[0]:
            return
        at = self.study.charged[trial.training][min(self.goal.length(trial), trial.epoch) - 1]
        self.at = at if score < best[0] else min(at, self.at)
        self._best = min(best, (score, trial.number))
