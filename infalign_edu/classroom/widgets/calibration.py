"""CalibrationExplorer: what K reference samples make of the quantile, and of the transform that is trained on it.

The reward's distribution under the reference is known here, so all that is compared with the estimate is exact: the
true quantile, the error band, the distribution of the estimated quantile. Ties come from rounding the reward. Left
out: samples that calibrate themselves, and several prompts (`notebooks/03_reward_calibration`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import ipywidgets as widgets
import numpy as np
from scipy.special import ndtr, ndtri

from infalign_edu import plots, theory
from infalign_edu.calibration import EmpiricalCalibrator
from infalign_edu.classroom.widgets.explorer import LABEL, WIDE, Explorer, choice, whole
from infalign_edu.order_statistics import Array, count
from infalign_edu.plots.live import Live, Panel
from infalign_edu.procedures import procedure
from infalign_edu.theory.continuous import solve_for_kl
from infalign_edu.theory.solver.panels import Panels
from infalign_edu.transforms import transform as named

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
TIES = {"none": 0.0, "fine": 0.1, "coarse": 0.5, "very coarse": 2.0}  # rounding step / interquartile range
TRANSFORMS = ("identity", "exp:5", "exp:10", "exp:-10", "power:7", "log")
SHOWN, KL = "best-of-4", 0.5  # what the cost of K is measured for
KOLMOGOROV = float(np.log(2) * np.sqrt(np.pi / 2))  # mean of sup |Brownian bridge|, 0.869
_GRID, _BINS, _EDGE = np.linspace(0, 1, 301), 16, 1e-3


def _bimodal(x: Array) -> Array:
    return 0.6 * ndtr(x + 2) + 0.4 * ndtr(2 * (x - 2))


_AXIS = np.linspace(-9, 9, 4001)
# shape -> (CDF, quantile function) of the raw reward under the reference
SHAPES: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "normal": (ndtr, ndtri),
    "skewed": (lambda x: -np.expm1(-np.maximum(x, 0)), lambda u: -np.log1p(-u)),
    "bimodal": (_bimodal, lambda u: np.interp(u, _bimodal(_AXIS), _AXIS)),
    "heavy tails": (lambda x: 0.5 + x / (2 * np.sqrt(2 + x * x)), lambda u: (2 * u - 1) / np.sqrt(2 * u * (1 - u))),
    "binary": (lambda x: np.where(x < 0, 0.0, np.where(x < 1, 0.3, 1.0)), lambda u: (u > 0.3).astype(float)),
}  # fmt: skip


@dataclass(frozen=True)
class Calibrated:
    """One table of K reference rewards beside the truth.

    `exact` and `estimate` are C and C-hat of the response at quantile u, `sd` the standard deviation of C-hat over
    tables. `raw` and `flat` are histograms, over `bins`, of the raw reward (scaled to its middle 99.8 %) and of C-hat
    under the reference. `wanted` and `trained` are Phi and what fresh tables make of it, on one scale. `worst`, `rms`:
    error of this table, largest and root mean square; `worst_mean`: mean of the largest over 500 other tables;
    `rms_mean`: root of the mean square over all tables. `cost`: win-rate points, without ties.

    Shape: u, exact, estimate, sd, wanted, trained [301], raw, flat [16], bins [17].
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
    (0.051, 0.0625, 0.48)
    """
    for field, value, accepted in (("shape", shape, tuple(SHAPES)), ("ties", ties, tuple(TIES))):
        if value not in accepted:
            raise ValueError(f"{field} must be one of {', '.join(accepted)}, got {value!r}")
    k, levels = count("k", k), _levels(shape, ties)
    z = np.sort(np.random.default_rng(seed).random(k))  # true quantiles of the table's responses
    exact, mass = _level_of(levels, _GRID)
    table = EmpiricalCalibrator(_level_of(levels, z)[0][None])  # ranks are all that a reward is to its calibrator
    estimate = table(exact[None])[0]
    values, chance, off = _errors(levels, z)
    wanted, trained = _transforms(levels, k, transform)
    return Calibrated(
        f"{shape} reward, ties {ties}, K = {k}, {transform}, sample {seed}", k, levels is not None, _GRID, exact,
        estimate, np.sqrt(np.maximum(exact * (1 - exact) - mass / 4, 0) / k), np.linspace(0, 1, _BINS + 1),
        _raw(shape, ties), _histogram(values, chance, k), wanted, trained, float(chance @ values), off[0],
        _usual_worst(shape, ties, k), off[1], _usual_rms(levels, k), cost(transform, k),
    )  # fmt: skip


@lru_cache(maxsize=32)
def _levels(shape: str, ties: str) -> Array | None:
    """Edges of the reward's levels in true quantiles, 0 to 1; None where no two responses tie."""
    cdf, quantile = SHAPES[shape]
    if shape == "binary":
        return np.array([0.0, 0.3, 1.0])
    if not TIES[ties]:
        return None
    low, first, third, high = quantile(np.array([1e-4, 0.25, 0.75, 1 - 1e-4]))
    step = TIES[ties] * (third - first)
    edges = (np.arange(np.floor(low / step), np.ceil(high / step) + 1) + 0.5) * step
    inside = cdf(edges[(edges > low) & (edges < high)])
    return np.concatenate([[0.0], inside, [1.0]])


