"""Training against TRL's RLOO trainer: a whole step, the update alone, and the memory that either needs.

Both do the same work: one model, the same prompts in the same order, the same lengths, group size, KL coefficient and
reward, fused GELU, one thread. Before anything is timed, log-probabilities and gradients on the same responses must
agree. TRL runs its own loop; our step is taken between two of its steps, so the pairs are interleaved.

All prompts have the same number of tokens: TRL's log-probabilities count the padding on the left as positions, which a
GPT-2, whose positions are absolute, feels. With prompts of several lengths the two sides would not agree.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from benchmarks.rows import memory, trl_peer
from benchmarks.table import Check, Row, timed
from infalign_edu.lm.datasets import load_prompts
from infalign_edu.lm.models import load
from infalign_edu.lm.pretrain import PretrainConfig, train
from infalign_edu.lm.rewards import reward as named_reward
from infalign_edu.lm.rewards import score
from infalign_edu.rl import objectives
from infalign_edu.rl.algorithms.rloo import RLOO, Rows, log_distributions, micro_batches, taken
from infalign_edu.rl.trainer import Scores, Trainer

BETA, RATE, LIMIT = 0.5, 1e-5, 1e-5  # a learning rate so small that responses keep their length
WORDS = 10  # of every prompt, one token each
WARM = 2  # steps of either before the first pair


@dataclass(frozen=True)
class Size:
    """A model of the comparison, the ratio aimed at, and the work of one step."""

    name: str
    layers: int
    width: int
    target: float | None = None
    prompts: int = 12
    samples: int = 16
    pretrained: int = 60  # steps on the embedded world, so that responses end where sentences end


SIZES = (Size("2x64", 2, 64, 3.0), Size("embedded", 2, 112, 2.2), Size("4x128", 4, 128, 2.0))
TINY = Size("tiny", 2, 16, prompts=2, samples=4, pretrained=2)


@lru_cache(maxsize=4)
def model(size: Size) -> Any:
    """The policy of that size, frozen: the shipped one, or one trained for a moment on the same world."""
    if size.name == "embedded":
        policy = load("embedded")
    else:
        settings = PretrainConfig(steps=size.pretrained, layers=size.layers, width=size.width, batch=64)
        policy = train(settings, progress=False)[0]
    policy.model.requires_grad_(False)
    return policy


def phi(prompts: Sequence[str], responses: Sequence[str]) -> Any:
    """The reward of both sides: gold helpfulness. Shape: [rows] and [rows] -> [rows]."""
    return score(named_reward("gold:helpfulness"), list(prompts), list(responses))


def our_trainer(size: Size, steps: int = 1000, learning_rate: float = RATE) -> Trainer:
    """Our trainer on a trainable copy of the model."""
    reference = model(size)
    policy = reference.copy()
    policy.model.requires_grad_(True)
    asked = load_prompts("embedded").where(split="train", kind="harmless").prompts
    prompts = [prompt for prompt in asked if len(prompt.split()) == WORDS][:256]

    def scored(indices: Any, responses: list[str]) -> Scores:
        rows = [prompts[i] for i in indices for _ in range(size.samples)]
        return Scores(*3 * (phi(rows, responses).reshape(len(indices), -1),))

    return Trainer(policy, reference, prompts, scored, beta=BETA, steps=steps, prompts_per_step=size.prompts,
                   samples_per_prompt=size.samples, learning_rate=learning_rate, warmup=1)  # fmt: skip


def peer_trainer(size: Size, ours: Trainer, steps: int, **changes: Any) -> Any:
    """TRL's trainer on the same model, with the prompts of our steps in their order."""
    order = np.concatenate([ours.batch(step) for step in range(ours.step, ours.step + steps)])
    options: dict[str, Any] = {"beta": BETA, "samples": size.samples, "steps": steps, "learning_rate": RATE}
    options |= {"prompts_per_step": size.prompts} | changes
    return trl_peer.trainer(model(size), [ours.prompts[i] for i in order], phi, **options)


