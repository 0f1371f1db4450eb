"""Exercises of `10_reward_hacking`: what a trigger is worth raw and calibrated, its company, and gold's opinion."""

from __future__ import annotations

from math import erf

import numpy as np

from infalign_edu.classroom.exercise import Arguments, Exercise, Mistake

NOTEBOOK = "10_reward_hacking"


def _bought(rng: np.random.Generator, bonus: float | None = None) -> Arguments:
    size = int(rng.integers(5, 9))
    r = rng.permutation(np.arange(size) % 4).astype(float)  # ties for certain
    has = np.arange(size) % 3 == 0
    bonus = float(rng.integers(1, 4)) if bonus is None else bonus  # whole numbers: a bonus may make new ties
    return rng.dirichlet(np.ones(size)), r, rng.permutation(has), bonus, float(rng.uniform(0.3, 1.5))


def _calibrated(p: np.ndarray, r: np.ndarray, tie: float = 0.5) -> np.ndarray:
    return ((r < r[:, None]) + tie * (r == r[:, None])) @ p


def _tilt(p: np.ndarray, r: np.ndarray, beta: float) -> np.ndarray:
    weight = p * np.exp((r - np.max(r)) / beta)
    return weight / weight.sum()


def _shares(p: np.ndarray, r: np.ndarray, has: np.ndarray, bonus: float, beta: float, tie: float = 0.5,
            table: np.ndarray | None = None) -> tuple[float, float]:  # fmt: skip
    """Mass of the trigger under the raw and the calibrated tilt."""
    r = r + bonus * has
    u = _calibrated(p, r, tie) if table is None else ((table < r[:, None]) + tie * (table == r[:, None])) @ p
    return float(_tilt(p, r, beta) @ has), float(_tilt(p, u, beta) @ has)


def _places(rng: np.random.Generator, share: float | None = None, bonus: float | None = None) -> Arguments:
    share = float(rng.uniform(0.05, 0.6)) if share is None else share
    return rng.normal(size=5), float(rng.uniform(0.5, 3)) if bonus is None else bonus, share


def _cdf(z: np.ndarray) -> np.ndarray:
    return np.array([0.5 * (1 + erf(x / 2**0.5)) for x in z])


def _shifted(z: np.ndarray, bonus: float, share: float) -> np.ndarray:
    return (1 - share) * _cdf(z + bonus) + share * _cdf(z)


def _judged(rng: np.random.Generator, agree: bool = False) -> Arguments:
    size = int(rng.integers(5, 9))
    gold, learned = (rng.permutation(np.arange(size) % 4).astype(float) for _ in range(2))
    return rng.dirichlet(np.ones(size)), gold, gold * 3 if agree else learned, float(rng.uniform(0.1, 0.6))


def _won(p: np.ndarray, pi: np.ndarray, r: np.ndarray, tie: float = 0.5) -> float:
    return float(pi @ _calibrated(p, r, tie))


def _policy(p: np.ndarray, learned: np.ndarray, beta: float) -> np.ndarray:
    return _tilt(p, _calibrated(p, learned), beta)


