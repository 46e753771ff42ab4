"""Whatever a study file holds, only a study or BadInput comes out of it. FUZZ_CASES raises the number of cases."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
CASES = int(os.environ.get("FUZZ_CASES", "1000"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))


def test_mutated_bytes_are_a_study_or_bad_input_in_little_memory() -> None:
    """A process of its own, so that its memory is its own."""
    command = [sys.executable, str(ROOT / "tests/fuzz.py"), str(CASES), str(SEED)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    seen = json.loads(done.stdout)
    sys.stdout.write(f"fuzz: {seen}\n")
    assert seen["cases"] == CASES
    assert 0.02 * CASES < seen["studies"] < 0.9 * CASES  # neither blunt nor all refused at the first byte
    assert seen["peak_mb"] < 200
