"""Delivery to a real MLflow: its SQLite store, its server, and a server that misbehaves."""

import math
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import refused
from mlflow_fixtures import Script, check_delivered, send, sync_of_lists, tracked_study, until_well
from mlflow_real import MlflowClient, Proxy, Server, fresh_store, kept, mlflow_server, mlflow_store

from hpo.core import Ended, Outcome, Report, Reported, State
from hpo.journal import Journal
from hpo.tracking import sync as tracking
from hpo.tracking.runs import Change, MetricPoint, Run, TrackedStudy
from hpo.tracking.study_sync import Gone, Outage
from hpo.tracking.sync import Sync

__all__ = ["mlflow_server"]


@pytest.fixture(autouse=True)
def _mlflow_behaves(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in tracking.ENVIRONMENT.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")


def sync_to(uri: str, one: TrackedStudy, script: Script) -> Sync:
    return sync_of_lists([(one, script.events)], mlflow_store.connect, uri)


def busy_script() -> Script:
    """One trial of every fate, NaN and an infinity among the metrics."""
    script = Script()
    script.complete(dropout=0.25, note="")
    number = script.start()
    script.add(Reported("t1", Report(1, {"val_accuracy": math.nan, "val_loss": math.inf}, 0.5, script.tick())))
    script.end(number, State.FAILED, Outcome.NAN, "val_loss is not a number at epoch 1")
    script.start()
    script.report(2)
    script.end(2, State.PRUNED)
    script.start()
    script.report(3)
    return script


def test_the_thread_feeds_sqlite_sending_again_adds_nothing_and_artifacts_lie_under_mlruns_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, script = tmp_path / "a b#c 50% ü", busy_script()
    for folder in ("plots", "elsewhere"):
        (tmp_path / folder).mkdir()
    (tmp_path / "plots" / "best.png").write_bytes(b"png")
    monkeypatch.chdir(tmp_path / "elsewhere")
    uri = fresh_store(state)
    texts = {"study.yaml": "name: digits"}
    one = tracked_study(tmp_path / "run", texts=texts, artifacts=(tmp_path / "plots",), experiment="a/../b c")
    one = replace(one, journal=tmp_path / "run" / "real.db")
    with Journal.open(one.journal) as journal, tracking.Tracker([one], uri) as tracker:
        for event in script.events:
            journal.append(event)
        assert tracker.drain(60) == 0
        assert tracker.close(60) == 0
    counts = []
    for _ in range(2):
        check_delivered(kept(uri, one.experiment), one, script.events, live=False)
        with closing(sqlite3.connect(state / "mlflow.db")) as database:
            tables = ("runs", "metrics", "params", "tags")
            counts.append([database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables])
        send(sync_to(uri, one, script), most=1)
    assert counts[0] == counts[1]
    assert counts[0][0] == 5
    files = [path.relative_to(state).as_posix() for path in sorted(state.rglob("*")) if path.is_file()]
    artifacts = [name for name in files if name.startswith("mlruns/")]
    assert [name.rpartition("/")[2] for name in artifacts] == ["best.png", "study.yaml"]
    assert [name for name in files if name not in artifacts] == ["mlflow.db"]
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_what_was_deleted_in_the_ui_comes_back_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    uri, script, one = fresh_store(tmp_path / "state"), busy_script(), tracked_study(tmp_path / "run")
    client = MlflowClient(uri, uri)
    sync = sync_to(uri, one, script)
    until_well(sync, live=True, most=1)
    experiment = client.get_experiment_by_name("digits")
    for damage in ("run", "experiment", "everything"):
        runs = client.search_runs([experiment.experiment_id])
        if damage == "run":
            client.delete_run(next(run.info.run_id for run in runs if run.data.tags.get("hpo.trial") == "3"))
        else:
            client.delete_experiment(experiment.experiment_id)
        if damage == "everything":
            for run in client.search_runs([experiment.experiment_id], run_view_type=2):
                client._tracking_client.store._hard_delete_run(run.info.run_id)
            client._tracking_client.store._hard_delete_experiment(experiment.experiment_id)
        if script.study.trials[3].epoch < 3:
            script.report(3)
        else:
            script.add(Ended(script.tick(), 3, State.COMPLETE))
        until_well(sync, live=True, most=2)
        check_delivered(kept(uri, "digits"), one, script.events, live=True)
    sync.close()
    said = [record.message for record in caplog.records if "restored" in record.message]
    assert len(said) == 2


@pytest.fixture
def store(tmp_path: Path) -> Iterator[mlflow_store.MlflowStore]:
    with closing(mlflow_store.connect(fresh_store(tmp_path), "x", {})) as store:
        yield store


TRIAL = Run("r", {"hpo.kind": "trial"}, {}, "RUNNING", 1_000, None)


def test_a_refused_part_holds_nothing_up(store: mlflow_store.MlflowStore, caplog: pytest.LogCaptureFixture) -> None:
    run = store.create(TRIAL)
    store.write(run, Change(params={"a": "1"}))
    points = [MetricPoint("m", 1.0, 1, 1)]
    store.write(run, Change(params={"a": "2"}, points=points, tags={"t": "x"}, status="FINISHED", ended=2_000))
    data = store._client.get_run(run)
    assert (data.data.params, data.data.metrics, data.data.tags["t"]) == ({"a": "1"}, {"m": 1.0}, "x")
    assert data.info.status == "FINISHED"
    assert [message[:25] for message in caplog.messages] == ["MLflow refuses the params"]


def test_a_run_that_is_not_there_is_gone_and_a_corrupt_database_is_an_outage(
    store: mlflow_store.MlflowStore, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Gone):
        store.write("0" * 32, Change(tags={"a": "b"}))
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("DROP TABLE tags")
    assert "no such table: tags" in refused(Outage, store.create, TRIAL)
    assert "Traceback" not in capfd.readouterr().err


def test_a_database_that_is_away_is_said_to_be_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow itself sleeps and tries again for 100 s, whatever `hpo sync --timeout` says."""
    pytest.importorskip("psycopg", reason="the extra postgres is not installed")
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits"))
    with pytest.raises(Outage, match=r"postgresql\+psycopg://me:\*\*\*@127\.0\.0\.1:1/db: .*refused"):
        mlflow_store.connect("postgresql+psycopg://me:s3cret@127.0.0.1:1/db", "s", {})


CROWD = """
import os, platform, sys
from pathlib import Path
from hpo.tracking import store as mlflow_store
from hpo.tracking.runs import Run
from hpo.tracking.ui import sqlite_uri

def child(folder, number):
    store = mlflow_store.connect(sqlite_uri(folder / "mlflow.db"), "crowd", {"who": str(number)})
    store.create(Run(f"r{number}", {"hpo.kind": "trial"}, {}, "RUNNING", 1, None))

for folder in map(Path, sys.argv[1:]):
    folder.mkdir()
    for end in ("", "-journal"):  # what a process leaves that is killed while it makes the store
        (folder / f".saving-{platform.node()}+999999999-1-ab-mlflow.db{end}").write_bytes(b"half")
    children = []
    for number in range(8):
        pid = os.fork()
        if not pid:
            try:
                child(folder, number)
            except BaseException as error:
                print(repr(error), flush=True)
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    store = mlflow_store.connect(sqlite_uri(folder / "mlflow.db"), "crowd", {})
    print(len(store.find({})), flush=True)
    store.close()
"""


@pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_eight_processes_at_once_on_a_fresh_folder(times: int, tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in range(times)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CROWD, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert "Traceback" not in done.stderr
    assert done.stdout == "8\n" * times
    for folder in folders:
        assert [path.name for path in folder.iterdir()] == ["mlflow.db"]
        with closing(sqlite3.connect(folder / "mlflow.db")) as database:
            assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


TROUBLES = {
    "500": "it answers with status 500",
    "429": "it answers with status 429",
    "html": "what answers there is no MLflow",
    "400 html": "it answers with status 400",
    "hang": "no answer in time",
    "cut": "the connection broke",
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_server_in_trouble_loses_nothing_and_doubles_nothing(
    mlflow_server: Server, tmp_path: Path, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1" if trouble == "hang" else "10")
    name, proxy, script = f"trouble {trouble}", Proxy(mlflow_server.url), Script()
    one = tracked_study(tmp_path / "run", experiment=name, texts={"study.yaml": "name: digits"})
    sync = sync_to(proxy.url, one, script)
    proxy.mode = trouble  # away at the start,
    assert not sync.round(live=True)
    assert sync.trouble == f"{proxy.url}: {TROUBLES[trouble]}"
    proxy.mode = ""
    script.complete()
    until_well(sync, live=True, most=3)
    proxy.mode = trouble  # in the middle,
    script.start()
    script.report(1)
    assert not sync.round(live=True)
    assert not sync.round(live=True)
    assert sync.studies[0].run() is not None  # whatever answered was not MLflow, so nothing is known to be gone
    proxy.release.set()
    proxy.mode = ""
    until_well(sync, live=True, most=3)
    script.report(1)
    proxy.mode = trouble  # and at the end
    assert not sync.round(live=False)
    proxy.mode = ""
    until_well(sync, live=False, most=3)
    sync.close()
    proxy.close()
    check_delivered(kept(mlflow_server.url, name), one, script.events, live=False)


def test_a_server_that_is_not_there_is_said_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    proxy = Proxy("http://127.0.0.1:9")
    proxy.close()
    with closing(sync_to(proxy.url, tracked_study(tmp_path), Script())) as sync:
        assert not sync.round(live=True)
    assert sync.trouble == f"{proxy.url}: connection refused"
    assert capfd.readouterr().err.count("Traceback") == 0


def test_files_and_odd_values_arrive(mlflow_server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "report.html").write_text("<p>report")
    texts, script = {"study.yaml": "name: digits", "search_spaces/cnn.yaml": "x: 1"}, busy_script()
    one = tracked_study(tmp_path / "run", experiment="odd values", texts=texts, artifacts=(tmp_path / "report.html",))
    with closing(sync_to(mlflow_server.url, one, script)) as sync:
        until_well(sync, live=False, most=1)
        artifacts = MlflowClient(mlflow_server.url).list_artifacts(sync.studies[0].run())
    assert [artifact.path for artifact in artifacts] == ["report.html", "search_spaces", "study.yaml"]
    assert "MLflow refuses" not in caplog.text
    check_delivered(kept(mlflow_server.url, "odd values"), one, script.events, live=False)


pieces = st.builds(
    Change,
    params=st.dictionaries(st.text(max_size=5), st.just("1"), max_size=230),
    points=st.integers(0, 2_300).map(lambda n: [MetricPoint("m", 0.0, i, i) for i in range(n)]),
    tags=st.dictionaries(st.text(max_size=3), st.just("x"), max_size=30),
)


@given(pieces)
def test_batches_hold_everything_once_within_the_limits_and_tags_come_last(change: Change) -> None:
    batches = list(mlflow_store.batches(change))
    assert [item for batch in batches for item in batch.params.items()] == list(change.params.items())
    assert [point for batch in batches for point in batch.points] == list(change.points)
    assert [dict(batch.tags) for batch in batches if batch.tags] == ([dict(change.tags)] if change.tags else [])
    assert all(len(batch.params) <= 100 and len(batch.points) <= 1_000 for batch in batches)
    assert all(len(batch.params) + len(batch.points) + len(batch.tags) <= 1_000 for batch in batches)
    assert not change.tags or batches[-1].tags
