"""Rewards whose distribution under the reference is known, rounding included: the truth beside CalibrationExplorer.

A response is its true quantile v in [0, 1]. A rounded reward is a partition of [0, 1] into levels; that is all that
ties are. Everything here is exact but the mean of the largest error, which is simulated.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy.special import ndtr, ndtri

from infalign_edu.order_statistics import Array

TIES = {"none": 0.0, "fine": 0.1, "coarse": 0.5, "very coarse": 1.2}  # rounding step / interquartile range
BINS = 10
_EDGE = 1e-3


def _bimodal(x: Array) -> Array:
    return 0.6 * ndtr(x + 2) + 0.4 * ndtr(2 * (x - 2))


_AXIS = np.linspace(-9, 9, 4001)
# shape -> (CDF, quantile function) of the raw reward under the reference
SHAPES: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "normal": (ndtr, ndtri),
    "skewed": (lambda x: -np.expm1(-np.maximum(x, 0)), lambda u: -np.log1p(-u)),
    "bimodal": (_bimodal, lambda u: np.interp(u, _bimodal(_AXIS), _AXIS)),
    "heavy tails": (lambda x: 0.5 + x / (2 * np.sqrt(2 + x * x)), lambda u: (2 * u - 1) / np.sqrt(2 * u * (1 - u))),
    "binary": (lambda x: np.where(x < 0, 0.0, np.where(x < 1, 0.3, 1.0)), lambda u: (u > 0.3).astype(float)),
}  # fmt: skip


@lru_cache(maxsize=32)
def levels_of(shape: str, ties: str) -> Array | None:
    """Edges of the reward's levels in true quantiles, 0 to 1; None where no two responses tie.

    The reward is clipped at its 1 in 10,000 quantiles before it is rounded, so that heavy tails have finitely many.

    >>> levels_of("normal", "very coarse").round(3), levels_of("normal", "none")
    (array([0.   , 0.008, 0.209, 0.791, 0.992, 1.   ]), None)
    """
    cdf, quantile = SHAPES[shape]
    if shape == "binary":
        return np.array([0.0, 0.3, 1.0])
    if not TIES[ties]:
        return None
    low, first, third, high = quantile(np.array([1e-4, 0.25, 0.75, 1 - 1e-4]))
    step = TIES[ties] * (third - first)
    edges = (np.arange(np.floor(low / step), np.ceil(high / step) + 1) + 0.5) * step
    inside = cdf(edges[(edges > low) & (edges < high)])
    return np.concatenate([[0.0], inside, [1.0]])


def level_of(levels: Array | None, u: Array) -> tuple[Array, Array]:
    """The calibrated reward C of the response at u, the middle of its level, and the level's mass.

    >>> level_of(np.array([0.0, 0.3, 1.0]), np.array([0.1, 0.9]))
    (array([0.15, 0.65]), array([0.3, 0.7]))
    """
    if levels is None:
        return u, np.zeros_like(u)
    i = np.clip(np.searchsorted(levels, u, side="right") - 1, 0, levels.size - 2)
    return (levels[i] + levels[i + 1]) / 2, levels[i + 1] - levels[i]


def errors(levels: Array | None, z: Array) -> tuple[Array, Array, tuple[float, float]]:
    """Values of C-hat, their probability under the reference, and the largest and RMS error, of the table z.

    Derived: between two samples C runs on and C-hat stays; tests/test_widgets_calibration.py. Shape: z [K], rising.

    >>> errors(None, np.array([0.5]))[2]
    (0.5, 0.28867513459481287)
    """
    if levels is None:
        edges, values = np.concatenate([[0.0], z, [1.0]]), np.arange(z.size + 1) / z.size
        low, high = edges[:-1] - values, edges[1:] - values
        square = ((high**3 - low**3) / 3).sum()
        return values, np.diff(edges), (float(np.maximum(np.abs(low), np.abs(high)).max()), float(np.sqrt(square)))
    held = np.bincount(np.searchsorted(levels[1:-1], z, side="right"), minlength=levels.size - 1)
    values, mass = (np.cumsum(held) - held / 2) / z.size, np.diff(levels)
    off = np.abs(values - (levels[1:] + levels[:-1]) / 2)
    return values, mass, (float(off.max()), float(np.sqrt(mass @ off**2)))


@lru_cache(maxsize=256)
def usual_worst(shape: str, ties: str, k: int) -> float:
    """Mean over 500 tables of the largest error of C-hat: 3/4 at K = 1 without ties, about 0.869 / sqrt(K) later.

    >>> round(usual_worst("normal", "none", 1), 2), usual_worst("binary", "none", 16) < 0.1
    (0.75, True)
    """
    tables = np.sort(np.random.default_rng(2024).random((500, k)), axis=1)
    levels = levels_of(shape, ties)
    return float(np.mean([errors(levels, z)[2][0] for z in tables]))


def usual_rms(levels: Array | None, k: int) -> float:
    """Root mean square of C-hat - C: sqrt(1 / (6 K)) without ties, sqrt(sum p (u (1-u) - p/4) / K) with them.

    Derived: the integral of u (1-u) is 1/6; tests/test_widgets_calibration.py.

    >>> round(usual_rms(None, 96), 4), round(usual_rms(np.array([0.0, 0.5, 1.0]), 16), 4)
    (0.0417, 0.0625)
    """
    if levels is None:
        return float(np.sqrt(1 / (6 * k)))
    mass, u = np.diff(levels), (levels[1:] + levels[:-1]) / 2
    return float(np.sqrt(mass @ (u * (1 - u) - mass / 4) / k))


@lru_cache(maxsize=32)
def raw(shape: str, ties: str) -> Array:
    """Share of responses in each tenth of the raw reward's range, which holds the middle 99.8 %. Shape: [10].

    >>> raw("binary", "none")[[0, 9]]
    array([0.3, 0.7])
    """
    cdf, quantile = SHAPES[shape]
    low, high = quantile(np.array([_EDGE, 1 - _EDGE]))
    levels = levels_of(shape, ties)
    if levels is None:
        return np.diff(cdf(np.linspace(low, high, BINS + 1)))
    middle = np.clip((levels[1:] + levels[:-1]) / 2, _EDGE, 1 - _EDGE)
    place = np.clip((quantile(middle) - low) / (high - low), 0, 1)
    return np.histogram(place, BINS, (0, 1), weights=np.diff(levels))[0]


def histogram(values: Array, chance: Array, k: int) -> Array:
    """Share of C-hat in each tenth, each of its values spread over a cell of width 1 / (K + 1).

    Without ties C-hat has K + 1 possible values, of which tenths would otherwise hold unequal numbers. Shape: [10].

    >>> float(histogram(np.array([0.0, 1.0]), np.array([0.5, 0.5]), k=1).round(12).max())  # as flat as it can be
    0.1
    """
    edges = np.linspace(0, 1, BINS + 1)[:, None]
    below = np.clip(edges * (k + 1) - k * values, 0, 1) @ chance
    return np.diff(below)
