"""Exact policies on finitely many responses, tied rewards included: RLHF optimum and InfAlign optimum.

A rank procedure sees a policy only through its CDF F_k over the reward levels k = 1..L, and shows level k with
probability G(F_k) - G(F_{k-1}). So every optimum keeps the reference's proportions within a level, and the solver
(`theory.solver.levels`) works on levels.

Left out on purpose: procedures that look inside a response (`theory.sequences`), and local search from the reference.
For worst-of-N the reference can be next to a stationary policy whose residual is zero and whose win rate is 1/2: a
residual certifies stationarity, not optimality. So the stationary policies are listed and their objectives compared.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from infalign_edu.inputs import reals
from infalign_edu.order_statistics import Array, real
from infalign_edu.procedures import Procedure, procedure
from infalign_edu.theory.solver.levels import Levels, cumulative, level_masses

Rule = Procedure | str  # a procedure, or its name
TOLERANCE = 1e-8  # nats: no policy with a larger residual is returned


@dataclass(frozen=True)
class Solution:
    """A policy with its certificate.

    `objective` is W - beta KL (from `rlhf`: E[r] - beta KL), `kl` is KL(policy || reference) in nats. `residual` is how
    far log(policy / reference) - R / beta is from a constant, in nats (from `rlhf`: over probabilities that are normal
    floats). `stationary` holds every stationary policy that was found, saddles and minima included, best first.
    `certified` is "global" where there is provably only one, else "stationary". Shape: policy as the reference, [S] or
    [V, ..., V].
    """

    policy: Array
    objective: float
    win_rate: float
    kl: float
    residual: float
    certified: str
    stationary: tuple[Solution, ...] = field(default=(), repr=False)


def numbers(name: str, values: ArrayLike, shape: tuple[int, ...], probabilities: bool = False) -> Array:
    """`values` as one number a response: no nan; as `probabilities` non-negative and summing to 1 within 1e-9.

    >>> numbers("policy", [0.25, 0.75], (2,), probabilities=True)
    array([0.25, 0.75])
    """
    array = reals(name, values)
    if array.shape != shape or not array.size:
        raise ValueError(f"{name} must hold one number a response, shape {shape}, got shape {array.shape}")
    if np.isnan(array).any():
        raise ValueError(f"{name} must hold numbers, got nan in {np.isnan(array).sum()} places")
    if not probabilities:
        return array
    with np.errstate(all="ignore"):  # too large a sum is told below
        total = array.sum()
    if array.min() < 0 or not abs(total - 1) < 1e-9:
        raise ValueError(f"{name} must be >= 0 and sum to 1, got minimum {array.min()} and sum {total}")
    return array / total


class FiniteProblem:
    """Responses 1..S with reference probabilities and rewards; ties and zero probabilities are allowed.

    A response of reference probability 0 gets probability 0 from every optimum, since KL(pi || pi_ref) is finite.

    Shape: reference [S], reward [S]. Raises: ValueError unless the reference is a distribution and no reward is nan.

    >>> toy = FiniteProblem([0.25, 0.25, 0.5], [0.0, 1.0, 1.0])
    >>> toy.calibrated
    array([0.125, 0.625, 0.625])
    >>> toy.win_rate(toy.reference, "best-of-4")
    0.5
    >>> toy.infalign("best-of-4", beta=0.1).policy.round(4)
    array([0.2147, 0.2618, 0.5235])
    """

    def __init__(self, reference: ArrayLike, reward: ArrayLike) -> None:
        self.reward = numbers("reward", reward, (reals("reward", reward).size,))
        self.reference = numbers("reference", reference, self.reward.shape, probabilities=True)
        self._level = np.unique(self.reward, return_inverse=True)[1].reshape(-1)  # [S], 0 is the lowest level
        self._mass = level_masses(self._level, self.reference)  # [L]

    @property
    def calibrated(self) -> Array:
        """C(y) = P_ref(r(z) < r(y)) + 1/2 P_ref(r(z) = r(y)). Paper: the calibrated reward. Shape: [S]."""
        return self._scores("standard")[self._level]

    def decode(self, policy: ArrayLike, p: Rule) -> Array:
        """T(pi): the distribution of what the user sees; ties are broken uniformly among the draws.

        Derived: level k is shown with probability G(F_k) - G(F_{k-1}), split by the policy's own proportions (checked
        by enumerating all draws). Shape: policy [S] -> [S].

        >>> FiniteProblem([0.5, 0.5], [0.0, 1.0]).decode([0.5, 0.5], "best-of-2")
        array([0.25, 0.75])
        """
        pi, F = self._cdf(policy)
        shown, mass = np.diff(procedure(p).cdf(F)), level_masses(self._level, pi)
        return pi * np.divide(shown, mass, out=np.zeros_like(mass), where=mass > 0)[self._level]

    def win_rate(self, policy: ArrayLike, p: Rule, reference_procedure: Rule | None = None) -> float:
        """W = P(r(Y) > r(Z)) + 1/2 P(r(Y) = r(Z)), Y ~ T(policy), Z ~ T(reference). Paper: the inference-time win rate.

        `reference_procedure` is the one applied to the reference, by default the same. Shape: policy [S] -> float.
        """
        scores = self._scores(p if reference_procedure is None else reference_procedure)
        return float(np.diff(procedure(p).cdf(self._cdf(policy)[1])) @ scores)

    def kl(self, policy: ArrayLike) -> float:
        """KL(policy || reference) in nats; inf where the policy leaves the reference's support.

        >>> round(FiniteProblem([0.5, 0.5], [0.0, 1.0]).kl([0.0, 1.0]), 6)
        0.693147
        """
        pi = numbers("policy", policy, self.reward.shape, probabilities=True)
        on = pi > 0
        with np.errstate(divide="ignore"):
            return max(0.0, float(pi[on] @ (np.log(pi[on]) - np.log(self.reference[on]))))

    def gradient(self, policy: ArrayLike, p: Rule, reference_procedure: Rule | None = None) -> Array:
        """R(y) = d/dh W((1-h) policy + h delta_y) at h = 0, so that E_policy[R] = 0.

        This fixes the additive constant that a derivative on the simplex leaves free. Derived: R rises from level k to
        k+1 by (c_{k+1} - c_k) g(F_k), c_k the score of level k against T(reference). Shape: policy [S] -> [S].

        >>> FiniteProblem([0.5, 0.5], [0.0, 1.0]).gradient([0.5, 0.5], "best-of-2")
        array([-0.25,  0.25])
        """
        scores = self._scores(p if reference_procedure is None else reference_procedure)
        pi, F = self._cdf(policy)
        rise = np.diff(scores) * procedure(p).pdf(F[1:-1])
        R = np.concatenate([[0.0], np.cumsum(rise)])[self._level]
        return R - pi @ R

    def rlhf(self, transformed_reward: ArrayLike, beta: float, p: Rule = "standard") -> Solution:
        """The optimum of E_pi[r] - beta KL(pi || pi_ref): pi proportional to pi_ref exp(r / beta).

        Source: Korbak et al., arXiv 2205.11275. `win_rate` is that under procedure `p`. A reward of -inf gives
        probability 0. Shape: transformed_reward [S]. Raises: ValueError for +inf, nan, or -inf on the whole support.

        >>> toy = FiniteProblem([0.5, 0.5], [0.0, 1.0])
        >>> toy.rlhf([-np.inf, 0.0], beta=0.1).policy
        array([0., 1.])
        """
        beta, r = _positive(beta), numbers("transformed_reward", transformed_reward, self.reward.shape)
        top = r[self.reference > 0].max()
        if not np.isfinite(top):
            raise ValueError(f"transformed_reward must be finite or -inf, and not -inf everywhere, got maximum {top}")
        with np.errstate(divide="ignore", over="ignore"):
            tilt = np.where(self.reference > 0, (r - top) / beta, -np.inf)
            tilt -= logsumexp(tilt + np.log(self.reference))
        policy = np.minimum(self.reference * np.exp(tilt), 1.0)  # rounding alone goes beyond
        on = policy > 0
        kl = max(0.0, float(policy[on] @ tilt[on]))
        objective = float(top + policy[on] @ (r[on] - top) - beta * kl)
        on = policy >= np.finfo(float).tiny  # a smaller number has too few digits for its logarithm
        gap = np.log(policy[on] / self.reference[on]) - (r[on] - top) / beta
        return Solution(policy, objective, self.win_rate(policy, p), kl, float(np.ptp(gap)), "global")

    def infalign(self, p: Rule, beta: float, reference_procedure: Rule | None = None) -> Solution:
        """The optimum of W - beta KL(pi || pi_ref). Paper: the InfAlign objective.

        Derived: pi* is proportional to pi_ref exp(R(pi*) / beta); `solver.levels` finds the stationary policies by one
        scan and certifies each, the best objective is returned. "global" is proved for every beta when g does not
        decrease (best-of-N, top-m of n, best-of-Poisson), otherwise for large beta (`Levels.concave_from`).

        Raises: ValueError unless beta > 0; RuntimeError rather than returning a policy with a residual above 1e-8.

        >>> bad_or_good = FiniteProblem([0.5, 0.5], [0.0, 1.0])
        >>> [round(s.objective, 3) for s in bad_or_good.infalign("worst-of-32", beta=0.1).stationary]
        [0.931, 0.5, 0.475]
        """
        p, beta = procedure(p), _positive(beta)
        scores, on = self._scores(p if reference_procedure is None else reference_procedure), self._mass > 0
        game = Levels(p, beta, self._mass[on], scores[on])
        certified = "global" if game.unique else "stationary"
        found: list[Solution] = []
        for tilt, residual in game.stationary():
            if not residual <= TOLERANCE:
                raise RuntimeError(f"infalign({p}, beta={beta}) could not certify a root, residual {residual:.1e}")
            f = game.mass * np.exp(tilt)
            weight = np.zeros(len(on))
            weight[on] = np.exp(tilt)
            win, kl = float(np.diff(p.cdf(cumulative(f))) @ game.scores), max(0.0, float(f @ tilt))
            policy = self.reference * weight[self._level]
            found.append(Solution(policy, win - beta * kl, win, kl, residual, certified))
        found.sort(key=lambda s: -s.objective)
        return replace(found[0], stationary=tuple(found))

    def _cdf(self, policy: ArrayLike) -> tuple[Array, Array]:
        pi = numbers("policy", policy, self.reward.shape, probabilities=True)
        return pi, cumulative(level_masses(self._level, pi))

    def _scores(self, q: Rule) -> Array:
        G = procedure(q).cdf(cumulative(self._mass))
        return (G[1:] + G[:-1]) / 2


def _positive(beta: float) -> float:
    return real("beta", beta, "a positive number", lambda value: value > 0)
