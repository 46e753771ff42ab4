"""The best is the best: which epoch of a trial counts, and that what is said of it can be had again."""

import itertools
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import fakes
import laws
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import LOST, NAN, Scripted
from studied import Place

from hpo import api, core
from hpo.cli.console import Utilization
from hpo.cli.summary import (
    best_lines,
    exit_code,
    fallen_lines,
    result_json,
    status_json,
    status_table,
    summary_lines,
    trial_json,
    trial_lines,
)
from hpo.commands import reproduce, sync
from hpo.commands.best import refit
from hpo.commands.confirm import as_read
from hpo.commands.run import RunOptions, run
from hpo.comparison.compare import best_so_far
from hpo.core import BestSoFar, Event, Goal, Job, Limits, Report, Reported, State, Study, Trial, training_seed
from hpo.engine.driver import Driver
from hpo.engine.result import PUBLISHED, Published, Result, StudyStatus, read_result, statuses
from hpo.engine.search import Search
from hpo.engine.trainings import Trainings
from hpo.errors import EnvironmentFailed
from hpo.execution.job_runner import JobRunner, RunningJob
from hpo.journal import Journal
from hpo.publishing.publish_best import Order
from hpo.space.domains import Choice, Parameter
from hpo.space.space import Space
from hpo.strategies.early_stopping import Asha, Median
from hpo.strategies.points import Grid, Problem, Random
from hpo.study_file.spec import Budget, EarlyStopping
from hpo.training import checkpoints

SCHEDULE = Parameter("schedule", Choice(("constant", "cosine")))


def identity(params: core.Params, repeat: int) -> tuple[str, int]:
    seed = training_seed(0, params, repeat)
    return core.training_key(params, seed, {}, params["schedule"] != "cosine"), seed


