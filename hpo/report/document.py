"""report.html: what a person looks at after a study, in the order in which they ask.

How good is it, what was searched, how did it get there, what mattered, what went wrong, what to try next, and every
trial.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpo.comparison import confirm as confirmation
from hpo.comparison import text as verdicts
from hpo.core import State, Trial
from hpo.formatting import count, decimals, duration, listed, number, written
from hpo.report import bounds, findings
from hpo.report.overview import (
    Overview,
    ReportInput,
    comparison_picture,
    course_pictures,
    mattered_pictures,
    pictures,
    slices,
    winner_pictures,
)
from hpo.report.page import (
    Content,
    Html,
    bullets,
    escape,
    figure,
    join,
    page,
    paragraph,
    scrolling,
    section,
    table,
    tag,
)
from hpo.report.page import figures as figure_grid
from hpo.space.domains import Parameter

__all__ = ["ReportInput", "document", "pictures", "write"]

FEW = 30  # trials below which importances are more of a guess
ENDS = {
    "budget": "the budget was spent",
    "target": "the target was met",
    "patience": "it stopped improving",
    "exhausted": "the space was used up",
    "interrupted": "it was interrupted",
    "failing": "too many trials failed alike",
}


def write(report: ReportInput, path: Path) -> None:
    """Write, then rename: nobody opens half a page."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(document(report), encoding="utf-8")
    part.replace(path)


def document(report: ReportInput) -> str:
    """The page as text."""
    view = Overview(report)
    parts = [
        _top(view),
        _searched(view),
        _course(view),
        _winner(view),
        _mattered(view),
        _outcomes(view),
        _diagnoses(view),
        _next(view),
        _compared(report),
        _confirmed(report),
        _trials(view),
    ]
    return page(f"{report.name}: {report.strategy}", join([part for part in parts if part is not None]))


# -- the top -----------------------------------------------------------------------------------------------------


def _top(view: Overview) -> Html:
    report, study = view.report, view.study
    title = tag("h1", f"{report.name} · {report.strategy}, seed {report.seed}")
    if not report.events and report.comparison is not None:
        return tag("header", join([tag("h1", report.name), paragraph(verdicts.ranking(report.comparison), "headline")]))
    parts: list[Content] = [title, paragraph(_headline(view), "headline")]
    if view.best is not None:
        names = [parameter.name for parameter in view.searched if parameter.name in view.best.params]
        chips = [join([tag("span", name), written(view.best.params[name])]) for name in names]
        parts += [tag("ul", join([tag("li", chip) for chip in chips]), class_="point"), paragraph(_tested(view))]
    seconds = sum(r.seconds for training in study.trainings.values() for r in training.reports)
    reused = f" ({study.reused_epochs:,} reused)" if study.reused_epochs else ""
    facts = {
        "Trials": f"{len(study):,}",
        "Epochs trained": f"{study.epochs:,}{reused}",
        "Training": duration(seconds),
        "Ended because": ENDS.get(
            study.closed or "", "it is still running" if study.closed is None else str(study.closed)
        ),
    }
    return tag("header", join([*parts, _facts(facts)]))


def _facts(facts: Mapping[str, str]) -> Html:
    pairs = [tag("div", join([tag("dt", name), tag("dd", value)])) for name, value in facts.items()]
    return tag("dl", join(pairs), class_="facts")


def _headline(view: Overview) -> Html:
    metric, trials = view.goal.metric, len(view.study)
    if not trials:
        return Html("No trial has started yet.")
    if view.best is None:
        return Html(escape(f"No result yet from {findings.tally(view.study)}."))
    value = view.goal.value(view.best)
    assert value is not None, view.best
    number_ = tag("b", decimals(value))
    if view.best.state is State.COMPLETE:
        return join([f"Trial {view.best.number} of {trials} is best: {metric} ", number_, "."], between="")
    return join(
        [
            f"No trial of {trials} is complete; of the longest trained, trial {view.best.number} is best: {metric} ",
            number_,
            ".",
        ],
        between="",
    )


def _tested(view: Overview) -> str:
    """The winner's test score, and how often anybody looked at the test split."""
    assert view.best is not None
    scores = view.study.scores
    readings = (
        f"The test split was read {('once', 'twice')[len(scores) - 1] if len(scores) < 3 else f'{len(scores)} times'}"
    )
    if not scores:
        return "The test split has not been read."
    own = [
        score
        for score in scores
        if score.trial == view.best.number and any(n.startswith("test_") for n in score.metrics)
    ]
    if not own:
        trials = listed([str(n) for n in sorted({score.trial for score in scores})])
        return f"{readings}, for trial {trials}; not for this one."
    metrics = [f"{name} {decimals(value)}" for name, value in own[-1].metrics.items()]
    return f"{readings}; there it has {listed(metrics)}."


