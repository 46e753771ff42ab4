"""Many more faults than the test suite has time for: `python -m tests.chaos`, or `make chaos`.

500 killed workers, 50 killed drivers, every failpoint, every full disk, a comparison of 400 studies, ten times the histories,
100,000 study files.
The same tests as in the suite, with other numbers; what they draw follows from the seed, which is printed.
"""

import argparse
import os
import random
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).parent
FILES = ("test_faults", "test_store", "test_driver", "test_journal", "test_reproducible", "test_fuzz")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--workers", type=int, default=500, metavar="KILLS")
    parser.add_argument("--drivers", type=int, default=50, metavar="KILLS")
    parser.add_argument("--fuzz", type=int, default=100_000, metavar="CASES")
    parser.add_argument("--factor", type=int, default=10, help="times the usual histories")
    parser.add_argument("files", nargs="*", default=FILES, help="of " + ", ".join(FILES))
    asked = parser.parse_args(arguments)
    print(
        f"seed {asked.seed}: {asked.workers} worker kills, {asked.drivers} driver kills, {asked.fuzz} files", flush=True
    )
    print(f"again: python -m tests.chaos --seed {asked.seed}", flush=True)
    environment = {
        **os.environ,
        "FAULT_SEED": str(asked.seed),
        "WORKER_KILLS": str(asked.workers),
        "DRIVER_KILLS": str(asked.drivers),
        "FUZZ_CASES": str(asked.fuzz),
        "FUZZ_SEED": str(asked.seed),
        "CHAOS_FACTOR": str(asked.factor),
        "COMPARED_SEEDS": "100",
        "OMP_NUM_THREADS": "1",
    }
    began = time.monotonic()
    files = [str(TESTS / f"{name}.py") for name in asked.files]
    command = [
        sys.executable,
        "-m",
        "pytest",
        f"--hypothesis-seed={asked.seed}",
        "--timeout",
        "7200",
        "--durations",
        "10",
    ]
    code = subprocess.run([*command, *files], cwd=TESTS.parent, env=environment, check=False).returncode
    verdict = "nothing lost" if code == 0 else "something was lost"
    print(f"seed {asked.seed}: {verdict} after {time.monotonic() - began:.0f} s", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
