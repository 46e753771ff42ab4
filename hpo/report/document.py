"""report.html: one page about a study, or about a comparison of strategies.

How good is the best trial, what was searched, how did it go, what mattered, what failed, what to try next; every trial.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

from hpo.comparison import text as comparison_text
from hpo.comparison.compare import Comparison, best_so_far
from hpo.core import EPOCHS, Event, Goal, State, Study, Trial
from hpo.formatting import count, decimals, duration, ending, known_before, listed, read_at, written
from hpo.report import figures, findings
from hpo.report.figures import ModelFigures
from hpo.report.findings import Importances
from hpo.report.page import Content, Html, Picture, bullets, fact_list, figure, page, scrolling, section, table, tag
from hpo.space.domains import Parameter, ParameterSpec, Range
from hpo.space.space import Space

FEW = 30  # trials below which importances are a rough estimate
MOST_CURVES = 8  # learning curves in one figure
MOST_SLICES = 18
MOST_TRIALS = 8  # named one by one in a sentence
LONGER = (
    "For longer training no new study is needed: add a larger value to <code>epochs</code> in the study file and run it again; "
    "the best trial comes next, at its new length."
)


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
        shares = self.importances.shares
        return sorted(findings.searched(self.space), key=lambda parameter: -shares.get(parameter.name, 0.0))

    def document(self) -> str:
        sections = (_search_space, _history, _best_model, _importance, _outcomes, _diagnoses, _next, _trials)
        parts = [_top(self), *(part for section_of in sections if (part := section_of(self)) is not None)]
        return page(f"{self.name}: {self.strategy}", parts)

    def pictures(self) -> list[Picture]:
        """Every figure of the page, for MLflow: `picture.png()` under `picture.name`."""
        return [*self.search_pictures(), *self.model_pictures()]

    def search_pictures(self) -> list[Picture]:
        return [*_course_pictures(self), *_importance_picture(self), *_slices(self)]

    def model_pictures(self) -> list[Picture]:
        model = self.model
        if model is None and self.best is not None:
            model = ModelFigures(self.best.number)
        if model is None or not 0 <= model.trial < len(self.study):
            return []
        return figures.pictures_of(model, self.study.trials[model.trial].reports)


def comparison_document(name: str, comparison: Comparison) -> str:
    title = tag("h1", f"{name} · {listed([result.strategy for result in comparison.strategies])}")
    pairs = comparison_text.pair_rows(comparison)
    strategies = section(
        "Strategies compared",
        tag("p", f"{comparison_text.verdicts(comparison)} {comparison_text.scope(comparison)}"),
        figure(comparison_picture(comparison)),
        table(comparison_text.strategy_rows(comparison), "Strategies", "figures"),
        *([table(pairs, "Pairs of strategies")] if pairs[1] else []),
        *(tag("p", note, class_="quiet") for note in comparison.notes),
        tag("p", comparison_text.glossary(comparison), class_="quiet"),
    )
    headline = tag("p", comparison_text.ranking(comparison), class_="headline")
    return page(f"{name}: comparison", [tag("header", [title, headline]), strategies])


def comparison_picture(comparison: Comparison) -> Picture:
    label = f"Best {comparison.goal.metric} so far against epochs: median and 10 to 90 % of the seeds of each strategy"
    return Picture("comparison", label, partial(figures.compared, comparison))


def _top(report: StudyReport) -> Html:
    study, best = report.study, report.best
    parts: list[Content] = [tag("h1", f"{report.name} · {report.strategy}, seed {report.seed}")]
    parts += [tag("p", _headline(report), class_="headline")]
    if best is not None:
        names = [parameter.name for parameter in report.searched if parameter.name in best.params]
        chips = [tag("li", [tag("span", name), written(best.params[name])]) for name in names]
        parts += [tag("ul", chips, class_="point"), tag("p", _tested(report, best))]
    seconds = sum(one.seconds for training in study.trainings.values() for one in training.reports)
    reused = f" ({study.reused_epochs:,} reused)" if study.reused_epochs else ""
    numbers = {
        "Trials": f"{len(study):,}",
        "Epochs trained": f"{study.epochs:,}{reused}",
        "Training time of all workers": duration(seconds),
        "Status": ending(study.closed, report.space.enumerable) if study.closed else "running",
    }
    return tag("header", [*parts, fact_list(numbers)])


def _headline(report: StudyReport) -> Content | list[Content]:
    best, trials = report.best, len(report.study)
    if not trials:
        return "No trial has started yet."
    if best is None:
        return f"No result yet. {findings.tally(report.study.trials)}."
    value = report.goal.value(best)
    assert value is not None, best
    of = "No trial is complete; of those trained longest, the best is "
    if report.goal.counted(best):
        of = f"Best of {count(trials, 'trial')}: "
    head = f"{of}trial {best.number}, {report.goal.metric}"
    return [head, tag("b", decimals(value)), read_at(best, report.goal)]


def _tested(report: StudyReport, best: Trial) -> str:
    """The best trial's test score, and how often the test split was evaluated at all."""
    study = report.study
    if not study.scores:
        return "The test split has not been evaluated."
    times = ("once", "twice")[len(study.scores) - 1] if len(study.scores) < 3 else f"{len(study.scores)} times"
    tested = study.tested(best.number, report.goal.epoch(best))
    if not tested:
        trials = _named(sorted({score.trial for score in study.scores}))
        return f"The test split was evaluated {times}, for {trials}, but not for this trial."
    metrics = listed([f"{name} {decimals(value)}" for name, value in tested.items()])
    return f"The test split was evaluated {times}; this trial scored {metrics}."


