"""How much of the workers' time went into training, worked out from the events alone."""

from __future__ import annotations

from dataclasses import dataclass

from hpo.core import Event, Reported


@dataclass(slots=True)
class Overhead:
    """From the first epoch's start to the last report: seconds trained, against what `slots` workers could have trained."""

    slots: int
    trained: float = 0.0
    epochs: int = 0
    first: float | None = None
    last: float = 0.0

    def take(self, event: Event) -> None:
        if isinstance(event, Reported) and not event.reused:
            report = event.report
            began = report.time - report.seconds
            self.first = began if self.first is None else min(self.first, began)
            self.last = max(self.last, report.time)
            self.trained += report.seconds
            self.epochs += 1

    @property
    def share(self) -> float | None:
        """Between 0 and 1; None before the second report."""
        if self.first is None or self.last <= self.first:
            return None
        return min(1.0, self.trained / (self.slots * (self.last - self.first)))
