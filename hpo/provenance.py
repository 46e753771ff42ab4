"""What a run depends on: recorded with every session, and the part that decides whether two trainings are the same."""

from __future__ import annotations

import hashlib
import os
import platform
import socket
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from hpo.core import Value

__version__ = "0.2.0"
PACKAGES = ("torch", "optuna", "mlflow", "numpy")
HERE = Path(__file__).parent
TRAINING_CODE = (HERE / "data", HERE / "models", HERE / "training")


def numerics(data_digest: str, device: str, loss: str, class_weights: bool, code: str) -> dict[str, Value]:
    """Everything beside params and seed that epoch e of a training depends on."""
    return {
        "data": data_digest,
        "device": device.partition(":")[0],
        "loss": loss,
        "class_weights": class_weights,
        "code": code,
        "torch": version("torch"),
        "machine": platform.machine(),
        "threads": 1,
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
def processor(source: Path = Path("/proc/cpuinfo")) -> str:
    """The kind of CPU: another one may round differently."""
    try:
        lines = source.read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


@cache
def training_code() -> str:
    """A digest of what trains here, so that a new version of it never reads an old one's trainings."""
    return source_digest(*(path for folder in TRAINING_CODE for path in sorted(folder.rglob("*.py"))))


def source_digest(*files: Path) -> str:
    total = hashlib.sha256()
    for file in files:
        total.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return total.hexdigest()[:16]


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


def differences(before: Mapping[str, Value], now: Mapping[str, Value]) -> list[str]:
    """What changed between two sessions; what one of them did not record is left out."""
    names = ("hpo", "python", *PACKAGES, "machine", "processor", "device", "threads", "data", "code", "commit")
    both = [name for name in names if name in before and name in now]
    return [f"{name} {before[name]} -> {now[name]}" for name in both if before[name] != now[name]]
