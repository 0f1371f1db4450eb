"""Stationary policies of any pair of rank procedures, to full precision: Newton's method on collocation panels.

beta (log F')' = g_pol(F) g_ref(u), F(0) = 0, F(1) = 1, with log f a polynomial of degree 15 on every panel. `shooting`
says where to start; panels follow the path of the shot and are halved until sixteen nodes resolve them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.polynomial import legendre
from scipy import linalg

from infalign_edu.order_statistics import Array
from infalign_edu.theory.solver.panels import COEFFICIENTS, INTEGRAL, NODES, WEIGHTS, Panels, roughness
from infalign_edu.theory.solver.shooting import _FROZEN, _GRID, Pair, all_starts

_TOLERANCE = 1e-11


@dataclass(frozen=True)
class Stationary:
    """One stationary policy: log f at the nodes of its panels. Shape: log_f [panels, 16]."""

    panels: Panels
    log_f: Array
    win_rate: float
    kl: float


def _guess(path: Array, pair: Pair) -> tuple[Panels, Array]:
    """Panels along the path of a shot, and log f at their nodes. Shape: path [times, 3]."""
    path = path[np.concatenate([[True], np.diff(path[:, 0]) > 0])]
    path = path[: 1 + int(np.argmax((path[:, 1] <= 0) | (path[:, 2] < _FROZEN) | (path[:, 0] >= 2 - 1e-12)))]
    s, y = path[:, 0], path[:, 1:].T
    rate, x = pair.rates(s, y), np.linspace(0, 1, 9)[:-1]
    h = np.diff(s)[:, None]
    blend = [2 * x**3 - 3 * x**2 + 1, x**3 - 2 * x**2 + x, 3 * x**2 - 2 * x**3, x**3 - x**2]  # Hermite
    F, log_f = (np.append((v[:-1, None] * blend[0] + h * r[:-1, None] * blend[1] + v[1:, None] * blend[2]
                           + h * r[1:, None] * blend[3]).ravel(), v[-1]) for v, r in zip(y, rate, strict=True))
    fallen = np.append((s[:-1, None] + h * x).ravel(), s[-1]) - (1 - F)  # 1 - u, rising
    keep = np.concatenate([[True], np.diff(np.maximum.accumulate(fallen)) > 0]) & (fallen < 1) & (fallen >= 0)
    fallen, F, log_f = fallen[keep], F[keep], log_f[keep]
    clock = 10 * fallen + 10 * (1 - F) + (log_f[0] - np.maximum(log_f, _FROZEN)) / 3
    marks = np.interp(np.arange(0, clock[-1], 1.0), clock, fallen)
    rest = np.linspace(fallen[-1], 1, max(3, int(10 * (1 - fallen[-1])) + 2))
    edge, fixed = np.unique(np.concatenate([marks, rest])), np.array([0.0, 0.5, 1.0])
    edge = edge[np.append(True, np.diff(edge) > 1e-9) & (np.abs(edge[:, None] - fixed).min(axis=1) > 1e-9)]
    edge = np.sort(np.concatenate([edge, fixed]))
    upper = edge[1:] <= 0.5
    panels = Panels(upper, np.where(upper, edge[:-1], 1 - edge[1:]), np.where(upper, edge[1:], 1 - edge[:-1]))
    panels = panels.take(panels.order())
    v = np.where(panels.right[:, None], panels.distance, 1 - panels.distance)
    start = np.interp(v, fallen, log_f)
    below = np.interp(1 - fallen[-1], _GRID, pair.theirs.cdf(_GRID)) - pair.theirs.cdf(panels.u)
    frozen = log_f[-1] - below * np.interp(max(F[-1], 0.0), _GRID, pair.g) / pair.beta
    return panels, np.where(v > fallen[-1], frozen, start)


def _newton_step(panels: Panels, log_f: Array, F: Array, pair: Pair) -> tuple[Array, Array]:
    """log f and F of the linearised problem: sixteen nodes a panel are eliminated, then the edges solved together."""
    half = 0.5 * panels.width
    S = half[:, None, None] * INTEGRAL
    w = half[:, None] * WEIGHTS
    inside, f = F.clip(0, 1), np.exp(log_f)
    ref = pair.theirs.pdf(panels.u) / pair.beta
    pull, bend = pair.ours.pdf(inside) * ref, np.interp(inside, _GRID, pair.slope) * ref
    c, d = pull - bend * F, f * (1 - log_f)
    SH = S * bend[:, None, :]
    Sd = np.einsum("pij,pj->pi", S, d)
    right = np.stack([np.ones_like(f), SH.sum(axis=-1),
                      np.einsum("pij,pj->pi", S, c) + np.einsum("pij,pj->pi", SH, Sd)], axis=-1)
    x = np.linalg.solve(np.eye(NODES.size) - SH @ (S * f[:, None, :]), right)  # log f for start values (1,0), (0,1), 0
    y = np.einsum("pij,pjk->pik", S * f[:, None, :], x)  # F for the same
    y[..., 1] += 1
    y[..., 2] += Sd
    ends_log = np.einsum("pj,pjk->pk", w * bend, y) + np.stack([np.ones_like(half), 0 * half, (w * c).sum(1)], axis=1)
    ends_F = np.einsum("pj,pjk->pk", w * f, x) + np.stack([0 * half, np.ones_like(half), (w * d).sum(1)], axis=1)
    edges = _edges(ends_log, ends_F)
    a, b = edges[:-1, 0, None], edges[:-1, 1, None]
    return a * x[..., 0] + b * x[..., 1] + x[..., 2], a * y[..., 0] + b * y[..., 1] + y[..., 2]


def _edges(ends_log: Array, ends_F: Array) -> Array:
    """log f and F at the panel edges, F = 0 at the first and 1 at the last. Shape: [panels, 3] -> [panels + 1, 2]."""
    n = len(ends_log)
    band, right = np.zeros((4, 2 * n + 2)), np.zeros(2 * n + 2)
    band[0, 1:], band[1, -1], right[-1] = 1.0, 1.0, 1.0  # F(0) = 0, then two rows a panel, then F(1) = 1
    band[2, 0:-2:2], band[1, 1:-2:2] = -ends_log[:, 0], -ends_log[:, 1]
    band[3, 0:-2:2], band[2, 1:-2:2] = -ends_F[:, 0], -ends_F[:, 1]
    right[1:-1:2], right[2:-1:2] = ends_log[:, 2], ends_F[:, 2]
    return linalg.solve_banded((2, 1), band, right, check_finite=False).reshape(-1, 2)


def _newton(panels: Panels, log_f: Array, pair: Pair, steps: int) -> tuple[Array, Array, bool]:
    """log f and F of the stationary policy on these panels, and whether the last step was small."""
    F = panels.cumulative(np.exp(log_f))
    for _ in range(steps):
        if not (log_f.max() <= 100 and np.isfinite(F).all()):  # f <= 1 + max g_ref / beta at a solution
            break
        try:
            new_log, new_F = _newton_step(panels, log_f, F, pair)
        except np.linalg.LinAlgError:
            break
        moves = np.maximum(log_f, new_log) > _FROZEN  # elsewhere F is frozen, so log f may jump
        step = float(np.abs(new_log - log_f)[moves].max(initial=0.0))
        log_f, F = new_log, new_F
        if step < 1e-11:
            return log_f, F, True
    return log_f, F, False


def polish(panels: Panels, log_f: Array, pair: Pair, steps: int = 40) -> Stationary | None:
    """The stationary policy next to a guess of log f, or None where Newton's method takes more steps than that."""
    for _ in range(12):
        log_f, F, converged = _newton(panels, log_f, pair, steps)
        if not converged:
            return None
        f, inside = np.exp(log_f), F.clip(0, 1)
        g = pair.ours.pdf(inside)
        won = g * f * pair.theirs.cdf(panels.u)
        pull = g * pair.theirs.pdf(panels.u) / pair.beta
        rough = panels.width * np.maximum.reduce([roughness(v) for v in (f, won, f * log_f)]) > _TOLERANCE
        rough |= panels.width * roughness(pull) > 10 * _TOLERANCE * (1 + np.abs(log_f).max(axis=1))
        rough &= panels.width > 1e-12
        if not rough.any():
            break
        halves = panels.split(rough)
        series = log_f[rough] @ COEFFICIENTS.T
        both = [series @ legendre.legvander((NODES + side) / 2, NODES.size - 1).T for side in (-1, 1)]
        flip = panels.right[rough][:, None]
        log_f = np.concatenate([log_f[~rough], np.where(flip, both[1], both[0]), np.where(flip, both[0], both[1])])
        panels = panels.take(~rough).join(halves)
        order = panels.order()
        panels, log_f = panels.take(order), log_f[order]
    return Stationary(panels, log_f, panels.integral(won), panels.integral(f * log_f))


