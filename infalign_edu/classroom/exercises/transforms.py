"""Exercises of `04_reward_transformations`: what a transform does to the policy, and what it earns for whom.

Left out: solving for the best transform, which is the next notebook's subject.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from infalign_edu.classroom.exercise import Exercise, Mistake

Array = NDArray[np.float64]
NOTEBOOK = "04_reward_transformations"


def _density(phi: Array, beta: float) -> Array:
    weight = np.exp(phi / beta)
    return np.asarray(weight / weight.mean())


def _density_inputs(rng: np.random.Generator) -> tuple[Array, float]:
    return 2 * rng.normal(size=rng.integers(3, 10)), float(10 ** rng.uniform(-0.8, 1.0))


def _without_ends(phi: Array, beta: float) -> Array:
    weight = np.exp(phi / beta)
    return np.asarray(weight / ((weight[1:] + weight[:-1]).sum() / 2 / len(phi)))


TILTED_DENSITY = Exercise(
    name="tilted-density",
    notebook=NOTEBOOK,
    goal="The density of the policy that KL-regularised RL on a transform ends with, on a grid over [0, 1].",
    difficulty=1,
    minutes=5,
    points=2,
    answer=_density,
    inputs=_density_inputs,
    corners=(lambda rng: (2 * rng.normal(size=4), 50.0),),
    mistakes=(
        Mistake(
            "You multiply by beta. A large beta makes KL expensive, so it has to pull the density towards 1 "
            "everywhere; yours gets steeper.",
            lambda phi, beta: _density(phi, 1 / beta),
        ),
        Mistake(
            "Your density does not depend on beta: the same policy, whatever KL costs. Look at the exponent again.",
            lambda phi, beta: _density(phi, 1.0),
        ),
        Mistake(
            "The shape is right, the height is not: a density has integral 1 over [0, 1], and this one has integral Z.",
            lambda phi, beta: np.exp(phi / beta),
        ),
        Mistake(
            "These are the probabilities of the cells: they sum to 1. A density is probability per unit of u, and a "
            "cell is only 1/cells wide.",
            lambda phi, beta: _density(phi, beta) / len(phi),
        ),
        Mistake(
            "Z is too small by half a cell at each end: a trapezoid rule through the middles stops at the first and "
            "the last middle. With middles of equal cells the integral is the plain mean.",
            _without_ends,
        ),
        Mistake(
            "The sign in the exponent is turned: your policy prefers what the transform rewards least.",
            lambda phi, beta: _density(-phi, beta),
        ),
    ),
    hints=(
        "Which density f makes J(f) largest? It is the boxed result of section 1: what stands above, what below?",
        "Above stands e to the power transform over beta. Below stands its integral over [0, 1]; with values at the "
        "middles of equal cells, an integral is a mean.",
        "weight = np.exp(phi / beta); then divide weight by its mean.",
    ),
)


def _log_rate(beta: float, n: int, n_reference: int, slope: float = 1.0, shift: float = 1.0) -> float:
    m = shift + slope / beta
    return m * n / (m * n + n_reference)


def _log_inputs(rng: np.random.Generator) -> tuple[float, int, int]:
    n, n_reference = rng.choice(8, size=2, replace=False) + 1
    return float(10 ** rng.uniform(-1, 1)), int(n), int(n_reference)


DISTILLED_WIN_RATE = Exercise(
    name="distilled-win-rate",
    notebook=NOTEBOOK,
    goal="The win rate of a policy trained on log u, when it is shown as the best of n and the reference as the best "
    "of another number of draws.",
    difficulty=2,
    minutes=10,
    points=2,
    answer=_log_rate,
    inputs=_log_inputs,
    corners=(lambda rng: (rng.uniform(0.2, 0.9), 1, 5), lambda rng: (rng.uniform(0.2, 0.9), 3, 3)),
    mistakes=(
        Mistake(
            "You took the exponent of the density for the one of the CDF: integrating u^(1/beta) raises it by one.",
            partial(_log_rate, shift=0.0),
        ),
        Mistake(
            "You distil with beta where 1/beta belongs: with a small beta, KL is cheap and the policy must go far.",
            lambda beta, n, n_reference: _log_rate(1 / beta, n, n_reference),
        ),
        Mistake(
            "Your reference is shown as it is sampled. It gets n_reference draws and shows the best of them, too.",
            lambda beta, n, n_reference: _log_rate(beta, n, 1),
        ),
        Mistake(
            "Your policy is shown as it is sampled. Its CDF has to go through best-of-n first.",
            lambda beta, n, n_reference: _log_rate(beta, 1, n_reference),
        ),
        Mistake(
            "That is the chance to lose. Count: of all those equal candidates, which share is the policy's?",
            lambda beta, n, n_reference: 1 - _log_rate(beta, n, n_reference),
        ),
        Mistake(
            "That is m/(m+1), where both sides draw equally often. Here they don't, and n no longer cancels.",
            lambda beta, n, n_reference: _log_rate(beta, 1, 1),
        ),
        Mistake(
            "The two numbers of draws have changed places: n belongs to the policy, n_reference to the reference.",
            lambda beta, n, n_reference: _log_rate(beta, n_reference, n),
        ),
    ),
    hints=(
        "The trained policy is itself a best-of-m of the reference. Of how many reference draws is what its user sees "
        "the best, and of how many what the other user sees?",
        "The policy's side is the best of m n equal candidates, the reference's the best of n_reference. (m need not "
        "be a whole number; the integral 1 - int F^n dG_ref gives the same.)",
        "With m = 1 + 1/beta it is the policy's share of the m n + n_reference candidates.",
    ),
)


def _correlation(phi: Array, reward: Array) -> float:
    with np.errstate(all="ignore"):  # N = 1 makes some wrong rewards constant
        return float(np.corrcoef(phi, reward)[0, 1])


def _cosine(u: Array, phi: Array, n: int) -> float:
    reward = u ** (2 * n - 1)
    return float(phi @ reward / np.sqrt((phi @ phi) * (reward @ reward)))


def _covariance(u: Array, phi: Array, n: int) -> float:
    reward = u ** (2 * n - 1)
    return float(((phi - phi.mean()) * (reward - reward.mean())).mean())


def _share_inputs(rng: np.random.Generator, n: int | None = None) -> tuple[Array, Array, int]:
    u = np.concatenate([[0.0, 1.0], rng.random(rng.integers(6, 12))])
    phi = np.exp(rng.uniform(-4, 3) * u) + 0.2 * rng.normal(size=u.size)
    return u, phi, n or int(rng.integers(2, 7))


SMALL_KL_SHARE = Exercise(
    name="small-kl-share",
    notebook=NOTEBOOK,
    goal="The share of the best possible gain under best-of-n that a transform earns when little KL is spent.",
    difficulty=2,
    minutes=10,
    points=2,
    answer=lambda u, phi, n: np.corrcoef(phi, u ** (2 * n - 1))[0, 1],
    inputs=_share_inputs,
    corners=(partial(_share_inputs, n=1),),
    mistakes=(
        Mistake(
            "You compare with u^(2n-2). That is the slope of the reward R0, up to a factor: g squared. Integrate it "
            "once.",
            lambda u, phi, n: _correlation(phi, u ** (2 * n - 2)),
        ),
        Mistake(
            "You compare with u^n, the CDF of the best of n. Near the reference both sides are best-of-n, and the "
            "reward that counts has the slope g squared.",
            lambda u, phi, n: _correlation(phi, u**n),
        ),
        Mistake(
            "You compare with u^(n-1), the density of the best of n up to a factor. What counts is R0 of step 3.",
            lambda u, phi, n: _correlation(phi, u ** (n - 1)),
        ),
        Mistake(
            "Subtract the means first: a constant added to a transform must not change anything (section 2), and it "
            "changes your number.",
            _cosine,
        ),
        Mistake(
            "That is the covariance: twice the transform would earn twice the share. Divide by both standard "
            "deviations.",
            _covariance,
        ),
        Mistake(
            "That is the squared correlation, a share of variance. The gain itself goes with the correlation.",
            lambda u, phi, n: _correlation(phi, u ** (2 * n - 1)) ** 2,
        ),
        Mistake(
            "The sign is lost: a transform that rewards bad responses earns less than nothing.",
            lambda u, phi, n: abs(_correlation(phi, u ** (2 * n - 1))),
        ),
    ),
    tries=8,
    hints=(
        "Near the reference, best-of-n is a plain reward R0. Which power of u is it (step 4 of section 6), and why "
        "does its factor not matter here?",
        "The share is the correlation of the transform with R0 over uniform u, and R0 is u^(2n-1) up to a factor.",
        "np.corrcoef(a, b) is a 2 x 2 matrix; the number is off its diagonal.",
    ),
)

EXERCISES = (TILTED_DENSITY, DISTILLED_WIN_RATE, SMALL_KL_SHARE)
