"""The textbook iteration for the optimal transform, step by step, judged against the certified optimum.

The pure half of FixedPointExplorer: settings in, numbers and curves out. A verdict is read off policies and residuals
up to the step that is looked at, never off what comes after it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from infalign_edu import theory
from infalign_edu.order_statistics import Array, real
from infalign_edu.theory.lesson import History, fixed_point

STEPS = 100
KINDS = ("best-of", "worst-of")
REFERENCES = ("the same", "standard", "the opposite")
LEVELS = {"continuous": None, "2 levels (safe or not)": 2, "4 levels": 4, "16 levels": 16}
STARTS = ("reference", "optimum at 4 beta", "mostly low", "mostly high")
_ENDS = np.geomspace(1e-5, 0.01, 30)  # thin layers at either end are drawn too
GRID = np.unique(np.concatenate([np.linspace(0, 1, 201), _ENDS, 1 - _ENDS]))


@dataclass(frozen=True)
class Solved:
    """All stationary policies, best first, as (J, win rate, KL); transform and CDF of the best one as lines."""

    stationary: tuple[tuple[float, float, float], ...]
    certified: str
    transform: tuple[Array, Array]
    cdf: tuple[Array, Array]
    log_density: Callable[[Array], Array] | Array


@dataclass(frozen=True)
class Iteration:
    """The steps 0..step of an iteration, the certified optimum, and what the learner should see in them.

    `verdict` is "start", "moving", "two-cycle", "optimum", "trap" (stationary, not the optimum) or "frozen" (damping
    1). `swing` holds the two objectives of a cycle, the lower first; for other verdicts the last one twice.
    """

    name: str
    history: History
    step: int
    levels: int | None
    optimum: Solved
    verdict: str
    swing: tuple[float, float]


def iterate(procedure: str, n: int, reference: str, reward: str, beta: float, damping: float, start: str,
            step: int) -> Iteration:
    """The fixed-point iteration for one setting of the controls, up to `step`, beside the optimum.

    Phi <- damping Phi + (1 - damping) Phi[F]. Raises: ValueError for a value that is not on its control.

    >>> seen = iterate("best-of", 4, "the same", "continuous", 0.3, 0.0, "reference", 40)
    >>> seen.verdict, [round(J, 3) for J in seen.swing], round(seen.optimum.stationary[0][0], 3)
    ('two-cycle', [0.23, 0.507], 0.729)
    """
    for field, value, accepted in (("procedure", procedure, KINDS), ("reference", reference, REFERENCES),
                                   ("reward", reward, tuple(LEVELS)), ("start", start, STARTS)):
        if value not in accepted:
            raise ValueError(f"{field} must be one of {', '.join(accepted)}, got {value!r}")
    step = int(real("step", step, f"a whole number from 0 to {STEPS}", lambda s: 0 <= s <= STEPS and s == int(s)))
    damping = real("damping", damping, "a number in [0, 1]", lambda d: 0 <= d <= 1)
    ours = f"{procedure}-{n}"
    opposite = f"{KINDS[1 - KINDS.index(procedure)]}-{n}"
    theirs = {"the same": ours, "standard": "standard", "the opposite": opposite}[reference]
    levels = LEVELS[reward]
    optimum = solve(ours, theirs, levels, beta)
    horizon = 20 * max(1, -(-step // 20))  # in blocks, so that moving one step costs no new iteration
    history = _visited(ours, theirs, levels, beta, 1 - damping, start, horizon)
    verdict, swing = _judge(history, step, damping, optimum)
    of = "the reference as it is sampled" if theirs == "standard" else f"the reference's {theirs}"
    name = f"{ours} against {of}, reward {'continuous' if levels is None else f'with {levels} levels'}, beta {beta:.3g}"
    return Iteration(name, history, step, levels, optimum, verdict, swing)


@lru_cache(maxsize=256)
def solve(ours: str, theirs: str, levels: int | None, beta: float) -> Solved:
    """The stationary policies that `theory` certifies. Raises: as `theory.optimum` and `FiniteProblem.infalign`.

    >>> [round(J, 3) for J, _, _ in solve("worst-of-32", "worst-of-32", 2, 0.1).stationary]
    [0.931, 0.5, 0.475]
    """
    if levels is None:
        best = theory.optimum(ours, beta, theirs)
        found = tuple((s.objective, s.win_rate, s.kl) for s in best.stationary)
        phi = best.transform(GRID)
        shapes = (GRID, phi - phi.min()), (GRID, best.policy.cdf(GRID))
        return Solved(found, best.certified, *shapes, best.policy.log_density)
    toy = theory.FiniteProblem(np.full(levels, 1 / levels), np.arange(levels, dtype=float))
    solution = toy.infalign(ours, beta, theirs)
    found = tuple((s.objective, s.win_rate, s.kl) for s in solution.stationary)
    phi = toy.gradient(solution.policy, ours, theirs)
    shapes = staircase(phi - phi.min()), ramp(np.cumsum(solution.policy))
    return Solved(found, solution.certified, *shapes, np.log(np.maximum(solution.policy * levels, 1e-300)))


@lru_cache(maxsize=64)
def _visited(ours: str, theirs: str, levels: int | None, beta: float, step_size: float, start: str,
             steps: int) -> History:
    slope = {"reference": 0.0, "mostly low": -20.0, "mostly high": 20.0}.get(start)
    begin: Any = (lambda u: slope * u) if slope is not None else solve(ours, theirs, levels, 4 * beta).log_density
    return fixed_point(ours, beta, steps, step_size, reference_procedure=theirs, levels=levels, start=begin)


def _judge(history: History, step: int, damping: float, optimum: Solved) -> tuple[str, tuple[float, float]]:
    """What has happened by this step, from policies and residuals alone: no look ahead."""
    J, F = history.objective, history.cdf
    gaps = [max(abs(J[step] - j), abs(history.kl[step] - kl) / 10) for j, _, kl in optimum.stationary]
    if history.residual[step] < 1e-3 and min(gaps) < 1e-3:
        return ("optimum" if gaps[0] == min(gaps) else "trap"), (float(J[step]), float(J[step]))
    if damping == 1:
        return "frozen", (float(J[step]), float(J[step]))
    if step >= 2:
        back, apart = np.abs(F[step] - F[step - 2]).max(), np.abs(F[step] - F[step - 1]).max()
        if back < 1e-3 and apart > 1e-2:
            low, high = sorted(J[step - 1 : step + 1].tolist())
            return "two-cycle", (low, high)
    return ("moving" if step else "start"), (float(J[step]), float(J[step]))


def staircase(values: Array) -> tuple[Array, Array]:
    """One value a level, as a line of steps over [0, 1].

    >>> staircase(np.array([0.0, 2.0]))
    (array([0. , 0.5, 0.5, 1. ]), array([0., 0., 2., 2.]))
    """
    return np.repeat(np.arange(values.size + 1) / values.size, 2)[1:-1], np.repeat(values, 2)


def ramp(F: Array) -> tuple[Array, Array]:
    """F at the upper edges of the levels as a line over [0, 1]: within a level the reference's proportions stay.

    >>> ramp(np.array([0.2, 1.0]))
    (array([0. , 0.5, 1. ]), array([0. , 0.2, 1. ]))
    """
    return np.arange(F.size + 1) / F.size, np.concatenate([[0.0], F])