def stationary_policies(pair: Pair, unique: bool) -> list[Stationary]:
    """All stationary policies that shooting finds, the best objective first; finer shots where one is lost.

    Where it is known that there is only one, the reference is the first guess, and one shot that leads there is enough.
    """
    found: list[Stationary] = []
    if unique:
        near = np.append(np.arange(10) / 20, np.arange(10)[::-1] / 20)
        panels = Panels(np.arange(20) >= 10, near, near + 0.05)
        if (only := polish(panels, np.zeros((20, NODES.size)), pair, steps=8)) is not None:
            return [only]
    for tolerance, close, lanes in ((1e-4, 4e-3, 96), (1e-5, 1e-4, 96), (1e-6, 1e-6, 192)):
        shots = all_starts(pair, tolerance, close, lanes)
        solved = (polish(*_guess(shots.path[..., i], pair), pair) for i in range(shots.start.size))
        found += islice((p for p in solved if p is not None), 1 if unique else None)
        found.sort(key=lambda p: pair.beta * p.kl - p.win_rate)
        distinct: list[Stationary] = []
        for p in found:
            if all(abs(p.win_rate - q.win_rate) + abs(p.kl - q.kl) > 1e-7 for q in distinct):
                distinct.append(p)
        if len(distinct) >= (1 if unique else shots.start.size):  # fewer: a shot was lost, or two ended at one solution
            break
        found = distinct
    return distinct
