"""The contract every strategy and every early-stopping rule passes."""

import functools
import itertools
import math
import random
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import fakes
import laws
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.simulated import SimulatedExecutor
from hpo import core
from hpo.core import Event, Goal, Job, Params, Report, Start, Started, State, Strategy, Study, epochs_of
from hpo.engine.driver import Driver
from hpo.engine.search import Search
from hpo.engine.trainings import Trainings
from hpo.models.families import with_defaults
from hpo.space.domains import Choice, Parameter, Range
from hpo.space.expressions import Constraint
from hpo.space.grid import ParameterGrid, permutation
from hpo.space.space import Space
from hpo.strategies import prior
from hpo.strategies.bayesian import Bayesian
from hpo.strategies.early_stopping import Asha, Median, Patience, Predictive
from hpo.strategies.encoding import Images
from hpo.strategies.points import Grid, Problem, Random, frozen
from hpo.strategies.surrogate import Surrogate
from hpo.strategies.tpe import STARTUP, Tpe
from hpo.study_file.spec import Budget, EarlyStopping

GOAL = Goal()
IMAGES = Images((1, 8, 8), 10, 1000)
PLAIN: dict[str, Callable[[Problem], Strategy]] = {
    "bayesian": lambda problem: Bayesian(problem, Surrogate(problem, prior.load())),
    "tpe": Tpe,
    "random": Random,
    "grid": Grid,
}
HALVING, PREDICTIVE = EarlyStopping("asha", 1, 2), EarlyStopping("predictive", 1, 2)
RULES: dict[str, Callable[[Strategy, Problem], Strategy]] = {
    "plain": lambda strategy, problem: strategy,
    "median": lambda strategy, problem: Median(strategy, GOAL, EarlyStopping("median", min_trials=3)),
    "asha": lambda strategy, problem: Asha(strategy, GOAL, HALVING),
    "patience": lambda strategy, problem: Patience(Asha(strategy, GOAL, HALVING), GOAL, replace(HALVING, patience=2)),
    "predictive": lambda strategy, problem: Predictive(strategy, Surrogate(problem, prior.load()), GOAL, PREDICTIVE),
}
COMBINATIONS = list(itertools.product(PLAIN, RULES))
every_combination = pytest.mark.parametrize(("name", "rule"), COMBINATIONS, ids=["-".join(c) for c in COMBINATIONS])


def make(name: str, rule: str = "plain", space: Space = fakes.DISCRETE, **more: object) -> Strategy:
    problem = Problem(space, GOAL, seed=3, images=IMAGES, **more)  # type: ignore[arg-type]
    return RULES[rule](PLAIN[name](problem), problem)


def run(
    strategy: Strategy, folder: Path, slots: int = 1, budget: Budget = Budget(), events: list[Event] | None = None
) -> list[Event]:
    """Drive a strategy over made-up curves; goes on where `events` stop."""
    events = [] if events is None else list(events)
    search = Search(Study(events), strategy, GOAL, budget, laws.identity(), events.append)
    executor = SimulatedExecutor(fakes.Fake().train, slots)
    Driver([search], executor, Trainings(folder), clock=executor.clock).run()
    return events


@every_combination
@pytest.mark.parametrize("slots", [1, 3])
def test_a_study_has_exactly_its_trials_and_keeps_its_laws(name: str, rule: str, slots: int, tmp_path: Path) -> None:
    events = run(make(name, rule), tmp_path, slots, Budget(trials=12))
    study = laws.check(events, trials=12)
    assert study.closed == "budget"
    assert any(trial.state is State.COMPLETE for trial in study.trials)


@every_combination
def test_a_fresh_instance_given_the_same_trials_answers_the_same(name: str, rule: str, tmp_path: Path) -> None:
    events = run(make(name, rule), tmp_path, 2, Budget(trials=9))
    kept, followed = make(name, rule), Study()
    asked = 0
    for event in events:
        followed.apply(event)
        if isinstance(event, Start | type(events[0])) or len(followed.running) < 2:
            asked += 1
            assert kept.propose(followed, 2) == make(name, rule).propose(followed, 2), (len(followed), event)
    assert asked > 9


@every_combination
def test_no_point_is_proposed_twice_and_a_space_used_up_ends_the_study(name: str, rule: str, tmp_path: Path) -> None:
    study = laws.check(run(make(name, rule), tmp_path, 3))
    assert len(study.trials) == fakes.DISCRETE.size() == 18
    assert study.closed == "exhausted"


