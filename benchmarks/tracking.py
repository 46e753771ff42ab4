"""How fast a study reaches MLflow, and what that costs the process it happens in.

    python -m benchmarks.tracking [--trials 200] [--epochs 20]

The same made-up study goes through the tracker (batches) and through the calls a script makes (`log_metric` one at a
time, with a run id), to MLflow's SQLite store and to an MLflow server on the loopback. Ratios are of one run; a script's share is measured on its first trials and extrapolated to all.

    delay     how much longer an append to the journal takes while the writer thread is sending, as a share of an epoch
              of 50 ms: what training could at most be held up by, because the driver never waits for the thread
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from mlflow import MlflowClient

from benchmarks.measuring import machine
from hpo.core import Closed, Ended, Event, Goal, Opened, Params, Reason, Report, Reported, Started, State
from hpo.journal import Journal
from hpo.tracking import sync as tracking
from hpo.tracking.runs import TrackedStudy
from hpo.tracking.store import connect
from hpo.tracking.ui import sqlite_uri

METRICS = ("train_loss", "val_loss", "val_accuracy", "val_balanced_accuracy", "val_macro_f1", "train_skill", "spikes")
SCRIPTED = 5  # trials the script's way is measured on
EPOCH = 0.05  # seconds


def events(trials: int, epochs: int, now: float = 1.7e9) -> Iterator[Event]:
    yield Opened(now, {"commit": "0" * 7})
    for trial in range(trials):
        params: Params = {"learning_rate": 0.1 / (trial + 1), "width": 16, "activation": "relu", "epochs": epochs}
        yield Started(now, trial, params, 0, f"t{trial}", 7, epochs)
        for epoch in range(1, epochs + 1):
            now += EPOCH
            yield Reported(f"t{trial}", Report(epoch, dict.fromkeys(METRICS, epoch / (trial + 1)), EPOCH, now))
        yield Ended(now, trial, State.COMPLETE)
    yield Closed(now, Reason.BUDGET)


def written(folder: Path, trials: int, epochs: int) -> TrackedStudy:
    folder.mkdir(parents=True)
    with Journal.open(folder / "journal.db") as journal:
        for event in events(trials, epochs):
            journal.append(event)
    return TrackedStudy(folder / "journal.db", "bench", "random", 0, Goal(), columns=("learning_rate", "width"))


def tracked(folder: Path, uri: str, trials: int, epochs: int) -> tuple[float, float]:
    """Wall and processor seconds of delivering a whole study."""
    study = written(folder / "tracked", trials, epochs)
    began, spent = time.perf_counter(), time.process_time()
    trouble = tracking.Sync([study], uri).deliver()
    assert not trouble, trouble
    return time.perf_counter() - began, time.process_time() - spent


def scripted(uri: str, trials: int, epochs: int) -> float:
    """Seconds the same study takes one call at a time."""
    client = MlflowClient(uri)
    found = client.get_experiment_by_name("bench")
    assert found is not None
    began = time.perf_counter()
    for trial in range(SCRIPTED):
        run = client.create_run(found.experiment_id).info.run_id
        for name in ("learning_rate", "width", "activation", "epochs"):
            client.log_param(run, name, trial)
        for epoch in range(1, epochs + 1):
            for name in (*METRICS, "seconds"):
                client.log_metric(run, name, epoch / (trial + 1), step=epoch)
        client.set_terminated(run)
    return (time.perf_counter() - began) / SCRIPTED * trials


def delayed(folder: Path, uri: str, epochs: int) -> tuple[float, float]:
    """Median seconds of an append, without and with the writer thread at work on what is appended."""
    medians = []
    for live in (False, True):
        place = folder / f"delay-{live}"
        place.mkdir(parents=True)
        with Journal.open(place / "journal.db") as journal:
            study = TrackedStudy(place / "journal.db", "bench", "grid", int(live), Goal())
            tracker = tracking.Tracker([study], uri)
            if live:
                tracker.start()
            costs = []
            for event in events(20, epochs, time.time()):
                began = time.perf_counter()
                journal.append(event)
                costs.append(time.perf_counter() - began)
                time.sleep(0.01)  # five times as fast as epochs of 50 ms
            if live:
                assert tracker.close(120) == 0
            medians.append(statistics.mean(sorted(costs)[: int(len(costs) * 0.99)]))
    return medians[0], medians[1]


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", sqlite_uri(folder / "mlflow.db")]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | tracking.ENVIRONMENT
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=folder, stdout=quiet, stderr=quiet, env=environment, start_new_session=True)
    try:
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            assert process.poll() is None, "mlflow server ended"
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def report(kind: str, folder: Path, uri: str, trials: int, epochs: int) -> None:
    connect(uri, "bench", {}).close()
    wall, processor = tracked(folder, uri, trials, epochs)
    script = scripted(uri, trials, epochs)
    metrics = trials * epochs * (len(METRICS) + 1)
    print(f"{kind}: {metrics / wall:,.0f} metrics a second, {wall / trials * 1e3:.0f} ms a trial of {epochs} epochs")
    print(f"    {processor / trials / epochs / EPOCH:.1%} of one core at epochs of {EPOCH * 1e3:.0f} ms")
    print(f"    {script / wall:.0f} times as fast as one call at a time ({metrics / script:,.0f} metrics a second)")
    without, with_thread = delayed(folder, uri, epochs)
    share = (with_thread - without) / EPOCH
    print(f"    an append: {without * 1e3:.2f} ms, while sending {with_thread * 1e3:.2f} ms: {share:+.1%} of an epoch")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    os.environ.update(tracking.ENVIRONMENT)
    print(
        f"machine: {machine()}\nn: {options.trials} trials of {options.epochs} epochs, {len(METRICS) + 1} metrics each"
    )
    with tempfile.TemporaryDirectory(prefix="hpo-bench-") as name:
        folder = Path(name)
        (folder / "sqlite").mkdir()
        report("SQLite", folder / "sqlite", sqlite_uri(folder / "sqlite" / "mlflow.db"), options.trials, options.epochs)
        (folder / "server").mkdir()
        connect(sqlite_uri(folder / "server" / "mlflow.db"), "bench", {}).close()
        with server(folder / "server") as uri:
            report("server", folder / "server", uri, options.trials, options.epochs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
