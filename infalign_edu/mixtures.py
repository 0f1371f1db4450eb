"""Mixtures of procedures: users who do not all look at the same number of draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from infalign_edu.inputs import generator, reals
from infalign_edu.order_statistics import Array, last_axis, rank_weights

if TYPE_CHECKING:
    from infalign_edu.procedures import Procedure


class Mixture:
    """Each user follows one procedure of several, chosen at random: G = sum_c weight_c G_c.

    Raises: ValueError unless the weights are non-negative, sum to 1 and match the procedures.

    >>> from infalign_edu.procedures import BestOfN, Standard
    >>> str(Mixture([0.5, 0.5], [Standard(), BestOfN(4)]))
    '0.5*standard+0.5*best-of-4'
    >>> Mixture([0.5, 0.5], [Standard(), BestOfN(4)]).max_n
    4
    """

    def __init__(self, weights: Sequence[float], procedures: Sequence[Procedure]) -> None:
        from infalign_edu.procedures import procedure  # here: that module imports this one

        share = reals("weights", weights)
        if not isinstance(procedures, (list, tuple)):
            raise ValueError(f"procedures must be a list of procedures, got {procedures}")
        if share.ndim != 1 or share.size != len(procedures) or share.size == 0:
            raise ValueError(f"weights must hold one number a procedure ({len(procedures)}), got shape {share.shape}")
        if not (((share >= 0) & (share <= 1)).all() and abs(share.sum() - 1) < 1e-9):
            raise ValueError(f"weights must be non-negative and sum to 1, got {list(weights)}")
        self.weights = tuple(float(w) for w in share)
        self.procedures = tuple(procedure(p) for p in procedures)

    @property
    def max_n(self) -> int | None:
        """Largest number of draws over the components, None if one of them is unbounded."""
        sizes = [p.max_n for p in self.procedures]
        return None if None in sizes else max(n for n in sizes if n is not None)

    def draws(self, rng: np.random.Generator) -> int:
        """How many responses to draw: a component is chosen, then its own number."""
        return self.procedures[int(generator(rng).choice(len(self.weights), p=self.weights))].draws(rng)

    def draws_probability(self, n: int) -> float:
        """Probability that exactly n responses are drawn."""
        return sum(w * _draws_probability(p, n) for w, p in zip(self.weights, self.procedures, strict=True))

    def select(self, rewards: ArrayLike, rng: np.random.Generator) -> NDArray[np.intp]:
        """Index of the response shown, by a component drawn from those that ask for n responses."""
        array = last_axis(rewards, None, self)
        n = array.shape[-1]
        likely = np.array([w * _draws_probability(p, n) for w, p in zip(self.weights, self.procedures, strict=True)])
        if likely.sum() <= 0:
            raise ValueError(f"{self} never draws {n} responses, got an array of shape {array.shape}")
        component = generator(rng).choice(len(likely), size=array.shape[:-1], p=likely / likely.sum())
        shown = np.zeros(array.shape[:-1], dtype=np.intp)
        for c in np.flatnonzero(likely):
            shown = np.where(component == c, self.procedures[c].select(array, rng), shown)
        return shown

    def cdf(self, t: ArrayLike) -> Array:
        return np.minimum(sum(w * p.cdf(t) for w, p in zip(self.weights, self.procedures, strict=True)), 1.0)

    def pdf(self, t: ArrayLike) -> Array:
        return np.asarray(sum(w * p.pdf(t) for w, p in zip(self.weights, self.procedures, strict=True)))

    def rank_weights(self, M: int) -> Array:
        """Probability that the i-th smallest of M samples is the one shown. Shape: [M], smallest first."""
        return np.asarray(sum(w * rank_weights(p, M) for w, p in zip(self.weights, self.procedures, strict=True)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mixture) and (self.weights, self.procedures) == (other.weights, other.procedures)

    def __hash__(self) -> int:
        return hash((self.weights, self.procedures))

    def __repr__(self) -> str:
        return f"Mixture({list(self.weights)}, {list(self.procedures)})"

    def __str__(self) -> str:
        return "+".join(f"{w!r}*{p}" for w, p in zip(self.weights, self.procedures, strict=True))


def _draws_probability(procedure: Procedure, n: int) -> float:
    own = getattr(procedure, "draws_probability", None)
    return own(n) if own is not None else float(n == procedure.max_n)
