"""How much memory a process may still take; nothing is known on other systems than Linux."""

from __future__ import annotations

from pathlib import Path


def free_memory(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Gigabytes that a new process may take, within a container's limit; None where the system has no such file.

    Files that the system only keeps in memory in case they are read again do not count as taken.
    """
    try:
        free = next(float(line.split()[1]) for line in meminfo.read_text().splitlines() if "MemAvailable" in line) / 1e6
    except (OSError, StopIteration):
        return None
    try:
        limit, used = (float((cgroup / f"memory.{name}").read_text()) for name in ("max", "current"))
    except (OSError, ValueError):  # no such file, or "max": no limit
        return free
    return min(free, (limit - used + _reclaimable(cgroup / "memory.stat")) / 1e9)


def _reclaimable(stat: Path) -> float:
    """Bytes of a container's file cache that were not in use lately; 0 where that is not told."""
    try:
        lines = stat.read_text().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("inactive_file"))
    except (OSError, StopIteration):
        return 0.0
