"""Panels: adaptive Gauss-Legendre quadrature on [0, 1] for functions with thin layers at either end.

A point near 1 is kept as its distance from 1, so that a layer of width 1e-130 there has as many digits as one at 0.
Panels are halved, all at once, until sixteen nodes resolve each of them; no interval of [0, 1] is privileged, so steps
and kinks cost logarithmically many panels. `scipy.integrate.quad` is left out: it cannot reuse one mesh for the
normaliser, the CDF, the KL and the win rate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import legendre

from infalign_edu.order_statistics import Array

DEGREE = 16
NODES, WEIGHTS = legendre.leggauss(DEGREE)
_VANDERMONDE = legendre.legvander(NODES, DEGREE - 1)
COEFFICIENTS = (_VANDERMONDE * WEIGHTS[:, None]).T * (np.arange(DEGREE)[:, None] + 0.5)  # values -> Legendre series
# INTEGRAL[i, j]: weight of value j in the integral of the interpolant from -1 to node i
INTEGRAL = np.stack([legendre.legval(NODES, legendre.legint(c, lbnd=-1)) for c in COEFFICIENTS.T], axis=1)


@dataclass(frozen=True)
class Panels:
    """Intervals in ascending order, each held as distances `near` < `far` from its end (0, or 1 where `right`).

    Shape: right, near, far [panels].

    >>> p = Panels.graded(2.0**-50, 2.0**-50)
    >>> round(p.integral(p.u**2), 9)
    0.333333333
    """

    right: np.ndarray
    near: Array
    far: Array

    @classmethod
    def graded(cls, least_left: float, least_right: float, knots: Array | None = None) -> Panels:
        """Panels that halve towards both ends, down to distances `least_left` and `least_right`; knots become edges."""
        knots = np.empty(0) if knots is None else knots
        ends = []
        for least, extra in ((least_left, knots), (least_right, 1 - knots)):
            dyadic = 0.5 ** np.arange(1.0, np.ceil(-np.log2(least)) + 1)
            extra = extra[(extra > dyadic[-1]) & (extra < 0.5)]
            ends.append(np.unique(np.concatenate([dyadic, extra])))
        left, right = ends[0], ends[1][::-1]
        return cls(
            np.repeat([False, True], [left.size - 1, right.size - 1]),
            np.concatenate([left[:-1], right[1:]]),
            np.concatenate([left[1:], right[:-1]]),
        )

    @property
    def width(self) -> Array:
        return self.far - self.near

    @property
    def distance(self) -> Array:
        """Distance of every node from its panel's end, in ascending order of u. Shape: [panels, 16]."""
        along = 0.5 * (NODES + 1)
        start = np.where(self.right, self.far, self.near)[:, None]
        return start + np.where(self.right, -self.width, self.width)[:, None] * along

    @property
    def u(self) -> Array:
        """The nodes. Shape: [panels, 16]."""
        return np.where(self.right[:, None], 1 - self.distance, self.distance)

    @property
    def start(self) -> Array:
        """Lower edges in u. Shape: [panels]."""
        return np.where(self.right, 1 - self.far, self.near)

    def integral(self, values: Array) -> float:
        """Integral of a function given at the nodes. Shape: [panels, 16] -> number."""
        return float(0.5 * (self.width * (values @ WEIGHTS)).sum())

    def cumulative(self, values: Array, before: float = 0.0) -> Array:
        """Integral from the first edge to every node, plus `before`. Shape: [panels, 16] -> [panels, 16]."""
        half = 0.5 * self.width
        mass = half * (values @ WEIGHTS)
        return before + (np.cumsum(mass) - mass)[:, None] + half[:, None] * (values @ INTEGRAL.T)

    def split(self, chosen: np.ndarray) -> Panels:
        """Both halves of the chosen panels, the lower halves first."""
        right, near, far = self.right[chosen], self.near[chosen], self.far[chosen]
        middle = 0.5 * (near + far)
        return Panels(np.tile(right, 2), np.concatenate([near, middle]), np.concatenate([middle, far]))

    def take(self, index: np.ndarray) -> Panels:
        return Panels(self.right[index], self.near[index], self.far[index])

    def join(self, other: Panels) -> Panels:
        return Panels(*(np.concatenate(pair) for pair in zip(self.parts, other.parts, strict=True)))

    @property
    def parts(self) -> tuple[np.ndarray, Array, Array]:
        return self.right, self.near, self.far

    def order(self) -> np.ndarray:
        """The permutation that sorts the panels by u."""
        return np.lexsort((np.where(self.right, -self.near, self.near), self.right))


def roughness(values: Array) -> Array:
    """Size of the last two Legendre coefficients of every panel. Shape: [panels, 16] -> [panels]."""
    return np.abs(values @ COEFFICIENTS[-2:].T).sum(axis=-1)


def resolve(panels: Panels, evaluate: Callable[[Panels], Array], rough: Callable[[Panels, Array], np.ndarray],
            levels: int = 60, most: int = 40_000) -> tuple[Panels, Array]:
    """Halve panels until none is rough; returns them in order with the values of `evaluate` at their nodes.

    Shape: evaluate -> [panels, 16, ...]; rough -> bool [panels].

    >>> p, v = resolve(Panels.graded(1e-9, 1e-9), lambda p: abs(p.u - 0.3), lambda p, v: roughness(v) * p.width > 1e-13)
    >>> round(p.integral(v), 6)
    0.29
    """
    kept: list[tuple[Panels, Array]] = []
    total = 0
    for level in range(levels + 1):
        values = evaluate(panels)
        bad = rough(panels, values) & (total + 2 * len(values) < most) & (level < levels)
        kept.append((panels.take(~bad), values[~bad]))
        total += int((~bad).sum())
        if not bad.any():
            break
        panels = panels.split(bad)
    joined = kept[0][0]
    for extra, _ in kept[1:]:
        joined = joined.join(extra)
    order = joined.order()
    return joined.take(order), np.concatenate([v for _, v in kept])[order]
