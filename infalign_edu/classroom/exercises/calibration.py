"""Exercises of `03_reward_calibration`: the sample that must not calibrate itself, noise, and no bias."""

from __future__ import annotations

from collections.abc import Callable
from math import comb

import numpy as np

from infalign_edu.classroom.exercise import Arguments, Exercise, Mistake

NOTEBOOK = "03_reward_calibration"


def _tables(rng: np.random.Generator) -> Arguments:
    return (rng.integers(0, 5, size=(int(rng.integers(2, 4)), int(rng.integers(4, 8)))).astype(float),)


def _count(rewards: np.ndarray, tie: float = 0.5, itself: float = 0.5) -> np.ndarray:
    """Samples of the same prompt that each sample beats, ties counted `tie`, less what it counted for itself."""
    mine, others = rewards[:, :, None], rewards[:, None, :]
    return ((others < mine) + tie * (others == mine)).sum(axis=2) - itself


def _pooled(rewards: np.ndarray) -> np.ndarray:
    return (_count(rewards.reshape(1, -1)) / (rewards.size - 1)).reshape(rewards.shape)


def _transforms(rng: np.random.Generator) -> Arguments:
    return rng.normal(size=int(rng.integers(3, 8))) * 3, np.concatenate([[0.0, 1.0], rng.random(4)])


def _binomial(u: np.ndarray, draws: int, coefficient: Callable[[int, int], int] = comb) -> np.ndarray:
    """Probabilities of k = 0..draws, [u, k]."""
    k = np.arange(draws + 1)
    return np.array([coefficient(draws, int(j)) for j in k]) * u[:, None] ** k * (1 - u[:, None]) ** (draws - k)


def _spread(values: np.ndarray, chance: np.ndarray) -> np.ndarray:
    mean = chance @ values
    return np.sqrt(np.sum(chance * (values - mean[:, None]) ** 2, axis=1))


def _noise(values: np.ndarray, u: np.ndarray) -> np.ndarray:
    return _spread(values, _binomial(u, len(values) - 1))


def _unit(draws: int, k: int) -> int:
    return 1


def _counts(rng: np.random.Generator, b: int | None = None) -> Arguments:
    a, b = int(rng.integers(1, 4)), int(rng.integers(1, 4)) if b is None else b
    size = a + b + int(rng.integers(1, 5))
    return np.arange(size + 1), size, a, b


def _ways(k: np.ndarray, m: int) -> np.ndarray:
    return np.array([float(comb(int(j), m)) for j in k])


def _disjoint(k: np.ndarray, size: int, a: int, b: int) -> np.ndarray:
    return _ways(k, a) * _ways(size - k, b) / (comb(size, a) * comb(size - a, b))


