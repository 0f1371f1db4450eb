"""GRPO as published: rewards divided by the group's deviation, KL per token and in the loss; and where that leads.

Both differ from E[Phi] - beta KL(pi || pi_ref). The deviation erases the scale of Phi: beta is in effect multiplied by
the deviation of Phi under the policy. The estimator k3 = rho - 1 - log rho, rho = pi_ref / pi, has the mean KL(pi ||
pi_ref) of the next token, but on samples of pi its *gradient* is that of KL(pi_ref || pi), and a token does not answer
for the KL that it leads to later. Later recipes (and TRL 1.16 by default) multiply k3 by pi / pi_old: that mends the
gradient of each token, `corrected`, but still no token answers for later ones. `fixed_point` computes the policy at
which the expected update vanishes. Each deviation can be switched off; with all three off GRPO is RLOO times
(M - 1) / M.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from infalign_edu.rl import objectives
from infalign_edu.rl.algorithms.ppo import clipped_loss
from infalign_edu.rl.algorithms.rloo import Algorithm, Batch, Rows

Array = NDArray[np.float64]
FLOOR = 1e-4  # added to a group's deviation


def group_advantages(rewards: torch.Tensor, normalize: bool = True) -> torch.Tensor:
    """A_i = (r_i - mean r) / (std r + 1e-4) within each group, or without the division.

    Source: Shao et al., arXiv 2402.03300. Shape: [prompts, samples] -> [prompts, samples].

    >>> group_advantages(torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])).round(decimals=2)
    tensor([[-1.2200,  0.0000,  1.2200],
            [-1.2200,  0.0000,  1.2200]])
    """
    centred = rewards - rewards.mean(-1, keepdim=True)
    return centred / (rewards.std(-1, keepdim=True, correction=0) + FLOOR) if normalize else centred


def k3(logprobs: torch.Tensor, reference_logprobs: torch.Tensor) -> torch.Tensor:
    """rho - 1 - log rho with rho = pi_ref / pi, in nats: never negative, mean KL(pi || pi_ref) under pi.

    Source: Schulman, "Approximating KL divergence", 2020; in GRPO's loss, arXiv 2402.03300. Derived: with samples of pi
    held fixed its mean gradient is that of KL(pi_ref || pi); tests/test_algorithms.py.

    Shape: any -> same.

    >>> k3(torch.tensor([0.5]).log(), torch.tensor([0.25]).log())      # 1/2 - 1 + log 2
    tensor([0.1931])
    """
    difference = reference_logprobs - logprobs
    return difference.exp() - 1 - difference


@dataclass(frozen=True)
class GRPO(Algorithm):
    """Group-relative policy optimisation; `normalize`, `kl_in_loss` and `token_mean` are its three deviations.

    Source: Shao et al., arXiv 2402.03300. Derived: `fixed_point` says where it goes.

    >>> GRPO()
    GRPO(epochs=1, clip=0.2, normalize=True, kl_in_loss=True, token_mean=True, corrected=False)
    """

    name = "grpo"
    epochs: int = 1
    clip: float = 0.2
    normalize: bool = True  # divide by the group's standard deviation
    kl_in_loss: bool = True  # per token, by k3; else in the reward, for the whole response
    token_mean: bool = True  # average over a response's tokens; else the sum
    corrected: bool = False  # k3 times pi / pi_old: its gradient is then that of each token's KL(pi || pi_ref)

    def targets(self, batch: Batch) -> dict[str, torch.Tensor]:
        """One advantage a response, and both models' log-probabilities of its tokens."""
        rewards, flat = batch.transformed, batch.transformed.flatten()
        if not self.kl_in_loss:
            rewards = objectives.kl_regularized_rewards(
                flat, batch.logprobs, batch.reference_logprobs, batch.beta
            ).view_as(rewards)
        advantages = group_advantages(rewards, self.normalize).flatten()
        return {"advantages": advantages, "old": batch.token_logprobs, "reference": batch.token_reference_logprobs}

    def loss(self, rows: Rows) -> torch.Tensor:
        """Clipped policy gradient plus beta k3, by the token or by the response."""
        t = rows.logprobs.shape[1]
        old, reference = rows.targets["old"][:, :t], rows.targets["reference"][:, :t]
        advantages = rows.targets["advantages"][:, None].expand_as(rows.logprobs)
        loss = clipped_loss(rows.logprobs, old, advantages, rows.mask, self.clip)  # [rows]
        if self.kl_in_loss:
            penalty = k3(rows.logprobs, reference)
            penalty = penalty * (rows.logprobs - old).exp() if self.corrected else penalty
            loss = loss + rows.beta * penalty.masked_fill(~rows.mask, 0.0).sum(-1)
        return (loss / rows.mask.sum(-1) if self.token_mean else loss).mean()


