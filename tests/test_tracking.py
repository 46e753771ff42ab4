"""What reaches MLflow, whatever happens on the way: an MLflow that is a dict (the real one: test_mlflow_server.py)."""

import math
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st
from laws import refused, tables
from mlflow_fixtures import (
    FakeMlflow,
    FakeStore,
    Kept,
    Script,
    check_delivered,
    new_sync,
    scripted,
    send,
    studies,
    sync_of_lists,
    tracked_study,
    until_well,
)

from hpo.cli.main import cli
from hpo.commands.sync import sync_these
from hpo.core import Continued, Event, Goal, Opened, Outcome, Paused, Report, Reported, Scored, Started, State
from hpo.errors import BadInput, Conflict
from hpo.files import DriverLock, Folders, log_file
from hpo.journal import Journal
from hpo.study_file import reader
from hpo.tracking import sync as tracking
from hpo.tracking.runs import LONGEST_PARAM, ComparisonInfo, History, TrackedStudy, legal, note, trial_run
from hpo.tracking.study_sync import Outage
from hpo.tracking.sync import Sync
from hpo.tracking.ui import sqlite_path, sqlite_uri, tracking_uri, ui_address
from hpo.training.diagnosis import diagnosis_of

TABLES = tables("mlflow_tables")
faults = st.lists(st.sampled_from(["", "", "", "before", "after"]), max_size=60)


def child(server: FakeMlflow, trial: int) -> Kept:
    return next(run for run in server.alive() if run.tags.get("hpo.trial") == str(trial))


def parent(server: FakeMlflow) -> Kept:
    return next(run for run in server.alive() if run.tags["hpo.kind"] == "study")


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def server() -> FakeMlflow:
    return FakeMlflow()


