"""One training, many answers: what is shared, what never is, and that a reused reading is a fresh training's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from studied import SPACE, Place

from hpo import api
from hpo.commands.run import Visit, run, run_all
from hpo.core import State, Study
from hpo.engine.result import Result
from hpo.strategies.points import point
from hpo.training import checkpoints


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place.made(tmp_path)


def told(study: Study) -> dict[object, list[dict[str, float]]]:
    """What each point's trial read, epoch by epoch."""
    return {point(trial.params): [dict(report.metrics) for report in trial.reports] for trial in study.trials}


# -- real trainings, bit for bit -------------------------------------------------------------------------------------

TINY: dict[str, Any] = {
    "name": "tiny",
    "data": {"source": "digits", "limit": 120},
    "search_space": {"blocks": 1, "channels": 4, "dropout": 0.3, "optimizer": ["sgd", "adam"], "epochs": [1, 3]},
    "device": "cpu",
    "execution": {"engine": "inline"},
    "tracking": False,
}


def real(folder: Path, strategy: str, space: dict[str, Any] | None = None, **budget: int) -> Result:
    """A study of real trainings, in the folder's pool; a new folder shares nothing with another."""
    given = {**TINY, "strategy": strategy, "budget": budget, "search_space": {**TINY["search_space"], **(space or {})}}
    return run(api.load(given), Visit(folder, publish=False))


def test_a_reused_reading_equals_a_fresh_training_bit_for_bit(tmp_path: Path) -> None:
    """Dropout and momentum included. The grid reads epochs 1 and 3 of what random trained, and the fresh one trains."""
    first = real(tmp_path / "shared", "random", trials=4)
    reused = real(tmp_path / "shared", "grid", trials=4)
    fresh = real(tmp_path / "alone", "grid", trials=4)
    assert (first.study.reused_epochs, reused.study.reused_epochs, fresh.study.reused_epochs) == (0, 6, 0)
    assert reused.study.epochs == fresh.study.epochs == 6
    assert told(reused.study) == told(fresh.study)
    assert len({str(curve) for curve in told(fresh.study).values()}) == 4, "the trainings differ from each other"


def test_a_longer_trial_that_goes_on_from_a_shorter_one_equals_one_in_a_single_piece(tmp_path: Path) -> None:
    real(tmp_path / "shared", "random", {"epochs": [1]}, trials=2)
    longer = real(tmp_path / "shared", "grid", {"epochs": [3]}, trials=2)
    fresh = real(tmp_path / "alone", "grid", {"epochs": [3]}, trials=2)
    assert (longer.study.reused_epochs, longer.study.epochs) == (2, 6)
    assert told(longer.study) == told(fresh.study)


def test_cosine_shares_nothing_between_trials_of_different_length(tmp_path: Path) -> None:
    """Its first epoch depends on how many follow, so the shorter trial is no reading of the longer one."""
    cosine = {"schedule": "cosine", "optimizer": "sgd", "learning_rate": 0.05}
    study = real(tmp_path / "cosine", "grid", cosine, trials=2).study
    assert (len(study.trainings), study.epochs) == (2, 1 + 3)
    short, long = sorted(study.trials, key=lambda trial: trial.epochs)
    assert short.reports[0].metrics != long.reports[0].metrics
    constant = real(tmp_path / "constant", "grid", {**cosine, "schedule": "constant"}, trials=2).study
    assert (len(constant.trainings), constant.epochs) == (1, 3)


# -- who shares what -------------------------------------------------------------------------------------------------


def test_a_grid_over_epochs_2_4_and_8_trains_8_epochs_a_point(place: Place) -> None:
    study = place.run(strategy="grid", budget={"trials": 36}).study
    assert [trial.state for trial in study.trials] == [State.COMPLETE] * 36
    assert len(place.trained()) == len(set(place.trained())) == study.epochs == 12 * 8


def test_a_trainer_that_declares_nothing_shares_nothing(place: Place) -> None:
    study = place.run(strategy="grid", budget={"trials": 36}, prefix_safe=None).study
    assert len(study.trainings) == 36
    assert len(place.trained()) == len(set(place.trained())) == study.epochs == 12 * (2 + 4 + 8)