def fixed_point(
    reference: Array, phi: Array, beta: float, words: int, *, normalize: bool = False, corrected: bool = False
) -> Array:
    """The policy on all words^length responses at which GRPO's expected update vanishes, for large groups.

    pi(a | h) = pi_ref(a | h) beta / (lambda_h - Q(h, a)), Q(h, a) = E_pi[Phi | h, a], lambda_h making it sum to 1.

    Derived: for free logits at every prefix h the update is d_pi(h) [pi(a)(Q(h, a) - V(h)) - beta (pi(a) - pi_ref(a))]:
    solved from the last token back, with lambda_h = V(h) + beta. A group of M divides the rewards' part by M / (M - 1),
    which is beta M / (M - 1) here. `normalize` multiplies beta by s = std_pi(Phi), followed from s = 1: there may be no
    such s, and then s falls to 0 and the policy to the best responses. Runs were seen to collapse on others,
    data/runs/trl.csv. `corrected`: pi(a | h) is proportional to pi_ref(a | h) exp(Q(h, a) / beta), each token's own
    optimum; that of the whole response would have beta log E_ref[exp(Phi / beta) | h, a] in Q's place.

    Shape: reference, phi [words^length] -> [words^length]. Raises: ValueError for another number of responses.

    >>> fixed_point(np.array([0.5, 0.5]), np.array([0.0, 1.0]), beta=1.0, words=2).round(4)
    array([0.2929, 0.7071])
    """
    length = round(np.log(len(reference)) / np.log(words))
    if words**length != len(reference) or len(phi) != len(reference):
        raise ValueError(f"reference and phi must hold {words}^length numbers, got {len(reference)} and {len(phi)}")
    s = 1.0
    for _ in range(300 if normalize else 1):
        policy = _backwards(reference, phi, beta * s, words, length, corrected)
        before, s = s, max(1e-3, float(np.sqrt(policy @ (phi - policy @ phi) ** 2)))
        if abs(before - s) < 1e-12:
            break
    return policy


def _backwards(reference: Array, phi: Array, beta: float, words: int, length: int, corrected: bool) -> Array:
    joint, value, policy = reference, phi, np.ones(1)
    levels = []
    for _ in range(length):  # the last token first
        joint, value = joint.reshape(-1, words), value.reshape(-1, words)
        conditional = joint / joint.sum(1, keepdims=True)
        share = (_softmax if corrected else _reversed)(conditional, value, beta)
        levels.append(share)
        joint, value = joint.sum(1), (share * value).sum(1)
    for share in reversed(levels):
        policy = (policy[:, None] * share).ravel()
    return policy


def _softmax(conditional: Array, value: Array, beta: float) -> Array:
    """pi_ref exp(Q / beta) / Z at every prefix. Shape: [prefixes, words] each."""
    weight = conditional * np.exp((value - value.max(1, keepdims=True)) / beta)
    return weight / weight.sum(1, keepdims=True)


def _reversed(conditional: Array, value: Array, beta: float) -> Array:
    """pi_ref beta / (lambda - Q) at every prefix, lambda found by bisection. Shape: [prefixes, words] each."""
    low = value.max(1)
    high = low + beta  # there the sum is at most 1, and at `low` infinite
    for _ in range(100):
        middle = (low + high) / 2
        over = (conditional * beta / (middle[:, None] - value)).sum(1) > 1
        low, high = np.where(over, middle, low), np.where(over, high, middle)
    return conditional * beta / (high[:, None] - value)
