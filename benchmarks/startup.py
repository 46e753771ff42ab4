"""How long a person waits: --help, the refusal of a bad file, the first report; and how much memory a worker takes.

python -m benchmarks.startup [ROUNDS]
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import hpo
from benchmarks.measuring import machine, say, spread
from hpo.core import Reported
from hpo.journal import read_events

ROOT = Path(__file__).parent.parent


def seconds(words: list[str], folder: Path) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "hpo", *words], cwd=folder, capture_output=True, check=False)
    return time.perf_counter() - began


def first_report(folder: Path) -> tuple[float, float]:
    """(seconds from the command to the first report, MB of the largest worker)."""
    largest = 0.0
    done = threading.Event()

    def watch() -> None:
        nonlocal largest
        while not done.wait(0.2):
            for status in Path("/proc").glob("[0-9]*/status"):
                try:
                    if b"hpo.execution.worker" in (status.parent / "cmdline").read_bytes():
                        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
                        largest = max(largest, int(peak.split()[1]) / 1024)
                except (OSError, StopIteration):
                    continue

    thread = threading.Thread(target=watch)
    thread.start()
    began = time.time()
    subprocess.run([sys.executable, "-m", "hpo", "run", "--trials", "8"], cwd=folder, capture_output=True, check=True)
    done.set()
    thread.join()
    spec = hpo.load(folder / "study.yaml")
    from hpo.files import Folders

    events = read_events(Folders(folder, spec.name, spec.strategy, spec.seed).journal)
    return next(event.report.time for event in events if isinstance(event, Reported)) - began, largest


def three_epochs(folder: Path) -> float:
    """Seconds of a whole study: search, MLflow, publishing, report, and leaving."""
    sets = ["strategy=random", "budget={trials: 3}", "search_space.epochs=1", "early_stopping=null", "workers=2"]
    return seconds(["run", "--state", "three", *(word for one in sets for word in ("--set", one))], folder)


def main(rounds: int = 5) -> None:
    print(machine())
    helps, refusals, firsts, sizes, wholes, looks = [], [], [], [], [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            shutil.copytree(ROOT / "search_spaces", folder / "search_spaces")
            shutil.copy(ROOT / "study.yaml", folder / "study.yaml")
            (folder / "bad.yaml").write_text((ROOT / "study.yaml").read_text().replace("budget:", "bugdet:"))
            helps.append(seconds(["--help"], folder))
            refusals.append(seconds(["run", "bad.yaml"], folder))
            first, size = first_report(folder)
            firsts.append(first)
            sizes.append(size)
            wholes.append(three_epochs(folder))
            looks.append(seconds(["status"], folder))
    say("hpo --help", spread(helps, " s"), "under 0.5 s", rounds)
    say("refusal of a bad file", spread(refusals, " s"), "under 0.5 s", rounds)
    say("first report of the first trial", spread(firsts, " s"), "within 12 s", rounds)
    say("whole study of three one-epoch trials", spread(wholes, " s"), "6 s", rounds)
    say("hpo status", spread(looks, " s"), "0.4 s", rounds)
    say("memory of a worker on digits", spread(sizes, " MB"), "under 600 MB", rounds)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
