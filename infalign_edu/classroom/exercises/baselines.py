"""Exercises of `09_frontiers_and_baselines` about other algorithms: where GRPO's update points, what DPO fits.

Kept apart from `evidence`, which has those about reading the results.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from infalign_edu.classroom.exercise import Exercise, Mistake

Array = NDArray[np.float64]
NOTEBOOK = "09_frontiers_and_baselines"
FLOOR = 1e-4


def _pull(pi: Array, ref: Array, beta: float) -> Array:
    return beta * (pi - ref)


def _push(pi: Array, phi: Array, power: float = 1.0, floor: float = FLOOR, by: Array | None = None) -> Array:
    """pi (Phi - V) / (deviation^power + floor), the deviation under `by`."""
    weight = pi if by is None else by
    deviation = np.sqrt(weight @ (phi - weight @ phi) ** 2)
    return np.asarray(pi * (phi - pi @ phi) / (deviation**power + floor))


def _grpo(pi: Array, ref: Array, phi: Array, beta: float) -> Array:
    return _push(pi, phi) - _pull(pi, ref, beta)


def _kl_gradient(pi: Array, ref: Array) -> Array:
    ratio = np.log(pi / ref)
    return np.asarray(pi * (ratio - pi @ ratio))


def _uncentred(pi: Array, ref: Array, phi: Array, beta: float) -> Array:
    deviation = np.sqrt(pi @ (phi - pi @ phi) ** 2)
    return np.asarray(pi * phi / (deviation + FLOOR) - _pull(pi, ref, beta))


def _grpo_inputs(rng: np.random.Generator, flat: bool = False) -> tuple[Array, Array, Array, float]:
    size = int(rng.integers(3, 8))
    pi, ref = rng.dirichlet(np.full(size, 2.0), size=2)
    phi = rng.normal(size=size) * rng.uniform(0.3, 3.0) + rng.uniform(0.5, 1.5)
    return pi, ref, np.full(size, 0.7) if flat else phi, float(rng.uniform(0.2, 2.0))


GRPO_UPDATE = Exercise(
    name="grpo-update",
    notebook=NOTEBOOK,
    goal="The direction in which GRPO moves the logits of a one-token policy, on average over large groups.",
    difficulty=3,
    minutes=15,
    points=2,
    answer=_grpo,
    inputs=_grpo_inputs,
    corners=(lambda rng: _grpo_inputs(rng, flat=True),),
    mistakes=(
        Mistake(
            "The division by the group's deviation is missing: that is GRPO with it switched off.",
            lambda pi, ref, phi, beta: pi * (phi - pi @ phi) - _pull(pi, ref, beta),
        ),
        Mistake(
            "You take the deviation under the reference. A group is drawn from the policy.",
            lambda pi, ref, phi, beta: _push(pi, phi, by=ref) - _pull(pi, ref, beta),
        ),
        Mistake(
            "You take every response alike in the deviation. A group holds them with the policy's probabilities.",
            lambda pi, ref, phi, beta: _push(pi, phi, by=np.full(len(pi), 1 / len(pi))) - _pull(pi, ref, beta),
        ),
        Mistake(
            "You divide by the variance. The recipe divides by the standard deviation.",
            lambda pi, ref, phi, beta: _push(pi, phi, power=2.0) - _pull(pi, ref, beta),
        ),
        Mistake(
            "The KL is divided as well. In GRPO it stands in the loss, beside the advantages and untouched by s.",
            lambda pi, ref, phi, beta: _push(pi, phi - beta * np.log(pi / ref)),
        ),
        Mistake(
            "Your pull is the gradient of KL(pi || pi_ref). On fixed samples of pi, k3 has that mean but another "
            "gradient: differentiate rho - 1 - log rho by log pi first, then take the mean.",
            lambda pi, ref, phi, beta: _push(pi, phi) - beta * _kl_gradient(pi, ref),
        ),
        Mistake(
            "The pull has the wrong sign: it drives the policy away from the reference.",
            lambda pi, ref, phi, beta: _push(pi, phi) + _pull(pi, ref, beta),
        ),
        Mistake(
            "The group's mean is not subtracted. Your numbers do not sum to 0, as moves of a softmax's logits must.",
            _uncentred,
        ),
        Mistake(
            "Every response is pushed alike. Likely ones are in the group more often: weigh by the policy.",
            lambda pi, ref, phi, beta: _push(pi, phi) / pi - _pull(pi, ref, beta),
        ),
    ),
    hints=(
        "Two parts: the mean of A times the gradient of log pi, and beta times the mean gradient of k3. For a softmax "
        "the gradient of log pi(y) by the logit of a is 1[y = a] - pi(a).",
        "E[A (1[y = a] - pi(a))] = pi(a) A(a), since A has mean 0. With rho = ref/pi, k3 changes by 1 - rho for each "
        "unit of log pi.",
        "E[(1 - rho)(1[y = a] - pi(a))] = pi(a) - ref(a). So pi (phi - V)/(s + 1e-4) - beta (pi - ref), with V and s "
        "under the policy.",
    ),
)


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _implied(p: Array, q: Array, beta: float) -> Array:
    h = beta * (p - q)
    return _sigmoid(h[:, :, None] - h[:, None, :])


def _softmax_pairs(p: Array, q: Array, beta: float) -> Array:
    h = beta * (p - q)
    weight = np.exp(h - h.max(axis=1, keepdims=True))
    share = weight / weight.sum(axis=1, keepdims=True)
    return np.repeat(share[:, :, None], p.shape[1], axis=2)


def _implied_inputs(rng: np.random.Generator, same: bool = False) -> tuple[Array, Array, float]:
    prompts, M = (int(size) for size in rng.choice(np.arange(2, 6), size=2, replace=False))
    reference = -rng.uniform(3, 12, size=(prompts, M))
    log_policy = reference + (0.0 if same else 1.0) * rng.normal(size=(prompts, M))
    return log_policy, reference, float(rng.choice([rng.uniform(0.1, 0.6), rng.uniform(1.5, 3.0)]))


DPO_PREFERENCES = Exercise(
    name="implicit-preferences",
    notebook=NOTEBOOK,
    goal="With which probability a policy says, in DPO's reading, that one of its responses is better than another.",
    difficulty=1,
    minutes=8,
    points=2,
    answer=_implied,
    inputs=_implied_inputs,
    corners=(lambda rng: _implied_inputs(rng, same=True),),
    mistakes=(
        Mistake(
            "The reference is missing. A policy that is the reference prefers nothing, however likely its words are.",
            lambda p, q, beta: _implied(p, 0 * q, beta),
        ),
        Mistake(
            "You divide by beta: the implicit reward is beta log(pi/pi_ref), not log(pi/pi_ref)/beta.",
            lambda p, q, beta: _implied(p, q, 1 / beta),
        ),
        Mistake(
            "beta is missing: at a small beta a large log-ratio is worth little reward.",
            lambda p, q, beta: _implied(p, q, 1.0),
        ),
        Mistake(
            "Turned round: [x, i, j] is the probability that response i is better than response j.",
            lambda p, q, beta: _implied(q, p, beta),
        ),
        Mistake(
            "That is the share of a response among all M. Bradley and Terry compare two: only their difference counts.",
            _softmax_pairs,
        ),
        Mistake(
            "Those are the winners, 0 or 1. DPO fits how sure one may be.",
            lambda p, q, beta: (1 + np.sign(_implied(p, q, beta) - 0.5)) / 2,
        ),
        Mistake(
            "You compare probabilities. The implicit reward is a difference of logarithms.",
            lambda p, q, beta: _sigmoid(beta * ((np.exp(p - q))[:, :, None] - np.exp(p - q)[:, None, :])),
        ),
    ),
    hints=(
        "Solve pi = pi_ref exp(Phi / beta) / Z for Phi. What of Z is left in the difference of two responses?",
        "The implicit reward is beta (log pi - log pi_ref), up to a constant of the prompt; a preference is the "
        "sigmoid of a difference of two of them.",
        "h = beta (log_policy - log_reference); then 1/(1 + exp(-(h[:, :, None] - h[:, None, :]))).",
    ),
)

EXERCISES = (GRPO_UPDATE, DPO_PREFERENCES)
