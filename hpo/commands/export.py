"""`hpo export`: a study for other tools: a table, or a journal file that optuna-dashboard opens."""

from __future__ import annotations

import math
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.core import State, Trial
from hpo.engine.result import Result
from hpo.errors import BadInput, Mistake
from hpo.files import replace_file
from hpo.strategies.bayesian import Coordinate


def export_csv(result: Result, path: Path) -> None:
    with replace_file(path) as draft:
        result.trials.to_csv(draft, index=False)


def export_optuna(result: Result, path: Path) -> None:
    """Write a new Optuna journal file. Raises BadInput for a file that exists: it would grow a second study."""
    if path.exists():
        raise BadInput(Mistake(str(path), "must not exist yet", "", "name another file, or delete it"))
    goal = result.spec.metric.as_goal()
    study = optuna.create_study(
        study_name=result.folders.run.name,
        storage=JournalStorage(JournalFileBackend(str(path))),
        direction="maximize" if goal.maximize else "minimize",
    )
    study.add_trials([frozen(result, trial) for trial in result.study.trials if trial.state is not State.RUNNING])


def frozen(result: Result, trial: Trial) -> FrozenTrial:
    """A trial that does not run as Optuna has it; a complete one without a finite value has failed there."""
    goal, space = result.spec.metric.as_goal(), result.spec.space
    value = goal.value(trial)
    complete = trial.state is State.COMPLETE and value is not None and math.isfinite(value)
    stopped = TrialState.PRUNED if trial.state in (State.PRUNED, State.PAUSED) else TrialState.FAIL
    params = {
        name: value
        for name, value in trial.params.items()
        if name in space and space[name].domain.coerce(value) is not None
    }
    return create_trial(
        state=TrialState.COMPLETE if complete else stopped,
        value=value if complete else None,
        params=params,
        distributions={name: Coordinate(space[name].domain, plain=True).distribution for name in params},
        user_attrs={"hpo.outcome": str(trial.outcome), "hpo.error": trial.error, "hpo.training": trial.training},
        intermediate_values={r.epoch: r.metrics[goal.metric] for r in trial.reports if goal.metric in r.metrics},
    )
