"""report.html: one page about a study, or about a comparison of strategies.

How good is the best trial, what was searched, how did it go, what mattered, what failed, what to try next; every trial.
What they say is worked out here, study.html and comparison.html show it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

from markupsafe import Markup

from hpo.comparison import text as comparison_text
from hpo.comparison.compare import Comparison, best_so_far
from hpo.comparison.text import Rows
from hpo.core import Event, Goal, State, Study, Trial
from hpo.formatting import count, decimals, duration, ending, known_before, listed, read_at, written
from hpo.report import figures, findings
from hpo.report.figures import ModelFigures
from hpo.report.findings import Edge, Importances
from hpo.report.page import Picture, page
from hpo.space.domains import Parameter, ParameterSpec, Range
from hpo.space.space import Space

FEW = 30  # trials below which importances are a rough estimate
MOST_CURVES = 8  # learning curves in one figure
MOST_SLICES = 18
MOST_TRIALS = 8  # named one by one in a sentence


@dataclass(frozen=True)
class StudyReport:
    """What the report of a study is made from, and what several parts of it need.

    events: the whole journal; facts: data, model, budget and the like; diagnoses: a sentence a trial; known: what
    parameters may mean, so that no bound is widened beyond; drawn: pictures that are drawn already, as SVG by name; learned:
    what the search has learned of its prior.
    """

    name: str
    strategy: str
    seed: int
    goal: Goal
    space: Space
    events: Sequence[Event]
    facts: Mapping[str, str] = field(default_factory=dict)
    diagnoses: Mapping[int, str] = field(default_factory=dict)
    known: Mapping[str, ParameterSpec] = field(default_factory=dict)
    model: ModelFigures | None = None
    drawn: Mapping[str, str] = field(default_factory=dict)
    learned: Callable[[], str] = field(default=str, repr=False)  # it knows the study file, which may hold a password

    @cached_property
    def study(self) -> Study:
        return Study(self.events)

    @cached_property
    def best(self) -> Trial | None:
        return self.goal.best(self.study.trials)

    @cached_property
    def trials(self) -> list[Trial]:
        """The trials as points of the space as it is now."""
        return findings.within(self.study, self.space)

    @cached_property
    def ranked(self) -> list[Trial]:
        return self.goal.ranked(self.trials)

    @cached_property
    def importances(self) -> Importances:
        return findings.importances(self.trials, self.goal, self.space)

    @cached_property
    def searched(self) -> list[Parameter]:
        """The parameters that are not constant, most important first."""
        return self.by_importance(findings.searched(self.space))

    def by_importance(self, parameters: Sequence[Parameter]) -> list[Parameter]:
        return sorted(parameters, key=lambda parameter: -self.importances.shares.get(parameter.name, 0.0))

    @cached_property
    def varied(self) -> list[Parameter]:
        """Those that are not constant, and those that are now but have another value in some trial."""
        fixed, trials = self.space.constants, self.study.trials
        other = {name for one in trials for name, value in one.params.items() if fixed.get(name, value) != value}
        return [one for one in self.space.parameters if one.domain.levels != 1 or one.name in other]

    def document(self) -> str:
        return page("study.html", title=f"{self.name}: {self.strategy}", report=self, findings=findings)

    def pictures(self) -> list[Picture]:
        """Every figure of the page, for MLflow: `picture.png()` under `picture.name`."""
        return [*self.search_pictures, *self.model_pictures]

    @property
    def search_pictures(self) -> list[Picture]:
        return [*self.course_pictures, *self.importance_pictures, *self.slices]

    # -- the top

    @property
    def headline(self) -> str:
        best, trials = self.best, len(self.study)
        if not trials:
            return "No trial has started yet."
        if best is None:
            return f"No result yet. {findings.tally(self.study.trials)}."
        value = self.goal.value(best)
        assert value is not None, best
        of = "No trial is complete; of those trained longest, the best is "
        if self.goal.counted(best):
            of = f"Best of {count(trials, 'trial')}: "
        head = f"{of}trial {best.number}, {self.goal.metric}"
        return Markup("{} <b>{}</b>{}").format(head, decimals(value), read_at(best, self.goal))

    @property
    def tested(self) -> str:
        """The best trial's test score, and how often the test split was evaluated at all."""
        scores, best = self.study.scores, self.best
        if not scores or best is None:
            return "The test split has not been evaluated."
        times = ("once", "twice")[len(scores) - 1] if len(scores) < 3 else f"{len(scores)} times"
        tested = self.study.tested(best.number, self.goal.epoch(best))
        if not tested:
            trials = _named(sorted({score.trial for score in scores}))
            return f"The test split was evaluated {times}, for {trials}, but not for this trial."
        metrics = listed([f"{name} {decimals(value)}" for name, value in tested.items()])
        return f"The test split was evaluated {times}; this trial scored {metrics}."

    @property
    def numbers(self) -> dict[str, str]:
        study = self.study
        seconds = sum(one.seconds for training in study.trainings.values() for one in training.reports)
        reused = f" ({study.reused_epochs:,} reused)" if study.reused_epochs else ""
        return {
            "Trials": f"{len(study):,}",
            "Epochs trained": f"{study.epochs:,}{reused}",
            "Training time of all workers": duration(seconds),
            "Status": ending(study.closed, self.space.enumerable) if study.closed else "running",
        }

    # -- the search space

    @property
    def about_space(self) -> str:
        size, constants = self.space.size(), self.space.constants
        points = "is continuous" if size is None else f"has {count(size, 'point')}"
        words = f"The space {points}; the search varies {count(len(self.searched), 'parameter')}."
        if constants:
            words += f" Fixed: {', '.join(f'{name} {written(value)}' for name, value in constants.items())}."
        if before := known_before(self.study):
            words += f" The search began with what {before} have shown. {self.learned()}"
        return words

    @property
    def space_rows(self) -> Rows:
        conditional = any(parameter.when for parameter in self.space.parameters)
        header = ("parameter", "values", *(("active when",) if conditional else ()), "best trial")
        return header, [_parameter_row(one, self.best, conditional) for one in self.varied]

    # -- how it went

    @cached_property
    def course_pictures(self) -> list[Picture]:
        goal, drawn = self.goal, []
        if points := best_so_far(self.events, goal):
            draw = partial(figures.best_so_far, points, self.study, goal)
            drawn.append(Picture("best-so-far", f"Best {goal.metric} so far against epochs trained", draw))
        shown = self.ranked[:MOST_CURVES][::-1]
        if self.best is not None and any(len(trial.reports) > 1 for trial in shown):
            label = f"{goal.metric} after each epoch of the best {count(len(shown), 'trial').removeprefix('1 ')}"
            draw = partial(figures.learning_curves, shown, self.best.number, goal)
            drawn.append(Picture("learning-curves", label, draw))
        return drawn

    @cached_property
    def model_pictures(self) -> list[Picture]:
        model = self.model
        if model is None and self.best is not None:
            model = ModelFigures(self.best.number)
        if model is None or not 0 <= model.trial < len(self.study):
            return []
        return figures.pictures_of(model, self.study.trials[model.trial].reports)

    @property
    def about_importances(self) -> str:
        if self.importances.reason:
            return f"Importances are not shown: {self.importances.reason}."
        name, share = next(iter(self.importances.shares.items()))
        rough = f", a rough estimate from {count(len(self.ranked), 'trial')}" if len(self.ranked) < FEW else ""
        return f"{name} matters most for being among the best trials ({share * 100:.0f} %{rough})."

    @property
    def importance_pictures(self) -> list[Picture]:
        shares = self.importances.shares
        drawn = Picture("importances", "Parameter importances (PED-ANOVA)", partial(figures.importances, shares))
        return [drawn] if shares else []

    @property
    def slices(self) -> list[Picture]:
        shown = [p for p in self.searched if any(p.name in trial.params for trial in self.ranked)][:MOST_SLICES]
        failed = [trial for trial in self.trials if trial.state is State.FAILED]
        drawn = []
        for i, parameter in enumerate(shown):
            draw = partial(figures.slice_of, parameter, self.ranked, failed, self.goal)
            drawn.append(Picture(f"slice-{i}", f"{self.goal.metric} against {parameter.name}", draw, narrow=True))
        return drawn

    @property
    def errors(self) -> list[str]:
        errors: dict[str, list[int]] = {}
        for trial in self.study.with_state(State.FAILED):
            errors.setdefault(f"{trial.outcome}: {trial.error or 'no message'}", []).append(trial.number)
        return _first([f"{error} ({_named(numbers)})" for error, numbers in errors.items()], 10)

    @property
    def kinds(self) -> list[str]:
        """Of diagnoses, each with what is said of its best trial."""
        scores = {trial.number: self.goal.score(trial) for trial in self.trials}
        kinds: dict[str, list[int]] = {}
        for number in sorted(self.diagnoses, key=lambda n: (scores.get(n, math.inf), n)):
            if sentence := self.diagnoses[number]:
                kinds.setdefault(sentence.partition(":")[0], []).append(number)
        items = [
            f"{kind}: {_named(numbers)}; in trial {numbers[0]}{self.diagnoses[numbers[0]].removeprefix(kind)}"
            for kind, numbers in sorted(kinds.items(), key=lambda item: -len(item[1]))
        ]
        return _first(items, 12)

    # -- what next, and every trial

    @cached_property
    def edges(self) -> list[Edge]:
        return findings.edges(self.trials, self.goal, self.space, self.known)

    @cached_property
    def early(self) -> dict[int, str]:
        """Of the trials that are better than the best but do not count: from when on they would."""
        return {trial.number: read_at(trial, self.goal) for trial in self.goal.ahead(self.study.trials)}


