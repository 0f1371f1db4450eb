"""BoNBoN: train the policy to be the best-of-N of its reference.

Two losses are mixed: likelihood of the best of N, and a square like IPO's on the best against the worst of N, whose
constant N fixes. So N fixes the KL as well, and beta has no say. All N-subsets of a prompt's M samples are used at
once, by the weights of order statistics. Left out: worst-of-N, which nobody wants to imitate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from infalign_edu.procedures import BestOfN
from infalign_edu.rl.algorithms.rloo import Algorithm, Batch, Rows
from infalign_edu.theory.finite import FiniteProblem
from infalign_edu.theory.solver.levels import level_masses

Array = NDArray[np.float64]


@lru_cache
def best_worst_weights(M: int, n: int) -> Array:
    """Probability that the i-th and the j-th smallest of M samples are the worst and the best of a random n-subset.

    w_ij = C(j - i - 1, n - 2) / C(M, n) for i < j. Derived: tests/test_algorithms.py counts all subsets.

    Shape: [M, M], worst along the rows, best along the columns. Raises: ValueError unless 2 <= n <= M.

    >>> best_worst_weights(3, 2) * 3
    array([[0., 1., 1.],
           [0., 0., 1.],
           [0., 0., 0.]])
    """
    if not 2 <= n <= M:
        raise ValueError(f"samples_per_prompt must be at least N = {n} with N of at least 2, got {M}")
    counts = [[math.comb(j - i - 1, n - 2) if i < j else 0 for j in range(M)] for i in range(M)]
    weights = np.array(counts) / math.comb(M, n)
    weights.flags.writeable = False  # it is kept for the next call
    return weights


def contrast(n: int) -> float:
    """(n - 1) sum_{k<n} 1/k, in nats: by how much log(pi/pi_ref) of the best exceeds that of the worst on average.

    Source: 1 / (2 beta_n) of Gui et al., arXiv 2406.00832. Derived: best-of-n has log(pi/pi_ref) = (n-1) log u + const,
    and log u of the best of n and of the worst have the means -1/n and -sum_{k<=n} 1/k.

    >>> contrast(2), contrast(4)
    (1.0, 5.5)
    """
    return (n - 1) * sum(1 / k for k in range(1, n))


def likelihood_loss(logprobs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """-log pi of the best of n, averaged over all n-subsets of the sorted samples: its minimum is best-of-n itself.

    Source: the likelihood part of BoNBoN, arXiv 2406.00832. Shape: logprobs [prompts, M], lowest reward first, weights
    [M, M] of `best_worst_weights` -> scalar.

    >>> likelihood_loss(torch.tensor([[-5.0, -1.0]]), torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    tensor(1.)
    """
    return -(logprobs * weights.sum(0)).sum(-1).mean()


def contrast_loss(log_ratios: torch.Tensor, weights: torch.Tensor, target: float) -> torch.Tensor:
    """(log(pi/pi_ref)(best) - log(pi/pi_ref)(worst) - target)^2, averaged over all n-subsets of the sorted samples.

    Source: the IPO-like part of BoNBoN, arXiv 2406.00832. Derived: its minimum over all policies is near best-of-n but
    not it (`optimum` computes it; for n = 2 it is pi_ref exp(2 C)), since only the *mean* of the gap is matched.

    Shape: log_ratios [prompts, M] in nats, lowest reward first, weights [M, M] -> scalar.

    >>> contrast_loss(torch.tensor([[0.0, 3.0]]), torch.tensor([[0.0, 1.0], [0.0, 0.0]]), target=1.0)
    tensor(4.)
    """
    gaps = log_ratios[:, None, :] - log_ratios[:, :, None]  # [prompts, worst, best]
    return ((gaps - target).square() * weights).sum((1, 2)).mean()


@dataclass(frozen=True)
class BoNBoN(Algorithm):
    """Best-of-N distillation: `alpha` of the likelihood of the best, 1 - alpha of its contrast with the worst.

    Source: Gui et al., arXiv 2406.00832. The mean log-likelihood of whole responses is large, hence the small alpha.

    >>> BoNBoN()
    BoNBoN(n=4, alpha=0.005)
    """

    name = "bonbon"
    rate = 0.3  # the squares are large: at RLOO's own rate the KL triples its end in ten steps
    source = "reference"
    grouped = True
    n: int = 4
    alpha: float = 0.005

    def targets(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The order of each group by reward, lowest first, and the reference's log-probabilities, [R] each."""
        best_worst_weights(batch.rewards.shape[1], self.n)
        order = batch.rewards.argsort(dim=-1, stable=True)
        return {"order": order.flatten(), "reference": batch.reference_logprobs}

    def loss(self, rows: Rows) -> torch.Tensor:
        """alpha times the likelihood loss plus 1 - alpha times the contrast."""
        order, device = rows.group("order"), rows.logprobs.device
        weights = torch.tensor(best_worst_weights(rows.samples, self.n), dtype=rows.logprobs.dtype, device=device)
        best = likelihood_loss(rows.sequence.view_as(order).gather(1, order), weights)
        apart = contrast_loss(rows.log_ratios.gather(1, order), weights, contrast(self.n))
        return self.alpha * best + (1 - self.alpha) * apart


def optimum(problem: FiniteProblem, n: int, alpha: float) -> Array:
    """The policy that minimises the exact expected loss over all policies; best-of-n itself only for alpha = 1.

    Derived: with h = log(pi/pi_ref), J the joint probabilities of best and worst level and B, W their sums, the
    gradient is alpha (pi - B) + 2 (1 - alpha) [(B + W) h - (J + J') h - c (B - W)], zero by Newton's method; the
    proportions within a level of reward stay the reference's. For n = 2 and alpha = 0 it is pi_ref exp(2 C).

    Shape: [S]. Raises: RuntimeError rather than returning a policy with a gradient above 1e-9.

    >>> two = FiniteProblem([0.5, 0.5], [0.0, 1.0])
    >>> optimum(two, 4, 1.0).round(4), optimum(two, 4, 0.0).round(4)      # C is 1/4, 3/4; the gap of h is 5.5 nats
    (array([0.0625, 0.9375]), array([0.0041, 0.9959]))
    """
    level = np.unique(problem.reward, return_inverse=True)[1].reshape(-1)
    mass = level_masses(level, problem.reference)
    J = best_and_worst(mass, n)  # [best, worst]
    best, worst, h = J.sum(1), J.sum(0), np.diff(BestOfN(n).cdf(np.append(0.0, mass.cumsum().clip(max=1.0))))
    h = np.log(h / mass)
    laplacian = np.diag(best + worst) - J - J.T
    for _ in range(100):
        pi = mass * np.exp(h - h.max())
        pi /= pi.sum()
        gradient = alpha * (pi - best) + 2 * (1 - alpha) * (laplacian @ h - contrast(n) * (best - worst))
        if np.abs(gradient).max() < 1e-12:
            break
        curvature = alpha * (np.diag(pi) - np.outer(pi, pi)) + 2 * (1 - alpha) * laplacian
        h = h - np.linalg.solve(curvature + 1 / len(h), gradient)  # the constant direction changes nothing
    if not np.abs(gradient).max() < 1e-9:
        raise RuntimeError(f"optimum(n={n}, alpha={alpha}) stopped at a gradient of {np.abs(gradient).max():.1e}")
    return (problem.reference / mass[level]) * pi[level]


def best_and_worst(mass: Array, n: int) -> Array:
    """P(the best of n draws is on level k, the worst on level l), from F(k, l) = (mass on the levels l..k)^n.

    Shape: mass [L], lowest level first -> [L, L], zero for l > k.

    >>> best_and_worst(np.array([0.5, 0.5]), 2)
    array([[0.25, 0.  ],
           [0.5 , 0.25]])
    """
    edges = np.append(0.0, mass.cumsum())
    inside = np.clip(edges[:, None] - edges[None, :], 0.0, None) ** n  # all draws between two edges, [upper, lower]
    return np.tril(inside[1:, :-1] - inside[:-1, :-1] - inside[1:, 1:] + inside[:-1, 1:])
