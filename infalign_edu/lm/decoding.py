"""T on a real model: draw responses, score them, and show the one that the inference-time procedure shows.

Left out: procedures that look inside a response, such as blockwise controlled decoding or beam search; see
`theory.sequences` for what InfAlign says of those.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infalign_edu.lm.policy import Policy, Rollouts
from infalign_edu.lm.rewards import Reward, score
from infalign_edu.procedures import Procedure


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
    procedure: Procedure,
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
    chance = np.random.default_rng([seed, 1])
    draws = [procedure.draws(chance) for _ in prompts]  # [P]; a random number for best-of-Poisson
    rollouts = policy.sample(prompts, max(draws), seed=seed, max_new_tokens=max_new_tokens)
    number = np.arange(len(rollouts.responses))
    used = number[number % rollouts.samples < np.repeat(draws, rollouts.samples)]
    every = rollouts.row_prompts
    rewards = np.full(len(number), np.nan)
    rewards[used] = score(reward, [every[r] for r in used], [rollouts.responses[r] for r in used])
    table = rewards.reshape(len(prompts), rollouts.samples)
    shown = np.array([int(procedure.select(row[:n], chance)) for row, n in zip(table, draws, strict=True)])
    rows = np.arange(len(prompts)) * rollouts.samples + shown
    responses = [rollouts.responses[r] for r in rows]
    return Decoded(list(prompts), responses, rewards[rows], shown, table, rollouts)
