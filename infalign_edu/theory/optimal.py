"""The optimal transform of any pair of rank procedures, with a certificate.

Paper: for any procedure the InfAlign optimum solves ordinary KL-regularised RL on *some* transformed reward
(arXiv 2412.19792). Derived: on calibrated rewards that transform solves Phi'(u) = g_pol(F(u)) g_ref(u) with F the CDF
of its own tilted policy, so beta (log F')' = g_pol(F) g_ref(u), F(0) = 0, F(1) = 1.

A policy shown as it is sampled needs no solver, as Phi = G_ref; everything else is shot and polished (`solver`), and
best against best or worst against worst must also lie on the one curve of `solver.power`. What is returned is the
tilted policy of the transform found, integrated anew by `tilted`; the certificate is how well that policy asks for the
same transform again. The textbook fixed point is kept as a lesson only (`lesson`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import ArrayLike

from infalign_edu.order_statistics import Array, unit
from infalign_edu.procedures import BestOfPoisson, Mixture, Procedure, procedure
from infalign_edu.theory.continuous import Frontier, solve_for_kl
from infalign_edu.theory.solver.layers import Transform, positive
from infalign_edu.theory.solver.panels import COEFFICIENTS, NODES, WEIGHTS, Panels
from infalign_edu.theory.solver.power import power_curve
from infalign_edu.theory.solver.shooting import Pair
from infalign_edu.theory.solver.stationary import stationary_policies
from infalign_edu.theory.tilted import Tilted

TOLERANCE = 1e-8  # nats: no policy with a larger residual is returned
STEEP = 1e-5  # beta below which one mesh for all betas has too few digits


class OptimalTransform:
    """Phi*(u), a polynomial of degree 15 on every panel, with Phi*(0) = 0. Shape: any u -> same."""

    def __init__(self, panels: Panels, values: Array) -> None:
        self.panels = panels
        self._series = values @ COEFFICIENTS.T
        self._series[:, 0] -= float(legendre.legval(-1.0, self._series[0]))
        self.knots = np.concatenate([panels.start, [1.0]])

    def __call__(self, u: ArrayLike) -> Array:
        u, p = unit(u), self.panels
        flat = u.ravel()
        i = np.maximum(np.searchsorted(p.start, flat, side="right") - 1, 0)
        distance = np.clip(np.where(p.right[i], 1 - flat, flat), p.near[i], p.far[i])
        x = 2 * (distance - p.near[i]) / p.width[i] - 1
        basis = legendre.legvander(np.where(p.right[i], -x, x), NODES.size - 1)
        rising = np.maximum(np.einsum("ij,ij->i", basis, self._series[i]), 0.0) + 0.0  # never below 0, nor -0
        return np.asarray(rising.reshape(u.shape))


@dataclass(frozen=True)
class StationaryPolicy:
    """A policy that asks for its own transform again, with two certificates.

    `residual` (nats): largest |log f - Phi[F] / beta - constant| with Phi[F] = int g_pol(F) g_ref du of the policy's
    own F. `balance_gap`: beta (f(1) - f(0)) - int g_pol(F) g_ref f du, zero at every stationary policy.
    """

    policy: Tilted
    transform: Transform
    win_rate: float
    kl: float
    objective: float
    residual: float
    balance_gap: float


@dataclass(frozen=True)
class Optimum(StationaryPolicy):
    """The best stationary policy found. `stationary` lists all of them, the best first.

    `certified` is "global" where a proof says that there is only one stationary policy, else "stationary".
    """

    stationary: tuple[StationaryPolicy, ...]
    certified: str


def _power(shown: Procedure) -> tuple[int, int]:
    """N if the procedure shows the best of N, and N if it shows the worst of N; 0 for neither, 1 and 1 for standard."""
    chances = getattr(shown, "rank_probabilities", None)
    if chances is None:
        return 0, 0
    if np.ptp(chances) == 0:
        return 1, 1
    return (chances.size if chances[0] == 1 else 0), (chances.size if chances[-1] == 1 else 0)


def _curve_of(ours: Procedure, theirs: Procedure) -> tuple[int, int, int] | None:
    """N, N' and sigma where the one-curve theorem applies and N >= 2."""
    for sigma, N, M in zip((1, -1), _power(ours), _power(theirs), strict=True):
        if N > 1 and M > 0:
            return N, M, sigma
    return None


