"""Random parameters for every public numeric function: what must hold whatever they are.

A fuzzer takes a generator and a number of parameter sets; `tests/test_numerics.py` calls each with at most a few hundred
(the number stands at the fuzzer), in the slow form with ten thousand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import infalign_edu as ia


@dataclass(frozen=True)
class Fuzzer:
    name: str
    run: Callable[[np.random.Generator, int], None]
    fast: int
    slow: int = 10_000


FUZZERS: list[Fuzzer] = []


def fuzz(fast: int = 100) -> Callable:
    def register(run: Callable[[np.random.Generator, int], None]) -> Callable:
        FUZZERS.append(Fuzzer(f"{run.__module__.rpartition('.')[2]}.{run.__name__}", run, fast))
        return run

    return register


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def whole(rng: np.random.Generator, low: int, high: int) -> int:
    """An integer whose logarithm is uniform: small ones as often as large ones."""
    return min(high, int(log_uniform(rng, low, high + 1)))


def rewards(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """A table of finite rewards: normal, tied, constant, huge, denormal, or all mixed."""
    kind = rng.integers(7)
    if kind == 0:
        return rng.integers(0, 3, shape).astype(float)
    if kind == 1:
        return np.full(shape, rng.normal())
    if kind == 2:
        return rng.normal(size=shape) * 1e300
    if kind == 3:
        return rng.integers(-3, 4, shape) * 5e-324
    if kind == 4:
        return rng.choice([-1.7e308, -1.0, -5e-324, 0.0, 5e-324, 1.0, 1.7e308], shape)
    if kind == 5:
        return 1e16 + rng.integers(0, 3, shape)  # one step of the floats there is 2
    return rng.normal(size=shape) * log_uniform(rng, 1e-8, 1e8)


def rule(rng: np.random.Generator, most: int = 1024, finite: bool = False):
    """A procedure, N up to `most`; `finite` leaves out those without a largest number of draws."""
    n = whole(rng, 1, most)
    kind = rng.integers(6 if finite else 7)
    if kind == 0:
        return ia.Standard()
    if kind == 1:
        return ia.WorstOfN(n)
    if kind == 2:
        return ia.KthBest(k=int(rng.integers(1, n + 1)), n=n)
    if kind == 3:
        return ia.TopM(m=int(rng.integers(1, n + 1)), n=n)
    if kind == 4:
        share = float(rng.uniform())
        return ia.Mixture([share, 1 - share], [ia.BestOfN(n), rng.choice([ia.Standard(), ia.WorstOfN(n)])])
    if kind == 5:
        return ia.BestOfN(n)
    return ia.BestOfPoisson(log_uniform(rng, 1e-3, 1e3))


def transform(rng: np.random.Generator):
    """An increasing transform."""
    kind = rng.integers(5)
    if kind == 0:
        return ia.Identity()
    if kind == 1:
        return ia.Exponential(float(rng.choice([-1, 1])) * log_uniform(rng, 1e-2, 60))
    if kind == 2:
        return ia.Power(log_uniform(rng, 0.05, 100))
    if kind == 3:
        inner = np.unique(rng.uniform(0.01, 0.99, rng.integers(0, 6)))
        u = np.concatenate([[0.0], inner, [1.0]])
        return ia.Tabulated(u, np.sort(rng.normal(size=u.size)))
    return ia.Log()


def close(a: object, b: object, tolerance: float = 1e-9) -> None:
    """Equal to a relative and absolute tolerance, infinities in the same places."""
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def probabilities(values: np.ndarray) -> None:
    values = np.asarray(values)
    assert np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1, (values.min(), values.max())


def rises(values: np.ndarray, slack: float = 0.0) -> None:
    """Never falls, rounding aside."""
    assert (np.diff(values) >= -slack).all(), np.diff(values).min()
