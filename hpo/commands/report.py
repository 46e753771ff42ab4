"""`hpo report` and `hpo export`: a study as files, for people and for other tools."""

import importlib.util
import json
import logging
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import astuple, replace
from datetime import datetime
from functools import partial
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from hpo.core import State, Study, Trial
from hpo.engine.opening import target_trials
from hpo.engine.result import Result, study_report, trials_table
from hpo.errors import BadInput, EnvironmentFailed, Mistake
from hpo.files import Folders, hit, replace_file
from hpo.formatting import limits
from hpo.journal import Journal
from hpo.report.page import save
from hpo.strategies.tpe import Coordinate, for_optuna
from hpo.study_file.spec import StudySpec

Drawn = Mapping[str, str]  # name -> SVG


def draw_search(spec: StudySpec, folders: Folders, study: Study) -> Drawn:
    """Those of the report's pictures that need no published model: saved, and as they stand in it. Raises OSError."""
    save(pictures := study_report(spec, folders, study, {}).search_pictures, folders.artifacts / "plots")
    return {picture.name: picture.svg() for picture in pictures}


def write_report(spec: StudySpec, folders: Folders, study: Study, drawn: Callable[[], Drawn] | None = None) -> None:
    """Write trials.csv, report.html and its pictures. drawn: waits for `draw_search`. Raises EnvironmentFailed."""
    try:
        pictures = (drawn or partial(draw_search, spec, folders, study))()
        with replace_file(folders.trials_csv) as draft:
            trials_table(study, spec.goal).to_csv(draft, index=False)
        hit("table")
        with Journal.open(folders.journal, read_only=True) as journal:
            trials = target_trials(spec, journal, None)
        facts = study_facts(replace(spec, budget=replace(spec.budget, trials=trials)))
        report = study_report(spec, folders, study, facts, pictures)
        with replace_file(folders.report) as draft:
            draft.write_text(report.document(), encoding="utf-8")
        hit("report")
        save(report.model_pictures, folders.artifacts / "plots")
    except OSError as error:
        rule, remedy = "the report must have room here", "free space, then run the same command again"
        raise EnvironmentFailed(Mistake(str(folders.run), rule, error.strerror or str(error), remedy)) from None


def study_facts(spec: StudySpec) -> dict[str, str]:
    return {
        "Data": spec.data.source if spec.data is not None else "the trainer's own",
        "Model": (spec.train or spec.model) + (f", trained in {spec.precision}" if spec.precision != "fp32" else ""),
        "Budget": ", ".join(limits(*astuple(spec.budget))) or "the whole grid",
        "Early stopping": spec.early_stopping.type if spec.early_stopping else "none",
    }


def export_csv(result: Result, path: Path) -> None:
    with replace_file(path) as draft:
        result.trials.to_csv(draft, index=False)


def export_onnx(result: Result, path: Path) -> None:
    """`images` (N, C, H, W), raw pixels, to `outputs` (N, K), classes as metadata. Raises EnvironmentFailed."""
    if importlib.util.find_spec("onnxscript") is None:
        rule, remedy = "needs the packages onnx and onnxscript", "in a checkout of hpo: pip install '.[onnx]'"
        raise EnvironmentFailed(Mistake("--onnx", rule, "", remedy))
    import torch

    model, data = result.model(), result.data()
    model.size = None  # ONNX has no resizing that rounds as ours does: images come in the right size
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # what the exporter has to say about itself
    with warnings.catch_warnings(action="ignore"):
        program = torch.onnx.export(
            model,
            (torch.from_numpy(data.images[:2]),),  # a batch of one would freeze that dimension
            input_names=["images"],
            output_names=["outputs"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props["classes"] = json.dumps(data.classes or ())
    with replace_file(path) as draft:
        program.save(draft)


def export_optuna(result: Result, path: Path) -> None:
    """Write a new Optuna journal file. Raises BadInput for a file that exists: it would grow a second study."""
    if path.exists():
        raise BadInput(Mistake(str(path), "must not exist yet", "", "name another file, or delete it"))
    goal = result.spec.goal
    study = optuna.create_study(
        study_name=result.folders.run.name,
        storage=JournalStorage(JournalFileBackend(str(path))),
        direction="maximize" if goal.maximize else "minimize",
    )
    study.add_trials([frozen(result, trial) for trial in result.study.trials if trial.state is not State.RUNNING])


def frozen(result: Result, trial: Trial) -> FrozenTrial:
    """A trial that does not run as Optuna has it; a complete one without a finite value has failed there."""
    goal, space = result.spec.goal, result.spec.space
    value = goal.value(trial)
    complete = trial.state is State.COMPLETE and value is not None and math.isfinite(value)
    stopped = TrialState.PRUNED if trial.state in (State.PRUNED, State.PAUSED) else TrialState.FAIL
    exported = for_optuna(
        trial.params,
        {name: Coordinate(space[name].domain, plain=True) for name in trial.params if name in space},
        state=TrialState.COMPLETE if complete else stopped,
        value=value if complete else None,
        user_attrs={"hpo.outcome": str(trial.outcome), "hpo.error": trial.error, "hpo.training": trial.training},
        intermediate_values={r.epoch: r.metrics[goal.metric] for r in trial.reports if goal.metric in r.metrics},
    )
    exported.datetime_start = datetime.fromtimestamp(trial.started)  # local time, as Optuna has it
    last = trial.reports[-1].time if trial.reports else trial.started
    exported.datetime_complete = datetime.fromtimestamp(trial.ended or last)
    return exported
