"""A lesson, not a solver: the textbook fixed point for the optimal transform, and why nobody should print its numbers.

Phi <- Phi[F], with F the CDF of the policy tilted by the last Phi, looks like the way to solve for Phi*. For best-of-N
it falls into a two-cycle unless beta is large; `theory.optimum` does not use it.
"""

from __future__ import annotations

import numpy as np

from infalign_edu.order_statistics import Array, count
from infalign_edu.procedures import Procedure, procedure
from infalign_edu.theory.continuous import Frontier
from infalign_edu.theory.solver.layers import positive
from infalign_edu.theory.solver.panels import Panels


class History(Frontier):
    """Frontier with beta repeated: win_rate and kl after every step. Shape: [steps]."""

    @property
    def objective(self) -> Array:
        """W - beta KL after every step: a solver would make it settle."""
        return self.win_rate - self.beta * self.kl


def naive_fixed_point(shown: str | Procedure, beta: float, steps: int = 40, step_size: float = 1.0) -> History:
    """The policies that the iteration Phi <- (1 - step_size) Phi + step_size Phi[F] visits, from the reference on.

    Derived: the undamped two-cycle at best-of-4, beta = .3, and that step_size = .1 settles at the optimum;
    tests/test_theory_optimal.py.

    >>> seen = naive_fixed_point("best-of-4", 0.3)
    >>> seen.objective[-4:].round(3)              # the optimum has .729
    array([0.23 , 0.507, 0.23 , 0.507])
    """
    beta, shown, steps = positive("beta", beta), procedure(shown), count("steps", steps)
    panels = Panels.graded(2.0**-50, 2.0**-50)
    for _ in range(2):
        panels = panels.split(np.ones(panels.near.size, dtype=bool))
        panels = panels.take(panels.order())
    g_ref, G_ref = shown.pdf(panels.u), shown.cdf(panels.u)
    F, phi = panels.u, np.zeros_like(panels.u)
    seen = []
    for _ in range(steps):
        phi = (1 - step_size) * phi + step_size * panels.cumulative(shown.pdf(F) * g_ref)
        f = np.exp((phi - phi.max()) / beta)
        f /= panels.integral(f)
        F = panels.cumulative(f).clip(0, 1)
        seen.append(
            (
                panels.integral(np.where(f > 0, f, 1.0) * np.log(np.where(f > 0, f, 1.0)) * (f > 0)),
                panels.integral(shown.pdf(F) * f * G_ref),
            )
        )
    kl, win_rate = np.array(seen).T
    return History(np.full(steps, beta), kl, win_rate)