def _level_of(levels: Array | None, u: Array) -> tuple[Array, Array]:
    """The calibrated reward C of the response at u, the middle of its level, and the level's mass."""
    if levels is None:
        return u, np.zeros_like(u)
    i = np.clip(np.searchsorted(levels, u, side="right") - 1, 0, levels.size - 2)
    return (levels[i] + levels[i + 1]) / 2, levels[i + 1] - levels[i]


def _errors(levels: Array | None, z: Array) -> tuple[Array, Array, tuple[float, float]]:
    """Values of C-hat, their probability under the reference, and the largest and RMS error. Shape: z [K], rising."""
    if levels is None:
        edges, values = np.concatenate([[0.0], z, [1.0]]), np.arange(z.size + 1) / z.size
        low, high = edges[:-1] - values, edges[1:] - values  # between two samples C runs on and C-hat stays
        square = ((high**3 - low**3) / 3).sum()
        return values, np.diff(edges), (float(np.maximum(np.abs(low), np.abs(high)).max()), float(np.sqrt(square)))
    held = np.bincount(np.searchsorted(levels[1:-1], z, side="right"), minlength=levels.size - 1)
    values, mass = (np.cumsum(held) - held / 2) / z.size, np.diff(levels)
    off = np.abs(values - (levels[1:] + levels[:-1]) / 2)
    return values, mass, (float(off.max()), float(np.sqrt(mass @ off**2)))


@lru_cache(maxsize=256)
def _usual_worst(shape: str, ties: str, k: int) -> float:
    tables = np.sort(np.random.default_rng(2024).random((500, k)), axis=1)
    levels = _levels(shape, ties)
    return float(np.mean([_errors(levels, z)[2][0] for z in tables]))


def _usual_rms(levels: Array | None, k: int) -> float:
    """Root mean square of C-hat - C: sqrt(1 / (6 K)) without ties, less with them: sum p (u (1-u) - p/4) / K."""
    if levels is None:
        return float(np.sqrt(1 / (6 * k)))
    mass, u = np.diff(levels), (levels[1:] + levels[:-1]) / 2
    return float(np.sqrt(mass @ (u * (1 - u) - mass / 4) / k))