def _rises(shown: Procedure) -> bool:
    """Whether g is known to rise, so that G is convex and W concave in f: better ranks are never shown less often."""
    if isinstance(shown, Mixture):
        return all(_rises(p) for p in shown.procedures)
    chances = getattr(shown, "rank_probabilities", None)
    return isinstance(shown, BestOfPoisson) or (chances is not None and bool((np.diff(chances) <= 0).all()))


def unique(shown: str | Procedure, beta: float, reference_procedure: str | Procedure | None = None) -> bool:
    """Whether a proof says that there is one stationary policy.

    Derived: (1) the one-curve theorem; (2) g_pol rises, so W is concave in f; (3) beta >= max -g_pol'(t) t (1-t): the
    second variation is at most int -g_pol'(F) H^2 dG_ref - beta int h^2 / f with H = int h, and Cauchy-Schwarz from
    both ends gives H^2 <= F (1-F) int h^2 / f. Check: tests/test_theory_optimal.py.

    >>> unique("worst-of-8", 0.1), unique("worst-of-8", 0.1, "best-of-8"), unique("worst-of-8", 3.0, "best-of-8")
    (True, False, True)
    """
    beta, ours = positive("beta", beta), procedure(shown)
    theirs = ours if reference_procedure is None else procedure(reference_procedure)
    if _curve_of(ours, theirs) or _rises(ours):
        return True
    if not isinstance(ours, Mixture) and getattr(ours, "rank_probabilities", None) is None:
        return False
    t = np.linspace(0, 1, 8193)
    return beta >= 1.001 * float((-np.gradient(ours.pdf(t), t) * t * (1 - t)).max())


def _certify(ours: Procedure, theirs: Procedure, beta: float, transform: Transform) -> StationaryPolicy:
    policy = Tilted(transform, beta)
    panels, log_f, F = policy.resolved(lambda p, f, F: ours.pdf(F) * theirs.pdf(p.u) / beta, tolerance=1e-12)
    f, pull = np.exp(log_f), ours.pdf(F) * theirs.pdf(panels.u)
    miss, felt = log_f - panels.cumulative(pull) / beta, log_f > -700
    miss = (miss - np.average(miss, weights=f * panels.width[:, None])) / np.maximum(1.0, np.abs(log_f) / 100)
    density = policy.density(np.array([0.0, 1.0]))
    outside = [float(ours.pdf(t) * theirs.pdf(t)) * mass for t, mass in zip((0.0, 1.0), policy.end_mass, strict=True)]
    gap = beta * float(density[1] - density[0]) - panels.integral(pull * f) - sum(outside)
    win_rate, kl = policy.win_rate(ours, theirs), policy.kl
    return StationaryPolicy(policy, transform, win_rate, kl, win_rate - beta * kl, float(np.abs(miss[felt]).max()), gap)


def _solve(ours: Procedure, theirs: Procedure, beta: float, one: bool) -> list[StationaryPolicy]:
    """All stationary policies found, each with its certificate."""
    if _power(ours) == (1, 1):
        return [_certify(ours, theirs, beta, theirs.cdf)]
    found = [_certify(ours, theirs, beta, OptimalTransform(p.panels, beta * p.log_f))
             for p in stationary_policies(Pair(ours, theirs, beta), one)]
    if (which := _curve_of(ours, theirs)) is not None:
        win_rate, kl = (float(v) for v in power_curve(*which, beta).win_rate_and_kl(beta))
        found = [p for p in found if abs(p.win_rate - win_rate) + abs(p.kl - kl) < TOLERANCE]
    return found


