"""`hpo compare`: what is trained to compare strategies, or two study files.

Strategies x seeds on the same data by one driver, sharing trainings, each charged as if alone.

Each study runs one trial at a time while the studies share the workers, so that no strategy knows more than it would alone.
"""

from __future__ import annotations

import json
import logging
import pickle
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.commands.confirm import Finalists, as_read, fresh_values
from hpo.commands.reproduce import stored
from hpo.commands.run import RunOptions, run_all
from hpo.commands.sync import sync_these
from hpo.comparison.compare import RANKING, Comparison, Curve, Repetition, TrialEpoch, compare, curve
from hpo.comparison.text import lines, sentence
from hpo.core import BestSoFar, Event, Reason, Reported, Scored, Study, Trial
from hpo.data.dataset import load_dataset
from hpo.engine import components
from hpo.engine.opening import epochs_to_count, total_epochs
from hpo.engine.result import Result
from hpo.errors import BadInput, EnvironmentFailed, HpoError, Mistake, Stopped
from hpo.files import replace_file
from hpo.formatting import count, listed
from hpo.journal import Journal, read_events
from hpo.report.document import comparison_document, comparison_picture
from hpo.report.page import save
from hpo.strategies import prior as learned_prior
from hpo.strategies.points import RANDOM_X2, WITH_ASHA, frozen
from hpo.study_file.rules import grid_mistakes
from hpo.study_file.spec import Budget, StudySpec

if TYPE_CHECKING:
    import pandas as pd

FRESH_SEEDS = 2  # each study's best trial is trained again so many times
DELIVERY_SECONDS = 15.0  # MLflow has to take the report before the comparison is shown

log = logging.getLogger(__name__)

Best = tuple[Result, Trial]  # a study and its best trial, as that was at the budget


@dataclass(frozen=True, repr=False)
class Compared:
    """A comparison, its studies, and where its page is. `verdict` says who is better, `strategies` is a DataFrame."""

    comparison: Comparison
    results: Sequence[Result]
    report: Path

    def __repr__(self) -> str:
        return "\n".join(lines(self.comparison))

    @property
    def verdict(self) -> str:
        return sentence(self.comparison)

    @property
    def strategies(self) -> pd.DataFrame:
        """One row a strategy, those beside the ranking last; its columns are StrategyResult's fields."""
        import pandas as pd  # takes 0.4 s

        return pd.DataFrame([asdict(one) for one in self.comparison.results])


def compare_and_deliver(spec: StudySpec, other: StudySpec | None, options: RunOptions, rescore: bool) -> Compared:
    """The strategies of a study, or two studies; MLflow gets the report. An outage costs a warning, not the comparison."""
    if other is None:
        compared = compare_strategies(spec, options, rescore)
    else:
        compared = compare_studies(spec, other, options, rescore)
    patience = 0.0 if compared.results[0].undelivered else DELIVERY_SECONDS  # it has been waited for already
    try:
        sync_these(spec, [result.folders for result in compared.results], patience, title(spec, other))
    except HpoError as error:
        log.warning("%s", error)
    return compared


def compare_strategies(spec: StudySpec, options: RunOptions, rescore: bool = True) -> Compared:
    """Run what is missing, then compare. rescore: test score and fresh seeds too. Raises BadInput, Stopped."""
    specs, budget = studies(spec), total_epochs(spec)
    refuse_unfair(spec, specs)
    results, curves = trained(specs, replace(options, group=title(spec)), budget, rescore)
    comparison = compare(
        [one for one in curves if one.strategy in spec.compare.strategies],
        spec.goal,
        budget,
        spec.compare.margin,
        doubled=[one for one in curves if one.strategy == RANDOM_X2],
        scope=scope(spec, results) + ran_with([one for one in specs if one.strategy != RANDOM_X2]),
        rivals=[one for one in curves if one.strategy not in (*spec.compare.strategies, RANDOM_X2)],
    )
    comparison = replace(comparison, notes=(*comparison.notes, *notes(spec, results)))
    return Compared(comparison, results, write_report(spec, results[0], comparison))