@pytest.mark.parametrize("name", PLAIN)
def test_points_to_start_with_come_first_and_infeasible_ones_cost_neither_number_nor_epoch(
    name: str, tmp_path: Path
) -> None:
    wanted = ({"learning_rate": 0.1, "activation": "leaky_relu", "slope": 0.2, "epochs": 4}, {"learning_rate": 0.001})
    study = laws.check(run(make(name, start_with=wanted), tmp_path))
    first, second, *_ = laws.params_of(study)
    assert first == wanted[0]
    assert second["learning_rate"] == 0.001
    assert len(study.trials) == 18

    def feasible(params: Params) -> str | None:
        return "too large" if params["learning_rate"] == 0.1 else None

    study = laws.check(run(make(name, feasible=feasible), tmp_path, 2))
    assert len(study.trials) == 12
    assert all(trial.params["learning_rate"] != 0.1 for trial in study.trials)


def test_bayesian_goes_on_the_same_after_any_interruption(tmp_path: Path) -> None:
    """Cut the journal behind an event of any kind, as a kill does, and go on."""
    whole = run(make("bayesian", space=fakes.SPACE), tmp_path, 1, Budget(trials=20))
    for cut in range(1, len(whole), 25):
        resumed = run(make("bayesian", space=fakes.SPACE), tmp_path, 1, Budget(trials=20), whole[:cut])
        assert laws.params_of(laws.check(resumed, trials=20)) == laws.params_of(Study(whole))


def test_tpe_begins_with_the_points_of_random_search_and_finds_better_ones(tmp_path: Path) -> None:
    told = [run(make(name, space=fakes.SPACE), tmp_path, 1, Budget(trials=12)) for name in ("tpe", "random")]
    tpe, random = (laws.params_of(Study(events)) for events in told)
    assert tpe[:STARTUP] == random[:STARTUP]
    assert tpe[STARTUP:] != random[STARTUP:]
    # paired over 20 seeds on a smooth curve: Student's 99 % interval of the gain lies above 0
    gains = []
    for seed in range(20):
        values = []
        for make_one in (Tpe, Random):
            strategy = make_one(Problem(fakes.SPACE, GOAL, seed=seed))
            study = Study(run(strategy, tmp_path, 1, Budget(trials=40)))
            best = GOAL.best(study.trials)
            assert best is not None
            values.append(GOAL.value(best) or 0.0)
        gains.append(values[0] - values[1])
    error = statistics.stdev(gains) / math.sqrt(len(gains))
    assert statistics.mean(gains) > 2.86 * error, gains


CHANGED = Space(
    (
        Parameter("learning_rate", Choice((0.001, 0.03, 0.1))),  # without 0.01, with 0.03
        *fakes.DISCRETE.parameters[1:-1],
        Parameter("clip", Choice((0.0, 1.0))),  # by default 0
        fakes.DISCRETE["epochs"],
    )
)


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("rule", ["plain", "asha", "predictive"])  # the others look at curves alone
def test_after_a_change_of_the_space_old_trials_stay_and_new_ones_obey(name: str, rule: str, tmp_path: Path) -> None:
    """Every point of the new space is tried once, those that an old trial has with the default included."""
    trained = 7 if rule == "plain" else 3
    begun = run(make(name, rule), tmp_path, 1, Budget(trials=trained))
    filled = functools.partial(with_defaults, space=CHANGED, defaults={"clip": 0.0})
    limit = Constraint("clip <= 0 or epochs <= 2")

    def changed() -> Strategy:
        start_with = ({"clip": 1.0, "epochs": 2},)
        more = {"constraints": (limit,), "whole": filled, "start_with": start_with}
        return make(name, rule, CHANGED, feasible=lambda p: None if limit.holds(p) else "no", **more)

    whole = run(changed(), tmp_path, 1, Budget(), begun)
    cut = run(changed(), tmp_path, 1, Budget(trials=trained + 2), begun)
    assert laws.params_of(Study(run(changed(), tmp_path, 1, Budget(), cut))) == laws.params_of(Study(whole))
    study = laws.check(whole)
    later = laws.params_of(study)[trained:]
    assert study.trials[:trained] == Study(begun).trials or rule != "plain"
    assert later[0]["clip"] == 1.0, "the new point to start with"
    assert all(laws.is_point(params, CHANGED) and limit.holds(params) for params in later)
    tried = Counter(frozen(filled(trial.params)) for trial in study.trials)
    assert set(tried.values()) == {1}
    assert {frozen(p) for p in ParameterGrid(CHANGED.parameters) if limit.holds(p)} <= set(tried)


