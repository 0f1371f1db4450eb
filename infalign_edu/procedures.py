"""T: what the user sees at inference time.

A procedure turns a policy into the distribution of the response that is shown. All procedures here are *rank
procedures*: they draw some responses, look only at the order of their rewards, and show one. Such a procedure acts on
calibrated rewards through one function, the CDF G: if a calibrated reward has CDF F, the shown one has CDF G(F).

Left out on purpose: beam search and tree search, which look inside a response (`theory.sequences`, `lm.decoding`).
Best-of-N jailbreaking by rewriting the prompt (arXiv 2412.03556) is another attack than worst-of-N over responses.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from infalign_edu.inputs import MOST, generator, nearest, shown
from infalign_edu.mixtures import Mixture
from infalign_edu.order_statistics import Array, RankMixture, kth_best, last_axis, real, unit
from infalign_edu.own_procedures import check_law


@runtime_checkable
class Procedure(Protocol):
    """What every procedure offers; any object with these five names may take a built-in's place.

    Example: a user who looks at two draws and takes the better one only half of the time.

    >>> class Careless:
    ...     max_n = 2
    ...     def cdf(self, t): return 0.5 * t + 0.5 * t**2
    ...     def pdf(self, t): return 0.5 + t
    ...     def draws(self, rng): return 2
    ...     def select(self, rewards, rng):
    ...         best = rewards.argmax(-1)
    ...         return np.where(rng.random(best.shape) < 0.5, best, 0)
    >>> isinstance(Careless(), Procedure)
    True
    """

    @property
    def max_n(self) -> int | None: ...
    def cdf(self, t: ArrayLike) -> Array: ...
    def pdf(self, t: ArrayLike) -> Array: ...
    def draws(self, rng: np.random.Generator) -> int: ...
    def select(self, rewards: ArrayLike, rng: np.random.Generator) -> NDArray[np.intp]: ...


@dataclass(frozen=True)
class KthBest(RankMixture):
    """The k-th best of n draws; k = 1 is the best.

    G(t) = I_t(n-k+1, k), the CDF of Beta(n-k+1, k). Source: David and Nagaraja, Order Statistics, section 2.1.

    Raises: ValueError unless 1 <= k <= n.

    >>> float(KthBest(k=2, n=4).cdf(0.5)), str(KthBest(k=2, n=4))
    (0.3125, '2nd-best-of-4')
    """

    k: int
    n: int

    @property
    def rank_probabilities(self) -> Array:
        return _only(self.k, self.n)

    def __str__(self) -> str:
        return f"{_ordinal(self.k)}-best-of-{self.n}"


@dataclass(frozen=True)
class Standard(RankMixture):
    """One draw, shown as it is: G(t) = t.

    >>> float(Standard().cdf(0.3)), str(Standard())
    (0.3, 'standard')
    """

    n: ClassVar[int] = 1  # type: ignore[misc]

    @property
    def rank_probabilities(self) -> Array:
        return np.ones(1)

    def __str__(self) -> str:
        return "standard"


@dataclass(frozen=True)
class BestOfN(RankMixture):
    """The best of N draws: G(t) = t^N, g(t) = N t^(N-1).

    Paper: best-of-N is one of the two procedures the paper studies (arXiv 2412.19792).
    Raises: ValueError unless n is a positive integer.

    >>> float(BestOfN(4).cdf(0.5)), float(BestOfN(4).pdf(1.0)), str(BestOfN(4))
    (0.0625, 4.0, 'best-of-4')
    """

    n: int

    @property
    def rank_probabilities(self) -> Array:
        return _only(1, self.n)

    def cdf(self, t: ArrayLike) -> Array:
        return unit(t) ** self.n

    def pdf(self, t: ArrayLike) -> Array:
        return self.n * unit(t) ** (self.n - 1)

    def __str__(self) -> str:
        return f"best-of-{self.n}"


@dataclass(frozen=True)
class WorstOfN(RankMixture):
    """The worst of N draws, which an attacker who samples N times sees: G(t) = 1 - (1-t)^N.

    Paper: worst-of-N models best-of-N jailbreaking (arXiv 2412.19792).
    Raises: ValueError unless n is a positive integer.

    >>> float(WorstOfN(2).cdf(0.5)), float(WorstOfN(4).pdf(0.0)), str(WorstOfN(4))
    (0.75, 4.0, 'worst-of-4')
    """

    n: int

    @property
    def rank_probabilities(self) -> Array:
        return _only(self.n, self.n)

    def cdf(self, t: ArrayLike) -> Array:
        return -np.expm1(scipy.special.xlog1py(self.n, -unit(t)))

    def pdf(self, t: ArrayLike) -> Array:
        return self.n * (1 - unit(t)) ** (self.n - 1)

    def __str__(self) -> str:
        return f"worst-of-{self.n}"


@dataclass(frozen=True)
class TopM(RankMixture):
    """One of the best m of n draws, uniformly: G is the average of the k-th best, k = 1..m.

    Raises: ValueError unless 1 <= m <= n.

    >>> str(TopM(m=2, n=8)), float(TopM(m=8, n=8).cdf(0.25))
    ('top-2-of-8', 0.25)
    """

    m: int
    n: int

    @property
    def rank_probabilities(self) -> Array:
        return (np.arange(self.n) < self.m) / self.m

    def __str__(self) -> str:
        return f"top-{self.m}-of-{self.n}"


@dataclass(frozen=True)
class BestOfPoisson:
    """The best of n = 1 + Poisson(mu) draws: G(t) = t exp(mu (t-1)).

    Source: Hedging best-of-n, arXiv 2506.19248. The number of draws is unbounded, so `max_n` is None.
    Raises: ValueError unless mu is finite, >= 0 and at most a million.

    >>> float(BestOfPoisson(mu=3.0).cdf(1.0)), BestOfPoisson(3.0).max_n, str(BestOfPoisson(3.0))
    (1.0, None, 'best-of-poisson-3.0')
    """

    mu: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "mu", real("mu", self.mu, "a finite number >= 0", lambda v: v >= 0))
        if self.mu > MOST:
            raise ValueError(f"mu must be at most {MOST:,}, got {shown(self.mu)}")

    @property
    def max_n(self) -> int | None:
        """None: the number of draws is unbounded."""
        return None

    def draws(self, rng: np.random.Generator) -> int:
        """How many responses to draw: 1 + Poisson(mu)."""
        return 1 + int(generator(rng).poisson(self.mu))

    def draws_probability(self, n: int) -> float:
        """Probability that exactly n responses are drawn."""
        return (
            float(np.exp(scipy.special.xlogy(n - 1, self.mu) - self.mu - scipy.special.gammaln(n))) if n >= 1 else 0.0
        )

    def select(self, rewards: ArrayLike, rng: np.random.Generator) -> NDArray[np.intp]:
        """Index of the best response. Shape: rewards [..., n] -> [...]."""
        array = last_axis(rewards, None, self)
        return kth_best(array, np.ones(array.shape[:-1], dtype=np.intp), generator(rng))

    def cdf(self, t: ArrayLike) -> Array:
        t = unit(t)
        return t * np.exp(self.mu * (t - 1))

    def pdf(self, t: ArrayLike) -> Array:
        t = unit(t)
        return (self.mu * t + 1) * np.exp(self.mu * (t - 1))

    def __str__(self) -> str:
        return f"best-of-poisson-{self.mu!r}"


def _ordinal(k: int) -> str:
    suffix = "th" if k % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(k % 10, "th")
    return f"{k}{suffix}"


def procedure(name: str | Procedure) -> Procedure:
    """The procedure that a name stands for; `str(procedure)` gives the name back.

    Names: standard, best-of-4, worst-of-4, 2nd-best-of-4, top-2-of-8, best-of-poisson-3.0, and mixtures such as
    0.5*standard+0.5*best-of-4. A procedure is returned as it is.

    Raises: ValueError for an unknown name, with the nearest one, and for an object that is no procedure (`check_law`).

    >>> procedure("2nd-best-of-4"), str(procedure("worst-of-16"))
    (KthBest(k=2, n=4), 'worst-of-16')
    """
    if not isinstance(name, str):
        if not all(hasattr(name, field) for field in ("max_n", "cdf", "pdf")) or isinstance(name, type):
            raise _unknown(name)
        if not type(name).__module__.startswith("infalign_edu."):
            check_law(name)
        return name
    text = name.strip()
    parts = re.split(r"\+(?=[\d.eE-]+\*)", text)
    if all("*" in part for part in parts):
        weights, names = zip(*(part.split("*", 1) for part in parts), strict=True)
        return Mixture([_number(name, w) for w in weights], [procedure(part) for part in names])
    if text == "standard":
        return Standard()
    if m := re.fullmatch(r"(best|worst)-of-(\d+)", text):
        return (BestOfN if m[1] == "best" else WorstOfN)(int(m[2]))
    if m := re.fullmatch(r"(\d+)(?:st|nd|rd|th)-best-of-(\d+)", text):
        return KthBest(k=int(m[1]), n=int(m[2]))
    if m := re.fullmatch(r"top-(\d+)-of-(\d+)", text):
        return TopM(m=int(m[1]), n=int(m[2]))
    if m := re.fullmatch(r"best-of-poisson-(.+)", text):
        return BestOfPoisson(mu=_number(name, m[1]))
    raise _unknown(name)


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise _unknown(name) from None


def _only(k: int, n: int) -> Array:
    """All of the probability on the k-th best of n. Shape: [n]."""
    chances = np.zeros(n)
    chances[k - 1] = 1.0
    return chances


def _unknown(name: object) -> ValueError:
    number = re.search(r"\d+", str(name)[:80])
    known = [form.replace("4", number[0] if number else "4") for form in ("standard", "best-of-4", "worst-of-4")]
    return ValueError(
        f"procedure must be standard, best-of-N, worst-of-N, Kth-best-of-N, top-M-of-N, best-of-poisson-MU or a "
        f"mixture such as 0.5*standard+0.5*best-of-4, got {shown(name)}{nearest(name, known)}"
    )
