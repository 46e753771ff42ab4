"""`hpo confirm`: finalists trained again with fresh seeds, in a study of its own named by the points it repeats."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hpo.commands.run import RunOptions, run
from hpo.comparison.compare import Confirmation, Finalist, confirm
from hpo.comparison.text import confirmation_lines
from hpo.core import Params, State, digest
from hpo.engine.opening import load_data
from hpo.engine.result import Result, read_result
from hpo.errors import NoResult, Stopped
from hpo.models import families
from hpo.strategies.points import CONFIRM, Point, point
from hpo.study_file.spec import Budget, StudySpec


def fresh_values(
    spec: StudySpec, points: Sequence[Params], seeds: int, options: RunOptions
) -> dict[Point, list[float]]:
    """Each point's value over `seeds` fresh training seeds; a repetition that failed is left out."""
    unique = tuple({point(params): dict(params) for params in points}.values())
    seed = int(digest([sorted(params.items()) for params in unique])[:8], 16)
    again = replace(
        spec,
        strategy=CONFIRM,  # type: ignore[arg-type]  # no strategy of the file
        start_with=unique,
        seed=seed,
        early_stopping=None,
        budget=Budget(trials=len(unique) * seeds),
        metric=replace(spec.metric, target=None),
    )
    result = run(again, replace(options, trials=None, fresh=False, publish=False))
    if result.stopped_by:
        raise Stopped(result.stopped_by)
    goal = spec.metric.as_goal()
    values: dict[Point, list[float]] = {point(params): [] for params in unique}
    for trial in result.study.with_state(State.COMPLETE):
        value = goal.value(trial)
        if value is not None and trial.repeat <= seeds:
            values[point(trial.params)].append(value)
    return values


def confirm_finalists(result: Result, top: int, seeds: int, options: RunOptions) -> Confirmation:
    """Retrain the `top` best trials with `seeds` fresh seeds each. Raises NoResult where no trial is complete."""
    goal = result.spec.metric.as_goal()
    complete = result.study.with_state(State.COMPLETE)
    best = sorted(complete, key=lambda trial: (goal.score(trial), trial.number))[:top]
    if not best:
        raise NoResult(f"{result.folders.run}: no trial is complete, so there is nothing to confirm; `hpo run` goes on")
    fresh = fresh_values(result.spec, [trial.params for trial in best], seeds, options)
    finalists = [
        Finalist(trial.number, goal.value(trial) or 0.0, tuple(values), size(result, trial.params))
        for trial in best
        if (values := fresh[point(trial.params)])
    ]
    if not finalists:
        raise NoResult(f"{result.folders.run}: every repetition failed; `hpo status` says why")
    return confirm(finalists, goal)


def size(result: Result, params: Params) -> int | None:
    """Parameters of the network; None for a user's own."""
    if result.dataset is None or result.spec.train is not None or result.spec.model not in families.FAMILIES:
        return None
    return families.sizes(result.spec.model, params, result.dataset.shape, result.dataset.outputs).parameters


def run_confirmation(spec: StudySpec, state: Path, top: int, seeds: int) -> list[str]:
    """What `hpo confirm` prints."""
    stored = read_result(spec, state)
    result = replace(stored, dataset=load_data(spec, stored.folders))
    return confirmation_lines(confirm_finalists(result, top, seeds, RunOptions(state, environ=os.environ)))
