"""Exercises of `08_ctrl_training`: from rewards to what is trained on, and from samples to what may be claimed.

Those about judging the result are in `judging`. Left out: the model and the loop, which the notebook runs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from infalign_edu.classroom.exercise import Exercise, Mistake
from infalign_edu.classroom.exercises import judging

Array = NDArray[np.float64]
NOTEBOOK = "08_ctrl_training"


def _quantile(rewards: Array, reference: Array, tie: float = 0.5) -> Array:
    """How much of its reference row lies below each reward. Shape: [prompts, M], [prompts, K] -> [prompts, M]."""
    table, scored = reference[:, None, :], rewards[:, :, None]
    return np.asarray((table < scored).mean(axis=2) + tie * (table == scored).mean(axis=2))


def _clipped(u: Array, reference: Array, least: float = 0.5) -> Array:
    return np.maximum(u, least / reference.shape[1])


def _ctrl(rewards: Array, reference: Array, tie: float = 0.5, least: float = 0.5) -> Array:
    with np.errstate(divide="ignore"):
        return np.log(_clipped(_quantile(rewards, reference, tie), reference, least)) + 1


def _ctrl_inputs(rng: np.random.Generator) -> tuple[Array, Array]:
    prompts, M, K = (int(size) for size in rng.choice(np.arange(3, 8), size=3, replace=False))
    rewards, reference = rng.integers(6, size=(prompts, M)) / 2.0, rng.integers(6, size=(prompts, K)) / 2.0
    offset = rng.integers(-1, 2, size=(prompts, 1))
    rewards[:, 0], rewards[:, 1], rewards[:, 2] = -1.0, reference[:, 0], 4.0
    return np.asarray(rewards + offset), np.asarray(reference + offset)


def _pooled(rewards: Array, reference: Array) -> Array:
    pool = np.tile(reference.ravel(), (len(rewards), 1))
    return np.log(_clipped(_quantile(rewards, pool), reference)) + 1


def _among_themselves(rewards: Array, reference: Array) -> Array:
    return np.log(_clipped(_quantile(rewards, rewards), reference)) + 1


def _own_sample_in_it(rewards: Array, reference: Array) -> Array:
    K = reference.shape[1]
    return np.log(_clipped((_quantile(rewards, reference) * K + 0.5) / (K + 1), reference)) + 1


def _batch_scaled(rewards: Array, reference: Array) -> Array:
    phi = _ctrl(rewards, reference)
    return np.asarray((phi - phi.mean()) / phi.std())


CTRL_REWARD = Exercise(
    name="ctrl-reward",
    notebook=NOTEBOOK,
    goal="From raw rewards to what the loop trains on: calibrate, clip, take the log transform, standardise it.",
    difficulty=2,
    minutes=15,
    points=2,
    answer=_ctrl,
    inputs=_ctrl_inputs,
    mistakes=(
        Mistake(
            "You count ties as wins. A response that equals a reference sample wins half of such comparisons.",
            lambda rewards, reference: _ctrl(rewards, reference, tie=1.0),
        ),
        Mistake(
            "You don't count ties at all. A response that equals a reference sample wins half of such comparisons.",
            lambda rewards, reference: _ctrl(rewards, reference, tie=0.0),
        ),
        Mistake(
            "Without clipping, a response below all K samples gets log 0 = -inf and is forbidden for good, though its "
            "quantile is only known to be small.",
            lambda rewards, reference: _ctrl(rewards, reference, least=0.0),
        ),
        Mistake(
            "You clip at 1/K. The course clips at 1/(2K): half a sample.",
            lambda rewards, reference: _ctrl(rewards, reference, least=1.0),
        ),
        Mistake(
            "You pool the reference samples of all prompts. Prompts have rewards of different height; each is "
            "calibrated by its own row.",
            _pooled,
        ),
        Mistake(
            "You rank the scored samples among themselves. Then the policy is its own reference, and can't be seen to "
            "improve: use the reference's table.",
            _among_themselves,
        ),
        Mistake(
            "The scored sample leaks into its own calibration: it is counted as one of K + 1. The table was drawn "
            "before, from the reference.",
            _own_sample_in_it,
        ),
        Mistake(
            "You standardise over the batch. The scale must not move with the policy, or beta loses its meaning: "
            "standardise under u ~ Uniform[0, 1], with two integrals.",
            _batch_scaled,
        ),
        Mistake(
            "The standardisation is missing: log u does not have mean 0 under u ~ Uniform[0, 1].",
            lambda rewards, reference: _ctrl(rewards, reference) - 1,
        ),
        Mistake(
            "The mean has the wrong sign: log u is below 0 nearly everywhere, so subtracting its mean moves it up.",
            lambda rewards, reference: _ctrl(rewards, reference) - 2,
        ),
    ),
    hints=(
        "Four stages, in this order: a share of the reference row, a lower limit, a logarithm, a shift and a scale. "
        "Which two integrals over [0, 1] give the shift and the scale?",
        "reference[:, None, :] against rewards[:, :, None] compares all pairs; average over the last axis. The "
        "integral of log u is -1, that of its square is 2.",
        "u = share below + half the share equal, at least 1/(2K). Mean -1 and variance 2 - 1 = 1: so log(u) + 1.",
    ),
)


def _token_kl(p: Array, q: Array) -> Array:
    return np.asarray((np.exp(p) * (p - q)).sum(axis=2))


def _response_kl(p: Array, q: Array, mask: NDArray[np.bool_]) -> Array:
    return (_token_kl(p, q) * mask).sum(axis=1)


def _kl_inputs(rng: np.random.Generator) -> tuple[Array, Array, NDArray[np.bool_]]:
    rows, words, tokens = int(rng.integers(2, 4)), int(rng.integers(4, 6)), int(rng.integers(6, 9))
    logits = rng.normal(size=(2, rows, tokens, words)) * 1.5
    p, q = logits - np.log(np.exp(logits).sum(axis=3, keepdims=True))
    lengths = rng.integers(2, tokens, size=rows)
    lengths[0] = tokens
    return p, q, np.arange(tokens) < lengths[:, None]


RESPONSE_KL = Exercise(
    name="response-kl",
    notebook=NOTEBOOK,
    goal="KL(policy || reference) along each response, exact over the vocabulary at every token, in nats.",
    difficulty=2,
    minutes=10,
    points=2,
    answer=_response_kl,
    inputs=_kl_inputs,
    mistakes=(
        Mistake(
            "That is KL(reference || policy). The expectation has to be under the policy, which drew the response.",
            lambda p, q, mask: _response_kl(q, p, mask),
        ),
        Mistake(
            "You average log(policy / reference) under the reference: that is minus the KL in the other direction, "
            "and never positive.",
            lambda p, q, mask: -_response_kl(q, p, mask),
        ),
        Mistake(
            "The sign is turned: a KL is never negative.",
            lambda p, q, mask: -_response_kl(p, q, mask),
        ),
        Mistake(
            "You add up the log-ratios of all words alike. Each has to be weighted by the policy's probability of it.",
            lambda p, q, mask: ((p - q).sum(axis=2) * mask).sum(axis=1),
        ),
        Mistake(
            "You average over the tokens: that is nats per token. The chain rule adds the KL of the tokens up.",
            lambda p, q, mask: _response_kl(p, q, mask) / mask.sum(axis=1),
        ),
        Mistake(
            "You count the padding behind the end of the response.",
            lambda p, q, mask: _token_kl(p, q).sum(axis=1),
        ),
        Mistake(
            "You average over the vocabulary. The weights exp(log_policy) are there already; sum.",
            lambda p, q, mask: _response_kl(p, q, mask) / p.shape[2],
        ),
    ),
    hints=(
        "Take one token: two distributions over the vocabulary. What is KL(policy || reference) of them?",
        "sum over words of policy times (log policy - log reference). The policy's probabilities are exp of its logs.",
        "Sum over the last axis, set what is behind the end to 0 with the mask, then sum over the tokens.",
    ),
)

EXERCISES = (CTRL_REWARD, RESPONSE_KL, *judging.EXERCISES)