EXERCISES = (
    Exercise(
        name="leave-one-out",
        notebook=NOTEBOOK,
        goal="The calibrated rewards of K samples on each other: each on the K - 1 others of its prompt, half ties.",
        difficulty=2,
        minutes=10,
        points=2,
        answer=lambda r: _count(r) / (r.shape[1] - 1),
        inputs=_tables,
        mistakes=(
            Mistake(
                "The scored sample is in its own table: a leak. It ties with itself, which pulls every value towards "
                "the middle.",
                lambda r: _count(r, itself=0.0) / r.shape[1],
            ),
            Mistake(
                "The sample itself is no longer counted, but you still divide by K. How many others are there?",
                lambda r: _count(r) / r.shape[1],
            ),
            Mistake(
                "You divide by K - 1, but the sample still counts its tie with itself: one half too much in the count.",
                lambda r: _count(r, itself=0.0) / (r.shape[1] - 1),
            ),
            Mistake(
                "Ties with the others are lost: they count one half each.",
                lambda r: _count(r, tie=0.0, itself=0.0) / (r.shape[1] - 1),
            ),
            Mistake(
                "Ties with the others count fully: one half each is what keeps the mean at 1/2.",
                lambda r: _count(r, tie=1.0, itself=1.0) / (r.shape[1] - 1),
            ),
            Mistake(
                "You count the better ones: a good sample should have a high quantile.",
                lambda r: 1 - _count(r) / (r.shape[1] - 1),
            ),
            Mistake("The table holds samples of other prompts: only the same row has the same scale.", _pooled),
        ),
        hints=(
            "For one sample, which rewards form its table? How many are they?",
            "Count over the whole row first. What has the sample added to that count by being in its own row?",
            "(below + ties / 2 - 1/2) / (K - 1), where ties counts the sample itself.",
        ),
    ),
    Exercise(
        name="transform-noise",
        notebook=NOTEBOOK,
        goal="The standard deviation of Phi(C-hat) over fresh tables of K samples, at true quantiles u, without ties.",
        difficulty=2,
        minutes=15,
        points=2,
        answer=_noise,
        inputs=_transforms,
        mistakes=(
            Mistake(
                "That is the mean, the Bernstein polynomial. Asked for is how much Phi(C-hat) scatters around it.",
                lambda v, u: _binomial(u, len(v) - 1) @ v,
            ),
            Mistake(
                "That is the variance: its unit is the square of a reward. Take the root.",
                lambda v, u: _noise(v, u) ** 2,
            ),
            Mistake(
                "That is the root mean square: the mean is not subtracted. Where u is 0 or 1 there should be no noise.",
                lambda v, u: np.sqrt(_binomial(u, len(v) - 1) @ v**2),
            ),
            Mistake(
                "u and 1 - u are exchanged: k samples lie below, each with probability u.",
                lambda v, u: _noise(v, 1 - u),
            ),
            Mistake(
                "The binomial coefficient is missing: any k of the K samples can be the ones below, so your "
                "probabilities do not sum to 1.",
                lambda v, u: _spread(v, _binomial(u, len(v) - 1, _unit)),
            ),
            Mistake(
                "K is the number of samples, and k runs from 0 to K: that makes K + 1 values. You took K + 1 for K.",
                lambda v, u: _spread(v, _binomial(u, len(v))[:, :-1]),
            ),
        ),
        hints=(
            "C-hat can take K + 1 values. With which probability is it k / K?",
            "k is Binomial(K, u), K = len(values) - 1. They give the mean of Phi; what gives its spread?",
            "The root of the sum over k of P(k) (values[k] - mean)^2, for each u; P(k) = comb(K, k) u^k (1-u)^(K-k).",
        ),
    ),
    Exercise(
        name="unbiased-product",
        notebook=NOTEBOOK,
        goal="The unbiased estimate of u^a (1 - u)^b, when k of K reference samples lie below the response.",
        difficulty=3,
        minutes=15,
        points=2,
        answer=_disjoint,
        inputs=_counts,
        corners=(lambda rng: _counts(rng, 0), lambda rng: _counts(rng, 2)),
        mistakes=(
            Mistake(
                "That is the plug-in: k / K has the right mean, its powers have not.",
                lambda k, size, a, b: (k / size) ** a * (1 - k / size) ** b,
            ),
            Mistake(
                "Each factor is unbiased alone, but both use the same samples: the mean of a product is not the "
                "product of the means. The b samples have to come from those that the a left over.",
                lambda k, size, a, b: _ways(k, a) / comb(size, a) * _ways(size - k, b) / comb(size, b),
            ),
            Mistake(
                "Divided by the number of sets of a + b samples. But which a of them lie below can vary too: count the "
                "pairs of disjoint sets.",
                lambda k, size, a, b: _ways(k, a) * _ways(size - k, b) / comb(size, a + b),
            ),
            Mistake(
                "a and b are exchanged: a samples lie below, b above.",
                lambda k, size, a, b: _disjoint(size - k, size, a, b),
            ),
            Mistake("The factor (1 - u)^b is missing.", lambda k, size, a, b: _ways(k, a) / comb(size, a)),
            Mistake(
                "That is a count of pairs of sets. Divide by how many pairs there are in all.",
                lambda k, size, a, b: _ways(k, a) * _ways(size - k, b),
            ),
            Mistake(
                "K - 1 for K: the response is not one of the K samples, so all K of them may be chosen.",
                lambda k, size, a, b: _ways(k, a) * _ways(size - k, b) / (comb(size - 1, a) * comb(size - 1 - a, b)),
            ),
        ),
        hints=(
            "Fix a samples and b others. With which probability do the first all lie below and the others all above?",
            "u^a (1 - u)^b, for each such pair of disjoint sets. So estimate it by the share of pairs that do.",
            "comb(k, a) * comb(K - k, b) pairs do, out of comb(K, a) * comb(K - a, b).",
        ),
    ),
)