def jagged(job: Job, epoch: int) -> dict[str, float]:
    """A curve of few levels that goes up and down, so that there are ties, and better epochs than the last."""
    level = (job.seed // 7 ** (epoch % 9) + 3 * epoch) % 6
    return {"val_accuracy": math.nan if level == 5 and epoch % 3 == 0 else level / 5}


def strategy(rule: str, goal: Goal, space: Space, seed: int) -> core.Strategy:
    problem = Problem(space, goal, seed)
    if rule == "grid":
        return Grid(problem)
    wrapped = Random(problem)
    own = EarlyStopping("median" if rule == "median" else "asha", 1, 2, 2, 2)
    if rule == "median":
        return Median(wrapped, goal, own)
    return Asha(wrapped, goal, own) if rule == "asha" else wrapped


def counting(trial: Trial, goal: Goal) -> Iterator[float]:
    """The rule in other words: the values that a trial may be read at."""
    ends = [epoch for epoch in range(1, len(trial.reports) + 1) if epoch in goal.epochs]
    if trial.params.get("schedule") == "cosine":
        ends = []
    if trial.state is State.COMPLETE:
        ends.append(len(trial.reports))
    values = [report.metrics["val_accuracy"] for report in trial.reports]
    if goal.at == "best":
        yield from (value for value in values[: max(ends, default=0)] if value == value)
    else:
        yield from (values[end - 1] for end in ends if values[end - 1] == values[end - 1])


@given(
    rule=st.sampled_from(["random", "grid", "asha", "median"]),
    lengths=st.sampled_from([(8,), (2, 4, 8), (3, 5, 6, 7)]),
    at=st.sampled_from(["last", "best"]),
    slots=st.integers(1, 4),
    cuts=st.lists(st.integers(1, 60), max_size=2),
    wrong=st.dictionaries(st.tuples(st.integers(0, 4), st.integers(1, 6)), st.sampled_from([LOST, NAN]), max_size=5),
    seed=st.integers(0, 3),
)
@settings(max_examples=50 * laws.MORE)
def test_the_best_never_falls_is_the_best_of_all_that_counts_and_its_state_is_kept(
    rule: str,
    lengths: tuple[int, ...],
    at: str,
    slots: int,
    cuts: list[int],
    wrong: dict[tuple[int, int], str],
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("best")
    space = Space((fakes.DISCRETE["learning_rate"], SCHEDULE, Parameter("epochs", Choice(lengths))))
    spec_rungs = EarlyStopping("median" if rule == "median" else "asha", 1, 2, 2, 2).rungs(8)
    resting = rule in ("asha", "median") and lengths == (8,)
    goal = Goal(at=at, epochs=spec_rungs if resting else lengths, unsafe=core.UNSAFE)

    def script(key: str, epoch: int, before: int) -> str:
        return "" if before else wrong.get((int(key, 16) % 5, epoch), "")

    events: list[Event] = []
    for visit, cut in enumerate([*cuts, 10_000]):
        written, executor = list(events), Scripted(slots, script, now=visit * 1e5, metrics=jagged)
        made = strategy(rule, goal, space, seed)
        search = Search(Study(written), made, goal, Budget(trials=10), identity, written.append)
        Driver([search], executor, Trainings(folder, goal), clock=executor.clock).run()
        events = written[: len(events) + cut]
    follow(events, goal)
    (best, study) = search.best, search.study
    if best is not None:
        reading = goal.reading(best)
        assert reading is not None
        assert reading.epoch in checkpoints.epochs(folder, best.training), "published without training again"
        assert best == goal.best(study.trials)
        if resting:
            paused = [trial for trial in study.with_state(State.PAUSED) if trial.epoch >= trial.until]
            assert all(trial.epoch in goal.epochs for trial in paused), "the rungs of the file are those of the rule"


def follow(events: Sequence[Event], goal: Goal) -> None:
    """Event by event: kept up to date, made anew from the study, and looked for by brute force, it is the same."""
    study = Study()
    kept, last = BestSoFar(study, goal), -math.inf
    for event in events:
        study.apply(event)
        kept.follow(event)
        anew = BestSoFar(study, goal)
        assert (kept.trial, kept.at) == (anew.trial, anew.at)
        value = max((value for trial in study.trials for value in counting(trial, goal)), default=-math.inf)
        assert (-math.inf if kept.trial is None else goal.value(kept.trial)) == value >= last
        assert kept.trial in (None, goal.best(study.trials))
        last = value
    points = best_so_far(events, goal)
    assert not points or (points[-1].value, points[-1].best) == (last, kept.trial and kept.trial.number)
    assert [point.value for point in points] == sorted(point.value for point in points)


DIGITS: dict[str, Any] = {
    "name": "best",
    "strategy": "random",
    "data": {"source": "digits", "limit": 200},
    "search_space": {"blocks": 1, "channels": [4, 8], "batch_size": 32, "learning_rate": [0.005, 0.05, 0.2]},
    "device": "cpu",
    "execution": "inline",
    "tracking": False,
    "budget": {"trials": 6},
}
ONE = {"blocks": 1, "channels": 4, "batch_size": 16, "optimizer": "adam", "learning_rate": 0.1}  # best after epoch 7
STUDIES: dict[str, dict[str, Any]] = {
    "grid": {"strategy": "grid", "seed": 5, "search_space": {**ONE, "epochs": [4, 5, 6, 7, 8]}, "budget": {}},
    "random and asha": {"epochs": 6, "early_stopping": {"type": "asha", "reduction": 2}},
    "bayesian and asha": {"epochs": [2, 4, 6], "early_stopping": {"type": "asha", "reduction": 2}, "trials": 12},
    "median": {"epochs": 5, "early_stopping": {"type": "median", "min_trials": 2}},
    "cosine": {"epochs": [2, 4], "schedule": ["cosine", "constant"], "early_stopping": "asha"},
    "at best": {"epochs": 6, "metric": {"name": "val_accuracy", "at": "best"}},
}
SCORE = """
import json, sys
from pathlib import Path
from hpo import api
from hpo.engine import components
from hpo.engine.result import read_result
from hpo.training.evaluation import score
for path in sys.argv[1:]:
    result = read_result(spec := api.load(path), Path(path).parent)
    ready = components.recipe(spec, result.data(), "cpu").setup()
    val, test = (score(ready, result.best.params, result.checkpoint(), split) for split in ("val", "test"))
    print(json.dumps(val | test))
"""


def study(folder: Path, name: str) -> Path:
    own = dict(STUDIES[name])
    space = own.pop("search_space", {**DIGITS["search_space"], "epochs": own.pop("epochs", 0)})
    space |= {"schedule": own.pop("schedule")} if "schedule" in own else {}
    budget = {"trials": own.pop("trials")} if "trials" in own else own.pop("budget", DIGITS["budget"])
    strategy = "bayesian" if name.startswith("bayesian") else "random"
    given = {**DIGITS, "strategy": strategy, **own, "search_space": space, "budget": budget}
    (folder / "study.yaml").write_text(json.dumps(given))
    return folder / "study.yaml"


def cut_twice(folder: Path, name: str) -> Result:
    """A study that was killed twice and came to its end."""
    spec, heard = api.load(study(folder, name)), 0

    def cut(search: Search, event: Event) -> None:
        nonlocal heard
        heard += isinstance(event, Reported)
        if heard in (3, 7) and isinstance(event, Reported):
            raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            run(spec, RunOptions(folder, listeners=[cut]))
    return run(spec, RunOptions(folder))


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    return {name: cut_twice(tmp_path_factory.mktemp("best"), name) for name in STUDIES}


def test_the_best_of_any_study_can_be_had_again_in_a_fresh_process_as_the_report_says(ended: dict[str, Result]) -> None:
    command = [sys.executable, "-c", SCORE, *(str(result.spec.path) for result in ended.values())]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    for result, found in zip(ended.values(), map(json.loads, lines), strict=True):
        assert result.published is not None and not result.published.failed
        assert found["val_accuracy"] == pytest.approx(result.best_value, abs=1e-6)
        assert found["test_accuracy"] == pytest.approx(result.test["test_accuracy"], abs=1e-6)
        values = [value for trial in result.study.trials for value in counting(trial, result.spec.goal)]
        assert result.best_value == max(values)
        assert reproduce.reproduce(result, result.best.number).identical


@pytest.mark.parametrize("name", ["grid", "random and asha"])
def test_a_torn_state_costs_time_only(ended: dict[str, Result], name: str) -> None:
    result = ended[name]
    (path := result.checkpoint()).write_bytes(path.read_bytes()[:-100])
    result.folders.model_figures.unlink()
    again = run(result.spec, RunOptions(result.folders.state))
    assert again.published is not None and result.published is not None
    assert dict(again.published.test) == pytest.approx(dict(result.published.test))


def test_a_shorter_reading_is_refitted_and_confirmed_at_its_epoch(ended: dict[str, Result]) -> None:
    result = ended["grid"]
    goal, best = result.spec.goal, result.best
    reading = goal.reading(best)
    assert reading is not None
    assert reading.epoch == 7 < best.epochs, "the case"
    again = refit(result, {})
    assert again.epoch == reading.epoch
    assert as_read(goal, best)["epochs"] == reading.epoch


def test_of_the_states_above_the_cap_finished_ones_go_first_then_the_worst_at_their_rung(tmp_path: Path) -> None:
    for key in ("needed", "best at its rung", "worst at its rung", "finished"):
        checkpoints.path(tmp_path, key, 1).parent.mkdir()
        checkpoints.path(tmp_path, key, 1).write_bytes(bytes(100))
    kept = [sorted(one.name for one in tmp_path.iterdir())]
    for cap in (300, 200, 100, 0):
        checkpoints.prune(tmp_path, cap, {"needed"}, ["worst at its rung", "best at its rung"])
        kept.append(sorted(one.name for one in tmp_path.iterdir()))
    gone = [set(before) - set(after) for before, after in itertools.pairwise(kept)]
    assert gone == [{"finished"}, {"worst at its rung"}, {"best at its rung"}, set()]


def test_the_place_of_a_resting_trial_is_that_among_all_that_came_as_far(tmp_path: Path) -> None:
    goal = Goal()
    space = Space((fakes.DISCRETE["learning_rate"], SCHEDULE, Parameter("epochs", Choice((8,)))))
    executor = Scripted()
    made = Asha(Random(Problem(space, goal)), goal, EarlyStopping("asha", 2, 3))
    search = Search(Study(), made, goal, Budget(trials=4, total_epochs=9), identity)
    Driver([search], executor, Trainings(tmp_path), clock=executor.clock).run()
    resting = dict(search.resting())
    trials = sorted((t for t in search.study.trials if t.epoch >= 2), key=lambda t: goal.cost(t.reports[1]))
    places = [resting.get(trial.training) for trial in trials if trial.training in resting and trial.epoch == 2]
    assert places == sorted(places) != []
    assert search.study.interrupted(), "a trial that was cut short of its rung has no place there"
    assert search.study.interrupted()[0].training not in resting


def test_two_drivers_of_one_name_leave_each_others_states_alone(tmp_path: Path) -> None:
    """The second is at work on the same first points, in the middle of the first, and has no room for any state."""
    place, seen = Place.made(tmp_path), 0
    own = {"budget": {"trials": 4}, "search_space": {"rate": [0.1, 0.2, 0.4], "width": [1, 2], "epochs": 4}}
    second = place.spec(**own, strategy="bayesian", execution={"engine": "inline", "checkpoints": "1KiB"})
    second = replace(second, execution=replace(second.execution, checkpoints=0))

    def amid(search: Search, event: Event) -> None:
        nonlocal seen
        seen += isinstance(event, Reported)
        if seen == 6 and isinstance(event, Reported):
            before = set(tmp_path.rglob("*.ckpt"))
            run(second, place.options)
            assert len(before) == 3
            assert before <= set(tmp_path.rglob("*.ckpt"))

    first = run(place.spec(**own), replace(place.options, listeners=[amid]))
    assert seen == 16
    later = run(replace(second, budget=Budget(trials=5)), place.options)
    left = {path.parent.name for path in tmp_path.rglob("*.ckpt")}
    assert left == {first.best.training, later.best.training}, "alone it leaves the other what that may publish"


def test_epochs_trained_again_after_a_state_was_lost_are_no_cost_and_signs_of_life(tmp_path: Path) -> None:
    limits = Limits(report_seconds=30, trial_seconds=5)
    job = Job("key", {"epochs": 9, "learning_rate": 0.1}, 0, 0, 9, 3, Path(), limits)
    running = RunningJob(job, since=0.0, last_message=0.0)
    for epoch in (1, 2, 3):
        assert running.overdue(20.0 * epoch) is None
        running.take_in(20.0 * epoch, Reported("key", Report(epoch, {}, 20.0, 0.0)))
    assert running.overdue(64.9) is None
    over = running.overdue(65.1)
    assert over is not None
    assert (over.outcome, over.lost) == (core.Outcome.TIMEOUT, False)
    lasting = fakes.Fake(pause=0.002)
    told = list(JobRunner(lasting()).run(replace(job, folder=tmp_path, limits=Limits(trial_seconds=0.005))))
    assert [one.report.epoch for one in told if isinstance(one, Reported)] == [1, 2, 3, 4, 5, 6], "3 x 2 ms of its own"


def test_a_best_that_could_not_be_published_is_no_success(tmp_path: Path, monkeypatch: Any, caplog: Any) -> None:
    def fails(*order: object) -> None:
        raise EnvironmentFailed("no room to publish")

    monkeypatch.setattr("hpo.publishing.publish_best.publish", fails)
    spec = api.load(study(tmp_path, "grid"))
    result = run(spec, RunOptions(tmp_path))
    assert exit_code(result) == 4
    assert [record.message for record in caplog.records] == ["no room to publish"]
    assert "model:  not published: no room to publish" in list(best_lines(result))
    assert "hpo sync" not in "".join(summary_lines(result, Utilization(1))), "the reason has its own remedy"
    monkeypatch.setattr("hpo.publishing.publish_best.publish", lambda *order: Published(model="models:/m-1"))
    assert exit_code(run(spec, RunOptions(tmp_path))) == 0


@pytest.mark.parametrize(
    ("sets", "kept", "begins"),
    [
        ([], 60.0, ["nearly over"]),
        (["budget.time=9s"], 60.0, ["early"]),
        (["budget.patience=900"], 60.0, ["early"]),
        (["budget.patience=900"], -1.0, ["early", "nearly over"]),
    ],
)
def test_the_process_that_publishes_begins_with_what_may_be_the_last_trials_and_ends(
    sets: list[str], kept: float, begins: list[str], tmp_path: Path, monkeypatch: Any
) -> None:
    begun: list[subprocess.Popen[bytes]] = []
    given: list[object] = []
    heard: list[str] = []

    def begin(to_mlflow: bool) -> object:
        heard.append("nearly over" if len(trials) >= spec.budget.trials / 2 else "early")  # type: ignore[operator]
        begun.append(subprocess.Popen(["sleep", "60"]))
        return begun[-1]

    trials: set[object] = set()
    monkeypatch.setattr("hpo.publishing.publish_best.KEPT", kept)
    monkeypatch.setattr("hpo.publishing.publish_best.begin", begin)
    monkeypatch.setattr("hpo.publishing.publish_best.publish", lambda order, own: given.append(own) or Published())
    for step in ("draw_search", "write_report"):
        monkeypatch.setattr(f"hpo.commands.report.{step}", lambda *study: None)
    spec = api.load(study(tmp_path, "cosine"), sets=sets)
    run(spec, RunOptions(tmp_path, listeners=[lambda search, event: trials.update(search.study.running)]))
    assert heard == begins
    assert given == (begun if kept > 0 else [None]), "one that waited for too long is gone"
    assert all(process.poll() is not None for process in begun)
    run(spec, RunOptions(tmp_path))  # nothing is left to train
    assert heard == begins


@dataclass
class Elsewhere:
    """A tracker: run is the study's in the store at uri, None where that does not answer."""

    uri: str
    run: str | None
    undelivered: int = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None: ...

    def drain(self, timeout: float) -> int:
        return 0

    def holds(self, model: str) -> bool:
        return True

    def parent(self, journal: Path) -> str | None:
        return self.run

    def ui_address(self) -> str:
        return ""


def test_a_model_is_published_again_in_a_store_that_has_it_not(tmp_path: Path, monkeypatch: Any) -> None:
    orders: list[str | None] = []

    def published(order: Order, begun: object) -> Published:
        orders.append(order.run)
        return Published(model=order.run and f"models:/{order.run}", failed=order.run is None, said="logged")

    monkeypatch.setattr("hpo.publishing.publish_best.publish", published)
    monkeypatch.setattr("hpo.publishing.publish_best.nearly_over", lambda search: False)
    for step in ("draw_search", "write_report"):
        monkeypatch.setattr(f"hpo.commands.report.{step}", lambda *study: None)
    spec = api.load(study(tmp_path, "cosine"))
    said = []
    for uri, run_id in zip("aaaabbcca", ("1", "1", None, "2", "3", None, None, "4", "2"), strict=True):
        monkeypatch.setattr("hpo.commands.run.start_tracker", lambda *a, to=Elsewhere(uri, run_id): to)
        result = run(spec, RunOptions(tmp_path))
        result.folders.model_figures.touch()
        said.append(result.published and result.published.model)
    assert orders == ["1", "2", "3", None, "4", "2"]
    for uri, run_id, lines in (("a", "2", ""), ("a", "5", "logged"), ("a", "5", ""), ("a", None, "")):
        monkeypatch.setattr(sync, "Tracker", lambda *a, to=Elsewhere(uri, run_id): to)
        assert sync.log_due(spec, result.folders, uri) == lines
    assert orders[6:] == ["5"]
    assert said == [one and f"models:/{one}" for one in ("1", "1", "1", "2", "3", "3", None, "4", "2")]


def test_of_trials_that_read_one_training_a_complete_one_is_best() -> None:
    reports = (Report(1, {"val_accuracy": 0.5}, 1.0, 1.0),)
    states = [("a", State.FAILED), ("b", State.COMPLETE), ("a", State.COMPLETE), ("a", State.PAUSED)]
    trials = [Trial(k, {"epochs": 1}, 0, key, 1, reports, state) for k, (key, state) in enumerate(states)]
    for order in itertools.permutations(trials):
        assert [one.number for one in Goal(epochs=(1,)).ranked(order)] == [2, 0, 3, 1]


def test_a_model_is_shown_beside_the_reading_it_was_published_of_only(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("hpo.publishing.publish_best.publish", lambda *order: Published(model="models:/m-1"))
    result = run(api.load(study(tmp_path, "grid")), RunOptions(tmp_path))
    assert result_json(read_result(result.spec, tmp_path))["model"] == "models:/m-1"
    with Journal.open(result.folders.journal) as journal:
        key, published = json.loads(journal.get(PUBLISHED) or "")
    for changed in ({"epoch": 1}, {"trial": 99}):
        with Journal.open(result.folders.journal) as journal:
            journal.put(PUBLISHED, json.dumps([key | changed, published]))
        stored = read_result(result.spec, tmp_path)
        assert result_json(stored)["model"] is None and "model:" not in "".join(best_lines(stored))


def test_a_best_read_before_its_end_is_shown_so(tmp_path: Path) -> None:
    result = run(api.load(study(tmp_path, "grid")), RunOptions(tmp_path, publish=False))
    assert f", epoch 7 of {result.best.epochs}" in next(best_lines(result))
    cells = [*status_table(result.spec, statuses(result.spec, tmp_path)).columns[5].cells]
    assert f"(trial {result.best.number}, epoch 7 of {result.best.epochs})" in str(cells)
    best, trials = result.best, result.study.trials
    for epoch in (7, 8):  # what is said of the model is of its own epoch
        reports = tuple(replace(one, missed="1 of 2 (cat)" if one.epoch == epoch else "") for one in best.reports)
        trials[best.number] = replace(best, reports=reports)
        assert ("classes never predicted: 1 of 2 (cat) in epoch 7" in "".join(best_lines(result))) == (epoch == 7)
    first = replace(best.reports[0], metrics={**best.reports[0].metrics, "val_accuracy": 1.0})
    trials.append(replace(best, number=len(trials), state=State.PAUSED, reports=(first,)))
    clause = f", epoch 1 of {best.epochs}; counts from epoch 4 on"
    assert f"        trial {trials[-1].number} has 1.0000{clause}" in list(best_lines(result))
    for trial in trials:
        head, value, *_ = trial_lines(result, trial, 0)
        assert (head.endswith("  <- best"), clause in value) == (trial == result.best, trial is trials[-1])
    assert [*result.trials.counts] == [True] * (len(trials) - 1) + [False]
    del trials[:-1]  # so that nothing counts
    status = StudyStatus(result.folders, result.study, "", result.spec.goal)
    assert trial_json(result, trials[0])["counts"] is status_json(status)["best"]["counts"] is False
    assert (
        repr(result).splitlines()[1].startswith(f"best: trial {trials[0].number}, val_accuracy 1.0000{clause}   (.best")
    )
    assert next(best_lines(result)).endswith(
        f" 1.0000{clause} (as no trial counts yet, the best of those trained longest)"
    )


@pytest.mark.parametrize(("images", "test", "said"), [(30, 0.67, True), (30, 0.8, False), (3000, 0.9, True)])
def test_a_test_accuracy_that_chance_does_not_explain_is_said(images: int, test: float, said: bool) -> None:
    data = SimpleNamespace(val=range(images), test=range(images))
    spec = SimpleNamespace(metric=SimpleNamespace(name="val_accuracy"))
    result: Any = SimpleNamespace(best_value=28 / 30, dataset=data, spec=spec)
    line = f"the test is {28 / 30 - test:.2f} lower, more than chance makes it: {images} images chose this trial"
    assert [one.lstrip() for one in fallen_lines(result, {"test_accuracy": test})] == [line] * said
