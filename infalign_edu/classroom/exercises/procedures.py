"""Exercises of `02_inference_time_procedures`: what a procedure does to a distribution, and how to estimate it."""

from __future__ import annotations

from math import comb

import numpy as np

from infalign_edu.classroom.exercise import Arguments, Exercise, Mistake

NOTEBOOK = "02_inference_time_procedures"


def _points(rng: np.random.Generator, n: int | None = None) -> Arguments:
    return np.concatenate([rng.random(4), [0.0, 1.0]]), n or int(rng.integers(2, 9))


def _draws(rng: np.random.Generator, n: int | None = None) -> Arguments:
    n = n or int(rng.integers(2, 6))
    prompts, m = int(rng.integers(3, 5)), n + int(rng.integers(2, 6))
    rewards = rng.normal(size=(prompts, m))
    rewards[:, 1] = rewards[:, 0]  # a tie
    return rewards, int(rng.integers(1, n + 1)), n


def _weighted(rewards: np.ndarray, weights: list[float]) -> np.ndarray:
    return np.sort(rewards, axis=1) @ np.array(weights)


def _subsets(m: int, k: int, n: int, counted: int = 1) -> list[float]:
    """Chance of each sample, from the smallest, to be the k-th best of a random n-subset; `counted` 0 is a mistake."""
    return [comb(i - counted, n - k) * comb(m - i, k - 1) / comb(m, n) for i in range(1, m + 1)]


def _replaced(m: int, k: int, n: int) -> list[float]:
    """The same for n draws with replacement: steps of the k-th best's CDF at i/m."""
    t = np.arange(m + 1) / m
    cdf = sum(comb(n, j) * t**j * (1 - t) ** (n - j) for j in range(n - k + 1, n + 1))
    return list(np.diff(cdf))


def _tied(rng: np.random.Generator, n: int | None = None) -> Arguments:
    size = int(rng.integers(4, 8))
    policy, reference = rng.dirichlet(np.ones(size), size=2)
    reward = rng.permutation(np.arange(size) % 3).astype(float)  # three levels, ties for certain
    return policy, reference, reward, n or int(rng.integers(2, 6))


def _shown(p: np.ndarray, reward: np.ndarray, n: int, worst: bool = False) -> np.ndarray:
    """Probability of each reward level after best-of-n (or worst-of-n)."""
    upto = (reward <= np.unique(reward)[:, None]) @ p
    return np.diff(1 - (1 - upto) ** n if worst else upto**n, prepend=0.0)


def _sharp(p: np.ndarray, reward: np.ndarray, n: int) -> np.ndarray:
    level = _shown(p, reward, 1) ** n
    return level / level.sum()


def _duel(ours: np.ndarray, theirs: np.ndarray, tie: float = 0.5) -> float:
    below = np.cumsum(theirs) - theirs
    return float(ours @ (below + tie * theirs))


