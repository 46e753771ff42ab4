"""The loop: propose, submit, listen, record. One driver owns one study, or all studies of a comparison.

Read `Driver.run` first. Searches share trainings through the pool; each is charged as if it had trained alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from hpo.core import (
    DONE,
    Broke,
    Closed,
    Continue,
    Continued,
    Decision,
    Ended,
    Event,
    Executor,
    Job,
    Limits,
    Message,
    Opened,
    Outcome,
    Paused,
    Reason,
    Reported,
    Rest,
    Rested,
    Retried,
    Start,
    Started,
    State,
    Stop,
    Trial,
    Value,
)
from hpo.engine.search import Search
from hpo.engine.trainings import Pool
from hpo.failpoints import hit

MOST_ATTEMPTS = 3  # attempts of a training without a new epoch
TIDY_SECONDS = 10.0  # between two looks at the size of the checkpoints

Listener = Callable[[Search, Event], None]


class Driver:
    """Runs searches on an executor until each is over, or `stop` is called. Listeners hear every recorded event."""

    def __init__(
        self,
        searches: Sequence[Search],
        executor: Executor,
        pool: Pool,
        limits: Limits = Limits(),
        clock: Callable[[], float] = time.time,
        listeners: Sequence[Listener] = (),
    ) -> None:
        self.searches, self.executor, self.pool = searches, executor, pool
        self.limits, self.clock, self.listeners = limits, clock, listeners
        self.jobs: dict[str, Job] = {}  # trainings at work
        self.queue: dict[str, None] = {}  # trainings that wait for a worker, in order
        self.stopping = 0  # the signal number that asked for it, or 1
        self._halted: set[str] = set()  # trainings told to rest after their epoch
        self._tidied = 0.0

    def run(self, environment: Mapping[str, Value] | None = None) -> None:
        """Bring every search to its end. Returns when nothing is running."""
        self._open(environment or {})
        while True:
            self._propose()
            self._submit()
            if not self.jobs:
                break
            for message in self.executor.wait(self._patience()):
                self._listen(message)
            self._end_searches()
        self._close()

    def stop(self, why: int = 1) -> None:
        """Let every running trial finish its epoch, then return from `run`. Safe to call from a signal handler."""
        self.stopping = why

    # -- before and after

    def _open(self, environment: Mapping[str, Value]) -> None:
        """Take the searches over, and go on with what was running."""
        for search in self.searches:
            self._record(search, Opened(self.clock(), dict(environment)))
            self.pool.learn(search.study)
        hit("resume.opened")
        for search in self.searches:
            search.closing = search.ending(self.clock())
            for number in list(search.study.running):
                if search.closing is None and number in search.study.running:  # one seat can end another's trial
                    trial = search.study.trials[number]
                    self._seat(search, trial.training, trial.until)

    def _close(self) -> None:
        for search in self.searches:
            for number in reversed(list(search.study.running)):  # who began first rests last, and goes on first
                self._record(search, Paused(self.clock(), number))
            if search.study.closed is None:
                search.closing = search.closing or (Reason.INTERRUPTED if self.stopping else Reason.BUDGET)
                self._end(search, search.closing)
        self._tidy()

    def _end(self, search: Search, reason: Reason) -> None:
        hit("close")
        self._record(search, Closed(self.clock(), reason))

    def _patience(self) -> float:
        """How long only messages matter."""
        now = self.clock()
        left = [s.budget.time - s.study.active_seconds_at(now) for s in self.searches if s.budget.time is not None]
        return max(0.01, min([1.0, *left]))

    def _end_searches(self) -> None:
        """Where a study is over, or all are to stop, running trials rest after their epoch."""
        for search in self.searches:
            search.closing = search.closing or search.ending(self.clock())
            if search.closing is not None or self.stopping:
                for number in list(search.study.running):
                    self._halt(search, search.study.trials[number])
            elif not search.study.running and not search.affordable():
                search.closing = Reason.BUDGET
            if search.closing is not None and not search.study.running and search.study.closed is None:
                self._end(search, search.closing)  # its time is over, though others of a comparison go on
        if self.clock() - self._tidied > TIDY_SECONDS:
            self._tidy()

    def _halt(self, search: Search, trial: Trial) -> None:
        key = trial.training
        alone = bool(self.stopping) or all(other.closing is not None for other, _ in self._readers(key))
        if key in self.jobs and alone:
            if key not in self._halted:
                self._halted.add(key)
                self.executor.stop(key)
        elif not self.stopping:  # then `_close` lets them rest
            self._record(search, Paused(self.clock(), trial.number))
            search.release(key)
            if alone:
                self.queue.pop(key, None)

    def _tidy(self) -> None:
        """Keep the checkpoints within their cap; those that are needed are never touched."""
        self._tidied = self.clock()
        wanted = {t.training for s in self.searches for t in s.study.with_state(State.RUNNING, State.PAUSED)}
        wanted |= {search.best.training for search in self.searches if search.best is not None}
        self.pool.prune(wanted)

    # -- propose

    def _propose(self) -> None:
        """Ask every search that has room, in turn, until all workers are busy or nobody has a wish."""
        asking = [] if self.stopping else list(self.searches)
        while asking:
            asking = [one for one in asking if self._room(one) > 0 and self._ask(one)]

    def _room(self, search: Search) -> int:
        return search.room(self.executor.slots - len(self.jobs) - len(self.queue))

    def _ask(self, search: Search) -> bool:
        """Carry out what the search decides next; False if that is nothing now."""
        search.closing = search.closing or search.ending(self.clock())
        if search.closing is not None or not search.affordable():
            return False
        if interrupted := search.interrupted():
            return self._continue(search, interrupted[0], interrupted[0].until)
        decisions = search.strategy.propose(search.study, self._room(search))
        if not isinstance(decisions, Rest) and any([self._carry_out(search, one) for one in decisions]):  # noqa: C419 - all
            return True
        if search.study.running:
            return False
        if finalist := search.finalist():  # a study does not end without one complete trial
            return self._continue(search, finalist, finalist.epochs)
        search.closing = Reason.EXHAUSTED if decisions is DONE else None
        return False

    def _carry_out(self, search: Search, decision: Decision) -> bool:
        match decision:
            case Start():
                return self._start(search, decision)
            case Continue(trial=number, until=until):
                return self._continue(search, search.study.trials[number], until)
            case Stop(trial=number):
                self._stop(search, search.study.trials[number].training, number)
                return True

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
        self._seat(search, key, start.until)
        return True

    def _continue(self, search: Search, trial: Trial, until: int) -> bool:
        if search.grant(trial.training, until) <= trial.epoch:
            return False
        self._record(search, Continued(self.clock(), trial.number, until))
        self._seat(search, trial.training, until)
        return True

    def _stop(self, search: Search, key: str, number: int) -> None:
        self._record(search, Ended(self.clock(), number, State.PRUNED))
        search.release(key)
        if key in self.jobs and key not in self._halted and not any(self._readers(key)):
            self._halted.add(key)
            self.executor.stop(key)

    def _seat(self, search: Search, key: str, until: int) -> None:
        """Give a running trial what is known of its training, and a place in the queue for the rest."""
        search.grant(key, until)
        self.pool.add(key, search.study.trainings[key])
        self._take(search, key)
        self._enqueue(search, key)

    def _enqueue(self, search: Search, key: str) -> None:
        if key not in self.jobs and search.wanted(key) > len(self.pool[key].reports):
            self.queue[key] = None

    # -- submit

    def _submit(self) -> None:
        while self.queue and not self.stopping and len(self.jobs) < self.executor.slots:
            key = next(iter(self.queue))
            del self.queue[key]
            if (job := self._job(key)) is not None:
                hit("submit")
                self.jobs[key] = job
                self.executor.submit(job)

    def _job(self, key: str) -> Job | None:
        """What those who wait for a training may still train of it."""
        until = max((search.wanted(key) for search in self.searches), default=0)
        training = self.pool[key]
        known = len(training.reports)
        if until <= known:
            return None
        limits = self.limits
        if limits.trial_seconds is not None:
            left = limits.trial_seconds - sum(report.seconds for report in training.reports)
            limits = replace(limits, trial_seconds=max(0.001, left))
        start = self.pool.checkpoint(key)
        longest = max((trial for _, trial in self._readers(key)), key=lambda trial: trial.epochs)
        return Job(key, longest.params, training.seed, start, until, known, self.pool.folder, limits)

    # -- listen

    def _listen(self, message: Message) -> None:
        hit("listen")
        match message:
            case Reported(training=key, report=report):
                if self.pool.extend(key, report):
                    for search in self._searches(key):
                        self._take(search, key)
            case Rested(training=key, exhausted=exhausted):
                self._leave(key)
                if exhausted:
                    self._exhausted(key)
                self._rested(key)
            case Broke(training=key):
                self._leave(key)
                self._broke(key, message)

    def _leave(self, key: str) -> None:
        del self.jobs[key]
        self._halted.discard(key)

    def _rested(self, key: str) -> None:
        """Whoever wants more of it waits for a worker again; where a study is over, its trials rest."""
        for search in self._searches(key):
            if search.closing is not None and not self.stopping:
                for trial in search.running(key):
                    self._record(search, Paused(self.clock(), trial.number))
                search.release(key)
            self._enqueue(search, key)

    def _exhausted(self, key: str) -> None:
        if self.pool[key].reports:
            self.pool.end(key, Outcome.OK, "")
        else:
            self.pool.end(key, Outcome.INVALID, "the trainer ended without a report")
        for search in self._searches(key):
            self._take(search, key)

    def _broke(self, key: str, broke: Broke) -> None:
        """A process that died is another attempt while attempts make progress; anything else ends the training."""
        searches = self._searches(key)
        if broke.lost and self.pool.attempt(key) < MOST_ATTEMPTS:
            for search in searches:
                number = search.study.attempts.get(key, 1) + 1
                self._record(search, Retried(self.clock(), key, number, broke.error))
            if not self.stopping:
                self.queue[key] = None
            return
        self.pool.end(key, broke.outcome, f"{broke.error} ({broke.place})" if broke.place else broke.error)
        for search in searches:
            self._take(search, key)

    def _take(self, search: Search, key: str) -> None:
        """Record what is known of a training and this study wants and has paid for; then end or pause who is there."""
        known = len(search.study.trainings[key].reports)
        for report in self.pool[key].reports[known : search.wanted(key)]:
            new = self.pool.is_new(key, report.epoch)
            self._record(search, Reported(key, report, reused=not new))
            if new:
                self.pool.recorded(key, report.epoch)
        self._settle(search, key)
        if (end := self.pool.ended(key, len(search.study.trainings[key].reports))) and search.running(key):
            for trial in search.running(key):
                self._record(search, Ended(self.clock(), trial.number, end.state, end.outcome, end.error))
            search.release(key)

    def _settle(self, search: Search, key: str) -> None:
        """End or pause the trials that are where they were going, or as far as the budget takes them."""
        for trial in search.running(key):
            if trial.epoch >= trial.epochs:
                self._record(search, Ended(self.clock(), trial.number, State.COMPLETE))
            elif trial.epoch >= min(trial.until, search.granted[key]):
                self._record(search, Paused(self.clock(), trial.number))

    # -- who reads a training

    def _readers(self, key: str) -> Iterator[tuple[Search, Trial]]:
        for search in self.searches:
            for trial in search.running(key):
                yield search, trial

    def _searches(self, key: str) -> list[Search]:
        return [search for search in self.searches if search.running(key)]

    def _record(self, search: Search, event: Event) -> None:
        search.record(event)
        for listener in self.listeners:
            listener(search, event)