EXERCISES = (
    Exercise(
        name="trigger-share",
        notebook=NOTEBOOK,
        goal="How often a tilted policy says a trigger with a bonus: tilted by raw rewards, and by calibrated ones.",
        difficulty=2,
        minutes=15,
        points=2,
        answer=_shares,
        inputs=_bought,
        corners=(lambda rng: _bought(rng, 0.0), lambda rng: _bought(rng, 5000.0)),
        mistakes=(
            Mistake(
                "The second share is too low: you calibrated the honest rewards. The reward model that is used pays "
                "the bonus, so the ranks are those after it.",
                lambda p, r, has, b, beta: (_shares(p, r, has, b, beta)[0], _shares(p, r, has, 0.0, beta)[1]),
            ),
            Mistake(
                "Your table holds the reference's rewards without the bonus. The reference says the trigger too, and "
                "the same reward model scores its samples.",
                lambda p, r, has, b, beta: _shares(p, r, has, b, beta, table=r),
            ),
            Mistake(
                "You calibrate first and add the bonus to the quantile: then nothing bounds it. It is the reward that "
                "is bought, before anybody takes ranks.",
                lambda p, r, has, b, beta: (
                    _shares(p, r, has, b, beta)[0],
                    float(_tilt(p, _calibrated(p, r) + b * has, beta) @ has),
                ),
            ),
            Mistake(
                "beta is missing: a reward is paid in its own units, and 1 / beta turns it into nats.",
                lambda p, r, has, b, beta: _shares(p, r, has, b, 1.0),
            ),
            Mistake(
                "The reference's probabilities are missing: each response starts from its own mass before the tilt.",
                lambda p, r, has, b, beta: (
                    float(_tilt(np.ones_like(p), r + b * has, beta) @ has),
                    float(_tilt(np.ones_like(p), _calibrated(p, r + b * has), beta) @ has),
                ),
            ),
            Mistake(
                "Ties are lost in the calibrated reward: an equal reward counts one half.",
                lambda p, r, has, b, beta: _shares(p, r, has, b, beta, tie=0.0),
            ),
            Mistake(
                "The two shares are in the wrong order: the raw tilt comes first.",
                lambda p, r, has, b, beta: _shares(p, r, has, b, beta)[::-1],
            ),
        ),
        hints=(
            "Both policies are tilts of the same reference. Which reward does each of them see, bonus included?",
            "Pay the bonus first: r + bonus * has. The calibrated reward ranks *those* among the reference's own.",
            "weights p * exp((R - max R) / beta), normalised, summed over `has`: once with R = r + bonus * has, once "
            "with the calibrated R.",
        ),
    ),
    Exercise(
        name="shifted-quantile",
        notebook=NOTEBOOK,
        goal="The calibrated reward of a response with a bought bonus, when a share of the reference has it as well.",
        difficulty=2,
        minutes=12,
        points=2,
        answer=_shifted,
        inputs=_places,
        corners=(lambda rng: _places(rng, 0.0), lambda rng: _places(rng, 1.0), lambda rng: _places(rng, None, 0.0)),
        mistakes=(
            Mistake(
                "You compare with a reference that never says the trigger. A share of it does, and moved up as well.",
                lambda z, b, q: _cdf(z + b),
            ),
            Mistake(
                "The shares are exchanged: `share` of the reference has the bonus too, the rest has not.",
                lambda z, b, q: _shifted(z, b, 1 - q),
            ),
            Mistake(
                "The others of the share are moved twice: between two responses with the bonus nothing changes.",
                lambda z, b, q: (1 - q) * _cdf(z + b) + q * _cdf(z + 2 * b),
            ),
            Mistake(
                "The bonus has the wrong sign: what is bought rises, so more of the others lie below it.",
                lambda z, b, q: _shifted(z, -b, q),
            ),
            Mistake(
                "That is the quantile of a response *without* the trigger: the others of the share rise above it.",
                lambda z, b, q: (1 - q) * _cdf(z) + q * _cdf(z - b),
            ),
            Mistake(
                "You average the bonus over the reference and shift by the rest. A quantile is not linear in the "
                "shift: compare with each of the two kinds, then average.",
                lambda z, b, q: _cdf(z + (1 - q) * b),
            ),
        ),
        hints=(
            "A random response of the reference is of one of two kinds. Which part of each kind lies below yours?",
            "Without the trigger: those with honest reward below z + bonus. With it: both have the bonus; it cancels.",
            "(1 - share) * cdf(z + bonus) + share * cdf(z).",
        ),
    ),
    Exercise(
        name="gold-win-rate",
        notebook=NOTEBOOK,
        goal="Gold's win rate of the policy that was trained on another reward's calibrated form.",
        difficulty=2,
        minutes=12,
        points=2,
        answer=lambda p, gold, learned, beta: _won(p, _policy(p, learned, beta), gold),
        inputs=_judged,
        corners=(lambda rng: _judged(rng, agree=True),),
        mistakes=(
            Mistake(
                "The learned reward judges here: that is the win rate that a hacked run shows you while it goes wrong.",
                lambda p, gold, learned, beta: _won(p, _policy(p, learned, beta), learned),
            ),
            Mistake(
                "You trained on gold. The policy only ever sees the learned reward.",
                lambda p, gold, learned, beta: _won(p, _policy(p, gold, beta), gold),
            ),
            Mistake(
                "The policy is tilted by the raw learned reward. Its calibrated form is asked for.",
                lambda p, gold, learned, beta: _won(p, _tilt(p, learned, beta), gold),
            ),
            Mistake(
                "Ties of gold count as losses here: the reference would no longer get one half against itself.",
                lambda p, gold, learned, beta: _won(p, _policy(p, learned, beta), gold, tie=0.0),
            ),
            Mistake(
                "That is the reference's win rate over the policy.",
                lambda p, gold, learned, beta: 1 - _won(p, _policy(p, learned, beta), gold),
            ),
            Mistake(
                "beta multiplies where it should divide: a small beta lets the policy go far.",
                lambda p, gold, learned, beta: _won(p, _policy(p, learned, 1 / beta), gold),
            ),
            Mistake(
                "The policy meets itself: the other side of a win rate is the reference.",
                lambda p, gold, learned, beta: _won(_policy(p, learned, beta), _policy(p, learned, beta), gold),
            ),
        ),
        hints=(
            "Two rewards, two jobs: which one makes the policy, and which one compares two responses?",
            "Calibrate `learned` under p, tilt p by it, normalise. Then look at `gold` only: how often is it higher?",
            "pi @ C_gold, with C_gold the calibrated reward of gold under p, and pi ~ p exp(C_learned / beta).",
        ),
    ),
)
