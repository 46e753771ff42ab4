"""How many workers, on which devices; imports no torch, 2 s and 200 MB that the driver does not need."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hpo.errors import BadInput, Mistake

MOST_A_CORE = 32  # workers, 300 MB each
PROBE = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"


def gpus(devices: Path = Path("/dev")) -> int:
    """CUDA devices torch can use; a machine without NVIDIA's device files is not asked at all."""
    if not any(devices.glob("nvidia[0-9]*")):
        return 0
    answer = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    return int(answer.stdout) if answer.returncode == 0 else 0


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def place(
    device: str, workers: int | str, where: Callable[[str], str] = str, found: int | None = None
) -> Sequence[str]:
    """The device of each worker, in turn. "auto": one a core on CPU, one a GPU. where: the place of a key in the file.

    Raises BadInput for a device that is not there, and for more workers than the machine can start.
    """
    if workers != "auto" and int(workers) > MOST_A_CORE * cores():
        rule, got = f"must be at most {MOST_A_CORE} a core", f"{workers} (cores here: {cores()})"
        raise BadInput(Mistake(where("workers"), rule, got, "write auto, one a core or GPU"))
    found = gpus() if found is None and device != "cpu" else found or 0
    if device == "cpu" or (device == "auto" and found == 0):
        return ["cpu"] * (cores() if workers == "auto" else int(workers))
    wanted = [f"cuda:{index}" for index in range(found)] if device in ("auto", "cuda") else [device]
    if not wanted or int(wanted[-1].partition(":")[2] or 0) >= found:
        there = f"{found} GPU{'s' * (found != 1)} here" if found else "no GPU that torch can use here"
        raise BadInput(
            Mistake(where("device"), "must be there", f"{device} ({there})", "write cpu, auto, or a GPU that is there")
        )
    count = len(wanted) if workers == "auto" else int(workers)
    return [wanted[index % len(wanted)] for index in range(count)]
