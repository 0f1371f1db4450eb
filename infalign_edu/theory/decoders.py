"""Procedures that look inside a response, exact on an enumerable sequence space and differentiable in the policy.

Blockwise controlled decoding, a sampled tree search, soft best-of-n, and rejection sampling with a cap. Each is a torch
function from a policy's table to the table of what the user sees: no sampling, ties broken uniformly among the draws.
tests/test_theory_sequences.py checks each against a simulation. torch is imported when one runs, never before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from infalign_edu.inputs import reals
from infalign_edu.order_statistics import Array, count, real
from infalign_edu.theory.finite import FiniteProblem

Table = Any  # a float64 torch tensor [V, ..., V], one axis a token
Decode = Callable[[Table], Table]  # pi -> T(pi), the distribution of what the user sees
MOST = 1024  # sequences: ties are counted with a dense comparison of all pairs


class SequenceSpace:
    """All sequences of T tokens, with a reference policy and a reward for each.

    Shape: reference and reward [V, ..., V], one axis a token. Raises: ValueError unless the reference is positive and
    sums to 1 and every reward is finite.

    >>> toy = SequenceSpace(np.full((2, 2), 0.25), [[0.0, 1.0], [2.0, 3.0]])
    >>> import torch
    >>> toy.blockwise(block=2, draws=2)(torch.full((2, 2), 0.25, dtype=torch.float64)).tolist()
    [[0.0625, 0.1875], [0.3125, 0.4375]]
    """

    def __init__(self, reference: ArrayLike, reward: ArrayLike) -> None:
        self.reference, self.reward = reals("reference", reference), reals("reward", reward)
        shape = self.shape = self.reference.shape
        if not shape or self.reference.size > MOST or self.reward.shape != shape:
            got = f"shapes {shape} and {self.reward.shape}"
            raise ValueError(f"reference and reward must be tables [V, ..., V] of at most {MOST} sequences, got {got}")
        self.flat = FiniteProblem(self.reference.ravel(), self.reward.ravel())
        if self.reference.min() <= 0 or not np.isfinite(self.reward).all():
            got = f"minima {self.reference.min()} and {self.reward.min()}, maximum reward {self.reward.max()}"
            raise ValueError(f"reference must be positive and reward finite, got {got}")

    def value(self, length: int) -> Array:
        """V_ref: the mean reward under the reference, given the first tokens. Rounded, so that ties stay ties.

        Shape: [V ** length]. Source: the prefix score of controlled decoding, arXiv 2310.17022.

        >>> SequenceSpace(np.full((2, 2), 0.25), [[0.0, 1.0], [2.0, 3.0]]).value(1)
        array([0.5, 2.5])
        """
        if count("length", length, least=0) > len(self.shape):
            raise ValueError(f"length must be at most the {len(self.shape)} tokens of a sequence, got {length}")
        rows = int(np.prod(self.shape[:length]))
        mass = self.reference.reshape(rows, -1)
        value = (mass * self.reward.reshape(rows, -1)).sum(axis=1) / mass.sum(axis=1)
        scale = np.abs(self.reward).max() or 1.0
        return np.asarray((value / scale).round(12) * scale)

    def blockwise(self, block: int, draws: int) -> Decode:
        """Blockwise controlled decoding: draw some blocks from pi(. | prefix), keep the one of the best value, repeat.

        T(block | prefix) = pi(block | prefix) (F^b - E^b) / (F - E), with E and F the mass below and up to the block's
        value V_ref, which is fixed. Source: arXiv 2310.17022; Derived: exact form with ties. Block = T is best-of-b.
        """
        block, draws = count("block", block), count("draws", draws)
        ends = [min(end, len(self.shape)) for end in range(block, len(self.shape) + block, block)]
        values = [self.value(end) for end in ends]

        def decode(pi: Table) -> Table:
            shown, before = pi.new_ones(1), pi.sum().reshape(1)
            for value in values:
                mass = pi.reshape(len(value), -1).sum(1)
                chance = mass.reshape(len(before), -1) / _safe(before)[:, None]
                kept = _best(chance, value.reshape(chance.shape), draws)
                shown, before = (shown[:, None] * kept).reshape(-1), mass
            return shown.reshape(self.shape)

        return decode

    def tree_search(self, draws: int, beams: int = 2) -> Decode:
        """Sampled tree search: each beam draws next tokens, the best of all draws go on; the best final beam is shown.

        Both beams start at the empty prefix, so the first step keeps the best two of 2 b draws. Values are V_ref and
        fixed, ties are broken uniformly among the draws. Derived: exact distribution of the pair of prefixes.

        Raises: ValueError for more than two beams.
        """
        draws, beams = count("draws", draws), count("beams", beams)
        if beams > 2:
            raise ValueError(f"beams must be 1 or 2, got {beams}")
        if beams == 1:
            return self.blockwise(1, draws)
        values = [self.value(length) for length in range(1, len(self.shape) + 1)]

        def decode(pi: Table) -> Table:
            import torch

            pair, before = pi.new_ones(1, 1), pi.sum().reshape(1)  # pair: [prefixes, prefixes], better beam first
            for value in values:
                mass, P = pi.reshape(len(value), -1).sum(1), len(before)
                child = torch.arange(len(value)).reshape(P, -1)
                child = torch.stack([child[:, None].expand(P, P, -1), child[None].expand(P, P, -1)], dim=2)
                chance = (mass / _safe(before).repeat_interleave(len(value) // P))[child]  # [P, P, 2 beams, V]
                top = pair[..., None, None] * _best_two(chance, torch.as_tensor(value)[child], draws)
                slot, pair = child.flatten(2), pi.new_zeros(len(value), len(value))
                pair = pair.index_put((slot[..., :, None], slot[..., None, :]), top, accumulate=True)
                before = mass
            return pair.sum(1).reshape(self.shape)

        return decode

    def soft_best_of(self, n: int, temperature: float) -> Decode:
        """Soft best-of-n: of n draws show one with probability proportional to exp(reward / temperature).

        T(y) = n pi(y) integral_0^inf w_y exp(-w_y s) M(s)^(n-1) ds with w = exp(r / temperature) and
        M(s) = E_pi exp(-w s). Source: arXiv 2505.03156; Derived: the integral, since 1/x = int exp(-x s) ds, by the
        trapezoidal rule in log s, which is exact to rounding.

        Raises: ValueError for a temperature below 1/500 of the reward range.
        """
        n, spread = count("n", n), float(np.ptp(self.reward))
        accepted = f"at least {spread / 500:g}, 1/500 of the reward range, and positive"
        temperature = real("temperature", temperature, accepted, lambda t: t > 0 and 500 * t >= spread)
        log_w = (self.reward.ravel() - self.reward.max()) / temperature
        exponent = np.arange(-40.0, 5.0 - log_w.min(), 0.2)[:, None] + log_w  # [nodes, S], log of w_y s
        decay = np.exp(-np.exp(exponent))
        race = 0.2 * np.exp(exponent) * decay

        def decode(pi: Table) -> Table:
            flat = pi.reshape(-1)
            others = (pi.new_tensor(decay) @ flat) ** (n - 1)
            return (n * flat * (others @ pi.new_tensor(race))).reshape(self.shape)

        return decode

    def rejection(self, threshold: float, cap: int) -> Decode:
        """Rejection sampling with a cap: draw until reward >= threshold, at most cap times, else show the last draw.

        Derived: this is best-of-cap for the binary reward [r >= threshold], ties broken uniformly among the draws.
        """
        threshold, cap = real("threshold", threshold, "a finite number", np.isfinite), count("cap", cap)
        passes = (self.reward >= threshold).reshape(1, -1).astype(np.float64)
        return lambda pi: _best(pi.reshape(1, -1), passes, cap).reshape(self.shape)


def _safe(mass: Table) -> Table:
    return mass.where(mass > 1e-140, mass.new_ones(()))  # nobody sees what follows a prefix that nobody reaches


def _best(chance: Table, value: Array, draws: int) -> Table:
    """Best of iid draws in each row, ties uniformly: chance (F^b - E^b) / (F - E). Shape: [P, B], [P, B] -> [P, B]."""
    E = (chance.new_tensor(value[:, None] < value[..., None]) * chance[:, None]).sum(-1)
    F = (chance.new_tensor(value[:, None] <= value[..., None]) * chance[:, None]).sum(-1)
    total = power = F * 0 + 1
    for _ in range(draws - 1):
        power = power * E
        total = total * F + power
    return chance * total


def _best_two(chance: Table, value: Table, b: int) -> Table:
    """Probability that slot x is the best and slot y the second best of b draws from each of two beams.

    A draw's place among its ties is uniform on [0, 1]: given that y's is u, the other draws lie below with probability
    A = E + m u each, a polynomial that Gauss-Legendre integrates exactly. Shape: [..., 2, V] -> [..., 2 V, 2 V].
    """
    import torch

    V, (node, weight) = chance.shape[-1], np.polynomial.legendre.leggauss(b)
    u, weight = chance.new_tensor((node + 1) / 2), chance.new_tensor(weight / 2)
    q, v = chance.flatten(-2), value.flatten(-2)
    E = (chance[..., None] * (value[..., None] < v[..., None, None, :])).sum(-2)  # [..., 2 beams, 2 V]
    m = (chance[..., None] * (value[..., None] == v[..., None, None, :])).sum(-2)
    A = E[..., None] + m[..., None] * u  # [..., 2 beams, 2 V, nodes]
    own = torch.cat([A[..., 0, :V, :], A[..., 1, V:, :]], -2)
    other = torch.cat([A[..., 1, :V, :], A[..., 0, V:, :]], -2)
    same = (b - 1) * own ** max(b - 2, 0) * other**b  # the best draw came from y's own beam
    cross = b * (own * other) ** (b - 1)
    mine = torch.arange(2 * V) < V
    density = torch.where((mine[:, None] == mine)[..., None], same[..., None, :, :], cross[..., None, :, :])
    order = (v[..., :, None] > v[..., None, :])[..., None] + (v[..., :, None] == v[..., None, :])[..., None] * (1 - u)
    return b * q[..., :, None] * q[..., None, :] * (order * density * weight).sum(-1)
