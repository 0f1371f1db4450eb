"""A transform drawn by hand: linear between nine points, so that a slider's move costs a millisecond.

Between two points the density exp(Phi / beta) / Z is an exponential, so its mass, its KL and its CDF have closed forms;
only the win rate needs quadrature. `advise` says which point to move. Left out: other numbers of points.
"""

from __future__ import annotations

import numpy as np

import infalign_edu as ia
from infalign_edu.classroom.widgets.bound import integral
from infalign_edu.order_statistics import Array

KNOTS = np.arange(9) / 8
Curve = tuple[Array, Array]  # KL (nats) from 0 up, win rate
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)


def curve_by_hand(phi: Array, procedure: str, kl: float) -> tuple[Curve, float]:
    """The curve of a transform that is linear between KNOTS, and the beta at which it has a KL (or its largest).

    Derived: f and F are exponentials between knots; W = 1 - int G(F) g du by Gauss-Legendre;
    tests/test_widgets_frontier.py compares with `theory.frontier`.
    """
    if phi.shape != KNOTS.shape or not np.isfinite(phi).all() or np.ptp(phi) < 1e-9:
        raise ValueError(f"the transform drawn by hand must be {KNOTS.size} finite numbers that differ, got {phi}")
    shown, width = ia.procedure(procedure), np.diff(KNOTS)
    beta = np.ptp(phi) * np.geomspace(8.0, 1e-3, 70)[:, None]
    log_f = (phi - phi.max()) / beta
    rise = np.diff(log_f)[..., None]
    part = 0.5 * (_NODES + 1)
    inside = log_f[:, :-1, None] + rise * part  # [betas, 8, 16]
    f, f0, f1 = np.exp(inside), np.exp(log_f[:, :-1, None]), np.exp(log_f[:, 1:, None])
    steep = np.where(np.abs(rise) > 1e-4, rise, 1.0)
    mass = np.where(np.abs(rise) > 1e-4, (f - f0) / steep, part * (f + f0) / 2) * width[:, None]
    whole_mass = (np.where(np.abs(rise) > 1e-4, (f1 - f0) / steep, (f1 + f0) / 2) * width[:, None])[..., 0]
    below = np.cumsum(whole_mass, axis=1)
    Z = below[:, -1:]
    F = ((mass + (below - whole_mass)[..., None]) / Z[..., None]).clip(0, 1)
    weight = 0.5 * width[:, None] * _WEIGHTS
    u = KNOTS[:-1, None] + width[:, None] * part
    win_rate = 1 - (shown.cdf(F) * shown.pdf(u) * weight).sum(axis=(1, 2))
    x = log_f[:, :-1] + np.where(np.abs(rise[..., 0]) > 1e-4, _mean_place(rise[..., 0]), 0.5) * rise[..., 0]
    found = (whole_mass * x).sum(axis=1) / Z[:, 0] - np.log(Z[:, 0])  # E log f
    rising = np.append(True, found[1:] > np.maximum.accumulate(found)[:-1] + 1e-9)
    found, win_rate, beta = found[rising], win_rate[rising], beta[rising, 0]
    curve = np.append(0.0, found), np.append(0.5, win_rate)
    return curve, float(np.exp(np.interp(np.log(kl), np.log(found), np.log(beta))))


def _mean_place(rise: Array) -> Array:
    """Where the mass of exp(rise x) on [0, 1] has its mean: 1 / (1 - exp(-rise)) - 1 / rise."""
    steep = np.where(np.abs(rise) > 1e-4, rise, 1.0)
    with np.errstate(over="ignore"):
        return -1 / np.expm1(-steep) - 1 / steep


def advise(phi: Array, beta: float, procedure: str) -> tuple[int, int] | None:
    """The slider whose move gains most win rate at equal KL, and whether up or down; None where none can move.

    Derived: with R(u) = int g(F) g du, dW per unit of Phi along a hat function h is Cov_f(h, R) / beta, and dKL is
    Cov_f(h, log f) / beta; taking out the scale of Phi leaves Cov_f(h, R - c log f), c = Cov(log f, R) / Var(log f).
    """
    u = np.linspace(0, 1, 513)
    log_f = (np.interp(u, KNOTS, phi) - phi.max()) / beta
    f = np.exp(log_f)
    f /= np.trapezoid(f, u)
    F, shown = integral(u, f).clip(0, 1), ia.procedure(procedure)
    R = integral(u, shown.pdf(F) * shown.pdf(u))

    def covariance(a: Array, b: Array) -> float:
        return float(np.trapezoid(f * (a - np.trapezoid(f * a, u)) * b, u))

    rest = R - covariance(log_f, R) / covariance(log_f, log_f) * log_f
    gain = np.array([covariance(np.interp(u, KNOTS, row), rest) for row in np.eye(KNOTS.size)])
    room = np.where(gain > 0, 1 - phi, phi) > 0.005
    best = int(np.argmax(np.abs(gain) * room))
    return (best, int(np.sign(gain[best]))) if room[best] else None