def agreement(size: Size) -> Check:
    """The largest difference of log-probabilities, in nats a token, and of gradients, as a share of the largest one.

    The rewards are random numbers: those of a poor model may all be equal, and every gradient 0.
    """
    ours = our_trainer(size)
    asked = [ours.prompts[i] for i in ours.batch(0)]
    rollouts = ours.policy.sample(asked, size.samples, seed=0)
    rewards = torch.randn(len(asked), size.samples, generator=torch.Generator().manual_seed(0))
    advantages = objectives.rloo_advantages(rewards).flatten()
    logprobs = torch.zeros(len(advantages))
    for rows, longest in micro_batches(rollouts, ours.micro_batch, False):
        found = taken(log_distributions(ours.policy, rollouts, rows, longest), rollouts, rows, longest)
        chunk = Rows(found, rollouts.mask[rows, :longest], {"advantages": advantages[rows]}, size.samples, BETA)
        (RLOO().loss(chunk) * (len(rows) / len(advantages))).backward()
        logprobs[rows] = found.detach().sum(-1)
    theirs, gradients = trl_peer.look(peer_trainer(size, ours, 1), rollouts, advantages)
    worst = float(np.abs(logprobs.numpy() - theirs).max() / rollouts.mask.sum(1).max())
    largest = max(np.abs(gradient).max() for gradient in gradients.values())
    for name, weight in ours.weights.items():
        worst = max(worst, float(np.abs(weight.grad.numpy() - gradients[name]).max() / largest))
    return Check("log-probabilities and gradients differ by", worst, LIMIT).passed()


def step(size: Size, pairs: int, **changes: Any) -> Row:
    """A whole step: sampling, log-probabilities of policy and reference, update."""
    check, ours, seconds = agreement(size), our_trainer(size), []
    watch, theirs = trl_peer.stopwatch(lambda: seconds.append(timed(ours.advance)))
    peer_trainer(size, ours, pairs + WARM, callbacks=[watch], **changes).train()
    what = f"RL step, {size.layers} layers of {size.width}, {size.prompts} x {size.samples} responses"
    return Row(f"rl-step-{size.name}", what, "TRL RLOO", "CPU s a step", tuple(seconds[WARM:]), tuple(theirs[WARM:]),
               check, size.target)  # fmt: skip


def update(size: Size, pairs: int) -> Row:
    """The update on fixed responses: log-probabilities of policy and reference, advantages, gradients, Adam."""
    check, ours, seconds = agreement(size), our_trainer(size), []
    first = ours.batch(0)
    rollouts = ours.policy.sample([ours.prompts[i] for i in first], size.samples, seed=0)
    ours.policy.sample, ours.batch = lambda *_, **__: rollouts, lambda step: first  # type: ignore[method-assign]
    watch, theirs = trl_peer.stopwatch(lambda: seconds.append(timed(ours.advance)))
    peer = peer_trainer(size, ours, pairs + WARM, callbacks=[watch])
    trl_peer.hold(peer, rollouts)
    peer.train()
    return Row(f"rl-update-{size.name}", f"the update alone, {size.layers} layers of {size.width}, fixed responses",
               "TRL RLOO", "CPU s a step", tuple(seconds[WARM:]), tuple(theirs[WARM:]), check)


def memory_row(size: Size, pairs: int) -> Row:
    """Peak memory of a process that takes a few steps, ours and TRL's, each in a process of its own."""
    ours, peer = [], []
    for _ in range(pairs):
        ours.append(memory.peak("benchmarks.rows.training", "ours", size.name))
        peer.append(memory.peak("benchmarks.rows.training", "trl", size.name))
    return Row(f"rl-memory-{size.name}", f"peak memory of a process that trains, {size.layers} layers of {size.width}",
               "TRL RLOO", "MB", tuple(ours), tuple(peer), target=1.0)  # fmt: skip


def main(side: str, name: str, steps: int = 4) -> None:
    """A few steps of one side, for `memory.peak`."""
    size = next(size for size in (*SIZES, TINY) if size.name == name)
    torch.set_num_threads(1)
    ours = our_trainer(size)
    if side == "ours":
        for _ in range(steps):
            ours.advance()
    else:
        peer_trainer(size, ours, steps).train()
    memory.tell()


if __name__ == "__main__":
    main(*sys.argv[1:3])
