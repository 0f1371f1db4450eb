"""W: standard and inference-time win rates from samples, unbiased, with error bars.

W = P(r(Y) > r(Z)) + 1/2 P(r(Y) = r(Z)) with Y ~ T(pi), Z ~ T(pi_ref). The obvious estimate, drawing best-of-N out of M
samples over and over, is noisy; the other obvious one, raising the empirical CDF to the power N, is biased. Sorting
gives the average over *all* N-subsets at once, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from infalign_edu.calibration import EmpiricalCalibrator, finite_table
from infalign_edu.inputs import label, reals
from infalign_edu.order_statistics import rank_weights, real
from infalign_edu.procedures import Procedure
from infalign_edu.procedures import procedure as named_procedure

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PromptMean:
    """A mean over prompts with its standard error; `a - b` is the paired difference over the same prompts.

    Shape: per_prompt [prompts]. The standard error treats prompts as a random sample; with one prompt it is nan.

    >>> better, base = PromptMean(np.array([0.7, 0.9])), PromptMean(np.array([0.5, 0.6]))
    >>> round((better - base).mean, 3), round((better - base).stderr, 3)
    (0.25, 0.05)
    """

    per_prompt: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "per_prompt", reals("per_prompt", self.per_prompt))
        if self.per_prompt.ndim != 1 or not self.per_prompt.size:
            raise ValueError(f"per_prompt must hold one number a prompt, got shape {self.per_prompt.shape}")

    @property
    def mean(self) -> float:
        """Mean over prompts."""
        return float(np.mean(self.per_prompt))

    @property
    def stderr(self) -> float:
        """Standard error of the mean over prompts; nan for one prompt."""
        count = len(self.per_prompt)
        return float(np.std(self.per_prompt, ddof=1) / np.sqrt(count)) if count > 1 else float("nan")

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Student-t confidence interval of the mean over prompts.

        Raises: ValueError unless 0 < level < 1.
        """
        if not 0 < real("level", level, "a number strictly between 0 and 1", np.isfinite) < 1:
            raise ValueError(f"level must lie strictly between 0 and 1, got {level}")
        freedom = len(self.per_prompt) - 1
        half = float(scipy.special.stdtrit(freedom, 0.5 + level / 2)) * self.stderr  # of one prompt: not a number
        return self.mean - half, self.mean + half

    def __sub__(self, other: PromptMean) -> PromptMean:
        if not isinstance(other, PromptMean):
            return NotImplemented
        if len(self.per_prompt) != len(other.per_prompt):
            raise ValueError(
                f"a paired difference needs the same prompts, got {len(self.per_prompt)} and {len(other.per_prompt)}"
            )
        return PromptMean(self.per_prompt - other.per_prompt)

    def __repr__(self) -> str:
        return f"{self.mean:.4f} +- {self.stderr:.4f} (standard error over {len(self.per_prompt)} prompts)"


def win_rate(
    policy_rewards: ArrayLike,
    reference_rewards: ArrayLike,
    procedure: Procedure | str = "standard",
    reference_procedure: Procedure | str | None = None,
) -> PromptMean:
    """Unbiased inference-time win rate of a policy over the reference, from M and M' samples a prompt.

    W_x = sum_ij w_i v_j ([a_i > b_j] + 1/2 [a_i = b_j]), over the sorted policy rewards a and reference rewards b:
    w_i is the chance that the procedure shows the i-th smallest of M samples when it draws at random from them, and v_j
    the same for the reference (with its own procedure if `reference_procedure` is given). O((M + M') log(M + M')) a
    prompt. Paper: the inference-time win rate (arXiv 2412.19792). Derived: the estimator; tests/test_winrate.py holds
    it against every subset.

    Shape: policy_rewards [prompts, M], reference_rewards [prompts, M'] -> per_prompt [prompts], probabilities.
    Raises: ValueError when M or M' is below the procedure's `max_n`, when it has none, or for non-finite rewards.

    >>> win_rate([[1.0, 3.0], [2.0, 2.0]], [[2.0, 0.0], [2.0, 1.0]], "best-of-2").per_prompt
    array([1. , 0.5])
    """
    shown = named_procedure(procedure)
    reference_shown = shown if reference_procedure is None else named_procedure(reference_procedure)
    policy = np.sort(finite_table("policy_rewards", policy_rewards), axis=1)
    reference = EmpiricalCalibrator(finite_table("reference_rewards", reference_rewards))
    if len(policy) != reference.prompts:
        raise ValueError(f"the two tables must have the same prompts, got {len(policy)} and {reference.prompts} rows")
    w = _weights("policy_rewards", shown, policy.shape[1])
    same = reference_shown is shown and len(w) == reference.K
    v = np.append(0.0, np.cumsum(w if same else _weights("reference_rewards", reference_shown, reference.K)))
    below, equal = reference.counts(policy)
    return PromptMean(((0.5 * (v[below] + v[below + equal])) @ w).clip(0.0, 1.0))


