"""How time and memory grow: each measure against one size, with the exponent of the power law that fits it.

    cost ~ a x^b:  b is the slope of a least-squares line through (log x, log cost)

Derived: that line is exact for a power law (tests/test_benchmarks.py). The smallest sizes are dominated by fixed costs,
so b over a range that includes them is below the exponent of large sizes. Time is CPU time, the least of a few repeats;
memory is what Python and NumPy hold at most for the method, and the peak of a process of its own for a model.
"""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.rows import memory, training
from benchmarks.rows.method import rewards
from benchmarks.table import timed
from infalign_edu import win_rate
from infalign_edu.calibration import EmpiricalCalibrator
from infalign_edu.procedures import BestOfN
from infalign_edu.theory import optimal_frontier
from infalign_edu.theory.solver import power

COLUMNS = ("what", "against", "measure", "unit", "sizes", "costs", "exponent", "constant", "r2",
           "cpu", "cores", "load", "commit")  # fmt: skip


Job = Callable[[], Any]


@dataclass(frozen=True)
class Fit:
    """cost = constant x^exponent, and the share of the variance of log cost that it explains."""

    exponent: float
    constant: float
    r2: float


def fitted(sizes: Sequence[float], costs: Sequence[float]) -> Fit:
    """The power law through positive points, by least squares on the logs.

    >>> fit = fitted([1, 2, 4], [3, 12, 48])
    >>> round(fit.exponent, 6), round(fit.constant, 6), round(fit.r2, 6)
    (2.0, 3.0, 1.0)
    """
    if len(set(sizes)) < 2 or not (min(sizes) > 0 and min(costs) > 0):
        raise ValueError(f"a power law needs at least two sizes and positive costs, got {sizes} and {costs}")
    x, y = np.log(np.asarray(sizes, float)), np.log(np.asarray(costs, float))
    slope, start = np.polyfit(x, y, 1)
    left = ((y - slope * x - start) ** 2).sum()
    return Fit(float(slope), float(np.exp(start)), float(1 - left / max(((y - y.mean()) ** 2).sum(), 1e-300)))


@dataclass(frozen=True)
class Curve:
    """A cost at several values of one size, the others fixed."""

    what: str
    against: str
    measure: str
    unit: str
    sizes: tuple[int, ...]
    costs: tuple[float, ...]

    def cells(self) -> dict[str, str]:
        """The curve as a row of the table."""
        fit = fitted(self.sizes, self.costs)
        return {"what": self.what, "against": self.against, "measure": self.measure, "unit": self.unit,
                "sizes": " ".join(map(str, self.sizes)), "costs": " ".join(f"{cost:.3g}" for cost in self.costs),
                "exponent": f"{fit.exponent:.2f}", "constant": f"{fit.constant:.3g}",
                "r2": f"{fit.r2:.3f}"}  # fmt: skip


def measured(
    what: str, against: str, sizes: Sequence[int], work: Callable[[int], Job], held: bool, repeats: int = 3
) -> Iterator[Curve]:
    """CPU seconds, and with `held` the megabytes that NumPy holds at most, of `work(size)()`."""
    seconds, megabytes = [], []
    for size in sizes:
        job = work(size)
        job()
        seconds.append(min(timed(job) for _ in range(repeats)))
        if held:
            tracemalloc.start()
            job()
            megabytes.append(tracemalloc.get_traced_memory()[1] / 2**20)
            tracemalloc.stop()
    yield Curve(what, against, "time", "CPU s", tuple(sizes), tuple(seconds))
    if held:
        yield Curve(what, against, "memory", "MB", tuple(sizes), tuple(megabytes))


def _judging(prompts: int = 64, M: int = 256, N: int = 4) -> Job:
    tables = rewards(prompts, M)
    return lambda: win_rate(*tables, BestOfN(N))


