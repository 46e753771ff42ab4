"""hpo against the script a user would write: trial-epochs a second, same configurations, same two cores, in turn.

    python -m benchmarks.throughput [ROUNDS]

scikit-learn's digits, 8x8 as the shipped study has them, and enlarged to 28x28, where hpo trains in bf16 too.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import hpo
from benchmarks.measuring import machine, say, spread
from hpo.cli.console import Utilization
from hpo.core import Reported
from hpo.journal import read_events
from hpo.strategies.points import Problem, random_points

ROOT = Path(__file__).parent.parent
SCRIPT = Path(__file__).parent / "scripts" / "tutorial.py"
TRIALS = {8: 40, 28: 12}  # side of the images -> trials
WORKERS = 2


def save_digits(folder: Path, side: int) -> None:
    """Nearest neighbours, and a rim of what is left."""
    found, times = load_digits(), side // 8
    images, rim = np.kron(found.images.astype(np.uint8), np.ones((times, times), np.uint8)), side % 8 // 2
    np.savez(folder / "data.npz", X=np.pad(images, ((0, 0), (rim, rim), (rim, rim))), y=found.target)


def configurations(side: int) -> list[dict[str, object]]:
    """The points hpo's random search tries in the shipped study."""
    spec = hpo.load(ROOT / "study.yaml", sets=["strategy=random"])
    points = random_points(Problem(spec.space, seed=spec.seed))
    return [dict(params) for params, _ in zip(points, range(TRIALS[side]), strict=False)]


def ours(folder: Path, side: int, precision: str) -> tuple[float, Utilization, list[float]]:
    """Trial-epochs a second from the first epoch's start to the last report, with MLflow on."""
    sets = ["strategy=random", f"budget={{trials: {TRIALS[side]}}}", "early_stopping=null", f"workers={WORKERS}"]
    sets += [f"precision={precision}", *(["data=data.npz"] if side != 8 else [])]
    save_digits(folder, side)
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


def script(folder: Path, side: int, processes: int, threads: int | None) -> float:
    """The same for the tutorial's script, from the first trial's start to the last one's end.

    A database of it is waited for a minute: within SQLite's five seconds one of two processes on a busy machine ends with
    "database is locked".
    """
    (folder / "configurations.json").write_text(json.dumps(configurations(side)))
    save_digits(folder, side)
    prepare = "import mlflow, optuna; mlflow.set_tracking_uri('sqlite:///mlflow.db'); mlflow.set_experiment('tutorial'); optuna.create_study(study_name='tutorial', storage='sqlite:///optuna.db', direction='maximize')"
    subprocess.run([sys.executable, "-c", prepare], cwd=folder, check=True, capture_output=True)
    words = [sys.executable, str(SCRIPT), "data.npz", "configurations.json"]
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


def in_turn(side: int, rounds: int, precisions: Sequence[str]) -> None:
    rates: dict[str, list[float]] = {}
    shares, medians = [], []
    for _ in range(rounds):
        for name in (*precisions, "default", "two"):
            with tempfile.TemporaryDirectory() as folder:
                if name in precisions:
                    rate, overhead, seconds = ours(Path(folder), side, name)
                else:
                    rate = script(Path(folder), side, *((1, None) if name == "default" else (2, 1)))
            rates.setdefault(name, []).append(rate)
            if name == "fp32":
                shares.append(100 * (overhead.share or 0.0))
                medians.append(1000 * statistics.median(seconds))
        print(side, {name: round(values[-1], 1) for name, values in rates.items()}, flush=True)
    share = f"{spread(shares, ' %')} at a median epoch of {statistics.median(medians):.0f} ms"
    say(f"{side}x{side}: worker time spent training", share, "90 %", rounds)
    forms = {"default": "as a tutorial writes it", "two": "with one thread and two processes"}
    targets = {(8, "default"): "4x", (8, "two"): "1.5x", (28, "two"): "3x in bf16"}
    for precision in precisions:
        for form, text in forms.items():
            against = [a / b for a, b in zip(rates[precision], rates[form], strict=True)]
            what = f"{side}x{side}, {precision}: epochs a second against the script {text}"
            say(what, spread(against, "x"), targets.get((side, form), "none"), rounds)


def main(rounds: int = 3) -> None:
    print(machine())
    in_turn(8, rounds, ["fp32"])
    in_turn(28, rounds, ["fp32", "bf16"])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
