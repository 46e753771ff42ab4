"""What the environment of a worker process is worth: epochs in processes with it and without it, in turns.

    python -m benchmarks.allocator [ROUNDS]

glibc gives the memory of a step back to the kernel and faults it in again, page by page, unless it is told to keep it.
Printed for images and networks of several sizes: the median over rounds of (epoch without) / (epoch with), in seconds of the
processor; page faults of an epoch; memory in use.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.measuring import machine, spread
from benchmarks.precision import NETWORK, epoch_seconds, job, noise, recipe
from hpo.execution.worker import ENVIRONMENT
from hpo.training import loop

CASES = ((1, 8, 8), 16, 32), ((1, 28, 28), 32, 64), ((3, 32, 32), 32, 128)  # shape, channels, batch size
PLAIN = {name: value for name, value in ENVIRONMENT.items() if "MALLOC" not in name and "TUNABLES" not in name}
Turn = tuple[float, int, int]  # seconds, page faults, MB


def serve() -> None:
    """For each line on stdin, the number of a case, one epoch of it and a Turn on stdout."""
    states = []
    for shape, channels, batch_size in CASES:
        ready = recipe(noise(shape), "fp32").setup()
        params = {**NETWORK, "channels": channels, "batch_size": batch_size}
        states.append((ready, loop.new_state(ready, job(params, 0))))
    for line in sys.stdin:
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        taken = epoch_seconds(*states[int(line)])
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        megabytes = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 2**20
        print(json.dumps([taken, faults, megabytes]), flush=True)


def process(environment: Mapping[str, str]) -> subprocess.Popen[str]:
    others = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    words = [sys.executable, "-m", "benchmarks.allocator", "serve"]
    return subprocess.Popen(
        words, env={**others, **environment}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def turn(one: subprocess.Popen[str], case: int) -> Turn:
    assert one.stdin is not None and one.stdout is not None
    print(case, file=one.stdin, flush=True)
    seconds, faults, megabytes = json.loads(one.stdout.readline())
    return seconds, faults, megabytes


def main(rounds: int = 9) -> None:
    print(f"{machine()}, n = {rounds} rounds")
    both = [process(environment) for environment in (PLAIN, ENVIRONMENT)]
    for case, (shape, channels, batch_size) in enumerate(CASES):
        turns = [[turn(one, case) for one in both] for _ in range(rounds + 1)][1:]  # the first warms up
        ratios = [without[0] / with_[0] for without, with_ in turns]
        faults, memory = ([statistics.median(one[side][of] for one in turns) for side in (0, 1)] for of in (1, 2))
        what = f"{'x'.join(map(str, shape))}, {channels} channels, batch {batch_size}"
        told = f"page faults {faults[0]:,.0f} and {faults[1]:,.0f}, memory {memory[0]:,.0f} and {memory[1]:,.0f} MB"
        print(f"  {what:34}{spread(ratios, 'x')}; {told}", flush=True)
    for one in both:
        assert one.stdin is not None
        one.stdin.close()
        one.wait()


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["serve"] else main(*map(int, sys.argv[1:]))
