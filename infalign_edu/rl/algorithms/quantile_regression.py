"""QRPO: regress log pi on the logarithm of the optimum, whose normaliser is known because C is uniform under pi_ref.

RLOO's optimum is log pi* = log pi_ref + Phi(C) / beta - log Z with Z = int_0^1 exp(Phi(u) / beta) du, the same for
every prompt: so one sample gives one equation, without pairs and from whatever model it came. Left out: a Z of each
prompt's own from its tied rewards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.special import logsumexp

from infalign_edu.rl.algorithms.rloo import Algorithm, Batch, Rows
from infalign_edu.transforms import Identity, graded_quadrature


def log_partition(transform: Callable[..., Any], beta: float, K: int | None = None) -> float:
    """log Z = log int_0^1 exp(Phi(u) / beta) du; with K the same for a C that was estimated from K samples.

    Source: Z = beta (exp(1/beta) - 1) for Phi(u) = u, QRPO, arXiv 2507.08068. Derived: of K reference samples and one
    more, the number below the one more is uniform on 0..K, so that the integral becomes a mean over u = k / K (clipped
    at 1 / (2K), as the pipeline does); the difference is of order 1/K.

    >>> round(log_partition(Identity(), beta=0.5), 6), round(float(np.log(0.5 * (np.exp(2) - 1))), 6)
    (1.161439, 1.161439)
    """
    if K is None:
        u, weight = graded_quadrature()
    else:
        u, weight = (np.arange(K + 1) / K).clip(1 / (2 * K)), np.full(K + 1, 1 / (K + 1))
    return float(logsumexp(np.asarray(transform(u), dtype=float) / beta, b=weight))


def qrpo_loss(log_ratios: torch.Tensor, transformed: torch.Tensor, beta: float, log_z: float) -> torch.Tensor:
    """(Phi - beta log Z - beta log(pi / pi_ref))^2: zero for every response exactly at pi_ref exp(Phi / beta) / Z.

    Source: Matrenok, Moalla and Gulcehre, arXiv 2507.08068. Shape: log_ratios in nats, transformed, same -> scalar.

    >>> qrpo_loss(torch.tensor([1.0]), torch.tensor([3.0]), beta=0.5, log_z=1.0)      # (3 - 0.5 - 0.5)^2
    tensor(4.)
    """
    return (transformed - beta * log_z - beta * log_ratios).square().mean()


@dataclass(frozen=True)
class QRPO(Algorithm):
    """Quantile-reward policy optimisation: least squares, with samples of `source` "reference" or "policy".

    Source: arXiv 2507.08068. Derived: on the policy's own samples its mean gradient is 2 beta times that of RLOO.
    `log_z` gives log Z for a beta; `told` sets it for a transform.

    >>> round(QRPO().log_z(0.5), 6)
    1.161439
    """

    name = "qrpo"
    rate = 0.5  # at RLOO's own rate the KL shoots past its end in the first steps
    source: str = "reference"
    log_z: Callable[[float], float] = partial(log_partition, Identity())

    def told(self, transform: Callable[..., Any], K: int | None = None) -> QRPO:
        """With the Z of this transform, and of K calibration samples."""
        return replace(self, log_z=partial(log_partition, transform, K=K))

    def targets(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Phi - beta log Z and the reference's log-probability, [R] each."""
        return {"transformed": batch.transformed.flatten(), "reference": batch.reference_logprobs}

    def loss(self, rows: Rows) -> torch.Tensor:
        """The mean squared residual."""
        log_ratios = rows.sequence - rows.targets["reference"]
        return qrpo_loss(log_ratios, rows.targets["transformed"], rows.beta, self.log_z(rows.beta))