# -- what was searched -------------------------------------------------------------------------------------------


def _searched(view: Overview) -> Html | None:
    report = view.report
    if not report.events:
        return None
    constants = report.space.constants
    fixed = f"Fixed: {', '.join(f'{name} {written(value)}' for name, value in constants.items())}." if constants else ""
    size = report.space.size()
    points = "is continuous" if size is None else f"has {count(size, 'point')}"
    words = f"The space {points}, {count(len(view.searched), 'parameter')} of it searched."
    conditional = any(parameter.when for parameter in report.space.parameters)
    header = ("parameter", "values", *(("exists when",) if conditional else ()), "best trial")
    rows = [_parameter_row(report.space[name], view.best, conditional) for name in findings.searched(report.space)]
    parts: list[Content] = [paragraph(f"{words} {fixed}"), table((header, rows), "Search space", "words")]
    if report.facts:
        parts.insert(0, _facts(report.facts))
    return section("What was searched", *parts)


def _parameter_row(parameter: Parameter, best: Trial | None, conditional: bool) -> tuple[str, ...]:
    when = " and ".join(f"{c.name} is {listed([written(v) for v in c.allowed], 'or')}" for c in parameter.when)
    scale = ", log" if getattr(parameter.domain, "log", False) else ""
    value = best.params.get(parameter.name) if best is not None else None
    exists = (when,) if conditional else ()
    return parameter.name, f"{parameter.domain}{scale}", *exists, "" if value is None else written(value)


# -- how it got there --------------------------------------------------------------------------------------------


def _course(view: Overview) -> Html | None:
    drawn = course_pictures(view)
    return section("How it got there", *(figure(picture) for picture in drawn)) if drawn else None


def _winner(view: Overview) -> Html | None:
    drawn = winner_pictures(view)
    gain = findings.against_start(view.study, view.goal, view.report.start_with)
    if not drawn and not gain:
        return None
    shown = [join([tag("h3", picture.label), figure(picture)]) for picture in drawn]
    return section("The winner", *([paragraph(gain)] if gain else []), *shown)


# -- what mattered -----------------------------------------------------------------------------------------------


def _mattered(view: Overview) -> Html | None:
    if not view.valued or not view.searched:
        return None
    parts: list[Content] = []
    if view.importances.reason:
        parts.append(paragraph(f"Importances are not shown: {view.importances.reason}.", "quiet"))
    else:
        first, share = next(iter(view.importances.shares.items()))
        said = f"{first} decides most about whether a trial is among the best ({share * 100:.0f} %)"
        said += f", as far as {count(len(view.valued), 'trial')} can tell." if len(view.valued) < FEW else "."
        parts.append(paragraph(said))
    parts += [figure(picture) for picture in mattered_pictures(view)]
    parts.append(figure_grid(slices(view)))
    return section("What mattered", *parts)


# -- what went wrong, what next ----------------------------------------------------------------------------------


def _outcomes(view: Overview) -> Html | None:
    if not view.study.trials:
        return None
    errors: dict[str, list[int]] = {}
    for trial in view.study.with_state(State.FAILED):
        errors.setdefault(f"{trial.outcome.value}: {trial.error or 'no message'}", []).append(trial.number)
    said = [f"{error} ({_trials_named(numbers)})" for error, numbers in errors.items()]
    common = findings.in_common(view.study, view.report.space)
    first = findings.tally(view.study)
    return section("Outcomes", paragraph(f"{first}."), *(paragraph(text) for text in common), *_list(said, 10))


def _diagnoses(view: Overview) -> Html | None:
    diagnoses = {trial: sentence for trial, sentence in view.report.diagnoses.items() if sentence}
    if not diagnoses:
        return None
    scores = {trial.number: view.goal.score(trial) for trial in view.study.trials}
    ranked = sorted(diagnoses, key=lambda n: (scores.get(n, (math.inf,)), n))
    kinds: dict[str, list[int]] = {}
    for trial in ranked:
        kinds.setdefault(diagnoses[trial].partition(":")[0], []).append(trial)
    said = [
        f"{kind}: {_trials_named(numbers)}; in trial {numbers[0]}{diagnoses[numbers[0]].removeprefix(kind)}"
        for kind, numbers in sorted(kinds.items(), key=lambda item: -len(item[1]))
    ]
    text = f"What the curves and probes of {count(len(diagnoses), 'trial')} show; the best trial of each kind first."
    return section("Diagnoses", paragraph(text), *_list(said, 12))