@lru_cache(maxsize=32)
def _raw(shape: str, ties: str) -> Array:
    """Density of the raw reward, its middle 99.8 % scaled to [0, 1]. Shape: [16]."""
    cdf, quantile = SHAPES[shape]
    low, high = quantile(np.array([_EDGE, 1 - _EDGE]))
    levels = _levels(shape, ties)
    if levels is None:
        return np.diff(cdf(np.linspace(low, high, _BINS + 1))) * _BINS
    middle = np.clip((levels[1:] + levels[:-1]) / 2, _EDGE, 1 - _EDGE)
    place = np.clip((quantile(middle) - low) / (high - low), 0, 1)
    return np.histogram(place, _BINS, (0, 1), weights=np.diff(levels))[0] * _BINS


def _histogram(values: Array, chance: Array, k: int) -> Array:
    """Density of C-hat, each of the K + 1 values it has without ties spread over a cell of width 1 / (K+1)."""
    edges = np.linspace(0, 1, _BINS + 1)[:, None]
    below = np.clip(edges * (k + 1) - k * values, 0, 1) @ chance
    return np.diff(below) * _BINS


@lru_cache(maxsize=128)
def _bernstein(transform: str, k: int) -> Array:
    return theory.bernstein(named(transform), k)(_GRID)


def _transforms(levels: Array | None, k: int, transform: str) -> tuple[Array, Array]:
    """Phi(C) and E Phi(C-hat) on the grid, both scaled so that Phi runs from 0 to 1; log 0 is taken at 1/(2K)."""
    phi, steps = named(transform), np.arange(2 * k + 1) / (2 * k)
    exact, mass = _level_of(levels, _GRID)
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
    (0.39, 0.39)
    """
    panels = Panels.graded(2.0**-24, 2.0**-24)
    user = procedure(SHOWN)
    G = user.cdf(panels.u)

    def policy(phi: Array, beta: float) -> tuple[Array, float]:
        log_f = (phi - phi.max()) / beta
        log_f -= np.log(panels.integral(np.exp(log_f)))
        return np.exp(log_f), panels.integral(np.exp(log_f) * log_f)

    won = []
    for phi in (named(transform)(panels.u), theory.bernstein(named(transform), k)(panels.u)):
        beta = solve_for_kl(lambda b, phi=phi: policy(phi, b)[1], KL, float(np.ptp(phi)) / 4)
        f, _ = policy(phi, beta)
        won.append(panels.integral(user.pdf(panels.cumulative(f).clip(0, 1)) * f * G))
    return 100 * (won[0] - won[1])


@lru_cache(maxsize=1)
def _live() -> Live:
    def looks(*names: str) -> dict[str, dict[str, Any]]:
        found = plots.looks(names)
        return {name: {"color": look["color"], "linestyle": look["linestyle"]} for name, look in found.items()}

    bars, curves = ("raw reward", "calibrated"), ("two sd", "exact C", "estimate")
    trained = ("Phi, wanted", "E Phi, trained")
    return Live([
        Panel("place  [0 lowest, 1 highest]", "density under the reference", bars, ylim=(0.0, None), looks=looks(*bars)),
        Panel("true quantile u  [share below]", "calibrated reward  [share below]", curves, ylim=(-0.02, 1.02),
              looks=looks(*curves[::-1]) | {"two sd": {**looks(*curves[::-1])["two sd"], "linewidth": 1.1}}),
        Panel(plots.CALIBRATED, "transform  [share of its range]", trained, ylim=(-0.02, 1.02), looks=looks(*trained)),
    ])  # fmt: skip


def picture(data: Calibrated) -> bytes:
    """The picture of a table: histograms, quantiles with their band, and transforms."""
    x = np.repeat(data.bins, 2)
    bars = {"raw reward": data.raw, "calibrated": data.flat}
    high, low = (np.clip(data.exact + side * data.sd, 0, 1) for side in (2, -2))
    band = np.concatenate([data.u, [np.nan], data.u]), np.concatenate([high, [np.nan], low])
    return _live().update([
        {name: (x, np.concatenate([[0.0], np.repeat(y, 2), [0.0]])) for name, y in bars.items()},
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
            "transform": choice("transform Phi", list(TRANSFORMS), "exp:10", "what is trained on the calibrated reward"),
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
