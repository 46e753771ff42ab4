"""How much memory there is, and whether decoded images fit into it: asked before anything is decoded."""

from __future__ import annotations

import os
from pathlib import Path

from hpo.errors import BadInput, Mistake

UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


def available(root: Path = Path("/")) -> int | None:
    """Bytes that can still be taken: the machine's, or its container's if that is less. None where nobody says."""
    known = [_machine(root / "proc/meminfo"), _container(root / "sys/fs/cgroup")]
    return min((value for value in known if value is not None), default=None)


def refuse_above(place: str, needed: int, memory: int | None, remedy: str) -> None:
    """Raise BadInput if `needed` bytes are more than there are."""
    if memory is not None and needed > memory:
        raise BadInput(Mistake(place, f"needs {shown(needed)} of memory", shown(memory), remedy))


def shown(count: int) -> str:
    """Bytes as people read them: three digits and a unit."""
    unit = min((count.bit_length() - 1) // 10, len(UNITS) - 1) if count else 0
    value = count / 2 ** (10 * unit)
    return f"{value:,.0f} {UNITS[unit]}" if value >= 100 else f"{value:.3g} {UNITS[unit]}"


def _machine(meminfo: Path) -> int | None:
    try:
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return None
    except (OSError, ValueError, IndexError):
        return _physical()  # no Linux


def _physical() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has none of this
        return None


def _container(cgroup: Path) -> int | None:
    for limit, usage, stat, cache in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ):
        try:
            most, used = int((cgroup / limit).read_text()), int((cgroup / usage).read_text())
        except (OSError, ValueError):  # the other version of cgroups, or "max": no limit
            continue
        return max(0, most - used + _reclaimable(cgroup / stat, cache))
    return None


def _reclaimable(stat: Path, name: str) -> int:
    """File cache counts as used, but goes away when memory is wanted."""
    try:
        return next(int(line.split()[1]) for line in stat.read_text().splitlines() if line.split()[:1] == [name])
    except (OSError, StopIteration, ValueError, IndexError):
        return 0