EXERCISES = (
    Exercise(
        name="best-of-n-density",
        notebook=NOTEBOOK,
        goal="The density of the calibrated reward that best-of-N shows, at u, when the policy is the reference.",
        difficulty=1,
        minutes=5,
        points=2,
        answer=lambda u, n: n * u ** (n - 1),
        inputs=_points,
        corners=(lambda rng: _points(rng, 1), lambda rng: _points(rng, 3)),
        mistakes=(
            Mistake(
                "That is worst-of-N: its density is largest at u = 0. The best of N is high when all the others lie "
                "below it, and each does so with probability u.",
                lambda u, n: n * (1 - u) ** (n - 1),
            ),
            Mistake("That is the CDF. The density is its derivative by u.", lambda u, n: u**n),
            Mistake(
                "The factor N is missing: any of the N draws can be the best. Your density does not integrate to 1.",
                lambda u, n: u ** (n - 1),
            ),
            Mistake(
                "The exponent is N, but only the N - 1 others have to lie below the one that is shown.",
                lambda u, n: n * u**n,
            ),
            Mistake(
                "The factor is N - 1, but any of the N draws can be the best. The CDF is u^N: its "
                "derivative has the old exponent in front.",
                lambda u, n: (n - 1) * u ** (n - 1),
            ),
        ),
        hints=(
            "When is the best of N draws at most u? Write that event about the N draws.",
            "All N draws have to be at most u, so the CDF is u^N (the draws are independent, u is uniform).",
            "The density is the derivative of u^N by u.",
        ),
    ),
    Exercise(
        name="tied-win-rate",
        notebook=NOTEBOOK,
        goal="The exact win rate under best-of-n of a policy over a reference, both finite, with tied rewards.",
        difficulty=3,
        minutes=15,
        points=2,
        answer=lambda p, q, r, n: _duel(_shown(p, r, n), _shown(q, r, n)),
        inputs=_tied,
        corners=(lambda rng: _tied(rng, 1), lambda rng: _tied(rng, 4)),
        mistakes=(
            Mistake(
                "That is the standard win rate: n is not used. Both models are seen through best-of-n.",
                lambda p, q, r, n: _duel(_shown(p, r, 1), _shown(q, r, 1)),
            ),
            Mistake(
                "Only the policy goes through best-of-n. The user does the same to the reference; otherwise the "
                "reference would win more than half against itself.",
                lambda p, q, r, n: _duel(_shown(p, r, n), _shown(q, r, 1)),
            ),
            Mistake(
                "That is worst-of-n: the shown level is at most k if all draws are, which is F^n.",
                lambda p, q, r, n: _duel(_shown(p, r, n, worst=True), _shown(q, r, n, worst=True)),
            ),
            Mistake(
                "The half ties are lost: the two win rates, one each way, no longer sum to 1.",
                lambda p, q, r, n: _duel(_shown(p, r, n), _shown(q, r, n), 0.0),
            ),
            Mistake(
                "Each tie counts as a whole win: it is worth one half to each side.",
                lambda p, q, r, n: _duel(_shown(p, r, n), _shown(q, r, n), 1.0),
            ),
            Mistake(
                "That is the reference's win rate over the policy.",
                lambda p, q, r, n: _duel(_shown(q, r, n), _shown(p, r, n)),
            ),
            Mistake(
                "You raise the probabilities to the power n and normalise: that sharpens a policy towards what it says "
                "most often, without a look at the rewards. It is the CDF that is raised to the power n.",
                lambda p, q, r, n: _duel(_sharp(p, r, n), _sharp(q, r, n)),
            ),
        ),
        hints=(
            "With which probability is the best of n draws at most on a given reward level?",
            "F_k^n, with F_k the probability of a reward up to level k. Level k itself has F_k^n - F_(k-1)^n.",
            "Do that to both models, then sum over pairs of levels: 1 for higher, 1/2 for equal, times both "
            "probabilities.",
        ),
    ),
    Exercise(
        name="kth-best-estimate",
        notebook=NOTEBOOK,
        goal="The unbiased estimate, for each prompt, of the mean reward of the k-th best of n, from M samples.",
        difficulty=3,
        minutes=15,
        points=2,
        answer=lambda r, k, n: _weighted(r, _subsets(r.shape[1], k, n)),
        inputs=_draws,
        corners=(lambda rng: _draws(rng, 1), lambda rng: _draws(rng, 4)),
        mistakes=(
            Mistake(
                "That is the plug-in: it draws with replacement, so one sample can fill several of the n places. It is "
                "biased, however large M is. Choose n different samples instead.",
                lambda r, k, n: _weighted(r, _replaced(r.shape[1], k, n)),
            ),
            Mistake(
                "k is counted from the worst: k = 1 should be the best of n. Who has to lie above the k-th best?",
                lambda r, k, n: _weighted(r, _subsets(r.shape[1], n - k + 1, n)),
            ),
            Mistake(
                "Off by one: the i-th smallest has i - 1 samples below it, not i. Your weights do not sum to 1.",
                lambda r, k, n: _weighted(r, _subsets(r.shape[1], k, n, counted=0)),
            ),
            Mistake(
                "The weights are right, but the rewards are not sorted: they belong to the smallest, the next, ...",
                lambda r, k, n: r @ np.array(_subsets(r.shape[1], k, n)),
            ),
            Mistake(
                "That is one subset, the first n samples. It is unbiased, but noisy: average over all subsets.",
                lambda r, k, n: np.sort(r[:, :n], axis=1)[:, -k],
            ),
            Mistake(
                "That is the k-th best of all M samples. The user draws n, and M is only how many you have.",
                lambda r, k, n: np.sort(r, axis=1)[:, -k],
            ),
            Mistake(
                "One number for all prompts: keep the prompts apart, the standard error is taken over them.",
                lambda r, k, n: float(np.mean(_weighted(r, _subsets(r.shape[1], k, n)))),
            ),
        ),
        hints=(
            "Sort the M rewards. In which n-subsets is the i-th smallest the k-th best one?",
            "It has to be in the subset, with k - 1 of those above it and n - k of those below it: count the choices.",
            "Weight of the i-th smallest (i = 1..M): comb(i - 1, n - k) * comb(M - i, k - 1) / comb(M, n).",
        ),
    ),
)
