"""Exercises of `12_real_model`: log-probabilities without the padding, and a layer with a LoRA adapter.

Those about what an experiment can see are in `power`. Everything is NumPy, so that the catalogue loads without torch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from infalign_edu.classroom.exercise import Exercise, Mistake
from infalign_edu.classroom.exercises import power

Array = NDArray[np.float64]
NOTEBOOK = "12_real_model"


def _picked(logits: Array, tokens: NDArray[np.int_], axis: int = -1) -> Array:
    return np.take_along_axis(log_softmax(logits, axis=axis), tokens[:, :, None], axis=2)[:, :, 0]


def _logprob(logits: Array, tokens: NDArray[np.int_], mask: NDArray[np.bool_]) -> Array:
    """Token t is predicted by the logits one place before it; the first has none."""
    return np.asarray((_picked(logits[:, :-1], tokens[:, 1:]) * mask[:, 1:]).sum(axis=1))


def _logprob_inputs(rng: np.random.Generator) -> tuple[Array, NDArray[np.int_], NDArray[np.bool_]]:
    rows, words, length = (int(size) for size in rng.choice(np.arange(3, 9), size=3, replace=False))
    length = max(length, 5)
    starts, ends = rng.integers(1, 3, size=rows), rng.integers(3, length, size=rows)
    ends[0], starts[0] = length, 1
    place = np.arange(length)
    mask = (place >= starts[:, None]) & (place < ends[:, None])
    return 2 * rng.normal(size=(rows, length, words)), rng.integers(words, size=(rows, length)), mask


RESPONSE_LOGPROB = Exercise(
    name="response-logprob",
    notebook=NOTEBOOK,
    goal="log pi(y | x) of each row from a model's logits: the response's tokens, each predicted one place before.",
    difficulty=2,
    minutes=12,
    points=2,
    answer=_logprob,
    inputs=_logprob_inputs,
    mistakes=(
        Mistake(
            "You read each token's probability off the logits at its own place. Those already predict the next token: "
            "shift by one.",
            lambda logits, tokens, mask: (_picked(logits, tokens) * mask).sum(axis=1),
        ),
        Mistake(
            "You shift the other way: the logits at place t speak of token t + 1, not of token t - 1.",
            lambda logits, tokens, mask: (_picked(logits[:, 1:], tokens[:, :-1]) * mask[:, :-1]).sum(axis=1),
        ),
        Mistake(
            "The tokens are shifted, but the mask is not: it belongs to the token that is predicted, not to the place "
            "of the logits.",
            lambda logits, tokens, mask: (_picked(logits[:, :-1], tokens[:, 1:]) * mask[:, :-1]).sum(axis=1),
        ),
        Mistake(
            "You add up prompt and padding too. log pi(y | x) has the response's tokens only; the mask knows them.",
            lambda logits, tokens, mask: _picked(logits[:, :-1], tokens[:, 1:]).sum(axis=1),
        ),
        Mistake(
            "You average over the tokens. The probability of a response is a product: its logarithm is a sum, and a "
            "KL per sequence needs that sum.",
            lambda logits, tokens, mask: _logprob(logits, tokens, mask) / mask[:, 1:].sum(axis=1),
        ),
        Mistake(
            "Logits are no log-probabilities yet: subtract the log of the sum of exponentials over the vocabulary.",
            lambda logits, tokens, mask: (
                np.take_along_axis(logits[:, :-1], tokens[:, 1:, None], axis=2)[:, :, 0] * mask[:, 1:]
            ).sum(axis=1),
        ),
        Mistake(
            "You normalise along the tokens. Probabilities sum to one over the vocabulary, the last axis.",
            lambda logits, tokens, mask: (_picked(logits[:, :-1], tokens[:, 1:], axis=1) * mask[:, 1:]).sum(axis=1),
        ),
        Mistake(
            "You return probabilities. Of a long response they underflow to 0; stay with logarithms.",
            lambda logits, tokens, mask: np.exp(_logprob(logits, tokens, mask)),
        ),
    ),
    hints=(
        "A causal model has read tokens 0 to t when it gives the logits at place t. Which token do they speak of?",
        "Leave the last place of the logits away and the first of tokens and mask. Log-softmax over the last axis, "
        "then pick each token's entry.",
        "logp = logits[:, :-1] - logsumexp over the last axis; np.take_along_axis(logp, tokens[:, 1:, None], 2); times "
        "mask[:, 1:]; sum.",
    ),
)


def _lora(x: Array, W: Array, A: Array, B: Array, alpha: float, scale: float | None = None) -> Array:
    scale = alpha / len(A) if scale is None else scale
    return x @ W.T + scale * (x @ A.T) @ B.T


def _lora_step(x: Array, W: Array, A: Array, B: Array, alpha: float, g: Array) -> tuple[Array, Array, Array]:
    scale = alpha / len(A)
    return _lora(x, W, A, B, alpha), scale * (g @ B).T @ x, scale * g.T @ (x @ A.T)


def _lora_inputs(rng: np.random.Generator) -> tuple[Array, Array, Array, Array, float, Array]:
    rank, inputs, outputs, rows = (int(size) for size in rng.choice(np.arange(2, 8), size=4, replace=False))
    draw = [rng.normal(size=shape) for shape in ((rows, inputs), (outputs, inputs), (rank, inputs), (outputs, rank))]
    alpha = float(rng.choice([8.0, 16.0, 32.0]))
    return draw[0], draw[1], draw[2], draw[3], alpha, rng.normal(size=(rows, outputs))


def _lora_start(rng: np.random.Generator) -> tuple[Array, Array, Array, Array, float, Array]:
    x, W, A, B, alpha, g = _lora_inputs(rng)
    return x, W, A, 0 * B, alpha, g


LORA_LAYER = Exercise(
    name="lora-layer",
    notebook=NOTEBOOK,
    goal="Output and gradients of a linear layer with an adapter of rank r: y = W x + (alpha / r) B A x.",
    difficulty=2,
    minutes=12,
    points=2,
    answer=_lora_step,
    inputs=_lora_inputs,
    corners=(_lora_start,),
    mistakes=(
        Mistake(
            "The scale alpha is not divided by the rank. It is alpha / r, so that another rank needs no other "
            "learning rate.",
            lambda x, W, A, B, alpha, g: (
                _lora(x, W, A, B, alpha, alpha),
                alpha * (g @ B).T @ x,
                alpha * g.T @ (x @ A.T),
            ),
        ),
        Mistake(
            "The scale alpha / r is missing, in the output and in both gradients.",
            lambda x, W, A, B, alpha, g: (_lora(x, W, A, B, alpha, 1.0), (g @ B).T @ x, g.T @ (x @ A.T)),
        ),
        Mistake(
            "The output is right; the gradients have lost the scale alpha / r on the way back (chain rule).",
            lambda x, W, A, B, alpha, g: (_lora(x, W, A, B, alpha), (g @ B).T @ x, g.T @ (x @ A.T)),
        ),
        Mistake(
            "Your output is the adapter's alone. The frozen W x stays: the adapter adds to it.",
            lambda x, W, A, B, alpha, g: (_lora(x, 0 * W, A, B, alpha), *_lora_step(x, W, A, B, alpha, g)[1:]),
        ),
        Mistake(
            "The two gradients have changed places: A's comes second, B's third, each with the shape of its matrix.",
            lambda x, W, A, B, alpha, g: (
                _lora(x, W, A, B, alpha),
                _lora_step(x, W, A, B, alpha, g)[2],
                _lora_step(x, W, A, B, alpha, g)[1],
            ),
        ),
        Mistake(
            "You average the gradients over the rows. g is the gradient of a loss that is summed already: sum.",
            lambda x, W, A, B, alpha, g: (
                _lora(x, W, A, B, alpha),
                *(part / len(x) for part in _lora_step(x, W, A, B, alpha, g)[1:]),
            ),
        ),
        Mistake(
            "Your gradients are transposed: each has the shape of its matrix, A [r, inputs] and B [outputs, r].",
            lambda x, W, A, B, alpha, g: (
                _lora(x, W, A, B, alpha),
                *(part.T for part in _lora_step(x, W, A, B, alpha, g)[1:]),
            ),
        ),
    ),
    hints=(
        "Write h = A x for the r numbers in the middle. What is the gradient of the loss in h, given g at the output?",
        "With s = alpha / r: grad_B is s g h summed over rows; the gradient in h is s B^T g, and on to A as to B.",
        "h = x @ A.T; y = x @ W.T + s * h @ B.T; grad_A = s * (g @ B).T @ x; grad_B = s * g.T @ h.",
    ),
)

EXERCISES = (RESPONSE_LOGPROB, LORA_LAYER, *power.EXERCISES)
