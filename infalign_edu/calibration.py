"""C: reward -> its quantile under the reference policy.

C(x, y) = P_{z ~ pi_ref}(r(z) < r(y)) + 1/2 P(r(z) = r(y)) is uniform on [0, 1] for responses of the reference itself
(without ties), whatever the scale, shape or prompt of r: that is what makes rewards comparable across prompts. Here
the probability is a count over K reference samples a prompt. Its noise and bias are the subject of
`theory.finite_samples`; the samples that calibrate must not be the ones that are evaluated.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from infalign_edu import atomic
from infalign_edu.inputs import generator, reals, shown
from infalign_edu.order_statistics import count

Array = NDArray[np.float64]


def finite_table(name: str, rewards: ArrayLike) -> Array:
    """`rewards` as a finite `[prompts, samples]` array, or one clear error.

    >>> finite_table("rewards", [[1, 2, 3]]).shape
    (1, 3)
    """
    table = reals(name, rewards)
    if table.ndim != 2 or 0 in table.shape:
        raise ValueError(f"{name} must be a [prompts, samples] table with at least one entry, got shape {table.shape}")
    if not np.isfinite(table).all():
        row, column = np.argwhere(~np.isfinite(table))[0]
        raise ValueError(f"{name} must be finite, got {table[row, column]} for prompt {row}, sample {column}")
    return table


MANY = 32  # rewards a prompt from which a search of each prompt alone is the faster one


class EmpiricalCalibrator:
    """Calibrated rewards from K reference samples a prompt.

    C_hat(x, y) = (#{z < y} + 1/2 #{z = y}) / K. Paper: calibration to the quantile under the reference is the first
    step of CTRL (arXiv 2412.19792); the half-tie convention is this package's.

    Shape: reference_rewards [prompts, K]; called with rewards [prompts, M] -> [prompts, M] in [0, 1].
    Raises: ValueError for empty, ragged or non-finite tables, or another number of prompts.

    >>> C = EmpiricalCalibrator([[1.0, 2.0, 2.0, 4.0]])
    >>> C([[0.0, 2.0, 3.0, 9.0]])
    array([[0.  , 0.5 , 0.75, 1.  ]])
    """

    def __init__(self, reference_rewards: ArrayLike, metadata: dict[str, Any] | None = None) -> None:
        self.reference_rewards = np.sort(finite_table("reference_rewards", reference_rewards), axis=1)
        self.metadata = dict(metadata or {})

    @cached_property
    def _sorted(self) -> tuple[Array, NDArray[np.int64]]:
        """All reference values, each once, and one sorted list of every prompt's ranks among them, prompt by prompt."""
        values, rank = np.unique(self.reference_rewards, return_inverse=True)
        return values, (rank.reshape(self.reference_rewards.shape) + self._offset(len(values))).ravel()

    @property
    def prompts(self) -> int:
        """Number of prompts."""
        return self.reference_rewards.shape[0]

    @property
    def K(self) -> int:
        """Number of reference samples a prompt."""
        return self.reference_rewards.shape[1]

    def _offset(self, stretch: int) -> NDArray[np.int64]:
        """Where each prompt's own stretch of numbers begins. Shape: [prompts, 1]."""
        return np.arange(self.prompts, dtype=np.int64)[:, None] * stretch

    def counts(self, rewards: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """How many of the K reference rewards are below, and how many equal to, each reward.

        Few rewards a prompt are searched for all prompts at once: a reward becomes its rank among all reference values,
        moved to its prompt's own stretch of one sorted list. Of many, each prompt's row is searched alone: it stays in
        the processor's cache. Shape: rewards [prompts, M] -> two arrays [prompts, M].

        >>> EmpiricalCalibrator([[1.0, 2.0, 2.0, 4.0]]).counts([[2.0]])
        (array([[1]]), array([[2]]))
        """
        table = finite_table("rewards", rewards)
        if table.shape[0] != self.prompts:
            raise ValueError(f"rewards must have one row a prompt ({self.prompts}), got {table.shape[0]} rows")
        if table.shape[1] >= MANY:
            below, equal = np.empty(table.shape, np.int64), np.zeros(table.shape, np.int64)
            for i, (row, r) in enumerate(zip(self.reference_rewards, table, strict=True)):
                below[i] = left = row.searchsorted(r)
                tied = (row.take(left, mode="clip") == r).nonzero()[0]
                if len(tied):
                    equal[i, tied] = row.searchsorted(r[tied], "right") - left[tied]
            return below, equal
        values, keys = self._sorted
        offset, before = self._offset(len(values)), self._offset(self.K)
        places = (values.searchsorted(table, side) + offset for side in ("left", "right"))
        below, up_to = (keys.searchsorted(place) - before for place in places)
        return below, up_to - below

    def __call__(self, rewards: ArrayLike) -> Array:
        below, equal = self.counts(rewards)
        return (below + 0.5 * equal) / self.K

    def randomized(self, rewards: ArrayLike, rng: np.random.Generator) -> Array:
        """(#{z < y} + U (1 + #{z = y})) / (K + 1), U uniform: exactly uniform for fresh reference samples, any K, ties.

        For histograms, whose bins would otherwise hold unequal numbers of the K + 1 possible quantiles; train on the
        calibrated reward itself. Derived: the rank of one of K + 1 exchangeable samples is uniform.

        >>> float(EmpiricalCalibrator([[1.0, 2.0]]).randomized([[5.0]], np.random.default_rng(0))[0, 0]) > 2 / 3
        True
        """
        below, equal = self.counts(rewards)
        return (below + generator(rng).random(below.shape) * (1 + equal)) / (self.K + 1)

    def take(self, prompts: Sequence[int] | NDArray[np.intp]) -> EmpiricalCalibrator:
        """The calibrator of some of the prompts, for one training batch. Shape: prompts [B] indices.

        >>> EmpiricalCalibrator([[1.0], [5.0]]).take([1])([[6.0]])
        array([[1.]])
        """
        rows = np.asarray(prompts)
        if rows.dtype == bool and rows.shape == (self.prompts,):  # a mask
            rows = np.flatnonzero(rows)
        known = rows.dtype.kind in "iu" and ((rows >= 0) & (rows < self.prompts)).all()
        if rows.ndim != 1 or not rows.size or not known:
            told = f"at least one whole number from 0 to {self.prompts - 1}"
            raise ValueError(f"prompts must be a list of {told}, got {shown(prompts)}")
        return EmpiricalCalibrator(self.reference_rewards[rows], self.metadata)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the table and its metadata to one .npz file, whole or not at all; no pickle."""
        atomic.write_arrays(path, reference_rewards=self.reference_rewards, metadata=json.dumps(self.metadata))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> EmpiricalCalibrator:
        """Reads what `save` wrote. Raises: ValueError naming the file when it is missing or damaged."""
        path = atomic.named(path)
        try:
            data = atomic.read_arrays(path)
        except FileNotFoundError:
            raise ValueError(f"calibration table {str(path)!r} does not exist") from None
        except ValueError as error:
            again = "; remove it to have it made again" if path.is_file() else ""
            raise ValueError(f"calibration table {error}{again}") from None
        try:
            return cls(data["reference_rewards"], json.loads(str(data["metadata"])))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"calibration table {str(path)!r} can't be read: {error}") from None


def unbiased_power(below: ArrayLike, K: int, m: int) -> Array:
    """C(k, m) / C(K, m): an unbiased estimate of P(r(z) < r(y))^m from k of K reference samples below y.

    Derived: the chance that m distinct reference samples all lie below y; tests/test_calibration.py averages it over
    the binomial k. Without ties P(r(z) < r(y)) is u, so any polynomial transform of degree <= K trains free of
    calibration bias.

    Source: Hoeffding's U-statistics.

    Shape: below [...], integers in [0, K] -> [...]. Raises: ValueError when m > K or below lies outside [0, K].

    >>> unbiased_power([0, 1, 2, 4], K=4, m=2) * 6
    array([0., 0., 1., 6.])
    """
    m, K, k = count("m", m, least=0), count("K", K), reals("below", below)
    if m > K:
        raise ValueError(f"m must be at most K = {K}, got {m}")
    if k.size and not ((k >= 0) & (k <= K) & (k == np.round(k))).all():
        raise ValueError(f"below must hold integers in [0, {K}], got values from {k.min():g} to {k.max():g}")
    i = np.arange(m)
    return np.asarray(np.prod(np.clip(k[..., None] - i, 0, None) / (K - i), axis=-1))


def reward_kl(calibrated: ArrayLike, bins: int = 50) -> float:
    """KL(pi || pi_ref) that the reward can see: of the calibrated rewards of pi's samples to the uniform law, in nats.

    The chain rule splits KL(pi || pi_ref) into this and a rest: differences between responses of equal reward, which
    move no win rate. Derived: at pi_ref e^{Phi/beta} the rest is 0. Estimated from counts in equal bins of [0, 1],
    less (bins - 1) / 2n, what chance adds to n samples of a uniform law (Miller 1955).

    Shape: calibrated [...], at least one value for each bin. Raises: ValueError outside [0, 1] or for fewer values.

    >>> round(reward_kl(np.linspace(0.5, 1, 100_001)), 3)   # half of the ranks: log 2
    0.693
    """
    u, bins = reals("calibrated", calibrated).ravel(), count("bins", bins)
    if u.size < bins:
        raise ValueError(f"calibrated must hold at least one value for each of {bins} bins, got {u.size}")
    if not ((u >= 0) & (u <= 1)).all():
        raise ValueError(f"calibrated must lie in [0, 1], got values from {u.min():g} to {u.max():g}")
    share = np.histogram(u, bins, (0.0, 1.0))[0] / u.size
    return float(scipy.special.xlogy(share, share * bins).sum() - (bins - 1) / (2 * u.size))