@pytest.fixture
def one(tmp_path: Path) -> TrackedStudy:
    return tracked_study(tmp_path / "random-0")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> TrackedStudy:
    """For a test of many examples: their journals are lists."""
    return tracked_study(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def sync(server: FakeMlflow, one: TrackedStudy, script: Script) -> Iterator[Sync]:
    with closing(new_sync(server, one, script.events)) as sync:
        yield sync


def delivered(one: TrackedStudy, script: Script, live: bool = False) -> FakeMlflow:
    server = FakeMlflow()
    send(new_sync(server, one, script.events), live)
    return server


# -- the law: whatever happens, MLflow ends up with what the journal says ------------------------------------------


@given(studies, faults, st.lists(st.integers(0, 40), max_size=4))
@settings(max_examples=150)
def test_nothing_is_missing_and_nothing_double_after_faults_and_kills(
    shared: TrackedStudy, events: list[Event], troubles: list[str], cuts: list[int]
) -> None:
    server = FakeMlflow(iter(troubles))
    shared = replace(shared, goal=replace(shared.goal, epochs={1, 2}))  # so that some are read before their last epoch
    for cut in sorted(cuts):  # drivers that were killed after so many events, with whatever they had sent
        with closing(new_sync(server, shared, events[:cut])) as sync:
            sync.round(live=True)
            sync.round(live=True)
    with closing(new_sync(server, shared, events)) as sync:
        until_well(sync, live=False)
        until_well(sync, live=False)
    check_delivered(server.alive(), shared, events, live=False)


@given(studies, st.integers(1, 5), st.booleans())
@settings(max_examples=60)
def test_following_a_journal_is_reading_it(shared: TrackedStudy, events: list[Event], step: int, live: bool) -> None:
    def runs(size: int) -> list[tuple[object, ...]]:
        server, seen = FakeMlflow(), list[Event]()
        with closing(new_sync(server, shared, seen)) as sync:
            for first in range(0, len(events), size):
                seen += events[first : first + size]
                assert sync.round(live=True)
            assert sync.round(live=live)
        told = [run for run in server.alive() if not live or run.tags["hpo.kind"] == "trial"]  # a study's note waits
        rows = [(r.name, r.tags, r.params, r.status, r.ended, sorted(r.points, key=repr)) for r in told]
        return sorted(rows, key=lambda row: row[0])

    assert runs(step) == runs(len(events))


def test_a_round_without_news_makes_no_call_and_a_later_driver_sends_only_what_is_new(
    sync: Sync, server: FakeMlflow, one: TrackedStudy, script: Script
) -> None:
    for _ in range(20):
        script.complete()
    log = log_file(one.journal.parents[1], script.study.trials[3].training)
    log.parent.mkdir()
    log.write_text("printed")
    assert sync.round(live=True)
    calls = server.calls
    assert sync.round(live=True)
    assert server.calls == calls
    assert [run.tags["hpo.trial"] for run in server.alive() if run.files == {"log.txt": b"printed"}] == ["3"]
    script.close()
    assert sync.round(live=False)
    calls = server.calls
    send(new_sync(server, one, script.events))
    assert server.calls - calls <= 2  # what is RUNNING of dead drivers, and what there is of this study


# -- how runs look -------------------------------------------------------------------------------------------------


def test_a_trial_is_a_child_run_with_params_metrics_and_the_original_times(one: TrackedStudy, script: Script) -> None:
    script.complete(dropout=0.25)
    server = delivered(one, script)
    run, over = child(server, 0), parent(server)
    assert server.runs[run.tags["mlflow.parentRunId"]] is over
    assert run.params == {"learning_rate": "0.1", "act": "relu", "dropout": "0.25", "epochs": "3"}
    times = [round(e.report.time * 1000) for e in script.events if isinstance(e, Reported)]
    assert [(p.step, p.time) for p in run.points if p.name == "val_loss"] == list(zip((1, 2, 3), times, strict=True))
    assert run.started == round(script.study.trials[0].started * 1000)
    assert run.ended == round(script.now * 1000)
    expected = {"study": "digits", "strategy": "random", "seed": "0", "trial": "0", "state": "complete"}
    expected |= {"outcome": "ok", "attempt": "1"}
    assert {f"hpo.{name}": text for name, text in expected.items()}.items() <= run.tags.items()
    assert (run.tags["mlflow.user"], run.tags["mlflow.source.name"]) == ("someone", "study.yaml")
    assert run.tags["mlflow.source.git.commit"] == "0123abc"


@pytest.mark.parametrize(("history", "live", "state", "status"), TABLES["standings"])
def test_status_is_honest(one: TrackedStudy, script: Script, history: str, live: bool, state: str, status: str) -> None:
    script.start()
    script.report(0)
    if history in ("paused", "continued"):
        script.add(Paused(script.tick(), 0))
    if history == "continued":
        script.add(Continued(script.tick(), 0, 3))
    if history in ("complete", "pruned"):
        script.end(0, State(history))
    if history == "failed":
        script.end(0, State.FAILED, Outcome.NAN, "not a number")
    if history in ("stopped", "spent"):
        script.close("interrupted" if history == "stopped" else "budget")
    run = child(delivered(one, script, live), 0)
    assert (run.tags["hpo.state"], run.status) == (state, status)
    assert (run.ended is None) == (status == "RUNNING")


@pytest.mark.parametrize(("reason", "status"), TABLES["reasons"].items())
def test_the_parent_says_why_the_driver_left(one: TrackedStudy, script: Script, reason: str, status: str) -> None:
    script.complete()
    if reason:  # else the driver vanished
        script.close(reason)
    run = parent(delivered(one, script))
    assert (run.status, run.tags["hpo.state"], run.tags["hpo.driver"]) == (status, reason or "interrupted", "none")


def test_best_so_far_and_a_test_score_stand_at_the_epochs_spent(one: TrackedStudy) -> None:
    script = Script(epochs=2)
    for values in ((0.1, 0.5), (0.9, 0.4), (0.2, 0.7)):
        number = script.start()
        for value in values:
            script.report(number, value)
        script.end(number)
    script.add(Scored(script.tick(), 2, {"test_accuracy": 0.875}))
    script.close()
    server = delivered(one, script)
    assert [(p.name, p.value, p.step) for p in parent(server).points] == [
        ("best_val_accuracy", 0.5, 2),
        ("best_val_accuracy", 0.5, 4),  # the value of a trial is its last epoch's, so 0.9 was none
        ("best_val_accuracy", 0.7, 6),
        ("test_accuracy", 0.875, 6),
    ]
    assert [(p.value, p.step) for p in child(server, 2).points if p.name == "test_accuracy"] == [(0.875, 2)]


@given(studies, st.booleans())
@settings(max_examples=60)
@example(events=scripted([0, 0, 1, 55, 0, 0, 1, 1, 1]), maximize=True)
def test_the_best_trial_of_the_parent_is_the_goals(events: list[Event], maximize: bool) -> None:
    goal = Goal("val_accuracy", maximize, epochs={1, 2})
    history = History(TrackedStudy(Path(), "digits", "random", 0, goal))
    points = [point.value for event in events for point in history.apply(event) if point.name == "best_val_accuracy"]
    assert points == sorted(points, reverse=not maximize)
    counting = [trial for trial in history.study.trials if goal.counted(trial)]
    assert not goal.best(counting) or history.best == goal.best(counting)


def test_a_trial_that_rests_lasts_no_less_than_nothing_and_has_its_diagnosis(one: TrackedStudy, script: Script) -> None:
    history = History(TrackedStudy(Path(), "digits", "random", 0, Goal()))
    reused = Reported("t", Report(1, {"val_accuracy": 0.5}, 1.0, 7.0), reused=True)  # trained before this trial began
    for event in (Opened(9.0, {}), Started(10.0, 0, {"epochs": 3}, 0, "t", 0, 1), reused, Paused(11.0, 0)):
        history.apply(event)
    run = trial_run(history, history.study.trials[0], live=True, parent="p")
    assert run.ended == run.started == 10_000
    script.complete()
    script.start()
    server = delivered(one, script, live=True)
    diagnosis = diagnosis_of(script.study.trials[0])
    assert diagnosis is not None
    assert child(server, 0).tags["hpo.diagnosis"] == diagnosis.tag == "healthy"
    assert child(server, 0).tags["mlflow.note.content"] == diagnosis.sentence
    assert child(server, 1).tags["hpo.diagnosis"] == ""


def test_the_note_names_the_best_trial(tmp_path: Path) -> None:
    script = Script(epochs=1)
    script.start(act="a|b")
    script.report(0, 0.875)
    script.end(0)
    script.start()
    script.end(1, State.FAILED, Outcome.OOM, "out of memory")
    script.add(Scored(script.tick(), 0, {"test_accuracy": 0.9}))
    script.close()
    history = History(tracked_study(tmp_path, registered="digits-cnn"))
    for event in script.events:
        history.apply(event)
    assert note(history).splitlines() == [
        "2 trials (1 complete, 1 failed), 1 epoch. Stopped by: budget.",
        "",
        "**Best: trial 0**, val_accuracy **0.875** (tested: test_accuracy 0.9)",
        "",
        "| parameter | value |",
        "|---|---|",
        "| learning_rate | 0.1 |",
        "| act | a\\|b |",
        "| epochs | 1 |",
        "",
        "Best model: `models:/digits-cnn@champion`",
    ]


def test_what_mlflow_would_refuse_is_made_legal_and_says_so(one: TrackedStudy) -> None:
    script = Script(epochs=1)
    number = script.start(**{"lr(x)": 0.1, "lr[x]": 0.2, "text": "y" * 10_000})
    script.add(Reported("t0", Report(1, {"loss(%)": math.inf, "val_accuracy": 1.0}, 0.5, script.tick())))
    script.end(number, State.FAILED, Outcome.CRASHED, "z" * 20_000)
    run = child(delivered(one, script), 0)
    assert {name for name in run.params if name.startswith("lr")} == {"lr_x_-c5332b", "lr_x_-" + legal("lr[x]")[-6:]}
    assert len(run.params) == 6
    assert len(run.params["text"]) == LONGEST_PARAM
    assert run.params["text"].endswith(" ... (10000 characters)")
    assert run.tags["mlflow.note.content"].endswith(" ... (20030 characters)")  # the error, and behind it the diagnosis
    assert [str(p.value) for p in run.points if p.name.startswith("loss")] == ["nan"]


@given(st.text(max_size=300), st.text(max_size=300))
def test_names_stay_distinct_and_legal_ones_stay(one: str, other: str) -> None:
    assert (legal(one) == legal(other)) == (one == other)
    assert len(legal(one)) <= 250
    assert legal(legal(one)) == legal(one)


# -- outages -------------------------------------------------------------------------------------------------------


def test_mlflow_away_costs_nothing_but_waiting_longer_each_time_and_is_said_once(
    sync: Sync, server: FakeMlflow, one: TrackedStudy, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    script.complete()
    server.away = True
    waits = []
    for _ in range(9):
        assert not sync.round(live=True)
        waits.append(sync.wait)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert (sync.undelivered(), sync.trouble) == (len(script.events), "connection refused")
    server.away = False
    assert sync.round(live=False)
    assert (sync.undelivered(), sync.trouble, sync.wait) == (0, "", 1)
    assert caplog.messages == [
        "MLflow cannot be reached (connection refused); nothing is lost, and the rest is sent later",
        "MLflow is back after 0 s; nothing is missing",
    ]
    check_delivered(server.alive(), one, script.events, live=False)


def test_a_run_that_came_too_late_is_removed(sync: Sync, server: FakeMlflow, one: TrackedStudy, script: Script) -> None:
    server.faults = iter(["", "", "", "before"])
    script.complete()
    assert not sync.round(live=True)
    assert sync.round(live=True)
    late = child(server, 0)
    server.runs["late"] = Kept(late.name, dict(late.tags), late.started)
    until_well(sync, live=False)
    assert server.runs["late"].deleted
    check_delivered(server.alive(), one, script.events, live=False)


def test_what_a_power_cut_took_from_the_journal_is_replaced_in_mlflow(one: TrackedStudy, script: Script) -> None:
    """MLflow already had three trials of which the journal kept one; the second number went to another trial."""
    lost = Script()
    for _ in range(3):
        lost.complete()
    server = delivered(one, lost, live=True)
    script.complete()
    script.complete(act="tanh")
    script.close()
    send(new_sync(server, one, script.events))
    trials = [run for run in server.alive() if run.tags["hpo.kind"] == "trial"]
    assert sorted((run.tags["hpo.trial"], run.params["act"]) for run in trials) == [("0", "relu"), ("1", "tanh")]
    assert {run.status for run in server.alive()} == {"FINISHED"}


def test_a_study_that_a_driver_has_is_left_alone_and_one_set_aside_keeps_its_runs(
    tmp_path: Path, server: FakeMlflow
) -> None:
    place = Folders(tmp_path, "digits", "random", 0)
    (tmp_path / "study.yaml").write_text("name: digits\nsearch_space: {epochs: 1}\ndata: digits\nbudget: {trials: 1}\n")
    spec = reader.read_study(tmp_path / "study.yaml")
    lock = DriverLock(place.lock)
    assert "already running as pid" in refused(Conflict, sync_these, spec, [place])
    lock.release()
    for number in range(2):
        script = Script(now=1_700_000_000.0 + number * 1e6)
        script.complete()
        send(new_sync(server, tracked_study(tmp_path / str(number)), script.events))
    assert len(server.alive()) == 4


# -- what dead drivers left ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("driver", "status"), [("here:1", "RUNNING"), ("here:999", "KILLED"), ("there:999", "RUNNING")]
)
def test_runs_of_a_driver_that_is_gone_do_not_stay_running(
    script: Script, one: TrackedStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: str, status: str
) -> None:
    monkeypatch.setattr(tracking, "alive", lambda pid: pid != 999)
    monkeypatch.setattr(os, "uname", lambda: type("Name", (), {"nodename": "here"}))
    script.start()
    server = delivered(replace(one, driver=driver), script, live=True)  # as a SIGKILL leaves it
    other = Script(now=1_700_000_999.0)
    other.complete()
    send(new_sync(server, tracked_study(tmp_path / "b", driver="here:1"), other.events), live=True)
    assert {run.status for run in server.alive() if run.started < 1_700_000_900_000} == {status}


# -- comparisons ---------------------------------------------------------------------------------------------------


def test_a_comparison_is_one_grandparent_and_found_again(server: FakeMlflow, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    info = ComparisonInfo("digits/random,grid/0", "comparison", (report,))
    report.write_text("<p>random and grid")
    scripts = [Script(), Script(now=1_700_001_000.0)]
    feeds = [tracked_study(tmp_path / name, strategy=name, comparison=info) for name in ("random", "grid")]
    for again in (False, True):
        for script in scripts:
            script.add(Opened(script.tick(), {})) if again else None
        sync = sync_of_lists([(one, script.events) for one, script in zip(feeds, scripts, strict=True)], server.connect)
        until_well(sync, live=True)
        over = next(run for run in server.alive() if run.tags["hpo.kind"] == "comparison")
        assert (over.status, len(over.files)) == ("RUNNING", again)
        for script in scripts:
            script.complete()
            script.close("budget" if again else "interrupted")
        until_well(sync, live=False)
        sync.close()
        assert over.status == ("FINISHED" if again else "KILLED")
        assert over.files == {"report.html": b"<p>random and grid"}
    kinds = [run.tags["hpo.kind"] for run in server.alive()]
    assert (kinds.count("comparison"), kinds.count("study"), kinds.count("trial")) == (1, 2, 4)
    studies_of = [run for run in server.alive() if run.tags["hpo.kind"] == "study"]
    assert {server.runs[run.tags["mlflow.parentRunId"]].name for run in studies_of} == {"comparison"}


# -- artifacts -----------------------------------------------------------------------------------------------------


def test_artifacts_go_once_and_again_when_they_change_and_no_text_can_leave_them(
    server: FakeMlflow, script: Script, tmp_path: Path, one: TrackedStudy
) -> None:
    script.complete()
    (tmp_path / "plots" / "deep").mkdir(parents=True)
    (tmp_path / "report.html").write_text("<p>one")
    (tmp_path / "plots" / "a.png").write_bytes(b"a")
    (tmp_path / "plots" / "deep" / "b.png").write_bytes(b"b")
    paths = (tmp_path / "report.html", tmp_path / "plots", tmp_path / "missing.csv")
    texts = {"study.yaml": "name: digits", "search_spaces/cnn.yaml": "x: 1"}
    one = tracked_study(tmp_path, texts=texts, artifacts=paths)
    sync = new_sync(server, one, script.events)
    assert sync.round(live=True)
    assert set(parent(server).files) == set(texts)
    assert sync.round(live=False)
    assert set(parent(server).files) == {*texts, "report.html", "a.png", "deep/b.png"}
    calls = server.calls
    assert sync.round(live=False)
    assert server.calls == calls
    (tmp_path / "report.html").write_text("<p>two")
    assert sync.round(live=False)
    sync.close()
    assert (server.calls, parent(server).files["report.html"]) == (calls + 1, b"<p>two")
    assert "evil" in refused(AssertionError, delivered, replace(one, texts={"../evil": "x"}), script)


# -- the thread ----------------------------------------------------------------------------------------------------


@pytest.fixture
def journal(tmp_path: Path, script: Script) -> Iterator[Journal]:
    """On disk, with one trial that is complete."""
    script.complete()
    with Journal.open(tmp_path / "real" / "journal.db") as journal:
        for event in script.events:
            journal.append(event)
        yield journal


@pytest.fixture
def real(journal: Journal, one: TrackedStudy) -> TrackedStudy:
    return replace(one, journal=journal.path)


def test_a_hanging_mlflow_holds_no_driver_up(real: TrackedStudy, server: FakeMlflow, script: Script) -> None:
    release = threading.Event()

    def hang(uri: str, experiment: str, tags: object) -> FakeStore:
        release.wait()
        raise Outage("timed out")

    tracker = tracking.Tracker([real], "http://fake", connect=hang)
    tracker.start()
    assert tracker.drain(0.01) == len(script.events)
    assert tracker.close(0.01) == len(script.events)
    release.set()
    tracker._thread.join()
    assert Sync([real], "http://fake", server.connect).deliver() == ""
    check_delivered(server.alive(), real, script.events, live=False)


@pytest.mark.parametrize(("lasted", "took", "refuses"), [(4.9, 0.1, False), (5.0, 0.1, True), (500.0, 1.0, False)])
def test_only_an_mlflow_that_refuses_at_once_for_a_while_is_not_waited_for(
    lasted: float, took: float, refuses: bool, real: TrackedStudy, server: FakeMlflow
) -> None:
    clock, server.away = [0.0], True
    one = Sync([real], "http://fake", server.connect, now=lambda: clock[0])
    assert not one.round(live=True)
    clock[0] = lasted
    assert not one.round(live=True)
    assert one.refuses(took) == refuses
    server.away = False
    assert one.round(live=True)
    assert not one.refuses(took)


def test_an_mlflow_that_refuses_does_not_hold_the_end_up_and_sync_delivers_later(
    real: TrackedStudy, server: FakeMlflow, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tracking.Tracker([real], "http://fake").close() == len(script.events), "never started"
    monkeypatch.setattr(tracking, "REFUSED", 0.0)
    server.away = True
    with tracking.Tracker([real], "http://fake", connect=server.connect) as tracker:
        assert tracker.drain(10_000) == len(script.events)
        assert tracker.close(10_000) == len(script.events)
    server.away = False
    assert Sync([real], "http://fake", server.connect).deliver() == ""
    check_delivered(server.alive(), real, script.events, live=False)


def test_sync_gives_up_after_its_time_and_says_what_is_missing(real: TrackedStudy, server: FakeMlflow) -> None:
    clock = [0.0]
    server.away = True

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    trouble = Sync([real], "http://fake", server.connect, lambda: clock[0]).deliver(60, sleep)
    assert trouble == "connection refused"
    assert clock[0] == 31  # 1 + 2 + 4 + 8 + 16, and 32 more would be too late


def test_a_bug_in_the_delivery_is_said_and_tried_again(
    real: TrackedStudy, server: FakeMlflow, caplog: pytest.LogCaptureFixture
) -> None:
    bugs = iter([TypeError("of ours at http://a:s3cret@host")] * 4)

    def connect(uri: str, experiment: str, tags: object) -> FakeStore:
        for bug in bugs:
            raise bug
        return FakeStore(server)

    one, waits = tracking.Sync([real], "http://fake", connect), []
    tracker = tracking.Tracker([real], "http://fake", connect=connect)
    tracker._sync = one
    for _ in range(3):
        assert not tracker._round(live=True)
        waits.append(one.wait)
    assert waits == [1, 2, 4]
    with tracker:
        assert tracker.drain(60) == 0
        assert tracker.close(60) == 0
    assert caplog.text.count("tracking failed by a bug of hpo: TypeError: of ours at http://a:***@host") == 1


def test_a_delivery_that_nobody_waits_for_any_more_begins_no_further_study(
    server: FakeMlflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feeds = [tracked_study(tmp_path / name, strategy=name) for name in ("random", "grid", "bayesian")]
    one = sync_of_lists([(feed, [Opened(1.0, {})]) for feed in feeds], server.connect)
    first, sent = one.studies[0], list[str]()
    for study in one.studies:
        monkeypatch.setattr(study, "upload", lambda *_, name=study.tracked.strategy, **__: sent.append(name))
    send_first = first.send
    monkeypatch.setattr(first, "send", lambda *given: [send_first(*given), setattr(one, "abandoned", True)])
    one.round(live=True)
    assert (sent, one.undelivered()) == (["random"], 2)


def test_the_environment_is_as_it_was_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "7")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    before = dict(os.environ)
    with tracking.mlflow_environment():
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "7"
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    assert dict(os.environ) == before


# -- where MLflow is -----------------------------------------------------------------------------------------------


def where(state: Path = Path(), environ: str = "", **tracking: str) -> str:
    study = {"name": "x", "data": "digits", "search_space": {"epochs": 3}, "tracking": tracking}
    return tracking_uri(reader.read_study(study), state, {"MLFLOW_TRACKING_URI": environ})


def test_the_study_file_goes_before_environment_and_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert where(tmp_path, "http://there:5000", uri="https://here") == "https://here"
    assert where(tmp_path, "http://there:5000") == "http://there:5000"
    assert where(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.chdir(tmp_path)  # where a relative one is
    assert where(Path("elsewhere"), uri="sqlite:///mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"
    line = "MLFLOW_TRACKING_URI: must be an MLflow server or database, got ./mlruns;"
    assert refused(BadInput, where, tmp_path, "./mlruns").startswith(line)


def test_addresses_of_the_ui_and_of_a_folder_with_odd_characters() -> None:
    path = Path("/a b/c#d/50%20?/ü/mlflow.db")
    assert sqlite_path(sqlite_uri(path)) == path
    view = "workflowType=machine_learning&viewStateShareKey=hpo-trials"
    assert ui_address("http://host:5000/", "3") == f"http://host:5000/#/experiments/3/runs?{view}"
    assert ui_address("http://host:5000", None) == "http://host:5000/?workflowType=machine_learning"
    assert ui_address("sqlite:////tmp/mlflow.db", "3") == "", "hpo ui serves it"


@pytest.mark.parametrize("case", TABLES["refused"], ids=lambda case: case["rule"])
def test_what_is_no_uri_of_an_mlflow_is_refused_without_its_password(case: dict[str, Any]) -> None:
    for uri in case["got"]:
        shown = uri.replace("s3cret", "***")
        line = f"study tracking.uri: must be {case['rule']}, got {shown}; {case['remedy']}"
        assert refused(BadInput, where, uri=uri) == line


@pytest.mark.parametrize(
    ("command", "needed"), [*zip(("run", "compare", "sync", "ui"), TABLES["drivers"], strict=True)]
)
def test_a_database_without_its_driver_is_refused_before_anything_is_made(
    command: str, needed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command with another database; what is installed here is hidden."""
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text("name: s\ndata: digits\nsearch_space: {epochs: [1, 2]}\nbudget: {trials: 20}\n")
    scheme, package, remedy = needed
    monkeypatch.setitem(sys.modules, {"mysqlclient": "MySQLdb"}.get(package, package), None)
    if command == "sync":
        Journal.open(tmp_path / "studies" / "s" / "random-0" / "journal.db").close()
    before = sorted(tmp_path.rglob("*"))
    done = CliRunner().invoke(cli, [command, "--set", f"tracking.uri={scheme}://me:s3cret@host/db"])
    line = f"--set tracking.uri: needs the package {package}, got {scheme}://me:***@host/db, and none here; {remedy}"
    assert isinstance(done.exception, BadInput) and str(done.exception) == line
    assert sorted(path for path in tmp_path.rglob("*") if not path.name.endswith(("-shm", "-wal"))) == before
