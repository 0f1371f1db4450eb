"""What a decoder shows, what it cost, and how often a policy's shown responses beat the reference's.

A decoder draws independent outputs of T(pi); any object with `draw` serves. The win rate between outputs is then the
standard one, whatever the decoder does inside. Left out: the estimate that uses every subset of a rank procedure's
draws, which needs fewer samples; `winrate.win_rate` has it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from infalign_edu.lm.rewards import Reward, score
from infalign_edu.order_statistics import count
from infalign_edu.winrate import PromptMean, win_rate

REFERENCE, POLICY = 2, 3  # streams of randomness: the two sides of a win rate are independent, all policies are paired


@dataclass(frozen=True)
class Draws:
    """Independent outputs of a decoder, prompt-major, and what each cost; prompts, which all run once, are not counted.

    Shape: P prompts, R = P x samples. drawn: tokens that the policy drew for an output, those thrown away included.
    read: tokens that a value's model ran for it. scored: whole responses that a reward judged to choose it.
    """

    prompts: list[str]  # [P]
    samples: int
    responses: list[str]  # [R]
    drawn: NDArray[np.int64]  # [R]
    read: NDArray[np.int64]  # [R]
    scored: NDArray[np.int64]  # [R]

    @property
    def row_prompts(self) -> list[str]:
        """The prompt of every output, [R]: what a reward function is called with."""
        return [prompt for prompt in self.prompts for _ in range(self.samples)]

    @property
    def tokens(self) -> float:
        """Tokens run through a model, drawn or read, in the mean over outputs."""
        return float((self.drawn + self.read).mean())

    def rewards(self, reward: Reward) -> NDArray[np.float64]:
        """The rewards of the outputs. Shape: [P, samples]."""
        return score(reward, self.row_prompts, self.responses).reshape(len(self.prompts), self.samples)


class Decoder(Protocol):
    """Shows outputs of T(pi): independent of each other given the prompt, and the same for the same seed."""

    def draw(
        self, policy: Any, prompts: list[str], samples: int, *, seed: int, micro_batch: int | None = None
    ) -> Draws:
        """`samples` outputs for each prompt."""


def inference_win_rate(
    policy: Any, reference: Any, decoder: Decoder, reward: Reward, prompts: list[str], samples: int = 16, seed: int = 0
) -> PromptMean:
    """Inference-time win rate of a policy under any decoder, from outputs of the policy and of the reference.

    W = P(r(Y) > r(Z)) + 1/2 P(r(Y) = r(Z)), Y ~ T(pi), Z ~ T(pi_ref). Paper: the inference-time win rate (arXiv
    2412.19792). Derived: the mean over all pairs of outputs is unbiased, since outputs are independent.

    Shape: `samples` outputs a side for each of P prompts -> per_prompt [P]. Raises: ValueError unless samples is a
    positive integer.

    Example:
        >>> inference_win_rate(policy, reference, Blockwise(value), reward, prompts)    # doctest: +SKIP
    """
    mine, base = (_draw(decoder, who, prompts, samples, seed, key) for who, key in _sides(policy, reference))
    return win_rate(mine.rewards(reward), base.rewards(reward))


@dataclass(frozen=True)
class Judged:
    """One policy under one decoder, by one judge: win rate over the reference under the same decoder, and cost.

    Shape: rewards [P, samples], of the policy's outputs.
    """

    policy: str
    decoder: str
    judge: str
    win_rate: PromptMean
    rewards: NDArray[np.float64]
    draws: Draws
    cpu_seconds: float  # of the policy's draws

    def row(self) -> dict[str, Any]:
        """Names and numbers for a table: win rate with its standard error and 95 % interval, tokens an output."""
        low, high = self.win_rate.interval()
        return {
            "policy": self.policy, "decoder": self.decoder, "judge": self.judge,
            "prompts": len(self.draws.prompts), "samples": self.draws.samples,
            "win_rate": self.win_rate.mean, "stderr": self.win_rate.stderr, "low": low, "high": high,
            "reward": float(self.rewards.mean()), "tokens_per_response": self.draws.tokens,
            "drawn_per_response": float(self.draws.drawn.mean()), "read_per_response": float(self.draws.read.mean()),
            "scored_per_response": float(self.draws.scored.mean()), "cpu_seconds": self.cpu_seconds,
        }  # fmt: skip


def judge_decoders(
    policies: Mapping[str, Any],
    decoders: Sequence[Decoder],
    reference: Any,
    judges: Reward | Mapping[str, Reward],
    prompts: list[str],
    samples: int = 16,
    seed: int = 0,
) -> list[Judged]:
    """Inference-time win rates of every policy under every decoder, by every judge.

    The reference's outputs under a decoder are drawn once and shared, and all policies see the same uniform numbers:
    differences between policies are paired by prompt. A decoder is named by its `str`. Shape: policies x decoders x
    judges results. Raises: ValueError for two decoders of one name.

    Example:
        >>> [one.row() for one in judge_decoders({"exp:10": policy}, [Blockwise(value)], reference, reward, prompts)]
        ... # doctest: +SKIP
    """
    named = judges if isinstance(judges, Mapping) else {"reward": judges}
    names = [str(decoder) for decoder in decoders]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"decoders must have names of their own, got {', '.join(twice)} twice")
    results = []
    for name, decoder in zip(names, decoders, strict=True):
        draws = _draw(decoder, reference, prompts, samples, seed, REFERENCE)
        base = {judge: draws.rewards(reward) for judge, reward in named.items()}
        for who, policy in policies.items():
            start = time.process_time()
            draws = _draw(decoder, policy, prompts, samples, seed, POLICY)
            seconds = time.process_time() - start
            for judge, reward in named.items():
                found = draws.rewards(reward)
                results.append(Judged(who, name, judge, win_rate(found, base[judge]), found, draws, seconds))
    return results


def _sides(policy: Any, reference: Any) -> list[tuple[Any, int]]:
    return [(policy, POLICY), (reference, REFERENCE)]


def _draw(decoder: Decoder, policy: Any, prompts: list[str], samples: int, seed: int, key: int) -> Draws:
    stream = np.random.SeedSequence(seed, spawn_key=(key,)).generate_state(1, np.uint64)[0]
    return decoder.draw(policy, list(prompts), count("samples", samples), seed=int(stream >> np.uint64(1)))
