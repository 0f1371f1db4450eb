"""Every stationary policy of any pair of rank procedures, roughly: many shots from u = 1 at once.

A stationary policy solves beta (log F')' = g_pol(F) g_ref(u) with F(0) = 0, F(1) = 1. Started at u = 1 with an unknown
log f(1), it is an initial value problem, and every log f(1) that ends at F(0) = 0 is one solution. Derived: log f(1)
lies between 0 and log(1 + max g_ref / beta), because log f rises and beta (f(1) - f(0)) = int g_pol(F) g_ref dF; the
first shot ends above F = 0 and the last below, so one solution exists. With s = (1-u) + (1-F) as time both the layers
of F and those of 1 - u are crossed at unit speed. `stationary` takes what is found here to full precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import expit

from infalign_edu.order_statistics import Array
from infalign_edu.procedures import Procedure

_GRID = np.linspace(0.0, 1.0, 4097)
_FROZEN = -40.0  # log f below which F no longer moves
_WIDEST = 0.08  # a longer step could jump over the layer where a procedure looks
_A = np.array([  # Dormand and Prince, order 5 with an estimate of order 4
    [0, 0, 0, 0, 0, 0],
    [1 / 5, 0, 0, 0, 0, 0],
    [3 / 40, 9 / 40, 0, 0, 0, 0],
    [44 / 45, -56 / 15, 32 / 9, 0, 0, 0],
    [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729, 0, 0],
    [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656, 0],
    [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84],
])
_ERROR = np.array([71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40])
_C = np.array([0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1])


@dataclass(frozen=True)
class Pair:
    """Policy and reference procedure with beta; the densities are tabulated, which is enough for shooting."""

    ours: Procedure
    theirs: Procedure
    beta: float

    @cached_property
    def g(self) -> Array:
        return np.asarray(self.ours.pdf(_GRID), dtype=float)

    @cached_property
    def g_ref(self) -> Array:
        return np.asarray(self.theirs.pdf(_GRID), dtype=float)

    @cached_property
    def slope(self) -> Array:
        """dg/dt of the policy's procedure, for Newton's method."""
        return np.asarray(np.gradient(self.g, _GRID))

    def rates(self, s: Array, y: Array) -> Array:
        """d(F, log f)/ds. Shape: s [shots], y [2, shots] -> [2, shots]."""
        F, log_f = y
        pull = np.interp(F, _GRID, self.g) * np.interp(2 - s - F, _GRID, self.g_ref)
        return np.stack([-expit(log_f), -pull * expit(-log_f) / self.beta])


@dataclass(frozen=True)
class Shots:
    """Where shots ended, and their paths. Shape: start, miss [shots]; path [times, 3 (s, F, log f), shots]."""

    start: Array
    miss: Array
    path: Array

    def join(self, other: Shots) -> Shots:
        longest = max(len(self.path), len(other.path))
        paths = [np.concatenate([p, np.repeat(p[-1:], longest - len(p), axis=0)]) for p in (self.path, other.path)]
        start = np.concatenate([self.start, other.start])
        order = np.argsort(start, kind="stable")
        return Shots(start[order], np.concatenate([self.miss, other.miss])[order],
                     np.concatenate(paths, axis=-1)[..., order])


def shoot(pair: Pair, start: Array, tolerance: float) -> Shots:
    """Integrate from (u, F) = (1, 1) with log f(1) = start, every shot with its own step, until F freezes or is 0.

    `miss` is F where u reached 0, or -u where F did: zero at a solution.
    """
    s, h = np.zeros(start.size), np.full(start.size, 1e-3)
    y = np.stack([np.ones(start.size), start])
    rate = pair.rates(s, y)
    path = [np.stack([s, *y])]
    active = np.arange(start.size)
    for _ in range(2000):
        stages = np.empty((7, 2, active.size))
        at, width, here = s[active], h[active], y[:, active]
        stages[0] = rate[:, active]
        for i in range(1, 7):
            moved = here + width * np.tensordot(_A[i, :i], stages[:i], axes=1)
            stages[i] = pair.rates(at + _C[i] * width, moved)
        scale = np.stack([np.ones(active.size), np.maximum(3.0, np.abs(here[1]))])
        error = np.abs(width * np.tensordot(_ERROR, stages, axes=1) / scale).max(axis=0) / tolerance
        good = (error <= 1) | (width < 1e-12)
        taken = active[good]
        s[taken], y[:, taken], rate[:, taken] = (at + width)[good], moved[:, good], stages[6][:, good]
        h[active] = np.minimum(width * np.clip(0.9 * np.maximum(error, 1e-9) ** -0.2, 0.2, 5.0), _WIDEST)
        path.append(np.stack([s, *y]))
        over = (y[1] < _FROZEN) | (y[0] <= 0) | (s >= 2 - 1e-12)
        h = np.minimum(h, np.where(over, h, 2 - s))
        active = np.flatnonzero(~over)
        if not active.size:
            break
    return Shots(start, np.where(y[0] > 0, y[0], np.minimum(s + y[0] - 2, -1e-300)), np.array(path))


def _crossings(shots: Shots) -> np.ndarray:
    return np.flatnonzero((shots.miss[:-1] > 0) != (shots.miss[1:] > 0))


def _intervals(shots: Shots, close: float, dips: bool) -> list[Array]:
    """Starts between which a solution lies not yet closely enough, or may lie, as |miss| dips towards zero."""
    miss, start, size = shots.miss, shots.start, np.abs(shots.miss)
    found = [start[i : i + 2] for i in _crossings(shots) if size[i : i + 2].min() > close]
    dip = (miss[:-2] > 0) == (miss[2:] > 0)
    dip &= (size[1:-1] < size[:-2]) & (size[1:-1] <= size[2:]) & (size[1:-1] < 0.1)
    return found + [start[i : i + 3 : 2] for i in np.flatnonzero(dip & dips)[:12]]


def all_starts(pair: Pair, tolerance: float, close: float, lanes: int) -> Shots:
    """The shots that miss a solution by less than `close` if they can, one for each solution found."""
    most = float(np.log1p(pair.g_ref.max() / pair.beta)) * 1.001 + 1e-9
    grid = [np.zeros(1), np.geomspace(1e-14, min(0.1, most), lanes // 3), np.linspace(0, most, lanes + 1)[1:]]
    shots = shoot(pair, np.unique(np.concatenate(grid)), tolerance)
    shots.miss[0] = max(shots.miss[0], 1e-300)  # log f <= 0 everywhere: F(0) > 0 by theory, whatever rounding says
    for attempt in range(8):
        inner = [np.linspace(a, b, 18)[1:-1] for a, b in _intervals(shots, close, dips=attempt < 4)]
        if not inner or len(inner) > 200:  # so many are the integrator's noise around one
            break
        shots = shots.join(shoot(pair, np.unique(np.concatenate(inner)), tolerance))
    change = _crossings(shots)
    best = np.unique([i + (abs(shots.miss[i + 1]) < abs(shots.miss[i])) for i in change]).astype(int)
    return Shots(shots.start[best], shots.miss[best], shots.path[..., best])
