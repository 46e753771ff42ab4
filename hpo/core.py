"""The terms of hpo. Read this first.

A study is a list of immutable trials changed only by events, and one process, the driver, owns it:

    strategy --decisions--> driver --jobs--> executor --messages--> driver --events--> journal, Study
                   ^                                                                      |
                   +----------------------------- looks at -------------------------------+

Everything here is plain data, so that a test of the loop is a list of events.
"""

import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Protocol

Value = int | float | str | bool
Params = Mapping[str, Value]  # an inactive conditional parameter is absent
Feasible = Callable[[Params], str | None]  # None, or in a phrase why these params can never be trained

EPOCHS = "epochs"  # the parameter that says how long a trial trains; never part of a training's identity
UNSAFE = ("schedule", "cosine")  # the setting of our own training with which epoch e depends on how many follow


class State(StrEnum):
    """Where a trial is. A PAUSED one may be continued, and nothing is lost if it is not."""

    RUNNING = "running"
    PAUSED = "paused"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"


class Outcome(StrEnum):
    """Why a trial ended as it did. All but OK are information for the strategy."""

    OK = "ok"
    DIVERGED = "diverged"
    NAN = "nan"
    OOM = "oom"
    INVALID = "invalid"
    TIMEOUT = "timeout"
    CRASHED = "crashed"


class Reason(StrEnum):
    """Why a study ended."""

    BUDGET = "budget"
    TIME = "time"
    TARGET = "target"
    PATIENCE = "patience"
    EXHAUSTED = "exhausted"
    INTERRUPTED = "interrupted"
    FAILING = "failing"


class TrainingFailed(Exception):
    """The training is over, its worker is sound: record the outcome and take the next job. text is for the user."""

    def __init__(self, outcome: Outcome, text: str) -> None:
        super().__init__(outcome, text)  # both, so that it survives pickling between processes
        self.outcome = outcome
        self.text = text

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Report:
    """The result of one epoch of a training.

    epoch counts from 1; seconds is the epoch's duration; time is when it ended (Unix seconds).
    save(path) writes the state after this epoch; it is None for a trainer that cannot continue from a file,
    and in every process but the one that trains. missed: classes never predicted, as "1 of 10 (cat)".
    """

    epoch: int
    metrics: Mapping[str, float]
    seconds: float
    time: float
    save: Callable[[Path], None] | None = field(default=None, compare=False, repr=False)
    missed: str = ""


@dataclass(frozen=True, slots=True)
class Training:
    """One run of SGD, shared by all trials that need it. reports[i].epoch == i + 1."""

    key: str
    seed: int
    reports: tuple[Report, ...] = ()


@dataclass(frozen=True, slots=True, repr=False)
class Trial:
    """A reading of a training at an epoch."""

    number: int
    params: Params
    repeat: int
    training: str
    until: int  # the epoch it may train to now; early stopping keeps it below `epochs`
    reports: tuple[Report, ...] = ()
    state: State = State.RUNNING
    outcome: Outcome = Outcome.OK
    attempt: int = 1
    error: str = ""
    started: float = 0.0
    ended: float | None = None

    @property
    def epochs(self) -> int:
        """The epoch at which it is complete."""
        return epochs_of(self.params)

    @property
    def epoch(self) -> int:
        """The last epoch it has a report of; 0 before the first."""
        return self.reports[-1].epoch if self.reports else 0

    @property
    def finished(self) -> bool:
        return self.state in (State.COMPLETE, State.PRUNED, State.FAILED)

    def __repr__(self) -> str:
        """A line for a notebook; of what its last epoch measured not what probes did, whose names have a slash."""
        params = " ".join(f"{name}={value}" for name, value in self.params.items())
        last = self.reports[-1].metrics.items() if self.reports else ()
        said = f"trial {self.number}: {self.state}, {self.outcome}, epoch {self.epoch} of {self.epochs}; {params}"
        return "; ".join([said, *(f"{name} {value:.4g}" for name, value in last if "/" not in name)])


# -- events: the only way a study changes ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Opened:
    """A driver took the study; environment is what the run depends on (versions, host, pid, commit, digests)."""

    time: float
    environment: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Started:
    time: float
    trial: int
    params: Params
    repeat: int
    training: str
    seed: int
    until: int


@dataclass(frozen=True, slots=True)
class Continued:
    """A paused trial is continued up to `until`."""

    time: float
    trial: int
    until: int


@dataclass(frozen=True, slots=True)
class Reported:
    """One epoch of a training; reused says that another study had already trained it."""

    training: str
    report: Report
    reused: bool = False


@dataclass(frozen=True, slots=True)
class Paused:
    time: float
    trial: int


