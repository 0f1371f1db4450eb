"""Exercises of `01_alignment_and_win_rate`: KL and its direction, the RLHF optimum, ties, the price of not being it."""

from __future__ import annotations

import numpy as np

from infalign_edu.classroom.exercise import Arguments, Exercise, Mistake

NOTEBOOK = "01_alignment_and_win_rate"


def _policies(rng: np.random.Generator, dropped: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """A policy that never says the first `dropped` responses, and a reference that may not say the first either."""
    size = int(rng.integers(5, 8))
    policy, reference = rng.dirichlet(np.ones(size), size=2)
    policy[:dropped] = 0.0
    reference[0] *= rng.random() < 0.5
    order = rng.permutation(size)
    return (policy / policy.sum())[order], (reference / reference.sum())[order]


def _mean_log_ratio(weight: np.ndarray, top: np.ndarray, bottom: np.ndarray, support: np.ndarray) -> float:
    """Sum of weight log(top / bottom) over a support."""
    with np.errstate(divide="ignore"):
        return float(np.sum(weight[support] * np.log(top[support] / bottom[support])))


def _kl(p: np.ndarray, q: np.ndarray) -> float:
    return _mean_log_ratio(p, p, q, p > 0)


def _prompts(rng: np.random.Generator) -> Arguments:
    prompts, size = int(rng.integers(2, 4)), int(rng.integers(3, 6))
    beta = float(rng.uniform(0.1, 0.9))
    reward = rng.normal(size=(prompts, size))
    reward[rng.integers(prompts)] += rng.uniform(730, 760) * beta  # exp(reward / beta) is beyond a double here
    return rng.dirichlet(np.ones(size), size=prompts), reward, beta


def _shares(weight: np.ndarray, axis: int | None = 1) -> np.ndarray:
    return weight / weight.sum(axis=axis, keepdims=True)


def _tilt(reference: np.ndarray | float, exponent: np.ndarray) -> np.ndarray:
    return reference * np.exp(exponent - exponent.max(axis=1, keepdims=True))


def _levels(rng: np.random.Generator) -> Arguments:
    size = int(rng.integers(4, 8))
    return rng.dirichlet(np.ones(size)), rng.integers(0, 3, size=size).astype(float)


def _beaten(reference: np.ndarray, reward: np.ndarray, tie: float = 0.5) -> np.ndarray:
    return ((reward[:, None] > reward) + tie * (reward[:, None] == reward)) @ reference


def _own_tie(reference: np.ndarray, reward: np.ndarray) -> np.ndarray:
    return _beaten(reference, reward, 0.0) + reference / 2


def _toys(rng: np.random.Generator, dropped: int = 0) -> Arguments:
    size = int(rng.integers(3, 6))
    policy, reference = rng.dirichlet(np.ones(size), size=2)
    policy[:dropped] = 0.0
    return policy / policy.sum(), reference, rng.normal(size=size), float(rng.uniform(0.2, 3.0))


def _best(reference: np.ndarray, reward: np.ndarray, beta: float) -> np.ndarray:
    weight = reference * np.exp((reward - reward.max()) / beta)
    return weight / weight.sum()


def _short(policy: np.ndarray, reference: np.ndarray, reward: np.ndarray, beta: float) -> float:
    return beta * _kl(policy, _best(reference, reward, beta))


EXERCISES = (
    Exercise(
        name="kl-from-probabilities",
        notebook=NOTEBOOK,
        goal="KL(policy || reference) in nats, where the policy may never say some of the responses.",
        difficulty=1,
        minutes=10,
        points=2,
        answer=_kl,
        inputs=_policies,
        mistakes=(
            Mistake(
                "That is KL(reference || policy): the mean has to be under the policy. Yours is infinite as soon as "
                "the policy drops a response, which alignment allows.",
                lambda p, q: _mean_log_ratio(q, q, p, q > 0),
            ),
            Mistake(
                "That is the other direction, and only over what the policy still says: weights and ratio have the two "
                "the wrong way round.",
                lambda p, q: _mean_log_ratio(q, q, p, p > 0),
            ),
            Mistake(
                "Bits: you took the logarithm to base 2. A nat uses the natural logarithm.",
                lambda p, q: _kl(p, q) / np.log(2),
            ),
            Mistake("The ratio is upside down: a KL is never negative, yours never positive.", lambda p, q: -_kl(p, q)),
            Mistake(
                "The weights are missing: a KL is a mean of the log-ratio under the policy, not a plain sum.",
                lambda p, q: _mean_log_ratio(np.ones_like(p), p, q, p > 0),
            ),
            Mistake(
                "The log-ratio is right, but it is weighted by the reference. Whose samples is the mean over?",
                lambda p, q: _mean_log_ratio(q, p, q, p > 0),
            ),
            Mistake(
                "0 log 0 became nan. A response that is never said contributes nothing: leave it out of the sum.",
                lambda p, q: float(np.sum(p * np.log(p / q))),
            ),
            Mistake(
                "The reference is missing: that is minus the entropy of the policy.",
                lambda p, q: _mean_log_ratio(p, p, np.ones_like(q), p > 0),
            ),
        ),
        hints=(
            "A KL is a mean of log-ratios. Under which of the two distributions, and which one is on top?",
            "Responses with policy = 0 add nothing (s log s goes to 0): keep only those that the policy says.",
            "With said = policy > 0: the sum of policy[said] * log(policy[said] / reference[said]).",
        ),
    ),
    Exercise(
        name="rlhf-optimum",
        notebook=NOTEBOOK,
        goal="The maximiser of mean reward minus beta KL(policy || reference), for each prompt, at any size of reward.",
        difficulty=2,
        minutes=10,
        points=2,
        answer=lambda q, r, beta: _shares(_tilt(q, r / beta)),
        inputs=_prompts,
        mistakes=(
            Mistake(
                "You multiply the reward by beta. Think of a huge beta, a high price: the policy should stay at the "
                "reference.",
                lambda q, r, beta: _shares(_tilt(q, r * beta)),
            ),
            Mistake(
                "beta is missing: the same policy would be best at every price.",
                lambda q, r, beta: _shares(_tilt(q, r)),
            ),
            Mistake(
                "The reference is missing: with all rewards equal the optimum is the reference, and yours is uniform.",
                lambda q, r, beta: _shares(_tilt(1.0, r / beta)),
            ),
            Mistake(
                "Probabilities have to sum to 1: the division by Z is missing (and large rewards overflow).",
                lambda q, r, beta: q * np.exp(r / beta),
            ),
            Mistake(
                "Well shifted against overflow, but the division by Z is missing: the rows do not sum to 1.",
                lambda q, r, beta: _tilt(q, r / beta),
            ),
            Mistake(
                "The formula is right, but exp overflows for a large reward / beta, and infinity / infinity is nan. "
                "Adding a constant to a prompt's rewards does not change its optimum: use that first.",
                lambda q, r, beta: _shares(q * np.exp(r / beta)),
            ),
            Mistake(
                "You normalise over all prompts together. Each row is a policy of its own and sums to 1.",
                lambda q, r, beta: _shares(_tilt(q, r / beta), axis=None),
            ),
        ),
        hints=(
            "What is left of the optimum when all rewards are equal? And when beta is huge?",
            "It is proportional to reference * exp(reward / beta). Subtract each row's largest reward before exp.",
            "weight = reference * exp((reward - row maximum) / beta), divided by each row's sum (keepdims=True).",
        ),
    ),
    Exercise(
        name="shortfall",
        notebook=NOTEBOOK,
        goal="By how much a policy's objective J falls short of the best possible one, from probabilities and rewards.",
        difficulty=3,
        minutes=15,
        points=2,
        answer=_short,
        inputs=_toys,
        corners=(lambda rng: _toys(rng, 1),),
        mistakes=(
            Mistake(
                "beta is missing: KL is in nats, J in units of reward; beta is the price that converts.",
                lambda p, q, r, beta: _kl(p, _best(q, r, beta)),
            ),
            Mistake(
                "The KL is the other way round: the shortfall is a mean under the policy that falls short.",
                lambda p, q, r, beta: beta * _mean_log_ratio(_best(q, r, beta), _best(q, r, beta), p, p >= 0),
            ),
            Mistake(
                "That is the KL from the reference. The question is how far the policy is from the optimum.",
                lambda p, q, r, beta: beta * _kl(p, q),
            ),
            Mistake("The sign: J of the policy minus the best J is never positive.", lambda *case: -_short(*case)),
            Mistake(
                "You subtract the mean reward alone: the policy's J also pays beta times its KL from the reference.",
                lambda p, q, r, beta: _short(p, q, r, beta) - beta * _kl(p, q),
            ),
            Mistake(
                "You compare mean rewards of the two policies; both also pay for their KL.",
                lambda p, q, r, beta: float((_best(q, r, beta) - p) @ r),
            ),
        ),
        hints=(
            "Section 3 writes J of any policy as two terms. Which of them depends on the policy?",
            "First compute the optimum (the exercise before). Then measure how far the policy is from it, in nats.",
            "beta times KL(policy || optimum), over the responses that the policy says. (beta log Z - J is the same.)",
        ),
    ),
    Exercise(
        name="quantile-of-a-distribution",
        notebook=NOTEBOOK,
        goal="The calibrated reward C of each response of a finite reference, ties included.",
        difficulty=2,
        minutes=10,
        points=2,
        answer=_beaten,
        inputs=_levels,
        mistakes=(
            Mistake(
                "The ties are lost: C also holds half the probability of an equal reward, its own included.",
                lambda q, r: _beaten(q, r, 0.0),
            ),
            Mistake(
                "Ties count fully here (<=). The mean of C under the reference should be 1/2.",
                lambda q, r: _beaten(q, r, 1.0),
            ),
            Mistake(
                "You count what is better than y: a good response should have a large C.",
                lambda q, r: 1 - _beaten(q, r),
            ),
            Mistake("A response ties with every response of the same reward, not only with itself.", _own_tie),
            Mistake(
                "You count responses, each alike. C is a probability under the reference, which says some more often.",
                lambda q, r: _beaten(np.full(len(q), 1 / len(q)), r),
            ),
            Mistake(
                "That is one number, the mean of C. Asked for is C of every response.",
                lambda q, r: float(q @ _beaten(q, r)),
            ),
        ),
        hints=(
            "Draw Z from the reference. With which probability is it worse than y, with which is it just as good?",
            "Make the table better[y, z] of comparisons, and the table of ties; both have the shape [S, S].",
            "(better + tie / 2) @ reference, where better[y, z] says whether reward[y] > reward[z].",
        ),
    ),
)
