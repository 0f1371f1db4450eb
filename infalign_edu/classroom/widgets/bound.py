"""What no transform beats under a procedure, and what a named one earns, quickly enough for a slider.

`theory.optimum` takes 5 to 100 ms for one beta. W*(KL) has the slope beta, so a few certified optima and their slopes
give the whole curve; for standard, best-of-N and worst-of-N the one-curve theorem gives it at once. What is kept per
procedure is a few dozen numbers. Left out: procedures that differ between policy and reference.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from scipy.interpolate import CubicHermiteSpline, CubicSpline

import infalign_edu as ia
from infalign_edu import theory
from infalign_edu.order_statistics import Array

U = 0.5 - 0.5 * np.cos(np.pi * np.linspace(0, 1, 257))  # denser at both ends, where densities have layers
SURE = 0.9999  # above this win rate the curve counts as flat: what is left is not worth a solution
MOST_KL = 1.5  # nats, where the curves end
KINDS = ["standard", "best-of", "worst-of", "2nd-best-of", "top-2-of", "best-of-poisson"]


def named(kind: str, n: int) -> str:
    """The name of a procedure with n draws; best-of-Poisson has n draws on average.

    Raises: ValueError where the second of one draw is asked for.

    >>> named("standard", 8), named("top-2-of", 8), named("best-of-poisson", 8)
    ('standard', 'top-2-of-8', 'best-of-poisson-7.0')
    """
    if n < 2 and kind in ("2nd-best-of", "top-2-of"):
        raise ValueError(f"N must be at least 2 for {kind}-N, which looks at two responses, got {n}")
    if kind == "standard" or (n == 1 and kind in ("best-of", "worst-of")):
        return "standard"
    return f"{kind}-{n - 1:.1f}" if kind == "best-of-poisson" else f"{kind}-{n}"


def integral(x: Array, y: Array) -> Array:
    """The integral of y from the first x to each x, by trapezoids. Shape: x, y [n] -> [n]."""
    return np.concatenate([[0.0], np.cumsum(0.5 * (y[1:] + y[:-1]) * np.diff(x))])


class Bound:
    """W*(KL) and its policies for one procedure; optima are solved where they are asked for.

    Derived: dW*/dKL = beta on the optimal frontier, so a cubic through two optima takes their exact slopes;
    tests/test_widgets_frontier.py. Beyond the first optimum that wins more than SURE the curve counts as flat.

    >>> round(bound("standard").win_rate(0.151596), 5)      # the optimum at beta = 1/2
    0.65652
    """

    def __init__(self, shown: str) -> None:
        self.shown = shown
        self.procedure: Any = ia.procedure(shown)
        self.closed = isinstance(self.procedure, ia.Standard | ia.BestOfN | ia.WorstOfN)
        law = integral(U, self.procedure.pdf(U) ** 2)
        self.slope = float(np.sqrt(np.trapezoid((law - np.trapezoid(law, U)) ** 2, U)))  # of W* in sqrt(2 KL) at 0
        first, count = (1e9, 400) if self.closed else (10.0, 16)
        self.beta = self.slope * np.geomspace(first, 10**-2.75, count)
        self._solved: dict[int, Any] = {}
        self._table = theory.optimal_frontier(shown, self.beta) if self.closed else None

    def node(self, i: int) -> tuple[float, float]:
        """KL and W of the i-th optimum."""
        if self._table is not None:
            return float(self._table.kl[i]), float(self._table.win_rate[i])
        if i not in self._solved:
            self._solved[i] = theory.optimum(self.shown, float(self.beta[i]))
        return self._solved[i].kl, self._solved[i].win_rate

    def _below(self, kl: float) -> int:
        """The last node whose KL is not above kl; -1 for none."""
        if self._table is not None:
            return int(np.searchsorted(self._table.kl, kl, side="right")) - 1
        alike = bound(named("best-of", getattr(self.procedure, "n", 4)))  # at its beta the KL is about the same
        beta = alike.beta[max(alike._below(kl), 0)] / alike.slope
        i = int(np.clip(4 * np.log10(10 / beta), 0, self.beta.size - 1))
        while i >= 0 and self.node(i)[0] > kl:
            i -= 1
        while i + 1 < self.beta.size and self.node(i)[1] < SURE and self.node(i + 1)[0] <= kl:
            i += 1
        return i

    def win_rate(self, kl: float) -> float:
        """W*(KL)."""
        i = self._below(kl)
        if i + 1 == self.beta.size or (i >= 0 and self.node(i)[1] >= SURE):
            return self.node(i)[1]
        (kl0, w0), (kl1, w1) = self.node(i) if i >= 0 else (0.0, 0.5), self.node(i + 1)
        s0, s1 = np.sqrt(2 * kl0), np.sqrt(2 * kl1)
        slopes = [self.beta[i] * s0 if i >= 0 else self.slope, self.beta[i + 1] * s1]
        return float(CubicHermiteSpline([s0, s1], [w0, w1], slopes)(np.sqrt(2 * kl)))

    def density(self, kl: float) -> Array:
        """The density of the optimum at a KL on the points U, for a picture: good to a few percent. Shape: [U]."""
        i = self._below(kl)
        low, high = max(i, 0), min(i + 1, self.beta.size - 1)
        if self.node(low)[1] >= SURE:
            high = low
        kl0, kl1 = self.node(low)[0], self.node(high)[0]
        share = float(np.clip(np.log(kl / kl0) / np.log(kl1 / kl0), 0, 1)) if high > low and 0 < kl0 < kl1 else 0.0
        if self.closed:
            beta = float(self.beta[low] ** (1 - share) * self.beta[high] ** share)
            return self._closed_density(beta if i >= 0 else self.slope / np.sqrt(2 * kl))
        logs = [np.maximum(self._solved[j].policy.log_density(U), -200.0) for j in (low, high)]
        f = np.exp((1 - share) * logs[0] + share * logs[1])
        if i < 0:
            f = 1 + (f - 1) * np.sqrt(kl / kl0)  # to first order, the optimum leaves the reference on a line
        return np.asarray(f / np.trapezoid(f, U))

    @cached_property
    def curve(self) -> tuple[Array, Array]:
        """KL from 0 to MOST_KL, and W*. Shape: two of [121]."""
        last = min(self._below(MOST_KL) + 1, self.beta.size - 1)
        first = int(np.searchsorted(self._table.kl, 1e-6)) if self._table is not None else 0
        kl, win_rate = np.array([(0.0, 0.5), *(self.node(i) for i in range(first, last + 1))]).T
        s = np.sqrt(2 * kl)
        slopes = np.append(self.slope, self.beta[first : last + 1] * s[1:])
        at = np.linspace(0, np.sqrt(2 * MOST_KL), 121)
        return at**2 / 2, CubicHermiteSpline(s, win_rate, slopes)(np.minimum(at, s[-1]))

    @cached_property
    def _one_curve(self) -> tuple[Array, Array, Array, Array]:
        """log k, log r, log x and log F along the curve of `_closed_density`. Shape: four of [400]."""
        N, worst = self.procedure.n, isinstance(self.procedure, ia.WorstOfN)
        assert self._table is not None
        r = 1 + N * (self._table.win_rate - worst) / self.beta
        log_k, pace = np.log(N * N / self.beta), (N - 1) * r + N
        return log_k, np.log(np.maximum(r, 1e-300)), integral(log_k, 1 / pace), integral(log_k, r / pace)

    def _closed_density(self, beta: float) -> Array:
        """The density of the optimum of best-of-N or worst-of-N on U, from the one curve that holds all of them.

        Derived: with x = u (best) or 1 - u (worst), F restricted to [0, x] is, scaled, the optimum at another beta, so
        f(x) = r F(x) / x with r the density at the end of the optimum at k(x) = N^2 / beta(x), where
        d log k = ((N-1) r + N) d log x and d log F = r d log x. And W gives r: W = (beta/N) (r-1) for best-of-N,
        1 - (beta/N) (1-r) for worst-of-N. Check: tests/test_widgets_frontier.py.
        """
        if isinstance(self.procedure, ia.Standard):
            return theory.tilt(ia.Identity(), beta).density(U)
        log_k, log_r, log_x, log_F = self._one_curve
        start = np.clip(np.log(self.procedure.n**2 / beta), log_k[0], log_k[-1])
        x0, F0 = (float(np.interp(start, log_k, column)) for column in (log_x, log_F))
        x = (1 - U) if isinstance(self.procedure, ia.WorstOfN) else U
        with np.errstate(divide="ignore"):
            log_f = np.interp(np.log(x), log_x - x0, log_r + (log_F - F0) - (log_x - x0))
        f = np.exp(log_f)
        return np.asarray(f / np.trapezoid(f, U))


@lru_cache(maxsize=96)
def bound(shown: str) -> Bound:
    """The bound of a procedure, kept."""
    return Bound(shown)


@lru_cache(maxsize=64)
def _path(name: str) -> tuple[Any, ...]:
    """Policies of a named transform up to MOST_KL or as far as it goes, close in KL, which may rise steeply in beta."""
    phi, found, ahead = ia.standardize(ia.transform(name)), list[Any](), list(8.0 * 1.6 ** -np.arange(40.0))[::-1]
    while ahead and not (found and found[-1].kl > MOST_KL):
        policy = theory.tilt(phi, ahead.pop())
        if found and np.sqrt(policy.kl) - np.sqrt(found[-1].kl) > 0.13 and len(found) < 60:
            ahead += [policy.beta, float(np.sqrt(policy.beta * found[-1].beta))]
        elif not found or policy.kl > found[-1].kl * 1.001:
            found.append(policy)
    return tuple(found)


@lru_cache(maxsize=256)
def curve_of(name: str, shown: str) -> tuple[Array, Array]:
    """KL (nats) from 0 to MOST_KL, or as far as a transform goes, and its win rate under a procedure.

    >>> kl, win_rate = curve_of("identity", "standard")
    >>> round(float(np.interp(0.151596, kl, win_rate)), 3)
    0.657
    """
    policies = _path(name)
    s = np.sqrt([0.0, *(policy.kl for policy in policies)])
    at = np.linspace(0, s[-1], 121)
    return at**2, CubicSpline(s, [0.5, *(policy.win_rate(shown) for policy in policies)])(at)
