"""One KL-regularised loop, sample -> score -> update, for every policy: embedded, enumerable or from the Hub.

What an update is, the algorithm says (`rl.algorithms`): RLOO unless another is asked for. All randomness of step t is a
function of (seed, t), so a run that was interrupted goes on bit for bit without any generator's state in the
checkpoint. Only parameters that require a gradient are trained and saved. Left out: replay of earlier steps' samples.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from infalign_edu.inputs import texts, whole
from infalign_edu.order_statistics import real
from infalign_edu.rl import objectives
from infalign_edu.rl.algorithms import algorithm as named_algorithm
from infalign_edu.rl.algorithms.rloo import Algorithm, Batch, Rows, log_distributions, micro_batches, taken

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
    """Moves `policy` on sampled responses, by RLOO towards pi_ref exp(Phi / beta) unless `algorithm` says otherwise.

    `score(indices, responses)` turns the responses to prompts[indices], prompt-major, into `Scores`.
    Raises: ValueError for a beta that is not positive, no prompts, fewer than two samples a prompt, a frozen policy, or
    an unknown algorithm.
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
        adam_beta2: float = 0.999,
        warmup: int = 5,
        seed: int = 0,
        micro_batch: int = 64,
        algorithm: str | Algorithm = "rloo",
    ) -> None:
        beta, prompts = real("beta", beta, "a positive number", lambda b: b > 0), texts("prompts", prompts)
        learning_rate = real("learning_rate", learning_rate, "a positive number", lambda rate: rate > 0)
        real("adam_beta2", adam_beta2, "a number in [0, 1)", lambda decay: 0 <= decay < 1)
        whole("samples_per_prompt", samples_per_prompt, "at least 2", 2)
        for name, value in (("steps", steps), ("prompts_per_step", prompts_per_step), ("micro_batch", micro_batch)):
            whole(name, value)
        self.policy, self.reference, self.prompts, self.score = policy, reference, list(prompts), score
        self.beta, self.steps, self.seed = beta, steps, seed
        self.prompts_per_step = min(prompts_per_step, len(self.prompts))
        self.samples_per_prompt, self.learning_rate = samples_per_prompt, learning_rate
        self.warmup = warmup
        self.micro_batch = micro_batch
        self.algorithm = named_algorithm(algorithm)
        self.step = 0
        self.weights = {name: p for name, p in policy.model.named_parameters() if p.requires_grad}
        if not self.weights:
            raise ValueError("policy must have weights that take gradients, got a frozen one")
        self.parameters = {name: _master(p) for name, p in self.weights.items()}
        self.critic = self.algorithm.critic(policy)
        self.critic_parameters = dict(self.critic.named_parameters()) if self.critic else {}
        groups = [(self.parameters, 1.0), (self.critic_parameters, self.algorithm.critic_rate)]
        options = [{"params": list(named.values()), "share": share} for named, share in groups if named]
        self.optimizer = torch.optim.Adam(options, lr=learning_rate, betas=(0.9, adam_beta2))

    def batch(self, step: int) -> NDArray[np.intp]:
        """Indices of the prompts of a step: epochs in shuffled order, each epoch with its own shuffle."""
        first = step * self.prompts_per_step
        epochs = range(first // len(self.prompts), (first + self.prompts_per_step - 1) // len(self.prompts) + 1)
        order = [np.random.default_rng(stream(self.seed, PROMPTS, e)).permutation(len(self.prompts)) for e in epochs]
        start = first - epochs[0] * len(self.prompts)
        return np.concatenate(order)[start : start + self.prompts_per_step]

    def advance(self) -> dict[str, float]:
        """One step: sample, score, update. Returns the step's metrics, those of the policy before the update.

        Where the reference was sampled, they are reweighted to the policy, with more noise.
        """
        began = time.perf_counter()
        indices = self.batch(self.step)
        generator = torch.Generator().manual_seed(stream(self.seed, ROLLOUTS, self.step))
        sampler = self.reference if self.algorithm.source == "reference" else self.policy
        rollouts = sampler.sample([self.prompts[i] for i in indices], self.samples_per_prompt, generator=generator)
        scores = self.score(indices, rollouts.responses)
        chunks = micro_batches(rollouts, self.micro_batch, self.algorithm.grouped)
        batch, tables = self._look(rollouts, scores, chunks)
        targets = self.algorithm.targets(batch)
        kl, loss, weights = self._backward(rollouts, batch, targets, chunks, tables)
        norm = self._update()
        for _ in range(self.algorithm.epochs - 1):
            self._backward(rollouts, batch, targets, chunks)
            self._update()
        self.step += 1
        stages = (scores.rewards, scores.calibrated, scores.transformed)
        means = [float((stage if weights is None else stage * weights).mean()) for stage in stages]
        return {
            "step": self.step,
            "kl": float(kl),
            "reward": means[0],
            "calibrated": means[1],
            "transformed": means[2],
            "objective": means[2] - self.beta * float(kl),
            "loss": float(loss),
            "gradient_norm": norm,
            "tokens": float(rollouts.mask.sum() / len(rollouts.mask)),
            "seconds": time.perf_counter() - began,
        }

    def _update(self) -> float:
        """One step of Adam on the accumulated gradients; returns the norm of the policy's, before it is clipped."""
        for name, weight in self.weights.items():
            if weight is not self.parameters[name]:
                self.parameters[name].grad = None if weight.grad is None else weight.grad.float()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        if self.critic is not None:
            torch.nn.utils.clip_grad_norm_(self.critic_parameters.values(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * self.schedule(self.step) * group["share"]
        self.optimizer.step()
        self._publish()
        return float(norm)

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

    @torch.no_grad()
    def _look(self, rollouts: Any, scores: Scores, chunks: Any) -> tuple[Batch, list[torch.Tensor]]:
        """The batch before its update, and the reference's distributions over the vocabulary for each micro-batch."""
        device = rollouts.tokens.device
        rewards, transformed = (
            torch.as_tensor(x, dtype=torch.float32, device=device) for x in (scores.rewards, scores.transformed)
        )
        if transformed.shape != (len(rollouts.prompts), rollouts.samples):
            told = f"[prompts, samples] = {(len(rollouts.prompts), rollouts.samples)}"
            raise ValueError(f"scores must be tables {told}, got {tuple(transformed.shape)}")
        if not torch.isfinite(transformed).all():
            raise ValueError("transformed rewards must be finite: clip the calibrated reward or change the transform")
        tables = [log_distributions(self.reference, rollouts, *chunk) for chunk in chunks]
        token_reference = torch.zeros_like(rollouts.logprobs)
        reference_logprobs = torch.zeros_like(transformed.flatten())
        for (rows, longest), table in zip(chunks, tables, strict=True):
            token_reference[rows, :longest] = picked = taken(table, rollouts, rows, longest)
            reference_logprobs[rows] = picked.sum(-1)
        features, values = torch.zeros(len(rollouts.tokens), 0, device=device), torch.zeros_like(rollouts.logprobs)
        if self.critic is not None:
            features, values = self.critic.look(self.policy, rollouts, [rows for rows, _ in chunks])
        logprobs = objectives.sequence_logprobs(rollouts.logprobs, rollouts.mask)
        tokens = rollouts.logprobs, token_reference, rollouts.mask, values, features
        return Batch(rewards, transformed, logprobs, reference_logprobs, *tokens, self.beta), tables

    def _backward(
        self, rollouts: Any, batch: Batch, targets: dict[str, torch.Tensor], chunks: Any, tables: Any = None
    ) -> tuple[torch.Tensor, torch.Tensor, Array | None]:
        """Accumulates gradients over micro-batches; returns exact KL, loss and, for reference samples, weights [P, M].

        The KL is measured where the reference's `tables` are given. The weights have the mean 1.
        """
        total, off_policy = len(rollouts.tokens), self.algorithm.source == "reference"
        kl = mean_loss = torch.zeros((), device=rollouts.tokens.device)
        sequence = torch.zeros_like(batch.logprobs)
        for number, (rows, longest) in enumerate(chunks):
            log_policy = log_distributions(self.policy, rollouts, rows, longest)
            logprobs, mask = taken(log_policy, rollouts, rows, longest), rollouts.mask[rows, :longest]
            share = {name: values[rows] for name, values in targets.items()}
            found = Rows(logprobs, mask, share, self.samples_per_prompt, self.beta, self.critic)
            loss = self.algorithm.loss(found) * (len(rows) / total)
            loss.backward()
            mean_loss = mean_loss + loss.detach()
            if tables is not None:
                sequence[rows] = found.sequence.detach()
                given = (logprobs.detach(), batch.token_reference_logprobs[rows, :longest])
                visits = objectives.prefix_weights(*given) if off_policy else None
                kl = kl + objectives.exact_kl(log_policy.detach(), tables[number], mask, visits).sum() / total
        weights = (sequence - batch.reference_logprobs).softmax(0).view_as(batch.transformed) * total
        return kl, mean_loss, weights.double().cpu().numpy() if off_policy else None

    def _saved(self) -> list[tuple[str, str, torch.nn.Parameter]]:
        """Every trained parameter with its name in a checkpoint and in the names of Adam's moments."""
        critic = [(f"critic.{name}", f"critic.{name}", p) for name, p in self.critic_parameters.items()]
        return [(f"policy.{name}", name, p) for name, p in self.parameters.items()] + critic

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything a checkpoint needs besides the step: trained parameters and Adam's moments, by name."""
        state = {name: p.detach() for name, _, p in self._saved()}
        for _, short, p in self._saved():
            for key, value in self.optimizer.state.get(p, {}).items():
                state[f"adam.{key}.{short}"] = value
        return state

    def restore(self, tensors: dict[str, torch.Tensor], step: int) -> None:
        """Takes up the state that `tensors` gave. Raises: ValueError when a tensor is missing or has another shape."""
        for name, short, p in self._saved():
            saved = tensors.get(name)
            if saved is None or saved.shape != p.shape:
                found = "nothing" if saved is None else f"shape {tuple(saved.shape)}"
                raise ValueError(f"checkpoint must hold {short} of shape {tuple(p.shape)}, got {found}")
            with torch.no_grad():
                p.copy_(saved)
            moments = {key: tensors.get(f"adam.{key}.{short}") for key in ("step", "exp_avg", "exp_avg_sq")}
            self.optimizer.state[p] = {key: value.clone() for key, value in moments.items() if value is not None}
        self._publish()
        self.step = step