def _search_space(report: StudyReport) -> Html:
    size, constants = report.space.size(), report.space.constants
    points = "is continuous" if size is None else f"has {count(size, 'point')}"
    words = f"The space {points}; the search varies {count(len(report.searched), 'parameter')}."
    if constants:
        words += f" Fixed: {', '.join(f'{name} {written(value)}' for name, value in constants.items())}."
    conditional = any(parameter.when for parameter in report.space.parameters)
    if before := known_before(report.study):
        words += f" The search began with what {before} have shown. {report.learned()}"
    header = ("parameter", "values", *(("active when",) if conditional else ()), "best trial")
    rows = [_parameter_row(one, report.best, conditional) for one in findings.searched(report.space)]
    known = [fact_list(report.facts)] if report.facts else []
    return section("Search space", *known, tag("p", words), table((header, rows), "Search space", "words"))


def _parameter_row(parameter: Parameter, best: Trial | None, conditional: bool) -> tuple[str, ...]:
    when = " and ".join(f"{c.name} is {listed([written(v) for v in c.allowed], 'or')}" for c in parameter.when)
    domain = parameter.domain
    scale = ", log scale" if isinstance(domain, Range) and domain.log else ""
    scale += f", {domain.count} values" if isinstance(domain, Range) and domain.count else ""
    value = best.params.get(parameter.name) if best is not None else None
    condition = (when,) if conditional else ()
    return parameter.name, f"{domain}{scale}", *condition, "" if value is None else written(value)


def _history(report: StudyReport) -> Html | None:
    figures = [figure(one, report.drawn) for one in _course_pictures(report)]
    return section("Optimization history", *figures) if figures else None


def _course_pictures(report: StudyReport) -> list[Picture]:
    goal, drawn = report.goal, []
    if points := best_so_far(report.events, goal):
        draw = partial(figures.best_so_far, points, report.study, goal)
        drawn.append(Picture("best-so-far", f"Best {goal.metric} so far against epochs trained", draw))
    shown = report.ranked[:MOST_CURVES][::-1]
    if report.best is not None and any(len(trial.reports) > 1 for trial in shown):
        label = f"{goal.metric} after each epoch of the best {count(len(shown), 'trial')}"
        draw = partial(figures.learning_curves, shown, report.best.number, goal)
        drawn.append(Picture("learning-curves", label, draw))
    return drawn


def _best_model(report: StudyReport) -> Html | None:
    drawn = report.model_pictures()
    return section("Best trial", *map(figure, drawn)) if drawn else None


def _importance(report: StudyReport) -> Html | None:
    if not report.ranked or not report.searched:
        return None
    if report.importances.reason:
        first: Html = tag("p", f"Importances are not shown: {report.importances.reason}.", class_="quiet")
    else:
        name, share = next(iter(report.importances.shares.items()))
        rough = f", a rough estimate from {count(len(report.ranked), 'trial')}" if len(report.ranked) < FEW else ""
        first = tag("p", f"{name} matters most for being among the best trials ({share * 100:.0f} %{rough}).")
    shares, slices = ([figure(one, report.drawn) for one in some(report)] for some in (_importance_picture, _slices))
    return section("Parameter importance", first, *shares, tag("div", slices, class_="grid"))


def _importance_picture(report: StudyReport) -> list[Picture]:
    shares = report.importances.shares
    drawn = Picture("importances", "Parameter importances (PED-ANOVA)", partial(figures.importances, shares))
    return [drawn] if shares else []


def _slices(report: StudyReport) -> list[Picture]:
    shown = [p for p in report.searched if any(p.name in trial.params for trial in report.ranked)][:MOST_SLICES]
    failed = [trial for trial in report.trials if trial.state is State.FAILED]
    drawn = []
    for i, parameter in enumerate(shown):
        draw = partial(figures.slice_of, parameter, report.ranked, failed, report.goal)
        drawn.append(Picture(f"slice-{i}", f"{report.goal.metric} against {parameter.name}", draw, narrow=True))
    return drawn


