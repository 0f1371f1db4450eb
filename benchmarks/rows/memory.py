"""Peak memory, measured where it means something: in a process of its own."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

from benchmarks.table import ROOT


def now(status: Path = Path("/proc/self/status")) -> float:
    """Megabytes this process has held at most.

    What getrusage says would count the process that started this one: on Linux its peak is handed down.
    """
    lines = status.read_text().splitlines() if status.exists() else []
    for line in lines:
        if line.startswith("VmHWM:"):
            return float(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def tell() -> None:
    """Prints the peak as the line that `peak` reads."""
    print(f"peak {now():.1f}")


def peak(module: str, *arguments: str) -> float:
    """Megabytes that `python -m module arguments` holds at most; it must end with `tell`.

    Raises: RuntimeError with the last line of its errors when it fails.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, env=environment, capture_output=True,
                          text=True, check=False)  # fmt: skip
    told = [line for line in done.stdout.splitlines() if line.startswith("peak ")]
    if done.returncode or not told:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise RuntimeError(f"{module} {' '.join(arguments)} failed: {reason}")
    return float(told[-1].split()[1])
