"""`hpo extend`: a trial goes on from its checkpoint as a new trial of the same study, beside the study's own target."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from hpo.commands.run import Visit, run
from hpo.commands.status import read_result
from hpo.core import EPOCHS, Closed, Event, Outcome, State, Trial
from hpo.engine.driver import Listener
from hpo.engine.result import Result
from hpo.engine.search import Search
from hpo.errors import BadInput, Mistake
from hpo.formatting import count, decimals
from hpo.models.parameters import prefix_safe
from hpo.strategies.given import standing
from hpo.study_file.spec import StudySpec


@dataclass(frozen=True, slots=True)
class Extended:
    """What came of it. trial: the longer one; known: it was there before."""

    result: Result
    source: Trial
    trial: Trial
    known: bool

    @property
    def shared(self) -> bool:
        """Whether both are readings of one training."""
        return self.trial.training == self.source.training


def extend(spec: StudySpec, number: int, epochs: int, visit: Visit) -> Extended:
    """Train a trial `epochs` epochs further than it has come. Raises BadInput for one that cannot go on."""
    before = read_result(spec, visit.state)
    source = before.trial(number)
    refuse_failed(before, source)
    params = {**source.params, EPOCHS: source.epoch + epochs}
    there = standing(before.study, params, source.repeat)
    if there is not None and there.finished:
        return Extended(before, source, there, True)
    listeners: list[Listener] = [*visit.listeners, _Rest(before.study.closed or "interrupted")]
    asked = ((params, source.repeat),)
    result = run(spec, replace(visit, trials=None, fresh=False, given=asked, listeners=listeners))
    trial = standing(result.study, params, source.repeat)
    if trial is None:  # stopped before it began
        raise KeyboardInterrupt
    return Extended(result, source, trial, False)


def refuse_failed(result: Result, trial: Trial) -> None:
    if trial.state is State.FAILED or trial.epoch == 0:
        got = f"trial {trial.number}: {trial.outcome}" if trial.outcome is not Outcome.OK else f"trial {trial.number}"
        rule = "only a trial that came through its epochs can be extended"
        raise BadInput(Mistake(str(result.folders.run), rule, got, "`hpo status` and `hpo best` name others"))


class _Rest:
    """A listener: the study is closed again for the reason it was closed before, whatever an extension ended with."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def __call__(self, search: Search, event: Event) -> None:
        if isinstance(event, Closed) and event.reason not in (self._reason, "failing", "interrupted"):
            search.record(replace(event, reason=self._reason))


def lines(extended: Extended) -> Iterator[str]:
    """What a person is told."""
    goal, source, trial = extended.result.spec.metric.as_goal(), extended.source, extended.trial
    name = goal.metric
    if extended.known:
        yield f"trial {trial.number} is that already: {_value(goal.value(trial))} after {count(trial.epoch, 'epoch')}"
        return
    if trial.error:
        yield f"trial {trial.number} failed: {trial.outcome}: {trial.error}"
        return
    how = f"goes on from trial {source.number} at epoch {source.epoch}"
    if not extended.shared:
        how = f"repeats trial {source.number} from its first epoch ({_why(source)})"
    then, now = _value(goal.value(source)), _value(goal.value(trial))
    yield f"trial {trial.number} {how}: {name} {then} after {count(source.epoch, 'epoch')}, {now} after {trial.epoch}"
    if trial.state is not State.COMPLETE:
        yield f"it rests at epoch {trial.epoch} of {trial.epochs}; the same command goes on"
    elif extended.result.best.number == trial.number:
        yield "it is the best trial now"


def _why(source: Trial) -> str:
    if not prefix_safe(source.params):
        return f"its schedule ({source.params['schedule']}) depends on how many epochs follow"
    return "what trains has changed since, or does not declare that an epoch is the same whatever follows"


def _value(value: float | None) -> str:
    return "-" if value is None else decimals(value)
