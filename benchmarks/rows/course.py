"""What a learner waits for: the import, the first plot, a slider, every notebook. Seconds on the clock of this machine.

Import and plot run in a process of their own, each time a new one, so that nothing is warm but the disk's cache.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.table import ROOT, Check, Row, read

IMPORT = """import sys, infalign_edu as ia
assert ia.BestOfN(4).cdf(0.5) == 0.0625 and not {"torch", "matplotlib", "transformers"} & set(sys.modules)"""
PLOT = """
import numpy as np, infalign_edu as ia
from infalign_edu import plots
u = np.linspace(0, 1, 101)
fig, (axes,) = plots.figure()
axes.plot(u, ia.BestOfN(4).cdf(u))
picture = plots.png(fig)
assert picture[1:4] == b"PNG" and len(picture) > 2000, len(picture)
"""


def process(code: str) -> tuple[float, float]:
    """CPU seconds and wall seconds of a new interpreter that runs `code`. Raises: RuntimeError when it fails."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"},
                          capture_output=True, text=True, check=False)  # fmt: skip
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{code.strip().splitlines()[0]} failed: {done.stderr.strip().splitlines()[-1]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def imported(pairs: int) -> Row:
    """From the start of Python to the first use of the package, beside what importing torch alone takes."""
    process(IMPORT)
    ours, peer = zip(*((process(IMPORT)[0], process("import torch")[0]) for _ in range(pairs)), strict=True)
    told = "share of an import of torch"  # which is loaded when it is used, like matplotlib
    check = Check(told, statistics.median(ours) / statistics.median(peer), 1.0).passed()
    return Row("import", "from the start of Python to a procedure", "import torch", "CPU s", ours, peer, check)


def first_plot(pairs: int) -> Row:
    """From the start of Python to the first picture."""
    process(PLOT)
    seconds = tuple(process(PLOT)[0] for _ in range(pairs))
    return Row("first-plot", "from the start of Python to a PNG", "", "CPU s", seconds)


def sliders(table: Path = ROOT / "data" / "runs" / "slider_latency.csv") -> Row:
    """The slowest explorer's median time from key to pixels, out of the table that slider_latency.py wrote."""
    found = {row["explorer"]: float(row["median_ms"]) for row in read(table)}
    slowest = max(found, key=lambda name: found[name])
    return Row("slider", f"key to pixels, slowest of {len(found)} explorers ({slowest}), from {table.name}", "",
               "wall ms, median", (found[slowest],))  # fmt: skip


def notebooks(folder: Path = ROOT / "notebooks") -> list[Row]:
    """Every student's notebook, run from its first cell to its last in a new kernel; exercises are left unsolved."""
    import nbformat
    from nbclient import NotebookClient

    rows = []
    for path in sorted(folder.glob("[0-9]*.ipynb")):
        book, place = nbformat.read(path, as_version=4), {"metadata": {"path": str(folder)}}
        began = time.perf_counter()
        NotebookClient(book, timeout=600, kernel_name="python3", resources=place).execute()
        seconds = time.perf_counter() - began
        rows.append(Row(f"notebook-{path.stem[:2]}", path.stem, "", "wall s", (seconds,), target=300.0, bound=True))
    return rows
