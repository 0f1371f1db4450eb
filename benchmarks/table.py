"""Rows of the benchmark table: pairs of timings, their ratios, what was checked first, and on which machine.

A row compares ours with a peer's in the same run, one after the other and in turns, so that whatever else the machine
does slows both. The ratio is taken within each pair; its median and quartiles are what the row says. Left out: wall
time in ratios, which on a shared machine measures the neighbours; the few wall times in the table say so in their unit.
"""

from __future__ import annotations

import csv
import gc
import importlib.metadata
import io
import math
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from infalign_edu.atomic import write_text

ROOT = Path(__file__).parents[1]
PACKAGES = ("torch", "transformers", "trl", "numpy", "scipy")
NUMBERS = ("ours", "peer", "ratio", "quarter", "three_quarters", "lowest", "highest", "pairs")
COLUMNS = ("name", "what", "against", "unit", *NUMBERS, "target", "met", "check", "found", "limit",
           "cpu", "cores", "load", "python", *PACKAGES, "command", "commit")  # fmt: skip


@dataclass(frozen=True)
class Check:
    """What had to hold before anything was timed: `found` may be at most `limit`.

    >>> Check("largest difference", 2.0, 1.0).passed()
    Traceback (most recent call last):
    AssertionError: largest difference must be at most 1, got 2
    """

    told: str
    found: float
    limit: float

    def passed(self) -> Check:
        """Itself. Raises: AssertionError when the check fails; nothing is timed then."""
        if not self.found <= self.limit:  # nan fails too
            raise AssertionError(f"{self.told} must be at most {self.limit:g}, got {self.found:g}")
        return self


@dataclass(frozen=True)
class Row:
    """One comparison. Shape: `ours` and `peer` hold a number for each pair; without a peer the row is a plain figure.

    The ratio says how many times better ours is: peer / ours of costs, ours / peer where `higher` is better.
    `target` is the ratio aimed at or, with `bound`, the largest figure allowed.

    >>> row = Row("a", "sorting", "bubble sort", "s", (1.0, 2.0, 4.0), (3.0, 4.0, 20.0), target=2.5)
    >>> row.ratios, row.median, row.met
    ((3.0, 2.0, 5.0), 3.0, True)
    """

    name: str
    what: str
    against: str
    unit: str
    ours: tuple[float, ...]
    peer: tuple[float, ...] = ()
    check: Check | None = None
    target: float | None = None
    higher: bool = False
    bound: bool = False

    @property
    def ratios(self) -> tuple[float, ...]:
        """How many times better ours is, within each pair."""
        pairs = zip(self.ours, self.peer, strict=True) if self.peer else ()
        return tuple(a / b if self.higher else b / a for a, b in pairs)

    @property
    def median(self) -> float:
        """Median ratio; nan without a peer."""
        return statistics.median(self.ratios) if self.peer else math.nan

    @property
    def met(self) -> bool | None:
        """Whether the target was reached; None without one."""
        if self.target is None:
            return None
        return statistics.median(self.ours) <= self.target if self.bound else self.median >= self.target

    def cells(self) -> dict[str, str]:
        """The row's own columns, as text."""
        ours, ratios = statistics.median(self.ours), self.ratios
        found = {"name": self.name, "what": self.what, "against": self.against, "unit": self.unit, "ours": ours,
                 "peer": statistics.median(self.peer) if self.peer else None, "pairs": len(self.ours)}  # fmt: skip
        if ratios:
            low, middle, high = quartiles(ratios)
            found |= {"ratio": middle, "quarter": low, "three_quarters": high}
            found |= {"lowest": min(ratios), "highest": max(ratios)}
        if self.target is not None:
            found |= {"target": self.target, "met": "yes" if self.met else "no"}
        if self.check is not None:
            found |= {"check": self.check.told, "found": self.check.found, "limit": self.check.limit}
        return {name: _told(found.get(name)) for name in COLUMNS if name in found}


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile, the ends included in the sample.

    >>> quartiles([1.0, 2.0, 3.0, 4.0, 5.0]), quartiles([7.0])
    ((2.0, 3.0, 4.0), (7.0, 7.0, 7.0))
    """
    if len(values) == 1:
        return (values[0],) * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def _told(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def timed(work: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """Seconds that `work` takes by `clock`, CPU time unless told otherwise; garbage is collected later, not within."""
    gc.disable()
    try:
        began = clock()
        work()
        return clock() - began
    finally:
        gc.enable()


def in_turns(
    ours: Callable[[], object],
    peer: Callable[[], object],
    pairs: int,
    clock: Callable[[], float] = time.process_time,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Seconds of each, pair by pair; who goes first changes with every pair. Both run once before, untimed.

    >>> came = []
    >>> a, b = in_turns(lambda: came.append("a"), lambda: came.append("b"), 2)
    >>> "".join(came), len(a), len(b)
    ('ababba', 2, 2)
    """
    ours(), peer()
    found: tuple[list[float], list[float]] = ([], [])
    for i in range(pairs):
        for side in (0, 1) if i % 2 == 0 else (1, 0):
            found[side].append(timed((ours, peer)[side], clock))
    return tuple(found[0]), tuple(found[1])


def machine(command: str) -> dict[str, str]:
    """The columns that say where, with what and by which command a row was made."""
    return {
        "cpu": processor(), "cores": str(os.cpu_count()), "load": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(), **{name: _version(name) for name in PACKAGES},
        "command": command, "commit": commit(),
    }  # fmt: skip


def processor(info: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU's model name; the architecture where the system does not tell."""
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def commit() -> str:
    """The commit that is run, with a + where the working tree differs."""
    told = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True)
    return told.stdout.strip() or "unknown"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "-"


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a table that is there, none if it is not."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: Iterable[dict[str, str]], columns: Sequence[str] = COLUMNS) -> None:
    """A table as CSV, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n", restval="", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def merged(
    old: Sequence[dict[str, str]], new: Sequence[dict[str, str]], order: Sequence[str] = ()
) -> list[dict[str, str]]:
    """Old rows with new ones in the place of those of the same name; `order` names come first, in that order.

    >>> merged([{"name": "a", "x": "1"}, {"name": "b", "x": "1"}], [{"name": "b", "x": "2"}], ["b"])
    [{'name': 'b', 'x': '2'}, {'name': 'a', 'x': '1'}]
    """
    rows = {row["name"]: row for row in [*old, *new]}
    names = [name for name in order if name in rows]
    return [rows[name] for name in [*names, *(name for name in rows if name not in names)]]


def shown(cells: dict[str, str]) -> str:
    """A row as a line to read."""
    line = f"{cells['name']:<24} {cells['ours']:>9}"
    line += f" against {cells['peer']:>9}" if cells.get("peer") else " " * 18
    line += f" {cells['unit']:<22}"
    if cells.get("ratio"):
        line += f" {cells['ratio']:>7}x [{cells['quarter']}, {cells['three_quarters']}] in {cells['pairs']} pairs"
    if cells.get("target"):
        line += f", target {cells['target']}: {'met' if cells['met'] == 'yes' else 'missed'}"
    return line + (f"; {cells['check']} {cells['found']}" if cells.get("check") else "")
