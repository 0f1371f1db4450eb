"""The method against what one would use without it: a general solver, a bootstrap, a loop over prompts."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
from scipy.integrate import solve_bvp

from benchmarks.table import Check, Row, in_turns, timed
from infalign_edu import theory, win_rate
from infalign_edu.calibration import EmpiricalCalibrator
from infalign_edu.procedures import BestOfN, Procedure, WorstOfN
from infalign_edu.theory.solver import power

Array = np.ndarray[Any, np.dtype[np.float64]]
BETAS = np.geomspace(0.05, 1.0, 200)


def boundary_value_problem(shown: Procedure, beta: float, nodes: int = 60) -> tuple[float, float] | None:
    """W and KL of the optimum by SciPy's solver for any boundary-value problem; None where it does not converge.

    beta (log f)' = g(F) g(u), F' = f, F(0) = 0, F(1) = 1. W = 1 - int G(F) g du and KL = int f log f du are integrated
    along, as two more unknowns that no equation needs.
    """

    def slopes(u: Array, y: Array) -> Array:
        F, log_f = np.clip(y[0], 0, 1), np.minimum(y[1], 700)
        f, g = np.exp(log_f), shown.pdf(u)
        return np.stack([f, shown.pdf(F) * g / beta, shown.cdf(F) * g, f * log_f])

    def ends(a: Array, b: Array) -> Array:
        return np.array([a[0], b[0] - 1, a[2], a[3]])

    u = np.linspace(0, 1, nodes)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = solve_bvp(slopes, ends, u, np.stack([u, 0 * u, 0 * u, 0 * u]), tol=1e-8, max_nodes=20_000)
    return (1 - found.y[2, -1], found.y[3, -1]) if found.success else None


def frontier(pairs: int, betas: Array = BETAS) -> Row:
    """The optimal frontier of best-of-4 at many betas; how often the solver fails on worst-of-4 is told beside it."""
    shown = BestOfN(4)
    with_solver = [boundary_value_problem(shown, beta) for beta in betas]
    curve = theory.optimal_frontier(shown, betas)
    gaps = [abs(curve.win_rate[i] - found[0]) + abs(curve.kl[i] - found[1])
            for i, found in enumerate(with_solver) if found]  # fmt: skip
    check = Check("win rate and KL differ by", max(gaps), 1e-6).passed()
    fewer = betas[:: max(1, len(betas) // 10)]
    lost = sum(boundary_value_problem(WorstOfN(4), beta) is None for beta in fewer)

    def ours() -> None:
        power._cached.cache_clear()
        theory.optimal_frontier(shown, betas)

    what = f"optimal frontier of best-of-4 at {len(betas)} betas; the solver fails on {len(betas) - len(gaps)} of them"
    what += f", on worst-of-4 on {lost} of {len(fewer)}"
    return Row("frontier", what, "scipy solve_bvp", "CPU s",
               *in_turns(ours, lambda: [boundary_value_problem(shown, beta) for beta in betas], pairs), check, 100.0)


def rewards(prompts: int, M: int, seed: int = 0) -> tuple[Array, Array]:
    """Made-up rewards of policy and reference, with some ties. Shape: [prompts, M] twice."""
    rng = np.random.default_rng(seed)
    return rng.normal(0.3, 1, (prompts, M)).round(2), rng.normal(0, 1, (prompts, M)).round(2)


def every_subset(policy: Array, reference: Array, N: int) -> float:
    """Best-of-N win rate of one prompt as the mean over all pairs of N-subsets."""
    a, b = ([max(s) for s in itertools.combinations(side.tolist(), N)] for side in (policy, reference))
    return float(np.mean([(x > y) + 0.5 * (x == y) for x in a for y in b]))


def exactness(N: int = 3, M: int = 7) -> Check:
    """The estimator against every pair of subsets, on small tables."""
    policy, reference = rewards(4, M)
    found = win_rate(policy.round(0), reference.round(0), BestOfN(N)).per_prompt
    brute = [every_subset(*pair, N) for pair in zip(policy.round(0), reference.round(0), strict=True)]
    return Check("all subsets differ by", float(np.abs(found - brute).max()), 1e-12).passed()


def loop(policy: Array, reference: Array, N: int, resamples: int, rng: np.random.Generator) -> Array:
    """Win rate by resampling, the way a script does it: one prompt and one draw of best-of-N after another."""
    found = np.zeros(len(policy))
    for i, (a, b) in enumerate(zip(policy, reference, strict=True)):
        for _ in range(resamples):
            x, y = rng.choice(a, N).max(), rng.choice(b, N).max()
            found[i] += (x > y) + 0.5 * (x == y)
    return found / resamples


def at_once(policy: Array, reference: Array, N: int, resamples: int, rng: np.random.Generator) -> Array:
    """Win rate by resampling all M samples of all prompts at once, in NumPy: M / N draws of best-of-N a resample."""
    (P, M), total = policy.shape, 0.0
    prompt, groups = np.arange(P)[:, None], M // N
    for _ in range(resamples):
        x, y = (side[prompt, rng.integers(0, M, (P, groups * N))].reshape(P, groups, N).max(-1)
                for side in (policy, reference))  # fmt: skip
        total = total + ((x > y) + 0.5 * (x == y)).mean(-1)
    return np.asarray(total / resamples)


def bootstrap(pairs: int, way: str = "loop", prompts: int = 16, M: int = 64, N: int = 4, resamples: int = 1000) -> Row:
    """The inference-time win rate, exact over all subsets, against 1,000 resamples of either kind."""
    check, rng = exactness(), np.random.default_rng(1)
    policy, reference = rewards(prompts, M)
    peer = {"loop": loop, "numpy": at_once}[way]
    noise = peer(policy, reference, N, resamples, rng) - win_rate(policy, reference, BestOfN(N)).per_prompt
    repeats = 200  # ours is too short for the clock

    def ours() -> None:
        for _ in range(repeats):
            win_rate(policy, reference, BestOfN(N))

    a, b = in_turns(ours, lambda: peer(policy, reference, N, resamples, rng), pairs)
    what = f"best-of-{N} win rate, {prompts} prompts x ({M} + {M}); the peer's own error is {np.abs(noise).max():.3f}"
    told = {"loop": "a bootstrap of 1,000 draws, a loop", "numpy": "a bootstrap of 1,000 resamples, vectorised"}[way]
    return Row(f"win-rate-{way}", what, told, "CPU s", tuple(x / repeats for x in a), b, check, 1000.0)


def large(pairs: int, prompts: int = 256, M: int = 4096, N: int = 16) -> Row:
    """A large table of rewards in one call."""
    check, tables = exactness(), rewards(prompts, M)
    seconds = tuple(timed(lambda: win_rate(*tables, BestOfN(N))) for _ in range(pairs))
    what = f"best-of-{N} win rate, {prompts} prompts x ({M} + {M})"
    return Row("win-rate-large", what, "", "CPU s", seconds, (), check, 0.5, bound=True)


def per_prompt(reference: Array, values: Array) -> Array:
    """Calibrated rewards by a loop over prompts, two searches each."""
    found = np.empty(values.shape)
    for i, row in enumerate(values):
        below = np.searchsorted(reference[i], row, "left")
        found[i] = 0.5 * (below + np.searchsorted(reference[i], row, "right")) / reference.shape[1]
    return found


def compared(reference: Array, values: Array) -> Array:
    """Calibrated rewards by comparing every reward with every reference reward."""
    below, equal = values[:, :, None] > reference[:, None, :], values[:, :, None] == reference[:, None, :]
    return np.asarray((below.sum(-1) + 0.5 * equal.sum(-1)) / reference.shape[1])


def calibration(pairs: int, way: str = "loop", prompts: int = 10_000, M: int = 1000, K: int = 256) -> Row:
    """C of many rewards against K reference samples a prompt; comparing all with all is timed on a slice of prompts."""
    rng, peer = np.random.default_rng(0), {"loop": per_prompt, "compare": compared}[way]
    rows = prompts if way == "loop" else max(1, prompts // 250)
    values, reference = rng.normal(size=(rows, M)), np.sort(rng.normal(size=(rows, K)), 1)
    calibrator = EmpiricalCalibrator(reference)
    few = slice(0, min(50, rows))
    gap = np.abs(calibrator.take(range(few.stop))(values[few]) - peer(reference[few], values[few])).max()
    check = Check("calibrated rewards differ by", float(gap), 1e-12).passed()
    told = {"loop": "searchsorted, prompt by prompt", "compare": "comparing all with all"}[way]
    what = f"calibration of {rows * M:,} rewards against K = {K}"
    return Row(f"calibration-{way}", what, told, "CPU s",
               *in_turns(lambda: calibrator(values), lambda: peer(reference, values), pairs), check)
