"""Exercises of `00_start_here`: one for each letter of CTRL, and one for the judge."""

from __future__ import annotations

import numpy as np

from infalign_edu.classroom.exercise import Arguments, Exercise, Mistake

NOTEBOOK = "00_start_here"


def _users(rng: np.random.Generator, draws: int | None = None) -> Arguments:
    n = draws or int(rng.integers(1, 5))
    users = int(rng.integers(6, 10))
    return rng.integers(1, 5, size=(users, n)).astype(float), rng.integers(0, 4, size=(users, n)).astype(float)


def _half_ties(ours: np.ndarray, theirs: np.ndarray, tie: float = 0.5) -> float:
    return float(np.mean((ours > theirs) + tie * (ours == theirs)))


def _tables(rng: np.random.Generator) -> Arguments:
    prompts, m, k = int(rng.integers(2, 4)), int(rng.integers(2, 6)), int(rng.integers(4, 8))
    return rng.integers(0, 5, size=(prompts, m)).astype(float), rng.integers(0, 5, size=(prompts, k)).astype(float)


def _count(rewards: np.ndarray, reference: np.ndarray, tie: float = 0.5, add: int = 0) -> np.ndarray:
    mine, theirs = rewards[:, :, None], reference[:, None, :]
    return ((theirs < mine) + tie * (theirs == mine)).sum(axis=2) / (reference.shape[1] + add)


def _pooled(rewards: np.ndarray, reference: np.ndarray) -> np.ndarray:
    return _count(rewards, np.broadcast_to(reference.ravel(), (len(rewards), reference.size)))


def _samples(rng: np.random.Generator, sign: int | None = None) -> Arguments:
    u = rng.random((int(rng.integers(2, 4)), int(rng.integers(3, 6))))
    u[0, :2] = 0.0, 1.0
    return u, (sign or int(rng.choice([-1, 1]))) * float(rng.uniform(0.5, 2.5)), float(rng.uniform(0.4, 3.0))


def _shares(weight: np.ndarray, axis: int | None = 1) -> np.ndarray:
    return weight / weight.sum(axis=axis, keepdims=True)


def _exponential(u: np.ndarray, t: float) -> np.ndarray:
    return np.sign(t) * np.exp(t * u)


def _responses(rng: np.random.Generator) -> Arguments:
    rows, tokens = int(rng.integers(2, 5)), int(rng.integers(3, 6))
    policy, reference = -rng.exponential(size=(2, rows, tokens))
    policy[0, -1] = reference[0, -1] = 0.0  # a response that ended earlier
    return rng.random(rows), policy, reference, float(rng.uniform(0.5, 3.0)), float(rng.uniform(0.1, 0.8))


