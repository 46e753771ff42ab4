"""What a run depends on: recorded with every run, and the part that decides whether two trainings are the same."""

import os
import platform
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path

from hpo.core import Value

__version__ = "0.2.0"
TRAINER = 1  # version of hpo's own training: raise it when its numbers change (tests/test_golden.py)
PACKAGES = ("torch", "optuna", "mlflow", "numpy")
MACHINE = ("machine", "processor", "device", "threads")
TRAINED_BY = ("torch", "trainer", "user_code")  # no training is continued by another one of these
RECORDED = ("hpo", "python", *PACKAGES, *MACHINE, "data", "trainer", "user_code", "commit")


def steady_clock() -> Callable[[], float]:
    """Unix seconds as a driver records them: the wall clock's at its start, then monotonic, whoever sets that clock."""
    offset = time.time() - time.monotonic()
    return lambda: offset + time.monotonic()


def numerics(
    data: str, device: str, loss: str, class_weights: bool | str, user_code: str, precision: str, metrics: Sequence[str]
) -> dict[str, Value]:
    """Everything beside params and seed that epoch e of a training depends on."""
    return {
        "data": data,
        "device": device.partition(":")[0],
        "loss": loss,
        "class_weights": class_weights,
        "trainer": TRAINER,
        "user_code": user_code,
        "torch": version("torch"),
        "machine": platform.machine(),
        "threads": 1,
        **({"precision": precision} if precision != "fp32" else {}),  # keys of trainings in fp32 stay as they ever were
        **({"tf32": True} if device != "cpu" else {}),
        **({"metrics": ", ".join(metrics)} if metrics else {}),
    }


def environment(numerics: Mapping[str, Value]) -> dict[str, Value]:
    """Versions, host, process, commit, and the `numerics`: what to look at when two runs differ."""
    versions: dict[str, Value] = {name: version(name) for name in PACKAGES}
    commit, dirty = git(Path.cwd())
    return {
        "hpo": __version__,
        "python": platform.python_version(),
        **versions,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "processor": processor(),
        "commit": commit,
        "dirty": dirty,
        **numerics,
    }


@cache
def processor() -> str:
    """The kind of CPU: another one may round differently."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


@cache
def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


@cache
def git(folder: Path) -> tuple[str, bool]:
    """The commit of a work tree and whether anything in it is changed; ("", False) outside of one."""

    def ask(*words: str) -> str | None:
        try:
            answer = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=5, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return answer.stdout.strip() if answer.returncode == 0 else None

    commit = ask("rev-parse", "HEAD")
    return (commit, bool(ask("status", "--porcelain"))) if commit else ("", False)


def differences(before: Mapping[str, Value], now: Mapping[str, Value], names: Iterable[str] = RECORDED) -> list[str]:
    """What changed between two runs; what one of them did not record is left out."""
    both = [name for name in names if name in before and name in now]
    return [f"{name} {before[name]} -> {now[name]}" for name in both if before[name] != now[name]]