@dataclass(frozen=True, slots=True)
class Retried:
    """The process that ran this training died; the next attempt continues from the last checkpoint."""

    time: float
    training: str
    attempt: int
    error: str


@dataclass(frozen=True, slots=True)
class Ended:
    time: float
    trial: int
    state: State
    outcome: Outcome = Outcome.OK
    error: str = ""


@dataclass(frozen=True, slots=True)
class Scored:
    """The test split was read for this trial after this epoch, once; metrics are named test_*."""

    time: float
    trial: int
    metrics: Mapping[str, float]
    epoch: int = 0  # 0 in a journal from before epochs were noted


@dataclass(frozen=True, slots=True)
class Closed:
    """The driver closed the study."""

    time: float
    reason: Reason


Event = Opened | Started | Continued | Reported | Paused | Retried | Ended | Scored | Closed


class Study:
    """The state of a study after its events. `apply` is the only mutator; everything else reads."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.trials: list[Trial] = []
        self.trainings: dict[str, Training] = {}
        self.running: dict[int, None] = {}  # numbers of running trials, in order; a dict as an ordered set
        self.paused: dict[int, None] = {}
        self.spent: dict[int, int] = {}  # trial -> epochs of the study when it ended, in the order of the ends
        self.charged: dict[str, list[int]] = {}  # training -> epochs of the study when each of its own was reported
        self.scores: list[Scored] = []
        self.environments: list[Mapping[str, Value]] = []
        self.began: dict[str, Mapping[str, Value]] = {}  # training -> the environment that began it
        self.epochs = 0  # of distinct trainings: what it would have trained alone
        self.reused_epochs = 0
        self.active_seconds = 0.0  # what drivers spent on it, summed over resumes
        self.closed: Reason | None = None
        self._readers: dict[str, list[int]] = {}  # training -> its trials
        self._clock: float | None = None
        for event in events:
            self.apply(event)

    def __len__(self) -> int:
        return len(self.trials)

    def active_seconds_at(self, now: float) -> float:
        """What drivers have spent on it by `now`, while one has it."""
        return self.active_seconds + max(0.0, now - self._clock) if self._clock is not None else self.active_seconds

    def readers(self, training: str) -> list[Trial]:
        return [self.trials[number] for number in self._readers.get(training, ())]

    def with_state(self, *states: State) -> list[Trial]:
        return [trial for trial in self.trials if trial.state in states]

    def interrupted(self) -> list[Trial]:
        """Trials paused before the epoch they were to reach, in the order of the pauses; the driver continues them."""
        paused = (self.trials[number] for number in self.paused)
        return [trial for trial in paused if trial.epoch < trial.until]

    def resting(self) -> list[Trial]:
        """Trials paused at a rung, by number; early stopping decides on them."""
        paused = (self.trials[number] for number in sorted(self.paused))
        return [trial for trial in paused if trial.epoch >= trial.until]

    def tested(self, trial: int, epoch: int) -> dict[str, float]:
        """What a trial's model scored on the test split after this epoch; a refit's score is another model's."""
        own = [one.metrics for one in self.scores if one.trial == trial and one.epoch in (0, epoch)]
        return {name: value for metrics in own for name, value in metrics.items() if name.startswith("test_")}

    @property
    def replaced(self) -> set[int]:
        """Failed trials that a later one tried again: the same point and repeat."""
        latest = {(frozenset(trial.params.items()), trial.repeat): trial.number for trial in self.trials}
        return {trial.number for trial in self.trials} - set(latest.values())

    def apply(self, event: Event) -> None:
        """Take in one event. An event that does not fit is a bug, hence asserts."""
        self._tick(event)
        match event:
            case Opened():
                self.environments.append(event.environment)
                self.closed = None
            case Started():
                self._start(event)
            case Continued(trial=number, until=until):
                trial = self.trials[number]
                assert trial.state is State.PAUSED, trial
                reports = self.trainings[trial.training].reports[:until]
                self._put(replace(trial, state=State.RUNNING, until=until, reports=reports))
            case Reported():
                self._report(event)
            case Paused(trial=number):
                assert self.trials[number].state is State.RUNNING, self.trials[number]
                self._put(replace(self.trials[number], state=State.PAUSED))
            case Retried(training=key, attempt=attempt):
                for trial in self.readers(key):
                    if trial.state is State.RUNNING:
                        self._put(replace(trial, attempt=attempt))
            case Ended(trial=number):
                trial = self.trials[number]
                assert not trial.finished, trial
                self.spent[number] = self.epochs
                self._put(replace(trial, state=event.state, outcome=event.outcome, error=event.error, ended=event.time))
            case Scored():
                self.scores.append(event)
            case Closed(reason=reason):
                self.closed = reason

    def _start(self, event: Started) -> None:
        assert event.trial == len(self.trials), (event.trial, len(self.trials))
        self.trainings.setdefault(event.training, Training(event.training, event.seed))
        self.began.setdefault(event.training, self.environments[-1] if self.environments else {})
        self._readers.setdefault(event.training, []).append(event.trial)
        reports = self.trainings[event.training].reports[: event.until]
        trial = Trial(event.trial, event.params, event.repeat, event.training, event.until, reports, started=event.time)
        self.trials.append(trial)
        self._put(trial)

    def _report(self, event: Reported) -> None:
        training = self.trainings[event.training]
        assert event.report.epoch == len(training.reports) + 1, (event, len(training.reports))
        reports = (*training.reports, event.report)
        self.trainings[event.training] = replace(training, reports=reports)
        self.epochs += 1
        self.charged.setdefault(event.training, []).append(self.epochs)
        self.reused_epochs += event.reused
        for trial in self.readers(event.training):
            if trial.state is State.RUNNING and event.report.epoch <= trial.until:
                self._put(replace(trial, reports=reports))

    def _put(self, trial: Trial) -> None:
        self.trials[trial.number] = trial
        for state, numbers in ((State.RUNNING, self.running), (State.PAUSED, self.paused)):
            if trial.state is state:
                numbers[trial.number] = None
            else:
                numbers.pop(trial.number, None)

    def _tick(self, event: Event) -> None:
        now = event.report.time if isinstance(event, Reported) else event.time
        reused = isinstance(event, Reported) and event.reused
        if isinstance(event, Opened):
            self._clock = now
        elif self._clock is not None and not reused and now > self._clock:
            self.active_seconds += now - self._clock
            self._clock = now
        if isinstance(event, Closed):
            self._clock = None  # what comes later, as a refit's score, is no driver's time