EXERCISES = (
    Exercise(
        name="best-of-n-by-hand",
        notebook=NOTEBOOK,
        goal="The win rate under best-of-N, from N rewards of the policy and N of the reference for each user.",
        difficulty=1,
        minutes=5,
        points=2,
        answer=lambda policy, reference: _half_ties(policy.max(axis=1), reference.max(axis=1)),
        inputs=_users,
        corners=(lambda rng: _users(rng, 1), lambda rng: _users(rng, 4)),
        mistakes=(
            Mistake(
                "Ties are lost: two users who see equally good answers should count one half each, so that a model "
                "against itself has a win rate of 1/2.",
                lambda p, r: _half_ties(p.max(axis=1), r.max(axis=1), 0.0),
            ),
            Mistake(
                "A tie counts as a whole win here. Swap the two models: the two win rates must add up to 1.",
                lambda p, r: _half_ties(p.max(axis=1), r.max(axis=1), 1.0),
            ),
            Mistake(
                "That is worst-of-N: you kept the lowest of the N rewards. This user is shown the best answer.",
                lambda p, r: _half_ties(p.min(axis=1), r.min(axis=1)),
            ),
            Mistake(
                "That is the reference's win rate over the policy: the comparison is the other way round.",
                lambda p, r: _half_ties(r.max(axis=1), p.max(axis=1)),
            ),
            Mistake(
                "You took the maximum over the users, column by column. Each user has a row; the N draws lie along it.",
                lambda p, r: _half_ties(p.max(axis=0), r.max(axis=0)),
            ),
            Mistake(
                "You compare each draw with one draw: that is the standard win rate, of a user who sees one answer.",
                lambda p, r: _half_ties(p, r),
            ),
            Mistake(
                "You compare the mean of the N rewards. Nobody sees a mean: the user sees one answer, the best.",
                lambda p, r: _half_ties(p.mean(axis=1), r.mean(axis=1)),
            ),
        ),
        hints=(
            "What does one user see? Reduce her row of N rewards to the one that counts.",
            "The best is the maximum along the second axis, for the policy and for the reference. Compare the two.",
            "Average over users: 1 where the policy's best is greater, 1/2 where the two are equal.",
        ),
    ),
    Exercise(
        name="quantile-with-half-ties",
        notebook=NOTEBOOK,
        goal="The calibrated reward: the share of the same prompt's reference rewards that a reward beats, half ties.",
        difficulty=1,
        minutes=10,
        points=2,
        answer=_count,
        inputs=_tables,
        mistakes=(
            Mistake(
                "Ties are lost: you count only what lies strictly below. A reference sample with the same reward "
                "counts one half.",
                lambda r, z: _count(r, z, tie=0.0),
            ),
            Mistake(
                "Ties count fully (<=). Under the reference the mean should be 1/2; yours is above it.",
                lambda r, z: _count(r, z, tie=1.0),
            ),
            Mistake(
                "You count from the top: the share that is better. A good response should have a high quantile.",
                lambda r, z: 1 - _count(r, z),
            ),
            Mistake(
                "You divide by K + 1. A response that beats all K reference samples has the quantile 1 here.",
                lambda r, z: _count(r, z, add=1),
            ),
            Mistake(
                "You divide by K - 1, so a response can have a quantile above 1. There are K reference samples.",
                lambda r, z: _count(r, z, add=-1),
            ),
            Mistake(
                "All prompts share one table here. Rewards of different prompts have no common scale: row i of the "
                "rewards belongs to row i of the reference.",
                _pooled,
            ),
            Mistake(
                "That is a count. Divide by how many reference samples there are.",
                lambda r, z: _count(r, z) * z.shape[1],
            ),
        ),
        hints=(
            "Take one response: how many of its prompt's K reference samples does it beat, with how many does it tie?",
            "Compare rewards[:, :, None] with reference[:, None, :]: that has the shape [prompts, M, K].",
            "The mean over the last axis of (smaller) + 1/2 (equal).",
        ),
    ),
    Exercise(
        name="tilted-weights",
        notebook=NOTEBOOK,
        goal="The weights that turn reference samples into samples of the policy trained on Phi(u) = sign(t) exp(t u).",
        difficulty=2,
        minutes=10,
        points=2,
        answer=lambda u, t, beta: _shares(np.exp(_exponential(u, t) / beta)),
        inputs=_samples,
        corners=(lambda rng: _samples(rng, -1), lambda rng: _samples(rng, 1)),
        mistakes=(
            Mistake(
                "You multiply by beta. A large beta is a high price for leaving the reference: the weights should "
                "become equal then.",
                lambda u, t, beta: _shares(np.exp(_exponential(u, t) * beta)),
            ),
            Mistake(
                "beta is missing: your weights would be the same at every price of KL.",
                lambda u, t, beta: _shares(np.exp(_exponential(u, t))),
            ),
            Mistake(
                "The weights of each prompt have to sum to 1; yours are not normalised.",
                lambda u, t, beta: np.exp(_exponential(u, t) / beta),
            ),
            Mistake(
                "You normalise over all prompts together. Each prompt has its own policy: each row sums to 1.",
                lambda u, t, beta: _shares(np.exp(_exponential(u, t) / beta), axis=None),
            ),
            Mistake(
                "You tilt by t u itself. The transform Phi is an exponential, and its exponential is the weight: "
                "two exponentials, one inside the other.",
                lambda u, t, beta: _shares(np.exp(t * u / beta)),
            ),
            Mistake(
                "You weight by Phi itself. The optimum of KL-regularised RL is exponential in the reward.",
                lambda u, t, beta: _shares(np.exp(t * u)),
            ),
            Mistake(
                "The sign of t is lost: for a negative t, exp(t u) falls with u, and the policy would prefer the "
                "worst.",
                lambda u, t, beta: _shares(np.exp(np.exp(t * u) / beta)),
            ),
        ),
        hints=(
            "What is the density of the trained policy, relative to the reference, for a sample at quantile u?",
            "It is proportional to exp(Phi(u) / beta). First Phi, with its sign; then the tilt.",
            "weight = exp(sign(t) exp(t u) / beta), divided by its sum along each row (keepdims=True).",
        ),
    ),
    Exercise(
        name="reward-with-kl",
        notebook=NOTEBOOK,
        goal="The training reward of whole responses: Phi(u) = exp(t u) less beta times their log-ratio.",
        difficulty=2,
        minutes=10,
        points=2,
        answer=lambda u, p, q, t, beta: np.exp(t * u) - beta * (p - q).sum(axis=1),
        inputs=_responses,
        mistakes=(
            Mistake(
                "The sign of the KL part is wrong (or the ratio is upside down): a response that the policy says more "
                "often than the reference does should lose reward.",
                lambda u, p, q, t, beta: np.exp(t * u) + beta * (p - q).sum(axis=1),
            ),
            Mistake(
                "beta is missing: the price per nat of KL.",
                lambda u, p, q, t, beta: np.exp(t * u) - (p - q).sum(axis=1),
            ),
            Mistake(
                "You average over tokens. The probability of a response is a product over its tokens, so its logarithm "
                "is a sum; with a mean, long responses would pay less.",
                lambda u, p, q, t, beta: np.exp(t * u) - beta * (p - q).mean(axis=1),
            ),
            Mistake(
                "The transform is missing: you pay u itself. This is the stage Tr of CTRL.",
                lambda u, p, q, t, beta: u - beta * (p - q).sum(axis=1),
            ),
            Mistake(
                "beta multiplies the whole reward here. It is the price of the KL part alone.",
                lambda u, p, q, t, beta: beta * (np.exp(t * u) - (p - q).sum(axis=1)),
            ),
            Mistake(
                "You sum the log-ratio over all responses: each response pays for its own tokens.",
                lambda u, p, q, t, beta: np.exp(t * u) - beta * (p - q).sum(),
            ),
            Mistake(
                "The reference is missing: minus beta log pi alone would reward surprising answers, whatever the "
                "reference thinks of them.",
                lambda u, p, q, t, beta: np.exp(t * u) - beta * p.sum(axis=1),
            ),
        ),
        hints=(
            "Which two things does the objective want from a response, and which of them is a cost?",
            "log pi(y) of a whole response is the sum of its tokens' log-probabilities, along the second axis.",
            "exp(t u) - beta * (sum of log_policy - sum of log_reference).",
        ),
    ),
)
