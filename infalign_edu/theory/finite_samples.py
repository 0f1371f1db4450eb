"""What finite numbers do: K reference draws in place of a quantile, n draws in place of a tilt, N in place of N'.

Left out: noise that one fixed table of reference rewards leaves on every prompt; `dkw_band` bounds it. The unbiased
win rate from samples is `infalign_edu.winrate`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from infalign_edu.calibration import unbiased_power
from infalign_edu.inputs import reals, shown
from infalign_edu.order_statistics import Array, count, real, unit
from infalign_edu.procedures import Procedure, procedure
from infalign_edu.theory.continuous import beta_for_kl, tilt
from infalign_edu.theory.optimal import optimal_beta_for_kl, optimum
from infalign_edu.theory.solver.layers import Transform, positive, values


def bernstein(transform: Transform, K: int) -> Callable[[ArrayLike], Array]:
    """The transform that training really optimises when every update draws K fresh reference responses.

    B_K[Phi](u) = E Phi(k / K), k ~ Binomial(K, u). Derived: without ties the estimated calibrated reward is k / K;
    tests/test_theory_finite_samples.py. Where Phi(k / K) is not finite (log 0), u is taken 1/(2K) from the end, as the
    pipeline does.

    Shape: u any -> same. Raises: ValueError for a transform that is not finite even there.

    >>> trained = bernstein(lambda u: u**2, K=10)
    >>> float(trained(0.5).round(6))              # u^2 + u (1-u) / K
    0.275
    """
    K = count("K", K)
    u = np.arange(K + 1) / K
    if not callable(transform):
        raise ValueError(f"transform must be a callable such as ia.transform('exp:10'), got {shown(transform)}")
    with np.errstate(divide="ignore"):
        at = np.broadcast_to(reals("transform", transform(u)), u.shape)
    phi = np.where(np.isfinite(at), at, values(transform, np.clip(u, 0.5 / K, 1 - 0.5 / K)))
    if not np.isfinite(phi).all():
        raise ValueError(f"transform must be finite at 1/(2K) = {0.5 / K:g}, got {transform!r}")
    k = np.arange(K + 1)
    log_choose = -special.betaln(k + 1, K - k + 1) - np.log(K + 1)

    def expected(u: ArrayLike) -> Array:
        u = unit(u)
        flat, found = u.reshape(-1, 1), np.empty(u.size)
        block = max(1, 2_000_000 // (K + 1))
        for i in range(0, u.size, block):
            part = flat[i : i + block]
            found[i : i + block] = np.exp(log_choose + special.xlogy(k, part) + special.xlog1py(K - k, -part)) @ phi
        return found.reshape(u.shape)

    return expected


def calibration_cost(transform: Transform, shown: str | Procedure, K: int, kl: float) -> float:
    """Win rate that K reference draws cost: W of Phi minus W of B_K[Phi], both at the same KL(pi || pi_ref) in nats.

    Derived: tests/test_theory_finite_samples.py. It is negative where the blurred transform happens to be the better.

    >>> round(100 * calibration_cost(lambda u: np.exp(10 * u), "best-of-4", K=16, kl=0.37), 2)   # points
    0.34
    """
    kl, blurred = positive("kl", kl), bernstein(transform, K)
    exact, trained = (tilt(phi, beta_for_kl(phi, kl)).win_rate(shown) for phi in (transform, blurred))
    return exact - trained


def unbiased_polynomial(coefficients: ArrayLike, k: ArrayLike, K: int) -> Array:
    """Unbiased estimate of sum_m coefficients[m] u^m from k of K reference draws below y (no ties).

    Derived: term by term from `unbiased_power`; any polynomial of degree at most K is trained without calibration bias.

    >>> unbiased_polynomial([1.0, 0.0, 3.0], [4], K=4)      # 1 + 3 u^2
    array([4.])
    """
    weights = reals("coefficients", coefficients)
    if weights.ndim != 1 or not weights.size or not np.isfinite(weights).all():
        raise ValueError(f"coefficients must be finite numbers in one row, at least one, got {shown(coefficients)}")
    return np.asarray(sum(c * unbiased_power(k, K, m) for m, c in enumerate(weights)))


def dkw_band(K: int, delta: float = 0.05) -> float:
    """Half-width of the band that holds a calibration curve from K fixed draws everywhere, with probability 1 - delta.

    sup |C-hat - C| <= sqrt(log(2 / delta) / (2 K)). Source: Dvoretzky, Kiefer and Wolfowitz 1956, with the constant of
    Massart 1990; mid-ranks obey it too.

    >>> round(dkw_band(100), 4)
    0.1358
    """
    if not 0 < real("delta", delta, "a number in (0, 1)", np.isfinite) < 1:
        raise ValueError(f"delta must lie in (0, 1), got {delta!r}")
    return float(np.sqrt(np.log(2 / delta) / (2 * count("K", K))))


def best_of_n_kl_bound(n: int) -> float:
    """log n - (n-1)/n, in nats: at least KL(best-of-n || pi_ref), and equal to it when no response has any mass.

    Source: Beirami et al., arXiv 2401.01879.

    >>> round(best_of_n_kl_bound(4), 6)
    0.636294
    """
    n = count("n", n)
    return float(np.log(n) - (n - 1) / n)


def best_of_n_kl_estimate(log_probability: ArrayLike, n: int) -> Array:
    """Per response shown by best-of-n, an estimate of KL(best-of-n || pi_ref) from its reference probability e.

    (1-e)^n (log n + (n-1) log(1-e) - (n-1)/n) + (1 - (1-e)^n) log((1 - (1-e)^n) / e); average it over the responses.
    Source: an estimator from the same one number is proposed in arXiv 2401.01879. Derived: this form's limits, the
    bound as e -> 0 and 0 at e = 1, and its error against the exact KL; tests/test_theory_finite_samples.py.

    Shape: log_probability (nats, at most 0) any -> same. Raises: ValueError for a positive log-probability.

    >>> best_of_n_kl_estimate([-50.0, 0.0], n=4).round(6)
    array([0.636294, 0.      ])
    """
    n, log_e = count("n", n), reals("log_probability", log_probability)
    if log_e.size and not log_e.max() <= 0:
        raise ValueError(f"log_probability must be at most 0, got {log_e.max()}")
    e = np.exp(log_e)
    with np.errstate(divide="ignore"):
        log_rest = np.log1p(-e)  # log(1 - e)
    hit = -np.expm1(n * log_rest)  # at least one of n draws is this response
    miss = (1 - hit) * (np.log(n) - (n - 1) / n) + (n - 1) * special.xlogy(1 - hit, 1 - e)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(e > 1e-300, np.log(hit / np.where(e > 1e-300, e, 1.0)), np.log(n))
    return np.asarray(miss + hit * ratio)


def mismatch(trained: Sequence[str | Procedure], used: Sequence[str | Procedure], kl: float) -> Array:
    """Win rate of the policy that is optimal for one procedure when users apply another, all at one KL (nats).

    Both sides of the comparison are decoded with the procedure used. Derived: no row beats the diagonal in its
    column; tests/test_theory_finite_samples.py.

    Shape: -> [trained, used].

    >>> mismatch(["standard", "best-of-8"], ["standard", "best-of-8"], kl=0.5).round(3)
    array([[0.774, 0.804],
           [0.654, 0.93 ]])
    """
    for name, given in (("trained", trained), ("used", used)):
        if isinstance(given, str) or not len(given):
            raise ValueError(f"{name} must be a list of procedures, at least one, got {shown(given)}")
    procedures = [procedure(p) for p in trained]
    policies = [optimum(p, optimal_beta_for_kl(p, kl)).policy for p in procedures]
    return np.array([[policy.win_rate(user) for user in used] for policy in policies])
