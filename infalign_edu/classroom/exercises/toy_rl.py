"""Exercises of `06_toy_rl_meets_theory`: the advantages and the gradient of one batch, and a wrong turn.

Everything is NumPy, so that the catalogue loads without torch; an answer may use torch all the same.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from infalign_edu.classroom.exercise import Exercise, Mistake

Array = NDArray[np.float64]
NOTEBOOK = "06_toy_rl_meets_theory"


def _others(rewards: Array, lost: int = 1) -> Array:
    return (rewards.sum(axis=1, keepdims=True) - rewards) / (rewards.shape[1] - lost)


def _centred(rewards: Array, axis: int | None = 1) -> Array:
    return rewards - rewards.mean(axis=axis, keepdims=True)


def _rloo_inputs(rng: np.random.Generator, shape: tuple[int, ...] = ()) -> tuple[Array]:
    shape = shape or tuple(rng.choice(np.arange(2, 7), size=2, replace=False))
    return (rng.normal(size=shape) * 3 + rng.normal(size=(shape[0], 1)) * 5,)


def _whole_batch(rewards: Array) -> Array:
    return rewards - (rewards.sum() - rewards) / (rewards.size - 1)


RLOO = Exercise(
    name="rloo-advantages",
    notebook=NOTEBOOK,
    goal="The advantage of each sample: its reward minus what the other samples of its prompt got on average.",
    difficulty=1,
    minutes=5,
    points=2,
    answer=lambda rewards: rewards - _others(rewards),
    inputs=_rloo_inputs,
    corners=(partial(_rloo_inputs, shape=(3, 2)),),
    mistakes=(
        Mistake(
            "The sample is in its own baseline. Then the baseline depends on y_i, and the gradient shrinks by the "
            "factor (K-1)/K: leave one out.",
            _centred,
        ),
        Mistake(
            "You divide by the group's standard deviation (as GRPO does by default). Asked for is the difference "
            "alone: where all R of a group are equal, as at the optimum, yours is 0/0. (Section 6 divides Phi and not "
            "the KL, and misses the optimum.)",
            lambda rewards: _centred(rewards) / rewards.std(axis=1, keepdims=True),
        ),
        Mistake(
            "You divide by the group's standard deviation (with K - 1 in it). Asked for is the difference alone, in "
            "the units of the reward.",
            lambda rewards: _centred(rewards) / rewards.std(axis=1, keepdims=True, ddof=1),
        ),
        Mistake(
            "The sum of the others is divided by K; there are K - 1 of them.",
            lambda rewards: rewards - _others(rewards, lost=0),
        ),
        Mistake(
            "There is no baseline in it: that is plain REINFORCE, right on average but with far more noise.",
            lambda rewards: rewards,
        ),
        Mistake("That is the baseline alone, the mean of the others. How much better was the sample?", _others),
        Mistake(
            "The sign is turned: a sample that did better than the others should get a positive advantage.",
            lambda rewards: _others(rewards) - rewards,
        ),
        Mistake(
            "You compare a sample with those of other prompts. Easy prompts would look like good samples; compare "
            "within a row.",
            _whole_batch,
        ),
        Mistake(
            "Your mean runs over the prompts: the axis of the samples is the second one.",
            lambda rewards: _centred(rewards, axis=0),
        ),
    ),
    hints=(
        "Take one row with three rewards and write down the baseline of the first by hand. Whose rewards are in it?",
        "The mean of the others is (sum of the row - own reward) over (K - 1); `keepdims=True` keeps the sum as a "
        "column.",
        "others = (row sum - rewards) / (K - 1), and the advantage is rewards - others.",
    ),
)


def _softmax(logits: Array) -> Array:
    return np.asarray(np.exp(logits) / np.exp(logits).sum())


def _score(logits: Array, samples: NDArray[np.int64], policy: Array) -> Array:
    return (samples[:, None] == np.arange(len(logits))) - policy


def _gradient(logits: Array, samples: NDArray[np.int64], advantages: Array) -> Array:
    return np.asarray(advantages @ _score(logits, samples, _softmax(logits)) / len(samples))


def _gradient_inputs(rng: np.random.Generator) -> tuple[Array, NDArray[np.int64], Array]:
    responses, rows = int(rng.integers(3, 6)), int(rng.integers(6, 10))
    return rng.normal(size=responses), rng.integers(responses, size=rows), rng.normal(size=rows) * 2 + 0.5


def _of_probability(logits: Array, samples: NDArray[np.int64], advantages: Array) -> Array:
    policy = _softmax(logits)
    return np.asarray((advantages * policy[samples]) @ _score(logits, samples, policy) / len(samples))


POLICY_GRADIENT = Exercise(
    name="policy-gradient",
    notebook=NOTEBOOK,
    goal="The gradient that a batch of samples and advantages gives, for a policy that is one row of logits.",
    difficulty=3,
    minutes=15,
    points=2,
    answer=_gradient,
    inputs=_gradient_inputs,
    mistakes=(
        Mistake(
            "That is the gradient of the loss, minus the one asked for: a step along it makes good samples rarer.",
            lambda logits, y, a: -_gradient(logits, y, a),
        ),
        Mistake(
            "That is the sum over the samples. The gradient is a mean, so that it does not grow with the batch.",
            lambda logits, y, a: _gradient(logits, y, a) * len(y),
        ),
        Mistake(
            "You divide by the number of responses. The mean is over the samples of the batch.",
            lambda logits, y, a: _gradient(logits, y, a) * len(y) / len(logits),
        ),
        Mistake(
            "The normaliser is missing: raising one logit lowers the probability of all other responses, so log pi(y) "
            "depends on every logit.",
            lambda logits, y, a: a @ _score(logits, y, 0 * logits) / len(y),
        ),
        Mistake(
            "You differentiate pi(y). The samples already come from pi, so what is averaged is the gradient of log "
            "pi(y).",
            _of_probability,
        ),
        Mistake(
            "You subtract 1/S, as if the policy were uniform. What is subtracted is the policy's own probability.",
            lambda logits, y, a: a @ _score(logits, y, np.full(len(logits), 1 / len(logits))) / len(y),
        ),
        Mistake(
            "You centre the advantages again. They come with their baseline; a mean over the batch has the sample in "
            "it.",
            lambda logits, y, a: _gradient(logits, y, a - a.mean()),
        ),
    ),
    hints=(
        "Write log pi(y) with the logits: one logit minus a logarithm of a sum. What is its derivative by the logit "
        "of y, and by the logit of another response?",
        "d log pi(y) / d logit_j is 1[y = j] - pi_j: one row for each sample. Weight the rows by the advantages.",
        "(samples[:, None] == np.arange(S)) - pi has the shape [rows, S]; multiply by advantages[:, None] and average "
        "over the rows.",
    ),
)


def _spread(policy: Array, phi: Array) -> float:
    return float(np.sqrt(policy @ (phi - policy @ phi) ** 2))


def _tilted(reference: Array, phi: Array, beta: float) -> Array:
    weight = reference * np.exp(phi / beta)
    return np.asarray(weight / weight.sum())


def _round(reference: Array, phi: Array, beta: float, policy: Array) -> Array:
    return _tilted(reference, phi, beta * _spread(policy, phi))


def _round_inputs(rng: np.random.Generator) -> tuple[Array, Array, float, Array]:
    size = int(rng.integers(4, 9))
    reference, policy = rng.dirichlet(np.full(size, 2.0), size=2)
    policy[0] = 0.0  # a policy may have dropped a response
    phi = rng.uniform(0.4, 2.5) * rng.normal(size=size) + rng.uniform(0.5, 1.5)
    phi[-2:] += 1, -1
    return reference, phi, float(rng.uniform(0.5, 2.0)), policy / policy.sum()


STD_ROUND = Exercise(
    name="divided-by-std",
    notebook=NOTEBOOK,
    goal="Where training heads when the transformed rewards of a batch, but not the KL, are divided by their spread.",
    difficulty=2,
    minutes=10,
    points=2,
    answer=_round,
    inputs=_round_inputs,
    mistakes=(
        Mistake(
            "You take the spread under the reference. The batch is drawn from the policy, so s moves with it: that is "
            "the trouble with it.",
            lambda reference, phi, beta, policy: _round(reference, phi, beta, reference),
        ),
        Mistake(
            "You take every response alike in the spread. A batch holds them with the policy's probabilities.",
            lambda reference, phi, beta, policy: _tilted(reference, phi, beta * phi.std()),
        ),
        Mistake(
            "That is the variance. What the recipe divides by is the standard deviation.",
            lambda reference, phi, beta, policy: _tilted(reference, phi, beta * _spread(policy, phi) ** 2),
        ),
        Mistake(
            "Your s is the root of the mean square; subtract the mean under the policy first.",
            lambda reference, phi, beta, policy: _tilted(reference, phi, beta * np.sqrt(policy @ phi**2)),
        ),
        Mistake(
            "You multiply by s. Where the rewards spread widely, dividing makes them smaller, and the KL weighs more.",
            lambda reference, phi, beta, policy: _tilted(reference, phi, beta / _spread(policy, phi)),
        ),
        Mistake(
            "There is no s in it: that is where RLOO goes, without the division.",
            lambda reference, phi, beta, policy: _tilted(reference, phi, beta),
        ),
        Mistake(
            "beta is missing; s does not replace it, it multiplies it.",
            lambda reference, phi, beta, policy: _round(reference, phi, 1.0, policy),
        ),
        Mistake(
            "You tilt the present policy. The KL is measured from the reference, so the reference is what is tilted.",
            lambda reference, phi, beta, policy: _tilted(policy, phi, beta * _spread(policy, phi)),
        ),
        Mistake(
            "Your numbers are no probabilities yet: divide by their sum.",
            lambda reference, phi, beta, policy: reference * np.exp(phi / (beta * _spread(policy, phi))),
        ),
    ),
    hints=(
        "With s held fixed, which reward is trained on, and at which beta? Which policy is best for it?",
        "The reward is Phi/s, so the answer is the tilt of the reference with Phi/(beta s). The mean and the variance "
        "in s are sums over responses with the policy's probabilities.",
        "s = sqrt(policy @ (phi - policy @ phi)**2); weight = reference * exp(phi/(beta s)), divided by its sum.",
    ),
)

EXERCISES = (RLOO, POLICY_GRADIENT, STD_ROUND)
