"""DPO and IPO: the policy from pairs of reference samples, labelled by the transformed reward.

All pairs of a prompt's M samples are used; a pair is labelled by Phi, so that the labels carry what RLOO sees. DPO with
the Bradley-Terry probabilities sigma(Phi(a) - Phi(b)) has the optimum of RLOO, pi_ref exp(Phi / beta). IPO sees the
order only, ties as one half, and its optimum is pi_ref exp(C / tau): calibration and the identity transform, whatever
increasing Phi was chosen. Left out: hard labels for DPO, under which its loss has no minimum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from infalign_edu.rl.algorithms.rloo import Algorithm, Batch, Rows
from infalign_edu.transforms import graded_quadrature


def pair_differences(x: torch.Tensor) -> torch.Tensor:
    """x_i - x_j for all pairs i < j of each group. Shape: [prompts, M] -> [prompts, M (M - 1) / 2].

    >>> pair_differences(torch.tensor([[1.0, 2.0, 4.0]]))
    tensor([[-1., -3., -2.]])
    """
    i, j = torch.triu_indices(x.shape[1], x.shape[1], 1, device=x.device)
    return x[:, i] - x[:, j]


def dpo_loss(gaps: torch.Tensor, preferred: torch.Tensor, beta: float) -> torch.Tensor:
    """-p log sigma(beta gap) - (1 - p) log sigma(-beta gap), gap = log(pi/pi_ref)(a) - log(pi/pi_ref)(b).

    Source: Rafailov et al., arXiv 2305.18290, for p = 1. Derived: for p = sigma(Phi(a) - Phi(b)) the minimum is
    gap = (Phi(a) - Phi(b)) / beta for every pair, which pi_ref exp(Phi / beta) has; tests/test_algorithms.py.

    Shape: gaps in nats, preferred = P(a beats b), same shape -> scalar, the mean.

    >>> dpo_loss(torch.tensor([0.0]), torch.tensor([0.7]), beta=0.1)      # log 2
    tensor(0.6931)
    """
    log_sigmoid = torch.nn.functional.logsigmoid
    return -(preferred * log_sigmoid(beta * gaps) + (1 - preferred) * log_sigmoid(-beta * gaps)).mean()


def ipo_loss(gaps: torch.Tensor, preferred: torch.Tensor, tau: float) -> torch.Tensor:
    """(gap - (p - 1/2) / tau)^2, which is (gap - 1 / (2 tau))^2 with the preferred response first.

    Source: Azar et al., arXiv 2310.12036. Derived: least squares on pairs of independent reference samples has the
    minimum log(pi/pi_ref)(a) = E_b[p(a, b)] / tau + constant, and E_b[p(a, b)] = C(a), the calibrated reward.

    Shape: gaps in nats, preferred = P(a beats b) in {0, 1/2, 1}, same shape -> scalar, the mean.

    >>> ipo_loss(torch.tensor([1.0]), torch.tensor([1.0]), tau=0.25)      # (1 - 2)^2
    tensor(1.)
    """
    return (gaps - (preferred - 0.5) / tau).square().mean()


class _Pairs(Algorithm):
    source = "reference"
    grouped = True
    rate = 0.5  # at RLOO's own rate the KL shoots past its end in the first steps

    def targets(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Phi and the reference's log-probability of every response, [R] each."""
        return {"transformed": batch.transformed.flatten(), "reference": batch.reference_logprobs}


@dataclass(frozen=True)
class DPO(_Pairs):
    """Direct preference optimisation with soft labels; a pair fits exactly, so any `source` has the same optimum.

    Source: Rafailov et al., arXiv 2305.18290. Derived: the labels, see `dpo_loss`.

    >>> DPO()
    DPO(source='reference')
    """

    name = "dpo"
    source: str = "reference"

    def loss(self, rows: Rows) -> torch.Tensor:
        """The mean over all pairs."""
        preferred = pair_differences(rows.group("transformed")).sigmoid()
        return dpo_loss(pair_differences(rows.log_ratios), preferred, rows.beta)


@dataclass(frozen=True)
class IPO(_Pairs):
    """Identity preference optimisation at tau = beta / scale; pairs do not fit exactly, so they must come from pi_ref.

    `scale` makes beta speak of the scale of Phi: what a rise of C from 0 to 1 is worth. Source: Azar et al.,
    arXiv 2310.12036.

    >>> from infalign_edu import Identity, standardize
    >>> IPO(), round(IPO().told(standardize(Identity())).scale, 4)      # sqrt(12)
    (IPO(scale=1.0), 3.4641)
    """

    name = "ipo"
    scale: float = 1.0

    def told(self, transform: Callable[..., Any], K: int | None = None) -> IPO:
        """With the scale of the identity that has the deviation of Phi under U[0, 1]."""
        u, weight = graded_quadrature()
        phi = np.asarray(transform(u), dtype=float)
        return replace(self, scale=float(np.sqrt(12 * weight @ (phi - weight @ phi) ** 2)))

    def loss(self, rows: Rows) -> torch.Tensor:
        """The mean over all pairs; the higher Phi wins, ties half."""
        preferred = (1 + pair_differences(rows.group("transformed")).sign()) / 2
        return ipo_loss(pair_differences(rows.log_ratios), preferred, rows.beta / self.scale)
