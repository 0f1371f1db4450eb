"""Exercises of `11_how_many_reference_samples`: the transform that is trained, the band, ties, and no bias."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, comb, exp, floor, log

import numpy as np

from infalign_edu.classroom.exercise import Arguments, Exercise, Mistake

NOTEBOOK = "11_how_many_reference_samples"


def _quantiles(rng: np.random.Generator, K: int | None = None, sign: int = 1) -> Arguments:
    u = np.concatenate([[0.0, 1.0], rng.random(4)])
    return u, sign * float(rng.uniform(2, 10)), K or int(rng.integers(2, 9))


def _mean(u: np.ndarray, t: float, K: int, value: Callable[[int], float], ways: Callable[[int, int], int] = comb
          ) -> np.ndarray:  # fmt: skip
    """Mean of e^(t value(k)) over k ~ Binomial(K, u)."""
    terms = [ways(K, k) * u**k * (1 - u) ** (K - k) * exp(t * value(k)) for k in range(K + 1)]
    return np.sum(terms, axis=0)


def _trained(u: np.ndarray, t: float, K: int) -> np.ndarray:
    return _mean(u, t, K, lambda k: max(k / K, 1 / (2 * K)))


def _wanted(rng: np.random.Generator, prompts: int | None = None) -> Arguments:
    return float(rng.uniform(0.02, 0.2)), float(rng.uniform(0.01, 0.2)), prompts or int(rng.integers(2, 500))


def _needed(precision: float, failure: float, prompts: int) -> int:
    return ceil(log(2 * prompts / failure) / (2 * precision**2))


def _levels(rng: np.random.Generator, levels: int | None = None) -> Arguments:
    levels = levels or int(rng.integers(2, 6))
    return rng.dirichlet(np.ones(levels)), int(rng.integers(2, 40))


def _spread(p: np.ndarray, K: float, tie: float = 0.25, place: float = 0.5) -> np.ndarray:
    """(u (1 - u) - tie p) / K, with u the mass of the lower levels and a part `place` of its own."""
    u = np.cumsum(p) - p + place * p
    return (u * (1 - u) - tie * p) / K


def _polynomial(rng: np.random.Generator, degree: int | None = None) -> Arguments:
    degree = int(rng.integers(1, 5)) if degree is None else degree
    return rng.normal(size=degree + 1) * 3, degree + int(rng.integers(1, 5))


def _table(c: np.ndarray, K: int, estimate: Callable[[int, int, int], float]) -> np.ndarray:
    return np.array([sum(c[m] * estimate(k, K, m) for m in range(len(c))) for k in range(K + 1)])


EXERCISES = (
    Exercise(
        name="trained-transform",
        notebook=NOTEBOOK,
        goal="The mean of exp(t C-hat) at quantiles u over K fresh reference samples, C-hat clipped below at 1/(2K).",
        difficulty=2,
        minutes=12,
        points=2,
        answer=_trained,
        inputs=_quantiles,
        corners=(lambda rng: _quantiles(rng, 1), lambda rng: _quantiles(rng, 3, -1)),
        mistakes=(
            Mistake(
                "The clip is missing: that is the Bernstein polynomial of exp(t u) itself. Which of the K + 1 values "
                "of C-hat does the clip change, and how often is it met?",
                lambda u, t, K: (1 - u + u * exp(t / K)) ** K,
            ),
            Mistake(
                "That is the transform that was asked for, at the true quantile. Training sees a count in place of u: "
                "take the mean over it.",
                lambda u, t, K: np.exp(t * np.maximum(u, 1 / (2 * K))),
            ),
            Mistake(
                "You average C-hat and transform the mean. The transform is not linear, so the order matters: "
                "transform each value of C-hat, then average.",
                lambda u, t, K: np.exp(t * (u + (1 - u) ** K / (2 * K))),
            ),
            Mistake(
                "The clip stands at 1/K, where one sample lies below. A response below all K belongs half a step above "
                "0, so that it stays apart from that one.",
                lambda u, t, K: _mean(u, t, K, lambda k: max(k, 1) / K),
            ),
            Mistake(
                "The binomial coefficient is missing: any k of the K samples can be the ones below, so your "
                "probabilities do not sum to 1.",
                lambda u, t, K: _mean(u, t, K, lambda k: max(k / K, 1 / (2 * K)), lambda K, k: 1),
            ),
            Mistake(
                "u and 1 - u are exchanged: each sample lies below the response with probability u.",
                lambda u, t, K: _trained(1 - u, t, K),
            ),
            Mistake(
                "k is divided by K + 1, the number of values that C-hat can take. It is a share of K samples.",
                lambda u, t, K: _mean(u, t, K, lambda k: max(k / (K + 1), 1 / (2 * K))),
            ),
        ),
        hints=(
            "How many values can the clipped C-hat take, and with which probability does each of them come?",
            "Only k = 0 is touched by the clip. The other terms are those of the Bernstein polynomial.",
            "Sum over k of comb(K, k) u^k (1-u)^(K-k) exp(t max(k/K, 1/(2K))).",
        ),
    ),
    Exercise(
        name="samples-for-band",
        notebook=NOTEBOOK,
        goal="The least K for which all calibration curves of a number of prompts lie within a precision at once.",
        difficulty=1,
        minutes=8,
        points=2,
        answer=_needed,
        inputs=_wanted,
        corners=(lambda rng: _wanted(rng, 1), lambda rng: (0.5, 0.5, 1)),
        mistakes=(
            Mistake(
                "That K is for one prompt. With many, some table will be unlucky: what may each of them fail with?",
                lambda e, d, P: _needed(e, d, 1),
            ),
            Mistake(
                "The number of prompts makes your K smaller. More tables that all have to be good need more samples.",
                lambda e, d, P: max(1, ceil(log(2 / (P * d)) / (2 * e**2))),
            ),
            Mistake(
                "You rounded down: with that K the band is a little wider than the precision asked for.",
                lambda e, d, P: floor(log(2 * P / d) / (2 * e**2)),
            ),
            Mistake(
                "The precision is not squared: half the error costs four times the samples, not twice.",
                lambda e, d, P: ceil(log(2 * P / d) / (2 * e)),
            ),
            Mistake(
                "That bounds errors to one side only. The curve may be too high or too low: two events.",
                lambda e, d, P: ceil(log(P / d) / (2 * e**2)),
            ),
            Mistake(
                "The 2 in front of K is lost: the probability falls as exp(-2 K precision^2).",
                lambda e, d, P: ceil(log(2 * P / d) / e**2),
            ),
            Mistake(
                "You multiplied the samples by the number of prompts: K is asked for a prompt, and a union bound costs "
                "only a logarithm.",
                lambda e, d, P: P * ceil(log(2 / d) / (2 * e**2)),
            ),
        ),
        hints=(
            "For one prompt the band fails with probability at most 2 exp(-2 K precision^2). And for any of many?",
            "Probabilities of failure add up, at worst: ask each prompt for failure / prompts. Then solve for K.",
            "K >= log(2 prompts / failure) / (2 precision^2), rounded up to a whole number.",
        ),
    ),
    Exercise(
        name="tied-count-variance",
        notebook=NOTEBOOK,
        goal="The variance of C-hat over fresh tables of K samples, for a response on each of several reward levels.",
        difficulty=2,
        minutes=12,
        points=2,
        answer=_spread,
        inputs=_levels,
        corners=(lambda rng: (np.array([1.0]), 5), lambda rng: (rng.dirichlet(np.ones(3)), 1)),
        tolerance=1e-9,
        mistakes=(
            Mistake(
                "That is the variance without ties. A sample on the response's own level adds 1/2 for certain: such "
                "samples scatter less.",
                lambda p, K: _spread(p, K, tie=0.0),
            ),
            Mistake(
                "That is the standard deviation. The variance is asked for, which falls as 1/K.",
                lambda p, K: np.sqrt(_spread(p, K)),
            ),
            Mistake(
                "K is missing: that is the variance of what one sample adds. C-hat is the mean of K of them.",
                lambda p, K: _spread(p, 1),
            ),
            Mistake(
                "Divided by K twice: the sum of K independent terms has K times the variance of one.",
                lambda p, K: _spread(p, K * K),
            ),
            Mistake(
                "Ties count 0 here. Then C-hat is a binomial share again, but of another quantile than C, which counts "
                "them one half.",
                lambda p, K: _spread(p, K, tie=0.0, place=0.0),
            ),
            Mistake(
                "Ties take too much away: where one level holds everything, C-hat never moves, and you are below 0.",
                lambda p, K: _spread(p, K, tie=0.5),
            ),
            Mistake(
                "You read the levels from the highest to the lowest: below the first level there is nothing.",
                lambda p, K: _spread(p[::-1], K),
            ),
        ),
        hints=(
            "What does one reference sample add to the count: which three values, with which probabilities?",
            "1 with probability b (below), 1/2 with probability p (its own level), else 0. Mean b + p/2; the mean of "
            "its square is b + p/4.",
            "(b + p/4 - (b + p/2)^2) / K, where b is the cumulative sum of the lower levels.",
        ),
    ),
    Exercise(
        name="unblurred-table",
        notebook=NOTEBOOK,
        goal="The K + 1 values for k = 0..K samples below, whose mean over fresh tables is a given polynomial of u.",
        difficulty=2,
        minutes=12,
        points=2,
        answer=lambda c, K: _table(c, K, lambda k, K, m: comb(k, m) / comb(K, m)),
        inputs=_polynomial,
        corners=(lambda rng: _polynomial(rng, 0), lambda rng: _polynomial(rng, 3)),
        mistakes=(
            Mistake(
                "That is the plug-in: the polynomial at k/K. Its mean is the Bernstein polynomial, which is what this "
                "table should undo.",
                lambda c, K: _table(c, K, lambda k, K, m: (k / K) ** m),
            ),
            Mistake(
                "You count the sets of m samples below the response. Divide by how many sets of m there are.",
                lambda c, K: _table(c, K, lambda k, K, m: comb(k, m)),
            ),
            Mistake(
                "Off by one in the powers: the first coefficient belongs to the constant, the next to u.",
                lambda c, K: _table(c, K, lambda k, K, m: comb(k, m + 1) / comb(K, m + 1)),
            ),
            Mistake(
                "The table runs the wrong way: its first value is for a response that lies below all K samples.",
                lambda c, K: _table(c, K, lambda k, K, m: comb(K - k, m) / comb(K, m)),
            ),
            Mistake(
                "You choose with replacement: then one sample can be taken several times, and is no independent "
                "witness the second time. Choose m different ones.",
                lambda c, K: _table(c, K, lambda k, K, m: comb(k + m - 1, m) / comb(K + m - 1, m) if m else 1.0),
            ),
            Mistake(
                "K + 1 is the length of the table. The response is compared with K samples, so sets are chosen from K.",
                lambda c, K: _table(c, K, lambda k, K, m: comb(k, m) / comb(K + 1, m)),
            ),
        ),
        hints=(
            "Take one power u^m first. Which event with m samples has exactly that probability?",
            "All m samples of a fixed set lie below. The share of the sets for which that is so has the mean u^m.",
            "values[k] = sum over m of coefficients[m] * comb(k, m) / comb(K, m).",
        ),
    ),
)
