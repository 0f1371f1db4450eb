"""A lesson, not a solver: the textbook fixed point for the optimal transform, and why nobody should print its numbers.

Phi <- Phi[F], with F the CDF of the policy tilted by the last Phi, looks like the way to solve for Phi*. For best-of-N
it falls into a two-cycle unless beta is large; with few reward levels, or a reference that shows its best, worst-of-N
settles at a policy that is not the optimum. `theory.optimum` and `theory.FiniteProblem` do not use it. Left out:
step sizes that adapt, and anything that would make a solver of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import xlogy

from infalign_edu.inputs import reals
from infalign_edu.order_statistics import Array, count, real
from infalign_edu.procedures import Procedure, procedure
from infalign_edu.theory.continuous import Frontier
from infalign_edu.theory.solver.layers import positive
from infalign_edu.theory.solver.panels import WEIGHTS, Panels

_FELT = -30.0  # nats: where log f lies below, the policy never goes, and no residual is counted


@dataclass(frozen=True)
class History(Frontier):
    """Frontier with beta repeated: win_rate and kl at every step, with the policies behind them.

    `residual` (nats): how far log f - Phi[F] / beta is from a constant, zero at a stationary policy. `transform` is
    what each policy was trained on, and `cdf` its F at u. Shape: residual [steps], u [nodes] or the middles of the
    levels [L], transform and cdf [steps, nodes]; with levels, cdf is F at their upper edges.
    """

    u: Array
    transform: Array
    cdf: Array
    residual: Array

    @property
    def objective(self) -> Array:
        """W - beta KL after every step: a solver would make it settle."""
        return self.win_rate - self.beta * self.kl

    def after(self, step: int) -> History:
        """The same without what came before a step. Raises: ValueError for a step that was not taken."""
        step = int(real("step", step, f"a step from 0 to {len(self.beta) - 1}", lambda s: 0 <= s < len(self.beta)))
        return History(**{f.name: getattr(self, f.name)[0 if f.name == "u" else step :] for f in fields(self)})


class _Continuum:
    """Calibrated rewards on [0, 1]: what a policy of density f earns, and which transform it asks for."""

    def __init__(self, ours: Procedure, theirs: Procedure) -> None:
        self.panels, self.ours = _panels(), ours
        self.u, self.weight = self.panels.u.ravel(), (0.5 * self.panels.width[:, None] * WEIGHTS).ravel()
        self.g_ref, self.G_ref = theirs.pdf(self.panels.u), theirs.cdf(self.panels.u)

    def answer(self, f: Array) -> tuple[Array, Array, float]:
        f = f.reshape(self.panels.u.shape)
        F = self.panels.cumulative(f).clip(0, 1)
        F = np.maximum.accumulate(F.ravel()).reshape(F.shape)  # a steep f's polynomial may dip between nodes, by 1e-7
        g = self.ours.pdf(F)
        return F.ravel(), self.panels.cumulative(g * self.g_ref).ravel(), self.panels.integral(g * f * self.G_ref)


class _Levels:
    """The same with L equally likely reward levels: Phi rises from level to level by (c_{k+1} - c_k) g(F_k)."""

    def __init__(self, ours: Procedure, theirs: Procedure, levels: int) -> None:
        self.ours, self.weight, self.u = ours, np.full(levels, 1 / levels), (np.arange(levels) + 0.5) / levels
        G = theirs.cdf(np.arange(levels + 1) / levels)
        self.scores = (G[1:] + G[:-1]) / 2

    def answer(self, f: Array) -> tuple[Array, Array, float]:
        F = np.concatenate([[0.0], np.cumsum(f * self.weight)[:-1].clip(0, 1), [1.0]])
        rise = np.diff(self.scores) * self.ours.pdf(F[1:-1])
        return F[1:], np.concatenate([[0.0], np.cumsum(rise)]), float(np.diff(self.ours.cdf(F)) @ self.scores)


@cache
def _panels() -> Panels:
    panels = Panels.graded(2.0**-50, 2.0**-50)
    wide = panels.width > 2.0**-9
    panels = panels.take(~wide).join(panels.split(wide))
    return panels.take(panels.order())


def fixed_point(shown: str | Procedure, beta: float, steps: int = 40, step_size: float = 1.0, *,
                reference_procedure: str | Procedure | None = None, levels: int | None = None,
                start: Callable[[Array], ArrayLike] | ArrayLike = np.zeros_like) -> History:
    """The policies that Phi <- (1 - step_size) Phi + step_size Phi[F] visits, the first of them the start.

    `levels`: that many equally likely reward levels in place of a continuous reward. `start`: log f of the first
    policy, in nats up to a constant, as a function of u or one number a node; default the reference.
    Derived: what it visits, against THEORY's numbers and `FiniteProblem.gradient`; tests/test_theory_lesson.py.

    Raises: ValueError for a step_size outside [0, 1], fewer than two levels, or a start that is not finite.

    >>> trap = fixed_point("worst-of-32", 0.1, levels=2)     # a binary safe / unsafe reward, attacked 32 times
    >>> trap.objective[-1].round(3), trap.residual[-1] < 1e-9  # the optimum has .931
    (np.float64(0.5), np.True_)
    """
    beta, ours, steps = positive("beta", beta), procedure(shown), count("steps", steps, least=0)
    theirs = ours if reference_procedure is None else procedure(reference_procedure)
    size = real("step_size", step_size, "a number in [0, 1]", lambda s: 0 <= s <= 1)
    world = _Continuum(ours, theirs) if levels is None else _Levels(ours, theirs, count("levels", levels, least=2))
    phi = beta * reals("start", start(world.u) if callable(start) else start)
    if phi.shape != world.u.shape or not np.isfinite(phi).all():
        raise ValueError(f"start must be one finite log density at each of {world.u.size} places, got {phi.shape}")
    seen = []
    for _ in range(steps + 1):
        log_f = (phi - phi.max()) / beta
        log_f -= np.log(world.weight @ np.exp(log_f))
        f = np.exp(log_f)
        F, asked, win_rate = world.answer(f)
        miss, share = log_f - asked / beta, world.weight * f
        miss = np.abs(miss - share @ miss)[log_f > _FELT]
        seen.append((world.weight @ xlogy(f, f), win_rate, phi, F, miss.max()))
        phi = (1 - size) * phi + size * asked
    kl, won, transforms, cdfs, residual = (np.array(part) for part in zip(*seen, strict=True))
    return History(np.full(steps + 1, beta), kl, won, world.u, transforms, cdfs, residual)


def naive_fixed_point(shown: str | Procedure, beta: float, steps: int = 40, step_size: float = 1.0) -> History:
    """The policies that `fixed_point` visits after the reference.

    Derived: the undamped two-cycle at best-of-4, beta = .3, and that step_size = .1 settles at the optimum;
    tests/test_theory_optimal.py.

    >>> seen = naive_fixed_point("best-of-4", 0.3)
    >>> seen.objective[-4:].round(3)              # the optimum has .729
    array([0.23 , 0.507, 0.23 , 0.507])
    """
    return fixed_point(shown, beta, count("steps", steps), step_size).after(1)