def test_a_grid_keeps_its_order_when_a_point_is_skipped_and_a_huge_one_is_never_built() -> None:
    everything = [frozen(p) for p in _starts(make("grid"), 18)]
    skipping = make("grid", feasible=lambda p: "no" if frozen(p) == everything[3] else None)
    assert [frozen(p) for p in _starts(skipping, 17)] == [p for p in everything if p != everything[3]]
    digits = Choice(tuple(range(10)))
    space = Space((*(Parameter(f"p{i}", digits) for i in range(30)), Parameter("epochs", Choice((1,)))))
    assert len({frozen(p) for p in _starts(make("grid", space=space), 50)}) == 50


@given(size=st.integers(min_value=0, max_value=3000), seed=st.text(max_size=5))
@settings(max_examples=60)
def test_a_permutation_gives_each_number_once(size: int, seed: str) -> None:
    assert sorted(permutation(size, seed)) == list(range(size))


def test_asha_promotes_the_best_third_and_pauses_the_rest(tmp_path: Path) -> None:
    strategy = Asha(Random(Problem(fakes.SPACE, GOAL, seed=1)), GOAL)
    events = run(strategy, tmp_path, 4, Budget(trials=60))
    study = laws.check(events, trials=60)
    at_first = [t for t in study.trials if t.epochs > 1]
    promoted = [t for t in at_first if t.epoch > 1]
    assert len(promoted) == pytest.approx(len(at_first) / 3, abs=4)
    assert study.epochs < 60 * 4.66 / 2
    cost = {t.number: GOAL.cost(t.reports[0]) for t in at_first}
    best_third = sorted(cost, key=cost.__getitem__)[: len(at_first) // 3]
    assert len(set(best_third) & {t.number for t in promoted}) >= 0.9 * len(best_third)


def test_median_spares_epochs_and_keeps_the_best(tmp_path: Path) -> None:
    full = Study(run(make("random", space=fakes.SPACE), tmp_path, 2, Budget(trials=60)))
    cut = Study(run(make("random", "median", fakes.SPACE), tmp_path, 2, Budget(trials=60)))
    assert laws.params_of(full) == laws.params_of(cut)
    assert cut.epochs < 0.8 * full.epochs
    assert GOAL.best(cut.trials).number == GOAL.best(full.trials).number  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["patience", "median"])
def test_patience_ends_a_trial_where_keras_would_and_what_it_passed_counts(kind: Any, tmp_path: Path) -> None:
    space = Space((Parameter("rate", Range(1e-4, 1.0, False, True)), Parameter("epochs", Choice((27,)))))
    goal, wait, least = Goal(epochs=range(1, 28)), 5, 6
    inner = Random(Problem(space, goal, 1))
    rule = EarlyStopping(kind, least, interval=3, epochs=wait, patience=wait)
    resting = Median(inner, goal, EarlyStopping("median", least, interval=3, min_trials=100))  # and stopping none
    within = inner if kind == "patience" else resting
    study = learned(Patience(within, goal, rule), goal, Budget(trials=40))
    assert {trial.state for trial in study.trials} == {State.PRUNED, State.COMPLETE}
    for trial in study.trials:
        whole = learn(Job("", trial.params, study.trainings[trial.training].seed, 0, 27, 0, tmp_path))
        curve = [report.metrics["val_accuracy"] for report in whole]
        stale = (epoch for epoch in range(least, 28) if epoch - (curve.index(max(curve[:epoch])) + 1) >= wait)
        assert trial.epoch == next(stale, 27)
        assert (trial.state is State.COMPLETE) == (trial.epoch == 27)
        assert goal.value(trial) == max(curve[: trial.epoch])
    assert study.epochs == sum(trial.epoch for trial in study.trials) < 0.9 * 40 * 27