@pytest.mark.parametrize("rule", [None, {"type": "asha", "min_epochs": 1, "reduction": 2}], ids=["plain", "asha"])
def test_strategies_and_seeds_share_trainings_and_each_is_charged_as_if_alone(
    rule: dict[str, Any] | None, tmp_path: Path
) -> None:
    budget = 24 if rule else 40
    together = Place.made(tmp_path / "together")
    space = {**SPACE, "width": [1, 2, 3, 4, 5, 6]}
    base = together.spec(training_seed=0, early_stopping=rule, budget={"total_epochs": budget}, search_space=space)
    specs = [replace(base, strategy=name, seed=seed) for seed in (0, 1) for name in ("bayesian", "random", "grid")]
    results = run_all(specs, replace(together.visit, parallel=1))
    for result in results:
        other = Place.made(tmp_path / result.folders.run.name)
        other.spec(training_seed=0)
        alone = run(replace(result.spec, path=other.folder / "study.yaml"), other.visit).study
        assert told(result.study) == told(alone), result.folders.run.name
        assert (result.study.epochs, alone.epochs, len(other.trained())) == (budget, budget, budget)
        assert list(result.study.spent.items()) == list(alone.spent.items()), "the bill at each trial's end too"
    fresh = sum(result.study.epochs - result.study.reused_epochs for result in results)
    assert len(together.trained()) == len(set(together.trained())) == fresh
    assert fresh < 6 * budget * 0.8


def test_another_training_seed_is_another_training(place: Place) -> None:
    first = place.run(budget={"trials": 3}, training_seed=0).study
    again = place.run(budget={"trials": 3}, training_seed=1, strategy="grid").study
    assert not set(first.trainings) & set(again.trainings)
    assert again.reused_epochs == 0


def test_an_exact_duplicate_costs_nothing(place: Place) -> None:
    place.run(strategy="grid", budget={"trials": 36})
    before = len(place.trained())
    study = place.run(strategy="random", budget={"trials": 36}).study
    assert len(place.trained()) == before
    assert study.reused_epochs == study.epochs == 12 * 8


# -- going on --------------------------------------------------------------------------------------------------------

ONE = {"rate": 0.1, "width": 2, "epochs": 4}


def test_an_extension_goes_on_from_the_checkpoint(place: Place) -> None:
    place.run(search_space=ONE, budget={"trials": 1})
    longer = place.run(search_space={**ONE, "epochs": 8}, budget={"trials": 1}, strategy="grid").study
    starts = [(epoch, start) for _, epoch, start, _ in place.witnessed()]
    assert starts == [(1, 0), (2, 0), (3, 0), (4, 0), (5, 4), (6, 4), (7, 4), (8, 4)]
    assert (longer.epochs, longer.reused_epochs) == (8, 4)


def test_without_the_checkpoint_it_begins_again_and_comes_to_the_same(place: Place, tmp_path: Path) -> None:
    first = place.run(search_space=ONE, budget={"trials": 1})
    checkpoints.forget(first.folders.trainings, first.study.trials[0].training, 4)
    again = place.run(search_space={**ONE, "epochs": 8}, budget={"trials": 1}, strategy="grid").study
    assert [epoch for _, epoch in place.trained()] == [1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 7, 8]
    assert (again.epochs, again.reused_epochs) == (8, 4), "what it costs is time, not budget"
    other = Place.made(tmp_path / "other")
    straight = other.run(search_space={**ONE, "epochs": 8}, budget={"trials": 1}, strategy="grid").study
    assert told(again) == told(straight)


def test_a_promoted_trial_goes_on_where_it_was_paused(place: Place) -> None:
    rule = {"type": "asha", "min_epochs": 1, "reduction": 2}
    space = {"rate": [0.05, 0.1, 0.2, 0.4], "width": [1, 2, 3], "epochs": 8}
    study = place.run(search_space=space, budget={"trials": 12}, early_stopping=rule).study
    assert len(place.trained()) == len(set(place.trained())) == study.epochs < 12 * 8
    promoted = {start for _, _, start, _ in place.witnessed()} - {0}
    assert promoted and promoted <= {1, 2, 4}, "the rungs"
    assert study.with_state(State.PAUSED) and study.with_state(State.COMPLETE)
