"""The table and the report of a study, from its journal: at the end of a run and at any time after."""

from __future__ import annotations

from hpo.core import Study
from hpo.engine.result import trials_table
from hpo.errors import EnvironmentFailed, Mistake
from hpo.failpoints import hit
from hpo.files import Folders, replace_file
from hpo.journal import read_events
from hpo.models import families
from hpo.report.document import StudyReport
from hpo.report.drawing import save
from hpo.report.model_figures import ModelFigures
from hpo.study_file.spec import StudySpec
from hpo.tracking.ui import without_password
from hpo.training.diagnosis import diagnose


def show(spec: StudySpec, folders: Folders, study: Study) -> None:
    """Write trials.csv, report.html and the report's pictures beside the journal. Raises EnvironmentFailed."""
    diagnoses = {
        t.number: diagnose(t.reports, t.params, t.outcome).sentence for t in study.trials if t.reports or t.finished
    }
    try:
        with replace_file(folders.trials_csv) as draft:
            trials_table(study, spec.metric.as_goal(), diagnoses).to_csv(draft, index=False)
        hit("table")
        report = study_report(spec, folders, diagnoses)
        with replace_file(folders.report) as draft:
            draft.write_text(report.document(), encoding="utf-8")
        hit("report")
        save(report.pictures(), folders.artifacts / "plots")
    except OSError as error:
        rule, remedy = "the report must have room here", "free space, then run the same command again"
        raise EnvironmentFailed(Mistake(str(folders.run), rule, error.strerror or str(error), remedy)) from None


def study_report(spec: StudySpec, folders: Folders, diagnoses: dict[int, str]) -> StudyReport:
    return StudyReport(
        name=spec.name,
        strategy=spec.strategy,
        seed=spec.seed,
        goal=spec.metric.as_goal(),
        space=spec.space,
        events=read_events(folders.journal),
        facts=facts(spec),
        start_with=spec.start_with,
        diagnoses=diagnoses,
        known=families.known(spec.model, spec.train),
        study_text=without_password(spec.text),
        space_text=spec.space_text or None,
        model=ModelFigures.open(folders.model_figures),
    )


def facts(spec: StudySpec) -> dict[str, str]:
    """What the study is about, in a few words each."""
    budget = {
        "trials": spec.budget.trials,
        "epochs": spec.budget.total_epochs,
        "seconds": spec.budget.time,
        "epochs without a new best": spec.budget.patience,
    }
    limits = ", ".join(f"{value:g} {name}" for name, value in budget.items() if value is not None)
    return {
        "Data": spec.data.source if spec.data is not None else "the trainer's own",
        "Model": spec.train or spec.model,
        "Budget": limits or "the whole grid",
        "Early stopping": spec.early_stopping.type if spec.early_stopping else "none",
    }