def comparison_document(name: str, comparison: Comparison) -> str:
    about = {"text": comparison_text, "picture": comparison_picture(comparison)}
    return page("comparison.html", title=f"{name}: comparison", name=name, comparison=comparison, **about)


def comparison_picture(comparison: Comparison) -> Picture:
    label = f"Best {comparison.goal.metric} so far against epochs: median and 10 to 90 % of the seeds of each strategy"
    return Picture("comparison", label, partial(figures.compared, comparison))


def _parameter_row(parameter: Parameter, best: Trial | None, conditional: bool) -> tuple[str, ...]:
    when = " and ".join(f"{c.name} is {listed([written(v) for v in c.allowed], 'or')}" for c in parameter.when)
    domain = parameter.domain
    scale = ", log scale" if isinstance(domain, Range) and domain.log else ""
    scale += f", {domain.count} values" if isinstance(domain, Range) and domain.count else ""
    value = best.params.get(parameter.name) if best is not None else None
    condition = (when,) if conditional else ()
    return parameter.name, f"{domain}{scale}", *condition, "" if value is None else written(value)


def _named(numbers: Sequence[int]) -> str:
    shown, rest = [str(number) for number in numbers[:MOST_TRIALS]], len(numbers) - MOST_TRIALS
    names = listed(shown) if rest <= 0 else f"{', '.join(shown)} and {rest} more"
    return f"trial{'s' if len(numbers) > 1 else ''} {names}"


def _first(items: Sequence[str], most: int) -> list[str]:
    rest = [f"and {len(items) - most} more"] if len(items) > most else []
    return [*items[:most], *rest]
