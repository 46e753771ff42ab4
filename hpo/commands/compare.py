"""`hpo compare`: strategies x seeds on the same data, one driver, shared trainings, each charged as if alone.

Every study runs one trial at a time while the studies share the workers, so that no strategy sees more than it would alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hpo.commands.compare_progress import Watch
from hpo.commands.confirm import fresh_values
from hpo.commands.run import Visit, run_all
from hpo.commands.sync import sync_these
from hpo.comparison import text as verdicts
from hpo.comparison.compare import Comparison, Said, compare
from hpo.comparison.curves import Curve, curve
from hpo.core import Event, Scored, Study, Trial, epochs_of
from hpo.engine import components as assembly
from hpo.engine.result import Result
from hpo.errors import BadInput, EnvironmentFailed, Mistake, NoResult, Stopped
from hpo.files import replace_file
from hpo.formatting import count
from hpo.journal import Journal, read_events
from hpo.publishing.publish_best import is_own_score
from hpo.report.document import comparison_document, comparison_picture
from hpo.report.drawing import save
from hpo.strategies.bayesian import STARTUP
from hpo.strategies.points import point
from hpo.strategies.random import RANDOM_X2
from hpo.study_file.rules import grid_mistakes
from hpo.study_file.spec import Budget, Compare, StudySpec
from hpo.terminal import Terminal
from hpo.training.recipe import ScoreRequest

DRAWS = 1_000  # points over which the mean length of a trial is taken, where the file counts trials
FRESH_SEEDS = 2  # each seed's winner is trained again so many times


@dataclass(frozen=True)
class Compared:
    """What a comparison came to, and where its page is."""

    comparison: Comparison
    results: Sequence[Result]
    report: Path
    fresh: bool


def compare_strategies(spec: StudySpec, visit: Visit, rescore: bool = True) -> Compared:
    """Run what is missing, then compare at equal epochs.

    Raises BadInput for what can never be compared, and Stopped: what is half done is no result.
    """
    specs = studies(spec)
    refuse(spec, specs)
    budget = total_epochs(spec)
    results = run_all(specs, replace(visit, parallel=1, publish=False, group=group_title(spec)))
    if stopped := max(result.stopped_by for result in results):
        raise Stopped(stopped)
    fresh: dict[str, dict[int, list[float]]] = {}
    if rescore:
        winning = winners(results, budget)
        score_winners(winning)
        fresh = fresh_winners(spec, winning, visit)
    every = [told(result, fresh.get(result.folders.run.name)) for result in results]
    curves, doubled = ([one for one in every if (one.strategy == RANDOM_X2) is twice] for twice in (False, True))
    said = Said(spec.data.source if spec.data else "these data", spec.training_seed or 0, spec.training_seed or 0)
    usable = [one for one in curves if one.points]
    if not usable:
        raise BadInput(Mistake(spec.place("budget"), "must leave room for one complete trial a study", "", "raise it"))
    found = compare(
        curves,
        spec.metric.as_goal(),
        margin=spec.compare.margin,
        budget=budget,
        doubled=doubled,
        said=said,
        startup=STARTUP,
    )
    found = replace(found, notes=(*found.notes, *notes(spec, results)))
    return Compared(found, results, write_report(spec, results[0], found), bool(fresh))


def studies(spec: StudySpec) -> list[StudySpec]:
    """One spec a strategy and seed, with the budget in epochs.

    Beside random stands random with twice the budget: the two share their trainings, so that it costs the second half only.
    """
    budget = total_epochs(spec)
    names = [*spec.compare.strategies, *((RANDOM_X2,) if "random" in spec.compare.strategies else ())]
    return [
        replace(
            spec,
            strategy=name,
            seed=spec.seed + offset,
            budget=Budget(total_epochs=2 * budget if name == RANDOM_X2 else budget),
        )
        for offset in range(spec.compare.seeds)
        for name in names
    ]


def total_epochs(spec: StudySpec) -> int:
    """The budget in epochs; trials of different length are no equal budget, so they count as epochs at their mean length."""
    if spec.budget.total_epochs is not None:
        return spec.budget.total_epochs
    rng = random.Random("mean length")
    length = statistics.mean(epochs_of(spec.space.sample(rng)) for _ in range(DRAWS))
    return max(1, round((spec.budget.trials or 20) * length))


def refuse(spec: StudySpec, specs: Sequence[StudySpec]) -> None:
    mistakes = [
        replace(mistake, remedy=f"{mistake.remedy}; or leave grid out: --strategies bayesian,random")
        for one in specs
        if one.strategy == "grid"
        for mistake in grid_mistakes(one)
    ]
    if len(spec.compare.strategies) < 2:
        place, rule = spec.place("compare.strategies"), "must be two or more, to compare anything"
        mistakes.append(Mistake(place, rule, spec.compare.strategies[0], "write [bayesian, random]"))
    budget = total_epochs(spec)
    longest = spec.space.longest
    if budget < longest:
        rule = f"must be at least the {longest} epochs of the longest trial, to compare anything"
        key = "total_epochs" if "budget.total_epochs" in spec.places else "trials"
        mistakes.append(Mistake(spec.place(f"budget.{key}"), rule, count(budget, "epoch"), "raise it"))
    if mistakes:
        raise BadInput(*dict.fromkeys(mistakes))


def told(result: Result, fresh: Mapping[int, Sequence[float]] | None = None) -> Curve:
    with Journal.open(result.folders.journal, read_only=True) as journal:
        events: Sequence[Event] = [event for _, event in journal.events()]
    return curve(result.spec.strategy, result.spec.seed, events, result.spec.metric.as_goal(), fresh)


def winners(results: Sequence[Result], budget: int) -> list[tuple[Result, Trial]]:
    """Each study's best trial at its budget, where a trial was complete by then."""
    found = []
    for result in results:
        own = 2 * budget if result.spec.strategy == RANDOM_X2 else budget
        if (end := told(result).at(own)) is not None:
            found.append((result, result.study.trials[end.best]))
    return found


