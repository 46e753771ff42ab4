"""The table and the report of a study, from its journal; at the end of a run and at any time after."""

from __future__ import annotations

from hpo.core import Study
from hpo.errors import EnvironmentFailed, Mistake
from hpo.failpoints import hit
from hpo.files import Folders
from hpo.journal import read_events
from hpo.models import families
from hpo.report.document import ReportInput, pictures, write
from hpo.report.table import frame, write_csv
from hpo.study_file.spec import StudySpec
from hpo.tracking.uri import without_password
from hpo.training.diagnosis import diagnose
from hpo.training.portrait import Portrait


def show(spec: StudySpec, folders: Folders, study: Study) -> None:
    """Write trials.csv, report.html and the report's pictures beside the journal. Raises EnvironmentFailed."""
    try:
        _show(spec, folders, study)
    except OSError as error:
        rule, remedy = "the report must have room here", "free space, then run the same command again"
        raise EnvironmentFailed(Mistake(str(folders.run), rule, error.strerror or str(error), remedy)) from None


def _show(spec: StudySpec, folders: Folders, study: Study) -> None:
    sentences = {
        t.number: diagnose(t.reports, t.params, t.outcome).sentence for t in study.trials if t.reports or t.finished
    }
    write_csv(frame(study, spec.metric.as_goal(), sentences), folders.trials_csv)
    hit("table")
    told = report_input(spec, folders, sentences)
    write(told, folders.report)
    hit("report")
    plots = folders.artifacts / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    for picture in pictures(told):
        (plots / f"{picture.name}.png").write_bytes(picture.png())


def report_input(spec: StudySpec, folders: Folders, sentences: dict[int, str]) -> ReportInput:
    return ReportInput(
        name=spec.name,
        strategy=spec.strategy,
        seed=spec.seed,
        goal=spec.metric.as_goal(),
        space=spec.space,
        events=read_events(folders.journal),
        facts=facts(spec),
        start_with=spec.start_with,
        diagnoses=sentences,
        known=families.known(spec.model, spec.train),
        study_text=without_password(spec.text),
        space_text=spec.space_text or None,
        portrait=Portrait.open(folders.portrait),
    )


def facts(spec: StudySpec) -> dict[str, str]:
    """What was searched, in words."""
    budget = {
        "trials": spec.budget.trials,
        "epochs": spec.budget.total_epochs,
        "seconds": spec.budget.time,
        "epochs without a new best": spec.budget.patience,
    }
    limits = ", ".join(f"{value:g} {name}" for name, value in budget.items() if value is not None)
    return {
        "data": spec.data.source if spec.data is not None else "the trainer's own",
        "model": spec.train or spec.model,
        "budget": limits or "the whole grid",
        "early stopping": spec.early_stopping.type if spec.early_stopping else "none",
    }
