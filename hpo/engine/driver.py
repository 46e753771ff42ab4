"""The loop: propose, submit, receive, record. One driver owns one study, or all studies of a comparison.

Read `Driver.run` first. Searches share trainings; each is charged as if it had trained alone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from hpo.core import (
    Closed,
    Continue,
    Continued,
    Decision,
    Ended,
    Event,
    Executor,
    Goal,
    Job,
    JobEnded,
    JobFailed,
    Limits,
    Message,
    Opened,
    Outcome,
    Paused,
    Reason,
    Reported,
    Retried,
    Start,
    Started,
    State,
    Stop,
    Trial,
    Value,
)
from hpo.engine.search import Search
from hpo.engine.trainings import Trainings
from hpo.files import hit
from hpo.provenance import steady_clock

MOST_ATTEMPTS = 3  # attempts of a training without a new epoch
TIDY_SECONDS = 10.0  # between two checks of the size of the checkpoints

Listener = Callable[[Search, Event], None]


@dataclass(eq=False)
class Driver:
    """Runs searches on an executor until each is over, or `stop` is called. Listeners get every recorded event."""

    searches: Sequence[Search]
    executor: Executor
    trainings: Trainings
    limits: Limits = Limits()  # noqa: RUF009  # frozen
    clock: Callable[[], float] = field(default_factory=steady_clock)
    listeners: Sequence[Listener] = ()

    def __post_init__(self) -> None:
        self.jobs: dict[str, bool] = {}  # trainings that a worker is at -> whether it has been stopped
        self.stopping = 0  # the signal number that requested it, or 1
        self._tidied = 0.0

    def run(self, environment: Mapping[str, Value] | None = None) -> None:
        """Bring every search to its end. Returns when nothing is running."""
        self._open(environment or {})
        while True:
            self._propose()
            self._submit()
            if not self.jobs:
                break
            for message in self.executor.wait(self._timeout()):
                self._receive(message)
            self._end_searches()
        self._close()

    def stop(self, why: int = 1) -> None:
        """Let every running trial finish its epoch, then return from `run`. Safe to call from a signal handler."""
        self.stopping = why
        for search in self.searches:
            search.stopping = True

    # -- propose

    def _propose(self) -> None:
        """Ask every search that has room, in turn, until all workers are busy or no search has a decision."""
        asking = [] if self.stopping else list(self.searches)
        while asking:
            asking = [search for search in asking if self._room(search) > 0 and self._ask(search)]

    def _room(self, search: Search) -> int:
        """How many trials of it may start now."""
        free = self.executor.slots - len(self.jobs) - len(self._waiting())
        return free if search.max_running is None else min(free, search.max_running - len(search.study.running))

    def _waiting(self) -> list[str]:
        """Trainings that running trials need and no worker is at, in the order in which the trials began."""
        needed = {
            key: None
            for search in self.searches
            if search.closing is None
            for key in (search.study.trials[number].training for number in search.study.running)
            if key not in self.jobs and search.wanted(key) > self.trainings.epochs(key)
        }
        return list(needed)

    def _ask(self, search: Search) -> bool:
        """Carry out what the search decides next; False if there is nothing to decide now."""
        search.closing = search.closing or search.ending(self.clock())
        if search.closing is not None or not search.affordable():
            return False
        if interrupted := search.study.interrupted():
            # the last first: it ran when a driver ended, others lacked budget
            return self._continue(search, interrupted[-1], interrupted[-1].until)
        decisions = search.strategy.propose(search.study, self._room(search))
        if any([self._carry_out(search, one) for one in decisions]):  # noqa: C419 - all
            return True
        if search.study.running:
            return False
        if finalist := search.finalist():  # a study does not end without one complete trial
            return self._continue(search, finalist, finalist.epochs)
        search.closing = None if decisions else Reason.EXHAUSTED
        return False

    def _carry_out(self, search: Search, decision: Decision) -> bool:
        match decision:
            case Start():
                return self._start(search, decision)
            case Continue(trial=number, until=until):
                return self._continue(search, search.study.trials[number], until)
            case Stop(trial=number):
                return self._prune(search, search.study.trials[number])

    def _start(self, search: Search, start: Start) -> bool:
        if not search.may_start():
            return False
        key, seed = search.identity(start.params, start.repeat)
        before = search.granted.get(key, 0)
        if search.grant(key, start.until) <= before < start.until:
            return False  # no epoch left
        event = Started(self.clock(), len(search.study), start.params, start.repeat, key, seed, start.until)
        self._record(search, event)
        hit("start.recorded")
        self._begin(search, key, start.until)
        return True

    def _continue(self, search: Search, trial: Trial, until: int) -> bool:
        if search.grant(trial.training, until) <= trial.epoch:
            return False
        self._record(search, Continued(self.clock(), trial.number, until))
        self._begin(search, trial.training, until)
        return True

    def _prune(self, search: Search, trial: Trial) -> bool:
        self._record(search, Ended(self.clock(), trial.number, State.PRUNED))
        search.release(trial.training)
        if not self._searches(trial.training):
            self._stop_job(trial.training)
        return True

    def _begin(self, search: Search, key: str, until: int) -> None:
        """A running trial gets what is known of its training; the rest is submitted when a worker is free."""
        search.grant(key, until)
        self.trainings.add(search.study.trainings[key])
        self._update(search, key)

    # -- submit

    def _submit(self) -> None:
        waiting = [] if self.stopping else self._waiting()
        for key in waiting[: self.executor.slots - len(self.jobs)]:
            hit("submit")
            self.jobs[key] = False
            self.executor.submit(self._job(key))

    def _job(self, key: str) -> Job:
        """As much of a training as running trials need."""
        training, limits = self.trainings[key], self.limits
        if limits.trial_seconds is not None:
            left = limits.trial_seconds - sum(report.seconds for report in training.reports)
            limits = replace(limits, trial_seconds=max(0.001, left))
        trials = [trial for search in self.searches for trial in search.running(key)]
        params = max(trials, key=lambda trial: trial.epochs).params
        until = max(search.wanted(key) for search in self.searches)
        split = next(search.numerics.get("split") for search in self.searches if search.running(key))
        start, known = self.trainings.checkpoint(key), len(training.reports)
        return Job(key, params, training.seed, start, until, known, self.trainings.folder, limits, split)

    def _stop_job(self, key: str) -> None:
        if self.jobs.get(key) is False:
            self.jobs[key] = True
            self.executor.stop(key)

    # -- receive

    def _receive(self, message: Message) -> None:
        hit("listen")
        key = message.training
        match message:
            case Reported(report=report):
                report = replace(report, time=min(report.time, self.clock()))  # a worker's clock may have jumped
                if self.trainings.add_report(key, report):
                    self._update_all(key)
            case JobEnded(exhausted=exhausted):
                del self.jobs[key]
                if exhausted:
                    self._exhausted(key)
            case JobFailed():
                del self.jobs[key]
                self._broke(key, message)

    def _exhausted(self, key: str) -> None:
        if self.trainings.epochs(key):
            self.trainings.end(key, Outcome.OK, "")
        else:
            self.trainings.end(key, Outcome.INVALID, "the trainer ended without a report")
        self._update_all(key)

    def _broke(self, key: str, broke: JobFailed) -> None:
        """A worker that died is another attempt while attempts make progress; anything else ends the training."""
        if broke.lost and self.trainings.attempt(key) < MOST_ATTEMPTS:
            for search in self._searches(key):
                number = max(trial.attempt for trial in search.study.readers(key)) + 1
                self._record(search, Retried(self.clock(), key, number, broke.error))
            return
        self.trainings.end(key, broke.outcome, f"{broke.error} ({broke.place})" if broke.place else broke.error)
        self._update_all(key)

    def _update_all(self, key: str) -> None:
        for search in self._searches(key):
            self._update(search, key)

    def _update(self, search: Search, key: str) -> None:
        """Record what a study wants and has paid for of a training; then end or pause the trials that are there."""
        known = len(search.study.trainings[key].reports)
        for report in self.trainings[key].reports[known : search.wanted(key)]:
            new = self.trainings.is_new(key, report.epoch)
            self._record(search, Reported(key, report, reused=not new))
            if new:
                self.trainings.recorded(key, report.epoch)
        for trial in search.running(key):
            if trial.epoch >= trial.epochs:
                self._record(search, completed(trial, search.goal, self.clock()))
            elif trial.epoch >= min(trial.until, search.granted[key]):
                self._record(search, Paused(self.clock(), trial.number))
        if (end := self.trainings.ended(key, len(search.study.trainings[key].reports))) and search.running(key):
            outcome, error = end
            for trial in search.running(key):
                if outcome is Outcome.OK:
                    self._record(search, completed(trial, search.goal, self.clock()))
                else:
                    self._record(search, Ended(self.clock(), trial.number, State.FAILED, outcome, error))
            search.release(key)

    # -- how searches begin and end

    def _open(self, environment: Mapping[str, Value]) -> None:
        """Take the searches over, and continue what was running."""
        for search in self.searches:
            self._record(search, Opened(self.clock(), {**environment, **search.numerics}))
            self.trainings.learn(search.study)
        hit("resume.opened")
        for search in self.searches:
            search.closing = search.ending(self.clock())
            for number in list(search.study.running):
                trial = search.study.trials[number]
                if trial.state is State.RUNNING and search.closing is None:  # one trial's training can end another's
                    self._begin(search, trial.training, trial.until)
                elif trial.state is State.RUNNING and trial.epoch == trial.epochs:  # killed before that was noted
                    self._update(search, trial.training)

    def _end_searches(self) -> None:
        """Where a study is over, or all are to stop, running trials are paused after their epoch."""
        for search in self.searches:
            search.closing = search.closing or search.ending(self.clock())
            if search.closing is not None or self.stopping:
                for number in list(search.study.running):
                    self._pause(search, search.study.trials[number])
            elif not search.study.running and not search.affordable():
                search.closing = Reason.BUDGET
            self._end(search)  # its time ends now, though other studies of a comparison continue
        if self.clock() - self._tidied > TIDY_SECONDS:
            self._tidy()

    def _pause(self, search: Search, trial: Trial) -> None:
        """At once where other searches want more of its training, else when its job has stopped."""
        key = trial.training
        alone = bool(self.stopping) or all(other.closing is not None for other in self._searches(key))
        if key in self.jobs and alone:
            self._stop_job(key)
        elif not self.stopping:  # then `_close` pauses it
            self._record(search, Paused(self.clock(), trial.number))

    def _close(self) -> None:
        for search in self.searches:
            for number in reversed(list(search.study.running)):  # the last to be paused is the first to be continued
                self._record(search, Paused(self.clock(), number))
            search.closing = search.closing or (Reason.INTERRUPTED if self.stopping else Reason.BUDGET)
            self._end(search)
        self._tidy()

    def _end(self, search: Search) -> None:
        if search.closing is not None and not search.study.running and search.study.closed is None:
            hit("close")
            self._record(search, Closed(self.clock(), search.closing))

    def _tidy(self) -> None:
        """Keep the checkpoints within their cap; those of running, interrupted and best trials are never touched."""
        self._tidied = self.clock()
        needed: set[str] = set()
        places: dict[str, float] = {}
        for search in self.searches:
            at_work = [*search.study.with_state(State.RUNNING), *search.study.interrupted(), search.best]
            needed |= {trial.training for trial in at_work if trial is not None}
            for key, place in search.resting():
                places[key] = min(place, places.get(key, 1.0))
        self.trainings.prune(needed, sorted(places, key=lambda key: -places[key]))

    def _timeout(self) -> float:
        """How long to wait for a message before the budgets in seconds are looked at again."""
        now = self.clock()
        left = [s.budget.time - s.study.active_seconds_at(now) for s in self.searches if s.budget.time is not None]
        return max(0.01, min([1.0, *left]))

    def _searches(self, key: str) -> list[Search]:
        return [search for search in self.searches if search.running(key)]

    def _record(self, search: Search, event: Event) -> None:
        search.record(event)
        for listener in self.listeners:
            listener(search, event)


def completed(trial: Trial, goal: Goal, now: float) -> Ended:
    """The end of a trial whose training is over. One that has no number to be compared by has failed."""
    value = goal.value(replace(trial, state=State.COMPLETE))
    if value is None:
        return Ended(now, trial.number, State.FAILED, Outcome.INVALID, f"{goal.metric} is not reported")
    if not math.isfinite(value):
        return Ended(now, trial.number, State.FAILED, Outcome.NAN, f"{goal.metric} is {value} at the end")
    return Ended(now, trial.number, State.COMPLETE)