def judged_win_rate(
    policy_rewards: ArrayLike,
    policy_judged: ArrayLike,
    reference_rewards: ArrayLike,
    reference_judged: ArrayLike,
    procedure: Procedure | str = "standard",
) -> PromptMean:
    """Win rate where one reward picks the response that is shown, and another one judges it.

    W_x = sum_ij w_i v_j ([g_i > h_j] + 1/2 [g_i = h_j]), where w_i is the chance that the procedure, ranking by the
    policy's rewards, shows response i, v_j the same for the reference, and g, h are what the judge says of them.
    Responses of equal reward share their chances equally. With one reward in both roles it is `win_rate`. Derived:
    tests/test_winrate.py holds it against every subset.

    Shape: policy_* [prompts, M], reference_* [prompts, M'] -> per_prompt [prompts], probabilities.
    Raises: ValueError when tables that belong together differ in shape, and where `win_rate` does.

    >>> judged_win_rate([[1.0, 3.0]], [[9.0, 5.0]], [[2.0, 0.0]], [[6.0, 6.0]], "best-of-2").per_prompt
    array([0.])
    """
    shown = named_procedure(procedure)
    sides = []
    for name, rewards, judged in (
        ("policy", policy_rewards, policy_judged),
        ("reference", reference_rewards, reference_judged),
    ):
        table, judge = finite_table(f"{name}_rewards", rewards), finite_table(f"{name}_judged", judged)
        if table.shape != judge.shape:
            raise ValueError(f"{name}_judged must have the shape of {name}_rewards, {table.shape}, got {judge.shape}")
        sides.append((_chances(table, _weights(f"{name}_rewards", shown, table.shape[1])), judge))
    (w, g), (v, h) = sides
    if len(w) != len(v):
        raise ValueError(f"the two tables must have the same prompts, got {len(w)} and {len(v)} rows")
    order = np.argsort(h, axis=1)
    below = np.pad(np.take_along_axis(v, order, 1).cumsum(1), ((0, 0), (1, 0)))
    reference = EmpiricalCalibrator(h)
    beaten, equal = reference.counts(g)
    won = 0.5 * (np.take_along_axis(below, beaten, 1) + np.take_along_axis(below, beaten + equal, 1))
    return PromptMean((won * w).sum(1).clip(0.0, 1.0))


def _chances(rewards: Array, weights: Array) -> Array:
    """Chance that each response is the one shown, weights [M] going by rank; equal rewards share. Shape: [P, M]."""
    edges = np.concatenate([[0.0], np.cumsum(weights)])
    below, equal = EmpiricalCalibrator(rewards).counts(rewards)
    return (edges[below + equal] - edges[below]) / equal


def _weights(name: str, procedure: Procedure, samples: int) -> Array:
    if procedure.max_n is not None and samples < procedure.max_n:
        least = f"at least {procedure.max_n} samples a prompt for {label(procedure)}"
        raise ValueError(f"{name} must hold {least}, got {samples}")
    return rank_weights(procedure, samples)
