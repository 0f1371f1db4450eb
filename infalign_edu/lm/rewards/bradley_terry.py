"""A reward learnt from preferences: a linear Bradley-Terry head on a frozen model's features.

For real models, whose fine-tuning takes a GPU. On a few hundred real pairs the head is close to chance, on 1,600 it
reached 0.67 (data/runs/reward_models.csv), and its report says which. The embedded model is fine-tuned instead
(`reward_model`). Left out: margins, ensembles, labels other than "chosen over rejected".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from infalign_edu import atomic
from infalign_edu.inputs import whole
from infalign_edu.lm.datasets import Preference, split
from infalign_edu.lm.features import cached_features, fingerprint
from infalign_edu.order_statistics import real

if TYPE_CHECKING:
    from infalign_edu.lm.policy import Policy

Array = NDArray[np.float64]
L2_GRID = np.logspace(-3, 2, 11)  # weight of |w|^2 / 2 beside the mean log-loss, on standardised features
FOLDS = 5


class BradleyTerry:
    """r(x, y) = w . (features(x, y) - mean) / sd, with P(chosen over rejected) = sigmoid(r(chosen) - r(rejected)).

    Source: Bradley and Terry, Rank analysis of incomplete block designs (Biometrika 1952). Shape: prompts [R],
    responses [R] -> [R] float64, in nats of preference.

    Example:
        >>> head = BradleyTerry.fit(preferences, policy)           # doctest: +SKIP
        >>> head.report()["distinguishable_from_chance"]           # doctest: +SKIP
        True
    """

    def __init__(
        self, policy: Policy, weights: Array, mean: Array, scale: Array, report: dict[str, Any], length: bool = False
    ):
        trainable = any(p.requires_grad for p in policy.model.parameters())
        self.policy = policy.copy() if trainable else policy  # a reward must not move with the policy it trains
        self.weights, self.mean, self.scale, self.length, self._report = weights, mean, scale, length, report

    @classmethod
    def fit(
        cls,
        preferences: Sequence[Preference],
        policy: Policy,
        *,
        cache: str | Path | None = None,
        held_out: float = 0.25,
        length: bool = False,
        seed: int = 0,
        progress: bool = False,
    ) -> BradleyTerry:
        """Fit the head: L2 by 5-fold cross-validation on the training prompts, accuracy on held-out prompts.

        `length` adds the number of words as a feature; with `cache`, features are kept in that folder. Raises:
        ValueError for too few pairs.
        """
        pairs = list(preferences)
        if len({pair.prompt for pair in pairs}) < 2 * FOLDS:
            raise ValueError(f"preferences must have at least {2 * FOLDS} distinct prompts, got {len(pairs)} pairs")
        real("held_out", held_out, "a number between 0 and 1", lambda share: 0 < share < 1)
        both = _values(pairs, policy, cache, length, progress)
        train, test = _rows(pairs, [1 - held_out, held_out], seed)
        weights, mean, scale, l2, loss = _head(both, pairs, train, seed)
        margins = (both[test, 0] - both[test, 1]) / scale @ weights
        right = float((margins > 0).sum() + 0.5 * (margins == 0).sum())
        low, high = wilson(right, len(test))
        report = {
            "model": policy.name, "training_pairs": len(train), "held_out_pairs": len(test),
            "accuracy": right / len(test), "interval": [low, high], "distinguishable_from_chance": low > 0.5,
            "l2": l2, "log_loss_cross_validated": loss, "log_loss_of_chance": float(np.log(2)),
        }  # fmt: skip
        return cls(policy, weights, mean, scale, report, length)

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> Array:
        prompts, responses = list(prompts), list(responses)
        values = _columns(self.policy.features(prompts, responses), responses, self.length)
        return (values - self.mean) / self.scale @ self.weights

    def report(self) -> dict[str, Any]:
        """Held-out accuracy with its 95 % Wilson interval, and whether that interval lies above 1/2."""
        return dict(self._report)

    def save(self, path: str | Path) -> None:
        """Write the head (not the model) as one .npz, whole or not at all."""
        about = {"model": fingerprint(self.policy), "length": self.length, "report": self._report}
        arrays = {"weights": self.weights, "mean": self.mean, "scale": self.scale}
        atomic.write_arrays(path, about=np.array(json.dumps(about)), **arrays)

    @classmethod
    def load(cls, path: str | Path, policy: Policy) -> BradleyTerry:
        """Read a head back for the model it was fitted on. Raises: ValueError for another model or a damaged file."""
        try:
            data = atomic.read_arrays(path)
            about = json.loads(str(data["about"]))
            weights, mean, scale = data["weights"], data["mean"], data["scale"]
        except (KeyError, ValueError) as error:
            told = f"got {path} ({' '.join(str(error).split())[:200]}); fit it again"
            raise ValueError(f"reward head must be a file that BradleyTerry.save wrote, {told}") from error
        if about["model"] != fingerprint(policy):
            raise ValueError(f"reward head {path} must be used with the model it was fitted on, got {policy.name}")
        return cls(policy, weights, mean, scale, about["report"], about["length"])


def cross_validated(
    preferences: Sequence[Preference],
    policy: Policy,
    *,
    folds: int = FOLDS,
    cache: str | Path | None = None,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """Accuracy on all pairs: each is judged by a head that was fitted on the other folds and saw none of its prompts.

    The interval takes the pairs as independent, though the heads share most of their training pairs.
    """
    pairs = list(preferences)
    both = _values(pairs, policy, cache, False, progress)
    right = 0.0
    parts = _rows(pairs, [1 / folds] * folds, seed)
    for k, test in enumerate(parts):
        train = np.concatenate(parts[:k] + parts[k + 1 :])
        weights, _, scale, _, _ = _head(both, pairs, train, seed)
        margins = (both[test, 0] - both[test, 1]) / scale @ weights
        right += float((margins > 0).sum() + 0.5 * (margins == 0).sum())
    return {"pairs": len(pairs), "accuracy": right / len(pairs), "interval": list(wilson(right, len(pairs)))}


def wilson(right: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a proportion that stays within [0, 1] and holds for small counts.

    Source: Wilson, Probable inference, the law of succession, and statistical inference (JASA 1927).

    >>> [round(edge, 4) for edge in wilson(8, 10)]
    [0.4902, 0.9433]
    """
    whole("count", count)
    real("right", right, f"a number from 0 to count = {count}", lambda r: 0 <= r <= count)
    real("z", z, "a positive number", lambda z: z > 0)
    share, shrink = right / count, 1 + z * z / count
    middle = (share + z * z / (2 * count)) / shrink
    half = z / shrink * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return float(middle - half), float(middle + half)


