"""Exercises of `12_real_model` about what an experiment can see: the gain at a small KL, the prompts that show it.

Kept apart from `real_model`, which has those about the model.
"""

from __future__ import annotations

import math

import numpy as np

from infalign_edu.classroom.exercise import Exercise, Mistake

NOTEBOOK = "12_real_model"


def _variance(N: int) -> float:
    """Variance of R0 = N^2 u^(2N-1) / (2N-1) under u ~ U[0, 1]."""
    return N**4 / (2 * N - 1) ** 2 * (1 / (4 * N - 1) - 1 / (4 * N * N))


def _gain(kl: float, N: int) -> float:
    return math.sqrt(2 * kl * _variance(N))


SMALL_KL_GAIN = Exercise(
    name="small-kl-gain",
    notebook=NOTEBOOK,
    goal="The most that any policy near its reference can gain in best-of-N or worst-of-N win rate at a small KL.",
    difficulty=3,
    minutes=20,
    points=2,
    answer=_gain,
    inputs=lambda rng: (float(10 ** rng.uniform(-5, -1.5)), int(rng.integers(2, 17))),
    corners=(lambda rng: (float(10 ** rng.uniform(-4, -2)), 1),),
    mistakes=(
        Mistake(
            "The factor 2 under the root is missing: near the reference the KL is half the variance of the tilt.",
            lambda kl, N: math.sqrt(kl * _variance(N)),
        ),
        Mistake(
            "The root is missing: the gain grows with the square root of the KL, which is why the first bit of KL is "
            "worth so much.",
            lambda kl, N: 2 * kl * _variance(N),
        ),
        Mistake(
            "That is right for N = 1 only: sqrt(KL / 6). With best-of-N on both sides R0 is another function of u.",
            lambda kl, N: math.sqrt(kl / 6),
        ),
        Mistake(
            "You took the mean of R0 squared for its variance: the square of the mean is to be subtracted.",
            lambda kl, N: math.sqrt(2 * kl * N**4 / (2 * N - 1) ** 2 / (4 * N - 1)),
        ),
        Mistake(
            "Your R0 is N u^(N-1): that is the density of best-of-N, not the value of a response at u. Integrate once "
            "more, against the reference's own best-of-N.",
            lambda kl, N: math.sqrt(2 * kl * (N * N / (2 * N - 1) - 1)),
        ),
        Mistake(
            "Your R0 is u^N: the chance to beat the best of N of the reference with a single draw. The policy draws N "
            "too.",
            lambda kl, N: math.sqrt(2 * kl * (1 / (2 * N + 1) - 1 / (N + 1) ** 2)),
        ),
        Mistake(
            "Your R0 is N u^(2N-1) / (2N-1): one of the two factors N is missing. The policy has N draws to place, and "
            "each of them meets N of the reference.",
            lambda kl, N: math.sqrt(2 * kl * _variance(N)) / N,
        ),
    ),
    tolerance=1e-8,
    tries=8,
    hints=(
        "Near the reference W is linear in the policy: W = 1/2 + E_pi[R0(u)] - E[R0(u)]. How far can a mean be moved "
        "at a given KL, if the KL of a small tilt is half its variance?",
        "By sqrt(2 KL Var R0). For best-of-N on both sides R0(u) = N^2 u^(2N-1) / (2N-1); worst-of-N is its mirror "
        "image, with the same variance.",
        "E[R0] = N / (2(2N-1)), E[R0^2] = N^4 / ((2N-1)^2 (4N-1)); Var = E[R0^2] - E[R0]^2; return sqrt(2 KL Var).",
    ),
)


def _needed(
    gain: float, between: float, within: float, samples: int, sure: float = 1.959964, power: float = 0.841621
) -> int:
    return math.ceil((sure + power) ** 2 * (between**2 + within**2 / samples) / gain**2)


def _needed_inputs(rng: np.random.Generator) -> tuple[float, float, float, int]:
    gain, between, within = rng.uniform(0.01, 0.06), rng.uniform(0.03, 0.12), rng.uniform(0.3, 0.7)
    return float(gain), float(between), float(within), int(rng.integers(4, 65))


PROMPTS_NEEDED = Exercise(
    name="prompts-needed",
    notebook=NOTEBOOK,
    goal="How many prompts an experiment needs to see a gain of a given size with 95 % confidence and 80 % power.",
    difficulty=1,
    minutes=10,
    points=2,
    answer=_needed,
    inputs=_needed_inputs,
    corners=(lambda rng: (float(rng.uniform(0.02, 0.05)), 0.0, float(rng.uniform(0.3, 0.7)), 1),),
    mistakes=(
        Mistake(
            "You leave the power out: with a half width of exactly the gain, half of all such experiments would miss "
            "it. Both quantiles belong in the sum, 1.959964 + 0.841621.",
            lambda gain, between, within, samples: _needed(gain, between, within, samples, power=0.0),
        ),
        Mistake(
            "You square the quantiles one by one. The two distances add up first, then comes the square.",
            lambda gain, between, within, samples: math.ceil(
                (1.959964**2 + 0.841621**2) * (between**2 + within**2 / samples) / gain**2
            ),
        ),
        Mistake(
            "More samples a prompt do not make prompts more alike: only the second variance is divided by them.",
            lambda gain, between, within, samples: math.ceil(
                2.801585**2 * (between**2 + within**2) / samples / gain**2
            ),
        ),
        Mistake(
            "You don't divide the scatter within a prompt by its samples: their mean is what is compared.",
            lambda gain, between, within, samples: _needed(gain, between, within, 1),
        ),
        Mistake(
            "You divide by the gain, not by its square. Half the gain takes four times the prompts.",
            lambda gain, between, within, samples: math.ceil(2.801585**2 * (between**2 + within**2 / samples) / gain),
        ),
        Mistake(
            "You add the two standard deviations. Independent scatters add as variances.",
            lambda gain, between, within, samples: math.ceil(
                2.801585**2 * (between + within / math.sqrt(samples)) ** 2 / gain**2
            ),
        ),
        Mistake(
            "You round down (or to the nearest): then the power stays just below 80 %.",
            lambda gain, between, within, samples: math.floor(
                2.801585**2 * (between**2 + within**2 / samples) / gain**2
            ),
        ),
        Mistake(
            "You double the variance, as for two independent groups. Here each prompt gives one difference, and the "
            "two standard deviations are of that difference.",
            lambda gain, between, within, samples: math.ceil(
                2 * 2.801585**2 * (between**2 + within**2 / samples) / gain**2
            ),
        ),
    ),
    tries=8,
    hints=(
        "What is the standard error of a mean of P differences that each scatter with between^2 + within^2 / samples?",
        "The gain has to be 1.959964 + 0.841621 standard errors: the first so that it counts as seen, the second so "
        "that four in five experiments see it.",
        "P = (1.959964 + 0.841621)^2 * (between^2 + within^2 / samples) / gain^2, rounded up.",
    ),
)

EXERCISES = (SMALL_KL_GAIN, PROMPTS_NEEDED)