def optimum(shown: str | Procedure, beta: float, reference_procedure: str | Procedure | None = None) -> Optimum:
    """The policy that maximises W - beta KL(pi || pi_ref) for a rank procedure, and the transform that trains it.

    Paper: the InfAlign objective and that some transform attains it (arXiv 2412.19792). Derived: the transform,
    tests/test_theory_optimal.py. `reference_procedure`: what the reference's response goes through, default the same.

    Raises: ValueError for a beta that is not positive; RuntimeError where no policy with a certificate is found.

    >>> best = optimum("best-of-4", 0.3)
    >>> round(best.win_rate, 6), round(best.kl, 6), best.certified, best.residual < 1e-9
    (0.840137, 0.370072, 'global', True)
    """
    beta, ours = positive("beta", beta), procedure(shown)
    theirs = ours if reference_procedure is None else procedure(reference_procedure)
    one = unique(ours, beta, theirs)
    certified = _solve(ours, theirs, beta, one)
    kept = sorted((s for s in certified if s.residual <= TOLERANCE), key=lambda s: -s.objective)
    if not kept:
        worst = min((s.residual for s in certified), default=np.inf)
        raise RuntimeError(f"optimum of {ours} against {theirs} at beta = {beta} has no certificate: the smallest "
                           f"residual is {worst:.1e} nats, at most {TOLERANCE:.0e} is accepted")
    return Optimum(**vars(kept[0]), stationary=tuple(kept), certified="global" if one else "stationary")


def _linear(theirs: Procedure, beta: Array) -> tuple[Array, Array]:
    """W and KL for a policy shown as it is sampled: f = exp(G_ref / beta) / Z. Shape: [betas] -> two of [betas]."""
    panels = Panels.graded(2.0**-60, 2.0**-50)
    weight = np.ravel(0.5 * panels.width[:, None] * WEIGHTS)
    G = theirs.cdf(panels.u).ravel()
    level = (G - 1) / beta[:, None]
    Z = np.exp(level) @ weight
    f = np.exp(level) / Z[:, None]
    log_f = level - np.log(Z)[:, None]
    return (f * G) @ weight, np.maximum((f * log_f - f + 1) @ weight, 0.0)


def optimal_frontier(shown: str | Procedure, betas: ArrayLike,
                     reference_procedure: str | Procedure | None = None) -> Frontier:
    """Win rate and KL(pi || pi_ref) of the optimum at every beta: nothing lies above this curve.

    >>> optimal_frontier("worst-of-4", [1.0, 0.1]).win_rate.round(4)
    array([0.7634, 0.975 ])
    """
    ours = procedure(shown)
    theirs = ours if reference_procedure is None else procedure(reference_procedure)
    beta = np.array([positive("beta", b) for b in np.ravel(betas)])
    if not beta.size:
        return Frontier(beta, beta, beta)
    if _power(ours) == (1, 1):
        win_rate, kl = _linear(theirs, np.maximum(beta, STEEP))
        for i in np.flatnonzero(beta < STEEP):  # the mass lies nearer to 1 than floats do
            policy = Tilted(theirs.cdf, float(beta[i]))
            win_rate[i], kl[i] = policy.win_rate(ours, theirs), policy.kl
    elif (which := _curve_of(ours, theirs)) is not None:
        win_rate, kl = power_curve(*which, float(beta.min())).win_rate_and_kl(beta)
    else:
        best = [optimum(ours, b, theirs) for b in beta]
        win_rate, kl = np.array([o.win_rate for o in best]), np.array([o.kl for o in best])
    return Frontier(beta, kl, win_rate)


def optimal_beta_for_kl(shown: str | Procedure, kl: float,
                        reference_procedure: str | Procedure | None = None) -> float:
    """The beta at which the optimum has a given KL(pi || pi_ref), in nats.

    Raises: ValueError where the optimum jumps over that KL, as it may for procedures with several stationary policies.

    >>> round(optimal_beta_for_kl("best-of-4", 0.370072), 4)
    0.3
    """
    kl = positive("kl", kl)

    def kl_of(beta: float) -> float:
        return float(optimal_frontier(shown, [beta], reference_procedure).kl[0])

    beta = solve_for_kl(kl_of, kl, 0.3 / np.sqrt(2 * kl))
    if abs(kl_of(beta) - kl) > 1e-6 * max(kl, 1e-3):
        raise ValueError(f"kl must be one that the optimum takes, got {kl!r}, over which it jumps at beta = {beta:.6g}")
    return beta
