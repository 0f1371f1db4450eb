"""PPO: a critic, advantages by GAE, and several epochs a batch under a clipped ratio.

The reward is paid token by token: -beta log(pi / pi_ref) of each token, and Phi with the last one, so that a response's
rewards sum to those of RLOO and the optimum stays pi_ref exp(Phi / beta). Left out: shuffled minibatches, whitened
advantages, value clipping and an adaptive beta, which change the step and not its aim; and the average over tokens,
which would give a short response's tokens more weight than a long one's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from infalign_edu.lm.table import PrefixTable
from infalign_edu.rl.algorithms.rloo import Algorithm, Batch, Critic, Rows


def token_rewards(
    transformed: torch.Tensor, logprobs: torch.Tensor, reference_logprobs: torch.Tensor, mask: torch.Tensor, beta: float
) -> torch.Tensor:
    """r_t = -beta log(pi(y_t | h_t) / pi_ref(y_t | h_t)), and Phi besides at the last token.

    Source: Ziegler et al., arXiv 1909.08593. Shape: transformed [rows], the others [rows, tokens] -> [rows, tokens].

    >>> ones = torch.ones(1, 2)
    >>> token_rewards(torch.tensor([3.0]), -ones, -2 * ones, ones.bool(), beta=0.5)      # sums to 3 - 0.5 * 2
    tensor([[-0.5000,  2.5000]])
    """
    rewards = (-beta * (logprobs - reference_logprobs)).masked_fill(~mask, 0.0)
    return rewards.scatter_add(1, mask.sum(1, keepdim=True) - 1, transformed[:, None])


def generalized_advantages(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, smoothing: float
) -> torch.Tensor:
    """A_t = sum_l lambda^l delta_{t+l}, delta_t = r_t + V(s_{t+1}) - V(s_t), with V = 0 after the last token.

    Source: Schulman et al., arXiv 1506.02438, without discount: a response's end is as dear as its beginning. With
    lambda = 1 it is the return minus V, unbiased for every V; below 1 it varies less and is unbiased for the true V.

    Shape: rewards, values, mask [rows, tokens] -> [rows, tokens], 0 on padding.

    >>> generalized_advantages(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.25]]), torch.ones(1, 2).bool(), 1.0)
    tensor([[0.5000, 0.7500]])
    """
    values = values.masked_fill(~mask, 0.0)
    following = torch.nn.functional.pad(values[:, 1:], (0, 1))
    delta = (rewards + following - values).masked_fill(~mask, 0.0)
    advantages, after = torch.zeros_like(delta), torch.zeros_like(delta[:, 0])
    for t in range(delta.shape[1] - 1, -1, -1):
        after = delta[:, t] + smoothing * after
        advantages[:, t] = after
    return advantages


def clipped_loss(
    logprobs: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor, clip: float
) -> torch.Tensor:
    """-sum_t min(rho_t A_t, clip(rho_t, 1 - clip, 1 + clip) A_t) of each row, with rho = pi / pi_old of the token.

    Source: Schulman et al., arXiv 1707.06347. At rho = 1 its gradient is that of -sum_t A_t log pi(y_t | h_t).

    Shape: all [rows, tokens] -> [rows]; old and advantages carry no gradient.

    >>> rho, ones = torch.tensor([[1.5, 0.5]]), torch.ones(1, 2)
    >>> clipped_loss(rho.log(), 0 * ones, ones, ones.bool(), clip=0.2)      # -(1.2 + 0.5)
    tensor([-1.7000])
    """
    ratio = (logprobs - old).exp()
    worse = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return -worse.masked_fill(~mask, 0.0).sum(-1)


class TableCritic(Critic):
    """One value for every prefix of an enumerable policy: it can be exact."""

    def __init__(self, words: int, length: int) -> None:
        super().__init__()
        self.prefix = PrefixTable(words, length)  # its first column is the value

    def features(self, policy: Any, rollouts: Any, rows: torch.Tensor) -> torch.Tensor:
        """The tokens themselves. Shape: [rows, length]."""
        return rollouts.tokens[rows]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """V of every prefix on the way. Shape: [rows, length] -> [rows, length]."""
        return self.prefix(features[:, :-1])[..., 0]


class LinearCritic(Critic):
    """V(s) = w h(s) + b on the hidden state that the model's output layer sees; it starts at 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(width, 1)
        torch.nn.init.zeros_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)

    @torch.no_grad()
    def features(self, policy: Any, rollouts: Any, rows: torch.Tensor) -> torch.Tensor:
        """Hidden states at every response position, without a gradient. Shape: [rows, T, width] float32."""
        with _headless(output_layer(policy.model)):
            return policy.logits(rollouts, rows)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Shape: [rows, T, width] -> [rows, T]."""
        return self.linear(features)[..., 0]


def output_layer(model: Any) -> torch.nn.Module:
    """The layer that turns hidden states into logits. Raises: ValueError for a model that has none."""
    find = getattr(model, "get_output_embeddings", None)
    layer: Any = find() if find else getattr(model, "head", None)
    if not isinstance(getattr(layer, "weight", None), torch.Tensor):
        raise ValueError(f"model must have an output layer to put a value head beside, got {type(model).__name__}")
    return layer


@contextmanager
def _headless(layer: torch.nn.Module) -> Iterator[None]:
    """While it runs, the model's logits are the hidden states that would have made them."""
    handle = layer.register_forward_hook(lambda module, inputs, output: inputs[0])
    try:
        yield
    finally:
        handle.remove()


@dataclass(frozen=True)
class PPO(Algorithm):
    """Clipped policy gradient with a learned baseline; `smoothing` is GAE's lambda, `clip` the widest step of a ratio.

    Source: Schulman et al., arXiv 1707.06347; for language models Ziegler et al., arXiv 1909.08593.

    >>> PPO()
    PPO(epochs=2, clip=0.2, smoothing=0.95, critic_rate=10.0)
    """

    name = "ppo"
    rate = 0.5  # two updates a batch
    epochs: int = 2
    clip: float = 0.2
    smoothing: float = 0.95
    critic_rate: float = 10.0

    def critic(self, policy: Any) -> Critic:
        """A table of values beside a table of logits, a linear head beside a network's output layer."""
        model = policy.model
        if isinstance(model, PrefixTable):
            return TableCritic(model.words, model.length).to(model.table.device)
        weight: Any = output_layer(model).weight  # [V, width]
        return LinearCritic(weight.shape[1]).to(weight.device)

    def targets(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Advantages and returns of every token, the log-probabilities they were drawn with, the critic's features."""
        rewards = token_rewards(
            batch.transformed.flatten(), batch.token_logprobs, batch.token_reference_logprobs, batch.mask, batch.beta
        )
        advantages = generalized_advantages(rewards, batch.values, batch.mask, self.smoothing)
        old = {"old": batch.token_logprobs, "features": batch.features}
        return {"advantages": advantages, "returns": advantages + batch.values, **old}

    def loss(self, rows: Rows) -> torch.Tensor:
        """The clipped loss, plus half the squared error of V; they share no parameter."""
        t = rows.logprobs.shape[1]
        old, advantages = rows.targets["old"][:, :t], rows.targets["advantages"][:, :t]
        loss = clipped_loss(rows.logprobs, old, advantages, rows.mask, self.clip).mean()
        if rows.critic is None:
            return loss
        error = (rows.critic(rows.targets["features"]) - rows.targets["returns"])[:, :t]
        return loss + 0.5 * error.square().masked_fill(~rows.mask, 0.0).sum(-1).mean()
