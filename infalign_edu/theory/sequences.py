"""The general theorem for any differentiable procedure, by automatic differentiation on an enumerable sequence space.

At an optimum of W - beta KL(pi || pi_ref), pi* is proportional to pi_ref exp(R(pi*) / beta) with R = dW/dpi, whatever
the procedure T, as long as T(pi) is differentiable in pi. Paper: for any T the optimum solves KL-regularised RL for a
transformed reward. Derived: this form of it, checked by finite differences in tests/test_theory_sequences.py.

Left out on purpose: plain beam search by likelihood. It is an argmax: its derivative is zero almost everywhere and
undefined at the jumps, so the theorem says nothing there. torch is imported when it is first needed, never before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_softmax

from infalign_edu.inputs import shown
from infalign_edu.order_statistics import Array, real
from infalign_edu.theory.decoders import Decode, SequenceSpace
from infalign_edu.theory.finite import TOLERANCE, FiniteProblem, Solution, numbers


class SequenceProblem(SequenceSpace):
    """All sequences of T tokens, with a reference policy and a reward for each, under any differentiable procedure.

    A `decode` is any torch function from a policy's table to the table of what the user sees: one of `blockwise`,
    `tree_search`, `soft_best_of`, `rejection`, or your own. Shape: reference and reward [V, ..., V], one axis a token.

    >>> toy = SequenceProblem(np.full((2, 2), 0.25), [[0.0, 1.0], [2.0, 3.0]])
    >>> toy.win_rate(toy.reference, toy.blockwise(block=1, draws=4))
    0.5
    >>> best = toy.optimum(lambda pi: pi**2 / (pi**2).sum(), beta=0.1)
    >>> best.residual < 1e-8, best.policy.shape
    (True, (2, 2))
    """

    def win_rate(self, policy: ArrayLike, decode: Decode) -> float:
        """W of a policy under `decode` against the reference under the same. Shape: policy [V, ..., V] -> float."""
        return self._derivative(decode)(self._flat(policy))[0]

    def objective(self, policy: ArrayLike, decode: Decode, beta: float) -> float:
        """W - beta KL(policy || reference), KL in nats. Shape: policy [V, ..., V] -> float."""
        return self.win_rate(policy, decode) - beta * self.flat.kl(self._flat(policy))

    def gradient(self, policy: ArrayLike, decode: Decode) -> Array:
        """R(y) = d/dh W((1-h) policy + h delta_y) at h = 0, so that E_policy[R] = 0. Shape: [V, ..., V] -> the same."""
        return self._derivative(decode)(self._flat(policy))[1].reshape(self.shape)

    def optimum(self, decode: Decode, beta: float) -> Solution:
        """The best stationary policy found for W - beta KL(pi || pi_ref). Paper: the InfAlign objective.

        Accelerated mirror ascent from the reference, the RLHF optimum and tilts towards the best sequences, until
        log pi = log pi_ref + R(pi) / beta + constant. W need not be concave, so `certified` is "stationary": blockwise
        decoding by a value that misleads has a second stationary policy next to the reference.

        Raises: ValueError unless beta > 0; RuntimeError rather than returning a policy with a residual above 1e-8.
        """
        beta = real("beta", beta, "a positive number", lambda value: value > 0)
        derivative, prior = self._derivative(decode), np.log(self.flat.reference)

        def at(logits: Array) -> tuple[Array, float, Array]:
            log_pi = log_softmax(logits)
            pi = np.exp(log_pi)
            with np.errstate(invalid="ignore", over="ignore"):  # where the gradient is not finite
                win, R = derivative(pi)
                gap = prior + R / beta - log_pi
                value = win - beta * float(pi @ (log_pi - prior))
                return log_pi, value if np.isfinite(gap).all() else -np.inf, gap - pi @ gap

        found: list[Solution] = []
        uncertified = -np.inf
        for strength in (0.0, 1 / beta, 3.0, 10.0, 30.0, 100.0):
            log_pi, objective, residual = _climb(at, prior + strength * self.flat.calibrated)
            pi = np.exp(log_pi)
            if not residual <= TOLERANCE:
                uncertified = max(uncertified, objective)
            elif all(np.abs(pi - s.policy.ravel()).max() > 1e-7 for s in found):
                kl = float(pi @ (log_pi - prior))
                policy, win = pi.reshape(self.shape), objective + beta * kl
                found.append(Solution(policy, objective, win, kl, residual, "stationary"))
        found.sort(key=lambda s: -s.objective)
        if not found or uncertified > found[0].objective + 1e-9:
            raise RuntimeError(f"optimum(beta={beta}) could not certify its best policy; larger beta is easier")
        return replace(found[0], stationary=tuple(found))

    def _flat(self, policy: ArrayLike) -> Array:
        return numbers("policy", policy, self.shape, probabilities=True).ravel()

    def _derivative(self, decode: Decode) -> Callable[[Array], tuple[float, Array]]:
        import torch

        if not callable(decode):
            raise ValueError(f"decode must be a torch function such as `blockwise(block, draws)`, got {shown(decode)}")
        seen = decode(torch.tensor(self.reference))
        seen = numbers("decode(reference)", seen, self.shape, probabilities=True).ravel()
        score = torch.tensor(FiniteProblem(seen, self.flat.reward).calibrated)  # win probability against T(reference)

        def derivative(pi: Array) -> tuple[float, Array]:
            point = torch.tensor(pi, requires_grad=True)
            win = torch.as_tensor(decode(point.reshape(self.shape))).reshape(-1) @ score
            if not win.requires_grad:
                raise ValueError("decode must be differentiable in torch, got a result that does not depend on pi")
            R = torch.autograd.grad(win, point)[0].numpy()
            return win.item(), R - pi @ R

        return derivative


def _climb(at: Callable[[Array], tuple[Array, float, Array]], start: Array) -> tuple[Array, float, float]:
    """Mirror ascent log pi += step gap with Anderson acceleration; a step that loses is replaced by a plain one.

    Source: Walker and Ni, Anderson acceleration for fixed-point iterations, SIAM J. Numer. Anal. 49 (2011).
    """
    (x, value, gap), step = at(start), 0.5
    moves: list[tuple[Array, Array]] = []
    for _ in range(400):
        if not np.isfinite(gap).all() or np.ptp(gap) < 1e-11:
            break
        new: tuple[Array, float, Array] | None = None
        if moves:
            dx, dgap = (np.stack(d, axis=1) for d in zip(*moves, strict=True))
            mix = np.linalg.lstsq(dgap, gap, rcond=1e-12)[0]
            new = at(x + step * gap - (dx + step * dgap) @ mix)
            if not new[1] >= value - 1e-13:
                new, moves = None, []
        while new is None and step > 1e-7:
            new = at(x + step * gap)
            if not new[1] >= value - 1e-13:
                new, step = None, step / 2
        if new is None:
            break
        moves = [*moves, (new[0] - x, new[2] - gap)][-10:]
        x, value, gap = new
    return x, value, float(np.ptp(gap))
