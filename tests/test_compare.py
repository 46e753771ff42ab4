"""Compare and confirm as whole studies: what is run, what is reused, what is refused."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from laws import tables
from studied import SPACE, TINY, TRAINER, Place, hpo

from hpo import api, provenance
from hpo.check import check_study
from hpo.cli.console import ComparisonProgress, Terminal
from hpo.commands import compare as compare_command
from hpo.commands import confirm as confirm_command
from hpo.commands.compare import Compared, compare_strategies, compare_studies, epochs_in_all, studies
from hpo.commands.confirm import confirm_finalists, confirming, fresh_values, run_confirmation
from hpo.commands.reproduce import reproduce
from hpo.commands.run import RunOptions, run
from hpo.comparison.compare import best_so_far
from hpo.comparison.text import as_json, confirmation_lines
from hpo.core import Event, Opened, Outcome, Reported, State, Study
from hpo.engine import components
from hpo.engine.driver import Driver
from hpo.engine.opening import epochs_to_count, total_epochs
from hpo.engine.result import Result, read_result, statuses
from hpo.engine.search import Search
from hpo.errors import BadInput, NoResult, Stopped
from hpo.journal import read_events
from hpo.strategies import prior
from hpo.strategies.points import frozen

COMPARE = {"seeds": 2, "margin": 0.002}
DENSE = {
    **TINY,
    "search_space": {"blocks": 0, "dense_units": 16, "learning_rate": [0.003, 0.01, 0.03], "epochs": [1, 2]},
    "budget": {"total_epochs": 4},
    "compare": {"strategies": ["random", "grid"], "seeds": 1},
}
WIDE = {**SPACE, "rate": [0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5]}


@pytest.fixture(autouse=True)
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """test_report.py looks at the page; here it would cost seconds of drawing."""
    monkeypatch.setattr(compare_command, "write_report", lambda spec, result, comparison: Path("report.html"))


def compared(place: Place, rescore: bool = False, **changes: Any) -> Compared:
    study = {"compare": COMPARE, "search_space": WIDE, "budget": {"total_epochs": 30}, **changes}
    return compare_strategies(place.spec(**study), place.options, rescore)


def by_name(comparison: Compared) -> dict[str, Study]:
    return {result.folders.run.name: result.study for result in comparison.results}


def confirmed(folder: Path) -> list[Event]:
    return [event for path in folder.rglob("confirm-*/journal.db") for event in read_events(path)]


# -- which studies ---------------------------------------------------------------------------------------------------


def test_a_comparison_is_one_study_a_strategy_and_seed_with_a_budget_in_epochs(place: Place) -> None:
    spec = place.spec(compare=COMPARE, seed=5, budget={"total_epochs": 30, "trials": 9, "time": "1h", "patience": 3})
    made = studies(spec)
    assert [(one.strategy, one.seed, one.budget.total_epochs) for one in made] == [
        *(("bayesian", 5, 30), ("random", 5, 30), ("grid", 5, 30), ("random-x2", 5, 60)),
        *(("bayesian", 6, 30), ("random", 6, 30), ("grid", 6, 30), ("random-x2", 6, 60)),
    ]
    assert {(one.budget.trials, one.budget.time, one.budget.patience) for one in made} == {(None, None, None)}
    assert [one.base_seed for one in made] == [5] * 4 + [6] * 4, "one for all strategies, so that they share trainings"
    fixed = studies(place.spec(compare=COMPARE, training_seed=0))
    assert {one.base_seed for one in fixed} == {0}, "unless the file gives one"
    assert total_epochs(place.spec(budget={"trials": 30})) == pytest.approx(30 * (2 + 4 + 8) / 3, rel=0.03)
    assert total_epochs(place.spec(budget={"trials": 30, "total_epochs": 50})) == 50


PICTURES = {**TINY, "compare": {**COMPARE, "seeds": 1}, "budget": {"total_epochs": 6}}


@pytest.mark.parametrize(("changes", "names", "said"), tables("comparison_tables")["rivals"])
def test_rivals_stand_beside_unnamed_strategies_and_predictive_is_for_bayesian(
    changes: dict[str, Any], names: str, said: str
) -> None:
    space = {"hidden_size": [4, 8], "epochs": [1, 3]} if "model" in changes else TINY["search_space"]
    specs = studies(api.load({**PICTURES, "search_space": space, **changes}))
    first = [one for one in specs if one.seed == 0]
    assert [one.strategy for one in first] == names.split()
    assert len({tuple(one.goal.epochs) for one in first}) == 1, "the same epochs count for all"
    assert compare_command.ran_with([one for one in specs if one.strategy != "random-x2"]) == said
    assert [not prior.unknown(one) for one in first] == [
        one.warm_start != "none" and one.model == "cnn" and one.strategy in ("bayesian", "random", "grid", "tpe")
        for one in first
    ]


def test_rivals_are_compared_with_bayesian_but_not_ranked_and_every_verb_knows_them(tmp_path: Path) -> None:
    space = {"blocks": 0, "dense_units": [8, 16], "learning_rate": [0.001 * k for k in range(1, 13)], "epochs": 3}
    spec = api.load({**PICTURES, "search_space": space, "early_stopping": "predictive", "budget": {"total_epochs": 8}})
    compared = compare_strategies(spec, RunOptions(tmp_path, publish=False), rescore=False)
    comparison, rules = compared.comparison, {}
    for result in compared.results:
        assert read_result(result.spec, tmp_path).study.epochs == result.spec.budget.total_epochs
        made = components.assemble(result.spec, result.dataset, ["cpu"]).strategy()
        rules[result.folders.run.name] = type(made).__name__
    names = ("random-asha-0", "grid-asha-0", "tpe-asha-0", "random-x2-0")
    assert rules == {"bayesian-0": "Predictive", **dict.fromkeys(names, "Asha")}
    assert {one.folders.run.name for one in statuses(spec, tmp_path)} == set(rules)
    assert [one.strategy for one in comparison.strategies] == ["bayesian", "random", "grid"]
    assert [one.strategy for one in comparison.rivals] == ["tpe"]
    assert (comparison.beside[0].a, comparison.beside[0].b) == ("bayesian", "tpe")
    assert comparison.scope.endswith("; random, grid and tpe with asha")


def test_two_study_files_are_compared_on_the_same_splits_whatever_they_search(tmp_path: Path) -> None:
    one = {**PICTURES, "name": "one", "strategy": "random", "compare": {"seeds": 2}, "budget": {"total_epochs": 6}}
    space = {"blocks": 0, "dense_units": [2, 4, 8], "epochs": 2}
    two = {**one, "name": "two", "strategy": "bayesian", "search_space": space}
    for study in (one, two):
        (tmp_path / f"{study['name']}.yaml").write_text(json.dumps(study))
    told = hpo(tmp_path, "compare", "one.yaml", "two.yaml", "--json")
    said = json.loads(told.stdout)
    for name in ("one/random", "two/bayesian"):
        assert f"{name}-1: val_accuracy" in told.stderr
    assert [row["strategy"] for row in said["strategies"]] == ["one", "two"]
    assert [(pair["a"], pair["b"]) for pair in said["pairs"]] == [("one", "two")]
    assert "two: bayesian with built-in prior." in said["notes"]
    assert "usual ranking" not in json.dumps(said), "strategies are not what is compared"
    for seed in (0, 1):
        places = [tmp_path / "studies" / name for name in (f"one/random-{seed}", f"two/bayesian-{seed}")]
        states = [Study(read_events(place / "journal.db")) for place in places]
        assert {state.epochs for state in states} == {6}
        assert len({state.environments[-1]["data"] for state in states}) == 1, "one split"
        best = [max(r.metrics["val_accuracy"] for one in state.trials for r in one.reports) for state in states]
        assert [row["values"][seed] for row in said["strategies"]] == pytest.approx(best)
    refused = hpo(tmp_path, "compare", "one.yaml", "two.yaml", "--strategies", "random,grid", code=2)
    assert "leave out --strategies" in refused.stderr
    specs = [api.load(tmp_path / f"{name}.yaml") for name in ("one", "two")]
    progress, heads = ComparisonProgress(specs[0], Terminal(), epochs_in_all(*specs)), []

    def tell(search: Search, event: Event) -> None:
        progress.receive(search, event)
        heads.append(str(progress.__rich__().renderables[0]))

    again = compare_studies(*specs, RunOptions(tmp_path, listeners=[tell]), rescore=False).comparison
    assert heads[0].endswith(" of 24 epochs"), "the second file's are in it before they have begun"
    assert heads[-1] == "one: 4 studies, 24 of 24 epochs"
    assert json.loads(json.dumps(as_json(again)))["pairs"] == said["pairs"], "nothing is trained twice"


def test_what_makes_a_study_of_a_comparison_another_is_noted(tmp_path: Path) -> None:
    """A prior that an earlier run left out, points that ran out; a name that is a strategy's is none, and b has a's splits."""
    small = {**PICTURES, "strategy": "bayesian", "search_space": {"blocks": 0, "dense_units": [2, 4], "epochs": 1}}
    alone = {"strategies": ["bayesian"], "seeds": 2}
    one = {**small, "compare": alone, "training_seed": 3, "budget": {"total_epochs": 3}}
    run(api.load({**one, "warm_start": "none"}), RunOptions(tmp_path, publish=False))
    specs = api.load(one), api.load({**small, "name": "random", "strategy": "random"})
    compared = compare_studies(*specs, RunOptions(tmp_path, publish=False), rescore=False)
    assert {result.spec.base_seed for result in compared.results} == {3}
    assert [row.strategy for row in compared.comparison.strategies] == ["tiny", "study random"]
    notes = compared.comparison.notes
    assert "tiny, bayesian, seed 0: an earlier run had warm_start builtin and none, not builtin alone." in notes
    assert "random, random, seed 1: every point was tried after 2 epochs, before the budget was spent." in notes
    assert not any("twice the budget is missing" in note for note in notes)
    assert Study(read_events(tmp_path / "studies/random/random-1/journal.db")).environments[-1]["split"] == 3


def test_studies_that_cannot_be_paired_are_refused_with_all_reasons(tmp_path: Path) -> None:
    one = api.load(PICTURES)
    loss = {"name": "val_loss", "goal": "minimize"}
    other = api.load({**PICTURES, "metric": loss, "data": {"source": "digits", "limit": 130}})
    with pytest.raises(BadInput) as refused:
        compare_studies(one, other, RunOptions(tmp_path))
    assert [str(mistake) for mistake in refused.value.mistakes] == [
        "study name: must not be that of tiny too, got tiny; give one of them another",
        "study metric: must be that of tiny (val_accuracy, maximize, at last), got val_loss, minimize, at last; make them the same",
        "study data: must be those of tiny (120 images in 10 classes), in the same splits, got 130 images in 10 classes; name the same in both",
    ]
    assert not [*tmp_path.iterdir()]


# -- running them ----------------------------------------------------------------------------------------------------


def test_every_epoch_is_trained_once_and_every_study_is_charged_to_its_budget(place: Place) -> None:
    comparison = compared(place)
    charged = {name: study.epochs for name, study in by_name(comparison).items()}
    budgets = {"bayesian": 30, "random": 30, "grid": 30, "random-x2": 60}
    assert charged == {f"{name}-{seed}": epochs for seed in (0, 1) for name, epochs in budgets.items()}
    trained = sum(study.epochs - study.reused_epochs for study in by_name(comparison).values())
    assert len(place.trained()) == len(set(place.trained())) == trained
    seeds = {standing.strategy: standing.seeds for standing in comparison.comparison.strategies}
    assert seeds == dict.fromkeys(("bayesian", "random", "grid"), (0, 1))
    assert (comparison.comparison.budget, comparison.comparison.twice is not None) == (30, True)
    again = compared(place)
    assert len(place.trained()) == trained, "nothing is trained again"
    assert again.comparison.strategies == comparison.comparison.strategies
    assert again.comparison.pairs == comparison.comparison.pairs
    for seed in (0, 1):  # random with twice the budget begins as random, and costs the second half only
        once, twice = (by_name(comparison)[f"{name}-{seed}"] for name in ("random", "random-x2"))
        assert [trial.params for trial in twice.trials][: len(once.trials)] == [trial.params for trial in once.trials]
        assert list(twice.spent.items())[: len(once.spent)] == list(once.spent.items())
        assert twice.closed == "budget"
    assert trained <= 2 * (30 + 30 + 30 + 30)


def test_a_target_ends_no_study_and_is_what_epochs_to_counts(place: Place) -> None:
    targeted = {"metric": {"name": "val_accuracy", "target": 0.3}}
    assert place.run(search_space=WIDE, budget={"total_epochs": 30}, **targeted).study.epochs < 30, "it ends a run"
    comparison = compared(place, **targeted)
    epochs = {name: study.epochs for name, study in by_name(comparison).items()}
    assert epochs == {name: 60 if name.startswith("random-x2") else 30 for name in epochs}
    assert comparison.comparison.target == 0.3
    assert all(one.to_target < 30 for one in comparison.comparison.strategies), "met early, and the search went on"


def test_each_study_runs_one_trial_at_a_time_although_there_are_more_workers(place: Place) -> None:
    two = {"strategies": ["random", "grid"], "seeds": 1}
    comparison = compared(place, compare=two, execution=None, workers=3, budget={"total_epochs": 16})
    for result in comparison.results:
        study, most = Study(), 0
        for event in read_events(result.folders.journal):
            study.apply(event)
            most = max(most, len(study.running))
        assert most == 1, result.folders.run.name


def test_what_is_there_of_a_run_or_of_fewer_seeds_is_kept(place: Place) -> None:
    mine = place.run(strategy="bayesian", search_space=WIDE, budget={"trials": 3}).study
    first = by_name(compared(place, compare={**COMPARE, "seeds": 1}))
    more = by_name(compared(place))
    assert [trial.params for trial in more["bayesian-0"].trials[:3]] == [trial.params for trial in mine.trials]
    assert more["bayesian-0"].epochs == 30
    assert [trial.params for trial in more["grid-0"].trials] == [trial.params for trial in first["grid-0"].trials]
    assert len(more) == 8
    assert len(place.trained()) == len(set(place.trained()))


def test_a_stopped_comparison_goes_on_to_the_same_end(place: Place, tmp_path: Path, monkeypatch: Any) -> None:
    """Stopped after 50 recorded epochs, as by a signal; nothing is scored or rescored then."""
    heard: list[Event] = []
    drivers: list[Driver] = []
    opened = Driver._open

    def opening(self: Driver, environment: Any) -> None:
        drivers.append(self)
        opened(self, environment)

    def listener(search: Search, event: Event) -> None:
        heard.append(event)
        if sum(isinstance(one, Reported) for one in heard) == 50:
            drivers[-1].stop(15)

    monkeypatch.setattr(Driver, "_open", opening)
    spec = place.spec(compare=COMPARE, search_space=WIDE, budget={"total_epochs": 30})
    with pytest.raises(Stopped) as stopped:
        compare_strategies(spec, replace(place.options, listeners=[listener]), rescore=True)
    assert stopped.value.number == 15
    assert not list(place.folder.glob("studies/*/confirm-*"))
    done = by_name(compared(place))
    straight = by_name(compared(Place.made(tmp_path / "straight")))
    for name, study in done.items():
        assert [trial.params for trial in study.trials] == [trial.params for trial in straight[name].trials], name
        assert study.epochs == straight[name].epochs


def test_what_of_a_budget_is_ignored_and_which_study_ran_with_several_workers_before_is_noted(place: Place) -> None:
    place.run(strategy="random", budget={"trials": 6}, workers=2, execution="local")
    notes = compared(place, budget={"total_epochs": 30, "time": "1h"}).comparison.notes
    assert "made-up: budget.time ignored: a comparison's budget is in epochs." in notes
    knew = "an earlier run had 2 trials at a time, so it knew less than it would have alone."
    assert f"made-up, random, seed 0: {knew}" in notes
    assert not any("bayesian, seed" in note for note in notes)


def test_best_trials_are_those_at_the_budget_and_at_twice_as_much(place: Place) -> None:
    comparison = compared(place, compare={**COMPARE, "seeds": 6})
    winning = compare_command.best_trials(comparison.results, 30)
    for result in comparison.results:
        end = compare_command.read_curve(result).at(60 if result.spec.strategy == "random-x2" else 30)
        assert [trial.number for one, trial in winning if one is result] == [end.best]
    winners = {(result.spec.strategy, result.spec.seed): trial.params for result, trial in winning}
    assert any(winners["random", seed] != winners["random-x2", seed] for seed in range(6)), "the rest is of use"


def test_each_best_trial_is_trained_again_with_fresh_seeds(place: Place) -> None:
    comparison = compared(place, rescore=True)
    assert all(result.fresh is not None for result in comparison.comparison.strategies)
    best = compare_command.best_trials(comparison.results, 30)
    winners = sorted(sorted({frozen(trial.params) for one, trial in best if one.spec.seed == seed}) for seed in (0, 1))
    journals = (place.folder / "studies/made-up").glob("confirm-*/journal.db")
    confirmations = [Study(read_events(journal)) for journal in journals]
    again = [{(frozen(trial.params), trial.repeat) for trial in study.trials} for study in confirmations]
    assert sorted(sorted({params for params, _ in tried}) for tried in again) == winners, "a study for each seed's"
    assert {repeat for tried in again for _, repeat in tried} == {1, 2}
    seeds = {training.seed for result in comparison.results for training in result.study.trainings.values()}
    assert not seeds & {training.seed for study in confirmations for training in study.trainings.values()}
    before = len(place.trained())
    compared(place, rescore=True)
    assert len(place.trained()) == before


def test_the_test_split_is_read_once_for_each_best_trial(tmp_path: Path) -> None:
    given = {**DENSE, "search_space": {**DENSE["search_space"], "epochs": 1}, "budget": {"total_epochs": 1}}
    spec, options = api.load(given), RunOptions(tmp_path, publish=False)
    first = compare_strategies(spec, options)
    winners = [(result.spec.strategy, best.number) for result, best in compare_command.best_trials(first.results, 1)]
    assert {name for name, _ in winners} == {"random", "grid"}
    scores = [(r.spec.strategy, scored.trial) for r in first.results for scored in r.study.scores]
    assert sorted(scores) == sorted(winners)
    for scored in (scored for result in first.results for scored in result.study.scores):
        assert 0 <= scored.metrics["test_accuracy"] <= 1
    assert all(standing.test is not None for standing in first.comparison.strategies)
    again = compare_strategies(spec, options, rescore=True)
    assert sum(len(read_result(r.spec, tmp_path).study.scores) for r in again.results) == len(scores), "and remembered"


def test_a_checkpoint_that_is_gone_is_trained_again_to_be_scored(tmp_path: Path) -> None:
    """No mean over fewer seeds: with and without the checkpoints every best trial has the same score."""
    spec = api.load({**DENSE, "compare": {"strategies": ["random", "grid"], "seeds": 2}})
    trained = compare_strategies(spec, RunOptions(tmp_path / "lost", publish=False), rescore=False)
    shutil.rmtree(trained.results[0].folders.trainings)
    again = [compare_strategies(spec, RunOptions(tmp_path / folder, publish=False)) for folder in ("lost", "kept")]
    lost, kept = ([compare_command.read_curve(result) for result in one.results] for one in again)
    assert [curve.tests for curve in lost] == [curve.tests for curve in kept]
    assert len(lost) == 4 and all(curve.tests for curve in lost)


def test_each_seed_has_its_own_split_and_what_is_made_of_it_later_uses_that_one(tmp_path: Path) -> None:
    """Real networks: scored by the comparison, published by `run` in a process of its own, trained again by `confirm`."""
    spec, options = api.load({**DENSE, "compare": {"strategies": ["random", "grid"], "seeds": 3}}), RunOptions(tmp_path)
    compared = compare_strategies(spec, options)
    data = {result.spec.seed: result.dataset for result in compared.results}
    assert len({one.val.tobytes() for one in data.values()}) == len({one.mean.tobytes() for one in data.values()}) == 3
    assert len(list(tmp_path.rglob("images.npy"))) == 1, "the images are stored once"
    keys = [{one for r in compared.results if r.spec.seed == seed for one in r.study.trainings} for seed in data]
    assert sum(map(len, keys)) == len(set().union(*keys)), "no training is shared between seeds"
    assert "digits over seeds 0 to 2, each with its own split and training seed" in compared.comparison.scope

    own = api.load({**DENSE, "strategy": "random"}, sets=["seed=2"])
    before = read_result(own, tmp_path)
    again = run(own, options)
    assert [trial.params for trial in again.study.trials] == [trial.params for trial in before.study.trials]
    assert again.study.reused_epochs == before.study.reused_epochs, "seed 2 is the same: nothing is trained"
    assert again.dataset is not None
    assert (again.dataset.split, again.dataset.digest) == (2, data[2].digest)
    assert again.published is not None
    assert again.published.test["test_loss"] == pytest.approx(again.study.scores[0].metrics["test_loss"], rel=1e-4)
    assert reproduce(again, again.best.number).identical
    confirm_finalists(again, 1, 1, options)
    opened = {one.environment["data"] for one in confirmed(tmp_path) if isinstance(one, Opened)}
    assert opened == {one.digest for one in data.values()}


def test_another_budget_before_changes_nothing_at_this_one(place: Place, tmp_path: Path) -> None:
    for budget in (20, 30):
        compared(place, budget={"total_epochs": budget})
    trained = len(place.trained())
    for budget in (30, 20):
        again = compared(place, budget={"total_epochs": budget}).comparison
        straight = compared(Place.made(tmp_path / str(budget)), budget={"total_epochs": budget}).comparison
        assert (again.strategies, again.twice) == (straight.strategies, straight.twice)
    assert len(place.trained()) == trained


def test_stopped_while_the_best_trials_are_trained_again_it_says_nothing(place: Place, monkeypatch: Any) -> None:
    real = compare_command.run_all

    def stopped(specs: Any, options: RunOptions) -> list[Result]:
        return [replace(one, stopped_by=2 * (one.spec.strategy == "confirm")) for one in real(specs, options)]

    monkeypatch.setattr(confirm_command, "run_all", stopped)
    with pytest.raises(Stopped):
        compared(place, rescore=True)


@pytest.mark.parametrize(("rule", "epochs"), [((1, 3), [6, 9]), ((1, 2), [5, 8]), ((2, 3), [6, 12]), ((1, 3), [9])])
def test_a_budget_that_may_end_before_a_trial_of_asha_counts_is_known_before_training(
    place: Place, rule: tuple[int, int], epochs: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    stops = {"type": "asha", "min_epochs": rule[0], "reduction": rule[1]}
    study = {"early_stopping": stops, "search_space": {"rate": {"min": 0.01, "max": 0.5}, "epochs": epochs}}
    least, usual = epochs_to_count(place.spec(**study), luck=True), max(9, epochs_to_count(place.spec(**study)))
    for seed in range(4):
        result = place.run(**study, seed=seed, budget={"total_epochs": usual})
        first, *_ = best_so_far(read_events(result.folders.journal), result.spec.goal)
        assert least <= first.epochs <= usual
    assert not caplog.messages
    budgets = [{"trials": 1, "total_epochs": 9}, {"trials": 1, "total_epochs": usual}, {"trials": 1}]
    *said, alone = ["\n".join(check_study(place.spec(**study, budget=one), True)) for one in budgets]
    raised = f" with early stopping; raise it: --set budget.total_epochs={usual}"
    assert [raised in one for one in said] == [usual > 9, False]
    assert ("hpo compare: budget: total_epochs may end" in alone) == (usual > 9)


# -- what cannot be compared -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"compare": {**COMPARE, "strategies": ["random"]}},
            "compare.strategies: must be two or more, to compare anything, got random",
        ),
        (
            {"budget": {"total_epochs": 2}},
            "must be at least the 8 epochs of the longest trial, to compare anything, got 2 epochs",
        ),
        (
            {"early_stopping": "asha", "search_space": {**WIDE, "epochs": [6, 9]}, "budget": {"total_epochs": 9}},
            "must be at least the 10 epochs until early stopping lets one count, to compare anything, got 9 epochs",
        ),
        ({"search_space": {"rate": [1, 2, 3], "width": [1, 2, 3], "epochs": [2, 4]}}, "complete"),
    ],
)
def test_what_cannot_be_compared_is_refused(place: Place, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput) as refused:
        compared(place, **changes)
    assert message in str(refused.value)


# -- confirm ---------------------------------------------------------------------------------------------------------


def test_finalists_are_the_best_complete_trials_with_fresh_seeds_and_more_seeds_add_only_these(place: Place) -> None:
    result = place.run(budget={"trials": 8})
    first = confirm_finalists(result, 3, 4, place.options)
    goal = result.spec.goal
    ranked = sorted(result.study.with_state(State.COMPLETE), key=goal.score)
    assert [(one.trial, one.value) for one in first.finalists] == [(t.number, goal.value(t)) for t in ranked[:3]]
    for one in first.finalists:
        assert len(one.fresh) == 4 == len(set(one.fresh)), "four seeds, four values"
        assert one.value not in one.fresh
    before = len(place.trained())
    assert confirm_finalists(result, 3, 4, place.options) == first
    assert len(place.trained()) == before
    more = confirm_finalists(result, 3, 5, place.options)
    assert [one.fresh[:4] for one in more.finalists] == [one.fresh for one in first.finalists]
    assert confirm_finalists(result, 3, 4, place.options) == first, "fewer seeds than are there"
    assert len(place.trained()) == len(set(place.trained())) > before


CONFIRMED: dict[str, tuple[dict[str, Any], bool]] = {
    "another metric": ({"metric": {"name": "total", "goal": "maximize"}}, True),
    "the last epoch or the best": ({"metric": {"name": "val_accuracy", "at": "best"}}, True),
    "no promise of prefixes": ({"prefix_safe": False}, True),
    "a constraint": ({"constraints": ["width * rate <= 1.2"]}, True),
    "another space": ({"search_space": {**SPACE, "width": [1, 2, 3, 4]}}, True),
    "another split": ({"training_seed": 7}, True),
    "another strategy": ({"strategy": "grid"}, False),
    "another seed of the search": ({"seed": 5, "training_seed": 0}, False),
    "another budget": ({"budget": {"trials": 3, "patience": 9}}, False),
}


@pytest.mark.parametrize("change", CONFIRMED)
def test_what_no_study_may_change_is_in_the_name_of_the_repetitions(place: Place, change: str) -> None:
    changes, other = CONFIRMED[change]
    points = [{"rate": 0.1, "width": 1, "epochs": 4}]
    before, after = (confirming(place.spec(**one), {"data": "none"}, points, 2) for one in ({}, changes))
    assert (before.seed != after.seed) is other
    run(before, place.options)
    run(after, place.options)


def test_other_data_code_or_versions_are_other_repetitions(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def name(data: str = "none", points: int = 1) -> int:
        return confirming(place.spec(), {"data": data}, [{"rate": 0.1, "width": 1, "epochs": 4}] * points, 2).seed

    names = [name(), name(data="other")]
    assert name(points=2) == name()
    (place.folder / "studied_trainer.py").write_text(TRAINER.replace("rate *", "2 * rate *"))
    names.append(name())
    monkeypatch.setattr(provenance, "TRAINER", 1000)
    names.append(name())
    monkeypatch.setattr(provenance, "version", lambda package: "99.0")
    assert len({*names, name()}) == 5


def test_confirm_says_which_trials_it_leaves_out_and_nothing_of_a_split_that_hpo_did_not_make(place: Place) -> None:
    space = {"rate": [0.1, 0.2, 2.0], "width": 3, "epochs": [2, 4]}
    study = {"strategy": "grid", "search_space": space, "metric": {"name": "total", "goal": "minimize"}}
    place.run(**study)
    left, *finalists, said = run_confirmation(place.spec(**study), place.folder, 3, 2)
    assert "split" not in said
    assert [line.partition(":")[0] for line in finalists] == ["trial 0", "trial 2"]
    same = [f"trial {other} (the training of trial {one} after the same epoch)" for other, one in ((4, 0), (3, 2))]
    assert left == f"Left out: {'; '.join(same)}; 2 other trials (no epoch that counts yet)."
    assert run_confirmation(place.spec(**study), place.folder, 1, 2)[0].startswith("trial 0: ")


def test_a_repetition_that_fails_has_an_outcome_and_nothing_complete_is_nothing_to_confirm(place: Place) -> None:
    spec = place.spec(search_space={"rate": [0.1, 2.0], "width": [1, 2, 3], "epochs": 4})
    good, bad = {"rate": 0.1, "width": 1, "epochs": 4}, {"rate": 2.0, "width": 1, "epochs": 4}
    (values,) = fresh_values([(spec, {}, [good, bad])], 2, place.options)
    assert (len(values[frozen(good)]), values[frozen(bad)]) == (2, [Outcome.DIVERGED] * 2)
    result = place.run(search_space={"rate": [1, 2, 3], "width": [1, 2, 3], "epochs": 4}, budget={"trials": 2})
    assert {trial.outcome for trial in result.study.trials} == {Outcome.DIVERGED}
    with pytest.raises(NoResult, match="no trial is complete yet, nothing to confirm"):
        confirm_finalists(result, 3, 2, place.options)


def diverging_later(place: Place) -> None:
    """From now on a rate diverges once there is a file of its name, as after a search."""
    trainer = place.folder / "studied_trainer.py"
    trainer.write_text(trainer.read_text().replace("rate >= 1 and", "(HERE / str(rate)).exists() and"))


def test_a_best_trial_whose_repetitions_fail_stays_in_what_confirm_and_compare_say(place: Place) -> None:
    diverging_later(place)
    space = {"rate": [0.1, 0.2, 0.4], "width": 3, "epochs": 4}
    result = place.run(strategy="grid", budget={"trials": 3}, search_space=space)
    best = result.best
    (place.folder / "0.4").touch()
    confirmation = confirm_finalists(result, 2, 3, place.options)
    assert (best.params["rate"], confirmation.finalists[0].trial) == (0.4, best.number)
    assert confirmation.finalists[0].failed == (Outcome.DIVERGED,) * 3
    assert "failed on 3 of 3 fresh seeds (diverged)" in next(iter(confirmation_lines(confirmation)))
    with pytest.raises(NoResult, match=r"every repetition failed \(diverged\), so nothing is confirmed"):
        confirm_finalists(result, 1, 2, place.options)


def test_a_comparison_counts_the_repetitions_of_best_trials_that_failed(place: Place) -> None:
    diverging_later(place)
    winners = compare_command.best_trials(compared(place).results, 30)
    bad = next(trial.params["rate"] for one, trial in winners if one.spec.strategy == "grid")
    (place.folder / f"{bad}").touch()
    comparison = compared(place, rescore=True).comparison
    failed = Counter(one.spec.strategy for one, trial in winners for _ in range(2) if trial.params["rate"] == bad)
    assert {one.strategy.replace(" ", "-"): one.failed for one in comparison.results if one.failed} == failed
    assert {one.repeated for one in comparison.results} == {4}
    assert failed["grid"]


def test_confirm_after_epochs_became_longer_trains_the_finalists_alone(place: Place) -> None:
    result = place.run(budget={"trials": 3})
    confirm_finalists(result, 2, 1, place.options)
    wider = replace(result, spec=place.spec(budget={"trials": 3}, search_space={**SPACE, "epochs": [2, 4, 8, 16]}))
    assert len(confirm_finalists(wider, 2, 2, place.options).finalists) == 2
