"""What an algorithm is, shown on the simplest one: RLOO, which every other is held against.

`targets` turns a scored batch into constants, once a step; `loss` compares them with the policy's log-probabilities, in
micro-batches and once or several times. Neither samples, steps nor saves. Left out of the batch: whole distributions
over the vocabulary, which only the trainer's measured KL needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from infalign_edu.rl import objectives


@dataclass(frozen=True)
class Batch:
    """What is known of one step's responses before its update; nothing carries a gradient, log-probabilities in nats.

    Shape: P prompts with M samples each, R = P M rows, prompt-major, of up to T tokens. `logprobs` are those of the
    model that sampled, and `values` those of the critic at the state before each token, 0 without a critic.
    """

    rewards: torch.Tensor  # [P, M]
    transformed: torch.Tensor  # [P, M]
    logprobs: torch.Tensor  # [R]
    reference_logprobs: torch.Tensor  # [R]
    token_logprobs: torch.Tensor  # [R, T], 0 on padding
    token_reference_logprobs: torch.Tensor  # [R, T], 0 on padding
    mask: torch.Tensor  # [R, T] bool
    values: torch.Tensor  # [R, T], 0 on padding
    features: torch.Tensor  # [R, T, ...] what the critic sees; [R, 0] without one
    beta: float


@dataclass(frozen=True)
class Rows:
    """One micro-batch: the policy's log-probabilities as they are now, with gradients, and its rows of the targets.

    Shape: logprobs [rows, t] in nats, 0 on padding, mask [rows, t], targets [rows, ...] each.
    """

    logprobs: torch.Tensor
    mask: torch.Tensor
    targets: dict[str, torch.Tensor]
    samples: int  # M; rows of one prompt follow each other where the algorithm is `grouped`
    beta: float
    critic: Critic | None = None

    @property
    def sequence(self) -> torch.Tensor:
        """log pi(y | x) of each row, [rows]."""
        return self.logprobs.sum(-1)

    @property
    def log_ratios(self) -> torch.Tensor:
        """log pi(y | x) - log pi_ref(y | x) of whole groups, [rows / M, M]; needs the target `reference`."""
        return (self.sequence - self.targets["reference"]).view(-1, self.samples)

    def group(self, name: str) -> torch.Tensor:
        """A target of one number a row, by groups: [rows / M, M]."""
        return self.targets[name].view(-1, self.samples)


class Critic(torch.nn.Module):
    """A value V(s_t) of the state before each token, on features that carry no gradient into the policy."""

    def features(self, policy: Any, rollouts: Any, rows: torch.Tensor) -> torch.Tensor:
        """What V is computed from. Shape: [rows, T, ...]."""
        raise NotImplementedError

    @torch.no_grad()
    def look(self, policy: Any, rollouts: Any, chunks: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and V of all rows, in micro-batches of rows. Shape: [R, T, ...] and [R, T], 0 on padding."""
        features = torch.cat([self.features(policy, rollouts, rows) for rows in chunks])
        features = features[torch.cat(chunks).argsort()]
        return features, self(features).masked_fill(~rollouts.mask, 0.0)


class Algorithm:
    """Whom to sample from, what to compute once a batch, and the loss; see the module's first lines."""

    name: str
    source: str = "policy"  # or "reference": fresh samples of pi_ref in every step
    grouped: bool = False  # True where the loss needs all samples of a prompt in one micro-batch
    epochs: int = 1  # updates on each batch
    rate: float = 1.0  # default learning rate, as a share of RLOO's
    critic_rate: float = 1.0  # learning rate of the critic, as a share of the policy's

    def told(self, transform: Callable[..., Any], K: int | None = None) -> Algorithm:
        """The same algorithm, knowing the transform and the number of calibration samples, where it needs them."""
        return self

    def critic(self, policy: Any) -> Critic | None:
        """A fresh critic for this policy, or none."""
        return None

    def targets(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Constants of one step, each [R, ...]."""
        raise NotImplementedError

    def loss(self, rows: Rows) -> torch.Tensor:
        """The mean loss of the micro-batch's rows, a scalar."""
        raise NotImplementedError


def micro_batches(rollouts: Any, size: int, grouped: bool) -> list[tuple[torch.Tensor, int]]:
    """Row numbers and longest response of each micro-batch of about `size` rows: like lengths together.

    `grouped` keeps the samples of a prompt in one micro-batch, in their order. Shape: rows [rows <= size] each.
    """
    lengths, M = rollouts.mask.sum(1), rollouts.samples
    if grouped:
        order = lengths.view(-1, M).amax(1).argsort(stable=True)
        rows = (order[:, None] * M + torch.arange(M, device=order.device)).flatten()
        parts = rows.split(max(1, size // M) * M)
    else:
        parts = lengths.argsort(stable=True).split(size)
    return [(part, int(lengths[part].max())) for part in parts]


def log_distributions(policy: Any, rollouts: Any, rows: torch.Tensor, longest: int) -> torch.Tensor:
    """log pi(. | h_t) over the vocabulary at every position of these rows. Shape: [rows, longest, V]."""
    return policy.logits(rollouts.first(longest), rows).log_softmax(-1)


def taken(table: torch.Tensor, rollouts: Any, rows: torch.Tensor, longest: int) -> torch.Tensor:
    """Their log-probabilities of the tokens that were drawn, 0 on padding. Shape: table [rows, longest, V] -> no V."""
    picked = table.gather(-1, rollouts.tokens[rows, :longest, None])[..., 0]
    return picked.masked_fill(~rollouts.mask[rows, :longest], 0.0)


@dataclass(frozen=True)
class RLOO(Algorithm):
    """REINFORCE with a leave-one-out baseline on Phi - beta log(pi / pi_ref); its optimum is pi_ref exp(Phi / beta).

    Source: Ahmadian et al., arXiv 2402.14740.

    >>> from infalign_edu.rl.toy import ToyWorld
    >>> world = ToyWorld(words=3, length=2)
    >>> trainer = world.trainer(world.target("identity"), steps=1)
    >>> trainer.algorithm, trainer.advance()["step"]
    (RLOO(), 1)
    """

    name = "rloo"

    def targets(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Leave-one-out advantages, [R]."""
        flat = batch.transformed.flatten()
        rewards = objectives.kl_regularized_rewards(flat, batch.logprobs, batch.reference_logprobs, batch.beta)
        return {"advantages": objectives.rloo_advantages(rewards.view_as(batch.transformed)).flatten()}

    def loss(self, rows: Rows) -> torch.Tensor:
        """-mean A_i log pi(y_i | x)."""
        return objectives.policy_gradient_loss(rows.sequence, rows.targets["advantages"])