RARE = tuple(Constraint(f"b{i + 1} == 2 * b{i}") for i in range(7))  # 3 of 10^8 combinations
POWERS = Choice(tuple(2**k for k in range(10)))
CHAIN = (*(Parameter(f"b{i}", POWERS) for i in range(8)), Parameter("epochs", Choice((1,))))


@pytest.mark.parametrize("more", [(), (Parameter("rate", Range(0.1, 0.9, False)),)])
@pytest.mark.parametrize("name", ["random", "tpe"])
def test_points_that_hardly_any_draw_is_are_found(name: str, more: tuple[Parameter, ...]) -> None:
    wanted = {"feasible": lambda p: None if all(one.holds(p) for one in RARE) else "breaks one", "constraints": RARE}
    strategy = make(name, space=Space((*CHAIN, *more)), start_with=({"b3": 16},), **wanted)
    found = _starts(strategy, 3) if name == "random" else _starts(strategy, 1)
    assert [p["b3"] for p in found][:1] == [16]
    assert all(p["b7"] == 128 * p["b0"] for p in found)


@pytest.mark.parametrize("name", ["random", "grid"])
def test_a_rare_space_is_exhausted_without_a_walk_through_all_of_it(name: str) -> None:
    """60 of 10^6 points meet the constraints, which say nothing of one parameter."""
    asked = 0

    def feasible(params: Params) -> str | None:
        nonlocal asked
        asked += 1
        return None if all(one.holds(params) for one in RARE[:4]) else "breaks one"

    space = Space((*CHAIN[:5], Parameter("free", Choice(tuple(range(10)))), CHAIN[-1]))
    strategy = make(name, space=space, feasible=feasible, constraints=RARE[:4])
    found = _starts(strategy, 60)
    assert len({frozen(params) for params in found}) == 60
    decisions = make(name, space=space, feasible=feasible, constraints=RARE[:4]).propose(Study(), 1_000)
    assert len(decisions) == 60, "and no more"
    assert asked < 10_000


def _starts(strategy: Strategy, count: int) -> list[Params]:
    decisions = strategy.propose(Study(), count)
    assert len(decisions) == count
    return [decision.params for decision in decisions if isinstance(decision, Start)]


LENGTHS, SEEDS = (3, 9, 27), range(12)
STOPPED: dict[str, tuple[Callable[[Strategy, Goal], Strategy], int]] = {  # a rule, epochs of 20 to 30 trials
    "median": (lambda strategy, goal: Median(strategy, goal, EarlyStopping("median", 3)), 400),
    "asha": (lambda strategy, goal: Asha(strategy, goal, EarlyStopping("asha", 3)), 300),
}


def learn(job: Job) -> Iterator[Report]:
    """A made-up curve: what a point can do, how fast, and noise."""
    rate, width, dropout = (float(job.params.get(name, 0.1)) for name in ("rate", "width", "dropout"))
    top = 0.97 - 0.067 * (math.log10(rate) + 2) ** 2 - 0.02 * abs(math.log2(width / 32)) - 0.15 * abs(dropout - 0.2)
    speed, rng = 0.25 * (1 + rate**0.3), random.Random(job.seed)
    for epoch in range(1, epochs_of(job.params) + 1):
        value = max(0.05, top - 0.7 * math.exp(-speed * epoch) + rng.gauss(0, 0.01))
        yield Report(epoch, {"val_accuracy": value}, 1.0, 0.0)


def learned(strategy: Strategy, goal: Goal, budget: Budget) -> Study:
    search, executor = Search(Study(), strategy, goal, budget, laws.identity()), SimulatedExecutor(learn, 1)
    Driver([search], executor, Trainings(Path("unused"), goal), clock=executor.clock).run()
    return search.study


def searched(name: str, rule: str, lengths: Sequence[int], seed: int) -> float:
    rates, drops = Range(1e-4, 1.0, False, True), Range(0.0, 0.6, False)
    others = Parameter("width", Choice((8, 16, 32, 64))), Parameter("epochs", Choice(tuple(lengths)))
    space = Space((Parameter("rate", rates), Parameter("dropout", drops), *others))
    goal = Goal(epochs=LENGTHS if rule == "asha" else lengths)
    extended = partial(goal.extended, feasible=lambda params: None)
    problem, (stopping, budget) = Problem(space, goal, seed, extended=extended), STOPPED[rule]
    study = learned(stopping(PLAIN[name](problem), goal), goal, Budget(total_epochs=budget))
    best = goal.best(study.trials)
    assert best is not None
    return goal.value(best) or 0.0