def _trials_named(numbers: Sequence[int]) -> str:
    return f"trial{'s' if len(numbers) > 1 else ''} {_some(numbers)}"


def _some(numbers: Sequence[int], most: int = 8) -> str:
    shown = [str(n) for n in numbers[:most]]
    return listed(shown) if len(numbers) <= most else f"{', '.join(shown)} and {len(numbers) - most} more"


def _list(items: Sequence[str], most: int) -> list[Html]:
    if not items:
        return []
    rest = [f"and {len(items) - most} more"] if len(items) > most else []
    return [bullets([*items[:most], *rest])]


def _next(view: Overview) -> Html | None:
    if view.best is None:
        return None
    if not view.hits:
        few = len(view.study.with_state(State.COMPLETE)) < findings.FEWEST
        why = "too few complete trials to tell" if few else "the best trials sit at no edge of the space"
        edges = bounds.edges(view.study, view.goal, view.report.space)
        if not edges:
            return section("What to try next", paragraph(f"No bound was hit: {why}.", "quiet"))
        told = "No bound was hit beyond chance. The best trial sits at an edge of these, in brackets how many of the best do:"
        return section("What to try next", paragraph(told), bullets([str(edge) for edge in edges]))
    parts: list[Content] = [bullets([hit.sentence for hit in view.hits])]
    if view.report.study_text:
        text = bounds.next_study(view.report.study_text, view.hits, view.report.space_text)
        parts += [paragraph(Html("The same study with these bounds moved, ready as <code>study-next.yaml</code>:"))]
        parts += [tag("pre", text, tabindex="0")]
    return section("What to try next", *parts)


# -- comparison, confirmation ------------------------------------------------------------------------------------


def _compared(report: ReportInput) -> Html | None:
    if report.comparison is None:
        return None
    found = report.comparison
    return section(
        "Strategies compared",
        paragraph(verdicts.sentence(found)),
        figure(comparison_picture(found)),
        table(verdicts.strategy_rows(found), "Strategies", "figures"),
        *([table(rows, "Pairs of strategies")] if (rows := verdicts.pair_rows(found))[1] else []),
        *(paragraph(note, "quiet") for note in found.notes),
        paragraph(verdicts.glossary(found), "quiet"),
    )


def _confirmed(report: ReportInput) -> Html | None:
    if report.confirmation is None:
        return None
    *rows, last = confirmation.lines(report.confirmation)
    return section("The finalists, trained again", paragraph(last), bullets(rows))


# -- every trial -------------------------------------------------------------------------------------------------


def _trials(view: Overview) -> Html | None:
    if not view.study.trials:
        return None
    names = findings.searched(view.report.space)
    better = "descending" if view.goal.maximize else "ascending"
    heads = [tag("th", "trial", scope="col", aria_sort="ascending"), tag("th", "state", scope="col", class_="word")]
    heads += [tag("th", view.goal.metric, scope="col", data_first=better)]
    heads += [tag("th", name, scope="col") for name in ("epochs", "seconds", *names)]
    rows = [_trial_row(trial, view, names) for trial in view.study.trials]
    whole = join([tag("thead", tag("tr", join(heads))), tag("tbody", join(rows))])
    return section("Trials", scrolling(tag("table", whole, class_="sortable"), "All trials"))


def _trial_row(trial: Trial, view: Overview, names: Sequence[str]) -> Html:
    state = trial.state.value if trial.state is not State.FAILED else trial.outcome.value
    value = view.goal.value(trial)
    seconds = sum(report.seconds for report in trial.reports)
    cells = [
        tag("th", str(trial.number), scope="row"),
        tag("td", state, class_="word failed" if trial.state is State.FAILED else "word"),
        _cell("" if value is None else decimals(value), value),
        _cell(str(trial.epoch), trial.epoch),
        _cell(number(seconds, 3), seconds),
        *(_cell(written(trial.params[n]), trial.params[n]) if n in trial.params else tag("td", "") for n in names),
    ]
    best = view.best is not None and trial.number == view.best.number
    return tag("tr", join(cells), class_="best") if best else tag("tr", join(cells))


def _cell(text: str, value: object) -> Html:
    """Shown rounded, sorted by what it is."""
    exact = isinstance(value, float) and repr(value) != text
    return tag("td", text, data_v=repr(value)) if exact else tag("td", text)
