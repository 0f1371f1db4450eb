"""CalibrationExplorer: what K reference samples make of the quantile, and of the transform that is trained on it.

The reward's distribution under the reference is known here, so all that is compared with the estimate is exact: the
true quantile, the error band, the distribution of the estimated quantile. Ties come from rounding the reward. Left
out: samples that calibrate themselves, and several prompts (`notebooks/03_reward_calibration`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import ipywidgets as widgets
import numpy as np

from infalign_edu import plots, theory
from infalign_edu.calibration import EmpiricalCalibrator
from infalign_edu.classroom.widgets.explorer import LABEL, WIDE, Explorer, choice, whole
from infalign_edu.classroom.widgets.known_rewards import (
    BINS,
    SHAPES,
    TIES,
    errors,
    histogram,
    level_of,
    levels_of,
    raw,
    usual_rms,
    usual_worst,
)
from infalign_edu.order_statistics import Array, count
from infalign_edu.plots.live import Live, Panel
from infalign_edu.procedures import procedure
from infalign_edu.theory.continuous import solve_for_kl
from infalign_edu.theory.solver.panels import Panels
from infalign_edu.transforms import transform as named

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
TRANSFORMS = ("identity", "exp:5", "exp:10", "exp:-10", "power:7", "log")
SHOWN, KL = "best-of-4", 0.5  # what the cost of K is measured for
QUANTILE = "calibrated reward u  [quantile]"
CUT = 0.5  # the axis of the histograms ends here, so that it need not change
KOLMOGOROV = float(np.log(2) * np.sqrt(np.pi / 2))  # mean of sup |Brownian bridge|, 0.869
_GRID = np.linspace(0, 1, 301)


@dataclass(frozen=True)
class Calibrated:
    """One table of K reference rewards beside the truth.

    `exact` and `estimate` are C and C-hat of the response at quantile u, `sd` the standard deviation of C-hat over
    tables. `raw` and `flat` are the shares of the reference's responses in each tenth, `bins`, of the raw reward's
    range and of C-hat. `wanted` and `trained` are Phi and what fresh tables make of it, on one scale. `worst`, `rms`:
    error of this table, largest and root mean square; `worst_mean`: mean of the largest over 500 other tables;
    `rms_mean`: root of the mean square over all tables. `cost`: win-rate points, without ties.

    Shape: u, exact, estimate, sd, wanted, trained [301], raw, flat [10], bins [11].
    """

    name: str
    K: int
    tied: bool
    u: Array
    exact: Array
    estimate: Array
    sd: Array
    bins: Array
    raw: Array
    flat: Array
    wanted: Array
    trained: Array
    mean: float
    worst: float
    worst_mean: float
    rms: float
    rms_mean: float
    cost: float


def calibrate(shape: str, ties: str, k: int, transform: str, seed: int) -> Calibrated:
    """A table of k reference rewards of this shape, and everything it gets right and wrong.

    Derived: with a level of mass p around the quantile u, C-hat is unbiased with variance (u (1-u) - p/4) / K, as
    each sample adds 1, 1/2 or 0; tests/test_widgets_calibration.py. Raises: ValueError for an unknown name or k < 1.

    >>> one = calibrate("normal", "none", 64, "exp:10", seed=0)
    >>> round(one.rms_mean, 4), round(float(one.sd[150]), 4), round(one.mean, 2)
    (0.051, 0.0625, 0.51)
    """
    for field, value, accepted in (("shape", shape, tuple(SHAPES)), ("ties", ties, tuple(TIES))):
        if value not in accepted:
            raise ValueError(f"{field} must be one of {', '.join(accepted)}, got {value!r}")
    k, levels = count("k", k), levels_of(shape, ties)
    z = np.sort(np.random.default_rng(seed).random(k))  # true quantiles of the table's responses
    exact, mass = level_of(levels, _GRID)
    table = EmpiricalCalibrator(level_of(levels, z)[0][None])  # ranks are all that a reward is to its calibrator
    estimate = table(exact[None])[0]
    values, chance, off = errors(levels, z)
    wanted, trained = _transforms(levels, k, transform)
    return Calibrated(
        f"{shape} reward, ties {ties}, K = {k}, {transform}, sample {seed}", k, levels is not None, _GRID, exact,
        estimate, np.sqrt(np.maximum(exact * (1 - exact) - mass / 4, 0) / k), np.linspace(0, 1, BINS + 1),
        raw(shape, ties), histogram(values, chance, k), wanted, trained, float(chance @ values), off[0],
        usual_worst(shape, ties, k), off[1], usual_rms(levels, k), cost(transform, k),
    )  # fmt: skip


@lru_cache(maxsize=128)
def _bernstein(transform: str, k: int) -> Array:
    return theory.bernstein(named(transform), k)(_GRID)


def _transforms(levels: Array | None, k: int, transform: str) -> tuple[Array, Array]:
    """Phi(C) and E Phi(C-hat) on the grid, both scaled so that Phi runs from 0 to 1; log 0 is taken at 1/(2K)."""
    phi, steps = named(transform), np.arange(2 * k + 1) / (2 * k)
    exact, mass = level_of(levels, _GRID)
    wanted, at = phi(np.clip(exact, 0.5 / k, None) if transform == "log" else exact), phi(steps)
    at = np.where(np.isfinite(at), at, phi(np.full_like(at, 0.5 / k)))
    if levels is None:
        trained = _bernstein(transform, k)
    else:  # 2 K C-hat is a sum of K draws of 0, 1 (a tie) or 2: a power of its characteristic function
        middle, where = np.unique(exact, return_inverse=True)
        p = np.zeros(middle.size)
        p[where] = mass
        turn = np.exp(-2j * np.pi * np.arange(k + 1) / (2 * k + 1))
        above, below = (1 - middle - p / 2)[:, None], (middle - p / 2)[:, None]
        pmf = np.fft.irfft((above + p[:, None] * turn + below * turn**2) ** k, 2 * k + 1)
        trained = (pmf @ at)[where]
    low, span = at[0], at[-1] - at[0]
    return (wanted - low) / span, (trained - low) / span


@lru_cache(maxsize=256)
def cost(transform: str, k: int) -> float:
    """`theory.calibration_cost` for best-of-4 at KL 0.5 nats, in win-rate points, on one fixed mesh and so faster.

    >>> round(cost("exp:10", 16), 2), round(100 * theory.calibration_cost(named("exp:10"), "best-of-4", 16, 0.5), 2)
    (0.43, 0.43)
    """
    panels = Panels.graded(2.0**-24, 2.0**-24)
    user = procedure(SHOWN)
    G = user.cdf(panels.u)

    def log_density(phi: Array, beta: float) -> Array:
        level = (phi - phi.max()) / beta
        return level - np.log(panels.integral(np.exp(level)))

    def kl_of(phi: Array, beta: float) -> float:
        log_f = log_density(phi, beta)
        return panels.integral(np.exp(log_f) * log_f)

    won = []
    for phi in (named(transform)(panels.u), theory.bernstein(named(transform), k)(panels.u)):
        beta = solve_for_kl(partial(kl_of, phi), KL, float(np.ptp(phi)) / 4)
        f = np.exp(log_density(phi, beta))
        won.append(panels.integral(user.pdf(panels.cumulative(f).clip(0, 1)) * f * G))
    return 100 * (won[0] - won[1])


@lru_cache(maxsize=1)
def _live() -> Live:
    def looks(*names: str) -> dict[str, dict[str, Any]]:
        found = plots.looks(names)
        return {name: {"color": look["color"], "linestyle": look["linestyle"]} for name, look in found.items()}

    bars, curves = ("raw reward", "calibrated", "uniform"), ("two sd", "exact C", "estimate")
    trained = ("Phi, wanted", "E Phi, trained")
    return Live([
        Panel("place  [0 lowest, 1 highest]", f"responses in a tenth  [share up to {CUT}]", bars,
              ylim=(0.0, CUT + 0.01), looks=looks(*bars)),
        Panel("true quantile u  [share below]", "calibrated reward  [share below]", curves, ylim=(-0.02, 1.02),
              looks=looks(*curves[::-1]) | {"two sd": {**looks(*curves[::-1])["two sd"], "linewidth": 1.1}}),
        Panel(QUANTILE, "transform  [share of its range]", trained, ylim=(-0.02, 1.02), looks=looks(*trained)),
    ], width=4.0)  # fmt: skip


def picture(data: Calibrated) -> bytes:
    """The picture of a table: histograms, quantiles with their band, and transforms."""
    x = np.repeat(data.bins, 2)
    bars = {"raw reward": data.raw, "calibrated": data.flat}
    high, low = (np.clip(data.exact + side * data.sd, 0, 1) for side in (2, -2))
    band = np.concatenate([data.u, [np.nan], data.u]), np.concatenate([high, [np.nan], low])
    return _live().update([
        {name: (x, np.concatenate([[0.0], np.repeat(y, 2), [0.0]]).clip(0, CUT)) for name, y in bars.items()}
        | {"uniform": (np.array([0.0, 1.0]), np.full(2, 1 / BINS))},
        {"two sd": band, "exact C": (data.u, data.exact), "estimate": (data.u, data.estimate)},
        {"Phi, wanted": (data.u, data.wanted), "E Phi, trained": (data.u, data.trained)},
    ])  # fmt: skip


def words(data: Calibrated) -> str:
    """The numbers of a table: mean, largest and RMS error with what is usual, distortion, and what K costs."""
    apart = float(np.abs(data.trained - data.wanted).max())
    limit = f"Kolmogorov's mean for large K and no ties: 0.869 / sqrt(K) = {KOLMOGOROV / np.sqrt(data.K):.3f}"
    usual = "sqrt(sum p (u (1-u) - p/4) / K)" if data.tied else "sqrt(1 / (6 K))"
    return (
        f"{data.name}. Mean calibrated reward under the reference: {data.mean:.3f} with this table, 0.500 exactly. "
        f"Largest error {data.worst:.3f}, usually {data.worst_mean:.3f} ({limit}). RMS error {data.rms:.3f}, usually "
        f"{usual} = {data.rms_mean:.3f}. Fresh tables train a transform at most {100 * apart:.1f} % of its range away "
        f"from the one wanted; for {SHOWN} at KL {KL} nats that costs {data.cost:.2f} win-rate points (without ties)."
    )


class CalibrationExplorer(Explorer[Calibrated]):
    """Choose a reward's shape, its ties and K: see the quantile, its error band and the transform that is trained.

    >>> explorer = CalibrationExplorer()
    >>> explorer.again.click()
    >>> explorer.controls["seed"].value, "sample 1" in explorer.text
    (1, True)
    """

    title = "What K reference samples know"

    def __init__(self) -> None:
        size = widgets.SelectionSlider(
            options=SIZES, value=16, description="K [samples]", style=LABEL, layout=WIDE,
            tooltip="reference responses that a prompt's table holds",
        )  # fmt: skip
        controls = {
            "shape": choice("reward's shape", list(SHAPES), "normal", "how raw rewards are spread under the reference"),
            "ties": choice("rounding of the reward", list(TIES), "none", "coarser rounding makes more ties"),
            "k": size,
            "transform": choice("transform Phi", list(TRANSFORMS), "exp:10", "what training maximises"),
            "seed": whole("sample [number]", 0, 0, 99, "which reference responses were drawn"),
        }
        self.again = widgets.Button(description="new sample", tooltip="draw another table of reference responses")
        self.again.on_click(self.guarded(lambda _: self.draw_again()))
        super().__init__(controls, extra=(self.again,))

    def draw_again(self) -> None:
        """Moves on to the next of the hundred numbered samples."""
        self.controls["seed"].value = (self.controls["seed"].value + 1) % 100

    def compute(self, **values: Any) -> Calibrated:
        return calibrate(**values)

    def draw(self, data: Calibrated) -> bytes:
        return picture(data)

    def describe(self, data: Calibrated) -> str:
        return words(data)
