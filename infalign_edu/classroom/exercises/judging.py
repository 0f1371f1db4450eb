"""Exercises of `08_ctrl_training` about judging what was trained: error bars over prompts, gains at matched KL.

Kept apart from `training`, which has those about the training reward and its KL.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from infalign_edu.classroom.exercise import Exercise, Mistake

Array = NDArray[np.float64]
NOTEBOOK = "08_ctrl_training"


def _around(centre: float, half: float) -> tuple[float, float]:
    return centre - half, centre + half


def _interval(wins: Array, t: float, ddof: int = 1) -> tuple[float, float]:
    rates = wins.mean(axis=1)
    return _around(rates.mean(), t * rates.std(ddof=ddof) / np.sqrt(len(rates)))


def _interval_inputs(rng: np.random.Generator) -> tuple[Array, float]:
    prompts, pairs = (int(size) for size in rng.choice(np.arange(4, 10), size=2, replace=False))
    chance = rng.uniform(0.1, 0.9, size=(prompts, 1))
    wins = np.where(rng.random((prompts, pairs)) < 0.2, 0.5, (rng.random((prompts, pairs)) < chance).astype(float))
    wins[0], wins[1] = 1.0, 0.0  # prompts differ: that is the point
    wins[2, 0] = 0.5
    return wins, float(rng.uniform(2.0, 3.2))


PROMPT_INTERVAL = Exercise(
    name="prompt-interval",
    notebook=NOTEBOOK,
    goal="A confidence interval of the win rate that holds for new prompts, not only for these.",
    difficulty=1,
    minutes=8,
    points=2,
    answer=_interval,
    inputs=_interval_inputs,
    mistakes=(
        Mistake(
            "You take every comparison for an independent one. Those of one prompt are alike, so they tell less: "
            "average each prompt first. (Your interval promises too much.)",
            lambda wins, t: _around(wins.mean(), t * wins.std(ddof=1) / np.sqrt(wins.size)),
        ),
        Mistake(
            "Your standard deviation divides by the number of prompts: that one is too small by a little, because the "
            "mean was taken from the same prompts. It is one less (ddof=1).",
            lambda wins, t: _interval(wins, t, ddof=0),
        ),
        Mistake(
            "That is how prompts scatter, not how their mean does: divide by the square root of their number.",
            lambda wins, t: _around(wins.mean(), t * wins.mean(axis=1).std(ddof=1)),
        ),
        Mistake(
            "One standard error to each side: that covers two cases in three. The quantile t widens it.",
            lambda wins, t: _interval(wins, 1.0),
        ),
        Mistake(
            "That is a variance of the mean; its square root is the standard error.",
            lambda wins, t: _around(wins.mean(), t * wins.mean(axis=1).var(ddof=1) / len(wins)),
        ),
        Mistake(
            "Your rates are averages over prompts, one for each column. A column means nothing: average along a row.",
            lambda wins, t: _interval(wins.T, t),
        ),
        Mistake(
            "That is the formula of a coin, W (1 - W). Ties and prompts that differ scatter otherwise; use the "
            "scatter that you see over prompts.",
            lambda wins, t: _around(wins.mean(), t * np.sqrt(wins.mean() * (1 - wins.mean()) / len(wins))),
        ),
        Mistake(
            "You count only the clear wins. A tie is half a win, and stands in the table as 0.5.",
            lambda wins, t: _interval((wins == 1.0).astype(float), t),
        ),
    ),
    hints=(
        "If you asked every prompt a thousand times more, which uncertainty would remain?",
        "The one about prompts: so there is one number a prompt, its mean. The standard error is that of a mean of "
        "independent numbers.",
        "rates = row means; half = t * rates.std(ddof=1) / sqrt(number of prompts); mean - half and mean + half.",
    ),
)


def _at(kl: float, kls: Array, rates: Array) -> float:
    order = np.argsort(kls)
    return float(np.interp(kl, kls[order], rates[order]))


def _gain(kl: float, kls: Array, rates: Array, other_kls: Array, other_rates: Array) -> float:
    return _at(kl, other_kls, other_rates) - _at(kl, kls, rates)


def _path(rng: np.random.Generator, height: float) -> tuple[Array, Array]:
    kls = np.sort(rng.uniform(0.05, 1.0, size=5)) * np.array([0.1, 1.0, 1.0, 1.0, 1.0])
    kls[-1] = rng.uniform(1.0, 1.3)
    rates = 0.5 + height * np.sqrt(kls) + 0.02 * rng.normal(size=5)
    order = np.array([[0, 4, 3, 1, 2], [0, 3, 4, 2, 1], [1, 4, 0, 3, 2]])[rng.integers(3)]  # training overshoots
    return kls[order], rates[order]


def _gain_inputs(rng: np.random.Generator) -> tuple[float, Array, Array, Array, Array]:
    return (float(rng.uniform(0.15, 0.95)), *_path(rng, 0.2), *_path(rng, 0.35))


def _nearest(kl: float, kls: Array, rates: Array) -> float:
    return float(rates[np.argmin(abs(kls - kl))])


def _swapped(kl: float, kls: Array, rates: Array) -> float:
    order = np.argsort(kls)
    kls, rates = kls[order], rates[order]
    i = int(np.searchsorted(kls, kl))
    share = (kl - kls[i - 1]) / (kls[i] - kls[i - 1])
    return float(share * rates[i - 1] + (1 - share) * rates[i])


MATCHED_GAIN = Exercise(
    name="matched-gain",
    notebook=NOTEBOOK,
    goal="How much more one transform wins than the other at the same KL, from the snapshots of two runs.",
    difficulty=2,
    minutes=10,
    points=2,
    answer=_gain,
    inputs=_gain_inputs,
    mistakes=(
        Mistake(
            "You compare the last snapshots. They have different KLs, and whoever moved further wins more, whatever "
            "the transform.",
            lambda kl, a, x, b, y: y[-1] - x[-1],
        ),
        Mistake(
            "You compare the best snapshots: chosen by their win rate, at whatever KL.",
            lambda kl, a, x, b, y: y.max() - x.max(),
        ),
        Mistake(
            "np.interp wants its points in increasing order and says nothing when they are not. KL overshoots in "
            "training: sort the snapshots by KL first.",
            lambda kl, a, x, b, y: np.interp(kl, b, y) - np.interp(kl, a, x),
        ),
        Mistake(
            "You sorted the KLs but left the win rates where they were: each rate belongs to its own snapshot.",
            lambda kl, a, x, b, y: np.interp(kl, np.sort(b), y) - np.interp(kl, np.sort(a), x),
        ),
        Mistake(
            "You take the nearest snapshot of each run: nearly the same KL, and the rest of the difference looks like "
            "a gain. Interpolate between the two snapshots around it.",
            lambda kl, a, x, b, y: _nearest(kl, b, y) - _nearest(kl, a, x),
        ),
        Mistake(
            "The two weights have changed places: the nearer snapshot must count more.",
            lambda kl, a, x, b, y: _swapped(kl, b, y) - _swapped(kl, a, x),
        ),
        Mistake(
            "The sign is turned: a gain of the second transform over the first is asked for.",
            lambda kl, a, x, b, y: _gain(kl, b, y, a, x),
        ),
    ),
    tries=8,
    hints=(
        "At the KL asked for there is no snapshot. Which two snapshots of a run tell about it?",
        "The two whose KLs enclose it, in the order of KL (not of the steps). Between them the win rate is taken to "
        "be a straight line.",
        "order = np.argsort(kls); np.interp(kl, kls[order], rates[order]) for each run; then the difference.",
    ),
)

EXERCISES = (PROMPT_INTERVAL, MATCHED_GAIN)
