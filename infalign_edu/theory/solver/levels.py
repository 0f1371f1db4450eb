"""Every stationary policy of W - beta KL(pi || pi_ref) on finitely many reward levels, for any rank procedure.

From level to level R rises by R_{k+1} - R_k = (c_{k+1} - c_k) g(F_k), c_k the win probability of level k against what
the reference shows. So pi* proportional to pi_ref exp(R / beta) gives f_1, f_2, ... one after another:

    f_{k+1} / f_k = m_{k+1} / m_k exp((c_{k+1} - c_k) g(F_k) / beta),   F_k = f_1 + ... + f_k,   m the reference masses,

and one number, log f_1, decides all of them: the stationary policies are the roots of F_L = 1. `scan` brackets them by
starts that it halves where F moves fast; `polish` makes them exact. Derived: tests/test_theory_finite.py. Limits:
two roots may still hide between two starts, most of all where `MOST` ends the halving, and beyond `COARSE` levels it
sees merged neighbours.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_banded
from scipy.special import logsumexp

from infalign_edu.order_statistics import Array
from infalign_edu.procedures import Procedure

COARSE = 1000  # levels that `scan` works on at first
MOST = 4_000_000  # numbers that it looks at, at most: levels times starts; 3,000 starts always


def cumulative(f: Array) -> Array:
    """F_0 = 0, F_1, ..., F_L = 1 from masses. Shape: [L] -> [L + 1].

    >>> cumulative(np.array([1.0, 3.0]))
    array([0.  , 0.25, 1.  ])
    """
    total = np.concatenate([[0.0], np.cumsum(f)])
    return total / total[-1]


def level_masses(level: NDArray[np.intp], weights: Array) -> Array:
    """Sum of the weights on each level. Shape: level [S], weights [S] -> [L].

    >>> level_masses(np.array([0, 1, 1]), np.array([0.5, 0.25, 0.25]))
    array([0.5, 0.5])
    """
    return np.bincount(level, weights=weights).astype(np.float64)


class Levels:
    """The objective on levels; a policy is given by its tilt, log(policy / reference) on each level.

    Shape: mass [L], positive and summing to 1; scores [L], non-decreasing.

    >>> from infalign_edu.procedures import Standard
    >>> two = Levels(Standard(), 0.5, np.array([0.5, 0.5]), np.array([0.25, 0.75]))
    >>> [(tilt.round(4), residual < 1e-12) for tilt, residual in two.stationary()]
    [(array([-0.6201,  0.3799]), True)]
    """

    def __init__(self, p: Procedure, beta: float, mass: Array, scores: Array) -> None:
        self.p, self.beta, self.mass, self.scores = p, beta, mass, scores

    def concave_from(self) -> float:
        """A beta from which on the objective is concave, hence has one stationary policy.

        beta_0 = (c_L - c_1) max_t t (1-t) max(0, -g'(t)). Derived: the second derivative of W along v is at most
        sum_k (c_{k+1} - c_k) max(0, -g'(F_k)) V_k^2 with V the partial sums of v, that of KL is sum_j v_j^2 / f_j, and
        by Cauchy-Schwarz V_k^2 <= F_k (1-F_k) sum_j v_j^2 / f_j. It is 0 for every non-decreasing g (best-of-N, top-m,
        their mixtures) and (N-1) (1-1/N)^(N-1) (c_L - c_1) for worst-of-N. The maximum is taken on 8,001 points.
        """
        t = np.sin(np.linspace(0, np.pi / 2, 8001)) ** 2
        fall, middle = np.clip(-np.diff(self.p.pdf(t)) / np.diff(t), 0, None), (t[1:] + t[:-1]) / 2
        return float((middle * (1 - middle) * fall).max() * (self.scores[-1] - self.scores[0]))

    @cached_property
    def unique(self) -> bool:
        """Whether it is proved that there is one stationary policy."""
        return bool(self.beta >= 1.001 * self.concave_from() - 1e-9)

    def stationary(self) -> list[tuple[Array, float]]:
        """The distinct stationary policies and their residuals in nats. Shape: each [L], float.

        F_L - 1 changes sign an odd number of times; if two roots of merged levels were polished into one, and their
        number is even, a scan with finer levels is added.
        """
        found: list[tuple[Array, float]] = []
        for coarse in (COARSE, 4 * COARSE):
            for tilt, residual in map(self.polish, self.scan(coarse)):
                F = np.cumsum(self.mass * np.exp(tilt))
                if all(np.abs(F - np.cumsum(self.mass * np.exp(other))).max() > 1e-9 for other, _ in found):
                    found.append((tilt, residual))
            if len(found) % 2 == 1 or len(self.mass) <= coarse:
                break
        return found

    def scan(self, coarse: int = COARSE) -> list[Array]:
        """One tilt near every sign change of F_L - 1 over the scanned log f_1. Shape: each [L]."""
        group = self._merge(coarse)
        mass = level_masses(group, self.mass)
        scores = level_masses(group, self.mass * self.scores) / mass
        low, path = self._starts(mass, scores)
        high_side = path[-1] > 0
        high_side[0], high_side[-1] = True, False
        at = np.flatnonzero(high_side[1:] != high_side[:-1])
        left, right = low[at], low[at + 1]
        for _ in range(8):
            inside = left[:, None] + (right - left)[:, None] * np.linspace(0, 1, 33)  # [roots, 33]
            ends = self._shoot(inside.ravel(), mass, scores)[0][-1].reshape(inside.shape)
            same = (ends > 0) == high_side[at, None]
            same[:, 0], same[:, -1] = True, False
            first, rows = np.argmin(same, axis=1), np.arange(len(at))
            left, right = inside[rows, first - 1], inside[rows, first]
        tilts = self._shoot((left + right) / 2, mass, scores)[1]
        return [np.interp(self.scores, scores, tilt) for tilt in tilts.T]

    def _starts(self, mass: Array, scores: Array) -> tuple[Array, Array]:
        """Values of log(m_1 / f_1), and log F_k from each. Shape: [starts], [L, starts].

        So close that from one to the next no F_k < 1 moves by more than half a nat, nor by more than a thousandth where
        F_L = 1 may lie between: F_L is near it, or another level reaches 1 first. As they come where there is one root.
        """
        steepest = self.p.pdf(np.linspace(0, 1, 2001)).max()
        widest = 1.01 * steepest * (scores[-1] - scores[0]) / self.beta + 1  # log(m_1 / f_1) stays below this
        low = np.linspace(0, widest, 300)
        path = self._shoot(low, mass, scores)[0]
        while True:
            moved = np.abs(np.diff(np.minimum(path, 0))).max(axis=0)
            near = np.minimum(*np.abs([path[-1, 1:], path[-1, :-1]])) < 4 * moved
            near |= np.diff((path < 0).sum(axis=0)) != 0  # another level is the first to reach 1
            far = (moved > 0.5) | (moved > 1e-3) & near
            at = np.flatnonzero(far & (np.diff(low) > 1e-13 * (1 + low[1:])))
            if self.unique or at.size == 0 or low.size + at.size > max(3000, MOST / len(mass)):
                return low, path
            between = (low[at] + low[at + 1]) / 2
            low = np.insert(low, at + 1, between)
            path = np.insert(path, at + 1, self._shoot(between, mass, scores)[0], axis=1)

    def _merge(self, coarse: int) -> NDArray[np.intp]:
        L = len(self.mass)
        share = (np.cumsum(self.mass) + np.arange(1, L + 1) / L) / 2
        group = np.floor(share * (1 - 1e-9) * coarse) if coarse < L else np.arange(L)
        return np.unique(group, return_inverse=True)[1]

    def _shoot(self, low: Array, mass: Array, scores: Array) -> tuple[Array, Array]:
        """log F and the tilts from a tilt of -low at level 1. Shape: [starts] -> [L, starts], [L, starts]."""
        tilts = [-low]
        F = mass[0] * np.exp(-low)
        with np.errstate(over="ignore"):
            for m, rise in zip(mass[1:], np.diff(scores) / self.beta, strict=True):
                tilts.append(tilts[-1] + rise * self.p.pdf(np.minimum(F, 1.0)))
                F = F + m * np.exp(tilts[-1])
        return np.logaddexp.accumulate(np.log(mass)[:, None] + tilts), np.stack(tilts)

    def _answer(self, F: Array) -> tuple[Array, Array]:
        """The normalised tilt R(F) / beta, and its own CDF minus F. Shape: [L-1] -> [L], [L-1]."""
        tilt = np.concatenate([[0.0], np.cumsum(np.diff(self.scores) * self.p.pdf(F))]) / self.beta
        tilt -= logsumexp(tilt, b=self.mass)
        return tilt, np.cumsum(self.mass * np.exp(tilt))[:-1] - F

    def polish(self, tilt: Array) -> tuple[Array, float]:
        """The stationary policy near a tilt, and its residual in nats. Shape: [L] -> [L], float.

        Newton's method on F = cumsum(m exp(R(F) / beta)): with e the change of the answer's CDF and s that of its tilt,
        e_k - e_{k-1} = f_k s_k and s_{k+1} - s_k = a_k (miss_k + e_k): tridiagonal in (s_1, e_1, s_2, e_2, ..., s_L).
        """
        F = cumulative(self.mass * np.exp(tilt - tilt.max()))[1:-1]
        best, least = tilt, np.inf
        for _ in range(100):
            tilt, miss = self._answer(F)
            residual = float(np.ptp(self._answer(np.clip(F + miss, 0, 1))[0] - tilt))
            if residual < least:
                best, least = tilt, residual
            elif least < 1e-9:  # rounding is all that is left
                break
            if least < 1e-13:
                break
            up, down = np.minimum(F + 1e-6, 1), np.maximum(F - 1e-6, 0)
            a = np.diff(self.scores) * (self.p.pdf(up) - self.p.pdf(down)) / (up - down) / self.beta
            bands, target = np.ones((3, 2 * len(F) + 1)), np.zeros(2 * len(F) + 1)
            bands[1, 0::2], bands[1, 1::2], bands[2] = -self.mass * np.exp(tilt), -a, -1.0
            target[1::2] = a * miss
            step = miss + solve_banded((1, 1), bands, target)[1::2]
            for t in 0.5 ** np.arange(12):
                trial = np.maximum.accumulate(np.clip(F + t * step, 0, 1))
                if np.abs(self._answer(trial)[1]).max() < np.abs(miss).max():
                    break
            F = trial
        return best, least
