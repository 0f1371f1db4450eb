"""Order statistics of exchangeable draws: the mathematics that every finite rank procedure shares.

The k-th best of n uniform draws has the Beta(n-k+1, k) distribution, and the i-th smallest of M samples is the k-th
best of a random n-subset with probability C(i-1, n-k) C(M-i, k-1) / C(M, n). Source: David and Nagaraja, Order
Statistics, 3rd edition, chapter 2. `scipy.stats` is left out, since importing it costs more than this package does, and
`scipy.special` is written out in full so that SciPy loads it at the first use.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from infalign_edu.inputs import MOST, generator, label, reals, shown

Array = NDArray[np.float64]


def count(name: str, value: object, least: int = 1) -> int:
    """The integer that `value` is, or one clear error that names the field.

    >>> count("n", 4)
    4
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {shown(value)}")
    return number


def real(name: str, value: object, accepted: str, accept: Callable[[float], bool]) -> float:
    """The finite number that `value` is, or one clear error that says what is accepted.

    >>> real("mu", 3, "a number >= 0", lambda v: v >= 0)
    3.0
    """
    try:
        number = float(value) if np.ndim(value) == 0 else math.nan  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, (bool, str)) or not (math.isfinite(number) and accept(number)):
        raise ValueError(f"{name} must be {accepted}, got {shown(value)}")
    return number


def unit(t: ArrayLike) -> Array:
    """`t` as an array in [0, 1]; rounding of 1e-9 beyond the ends is clipped, anything more is an error.

    >>> float(unit(1 + 1e-12))
    1.0
    """
    array = reals("t", t)
    if array.size and not (array.min() >= -1e-9 and array.max() <= 1 + 1e-9):
        raise ValueError(f"t must lie in [0, 1], got values from {array.min()} to {array.max()}")
    return np.clip(array, 0.0, 1.0)


def last_axis(rewards: ArrayLike, n: int | None, name: object) -> Array:
    """`rewards [..., n]` as numbers that can be ordered, or one clear error.

    >>> last_axis([[1, 2]], 2, "best-of-2").shape
    (1, 2)
    """
    array = reals("rewards", rewards)
    if array.ndim == 0 or array.shape[-1] == 0 or (n is not None and array.shape[-1] != n):
        raise ValueError(f"{name} chooses among {n or 'at least one'} rewards, got an array of shape {array.shape}")
    if np.isnan(array).any():
        raise ValueError(f"rewards must not contain nan, got {shown(array[np.isnan(array)][0])} for {name}")
    return array


def kth_best(rewards: Array, k: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.intp]:
    """Index of the k-th best reward, ties broken uniformly among the draws.

    Shape: rewards [..., n], k [...] -> [...].

    >>> int(kth_best(np.array([0.1, 0.9, 0.5]), np.array(2), np.random.default_rng(0)))
    2
    """
    order = np.lexsort((rng.random(rewards.shape), rewards), axis=-1)
    return np.take_along_axis(order, (rewards.shape[-1] - k)[..., None], axis=-1)[..., 0]


def beta_pdf(t: Array, a: int, b: int) -> Array:
    """Density of Beta(a, b) at t: t^(a-1) (1-t)^(b-1) / B(a, b).

    >>> float(beta_pdf(np.array(0.5), 2, 2))
    1.5
    """
    return np.exp(scipy.special.xlogy(a - 1, t) + scipy.special.xlog1py(b - 1, -t) - scipy.special.betaln(a, b))


def _log_binomial(a: Array, b: int) -> Array:
    inside = a >= b
    safe = np.where(inside, a, b)
    return np.where(inside, -np.log(safe + 1) - scipy.special.betaln(safe - b + 1, b + 1), -np.inf)


def subset_rank_weights(rank_probabilities: Array, M: int) -> Array:
    """Probability that the i-th smallest of M samples is the one shown by a rule on the ranks of a random n-subset.

    w_i = sum_k P(k) C(i-1, n-k) C(M-i, k-1) / C(M, n), with P(k) the probability that the k-th best of n is shown.

    Shape: rank_probabilities [n], best first -> [M], smallest first. Raises: ValueError when M < n.

    >>> subset_rank_weights(np.array([1.0, 0.0]), 3) * 3     # best of 2, from 3 samples
    array([0., 1., 2.])
    """
    n = len(rank_probabilities)
    M = count("M", M, least=n)
    i = np.arange(1, M + 1, dtype=float)
    total = np.zeros(M)
    for k in np.flatnonzero(rank_probabilities) + 1:
        log_weight = _log_binomial(i - 1, n - int(k)) + _log_binomial(M - i, int(k) - 1)
        weight = np.exp(log_weight - log_weight.max())
        total += rank_probabilities[k - 1] * weight / weight.sum()
    return total


