"""`hpo confirm`: the best points of a study trained again with fresh seeds, as those of a comparison are."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hpo import provenance
from hpo.commands.run import RunOptions, run_all
from hpo.comparison.compare import Repetition, having_values
from hpo.comparison.statistics import Confirmation, Finalist, confirm
from hpo.comparison.text import confirmation_lines
from hpo.core import EPOCHS, Goal, Outcome, Params, State, Trial, digest
from hpo.engine import components
from hpo.engine.changes import load_data
from hpo.engine.result import Result, read_result
from hpo.errors import NoResult, Stopped
from hpo.formatting import count, listed
from hpo.models import families
from hpo.strategies.points import CONFIRM, Point, frozen
from hpo.study_file.spec import Budget, StudySpec

Finalists = tuple[StudySpec, Mapping[str, object], list[Params]]  # a study, its environment, its points to train again
FreshValues = dict[Point, list[Repetition]]


def fresh_values(finalists: Sequence[Finalists], seeds: int, options: RunOptions) -> list[FreshValues]:
    """For each study, its points' repetitions with `seeds` fresh training seeds."""
    specs = [confirming(*one, seeds) for one in finalists]
    results = run_all(specs, replace(options, trials=None, fresh=False, publish=False))
    if stopped := max(result.stopped_by for result in results):
        raise Stopped(stopped)
    return [values_of(result, seeds) for result in results]


def confirming(spec: StudySpec, trained_on: Mapping[str, object], points: Sequence[Params], seeds: int) -> StudySpec:
    """A study that trains the points again, on the split of the study they come from.

    trained_on: that study's environment. With anything else that its values depend on they are another study of
    repetitions, by its seed, so that none is ever refused as changed.
    """
    unique = tuple({frozen(params): dict(params) for params in points}.values())
    again = replace(
        spec,
        strategy=CONFIRM,
        start_with=unique,
        seed=0,
        training_seed=spec.base_seed,
        early_stopping=None,
        budget=Budget(trials=len(unique) * seeds),
        metric=replace(spec.metric, target=None),
    )
    trainer = [provenance.TRAINER, provenance.version("torch"), components.user_code(spec)]
    name = digest([again.fixed(), spec.space.record(), trained_on.get("data"), *trainer])
    return replace(again, seed=int(name[:8], 16))


def values_of(result: Result, seeds: int) -> FreshValues:
    goal = replace(result.spec.goal, epochs=())  # each is read at the length it was given
    values: FreshValues = {frozen(params): [] for params in result.spec.start_with}
    for trial in result.study.with_state(State.COMPLETE, State.FAILED):
        if trial.repeat <= seeds:
            value = goal.value(trial) if trial.state is State.COMPLETE else trial.outcome
            values[frozen(trial.params)].append(Outcome.NAN if value is None else value)
    return values


def confirm_finalists(result: Result, top: int, seeds: int, options: RunOptions) -> Confirmation:
    """Retrain the `top` best trials with `seeds` fresh seeds each. Raises NoResult where no epoch counts yet."""
    goal, (top_trials, _), same = result.spec.goal, top_of(result, top), result.study.environments[-1]
    if not top_trials:
        raise NoResult(f"{result.folders.run}: no trial is complete yet, nothing to confirm; continue with `hpo run`")
    for trial in top_trials:
        result.refuse_other_code(trial)
    (fresh,) = fresh_values([(result.spec, same, [as_read(goal, trial) for trial in top_trials])], seeds, options)
    finalists = [finalist(result, trial, fresh[frozen(as_read(goal, trial))]) for trial in top_trials]
    if not any(one.fresh for one in finalists):
        outcomes = listed(sorted({outcome for one in finalists for outcome in one.failed}))
        raise NoResult(f"{result.folders.run}: every repetition failed ({outcomes}), so nothing is confirmed")
    return confirm(finalists, goal)


def top_of(result: Result, top: int) -> tuple[list[Trial], str]:
    """The best trials, no training after one epoch twice; and in a sentence which others are left out, "" if none are."""
    goal, same = result.spec.goal, dict[Point, list[Trial]]()  # trials of other `epochs` may be read at one epoch
    for trial in goal.ranked(result.study.trials):
        if goal.counted(trial):
            same.setdefault(frozen(as_read(goal, trial)), []).append(trial)
    best = list(same.values())[:top]
    whose = [
        (", ".join(str(one.number) for one in others), first.number) for first, *others in best[: top - 1] if others
    ]
    left = [f"trial {numbers} (the training of trial {first} after the same epoch)" for numbers, first in whose]
    rest = len(result.study) - sum(map(len, best)) if len(best) < top else 0
    left += [f"{count(rest, 'other trial')} (no epoch that counts yet)"] if rest else []
    return [first for first, *_ in best], f"Left out: {'; '.join(left)}." if left else ""


def finalist(result: Result, trial: Trial, again: Sequence[Repetition]) -> Finalist:
    failed = tuple(one for one in again if isinstance(one, Outcome))
    data, model, size = result.dataset, "" if result.spec.train else result.spec.model, None
    if data is not None and model in families.FAMILIES:  # of a user's own nothing is known
        size = families.sizes(model, trial.params, data.shape, data.outputs).parameters
    return Finalist(trial.number, result.spec.goal.value(trial) or 0.0, having_values(again), size, failed)


def run_confirmation(spec: StudySpec, state: Path, top: int, seeds: int) -> list[str]:
    """What `hpo confirm` prints."""
    stored = read_result(spec, state)
    result = replace(stored, dataset=load_data(spec, stored.folders, stored.study.environments[-1:]))
    confirmation = confirm_finalists(result, top, seeds, RunOptions(state, environ=os.environ))
    lines = confirmation_lines(confirmation, split=result.dataset is not None)
    return [*filter(None, [top_of(result, top)[1]]), *lines]


def as_read(goal: Goal, trial: Trial) -> Params:
    """What to train to have this trial again as it is read."""
    return {**trial.params, EPOCHS: goal.length(trial)}
