"""Where a study keeps its things; all of it can be deleted, none of it belongs in git."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Folders:
    """state/studies/<name>/ with what its strategies share, and in it <strategy>-<seed>/ with what is one study's own."""

    state: Path
    name: str
    strategy: str
    seed: int

    @property
    def study(self) -> Path:
        return self.state / "studies" / self.name

    @property
    def trainings(self) -> Path:
        """Checkpoints, shared by all strategies and seeds."""
        return self.study / "trainings"

    @property
    def data(self) -> Path:
        """The data set as one memory map for all workers."""
        return self.study / "data"

    @property
    def run(self) -> Path:
        return self.study / f"{self.strategy}-{self.seed}"

    @property
    def journal(self) -> Path:
        return self.run / "journal.db"

    @property
    def lock(self) -> Path:
        return self.run / "driver.lock"

    @property
    def report(self) -> Path:
        return self.run / "report.html"

    @property
    def trials_csv(self) -> Path:
        return self.run / "trials.csv"

    @property
    def portrait(self) -> Path:
        """What there is to see of the winner, as arrays for the report."""
        return self.run / "portrait.npz"

    @property
    def artifacts(self) -> Path:
        """Pictures and texts that go to MLflow as they are."""
        return self.run / "artifacts"

    def siblings(self) -> list[Path]:
        """Journals of the other studies of the same name."""
        return sorted(path for path in self.study.glob("*/journal.db") if path != self.journal)