def _outcomes(report: StudyReport) -> Html | None:
    if not report.trials:
        return None
    errors: dict[str, list[int]] = {}
    for trial in report.study.with_state(State.FAILED):
        errors.setdefault(f"{trial.outcome}: {trial.error or 'no message'}", []).append(trial.number)
    sentences = [f"{findings.tally(report.trials)}.", *findings.in_common(report.trials, report.space)]
    items = [f"{error} ({_named(numbers)})" for error, numbers in errors.items()]
    return section("Outcomes", *(tag("p", sentence) for sentence in sentences), *_list(items, 10))


def _diagnoses(report: StudyReport) -> Html | None:
    diagnoses = {number: sentence for number, sentence in report.diagnoses.items() if sentence}
    if not diagnoses:
        return None
    scores = {trial.number: report.goal.score(trial) for trial in report.trials}
    kinds: dict[str, list[int]] = {}
    for number in sorted(diagnoses, key=lambda n: (scores.get(n, math.inf), n)):
        kinds.setdefault(diagnoses[number].partition(":")[0], []).append(number)
    items = [
        f"{kind}: {_named(numbers)}; in trial {numbers[0]}{diagnoses[numbers[0]].removeprefix(kind)}"
        for kind, numbers in sorted(kinds.items(), key=lambda item: -len(item[1]))
    ]
    words = f"From the curves and probes of {count(len(diagnoses), 'trial')}; the best trial of each kind comes first."
    return section("Diagnoses", tag("p", words), *_list(items, 12))


def _named(numbers: Sequence[int]) -> str:
    shown, rest = [str(number) for number in numbers[:MOST_TRIALS]], len(numbers) - MOST_TRIALS
    names = listed(shown) if rest <= 0 else f"{', '.join(shown)} and {rest} more"
    return f"trial{'s' if len(numbers) > 1 else ''} {names}"


def _list(items: Sequence[str], most: int) -> list[Html]:
    rest = [f"and {len(items) - most} more"] if len(items) > most else []
    return [bullets([*items[:most], *rest])] if items else []


def _next(report: StudyReport) -> Html | None:
    if report.best is None:
        return None
    if edges := findings.edges(report.trials, report.goal, report.space, report.known):
        words = "These bounds limit the search. Move them in a copy of the study file that has another name:"
        parts: list[Content] = [tag("p", words), bullets([str(edge) for edge in edges])]
    else:
        few = len(report.study.with_state(State.COMPLETE)) < findings.FEWEST
        chance = "none has more of the best trials than chance would put there"
        why = "too few complete trials to tell" if few else chance
        parts = [tag("p", f"No bound limits the search: {why}.", class_="quiet")]
    if any(p.name == EPOCHS for p in report.searched) and report.best.epochs == report.space.longest:
        parts.append(tag("p", Html(LONGER)))
    return section("What to try next", *parts)


def _trials(report: StudyReport) -> Html | None:
    if not report.trials:
        return None
    searched = findings.searched(report.space)
    heads = [tag("th", "trial", scope="col", aria_sort="ascending"), tag("th", "state", scope="col", class_="word")]
    better = "descending" if report.goal.maximize else "ascending"
    heads += [tag("th", report.goal.metric, scope="col", data_first=better)]
    heads += [tag("th", name, scope="col") for name in ("epochs trained", "seconds")]
    heads += [tag("th", p.name, scope="col", class_=_kind(p)) for p in searched]
    early = {trial.number: read_at(trial, report.goal) for trial in report.goal.ahead(report.study.trials)}
    rows = [_trial_row(trial, report, searched, early.get(trial.number, "")) for trial in report.study.trials]
    whole = tag("table", [tag("thead", tag("tr", heads)), tag("tbody", rows)], class_="sortable")
    return section("Trials", scrolling(whole, "All trials"))


def _trial_row(trial: Trial, report: StudyReport, searched: Sequence[Parameter], early: str) -> Html:
    failed, value = trial.state is State.FAILED, report.goal.value(trial)
    seconds = sum(one.seconds for one in trial.reports)
    cells = [
        tag("th", str(trial.number), scope="row"),
        tag("td", f"{trial.outcome if failed else trial.state}{early}", class_="word failed" if failed else "word"),
        _cell("" if value is None else decimals(value), value),
        _cell(str(trial.epoch), trial.epoch),
        _cell(f"{seconds:.1f}", seconds),
    ]
    for parameter in searched:
        own = trial.params.get(parameter.name)
        cells.append(_cell("" if own is None else written(own), own, _kind(parameter)))
    best = report.best is not None and trial.number == report.best.number
    return tag("tr", cells, class_="best" if best else None)


def _kind(parameter: Parameter) -> str | None:
    """Numbers stand on the right of their column, words on its left."""
    return None if findings.numeric(parameter.domain) else "word"


def _cell(text: str, value: object, class_: str | None = None) -> Html:
    """Shown rounded, sorted by what it is."""
    exact = {"data_v": repr(value)} if isinstance(value, float) and repr(value) != text else {}
    return tag("td", text, class_=class_, **exact)
