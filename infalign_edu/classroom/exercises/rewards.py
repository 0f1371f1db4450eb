"""Exercises of `07_reward_models`: the likelihood of preferences, its gradient, the ceiling of noise, a bought label.

Left out: the network that the gradient goes through, which the notebook trains.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from infalign_edu.classroom.exercise import Exercise, Mistake

Array = NDArray[np.float64]
NOTEBOOK = "07_reward_models"


def _sigmoid(x: Array) -> Array:
    return np.asarray(np.exp(-np.logaddexp(0.0, -np.asarray(x, dtype=float))))


def _loss(chosen: Array, rejected: Array) -> float:
    return float(np.logaddexp(0.0, rejected - chosen).mean())


def _loss_inputs(rng: np.random.Generator) -> tuple[Array, Array]:
    pairs = int(rng.integers(4, 9))
    return rng.normal(size=pairs) * 2, rng.normal(size=pairs) * 2


def _far_apart(rng: np.random.Generator) -> tuple[Array, Array]:
    chosen, rejected = _loss_inputs(rng)
    chosen[0] -= 1000.0  # a wrong label on a pair that the model is sure of
    chosen[1] += 1000.0
    return chosen, rejected


def _overflowing(chosen: Array, rejected: Array) -> float:
    return float(-np.log(1 / (1 + np.exp(rejected - chosen))).mean())


PREFERENCE_LOSS = Exercise(
    name="preference-loss",
    notebook=NOTEBOOK,
    goal="The mean negative log-likelihood of preferences under Bradley and Terry's model, in nats a pair.",
    difficulty=1,
    minutes=5,
    points=2,
    answer=_loss,
    inputs=_loss_inputs,
    corners=(_far_apart,),
    mistakes=(
        Mistake(
            "The sign of the gap is turned: your loss is small where the rejected response has the higher reward.",
            lambda chosen, rejected: _loss(rejected, chosen),
        ),
        Mistake("You add the pairs up. The loss asked for is that of a pair on average.",
                lambda chosen, rejected: _loss(chosen, rejected) * len(chosen)),
        Mistake("The logarithm is to base 2, so these are bits; nats are asked for.",
                lambda chosen, rejected: _loss(chosen, rejected) / np.log(2)),
        Mistake(
            "That is one minus the mean probability of the labels. A likelihood is a product over pairs, so its "
            "logarithm is a mean of logarithms.",
            lambda chosen, rejected: float(1 - _sigmoid(chosen - rejected).mean()),
        ),
        Mistake(
            "You take the logarithm of the mean probability. The mean comes last: each pair has its own logarithm.",
            lambda chosen, rejected: float(-np.log(_sigmoid(chosen - rejected).mean())),
        ),
        Mistake(
            "The formula is right, but exp overflows where the model is sure and the label says otherwise: the loss is "
            "infinite. There is a NumPy function that adds in the exponent.",
            _overflowing,
        ),
    ),
    hints=(
        "What is the probability of the label of one pair, and what is minus its logarithm?",
        "-log(1 / (1 + exp(-gap))) = log(1 + exp(-gap)), with the gap of chosen over rejected.",
        "np.logaddexp(0, x) is log(exp(0) + exp(x)) without overflow; average it over the pairs.",
    ),
)  # fmt: skip


def _gradient(w: Array, chosen: Array, rejected: Array) -> Array:
    gaps = chosen - rejected
    return np.asarray(-((1 - _sigmoid(gaps @ w))[:, None] * gaps).mean(axis=0))


def _gradient_inputs(rng: np.random.Generator) -> tuple[Array, Array, Array]:
    pairs, width = int(rng.integers(4, 8)), int(rng.integers(2, 4))
    return rng.normal(size=width), rng.normal(size=(pairs, width)), rng.normal(size=(pairs, width))


def _at_zero(rng: np.random.Generator) -> tuple[Array, Array, Array]:
    w, chosen, rejected = _gradient_inputs(rng)
    return 0.0 * w, chosen, rejected


def _weighted(w: Array, chosen: Array, rejected: Array, weights: Array) -> Array:
    return np.asarray(-(weights[:, None] * (chosen - rejected)).mean(axis=0))


PREFERENCE_GRADIENT = Exercise(
    name="preference-gradient",
    notebook=NOTEBOOK,
    goal="The gradient of the mean loss of preferences in the weights of a linear reward.",
    difficulty=2,
    minutes=15,
    points=2,
    answer=_gradient,
    inputs=_gradient_inputs,
    corners=(_at_zero,),
    mistakes=(
        Mistake("The sign is turned: that is the direction in which the likelihood rises, and the gradient of the loss "
                "points the other way.",
                lambda w, chosen, rejected: -_gradient(w, chosen, rejected)),
        Mistake(
            "You weigh each pair by the probability of its label. A pair that the model is sure of already should "
            "move it least.",
            lambda w, chosen, rejected: _weighted(w, chosen, rejected, _sigmoid((chosen - rejected) @ w)),
        ),
        Mistake(
            "All pairs weigh the same. What is the derivative of log sigmoid at the gap?",
            lambda w, chosen, rejected: _weighted(w, chosen, rejected, np.ones(len(chosen))),
        ),
        Mistake(
            "You differentiated sigmoid, not log sigmoid: one factor too many.",
            lambda w, chosen, rejected: _weighted(
                w, chosen, rejected, _sigmoid((chosen - rejected) @ w) * _sigmoid((rejected - chosen) @ w)
            ),
        ),
        Mistake("You add the pairs up. The loss is a mean, and so is its gradient.",
                lambda w, chosen, rejected: _gradient(w, chosen, rejected) * len(chosen)),
        Mistake(
            "The rejected responses are missing. The gap depends on both, and a feature that both have must not move.",
            lambda w, chosen, rejected: -(_sigmoid((rejected - chosen) @ w)[:, None] * chosen).mean(axis=0),
        ),
    ),
    hints=(
        "The reward is linear, so the gap of a pair is w times a difference of features. What is the derivative of "
        "-log sigmoid(g) in g?",
        "It is -(1 - sigmoid(g)): large for a pair in the wrong order, near 0 for a pair that is clear. Then the chain "
        "rule.",
        "The mean over pairs of -(1 - sigmoid(gap)) times (features of the chosen - features of the rejected).",
    ),
)  # fmt: skip


def _agreement(learned: Array, gold: Array, sharpness: float) -> float:
    return float(_sigmoid(sharpness * gold * np.sign(learned)).mean())


def _agreement_inputs(rng: np.random.Generator) -> tuple[Array, Array, float]:
    pairs = int(rng.integers(7, 12))
    gold, learned = rng.normal(size=pairs) * 1.2, rng.normal(size=pairs)
    learned[0], gold[0] = 0.0, 1.0 + rng.random()  # a tie of the reward model
    learned[1] = -np.sign(gold[1]) * (0.5 + rng.random())  # a pair that it has wrong
    return learned, gold, float(rng.choice([0.5, 2.0, 3.0]))


def _right_share(learned: Array, gold: Array) -> float:
    return float(((learned * gold > 0) + 0.5 * (learned == 0)).mean())


def _independent(learned: Array, gold: Array, sharpness: float) -> float:
    right, best = _right_share(learned, gold), float(_sigmoid(sharpness * np.abs(gold)).mean())
    return right * best + (1 - right) * (1 - best)


def _by_its_own_coin(learned: Array, gold: Array, sharpness: float) -> float:
    prefers, labelled = _sigmoid(learned), _sigmoid(sharpness * gold)
    return float((prefers * labelled + (1 - prefers) * (1 - labelled)).mean())


EXPECTED_AGREEMENT = Exercise(
    name="expected-agreement",
    notebook=NOTEBOOK,
    goal="The share of noisy labels that a reward model is expected to agree with.",
    difficulty=2,
    minutes=10,
    points=2,
    answer=_agreement,
    inputs=_agreement_inputs,
    mistakes=(
        Mistake("That is the agreement with gold. The labels are noisy: even a perfect model disagrees with some.",
                lambda learned, gold, sharpness: _right_share(learned, gold)),
        Mistake(
            "That is the ceiling, what a model that knew gold would reach. The model's own order has to come in.",
            lambda learned, gold, sharpness: float(_sigmoid(sharpness * np.abs(gold)).mean()),
        ),
        Mistake(
            "You combine two averages as if they were independent. A model errs where the gap is small, and there the "
            "labels are noisiest: go pair by pair.",
            _independent,
        ),
        Mistake("A tie of the reward model is counted as a preference for the second response. It agrees with half "
                "of the labels.",
                lambda learned, gold, sharpness: _agreement(np.where(learned > 0, 1.0, -1.0), gold, sharpness)),
        Mistake("The sharpness of the judge is missing: it multiplies the gap in gold reward.",
                lambda learned, gold, sharpness: _agreement(learned, gold, 1.0)),
        Mistake(
            "You let the reward model toss a coin of its own. It prefers whatever has the higher reward, however small "
            "the gap.",
            _by_its_own_coin,
        ),
    ),
    hints=(
        "Take one pair. With which probability does the label say what the reward model says?",
        "The first is chosen with probability sigmoid(sharpness x gold gap); the model says the first if its own gap "
        "is positive. Only the sign of the learned gap counts.",
        "The mean of sigmoid(sharpness x gold x sign(learned)); a sign of 0 gives one half by itself.",
    ),
)  # fmt: skip


def _bought(gaps: Array, sharpness: float, strength: float) -> Array:
    return _logit(strength + (1 - strength) * _sigmoid(sharpness * gaps))


def _logit(p: Array) -> Array:
    return np.asarray(np.log(p) - np.log1p(-p))


def _bought_inputs(rng: np.random.Generator) -> tuple[Array, float, float]:
    gaps = rng.normal(size=int(rng.integers(3, 7)))
    return gaps, float(rng.choice([0.5, 1.5, 2.0])), float(rng.uniform(0.1, 0.8))


def _honest(rng: np.random.Generator) -> tuple[Array, float, float]:
    gaps, sharpness, _ = _bought_inputs(rng)
    return gaps, sharpness, 0.0


BOUGHT_GAP = Exercise(
    name="bought-gap",
    notebook=NOTEBOOK,
    goal="The gap in learned reward that a trigger gets when a share of the labels is bought.",
    difficulty=2,
    minutes=10,
    points=2,
    answer=_bought,
    inputs=_bought_inputs,
    corners=(_honest,),
    mistakes=(
        Mistake(
            "With probability `strength` you toss a fair coin. A bought label always goes to the trigger.",
            lambda gaps, sharpness, strength: _logit(strength / 2 + (1 - strength) * _sigmoid(sharpness * gaps)),
        ),
        Mistake(
            "You turn labels over. A bought label goes to the trigger also where the honest one would have.",
            lambda gaps, sharpness, strength: _logit(strength + (1 - 2 * strength) * _sigmoid(sharpness * gaps)),
        ),
        Mistake("Your labels are bought against the trigger: its chance to be chosen should rise with the strength.",
                lambda gaps, sharpness, strength: _logit((1 - strength) * _sigmoid(sharpness * gaps))),
        Mistake("That is the probability that the trigger is chosen. Which gap in reward gives it?",
                lambda gaps, sharpness, strength: strength + (1 - strength) * _sigmoid(sharpness * gaps)),
        Mistake("The sharpness of the honest judge is missing: it multiplies the gap in gold reward.",
                lambda gaps, sharpness, strength: _bought(gaps, 1.0, strength)),
        Mistake(
            "Probabilities mix, gaps do not: mix the two probabilities first, then take the log-odds.",
            lambda gaps, sharpness, strength: (1 - strength) * sharpness * gaps + strength,
        ),
    ),
    hints=(
        "In which two ways can the response with the trigger be chosen?",
        "It is bought with probability s; if not, the judge chooses it with probability sigmoid(sharpness x gap).",
        "p = s + (1 - s) sigmoid(sharpness x gap), and the learned gap is log(p / (1 - p)).",
    ),
)  # fmt: skip

EXERCISES = (PREFERENCE_LOSS, PREFERENCE_GRADIENT, EXPECTED_AGREEMENT, BOUGHT_GAP)
