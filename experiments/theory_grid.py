"""Optimal transforms on a grid against two other solvers: `python experiments/theory_grid.py` writes the table.

The second solver shares no code with the first: SciPy's DOP853 integrates one path at a time in u and F directly, and
Brent's method finds log f(1). The peer is SciPy's `solve_bvp` on (F, log f), 60 uniform nodes, tolerance 1e-8, best of
two runs; it has no error bound of its own, so it counts as converged where its W agrees to 1e-6.
"""

from __future__ import annotations

import csv
import time
from pathlib import Path

import numpy as np
from scipy import integrate, optimize

from infalign_edu.procedures import Procedure, procedure
from infalign_edu.theory.optimal import optimum

TABLE = Path(__file__).parents[1] / "data" / "runs" / "theory_grid.csv"
PAIRS = [(name, name) for name in (
    "best-of-2", "best-of-4", "best-of-8", "best-of-32", "worst-of-2", "worst-of-4", "worst-of-8", "worst-of-32",
    "2nd-best-of-4", "4th-best-of-16", "16th-best-of-32", "top-2-of-8", "best-of-poisson-3.0",
    "0.5*standard+0.5*best-of-4", "0.5*best-of-8+0.5*worst-of-8")]
PAIRS += [("best-of-8", "best-of-2"), ("worst-of-2", "worst-of-8"), ("best-of-4", "worst-of-4"),
          ("worst-of-4", "best-of-4")]
BETAS = [0.05, 0.1, 0.3, 1.0, 10.0]


def _path(ours: Procedure, theirs: Procedure, beta: float, start: float) -> tuple[float, float, float]:
    """Miss, W and KL of the path from F(1) = 1, log f(1) = start down to F = 0 or u = 0."""
    def rates(v: float, y: np.ndarray) -> list[float]:  # v = 1 - u; y = F, log f, W, KL
        F, f = min(max(y[0], 0.0), 1.0), np.exp(y[1])
        g = float(ours.pdf(F))
        return [-f, -g * float(theirs.pdf(1 - v)) / beta, g * f * float(theirs.cdf(1 - v)), f * y[1]]

    def empty(v: float, y: np.ndarray) -> float:
        return float(y[0]) + 1e-14

    empty.terminal = True  # type: ignore[attr-defined]
    found = integrate.solve_ivp(rates, (0, 1), [1, start, 0, 0], method="DOP853", rtol=1e-11, atol=1e-13, events=empty,
                                first_step=1e-6 * beta)
    F, _, win_rate, kl = found.y[:, -1]
    return (F if found.status == 0 else found.t[-1] - 1 - 1e-15), win_rate, kl


def second_solver(shown: str, beta: float, against: str, near: float) -> tuple[float, float]:
    """W and KL of the stationary policy whose log f(1) is next to `near`."""
    ours, theirs = procedure(shown), procedure(against)
    for width in (1e-4, 1e-3, 1e-2):
        low, high = near - width, near + width
        if _path(ours, theirs, beta, low)[0] * _path(ours, theirs, beta, high)[0] < 0:
            start = optimize.brentq(lambda x: _path(ours, theirs, beta, x)[0], low, high, xtol=1e-15, rtol=1e-15)
            return _path(ours, theirs, beta, float(start))[1:]
    return np.nan, np.nan


def boundary_value(shown: str, beta: float, against: str) -> tuple[float, float]:
    """W and seconds of `solve_bvp`; nan where it says that it failed."""
    ours, theirs = procedure(shown), procedure(against)

    def rates(u: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.vstack([np.exp(y[1]), ours.pdf(y[0].clip(0, 1)) * theirs.pdf(u) / beta])

    u = np.linspace(0, 1, 60)
    seconds, found = np.inf, None
    for _ in range(2):
        began = time.perf_counter()
        with np.errstate(all="ignore"):
            try:
                found = integrate.solve_bvp(rates, lambda a, b: np.array([a[0], b[0] - 1]), u, np.vstack([u, 0 * u]),
                                            tol=1e-8, max_nodes=20_000)
            except ValueError:  # its path left the numbers
                found = None
        seconds = min(seconds, time.perf_counter() - began)
    if found is None or found.status != 0:
        return np.nan, seconds
    x, w = np.polynomial.legendre.leggauss(20)
    edges = found.x
    nodes = edges[:-1, None] + 0.5 * np.diff(edges)[:, None] * (x + 1)
    below = ours.cdf(found.sol(nodes.ravel())[0].clip(0, 1)).reshape(nodes.shape) * theirs.pdf(nodes)
    return float(1 - (0.5 * np.diff(edges)[:, None] * w * below).sum()), seconds


def row(shown: str, against: str, beta: float) -> dict[str, object]:
    """One line of the table; seconds are the best of three, after a first run."""
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        best = optimum(shown, beta, against)
        seconds.append(time.perf_counter() - began)
    win_rate, kl = second_solver(shown, beta, against, float(best.policy.log_density(1.0)))
    peer, peer_seconds = boundary_value(shown, beta, against)
    agrees = abs(peer - best.win_rate) < 1e-6
    return {
        "procedure": shown, "reference": against, "beta": beta, "win_rate": f"{best.win_rate:.12f}",
        "kl": f"{best.kl:.12f}", "certified": best.certified, "stationary": len(best.stationary),
        "residual": f"{best.residual:.1e}", "balance_gap": f"{best.balance_gap:.1e}",
        "error_win_rate": f"{abs(win_rate - best.win_rate):.1e}", "error_kl": f"{abs(kl - best.kl):.1e}",
        "milliseconds": f"{1e3 * min(seconds[1:]):.1f}", "bvp": "converged" if agrees else "failed",
        "bvp_milliseconds": f"{1e3 * peer_seconds:.1f}",
        "speed_ratio": f"{peer_seconds / min(seconds[1:]):.2f}" if agrees else "",
    }


def main() -> None:
    rows = [row(shown, against, beta) for shown, against in PAIRS for beta in BETAS]
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    beside = TABLE.with_suffix(".part")
    with beside.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    beside.replace(TABLE)
    errors = np.array([[float(str(r["error_win_rate"])), float(str(r["error_kl"]))] for r in rows])
    ratios = [float(str(r["speed_ratio"])) for r in rows if r["speed_ratio"]]
    print(f"{len(rows)} cases, {np.isnan(errors[:, 0]).sum()} without a second opinion; worst error "
          f"{np.nanmax(errors[:, 0]):.1e} in W, {np.nanmax(errors[:, 1]):.1e} in KL; slowest "
          f"{max(float(str(r['milliseconds'])) for r in rows):.0f} ms; solve_bvp converged in {len(ratios)}, "
          f"where it takes {np.median(ratios):.2f} times as long (median)")


if __name__ == "__main__":
    main()