def compare_studies(spec: StudySpec, other: StudySpec, options: RunOptions, rescore: bool = True) -> Compared:
    """Two study files, each by its own strategy, seed by seed on one split. Raises BadInput and Stopped."""
    budget, sides = total_epochs(spec), (spec, replace(other, seed=spec.seed, training_seed=spec.training_seed))
    refuse_unpaired(*sides)
    refuse_unfair(replace(spec, compare=replace(spec.compare, strategies=tuple(side.name for side in sides))), sides)
    options = replace(options, group=title(spec, other))
    results: list[Sequence[Result]] = []
    curves: list[Curve] = []
    for side in sides:
        specs = [seeded(side, side.strategy, offset, budget) for offset in range(spec.compare.seeds)]
        own, drawn = trained(specs, options, budget, rescore)
        results.append(own)
        label = f"study {side.name}" if side.name in RANKING else side.name  # which is no strategy
        curves += [replace(one, strategy=label) for one in drawn]
    comparison = compare(curves, spec.goal, budget, spec.compare.margin, scope=scope(spec, results[0]))
    said = [f"{side.name}: {ran_with([side]).removeprefix('; ') or side.strategy}." for side in sides]
    said += [note for side, own in zip(sides, results, strict=True) for note in notes(side, own)]
    comparison = replace(comparison, notes=(*comparison.notes, *said))
    return Compared(comparison, results[0], write_report(spec, results[0][0], comparison))


def refuse_unpaired(spec: StudySpec, other: StudySpec) -> None:
    """Only studies of the same images, in the same splits, by the same metric can be paired. Raises BadInput."""
    mistakes, first = [], spec.path or spec.name
    if spec.name == other.name:
        rule = f"must not be that of {first} too"
        mistakes.append(Mistake(other.place("name"), rule, other.name, "give one of them another"))
    ours, theirs = (f"{metric.name}, {metric.goal}, at {metric.at}" for metric in (spec.metric, other.metric))
    if ours != theirs:
        rule = f"must be that of {first} ({ours})"
        mistakes.append(Mistake(other.place("metric"), rule, theirs, "make them the same"))
    data = [load_dataset(one.data, one.base_seed) if one.data is not None else None for one in (spec, other)]
    if None in data or len({one.digest for one in data if one is not None}) > 1:
        said = [one.counted if one is not None else "the trainer's own" for one in data]
        rule = f"must be those of {first} ({said[0]}), in the same splits"
        mistakes.append(Mistake(other.place("data"), rule, said[1], "name the same in both"))
    if mistakes:
        raise BadInput(*mistakes)


def trained(
    specs: Sequence[StudySpec], options: RunOptions, budget: int, rescore: bool
) -> tuple[Sequence[Result], list[Curve]]:
    """Studies brought to their ends, and the learning curve of each, with the scores of its best trial. Raises Stopped."""
    results = run_all(specs, replace(options, max_running=1, publish=False))
    if stopped := max(result.stopped_by for result in results):
        raise Stopped(stopped)
    fresh: dict[str, dict[TrialEpoch, list[Repetition]]] = {}
    if rescore:
        best = best_trials(results, budget)
        for result, trial in best:
            result.refuse_other_code(trial)
        score_on_test(best)
        fresh = fresh_scores(best, options)
    return results, [read_curve(result, fresh.get(result.folders.run.name)) for result in results]


def scope(spec: StudySpec, results: Sequence[Result]) -> str:
    """What the verdicts are valid for: which luck is averaged out over the seeds, and which is still in."""
    data = spec.data.source if spec.data else "these data"
    seeds = sorted({result.spec.base_seed for result in results})
    if len(seeds) == 1:
        return f"{data}, split seed {seeds[0]} and training seed {seeds[0]}; other splits and seeds may say otherwise"
    over = f"{data} over seeds {seeds[0]} to {seeds[-1]}, each with its own"
    splits = {result.dataset.val.tobytes() for result in results if result.dataset is not None}
    if len(splits) > 1:
        return f"{over} split and training seed"
    luck = "; all share the validation split of the data, so its luck is still in" if splits else ""
    return f"{over} training seed{luck}"


def ran_with(specs: Sequence[StudySpec]) -> str:
    """The prior and early stopping of each: "; bayesian with built-in prior and predictive early stopping; random with asha"."""
    names: dict[str, dict[str, None]] = {}
    for one in specs:
        prior = not learned_prior.unknown(one)
        what = ["built-in prior"] if prior and one.strategy == "bayesian" else []
        if one.early_stopping:
            words = {"predictive": "predictive early stopping" if prior else "asha"}
            what.append(words.get(one.early_stopping.type, one.early_stopping.type))
            what += ["patience"] if one.early_stopping.patience else []
        names.setdefault(listed(what), {})[shown(one)] = None
    return "".join(f"; {listed([*who])} with {what}" for what, who in names.items() if what)


