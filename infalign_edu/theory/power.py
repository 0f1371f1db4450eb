"""The one curve per N that holds the optimum for every beta: best-of-N against best-of-N', worst against worst.

Derived (in no source we know): with phi''/phi' = sigma phi^(N-1) s^(N'-1), phi(0) = 0, phi'(0) = 1, the optimum is
F(x) = phi(B x) / phi(B), where k = phi(B)^(N-1) B^N' = N N' / beta. Here x = u, sigma = 1 for best-of-N and x = 1 - u,
sigma = -1 for worst-of-N (and F means 1 - F). k increases with B, so there is one solution for every beta.

In log k the curve is a single scalar equation for r = B phi'(B) / phi(B), the density at x = 1:
    d log r / d log k = (1 + sigma k - r) / ((N-1) r + N'),   r = 1 at k = 0.
W, KL and the whole policy follow from r, in numbers that neither overflow nor cancel.
Check: tests/test_theory_optimal.py.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import ArrayLike

from infalign_edu.order_statistics import Array
from infalign_edu.theory.panels import COEFFICIENTS, INTEGRAL, NODES, WEIGHTS, Panels, roughness

_START = 0.5  # below this k, a power series
_STEP = 0.25  # widest panel in log k
_TERMS = 40


class PowerCurve:
    """r, KL and the policy of every beta down to the smallest, for one (N, N', sigma) with N >= 2.

    >>> curve = power_curve(4, 4, 1, 0.1)
    >>> win_rate, kl = curve.win_rate_and_kl(0.1)
    >>> round(float(win_rate), 6), round(float(kl), 6)
    (0.93117, 0.890859)
    """

    def __init__(self, N: int, M: int, sigma: int, largest_k: float) -> None:
        self.N, self.M, self.sigma = N, M, sigma
        self._y, self._shift = self._series()
        steps = max(1, math.ceil((math.log(largest_k / _START) + 1e-9) / _STEP))
        self._edges = math.log(_START) + _STEP * np.arange(steps + 1)
        log_k, log_r = self._solve()
        r, k = np.exp(log_r), np.exp(log_k)
        slope = (N - 1) * r + M
        kl_rate = ((1 - r) * (M + N * r) + sigma * k * r) / (M * slope)
        # log s is summed from the far end: near a blow-up of phi its differences are all that counts
        self._rest = 0.0
        small = self._small(np.array(_START))
        columns = (log_r, self._cumulate(kl_rate, small[1]), self._cumulate((r - 1) / slope, small[2]),
                   self._cumulate(1 / slope[::-1, ::-1], 0.0, -1)[::-1, ::-1])
        self._coefficients = np.stack([COEFFICIENTS @ v.T for v in columns])
        self._rest = float(self.at(self._edges[0])[3] - self._small(np.array(_START))[3])

    def _series(self) -> tuple[Array, Array]:
        """Powers of k for y = (r-1)/k and for log(phi/s) = int y / ((N-1) r + N') dk."""
        N, M, sigma = self.N, self.M, self.sigma
        y = np.zeros(_TERMS)
        weight = 1 + (N - 1) * (np.arange(_TERMS) + 1.0)
        for j in range(_TERMS):
            product = float((weight[:j] * y[:j]) @ y[:j][::-1]) if j else 0.0
            y[j] = (sigma * (j == 0) + sigma * (y[j - 1] if j else 0.0) - product) / ((N + M - 1) * (j + 1) + 1)
        ratio = np.zeros(_TERMS)  # y / (N + M - 1 + (N-1) k y)
        for j in range(_TERMS):
            ratio[j] = (y[j] - (N - 1) * float(ratio[:j] @ y[:j][::-1])) / (N + M - 1)
        return y, np.concatenate([[0.0], ratio / (np.arange(_TERMS) + 1)])

    def _rate(self, log_r: float, log_k: float) -> float:
        r = math.exp(log_r)
        return (1 + self.sigma * math.exp(log_k) - r) / ((self.N - 1) * r + self.M)

    def _guess(self, start: float) -> Array:
        """log r at the panel edges by Runge-Kutta steps of order 4."""
        h, at = _STEP / 4, start
        guess = [at]
        for edge in self._edges[:-1]:
            for i in range(4):
                t = edge + i * h
                a = self._rate(at, t)
                b = self._rate(at + h / 2 * a, t + h / 2)
                c = self._rate(at + h / 2 * b, t + h / 2)
                at += h / 6 * (a + 2 * b + 2 * c + self._rate(at + h * c, t + h))
            guess.append(at)
        return np.array(guess)

    def _solve(self) -> tuple[Array, Array]:
        """Nodes in log k and log r there; panels are halved where 16 nodes do not resolve log r."""
        start = float(np.log1p(_START * np.polynomial.polynomial.polyval(_START, self._y)))
        edge = self._guess(start)
        log_r = edge[:-1, None] + np.diff(edge)[:, None] * 0.5 * (NODES + 1)
        for _ in range(12):
            half = 0.5 * np.diff(self._edges)[:, None]
            log_k = self._edges[:-1, None] + half * (NODES + 1)
            log_r = self._newton(log_k, half, start, log_r)
            rough = roughness(log_r) > 1e-13 * (1 + np.abs(log_r).max(axis=1))
            if not rough.any():
                break
            series = log_r @ COEFFICIENTS.T
            halves = [series @ legendre.legvander((NODES + side) / 2, NODES.size - 1).T for side in (-1, 1)]
            log_r = np.concatenate([np.stack([a, b]) if bad else v[None]
                                    for a, b, v, bad in zip(*halves, log_r, rough, strict=True)])
            self._edges = np.sort(np.concatenate([self._edges, self._edges[:-1][rough] + half[rough, 0]]))
        return log_k, log_r

    def _newton(self, log_k: Array, half: Array, start: float, log_r: Array) -> Array:
        """Newton's method on Gauss collocation, all panels at once."""
        k, S = np.exp(log_k), half[..., None] * INTEGRAL
        for _ in range(30):
            r = np.exp(log_r)
            slope = (self.N - 1) * r + self.M
            rate = (1 + self.sigma * k - r) / slope
            J = -r * (1 + (self.N - 1) * rate) / slope
            right = np.einsum("pij,pj->pi", S, rate - J * log_r)
            solved = np.linalg.solve(np.eye(NODES.size) - S * J[:, None, :],
                                     np.stack([np.ones_like(right), right], axis=-1))
            grow = 1 + half[:, 0] * ((J * solved[..., 0]) @ WEIGHTS)
            add = half[:, 0] * ((rate - J * log_r + J * solved[..., 1]) @ WEIGHTS)
            first = [start]
            for g, a in zip(grow.tolist(), add.tolist(), strict=True):
                first.append(g * first[-1] + a)
            new = np.array(first[:-1])[:, None] * solved[..., 0] + solved[..., 1]
            step, log_r = np.abs(new - log_r).max(), new
            if step < 1e-12 * (1 + np.abs(log_r).max()):
                return log_r
        raise RuntimeError(f"curve for N = {self.N}, N' = {self.M} did not converge: last step {step:.1e}")

    def _cumulate(self, rate: Array, start: float, direction: int = 1) -> Array:
        half = 0.5 * np.diff(self._edges)[::direction]
        total = half * (rate @ WEIGHTS)
        return start + (np.cumsum(total) - total)[:, None] + half[:, None] * (rate @ INTEGRAL.T)

    def _small(self, k: Array) -> Array:
        """The columns of `at` from the power series, for k <= 1/2."""
        ky, shift = k * np.polynomial.polynomial.polyval(k, self._y), np.polynomial.polynomial.polyval(k, self._shift)
        kl = np.log1p(ky) + (self.N * ky - self.sigma * k) / self.M
        log_s = (np.log(np.maximum(k, 1e-300)) - (self.N - 1) * shift) / (self.N - 1 + self.M)
        return np.stack([np.log1p(ky), kl, shift, self._rest - log_s])

    def at(self, log_k: ArrayLike) -> Array:
        """log r, KL, log(phi/s) and a constant minus log s at given log k. Shape: [...] -> [4, ...]."""
        log_k = np.asarray(log_k, dtype=float)
        flat = log_k.ravel()
        small = flat < self._edges[0]
        found = np.empty((4, flat.size))
        found[:, small] = self._small(np.exp(flat[small]))
        i = np.clip(np.searchsorted(self._edges, flat[~small], side="right") - 1, 0, self._edges.size - 2)
        x = 2 * (flat[~small] - self._edges[i]) / np.diff(self._edges)[i] - 1
        found[:, ~small] = np.einsum("vji,ij->vi", self._coefficients[:, :, i], legendre.legvander(x, NODES.size - 1))
        return found.reshape((4, *log_k.shape))

    def log_k(self, beta: ArrayLike) -> Array:
        return np.log(self.N * self.M) - np.log(np.asarray(beta, dtype=float))

    def win_rate_and_kl(self, beta: ArrayLike) -> tuple[Array, Array]:
        """W and KL(pi || pi_ref) of the optimum. Shape: beta [...] -> two of [...].

        W = (beta/N')(r-1) for best-of-N, 1 - (beta/N')(1-r) for worst-of-N; KL is integrated along the curve, as
        log r - sigma (N/beta)(1 - (beta/N')|r-1|) would lose digits. Derived: tests/test_theory_optimal.py.
        """
        log_k = self.log_k(beta)
        log_r, kl, *_ = self.at(log_k)
        share = self.N * self.sigma * np.expm1(log_r) * np.exp(-log_k)
        tiny = np.exp(log_k) < _START
        series = self.N * self.sigma * np.polynomial.polynomial.polyval(np.where(tiny, np.exp(log_k), 0.0), self._y)
        share = np.where(tiny, series, share)
        return (share if self.sigma > 0 else 1 - share), np.maximum(kl, 0.0)

    def log_density(self, beta: float, panels: Panels) -> Array:
        """log f at the nodes of panels: log B + log phi'(s) - log phi(B) at s = B x. Shape: [panels, 16]."""
        N, M = self.N, self.M
        top = float(self.log_k(beta))
        from_end = panels.right[:, None] == (self.sigma > 0)  # distance is 1 - x there
        log_x = np.where(from_end, np.log1p(-np.where(from_end, panels.distance, 0.0)), np.log(panels.distance))
        _, _, shift, least = self.at(top)
        table = np.concatenate([np.linspace(min(-40.0, top - 1), self._edges[0], 200, endpoint=False), self._edges])
        table = np.append(table[table < top], top)
        log_k = np.interp(log_x, least - self.at(table)[3], table)
        for _ in range(8):
            log_r, _, ratio, below = self.at(log_k)
            miss = (least - below) - log_x
            if (np.abs(miss / log_x) * (log_k > -600.0)).max() < 1e-14:
                break
            log_k = np.clip(log_k - miss * ((N - 1) * np.exp(log_r) + M), -600.0, top)
        log_r, _, ratio, _ = self.at(log_k)
        return log_r + ratio - shift  # log phi'(s) = log r + log(phi/s), and B / phi(B) = exp(-shift)


@lru_cache(maxsize=64)
def _cached(N: int, M: int, sigma: int, decade: int) -> PowerCurve:
    return PowerCurve(N, M, sigma, N * M * 10.0**-decade)


def power_curve(N: int, M: int, sigma: int, least_beta: float) -> PowerCurve:
    """The curve that reaches down to `least_beta`; kept, so that further betas cost nothing."""
    return _cached(N, M, sigma, min(-2, math.floor(math.log10(least_beta))))
