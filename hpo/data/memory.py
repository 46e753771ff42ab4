"""How much memory there is, and whether decoded images fit into it: checked before anything is decoded."""

from __future__ import annotations

import os
from pathlib import Path

from hpo.errors import BadInput, Mistake

UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")
# limit, usage, and the file cache in it, which goes away when memory is wanted: cgroups version 2 and 1
CGROUPS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


def available(root: Path = Path("/")) -> int | None:
    """Bytes that can still be taken: the machine's, or its container's if that is less. None if it is not known."""
    known = [_machine(root / "proc/meminfo"), _container(root / "sys/fs/cgroup")]
    return min((value for value in known if value is not None), default=None)


def refuse_above(place: str, needed: int, memory: int | None, remedy: str) -> None:
    """Raise BadInput if `needed` bytes are more than there are."""
    if memory is not None and needed > memory:
        raise BadInput(Mistake(place, f"needs {shown(needed)} of memory", shown(memory), remedy))


def shown(count: int) -> str:
    """Bytes for people: three digits and a unit."""
    unit = min((count.bit_length() - 1) // 10, len(UNITS) - 1) if count else 0
    value = count / 2 ** (10 * unit)
    return f"{value:,.0f} {UNITS[unit]}" if value >= 100 else f"{value:.3g} {UNITS[unit]}"


def _machine(meminfo: Path) -> int | None:
    try:
        return 1024 * _entry(meminfo, "MemAvailable:") or None
    except OSError:  # macOS
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _container(cgroup: Path) -> int | None:
    for limit, usage, stat, cache in CGROUPS:
        try:
            most, used = int((cgroup / limit).read_text()), int((cgroup / usage).read_text())
        except (OSError, ValueError):  # the other version, or "max": no limit
            continue
        return max(0, most - used + (_entry(cgroup / stat, cache) if (cgroup / stat).exists() else 0))
    return None


def _entry(table: Path, name: str) -> int:
    """The number beside a name in a table of the kernel's; 0 if it is not there. Raises OSError."""
    lines = (line.split() for line in table.read_text().splitlines())
    return next((int(line[1]) for line in lines if line[:1] == [name]), 0)