def title(spec: StudySpec, other: StudySpec | None = None) -> str:
    """Of the comparison's run in MLflow."""
    names = spec.compare.strategies if other is None else (spec.name, other.name)
    return f"compare {', '.join(names)} over {count(spec.compare.seeds, 'seed')}"


def beginning(spec: StudySpec, other: StudySpec | None) -> str:
    """What is about to be compared, and what runs besides."""
    beside = {shown(one) for one in studies(spec)} - {*spec.compare.strategies} if other is None else ()
    besides = f"; beside them {listed(sorted(beside))}, which --strategies leaves out" if beside else ""
    return f"{spec.name}: {title(spec, other)}, {count(total_epochs(spec), 'epoch')} each{besides}"


def epochs_in_all(spec: StudySpec, other: StudySpec | None) -> int:
    """What all studies of a comparison may train."""
    if other is not None:
        return 2 * spec.compare.seeds * total_epochs(spec)
    return sum(one.budget.total_epochs or 0 for one in studies(spec))


def studies(spec: StudySpec) -> list[StudySpec]:
    """One spec a strategy and seed, with the budget in epochs; a target ends none of them, it is what "epochs to" counts.

    Where none is named, random with twice the budget stands beside random, whose trainings are its first half, and beside
    bayesian with a prior Optuna's TPE, which it is without. Where bayesian is predictive, the others have asha, and are
    studies of their own.
    """
    budget, names, prior = total_epochs(spec), [*spec.compare.strategies], not learned_prior.unknown(spec)
    named = "compare.strategies" in spec.places
    names += ["tpe"] if prior and not named else []
    if prior and spec.early_stopping and spec.early_stopping.type == "predictive":
        names = [WITH_ASHA.get(name, name) for name in names]
    names += [] if named else [RANDOM_X2]
    return [
        seeded(spec, name, offset, 2 * budget if name == RANDOM_X2 else budget)
        for offset in range(spec.compare.seeds)
        for name in names
    ]


def seeded(spec: StudySpec, strategy: str, offset: int, budget: int) -> StudySpec:
    """One study of a comparison: so many seeds after the file's, its budget in epochs, no target and no earlier studies."""
    return replace(
        spec,
        strategy=strategy,
        seed=spec.seed + offset,
        warm_start="builtin" if spec.warm_start == "studies" else spec.warm_start,
        metric=replace(spec.metric, target=None),
        budget=Budget(total_epochs=budget),
    )


def shown(spec: StudySpec) -> str:
    """The strategy's name in a comparison, whatever stops its trials."""
    return spec.strategy.removesuffix("-asha")


def refuse_unfair(spec: StudySpec, specs: Sequence[StudySpec]) -> None:
    mistakes = [
        replace(mistake, remedy=f"{mistake.remedy}; or leave grid out: --strategies bayesian,random")
        for one in specs
        if shown(one) == "grid"
        for mistake in grid_mistakes(one)
    ]
    if len(spec.compare.strategies) < 2:
        place, rule = spec.place("compare.strategies"), "must be two or more, to compare anything"
        mistakes.append(Mistake(place, rule, spec.compare.strategies[0], "write [bayesian, random]"))
    budget = total_epochs(spec)
    least = max((one.space.longest, "of the longest trial") for one in specs)
    least = max(least, *((epochs_to_count(one, luck=True), "until early stopping lets one count") for one in specs))
    if budget < least[0]:
        rule = f"must be at least the {least[0]} epochs {least[1]}, to compare anything"
        key = "total_epochs" if "budget.total_epochs" in spec.places else "trials"
        mistakes.append(Mistake(spec.place(f"budget.{key}"), rule, count(budget, "epoch"), "raise it"))
    if mistakes:
        raise BadInput(*dict.fromkeys(mistakes))


def read_curve(result: Result, fresh: Mapping[TrialEpoch, Sequence[Repetition]] | None = None) -> Curve:
    return curve(shown(result.spec), result.spec.seed, read_events(result.folders.journal), result.spec.goal, fresh)


