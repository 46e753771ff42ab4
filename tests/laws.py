"""What must hold of every study, whatever happened to it. Called after every fault."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from hpo.core import Ended, Event, Params, Reported, Started, State, Study, training_key, training_seed
from hpo.engine.search import Identity
from hpo.space.space import Space

MORE = int(os.environ.get("CHAOS_FACTOR", "1"))  # how many times the usual number of cases `make chaos` wants


def tables(name: str) -> Any:
    """What stands in a YAML file beside this one."""
    return yaml.safe_load(Path(__file__).with_name(f"{name}.yaml").read_text(encoding="utf-8"))


def identity(prefix_safe: bool = True) -> Identity:
    def name(params: Params, repeat: int) -> tuple[str, int]:
        seed = training_seed(0, params, repeat)
        return training_key(params, seed, {"machine": "test"}, prefix_safe), seed

    return name


def is_point(params: Params, space: Space) -> bool:
    """Whether params has a value for each parameter that exists there, and nothing else."""
    searched = {name: value for name, value in params.items() if name in space}
    valid = all(space[name].domain.coerce(value) is not None for name, value in searched.items())
    valid = valid and space.with_derived(searched) == params
    return valid and all(parameter.active(params) == (parameter.name in params) for parameter in space.parameters)


def check(
    events: Sequence[Event], trials: int | None = None, resting: bool = True, retried: Sequence[int] = ()
) -> Study:
    """Replay the events and check the invariants of a study. trials: exactly so many were started."""
    study = Study(events)
    assert [trial.number for trial in study.trials] == list(range(len(study.trials)))
    assert trials is None or len(study.trials) == trials, (len(study.trials), trials)
    assert not (resting and study.running), study.running
    assert Counter(type(e) for e in events)[Started] == len(study.trials)
    ends = Counter(event.trial for event in events if isinstance(event, Ended))
    assert all(count == 1 for count in ends.values()), ends
    reports = Counter((e.training, e.report.epoch) for e in events if isinstance(e, Reported))
    assert all(count == 1 for count in reports.values()), [item for item in reports.items() if item[1] > 1]
    for training in study.trainings.values():
        assert [report.epoch for report in training.reports] == list(range(1, len(training.reports) + 1))
    for trial in study.trials:
        assert trial.reports == study.trainings[trial.training].reports[: trial.epoch]
        assert (trial.state is not State.COMPLETE) or trial.epoch == trial.epochs
        assert trial.epoch <= trial.until <= trial.epochs
    assert study.replaced <= set(retried), "no point is tried twice, but after it had failed"
    assert all(study.trials[number].state is State.FAILED for number in study.replaced)
    return study


def params_of(study: Study) -> list[Params]:
    return [trial.params for trial in study.trials]


def refused(kind: type[Exception], act: Callable[..., object], *given: Any, **named: Any) -> str:
    """What is said when this is asked for, which must be refused."""
    try:
        act(*given, **named)
    except kind as error:
        return str(error)
    raise AssertionError("it was not refused")


def until(condition: Callable[[], bool], tick: Callable[[], object], most: int = 10_000) -> None:
    """Tick until the condition holds; a bound on ticks, not on time."""
    for _ in range(most):
        if condition():
            return
        tick()
    raise AssertionError("the condition never held")
