"""What every benchmark prints: the machine, n, and a ratio measured in one run."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from hpo.execution.worker import ENVIRONMENT


def machine() -> str:
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return f"{model}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}"


def as_worker() -> None:
    """Begin this program again in the environment of a worker process, which glibc's allocator reads at its start."""
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **ENVIRONMENT})


def say(what: str, figure: str, target: str, n: int) -> None:
    print(f"{what}: {figure}   (target: {target}; n = {n})", flush=True)


def spread(values: Sequence[float], unit: str = "") -> str:
    """Median and range."""
    return f"{statistics.median(values):.3g}{unit} ({min(values):.3g} to {max(values):.3g})"