def best_trials(results: Sequence[Result], budget: int) -> list[Best]:
    """Each study's best trial at its budget, where an epoch counted by then."""
    best = []
    for result in results:
        own = 2 * budget if result.spec.strategy == RANDOM_X2 else budget
        trial = BestSoFar(at_budget(read_events(result.folders.journal), own), result.spec.goal).trial
        best += [(result, trial)] if trial is not None else []
    return best


def at_budget(events: Iterable[Event], epochs: int) -> Study:
    """A study as it was when it had trained so many epochs."""
    study = Study()
    for event in events:
        if isinstance(event, Reported) and study.epochs == epochs:
            break
        study.apply(event)
    return study


def score_on_test(trials: Sequence[Best]) -> None:
    """Score each on the test split, once, all in one process, and record it."""
    due = []
    for result, best in trials:
        epoch = result.spec.goal.epoch(best)
        if result.dataset is not None and not result.spec.train and not result.study.tested(best.number, epoch):
            due.append((result, best, stored(result, best, epoch)))
    if not due:
        return
    recipe = components.recipe(due[0][0].spec, due[0][0].dataset, "cpu")
    models = [(best.params, path, one.dataset.split if one.dataset else None) for one, best, path in due]
    command = [sys.executable, "-m", "hpo.training.recipe"]
    done = subprocess.run(command, input=pickle.dumps((recipe, models)), capture_output=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["no answer"])[-1]
        rule = "could not be scored on the test split"
        raise EnvironmentFailed(Mistake("the best trials", rule, last, "run the same command again"))
    for (result, best, _), metrics in zip(due, json.loads(done.stdout), strict=True):
        with Journal.open(result.folders.journal) as journal:
            journal.append(event := Scored(time.time(), best.number, metrics, result.spec.goal.epoch(best)))
            result.study.apply(event)


def fresh_scores(trials: Sequence[Best], options: RunOptions) -> dict[str, dict[TrialEpoch, list[Repetition]]]:
    """The repetitions of each, trained again with fresh seeds on its own split, by study and trial."""
    finalists: dict[int, Finalists] = {}
    for result, best in trials:
        new: Finalists = (result.spec, result.study.environments[-1], [])
        finalists.setdefault(result.spec.base_seed, new)[2].append(as_read(result.spec.goal, best))
    if not finalists:
        return {}
    fresh = fresh_values([*finalists.values()], FRESH_SEEDS, replace(options, listeners=()))
    values = dict(zip(finalists, fresh, strict=True))
    scores: dict[str, dict[TrialEpoch, list[Repetition]]] = {}
    for result, best in trials:
        own = values[result.spec.base_seed][frozen(as_read(result.spec.goal, best))]
        scores[result.folders.run.name] = {(best.number, result.spec.goal.epoch(best)): own}
    return scores


def notes(spec: StudySpec, results: Sequence[Result]) -> Iterator[str]:
    """What of the budget was ignored, and what of an earlier `run` makes a study another than it would be alone."""
    ignored = [name for name in ("time", "patience") if getattr(spec.budget, name) is not None]
    if ignored:
        yield f"{spec.name}: budget.{' and budget.'.join(ignored)} ignored: a comparison's budget is in epochs."
    for result in results:
        study, most = Study(), 0
        for event in read_events(result.folders.journal):
            study.apply(event)
            most = max(most, len({study.trials[number].training for number in study.running}))
        who = f"{result.folders.name}, {result.spec.strategy}, seed {result.spec.seed}"
        asked = spec.warm_start if spec.warm_start == "none" else "builtin"
        began = {one.get("warm_start", asked) for one in study.environments}
        if result.spec.strategy == "bayesian" and began != {asked}:
            yield f"{who}: an earlier run had warm_start {listed(sorted(map(str, began)))}, not {asked} alone."
        if result.study.closed is Reason.EXHAUSTED:
            yield f"{who}: every point was tried after {count(result.study.epochs, 'epoch')}, before the budget was spent."
        if most > 1:
            yield f"{who}: an earlier run had {most} trials at a time, so it knew less than it would have alone."


def write_report(spec: StudySpec, result: Result, comparison: Comparison) -> Path:
    folder = result.folders.study / "compare"
    save([comparison_picture(comparison)], folder / "plots")
    with replace_file(folder / "report.html") as draft:
        draft.write_text(comparison_document(spec.name, comparison), encoding="utf-8")
    return folder / "report.html"
