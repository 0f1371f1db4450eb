"""Exercises of `05_optimal_transformations`: which transform a policy asks for, and what asking again and again does.

Left out: shooting and certificates, which `theory.optimum` has and which are not a matter of a few lines.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from infalign_edu.classroom.exercise import Exercise, Mistake

Array = NDArray[np.float64]
NOTEBOOK = "05_optimal_transformations"


def _shown(t: Array, share: float, n: int, factor: int | None = None, power: int | None = None) -> Array:
    """The density of the rank that is shown: best of n to a share of the users, worst of n to the others."""
    factor, power = n if factor is None else factor, n - 1 if power is None else power
    return factor * (share * t**power + (1 - share) * (1 - t) ** power)


def _cdf(t: Array, share: float, n: int) -> Array:
    return share * t**n + (1 - share) * (1 - (1 - t) ** n)


def _slope_inputs(rng: np.random.Generator) -> tuple[Array, Array, float, int]:
    u, F = np.sort(rng.random((2, 6)), axis=1)
    u[0], u[-1], F[0], F[-1] = 0.0, 1.0, 0.0, 1.0
    return u, F, float(rng.uniform(0.1, 0.9)), int(rng.integers(2, 7))


def _apart(u: Array, F: Array, share: float, n: int) -> Array:
    both = n * n * (F * u) ** (n - 1), n * n * ((1 - F) * (1 - u)) ** (n - 1)
    return share * both[0] + (1 - share) * both[1]


OPTIMAL_SLOPE = Exercise(
    name="optimal-slope",
    notebook=NOTEBOOK,
    goal="The slope of the transform that is optimal when some users see the best of n and the others the worst of n.",
    difficulty=2,
    minutes=10,
    points=2,
    answer=lambda u, F, share, n: _shown(F, share, n) * _shown(u, share, n),
    inputs=_slope_inputs,
    mistakes=(
        Mistake(
            "Best and worst have changed places: the share sees the best of n, whose density grows with the rank.",
            lambda u, F, share, n: _shown(1 - F, share, n) * _shown(1 - u, share, n),
        ),
        Mistake(
            "The reference is missing: it is shown through the procedure, too. A step in rank is worth the more, the "
            "more often the reference's shown response lies there.",
            lambda u, F, share, n: _shown(F, share, n),
        ),
        Mistake(
            "The policy is missing: your slope does not depend on F. Which transform is right depends on where the "
            "policy is now.",
            lambda u, F, share, n: _shown(u, share, n),
        ),
        Mistake(
            "You put u in both places. The policy's procedure acts on the policy's own rank, which is F(u); yours is "
            "right only while the policy is the reference.",
            lambda u, F, share, n: _shown(u, share, n) ** 2,
        ),
        Mistake(
            "You mixed the two optimal slopes. The mixture is in the procedure, on both sides: some of the policy's "
            "best-of-n answers meet a reference answer that is the worst of n.",
            _apart,
        ),
        Mistake(
            "The exponent is n, but only the n - 1 other draws have to lie below (or above).",
            lambda u, F, share, n: _shown(F, share, n, power=n) * _shown(u, share, n, power=n),
        ),
        Mistake(
            "The factor n is missing from each density: any of the n draws can be the one shown.",
            lambda u, F, share, n: _shown(F, share, n, factor=1) * _shown(u, share, n, factor=1),
        ),
        Mistake(
            "You multiplied the CDFs G. The derivative of the win rate has the densities g = G' in it.",
            lambda u, F, share, n: _cdf(F, share, n) * _cdf(u, share, n),
        ),
    ),
    hints=(
        "The boxed equation of section 1 has two factors. Which of them belongs to the policy, and at which rank is "
        "it taken?",
        "Write g(t) for this procedure: it is a mixture of the two densities n t^(n-1) and n (1-t)^(n-1). Then the "
        "slope is g_pol(F(u)) g_ref(u), with the same g twice.",
        "Define g(t) = share n t^(n-1) + (1 - share) n (1-t)^(n-1) inside your function and return g(F) * g(u).",
    ),
)


def _middles(density: Array) -> Array:
    """The integral from 0 to the middle of each cell."""
    return (np.cumsum(density) - density / 2) / len(density)


def _asked(F: Array, n: int) -> Array:
    u = (np.arange(len(F)) + 0.5) / len(F)
    return np.asarray(n * F ** (n - 1) * n * u ** (n - 1))


def _tilted(phi: Array, beta: float) -> Array:
    weight = np.exp(phi / beta)
    return np.asarray(weight / weight.mean())


def _step(phi: Array, n: int, beta: float, step: float) -> Array:
    return (1 - step) * phi + step * _middles(_asked(_middles(_tilted(phi, beta)), n))


def _step_inputs(rng: np.random.Generator) -> tuple[Array, int, float, float]:
    phi = np.cumsum(rng.random(rng.integers(4, 9))) / 4
    return phi, int(rng.integers(2, 6)), float(rng.uniform(0.2, 0.8)), float(rng.uniform(0.1, 0.45))


def _edges(phi: Array, n: int, beta: float, step: float) -> Array:
    F = np.cumsum(_tilted(phi, beta)) / len(phi)
    return (1 - step) * phi + step * _middles(_asked(F, n))


def _once_shown(phi: Array, n: int, beta: float, step: float) -> Array:
    F = _middles(_tilted(phi, beta))
    return (1 - step) * phi + step * _middles(n * F ** (n - 1))


DAMPED_STEP = Exercise(
    name="damped-step",
    notebook=NOTEBOOK,
    goal="One damped round of the fixed point for best-of-n: from a transform to its policy, from there to the "
    "transform it asks for, and a part of the way there.",
    difficulty=3,
    minutes=15,
    points=2,
    answer=_step,
    inputs=_step_inputs,
    corners=(lambda rng: (np.zeros(5), 2, 0.3, 1.0),),
    mistakes=(
        Mistake(
            "The weights have changed places: a small step has to stay close to the old transform.",
            lambda phi, n, beta, step: _step(phi, n, beta, 1 - step),
        ),
        Mistake(
            "You go the whole way: that is the undamped round, the one that falls into a two-cycle.",
            lambda phi, n, beta, step: _step(phi, n, beta, 1.0),
        ),
        Mistake(
            "beta is missing: the policy of a transform is its exponential after division by beta.",
            lambda phi, n, beta, step: _step(phi, n, 1.0, step),
        ),
        Mistake(
            "Your F is taken at the upper edges of the cells, but u and the slope are at their middles. To a middle "
            "it is only half of the cell's own mass.",
            _edges,
        ),
        Mistake(
            "Only the policy's density stands in your slope; the reference is shown as its best of n, too.",
            _once_shown,
        ),
        Mistake(
            "You evaluate the policy's procedure at u. That asks for the reference's transform each round, whatever "
            "policy was trained.",
            lambda phi, n, beta, step: (1 - step) * phi + step * _middles(_asked(_middles(np.ones(len(phi))), n)),
        ),
        Mistake(
            "You step towards the slope. The transform is its integral from 0.",
            lambda phi, n, beta, step: (1 - step) * phi + step * _asked(_middles(_tilted(phi, beta)), n),
        ),
    ),
    hints=(
        "There are four things to compute, each from the one before: the density f of the present transform, its F, "
        "the slope it asks for, the new transform. Which of them are integrals?",
        "With values at the middles of equal cells, the integral from 0 to a middle is the sum of the cells before it "
        "plus half of its own, times the width 1/cells. You need that twice: for F and for the new transform.",
        "f = e^(phi/beta) over its mean; F = (cumsum(f) - f/2)/cells; slope n F^(n-1) n u^(n-1); integrate it in the "
        "same way; then (1 - step) old + step new.",
    ),
)


def _odds(p: float | Array) -> Array:
    with np.errstate(divide="ignore"):
        return np.log(p) - np.log1p(-np.asarray(p))


def _improved(p: Array, p_ref: float, n: int, beta: float, half: float = 0.5, drop: int = 1) -> Array:
    return _odds(p_ref) - half * n / beta * p ** (n - drop)


def _improved_inputs(rng: np.random.Generator) -> tuple[Array, float, int, float]:
    p = np.concatenate([[0.0, 1.0], rng.uniform(0.1, 0.95, size=4)])
    return p, float(rng.uniform(0.1, 0.9)), int(rng.integers(2, 8)), float(rng.uniform(0.1, 2.0))


IMPROVED_LOG_ODDS = Exercise(
    name="local-improvement",
    notebook=NOTEBOOK,
    goal="Local improvement with a good/bad reward, now for a friendly user who sees the best of n: the next log-odds "
    "of a bad answer.",
    difficulty=2,
    minutes=10,
    points=2,
    answer=_improved,
    inputs=_improved_inputs,
    mistakes=(
        Mistake(
            "That is the attacker's case, worst-of-n. The best of n is bad only if all n draws are: start from p^n.",
            lambda p, p_ref, n, beta: _improved(1 - p, p_ref, n, beta),
        ),
        Mistake(
            "The sign is turned: your round makes bad answers likelier. More mass on them lowers the win rate.",
            lambda p, p_ref, n, beta: _improved(p, p_ref, n, beta, half=-0.5),
        ),
        Mistake(
            "Your slope is twice too large: it takes ties for losses. Between a good and a bad answer shown the "
            "chances differ by one half, since two equal answers share the win.",
            lambda p, p_ref, n, beta: _improved(p, p_ref, n, beta, half=1.0),
        ),
        Mistake(
            "You tilt the present policy. KL(pi || pi_ref) is measured from the reference, so each round starts at "
            "the reference's log-odds.",
            lambda p, p_ref, n, beta: _odds(p) - 0.5 * n / beta * p ** (n - 1),
        ),
        Mistake(
            "beta is missing: the gradient is divided by the price of a nat before it enters the exponent.",
            lambda p, p_ref, n, beta: _improved(p, p_ref, n, 1.0),
        ),
        Mistake(
            "The factor n is missing: differentiate p^n.",
            lambda p, p_ref, n, beta: _improved(p, p_ref, n, beta, 0.5 / n),
        ),
        Mistake(
            "The exponent is n. The derivative of p^n loses one.",
            lambda p, p_ref, n, beta: _improved(p, p_ref, n, beta, drop=0),
        ),
    ),
    hints=(
        "With which chance does a user who sees the best of n see a bad answer, if each draw is bad with chance p?",
        "W = const - (1/2) p^n by the same argument as for the attacker. Take dW/dp; bad minus good is the difference "
        "in the exponent, after division by beta.",
        "log-odds of the reference, minus n/(2 beta) times p^(n-1).",
    ),
)

EXERCISES = (OPTIMAL_SLOPE, DAMPED_STEP, IMPROVED_LOG_ODDS)
