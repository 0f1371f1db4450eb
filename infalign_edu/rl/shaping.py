"""What CTRL is compared with: rewards that training takes as they are, or reshapes without calibration.

Each shape is a function of a reward and of the reference's rewards to the same prompt. No closed form says where such a
policy ends, since that depends on how rewards are distributed; `Shaped` predicts it by tilting the K reference samples
themselves. Left out: rewards normalised within the batch, which change the objective (see `algorithms.grpo`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_expit, softmax

from infalign_edu.calibration import finite_table
from infalign_edu.inputs import nearest, shown
from infalign_edu.order_statistics import real
from infalign_edu.procedures import Procedure
from infalign_edu.procedures import procedure as named_procedure
from infalign_edu.theory.finite import FiniteProblem

Array = NDArray[np.float64]
CENTRE = 0.85  # quantile of the reference's rewards at which the log-sigmoid is centred


def raw(rewards: Array, reference: Array) -> Array:
    """The reward itself, up to one scale for all prompts. Shape: [P, M], [P, K] -> [P, M]."""
    return rewards


def z_score(rewards: Array, reference: Array) -> Array:
    """(r - mean) / sd, both of the prompt's reference rewards. Shape: [P, M], [P, K] -> [P, M].

    >>> z_score(np.array([[3.0]]), np.array([[0.0, 2.0]]))
    array([[2.]])
    """
    spread = reference.std(-1, keepdims=True)
    return (rewards - reference.mean(-1, keepdims=True)) / np.where(spread > 0, spread, 1.0)


def log_sigmoid(rewards: Array, reference: Array) -> Array:
    """log sigma(r - q), q a high quantile of the prompt's reference rewards: what is good enough earns little more.

    Source: Wang et al., Transforming and combining rewards, arXiv 2402.00742. Shape: [P, M], [P, K] -> [P, M].

    >>> log_sigmoid(np.array([[0.0, 100.0]]), np.zeros((1, 4))).round(3)
    array([[-0.693, -0.   ]])
    """
    return log_expit(rewards - np.quantile(reference, CENTRE, axis=-1, keepdims=True))


SHAPES: dict[str, Callable[[Array, Array], Array]] = {"raw": raw, "z-score": z_score, "log-sigmoid": log_sigmoid}


@dataclass(frozen=True, eq=False)
class Shaped:
    """A shape bound to the reference's rewards, scaled to unit variance under the reference over all prompts.

    Shape: reference [P, K]. Raises: ValueError for a name that is no shape.

    >>> table = np.random.default_rng(0).normal(size=(8, 64))
    >>> phi = Shaped("raw", table)
    >>> round(float(phi(table, np.arange(8)).std()), 6)
    1.0
    >>> round(phi.kl(phi.beta_for_kl(0.4)), 6)
    0.4
    """

    name: str
    reference: Array

    def __post_init__(self) -> None:
        if self.name not in SHAPES:
            close = nearest(self.name, SHAPES)
            raise ValueError(f"shape must be one of {', '.join(SHAPES)}, got {shown(self.name)}{close}")
        object.__setattr__(self, "reference", finite_table("reference", self.reference))

    def __call__(self, rewards: Array, indices: NDArray[np.intp]) -> Array:
        """Shaped rewards of responses to the prompts at `indices`. Shape: [p, M], [p] -> [p, M]."""
        return SHAPES[self.name](np.asarray(rewards, dtype=float), self.reference[indices]) / self._scale

    @cached_property
    def _scale(self) -> float:
        return float(SHAPES[self.name](self.reference, self.reference).std()) or 1.0

    @cached_property
    def _values(self) -> Array:
        return self(self.reference, np.arange(len(self.reference)))

    def kl(self, beta: float) -> float:
        """Mean KL(pi || pi_ref) in nats of the K samples tilted by exp(Phi / beta), uniform being the reference."""
        beta = real("beta", beta, "a positive number", lambda b: b > 0)
        tilted = softmax(self._values / beta, axis=-1)
        terms = np.where(tilted > 0, tilted * np.log(np.maximum(tilted, 1e-300) * self.reference.shape[1]), 0.0)
        return float(terms.sum(-1).mean())

    def beta_for_kl(self, kl: float) -> float:
        """The beta at which `kl` is that KL. Raises: ValueError where K samples can't be tilted that far."""
        most = self.kl(1e-3)
        if not 0 < kl < most:
            raise ValueError(f"kl must lie between 0 and {most:.3g} nats for these reference samples, got {kl}")
        return float(np.exp(brentq(lambda log: self.kl(np.exp(log)) - kl, np.log(1e-3), np.log(1e6), xtol=1e-10)))

    def win_rate(self, kl: float, shown: Procedure | str) -> float:
        """Mean win rate over prompts of the tilted samples at that KL; biased a little, as K samples stand for all."""
        shown = named_procedure(shown)
        policies = softmax(self._values / self.beta_for_kl(kl), axis=-1)
        uniform = np.full(self.reference.shape[1], 1 / self.reference.shape[1])
        rates = [
            FiniteProblem(uniform, rewards).win_rate(policy, shown)
            for policy, rewards in zip(policies, self.reference, strict=True)
        ]
        return float(np.mean(rates))
