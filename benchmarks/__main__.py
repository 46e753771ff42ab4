"""`make bench`: every figure of the README and the docs, one after the other. Names choose some: python -m benchmarks startup."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# prior trains for an hour, gpu needs one: they are run by themselves
SKIPPED = {"__init__", "__main__", "gpu", "kept_curves", "measuring", "prior", "prior_tasks", "simulated"}


def main(names: list[str]) -> int:
    there = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in SKIPPED)
    codes = []
    for name in names or there:
        print(f"\n== {name}", flush=True)
        codes.append(subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode)
    return max(codes, default=0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