class RankMixture:
    """A procedure that draws n responses and shows the k-th best with probability `rank_probabilities[k - 1]`."""

    n: int

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            object.__setattr__(self, field.name, count(field.name, getattr(self, field.name)))
            if getattr(self, field.name) > self.n:
                raise ValueError(f"{field.name} must be at most n = {self.n}, got {getattr(self, field.name)}")
        if self.n > MOST:
            raise ValueError(f"n must be at most {MOST:,}, got {shown(self.n)}")

    @property
    def rank_probabilities(self) -> Array:
        """Probability that the k-th best of the n draws is shown. Shape: [n], best first."""
        raise NotImplementedError

    @property
    def max_n(self) -> int | None:
        """Largest number of draws."""
        return self.n

    def draws(self, rng: np.random.Generator) -> int:
        """How many responses to draw."""
        return self.n

    def draws_probability(self, n: int) -> float:
        """Probability that exactly n responses are drawn."""
        return float(n == self.n)

    def select(self, rewards: ArrayLike, rng: np.random.Generator) -> NDArray[np.intp]:
        """Index of the response that is shown. Shape: rewards [..., n] -> [...]."""
        array = last_axis(rewards, self.n, self)
        k = generator(rng).choice(self.n, size=array.shape[:-1], p=self.rank_probabilities) + 1
        return kth_best(array, np.asarray(k), rng)

    def cdf(self, t: ArrayLike) -> Array:
        """G(t) = sum_k P(k) I_t(n-k+1, k), from the Beta CDFs of the order statistics."""
        t, shown = unit(t), np.flatnonzero(self.rank_probabilities) + 1
        found = sum(self.rank_probabilities[k - 1] * scipy.special.betainc(self.n - k + 1, k, t) for k in shown)
        return np.minimum(found, 1.0)  # a sum of many may end an ulp above

    def pdf(self, t: ArrayLike) -> Array:
        """g(t) = G'(t)."""
        t, shown = unit(t), np.flatnonzero(self.rank_probabilities) + 1
        return np.asarray(sum(self.rank_probabilities[k - 1] * beta_pdf(t, self.n - int(k) + 1, int(k)) for k in shown))

    def rank_weights(self, M: int) -> Array:
        """Probability that the i-th smallest of M samples is the one shown. Shape: [M], smallest first."""
        return subset_rank_weights(self.rank_probabilities, M)


def rank_probabilities_from_pdf(procedure: object) -> Array:
    """Rank probabilities of any procedure on at most `max_n` draws, read off its pdf.

    g(t) = sum_k P(k) beta_pdf(t; n-k+1, k): the Beta densities of the n order statistics span the polynomials of
    degree n-1, so least squares on 4n Chebyshev nodes finds P. Derived: tests/test_procedures.py. Beyond n of about 30
    the basis is ill-conditioned and P is one that non-negative least squares finds: others may have the same pdf, hence
    the same expectations. Own procedures may bring their own `rank_weights(M)`.

    Shape: [max_n], best first. Raises: ValueError when `max_n` is None or the pdf is no such polynomial.

    >>> class Careless:
    ...     max_n = 2
    ...     def pdf(self, t): return 0.5 + t
    >>> rank_probabilities_from_pdf(Careless()).round(6)
    array([0.75, 0.25])
    """
    if getattr(procedure, "max_n", None) is None:
        told = f"got {label(procedure)}, which has none"
        raise ValueError(f"procedure must have a largest number of draws (max_n), {told}")
    n = count("max_n", procedure.max_n)  # type: ignore[attr-defined]
    t = 0.5 - 0.5 * np.cos(np.pi * (np.arange(4 * n) + 0.5) / (4 * n))
    basis = np.stack([beta_pdf(t, n - k + 1, k) for k in range(1, n + 1)], axis=1)
    density: Array = np.array(procedure.pdf(t), dtype=np.float64)  # type: ignore[attr-defined]
    probabilities: Array = scipy.linalg.lstsq(basis, density)[0]
    if probabilities.min() < -1e-6:
        scale = np.linalg.norm(basis, axis=0)
        with suppress(RuntimeError):  # it may not end where no such P exists
            probabilities = scipy.optimize.nnls(basis / scale, density, maxiter=100 * n)[0] / scale
    worst = float(np.abs(basis @ probabilities - density).max())
    if worst > 1e-6 or abs(probabilities.sum() - 1) > 1e-6 or probabilities.min() < -1e-6:
        told = f"is no rule on the ranks of {n} draws: its pdf misses by {worst:.1e}"
        raise ValueError(f"procedure {label(procedure)} {told}")
    probabilities = np.clip(probabilities, 0, None)
    return probabilities / probabilities.sum()


def rank_weights(procedure: object, M: int) -> Array:
    """Probability that the i-th smallest of M samples is the one the procedure shows; any procedure, own ones too.

    Shape: [M], smallest first. Raises: ValueError when M is below the procedure's `max_n`, or it has none.

    >>> from infalign_edu.procedures import WorstOfN
    >>> rank_weights(WorstOfN(2), 3) * 3
    array([2., 1., 0.])
    """
    own = getattr(procedure, "rank_weights", None)
    return own(M) if own is not None else subset_rank_weights(rank_probabilities_from_pdf(procedure), M)
