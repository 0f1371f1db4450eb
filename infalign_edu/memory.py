"""How much memory a process may still take, and whether it keeps what it has freed: both known on Linux only."""

from __future__ import annotations

import ctypes
from pathlib import Path

KEEP = ((-4, 0), (-1, 2**31 - 1), (-2, 200 * 2**20))  # mallopt's M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed blocks for the next micro-batch, from now on; False where it can't be told.

    The pages of a large block otherwise go back to the system and are faulted in anew at every step
    (benchmarks/rows/choices.py measures it). In return the process holds its peak until it ends.
    """
    try:
        tell = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no glibc: macOS, musl, Windows
        return False
    return all(tell(name, value) == 1 for name, value in KEEP)


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
