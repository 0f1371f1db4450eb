"""The one curve per N that holds the optimum for every beta: best-of-N against best-of-N', worst against worst.

Derived (in no source we know): with phi''/phi' = sigma phi^(N-1) s^(N'-1), phi(0) = 0, phi'(0) = 1, the optimum is
F(x) = phi(B x) / phi(B), where k = phi(B)^(N-1) B^N' = N N' / beta. Here x = u, sigma = 1 for best-of-N and x = 1 - u,
sigma = -1 for worst-of-N (and F means 1 - F). k increases with B, so there is one solution for every beta.

In log k the curve is a single scalar equation for r = B phi'(B) / phi(B), the density at x = 1:
    d log r / d log k = (1 + sigma k - r) / ((N-1) r + N'),   r = 1 at k = 0,
and W and KL follow from r, in numbers that neither overflow nor cancel. The policy itself comes from the general
solver, which knows nothing of this curve: the two agree. Check: tests/test_theory_optimal.py.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.polynomial import polynomial
from numpy.typing import ArrayLike
from scipy import integrate

from infalign_edu.order_statistics import Array

_START, _TERMS = 0.5, 40  # up to this k, a power series with so many terms


class PowerCurve:
    """W and KL of the optimum for every beta down to the smallest, for one (N, N', sigma) with N >= 2.

    >>> win_rate, kl = power_curve(4, 4, 1, 0.1).win_rate_and_kl(0.1)
    >>> round(float(win_rate), 6), round(float(kl), 6)
    (0.93117, 0.890859)
    """

    def __init__(self, N: int, M: int, sigma: int, largest_k: float) -> None:
        self.N, self.M, self.sigma = N, M, sigma
        self._series = np.zeros(_TERMS)  # of (r - 1) / k
        weight = 1 + (N - 1) * (np.arange(_TERMS) + 1.0)
        for j in range(_TERMS):
            y = self._series[:j]
            before = sigma * y[-1] - (weight[:j] * y) @ y[::-1] if j else sigma
            self._series[j] = before / ((N + M - 1) * (j + 1) + 1)
        log_r, kl = self._small(np.array(_START))
        log_r = log_r - self._line(np.array(_START))
        span = (math.log(_START), math.log(max(largest_k, 1.0)) + 1e-6)
        found = integrate.solve_ivp(self._rates, span, [float(log_r), float(kl)], method="DOP853", rtol=3e-14,
                                    atol=1e-16, dense_output=True)
        self._curve = found.sol

    def _line(self, k: Array) -> Array:
        """log(1 + k/N), what log r of best-of-N tends to: the rest alone keeps its digits. 0 for worst-of-N."""
        return np.log1p(k / self.N) if self.sigma > 0 else np.zeros_like(k)

    def _rates(self, log_k: float, y: Array) -> tuple[float, float]:
        """d(log r - line, KL) / d log k. KL's own equation: log r - sigma (N/beta) (1 - |r-1| beta/N') cancels."""
        k, N, M = math.exp(log_k), self.N, self.M
        if self.sigma < 0:
            r = math.exp(y[0])
            slope = (N - 1) * r + M
            return (1 - k - r) / slope, ((1 - r) * (M + N * r) - k * r) / (M * slope)
        over = math.expm1(y[0])  # r = (1 + k/N) (1 + over), and k - N r = -N - (N + k) over: no digit is lost
        r = (1 + k / N) * (1 + over)
        slope = (N - 1) * r + M
        return (-(1 + k) * over - M * k / (N + k)) / slope, (M - r * ((N + k) * over + M)) / (M * slope)

    def _small(self, k: Array) -> tuple[Array, Array]:
        ky = k * polynomial.polyval(k, self._series)
        return np.log1p(ky), np.log1p(ky) + (self.N * ky - self.sigma * k) / self.M

    def win_rate_and_kl(self, beta: ArrayLike) -> tuple[Array, Array]:
        """W and KL(pi || pi_ref) of the optimum. Shape: beta [...] -> two of [...].

        W = (beta/N')(r-1) for best-of-N, 1 - (beta/N')(1-r) for worst-of-N. Derived: tests/test_theory_optimal.py.
        """
        k = self.N * self.M / np.asarray(beta, dtype=float)
        small = np.minimum(k, _START)
        far = self._curve(np.log(np.maximum(k, _START)).ravel()).reshape(2, *k.shape)
        log_r, kl = np.where(k > _START, [far[0] + self._line(k), far[1]], self._small(small))
        share = self.N * self.sigma * np.where(k > _START, np.expm1(log_r) / k, polynomial.polyval(small, self._series))
        return np.clip(share if self.sigma > 0 else 1 - share, 0.0, 1.0), np.maximum(kl, 0.0)


@lru_cache(maxsize=64)
def _cached(N: int, M: int, sigma: int, decades: int) -> PowerCurve:
    return PowerCurve(N, M, sigma, N * M * 10.0**decades)


def power_curve(N: int, M: int, sigma: int, least_beta: float) -> PowerCurve:
    """The curve that reaches down to `least_beta`; kept, so that further betas cost nothing."""
    decades = max(2, -math.floor(math.log10(least_beta)))
    return _cached(N, M, sigma, min(300, 1 << (decades - 1).bit_length()))  # few curves on the way to a small beta
