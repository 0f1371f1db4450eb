"""One KL-regularised RLOO loop for every policy: embedded, enumerable or from the Hub.

All randomness of step t is a function of (seed, t), so a run that was interrupted goes on bit for bit without any
generator's state in the checkpoint. One update per batch: the samples are always on-policy, so there is no importance
ratio and nothing to clip. Left out: value heads, replay and several epochs a batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from infalign_edu.rl import objectives

Array = NDArray[np.float64]
PROMPTS, ROLLOUTS = 0, 1  # streams of randomness within one step
LATER_RATE = 0.15  # share of the learning rate in steps after the run, which may use another beta


@dataclass(frozen=True)
class Scores:
    """Rewards of one batch at the three stages of CTRL. Shape: each [prompts, samples]."""

    rewards: Array
    calibrated: Array
    transformed: Array


Score = Callable[[NDArray[np.intp], list[str]], Scores]


def stream(seed: int, *key: int) -> int:
    """A 63-bit seed that depends on every number of the key, for a generator of its own.

    >>> stream(0, 1) == stream(0, 1), stream(0, 1) == stream(0, 1, 0)
    (True, False)
    """
    sequence = np.random.SeedSequence(seed, spawn_key=key)  # a longer list would not tell [1] from [1, 0]
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def _master(weight: torch.nn.Parameter) -> torch.nn.Parameter:
    """A float32 copy of a weight in a shorter format, in which small updates would be rounded away; else the weight."""
    return weight if weight.dtype == torch.float32 else torch.nn.Parameter(weight.detach().float())


class Trainer:
    """Moves `policy` towards pi_ref exp(Phi / beta) by RLOO on sampled responses.

    `score(indices, responses)` turns the responses to prompts[indices], prompt-major, into `Scores`.
    Raises: ValueError for a beta that is not positive, no prompts, or fewer than two samples a prompt.
    """

    def __init__(
        self,
        policy: Any,
        reference: Any,
        prompts: Sequence[str],
        score: Score,
        *,
        beta: float,
        steps: int,
        prompts_per_step: int = 12,
        samples_per_prompt: int = 16,
        learning_rate: float = 1e-3,
        warmup: int = 5,
        seed: int = 0,
        micro_batch: int = 96,
    ) -> None:
        if not (math.isfinite(beta) and beta > 0):
            raise ValueError(f"beta must be a positive number, got {beta}")
        if not prompts:
            raise ValueError("prompts must hold at least one prompt, got none")
        if samples_per_prompt < 2:
            raise ValueError(f"samples_per_prompt must be at least 2, got {samples_per_prompt}")
        self.policy, self.reference, self.prompts, self.score = policy, reference, list(prompts), score
        self.beta, self.steps, self.seed = beta, steps, seed
        self.prompts_per_step = min(prompts_per_step, len(self.prompts))
        self.samples_per_prompt, self.learning_rate = samples_per_prompt, learning_rate
        self.warmup = warmup
        self.micro_batch = micro_batch
        self.step = 0
        self.weights = dict(policy.model.named_parameters())
        self.parameters = {name: _master(p) for name, p in self.weights.items()}
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=learning_rate)

    def batch(self, step: int) -> NDArray[np.intp]:
        """Indices of the prompts of a step: epochs in shuffled order, each epoch with its own shuffle."""
        first = step * self.prompts_per_step
        epochs = range(first // len(self.prompts), (first + self.prompts_per_step - 1) // len(self.prompts) + 1)
        order = [np.random.default_rng(stream(self.seed, PROMPTS, e)).permutation(len(self.prompts)) for e in epochs]
        start = first - epochs[0] * len(self.prompts)
        return np.concatenate(order)[start : start + self.prompts_per_step]

    def advance(self) -> dict[str, float]:
        """One step: sample, score, update. Returns the step's metrics, measured before the update."""
        began = time.perf_counter()
        indices = self.batch(self.step)
        generator = torch.Generator().manual_seed(stream(self.seed, ROLLOUTS, self.step))
        rollouts = self.policy.sample([self.prompts[i] for i in indices], self.samples_per_prompt, generator=generator)
        scores = self.score(indices, rollouts.responses)
        transformed = torch.as_tensor(scores.transformed, dtype=torch.float32, device=rollouts.tokens.device)
        if not torch.isfinite(transformed).all():
            raise ValueError("transformed rewards must be finite: clip the calibrated reward or change the transform")
        kl, loss = self._backward(rollouts, transformed)
        for name, weight in self.weights.items():
            if weight is not self.parameters[name]:
                self.parameters[name].grad = None if weight.grad is None else weight.grad.float()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * self.schedule(self.step)
        self.optimizer.step()
        self._publish()
        self.step += 1
        return {
            "step": self.step,
            "kl": float(kl),
            "reward": float(scores.rewards.mean()),
            "calibrated": float(scores.calibrated.mean()),
            "transformed": float(scores.transformed.mean()),
            "objective": float(scores.transformed.mean()) - self.beta * float(kl),
            "loss": float(loss),
            "gradient_norm": float(norm),
            "tokens": float(rollouts.mask.sum() / len(rollouts.mask)),
            "seconds": time.perf_counter() - began,
        }

    @torch.no_grad()
    def _publish(self) -> None:
        """Brings the updated parameters into the model and clears all gradients."""
        for name, weight in self.weights.items():
            if weight is not self.parameters[name]:
                weight.copy_(self.parameters[name])
                weight.grad = None
        self.optimizer.zero_grad(set_to_none=True)

    def schedule(self, step: int) -> float:
        """Share of the learning rate: linear warm-up, then linear decay, so that it ends with little noise."""
        if step >= self.steps:
            return LATER_RATE
        return min(1.0, (step + 1) / max(1, self.warmup)) * max(0.03, 1 - step / self.steps)

    def _backward(self, rollouts: Any, transformed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Accumulates gradients over micro-batches of like length; returns the mean exact KL and the mean loss."""
        lengths, total = rollouts.mask.sum(1), len(rollouts.tokens)
        chunks = [(rows, int(lengths[rows].max())) for rows in lengths.argsort(stable=True).split(self.micro_batch)]
        with torch.no_grad():
            tables = [self._log_distribution(self.reference, rollouts, *chunk) for chunk in chunks]
        reference_logprobs = torch.zeros_like(transformed.flatten())
        for (rows, longest), table in zip(chunks, tables, strict=True):
            reference_logprobs[rows] = self._sequence(table, rollouts, rows, longest)
        logprobs = objectives.sequence_logprobs(rollouts.logprobs, rollouts.mask)
        rewards = objectives.kl_regularized_rewards(transformed.flatten(), logprobs, reference_logprobs, self.beta)
        advantages = objectives.rloo_advantages(rewards.view(-1, self.samples_per_prompt)).flatten()
        kl = mean_loss = torch.zeros((), device=rewards.device)
        for (rows, longest), table in zip(chunks, tables, strict=True):
            log_policy = self._log_distribution(self.policy, rollouts, rows, longest)
            logprobs = self._sequence(log_policy, rollouts, rows, longest)
            loss = objectives.policy_gradient_loss(logprobs, advantages[rows]) * (len(rows) / total)
            loss.backward()
            mask = rollouts.mask[rows, :longest]
            kl = kl + objectives.exact_kl(log_policy.detach(), table, mask).sum() / total
            mean_loss = mean_loss + loss.detach()
        return kl, mean_loss

    @staticmethod
    def _log_distribution(policy: Any, rollouts: Any, rows: torch.Tensor, longest: int) -> torch.Tensor:
        return policy.logits(rollouts, rows)[:, :longest].log_softmax(-1)  # [rows, longest, V]

    @staticmethod
    def _sequence(table: torch.Tensor, rollouts: Any, rows: torch.Tensor, longest: int) -> torch.Tensor:
        picked = table.gather(-1, rollouts.tokens[rows, :longest, None])[..., 0]
        return objectives.sequence_logprobs(picked, rollouts.mask[rows, :longest])

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything a checkpoint needs besides the step: weights and Adam's moments, by name."""
        state = {f"policy.{name}": p.detach() for name, p in self.parameters.items()}
        for name, p in self.parameters.items():
            for key, value in self.optimizer.state.get(p, {}).items():
                state[f"adam.{key}.{name}"] = value
        return state

    def restore(self, tensors: dict[str, torch.Tensor], step: int) -> None:
        """Takes up the state that `tensors` gave. Raises: ValueError when a tensor is missing or has another shape."""
        for name, p in self.parameters.items():
            saved = tensors.get(f"policy.{name}")
            if saved is None or saved.shape != p.shape:
                found = "nothing" if saved is None else f"shape {tuple(saved.shape)}"
                raise ValueError(f"checkpoint must hold {name} of shape {tuple(p.shape)}, got {found}")
            with torch.no_grad():
                p.copy_(saved)
            moments = {key: tensors.get(f"adam.{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
            self.optimizer.state[p] = {key: value.clone() for key, value in moments.items() if value is not None}
        self._publish()
        self.step = step
