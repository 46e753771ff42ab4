"""Virtual time: when a study that shares its workers with others would have heard of its epochs, had it had its own.

A comparison with several trials at a time must not let a strategy profit from how fast other studies' trainings happen to be.
So each of its studies hears of an epoch when the recorded seconds say, not when it was trained (docs/design.md, 7).
"""

from __future__ import annotations

from collections.abc import Iterable

from hpo.core import Continued, Ended, Event, Opened, Paused, Reported, Started


class VirtualTime:
    """Follows the events of one study, in which epochs take the seconds their reports say and all else takes none.

    A study that was interrupted goes on at the virtual moment at which it stopped.
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.now = 0.0
        self._since: dict[str, float] = {}  # training -> when its last epoch ended, or it began
        self._epochs: dict[str, int] = {}  # training -> epochs heard of
        self._trials: dict[int, tuple[str, int]] = {}  # trial -> its training, and the epoch it is to reach
        self._running: set[int] = set()
        self._cut: set[int] = set()  # trials that rest because a driver ended
        for event in events:
            self.take(event)

    def take(self, event: Event) -> None:
        match event:
            case Opened():
                self._cut = {number for number in self._trials if self._is_short(number)} - self._running
            case Started(trial=number, training=key, until=until):
                self._begin(number, key, until)
            case Continued(trial=number, until=until):
                self._begin(number, self._trials[number][0], until)
            case Reported(training=key, report=report):
                self._since[key] = self.now = max(self.now, self.due(key, report.seconds))
                self._epochs[key] = report.epoch
            case Paused(trial=number) | Ended(trial=number):
                self._running.discard(number)

    def due(self, key: str, seconds: float) -> float:
        """When the epoch that comes next in this training is heard of."""
        return self._since.get(key, self.now) + seconds

    def _begin(self, number: int, key: str, until: int) -> None:
        at_work = any(self._trials[other][0] == key for other in self._running)
        if not at_work and number not in self._cut:
            self._since[key] = self.now
        self._cut.discard(number)
        self._trials[number] = (key, until)
        self._running.add(number)

    def _is_short(self, number: int) -> bool:
        key, until = self._trials[number]
        return self._epochs.get(key, 0) < until
