"""Errors of the user or the environment: one line with the rule, the value got, the place and the remedy."""

from collections.abc import Sequence
from dataclasses import dataclass

from hpo.formatting import printable, without_password


@dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """One thing to fix.

    place: "study.yaml:7:12 search_space.learning_rate.min" or a file; rule: "must be below max (0.1)";
    got: the value as it was written, "" where there is none; remedy: what to do, as an imperative.
    """

    place: str
    rule: str
    got: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        got = f", got {self.got}" if self.got else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return without_password(" ".join(f"{self.place}: {self.rule}{got}{remedy}".split()))


class HpoError(Exception):
    """An end that is shown to the user, one line a mistake. `exit_code` is the process's (docs/design.md, Promise)."""

    exit_code = 1

    def __init__(self, *mistakes: Mistake | str) -> None:
        self.mistakes: Sequence[Mistake | str] = mistakes
        super().__init__(printable(without_password("\n".join(map(str, mistakes))), keep="\n"))


class BadInput(HpoError):
    """The study file, the data or a flag is wrong; nothing was created."""

    exit_code = 2


class Stopped(KeyboardInterrupt):
    """A signal that is not waited for: leave at once. What is not recorded yet is trained again by the next run."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(number)


class NoResult(HpoError):
    """The study ran and there is nothing to show."""

    exit_code = 3


class EnvironmentFailed(HpoError):
    """The store, the disk, the server or the cluster does not work."""

    exit_code = 4


class Conflict(HpoError):
    """Another driver has the study, or the file changed in a way the study cannot follow."""

    exit_code = 5
