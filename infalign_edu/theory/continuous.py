"""What any transform earns, exactly: tilted policies on calibrated rewards in [0, 1].

A policy that depends on a response only through its calibrated reward u is a density f on [0, 1]; the reference is
uniform there. KL-regularised RL on Phi(u) gives f = exp(Phi / beta) / Z, whatever the reward and the language model
are. KL, CDF and win rate under any rank procedure follow by quadrature (`tilted`), to about 1e-12.

Left out: ties (see `finite`), and the choice of the transform itself (see `optimal`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

from infalign_edu.order_statistics import Array
from infalign_edu.procedures import Procedure, procedure
from infalign_edu.theory.solver.layers import Transform, knots_of, positive, values
from infalign_edu.theory.solver.panels import Panels, resolve, roughness
from infalign_edu.theory.tilted import Tilted

_EPS = float(np.finfo(float).eps)
_LEAST, _MOST = -644.0, 709.0  # log beta beyond which a density needs numbers that floats don't have


def tilt(transform: Transform, beta: float) -> Tilted:
    """The policy that KL-regularised RL on a transform of the calibrated reward converges to.

    f(u) = exp(Phi(u) / beta) / int exp(Phi / beta). Paper: the optimum of KL-regularised RL, on Phi(C)
    (arXiv 2412.19792). `transform` is any vectorised callable on arrays in [0, 1]; -inf is allowed, +inf inside is not.

    Raises: ValueError for a beta that is not positive or a transform whose exponential has no finite integral.

    >>> policy = tilt(lambda u: u, beta=0.5)
    >>> round(policy.kl, 6), round(policy.win_rate("standard"), 6)
    (0.151596, 0.656518)
    >>> round(float(tilt(np.log, 0.5).density(0.5)), 9)      # (1 + 1/beta) u^(1/beta)
    0.75
    """
    return Tilted(transform, beta)


@dataclass(frozen=True)
class Frontier:
    """Win rate against KL(pi || pi_ref) as beta varies. Shape: beta, kl (nats), win_rate (probability) [betas]."""

    beta: Array
    kl: Array
    win_rate: Array


def frontier(transform: Transform, shown: str | Procedure, betas: ArrayLike,
             reference_procedure: str | Procedure | None = None) -> Frontier:
    """What one transform earns at every beta, under the procedure `shown`.

    >>> frontier(lambda u: u, "best-of-4", [1.0, 0.1]).win_rate.round(4)
    array([0.6036, 0.9071])
    """
    found = [(p.kl, p.win_rate(shown, reference_procedure)) for p in (tilt(transform, b) for b in np.ravel(betas))]
    kl, win_rate = np.reshape(found, (-1, 2)).T
    return Frontier(np.array(np.ravel(betas), dtype=float), kl, win_rate)


def beta_for_kl(transform: Transform, kl: float) -> float:
    """The beta at which `tilt(transform, beta)` has a given KL(pi || pi_ref), in nats.

    Raises: ValueError for a KL that no beta reaches, such as log 2 for a reward that is 0 or 1 with equal probability.

    >>> round(beta_for_kl(lambda u: u, 0.151596), 4)
    0.5
    """
    kl = positive("kl", kl)
    sample = values(transform, (np.arange(64) + 0.5) / 64)
    finite = sample[np.isfinite(sample)]
    size = float(np.abs(finite).max(initial=0.0)) or 1.0  # scaled first: exp(400 u) squared would overflow
    guess = size * float(np.std(finite / size)) / np.sqrt(2 * kl)
    return solve_for_kl(lambda beta: tilt(transform, beta).kl, kl, guess)


def solve_for_kl(kl_of: Callable[[float], float], kl: float, guess: float) -> float:
    """The beta where a decreasing KL(beta) crosses `kl`, searched outwards from `guess`.

    >>> round(solve_for_kl(lambda beta: 1 / beta, 0.25, 1.0), 9)
    4.0
    """
    kl = positive("kl", kl)

    def gap(log_beta: float) -> float:
        return float(np.log(max(kl_of(float(np.exp(log_beta))), 1e-300)) - np.log(kl))

    low = high = float(np.clip(np.log(guess if 0 < guess < np.inf else 1.0), _LEAST, _MOST))
    low_gap = high_gap = gap(low)
    for step in np.log(2.0) * 1.5 ** np.arange(18.0):
        if low_gap >= 0 >= high_gap:
            break
        if low_gap < 0:
            previous, high, high_gap, low = low_gap, low, low_gap, max(low - step, _LEAST)
            low_gap = gap(low)
            if low_gap - previous < 1e-12:
                break
        else:
            low, low_gap, high = high, high_gap, min(high + step, _MOST)
            high_gap = gap(high)
    if not low_gap >= 0 >= high_gap:
        told = f"below {kl * np.exp(low_gap):.6g}" if low_gap < 0 else "others"
        raise ValueError(f"kl must be one that some beta reaches ({told} here), got {kl!r}")
    root = low if low == high else optimize.brentq(gap, low, high, xtol=1e-14, rtol=4 * _EPS)
    return float(np.exp(root))


def _moments(transform: Transform, shown: Procedure) -> tuple[float, float, float]:
    """Var Phi, Var R0 and their covariance under u ~ Uniform[0, 1], with Phi scaled to at most 1 in size."""
    first = Panels.graded(2.0**-60, 2.0**-50, knots_of(transform))
    sampled = values(transform, first.u)
    if not np.isfinite(sampled).all():
        raise ValueError(f"transform must be finite inside (0, 1), got {transform!r}")
    size = float(np.abs(sampled).max()) or 1.0

    def both(panels: Panels) -> Array:
        return np.stack([values(transform, panels.u) / size, shown.pdf(panels.u) ** 2], axis=-1)

    def rough(panels: Panels, both: Array) -> np.ndarray:
        worst = np.maximum(roughness(both[..., 0] ** 2), roughness(both[..., 1]))
        return (worst * panels.width > 1e-13) & (panels.width > 2.0**-50)

    panels, found = resolve(first, both, rough)
    phi, law = found[..., 0], panels.cumulative(found[..., 1])
    phi, law = phi - panels.integral(phi), law - panels.integral(law)
    return panels.integral(phi**2), panels.integral(law**2), panels.integral(phi * law)


def efficiency(transform: Transform, shown: str | Procedure) -> float:
    """The share of the best possible gain that a transform earns as KL -> 0: Corr(Phi, R0), R0' = g^2.

    Derived: W - 1/2 ~ sqrt(2 KL Var R0) Corr(Phi, R0); tests/test_theory_continuous.py. For best-of-N, R0 is
    u^(2N-1) up to scale. It says nothing about the KL of a trained policy, where other transforms win.

    Raises: ValueError for a constant transform, which has no correlation.

    >>> round(efficiency(lambda u: u, "best-of-4"), 3)
    0.745
    """
    own, law, both = _moments(transform, procedure(shown))
    if own <= 1e-28:
        raise ValueError(f"transform must not be constant, got {transform!r}")
    return float(both / np.sqrt(own * law))
