"""A finished study read once for everything that is drawn or said of it, and the list of its figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from hpo.comparison.compare import Comparison
from hpo.comparison.confirm import Confirmation
from hpo.comparison.curves import best_so_far, spent_at_end
from hpo.core import Event, Goal, Params, State, Study, Trial
from hpo.formatting import count
from hpo.report import bounds, figures, findings
from hpo.report import model_figures as portrait
from hpo.report.drawing import Picture
from hpo.report.figures import Reading
from hpo.space.domains import Known
from hpo.space.space import Space
from hpo.training.portrait import Portrait

MOST_CURVES = 8  # learning curves side by side
MOST_AXES = 9  # parallel coordinates
MOST_SLICES = 18


@dataclass(frozen=True)
class ReportInput:
    """Everything a report shows.

    events: the whole journal; facts: further lines of what was searched (data, model, budget); diagnoses: a sentence a
    trial; known: what parameters may mean, so that no bound is widened beyond; study_text, space_text: the files, for
    study-next.yaml. Without events only the comparison is shown.
    """

    name: str
    strategy: str
    seed: int
    goal: Goal
    space: Space
    events: Sequence[Event]
    facts: Mapping[str, str] = field(default_factory=dict)
    start_with: Sequence[Params] = ()
    diagnoses: Mapping[int, str] = field(default_factory=dict)
    known: Mapping[str, Known] = field(default_factory=dict)
    study_text: str = ""
    space_text: str | None = None
    portrait: Portrait | None = None
    comparison: Comparison | None = None
    confirmation: Confirmation | None = None


def pictures(report: ReportInput) -> list[Picture]:
    """Every figure of the page, for MLflow: `picture.png()` under `picture.name`."""
    view = Overview(report)
    compared = [comparison_picture(report.comparison)] if report.comparison else []
    return [*course_pictures(view), *winner_pictures(view), *mattered_pictures(view), *slices(view), *compared]


class Overview:
    """What several sections need, worked out once."""

    def __init__(self, report: ReportInput) -> None:
        self.report = report
        self.goal = report.goal
        self.study = Study(report.events)
        self.best = self.goal.best(self.study.trials)
        self.points = best_so_far(report.events, self.goal)
        spent = spent_at_end(report.events)
        self.readings = [self._reading(trial, spent) for trial in self.study.trials]
        self.importances = findings.importances(self.study, self.goal, report.space)
        searched = findings.searched(report.space)
        shares = self.importances.shares
        self.searched = [report.space[name] for name in sorted(searched, key=lambda name: -shares.get(name, 0.0))]
        self.hits = bounds.hits(self.study, self.goal, report.space, report.known)

    def _reading(self, trial: Trial, spent: Mapping[int, int]) -> Reading:
        """Values that the space no longer has (the file may have changed) are left out."""
        space, value = self.report.space, self.goal.value(trial)
        params = {n: v for n, v in trial.params.items() if n in space and space[n].domain.coerce(v) is not None}
        return Reading(
            trial=trial.number,
            params=params,
            value=math.nan if value is None else value,
            complete=trial.state is State.COMPLETE,
            failed=trial.state is State.FAILED,
            epochs=spent.get(trial.number, math.nan),
        )

    @property
    def valued(self) -> list[Reading]:
        return [r for r in self.readings if math.isfinite(r.value) and not r.failed]


def course_pictures(view: Overview) -> list[Picture]:
    goal, found = view.goal, []
    if view.points:
        draw = partial(figures.best_so_far, view.points, view.readings, goal)
        found.append(Picture("best-so-far", f"Best {goal.metric} so far against epochs trained", draw))
    ranked = sorted(view.valued, key=lambda r: (not r.complete, -r.value if goal.maximize else r.value, r.trial))
    curves = {}
    for reading in ranked[:MOST_CURVES][::-1]:
        reports = view.study.trials[reading.trial].reports
        curves[reading.trial] = [report.metrics.get(goal.metric, math.nan) for report in reports]
    if view.best is not None and any(len(values) > 1 for values in curves.values()):
        label = f"{goal.metric} after each epoch of the best {count(len(curves), 'trial')}"
        draw = partial(figures.learning_curves, curves, view.best.number, goal)
        found.append(Picture("learning-curves", label, draw))
    return found


def winner_pictures(view: Overview) -> list[Picture]:
    seen = view.report.portrait
    if seen is None and view.best is not None:
        seen = Portrait(view.best.number)
    if seen is None or not 0 <= seen.trial < len(view.study):
        return []
    return portrait.pictures(seen, view.study.trials[seen.trial].reports)


def mattered_pictures(view: Overview) -> list[Picture]:
    found = []
    if view.importances.shares:
        draw = partial(figures.importances, view.importances.shares)
        found.append(Picture("importances", "Parameter importances", draw))
    if len(view.valued) > 1 and len(view.searched) > 1:
        lines = partial(figures.parallel, view.valued, view.searched[:MOST_AXES], view.goal)
        left = len(view.searched) - MOST_AXES
        most = f"the {MOST_AXES} most important of {len(view.searched)} parameters" if left > 0 else "parameters"
        label = f"Parallel coordinates: {most} of every trial and its {view.goal.metric}"
        found.append(Picture("parallel-coordinates", label, lines))
    return found


def slices(view: Overview) -> list[Picture]:
    shown = [p for p in view.searched if any(p.name in r.params for r in view.valued)][:MOST_SLICES]
    return [
        Picture(
            f"slice-{i}",
            f"{view.goal.metric} against {p.name}",
            partial(figures.slice_of, p, view.readings, view.goal),
            True,
        )
        for i, p in enumerate(shown)
    ]


def comparison_picture(found: Comparison) -> Picture:
    label = f"Best {found.goal.metric} so far against epochs: median and 10 to 90 % of the seeds, a strategy a line"
    return Picture("comparison", label, partial(figures.compared, found))