def _calibrating(prompts: int = 64, K: int = 256, M: int = 256) -> Job:
    reference, values = rewards(prompts, K)[1], rewards(prompts, M)[0]
    return lambda: EmpiricalCalibrator(reference)(values)


def _frontier(N: int) -> Job:
    def job() -> None:
        power._cached.cache_clear()
        optimal_frontier(BestOfN(N), [0.1, 0.3])

    return job


def method(quick: bool) -> Iterator[Curve]:
    """Growth of win rates, calibration and the optimal frontier."""
    many = (16, 64, 256) if quick else (64, 256, 1024, 4096)
    yield from measured("win rate", "prompts", many, lambda P: _judging(prompts=P), True)
    yield from measured("win rate", "samples a prompt", many, lambda M: _judging(M=M), True)
    yield from measured("win rate", "N", (2, 8, 32) if quick else (2, 8, 32, 128), lambda N: _judging(N=N), False)
    yield from measured("calibration", "prompts", many, lambda P: _calibrating(prompts=P), True)
    yield from measured("calibration", "K", many, lambda K: _calibrating(K=K), True)
    yield from measured("optimal frontier", "N", (2, 8, 32) if quick else (2, 4, 8, 16, 32), _frontier, False)


def _policy(width: int = 64, layers: int = 2) -> Any:
    """An untrained policy: it rarely ends a response, so all of them are as long as they may be."""
    return training.model(training.Size(f"{layers}x{width}", layers, width, pretrained=1))


def _sampling(prompts: int = 16, length: int = 24, samples: int = 16, width: int = 64) -> Job:
    policy = _policy(width)
    asked = ["how do i clean my kettle before work today please"] * prompts
    return lambda: policy.sample(asked, samples, seed=0, max_new_tokens=length)


def _step(width: int) -> Job:
    return training.our_trainer(training.Size(f"2x{width}", 2, width, prompts=4, samples=8, pretrained=1)).advance


def models(quick: bool) -> Iterator[Curve]:
    """Growth of sampling and of a training step with prompts, samples, tokens and width."""
    few = (4, 8, 16) if quick else (8, 16, 32, 64, 128)
    yield from measured("sampling", "prompts", few, lambda P: _sampling(prompts=P), False)
    yield from measured("sampling", "samples a prompt", few, lambda K: _sampling(samples=K), False)
    yield from measured("sampling", "tokens a response", (6, 12, 24) if quick else (6, 12, 24, 48),
                        lambda T: _sampling(length=T), False)  # fmt: skip
    widths = (16, 32, 64) if quick else (64, 128, 256, 512)
    yield from measured("sampling", "width of the model", widths, lambda d: _sampling(prompts=4, width=d), False, 2)
    yield from measured("RL step, 4 x 8 responses", "width of the model", widths, _step, False, 2)


def peaks(quick: bool) -> Iterator[Curve]:
    """Peak memory of a process that samples, above that of one which only loads, against prompts and width."""
    base = memory.peak("benchmarks.growth", "0", "64")
    for against, sizes in (("prompts", (16, 128) if quick else (64, 256, 1024)), ("width", (64, 256, 512))):
        pair = [(str(n), "64") if against == "prompts" else ("16", str(n)) for n in sizes]
        costs = tuple(max(1.0, memory.peak("benchmarks.growth", *arguments) - base) for arguments in pair)
        yield Curve("sampling, above a process that has loaded", against, "memory", "MB", sizes, costs)


def curves(quick: bool) -> Iterator[Curve]:
    """Every curve of the table."""
    yield from method(quick)
    yield from models(quick)
    yield from peaks(quick)


def main(prompts: str, width: str) -> None:
    """Loads a model of that width and samples for so many prompts, for `memory.peak`."""
    torch.set_num_threads(1)
    _policy()
    if int(prompts):
        _sampling(prompts=int(prompts), width=int(width))()
    memory.tell()


if __name__ == "__main__":
    main(*sys.argv[1:3])
