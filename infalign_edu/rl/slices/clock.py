"""Time that a machine is lent for: units of work that fit into it, what they used, and what computed.

No unit is stopped half-way: whether one more fits is guessed from the longest of its kind so far.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from infalign_edu import atomic


class SliceOver(Exception):
    """The slice is used up; what was done is on disk."""


@dataclass
class Slice:
    """A stretch of time for units of work. At least one unit is done in each slice, so that every slice gets further.

    `used` counts, by kind: units, CPU seconds, GPU seconds (wall time while the GPU was held) and the longest one.

    >>> now = iter([0.0, 0.0, 4.0, 4.0])
    >>> part = Slice(6.0, clock=lambda: next(now))
    >>> with part.unit("update"):
    ...     pass
    >>> part.used["update"]["longest"]
    4.0
    >>> with part.unit("update"):
    ...     print("4 seconds more do not fit")
    Traceback (most recent call last):
    infalign_edu.rl.slices.clock.SliceOver
    """

    seconds: float | None = None
    clock: Callable[[], float] = time.monotonic
    began: float | None = None
    file: Path | None = None
    used: dict[str, dict[str, float]] = field(default_factory=dict)
    done: int = 0

    def __post_init__(self) -> None:
        self.began = self.clock() if self.began is None else self.began

    def keep(self, file: Path) -> None:
        """Takes up what earlier slices used, from a file that is written after each unit."""
        self.file = file
        if file.exists():
            self.used = atomic.read_json(file)

    @contextmanager
    def unit(self, kind: str) -> Iterator[None]:
        """One unit. Raises: SliceOver if one as long as the longest of its kind so far would not end in time."""
        spent = self.used.get(kind, {"units": 0, "cpu": 0.0, "gpu": 0.0, "longest": 0.0})
        start, cpu = self.clock(), time.process_time()
        assert self.began is not None
        if self.seconds is not None and self.done and start - self.began + spent["longest"] > self.seconds:
            raise SliceOver
        yield
        took = self.clock() - start
        gpu = took if torch.cuda.is_available() else 0.0
        now = {"units": 1, "cpu": time.process_time() - cpu, "gpu": gpu}
        self.used[kind] = {k: spent[k] + now[k] for k in now} | {"longest": max(spent["longest"], took)}
        self.done += 1
        if self.file is not None:
            atomic.write_json(self.file, self.used)


def hardware(device: torch.device) -> str:
    """The name of what computed: the GPU's, or the processor's with the threads that were used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = "CPU"
    return f"{name}, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() != 1)}"