def _columns(values: NDArray[np.float32], responses: Sequence[str], length: bool) -> Array:
    words = [[len(text.split())] for text in responses]
    return np.hstack([values, words]).astype(float) if length else values.astype(float)


def _values(
    pairs: Sequence[Preference], policy: Policy, cache: str | Path | None, length: bool, progress: bool
) -> Array:
    """Features [pairs, 2, d] of the chosen and the rejected response of every pair."""
    prompts = [pair.prompt for pair in pairs for _ in range(2)]
    responses = [text for pair in pairs for text in (pair.chosen, pair.rejected)]
    values = _columns(cached_features(policy, prompts, responses, cache, progress=progress), responses, length)
    return values.reshape(len(pairs), 2, -1)


def _head(
    both: Array, pairs: Sequence[Preference], train: NDArray[np.intp], seed: int
) -> tuple[Array, Array, Array, float, float]:
    """Weights, mean and scale of a head fitted on the rows `train`, its L2 weight and the log-loss that chose it."""
    mean, scale = both[train].mean((0, 1)), both[train].std((0, 1))
    scale[scale == 0] = 1.0
    gaps = (both[:, 0] - both[:, 1]) / scale  # [pairs, d]
    folds = [train[f] for f in _rows([pairs[i] for i in train], [1 / FOLDS] * FOLDS, seed)]
    losses = [_cross_validate(gaps, folds, l2) for l2 in L2_GRID]
    l2 = float(L2_GRID[int(np.argmin(losses))])
    return _fit(gaps[train], l2), mean, scale, l2, float(min(losses))


def _rows(pairs: Sequence[Preference], fractions: Sequence[float], seed: int) -> list[NDArray[np.intp]]:
    """Row numbers of parts that share no prompt."""
    part = {
        prompt: k for k, prompts in enumerate(split([p.prompt for p in pairs], fractions, seed)) for prompt in prompts
    }
    number = np.array([part.get(pair.prompt, -1) for pair in pairs])
    return [np.flatnonzero(number == k) for k in range(len(fractions))]


def _loss(weights: Array, gaps: Array) -> tuple[float, Array]:
    """Mean -log sigmoid(gap . w) in nats, and its gradient."""
    margins = gaps @ weights
    return float(np.logaddexp(0, -margins).mean()), -gaps.T @ np.exp(-np.logaddexp(0, margins)) / len(gaps)


def _fit(gaps: Array, l2: float) -> Array:
    """Minimise mean -log sigmoid(gap . w) + l2 |w|^2 / 2 by Newton's method with step halving; strictly convex."""
    base = np.linalg.qr(gaps.T)[0] if gaps.shape[1] > len(gaps) else np.eye(gaps.shape[1])  # w lies in the rows' span
    rows = gaps @ base
    weights, value = np.zeros(rows.shape[1]), np.log(2)
    for _ in range(100):
        slope = _loss(weights, rows)[1] + l2 * weights
        chance = 1 / (1 + np.exp(-np.clip(rows @ weights, -500, 500)))
        hessian = (rows * (chance * (1 - chance))[:, None]).T @ rows / len(rows) + l2 * np.eye(len(weights))
        step = np.linalg.solve(hessian, slope)
        if float(slope @ step) < 1e-12:  # twice the gap that is left to the minimum
            break
        size = 1.0
        while size > 1e-6:
            trial = weights - size * step
            tried = _loss(trial, rows)[0] + 0.5 * l2 * float(trial @ trial)
            if tried <= value:
                weights, value = trial, tried
                break
            size /= 2
    return base @ weights


def _cross_validate(gaps: Array, folds: list[NDArray[np.intp]], l2: float) -> float:
    """Mean held-out log-loss of the folds."""
    total = 0.0
    for k, fold in enumerate(folds):
        rest = np.concatenate(folds[:k] + folds[k + 1 :])
        total += _loss(_fit(gaps[rest], l2), gaps[fold])[0] * len(fold)
    return total / sum(len(fold) for fold in folds)
