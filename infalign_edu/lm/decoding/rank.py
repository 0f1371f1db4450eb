"""Rank procedures on a real model: draw responses, score them, and show the one that the procedure shows.

Left out: procedures that look inside a response, such as blockwise controlled decoding or tree search; see `search`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from infalign_edu.inputs import seed as checked_seed
from infalign_edu.inputs import shown as short
from infalign_edu.inputs import texts
from infalign_edu.lm.decoding.draws import Draws
from infalign_edu.lm.policy import Policy, Rollouts
from infalign_edu.lm.rewards import Reward, score
from infalign_edu.order_statistics import count
from infalign_edu.own_procedures import choice, draws
from infalign_edu.procedures import Procedure
from infalign_edu.procedures import procedure as named_procedure


@dataclass(frozen=True)
class Decoded:
    """What a procedure shows for each prompt, and all it drew: draw j of prompt i is row i x samples + j.

    Shape: P prompts; n_i draws used for prompt i, at most samples. Rewards of draws that prompt i did not use are nan.
    """

    prompts: list[str]  # [P]
    responses: list[str]  # [P], those shown
    rewards: NDArray[np.float64]  # [P], of those shown
    shown: NDArray[np.intp]  # [P], which draw it is
    draw_rewards: NDArray[np.float64]  # [P, samples]
    rollouts: Rollouts  # P x samples rows


def decode(
    policy: Policy,
    reward: Reward,
    procedure: Procedure | str,
    prompts: list[str],
    seed: int,
    *,
    max_new_tokens: int | None = None,
) -> Decoded:
    """Apply an inference-time procedure to a policy: T(pi) of the paper, one response per prompt.

    Paper: best-of-N and worst-of-N, arXiv 2412.19792; any object with `draws` and `select` serves. The policy's
    samples and the procedure's own chance both come from the seed.

    Example:
        >>> decode(policy, reward, BestOfN(4), prompts, seed=0).responses   # doctest: +SKIP
    """
    procedure, prompts = named_procedure(procedure), texts("prompts", prompts)
    rollouts, table, shown = _show(policy, reward, procedure, prompts, 1, seed, {"max_new_tokens": max_new_tokens})
    rows = np.arange(len(prompts)) * table.shape[1] + shown
    responses = [rollouts.responses[r] for r in rows]
    return Decoded(list(prompts), responses, table.ravel()[rows], shown, table, rollouts)


@dataclass(frozen=True)
class Ranked:
    """A rank procedure as a decoder: every output has draws of its own, ranked by the reward.

    Raises: ValueError for the name of a procedure that does not exist.

    >>> str(Ranked("best-of-4", lambda prompts, responses: [len(text) for text in responses]))
    'best-of-4'
    """

    procedure: Procedure | str
    reward: Reward

    def __post_init__(self) -> None:
        object.__setattr__(self, "procedure", named_procedure(self.procedure))
        if not callable(self.reward):
            raise ValueError(f"reward must be a callable (prompts, responses) -> rewards, got {short(self.reward)}")

    def draw(
        self, policy: Any, prompts: list[str], samples: int, *, seed: int, micro_batch: int | None = None
    ) -> Draws:
        """`samples` independent responses for each prompt, as this procedure shows them. Shape: P x samples."""
        procedure, samples = named_procedure(self.procedure), count("samples", samples)
        prompts = texts("prompts", prompts)
        limits = {"micro_batch": micro_batch} if micro_batch else {}
        rollouts, table, shown = _show(policy, self.reward, procedure, prompts, samples, seed, limits)
        used = np.isfinite(table)  # [P x samples, most draws]
        lengths = rollouts.mask.sum(1).cpu().numpy().reshape(table.shape)
        responses = [rollouts.responses[r] for r in np.arange(len(table)) * table.shape[1] + shown]
        drawn = np.where(used, lengths, 0).sum(1)
        scored = used.sum(1) * (procedure.max_n != 1)  # one draw is shown unseen
        return Draws(list(prompts), samples, responses, drawn, np.zeros_like(drawn), scored)

    def __str__(self) -> str:
        return str(self.procedure)


def _show(
    policy: Any, reward: Reward, procedure: Procedure, prompts: list[str], outputs: int, seed: int, limits: dict
) -> tuple[Rollouts, NDArray[np.float64], NDArray[np.intp]]:
    """All draws, the rewards of those that an output used (nan otherwise), and the draw it shows.

    Shape: rewards [P x outputs, most draws], shown [P x outputs]; rollouts has a row for each of the rewards.
    """
    seed = checked_seed(seed)
    chance = np.random.default_rng([seed, 1])
    drawn = [draws(procedure, chance) for _ in range(len(prompts) * outputs)]  # a random number for best-of-Poisson
    most = max(drawn, default=1)
    generator = torch.Generator().manual_seed(seed)
    rollouts = policy.sample(prompts, outputs * most, generator=generator, **limits)
    number = np.arange(len(rollouts.responses))
    used = number[number % most < np.repeat(drawn, most)]
    every = rollouts.row_prompts
    rewards = np.full(len(number), np.nan)
    rewards[used] = score(reward, [every[r] for r in used], [rollouts.responses[r] for r in used])
    table = rewards.reshape(len(drawn), most)
    shown = [choice(procedure, row[:n], chance) for row, n in zip(table, drawn, strict=True)]
    return rollouts, table, np.array(shown, dtype=np.intp)