def score_winners(winning: Sequence[tuple[Result, Trial]]) -> None:
    """Read the test split once for each winner, all in one process, and record it."""
    due = []
    for result, best in winning:
        known = any(is_own_score(scored, best) for scored in result.study.scores)
        if result.dataset is None or result.spec.train or known:
            continue
        with contextlib.suppress(NoResult):  # its checkpoint was pruned away: no test score, and no harm
            due.append((result, best, result.checkpoint(best)))
    if not due:
        return
    recipe = assembly.recipe(due[0][0].spec, due[0][0].dataset, "cpu")
    request = ScoreRequest(recipe, [(best.params, path) for _, best, path in due])
    done = subprocess.run(
        [sys.executable, "-m", "hpo.training.evaluation"],
        input=request.to_json(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        raise EnvironmentFailed(
            Mistake("the winners", "could not be scored on the test split", last, "run the same command again")
        )
    for (result, best, _), metrics in zip(due, json.loads(done.stdout), strict=True):
        with Journal.open(result.folders.journal) as journal:
            event = Scored(time.time(), best.number, metrics)
            journal.append(event)
            result.study.apply(event)


def fresh_winners(
    spec: StudySpec, winning: Sequence[tuple[Result, Trial]], visit: Visit
) -> dict[str, dict[int, list[float]]]:
    """Each winner trained again with fresh seeds, by study and trial: what its lead owes to luck."""
    if not winning:
        return {}
    values = fresh_values(spec, [best.params for _, best in winning], FRESH_SEEDS, replace(visit, listeners=()))
    found: dict[str, dict[int, list[float]]] = {}
    for result, best in winning:
        found.setdefault(result.folders.run.name, {})[best.number] = values[point(best.params)]
    return found


def notes(spec: StudySpec, results: Sequence[Result]) -> Iterator[str]:
    """Studies that an earlier `run` trained more of at a time than a comparison does; what of the budget it left out."""
    ignored = [name for name in ("time", "patience") if getattr(spec.budget, name) is not None]
    if ignored:
        yield f"budget.{' and budget.'.join(ignored)} had no say: a comparison's budget is in epochs."
    for result in results:
        study, most = Study(), 0
        for event in read_events(result.folders.journal):
            study.apply(event)
            most = max(most, len({study.trials[number].training for number in study.running}))
        if most > 1:
            who = f"{result.spec.strategy}, seed {result.spec.seed}"
            yield f"{who}: an earlier run had {most} trials at a time, so it knew less than it would have alone."


def group_title(spec: StudySpec) -> str:
    compared: Compare = spec.compare
    return f"compare {', '.join(compared.strategies)} over {compared.seeds} seeds"


def write_report(spec: StudySpec, result: Result, comparison: Comparison) -> Path:
    folder = result.folders.study / "compare"
    save([comparison_picture(comparison)], folder / "plots")
    with replace_file(folder / "report.html") as draft:
        draft.write_text(comparison_document(spec.name, comparison), encoding="utf-8")
    return folder / "report.html"


def run_comparison(
    spec: StudySpec, state: str | Path | None, rescore: bool, fresh: bool = False, as_json: bool = False
) -> None:
    """What `hpo compare` prints; of JSON the progress goes to stderr."""
    from hpo.engine import reading

    terminal = Terminal(stderr=as_json)
    place = reading.state_folder(spec, state)
    with Watch(terminal, spec) as watch:
        visit = Visit(place, fresh, listeners=[watch.hear], environ=os.environ)
        found = compare_strategies(spec, visit, rescore)
    sync_these(spec, [result.folders for result in found.results])
    if as_json:
        print(json.dumps(verdicts.as_json(found.comparison) | {"report": str(found.report)}, indent=2))
        return
    tty = terminal.is_terminal
    for part in verdicts.shown(found.comparison, terminal) if tty else verdicts.lines(found.comparison):
        terminal.print(part, highlight=False, soft_wrap=not tty, markup=False)
    trained = f"trained {watch.trained} epochs for {watch.charged} charged, this time, without the fresh seeds"
    terminal.print(trained, highlight=False, soft_wrap=True)
    terminal.print(f"report, and what the columns mean: {found.report}", highlight=False, soft_wrap=True)