# -- what is wanted ----------------------------------------------------------------------------------------------


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
        unsafe = self.whole(trial.params)
        last = trial.epoch if trial.state is State.COMPLETE else 0
        return [r for r in trial.reports if r.epoch == last or (r.epoch in self.epochs and not unsafe)]

    def whole(self, params: Params) -> bool:
        """Whether a shorter training of this point is another training, so that it counts once it is complete."""
        return self.unsafe is not None and params.get(self.unsafe[0]) == self.unsafe[1]

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
        if self.whole(params):
            return params
        more = sorted((one for one in self.epochs if one > epochs_of(params)), reverse=True)
        return next((one for epochs in more if feasible(one := {**params, EPOCHS: epochs}) is None), params)

    def value(self, trial: Trial) -> float | None:
        report = self.reading(trial)
        return None if report is None else report.metrics.get(self.metric)

    def epoch(self, trial: Trial) -> int:
        """The epoch after which a trial with a score is read."""
        report = self.reading(trial)
        assert report is not None, trial
        return report.epoch

    def score(self, trial: Trial) -> float:
        """Smaller is better; infinite where there is none."""
        report = self.reading(trial)
        return math.inf if report is None else self.cost(report)

    def ranked(self, trials: Iterable[Trial]) -> list[Trial]:
        """Those with a score, best first; of those without an epoch that counts, last, the longest trained first.

        Ties go to the earlier training, and of its trials to a complete one. A failed trial without an epoch that counts
        has no rank.
        """
        keys = []
        earliest: dict[tuple[str, float], int] = {}
        for trial in sorted(trials, key=lambda trial: trial.number):
            score, counts = self.score(trial), bool(self.counted(trial))
            if math.isfinite(score) and (counts or trial.state is not State.FAILED):
                first = earliest.setdefault((trial.training, score), trial.number)
                tie = (first, trial.state is not State.COMPLETE, trial.number)
                keys.append((not counts, 0 if counts else -trial.epoch, score, tie, trial))
        return [key[-1] for key in sorted(keys, key=lambda key: key[:-1])]

    def best(self, trials: Iterable[Trial]) -> Trial | None:
        return next(iter(self.ranked(trials)), None)

    def ahead(self, trials: Collection[Trial]) -> list[Trial]:
        """Those with a better value than the best that counts, but none that counts; best first."""
        best = min((self.score(one) for one in trials if self.counted(one)), default=-math.inf)
        return sorted((one for one in trials if self.score(one) < best and not self.counted(one)), key=self.score)

    def reached(self, trial: Trial) -> bool:
        """Whether a trial meets the target at an epoch that counts."""
        if self.target is None or not self.counted(trial):
            return False
        return self.score(trial) <= (-self.target if self.maximize else self.target)


