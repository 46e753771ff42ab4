"""Virtual time: when a study that shares its workers with others would have heard of its epochs, had it had its own.

A comparison with several trials at a time must not let a strategy profit from how fast other studies' trainings happen to be.
So each of its studies hears of an epoch when the recorded seconds say, not when it was trained (docs/design.md, 7).
"""

from __future__ import annotations

from hpo.core import Continued, Event, Reported, Started, Study


class VirtualTime:
    """Follows the events of one study, in which epochs take the seconds their reports say and all else takes none."""

    def __init__(self) -> None:
        self.now = 0.0
        self._since: dict[str, float] = {}  # training -> when its last epoch ended, or it began

    def take(self, event: Event, study: Study) -> None:
        """Called after the study has taken the event in."""
        match event:
            case Started(training=key):
                self._begin(key, study)
            case Continued(trial=number):
                self._begin(study.trials[number].training, study)
            case Reported(training=key, report=report):
                self.now = max(self.now, self.due(key, report.seconds))
                self._since[key] = self.now

    def due(self, key: str, seconds: float) -> float:
        """When the epoch that comes next in this training is heard of."""
        return self._since.get(key, self.now) + seconds

    def _begin(self, key: str, study: Study) -> None:
        readers = [trial for trial in study.readers(key) if trial.number in study.running]
        if len(readers) <= 1:  # else it is at work already
            self._since[key] = self.now
