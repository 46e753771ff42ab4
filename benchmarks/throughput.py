"""hpo against the script a user would write: trial-epochs a second, same configurations, same two cores, in turn.

python -m benchmarks.throughput [ROUNDS]
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import hpo
from benchmarks.measuring import machine, say, spread
from hpo.cli.console import Utilization
from hpo.core import Reported
from hpo.journal import read_events
from hpo.strategies.points import Problem, random_points

ROOT = Path(__file__).parent.parent
SCRIPT = Path(__file__).parent / "scripts" / "tutorial.py"
TRIALS = 40
WORKERS = 2


def configurations() -> list[dict[str, object]]:
    """The points hpo's random search tries in the shipped study."""
    spec = hpo.load(ROOT / "study.yaml", sets=["strategy=random"])
    points = random_points(Problem(spec.space, seed=spec.seed))
    return [dict(params) for params, _ in zip(points, range(TRIALS), strict=False)]


def ours(folder: Path) -> tuple[float, Utilization, list[float]]:
    """Trial-epochs a second from the first epoch's start to the last report, with MLflow on."""
    sets = ["strategy=random", f"budget={{trials: {TRIALS}}}", "early_stopping=null", f"workers={WORKERS}"]
    shutil.copytree(ROOT / "search_spaces", folder / "search_spaces")
    shutil.copy(ROOT / "study.yaml", folder / "study.yaml")
    result = hpo.run(folder / "study.yaml", sets=sets, quiet=True)
    overhead = Utilization(WORKERS)
    events = read_events(result.folders.journal)
    for event in events:
        overhead.take(event)
    seconds = [event.report.seconds for event in events if isinstance(event, Reported)]
    assert overhead.first is not None
    return overhead.epochs / (overhead.last - overhead.first), overhead, seconds


def script(folder: Path, processes: int, threads: int | None) -> float:
    """The same for the tutorial's script, from the first trial's start to the last one's end.

    A database of it is waited for a minute: within SQLite's five seconds one of two processes on a busy machine ends with
    "database is locked".
    """
    (folder / "configurations.json").write_text(json.dumps(configurations()))
    prepare = "import mlflow, optuna; mlflow.set_tracking_uri('sqlite:///mlflow.db'); mlflow.set_experiment('tutorial'); optuna.create_study(study_name='tutorial', storage='sqlite:///optuna.db', direction='maximize')"
    subprocess.run([sys.executable, "-c", prepare], cwd=folder, check=True, capture_output=True)
    words = [sys.executable, str(SCRIPT), "configurations.json"]
    running = []
    for index in range(processes):
        own = [*words, str(index), str(processes), *([str(threads)] if threads else [])]
        with (folder / f"errors{index}").open("w") as errors:
            running.append(subprocess.Popen(own, cwd=folder, stdout=subprocess.PIPE, stderr=errors, text=True))
    texts = [process.communicate()[0] for process in running]
    for index, process in enumerate(running):
        assert process.returncode == 0, (folder / f"errors{index}").read_text()[-2_000:]
    told = [json.loads(text.splitlines()[-1]) for text in texts]
    return sum(one["epochs"] for one in told) / (max(one["ended"] for one in told) - min(one["began"] for one in told))


def main(rounds: int = 3) -> None:
    print(machine())
    rates: dict[str, list[float]] = {"ours": [], "default": [], "two": []}
    shares, medians = [], []
    for _ in range(rounds):
        with (
            tempfile.TemporaryDirectory() as one,
            tempfile.TemporaryDirectory() as two,
            tempfile.TemporaryDirectory() as three,
        ):
            rate, overhead, seconds = ours(Path(one))
            rates["ours"].append(rate)
            shares.append(overhead.share or 0.0)
            medians.append(statistics.median(seconds))
            rates["default"].append(script(Path(two), 1, None))
            rates["two"].append(script(Path(three), 2, 1))
        print({name: round(values[-1], 1) for name, values in rates.items()}, flush=True)
    against = {name: [a / b for a, b in zip(rates["ours"], rates[name], strict=True)] for name in ("default", "two")}
    say(
        "worker time spent training",
        f"{spread([100 * s for s in shares], ' %')} at a median epoch of {1000 * statistics.median(medians):.0f} ms",
        "90 %",
        rounds,
    )
    say("epochs a second against the script as a tutorial writes it", spread(against["default"], "x"), "4x", rounds)
    say(
        "epochs a second against the script with one thread and two processes",
        spread(against["two"], "x"),
        "1.5x",
        rounds,
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