class BestSoFar:
    """The best trial of a study, kept up to date event by event. at: epochs of the study when it was reached."""

    def __init__(self, study: Study, goal: Goal) -> None:
        self.study, self.goal = study, goal
        self.at = 0
        self._best = math.inf, -1  # score, trial
        for trial in study.trials:
            self._judge(trial)

    @property
    def trial(self) -> Trial | None:
        number = self._best[1]
        return self.goal.best(self.study.readers(self.study.trials[number].training)) if number >= 0 else None

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
        if not self.goal.counted(trial) or not math.isfinite(score) or score > best[0]:
            return
        at = self.study.charged[trial.training][min(self.goal.length(trial), trial.epoch) - 1]
        self.at = at if score < best[0] else min(at, self.at)
        self._best = min(best, (score, trial.number))


# -- strategies --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Begin a new trial and train it to `until`."""

    params: Params
    until: int
    repeat: int = 0


@dataclass(frozen=True, slots=True)
class Continue:
    """Continue a paused trial up to `until`."""

    trial: int
    until: int


@dataclass(frozen=True, slots=True)
class Stop:
    """End a paused or running trial: it becomes pruned."""

    trial: int


Decision = Start | Continue | Stop
Proposal = list[Decision]  # []: nothing is left to try, unless what is running changes that


class Strategy(Protocol):
    """Looks at a study and proposes.

    An implementation must not keep what it cannot derive from `study` again: a fresh instance that is given the same
    list of trials answers the same. One instance serves one study, which grows. It must not propose an infeasible point, nor
    one that is in the study already, nor more than `slots` decisions that need a worker (`Stop` needs none). A paused trial
    with `epoch < until` was interrupted and the driver continues it: a strategy treats it as running.
    """

    def propose(self, study: Study, slots: int) -> Proposal: ...


# -- execution ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limits:
    """What a worker may use. None is no limit."""

    report_seconds: float | None = None  # silence longer than this is a hang: the worker is killed and the job retried
    trial_seconds: float | None = None  # a job longer than this ends with outcome `timeout`
    memory_bytes: int | None = None  # enforced by the worker on itself: outcome `oom`


@dataclass(frozen=True, slots=True)
class Job:
    """One training from the checkpoint after epoch `start` (0: from nothing) to epoch `until`, by one worker."""

    training: str
    params: Params
    seed: int
    start: int
    until: int
    known: int  # epochs the driver has reports of; start < known when the newest checkpoint was lost
    folder: Path  # where its checkpoints are: see training/checkpoints.py
    limits: Limits = Limits()
    split: Value | None = None  # of the data, by its seed; None: the trainer's own


@dataclass(frozen=True, slots=True)
class JobEnded:
    """A job reached its epoch, or was stopped; exhausted: the trainer ended before `until`."""

    training: str
    exhausted: bool = False


@dataclass(frozen=True, slots=True)
class JobFailed:
    """lost: the process died, so that the training deserves another attempt; place: the file with the traceback."""

    training: str
    outcome: Outcome
    error: str
    lost: bool = False
    place: str = ""


Message = Reported | JobEnded | JobFailed

Train = Callable[[Job], Iterator[Report]]  # closing the generator stops the training
Factory = Callable[[], Train]  # picklable; makes the trainer of the process that calls it


class Executor(Protocol):
    """Carries jobs out. Messages about one training come in order, and none after its JobEnded or JobFailed."""

    @property
    def slots(self) -> int: ...

    def submit(self, job: Job) -> None: ...

    def stop(self, training: str) -> None:
        """Let it finish its epoch, then end the job."""

    def wait(self, timeout: float | None) -> list[Message]:
        """Block until something happened or the time is over; then all of it."""

    def close(self) -> None:
        """Leave no process, no shared memory and no temporary file behind."""


# -- identity ----------------------------------------------------------------------------------------------------


def epochs_of(params: Params) -> int:
    return int(params[EPOCHS])


def digest(value: object) -> str:
    """A stable name for a JSON value: the same in every process and on every machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def without_epochs(params: Params) -> dict[str, Value]:
    return {name: value for name, value in params.items() if name != EPOCHS}


def training_seed(base: int, params: Params, repeat: int) -> int:
    """The seed of SGD: one for all strategies of a base seed, so that they share trainings."""
    return int(digest(["seed", base, without_epochs(params), repeat])[:12], 16)


def training_key(params: Params, seed: int, numerics: Mapping[str, Value], prefix_safe: bool) -> str:
    """The identity of a training (docs/design.md, The words).

    numerics: whatever else epoch e depends on (data digest, code, torch version, device type, threads, precision).
    Where epoch e depends on how many follow (prefix_safe is False), `epochs` is part of the key.
    """
    return digest([without_epochs(params) if prefix_safe else dict(params), seed, dict(numerics)])
