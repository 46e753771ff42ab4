"""How many workers a machine gets, on which devices. Imports no torch: that takes 2 s and 200 MB in the driver."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hpo.errors import BadInput, Mistake

MAX_WORKERS_PER_CORE = 32  # 300 MB each
PROBE = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"


def gpus(devices: Path = Path("/dev")) -> int:
    """CUDA devices torch can use; a machine without NVIDIA's device files has none."""
    if not any(devices.glob("nvidia[0-9]*")):
        return 0
    answer = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    return int(answer.stdout) if answer.returncode == 0 else 0


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_devices(
    device: str, workers: int | str, where: Callable[[str], str] = str, count: int | None = None
) -> Sequence[str]:
    """The device of each worker, in turn. "auto": one a core on CPU, one a GPU.

    where: the place of a key in the file; count: GPUs here, if known. Raises BadInput for a device that is not there,
    and for more workers than the machine can start.
    """
    if workers != "auto" and int(workers) > MAX_WORKERS_PER_CORE * cores():
        rule, got = f"must be at most {MAX_WORKERS_PER_CORE} a core", f"{workers} (cores here: {cores()})"
        raise BadInput(Mistake(where("workers"), rule, got, "write auto, one a core or GPU"))
    if device == "cpu":
        count = 0
    elif count is None:
        count = gpus()
    if device == "cpu" or (device == "auto" and count == 0):
        return ["cpu"] * (cores() if workers == "auto" else int(workers))
    names = [f"cuda:{index}" for index in range(count)] if device in ("auto", "cuda") else [device]
    if not names or int(names[-1].partition(":")[2] or 0) >= count:
        there = f"{count} GPU{'s' * (count != 1)} here" if count else "no GPU that torch can use here"
        remedy = "write cpu, auto, or a GPU that is there"
        raise BadInput(Mistake(where("device"), "must be there", f"{device} ({there})", remedy))
    return [names[index % len(names)] for index in range(len(names) if workers == "auto" else int(workers))]
