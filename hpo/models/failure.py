"""How a training ends when it cannot go on, as information for a strategy."""

from __future__ import annotations

from hpo.core import Outcome


class TrainingFailed(Exception):
    """The training is over, its worker is sound: record the outcome and take the next job. text is for a person."""

    def __init__(self, outcome: Outcome, text: str) -> None:
        super().__init__(outcome, text)  # both, so that it survives pickling between processes
        self.outcome = outcome
        self.text = text

    def __str__(self) -> str:
        return self.text