@pytest.mark.parametrize("lengths", [LENGTHS[-1:], LENGTHS], ids=["fixed", "searched"])
@pytest.mark.parametrize("rule", STOPPED)
def test_tpe_is_not_worse_than_random_under_the_same_rule(rule: str, lengths: Sequence[int]) -> None:
    """The mean paired difference over 12 seeds is above -0.003.

    Over 100 seeds it is between 0.006 (standard deviation 0.016) and 0.019, so with 12 others a correct search
    fails in 3 of 100 tries at most (median) and in 1 of 1,000 (asha); with these seeds never, as all is deterministic.
    """
    values = [[searched(name, rule, lengths, seed) for name in ("tpe", "random")] for seed in SEEDS]
    assert statistics.mean(tpe - other for tpe, other in values) > -0.003


@pytest.mark.parametrize("name", PLAIN)
def test_under_early_stopping_a_point_has_the_longest_training_that_is_feasible(name: str) -> None:
    values = Choice((1, 2, 3)), Choice(("step", "cosine")), Choice((2, 4, 8))
    space = Space(tuple(map(Parameter, ("width", "schedule", "epochs"), values)))
    goal = Goal(epochs=(2, 4, 8), unsafe=("schedule", "cosine"))

    def feasible(params: Params) -> str | None:
        return "too long" if params["width"] == 3 and params["epochs"] == 8 else None

    extended = partial(goal.extended, feasible=feasible)
    problem = Problem(space, goal, feasible=feasible, extended=extended, images=IMAGES)
    study = learned(Asha(PLAIN[name](problem), goal, EarlyStopping("asha", 2, 2)), goal, Budget())
    points = [(trial.params["width"], trial.params["schedule"], trial.epochs) for trial in study.trials]
    assert len(points) == len(set(points))
    assert {(width, epochs) for width, schedule, epochs in points if schedule == "step"} == {(1, 8), (2, 8), (3, 4)}
    assert len([schedule for _, schedule, _ in points if schedule == "cosine"]) == 3 * 3 - 1, "these are all others"


def test_tpe_learns_the_value_of_a_trial_that_rests() -> None:
    """Twelve that rest are good and twelve complete ones bad: to Optuna any complete trial would be better."""
    space = Space((Parameter("learning_rate", Range(1e-4, 1.0, False, log=True)), Parameter("epochs", Choice((9,)))))
    goal, study = Goal(epochs=(3, 9)), Study()
    for number in range(24):
        good, key = number % 2 == 0, f"t{number}"
        params = {"learning_rate": (1e-3 if good else 1e-1) * (1 + number / 100), "epochs": 9}
        study.apply(Started(0.0, number, params, 0, key, 0, 3 if good else 9))
        for epoch in range(1, 4 if good else 10):
            report = Report(epoch, {"val_accuracy": 0.9 if good else 0.1}, 1.0, 0.0)
            study.apply(core.Reported(key, report))
        study.apply(core.Paused(0.0, number) if good else core.Ended(0.0, number, State.COMPLETE))
    decisions = [Tpe(Problem(space, goal, seed)).propose(study, 1) for seed in range(10)]
    rates = [one.params["learning_rate"] for (one,) in decisions if isinstance(one, Start)]
    assert sum(float(rate) < 1e-2 for rate in rates) >= 8, rates


def test_where_names_say_nothing_tpe_is_random_search_until_ten_trials_have_come_to_a_third() -> None:
    space = Space((Parameter("x", Range(0, 1, False)), Parameter("epochs", Choice((9,)))))
    problem = Problem(space, Goal(epochs=(1, 3, 9)))
    for far in (9, 10):
        study = Study()
        for number in range(24):
            (start,) = Random(problem).propose(study, 1)
            study.apply(Started(0.0, number, start.params, 0, f"t{number}", 0, 3))
            for epoch in range(1, 4 if number < far else 2):
                study.apply(core.Reported(f"t{number}", Report(epoch, {"val_accuracy": 0.5}, 1.0, 0.0)))
            study.apply(core.Paused(0.0, number))
        proposed, drawn = (strategy.propose(study, 1) for strategy in (Tpe(problem, late=True), Random(problem)))
        assert (proposed == drawn) == (far < 10)
