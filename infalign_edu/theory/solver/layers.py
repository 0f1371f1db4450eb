"""A transform as numbers: checked values, and its level Phi / beta where floats near 1 are too coarse to follow it.

Any vectorised callable is a transform. exp(20 u) at beta = .1 already puts all its mass within 1e-11 of u = 1, where
floats stand 1e-16 apart; exp(300 u) at beta = .01 within 1e-134. `tilted` integrates what this module evaluates.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike

from infalign_edu.inputs import reals, shown
from infalign_edu.order_statistics import Array, real

Transform = Callable[[Array], ArrayLike]
_SERIES = 12
_POINTS = 0.5 - 0.5 * np.cos(np.pi * (np.arange(48) + 0.5) / 48)
_BASIS = _POINTS[:, None] * chebyshev.chebvander(2 * _POINTS - 1, _SERIES)
_FIT = np.linalg.pinv(_BASIS)


def positive(name: str, value: object) -> float:
    """`value` as a positive finite number, or one clear error that names the field.

    >>> positive("beta", 1)
    1.0
    """
    return real(name, value, "a positive number", lambda v: v > 0)


def values(transform: Transform, u: Array) -> Array:
    """Phi at u, checked: below infinity and no nan. Shape: u any -> same.

    >>> values(lambda u: u**2, np.array([0.5]))
    array([0.25])
    """
    if not callable(transform):
        raise ValueError(f"transform must be a callable such as ia.transform('exp:10'), got {shown(transform)}")
    with np.errstate(divide="ignore", over="ignore"):
        phi = reals("transform", transform(u))
    if phi.shape not in (u.shape, ()):
        raise ValueError(f"transform must give one number for each of {u.shape} places, got shape {phi.shape}")
    phi = np.broadcast_to(phi, u.shape)
    if np.isnan(phi).any() or (phi == np.inf).any():
        worst = float(u[np.isnan(phi) | (phi == np.inf)].flat[0])
        raise ValueError(f"transform must be a number below infinity inside (0, 1), got {transform!r} at u = {worst!r}")
    return phi


def knots_of(transform: Transform) -> Array:
    """Where a transform says that it has kinks (`knots`, or the `u` of a table); quadrature puts panel edges there."""
    return np.unique(np.asarray(getattr(transform, "knots", getattr(transform, "u", [])), dtype=float))


def _at(transform: Transform, u: float) -> float:
    try:
        return float(values(transform, np.array([u]))[0])
    except ValueError:
        return -np.inf


class Level:
    """L = (Phi - max Phi) / beta at a distance from either end, without cancellation in a thin layer at that end.

    Where Phi falls by beta within less than 1e-6 of an end, floats cannot follow: there Phi(end) - Phi is a polynomial
    fitted on the widest interval that it describes to rounding.
    """

    def __init__(self, transform: Transform, beta: float, u: Array) -> None:
        self.transform, self.beta = transform, beta
        self.end = (_at(transform, 0.0), _at(transform, 1.0))
        self.top = max(float(values(transform, u).max()), *self.end)
        if self.top == -np.inf:
            raise ValueError(f"transform must be finite somewhere on (0, 1), got {transform!r}")
        self.series = (self._series(False), self._series(True))

    def _series(self, right: bool) -> tuple[float, Array] | None:
        end, probe = self.end[right], 2.0**-24
        if not np.isfinite(end):
            return None
        near = _at(self.transform, 1 - probe if right else probe)
        if not (np.isfinite(near) and abs(near - end) > 1e6 * probe * self.beta):
            return None
        for h in 0.5 ** np.arange(2.0, 21.0):
            distance = 1 - (1 - h * _POINTS) if right else h * _POINTS
            drop = values(self.transform, 1 - distance if right else distance) - end
            fitted = _FIT @ drop
            if np.abs(_BASIS @ fitted - drop).max() <= 1e-15 * (300 * abs(end) + 4 * np.abs(drop).max()):
                return float(h), fitted
        return None

    def scale(self, right: bool) -> float:
        """Distance from an end over which L changes by one there, at most 1."""
        found = self.series[right]
        slope = float(abs(chebyshev.chebval(-1.0, found[1]))) / found[0] if found else 0.0
        return min(1.0, max(self.beta / slope, 1e-290)) if slope > 0 else 1.0

    def __call__(self, distance: Array, right: np.ndarray | bool) -> Array:
        right = np.broadcast_to(right, distance.shape)
        u = np.where(right, 1 - distance, distance)
        level = (values(self.transform, u) - self.top) / self.beta
        for side, found in enumerate(self.series):
            if found is not None and (inside := (right == side) & (distance < found[0])).any():
                x = distance[inside] / found[0]
                drop = x * chebyshev.chebval(2 * x - 1, found[1])
                level = np.array(level)
                level[inside] = ((self.end[side] - self.top) + drop) / self.beta
        return level
