"""One transform at a time: what it makes of the policy, what a user sees of it, and how far that is from the best.

`explore` computes, `_draw` draws, `TransformExplorer` is the shell. A policy is trained on a transform of unit variance
at one beta and judged under the procedure at use, which may differ from the one it was trained for. The optimum beside
it has the same KL, so that the picture compares shapes; `bound` finds it. Left out: ties, and estimated quantiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import ipywidgets as widgets
import numpy as np

import infalign_edu as ia
from infalign_edu import theory
from infalign_edu.classroom.widgets.bound import KINDS, U, bound, named
from infalign_edu.classroom.widgets.explorer import LABEL, WIDE, Explorer, choice, slider, whole
from infalign_edu.order_statistics import Array
from infalign_edu.plots import CALIBRATED, style
from infalign_edu.plots.live import Live, Panel

TRANSFORMS = ["identity", "log", "exp", "power", "optimal"]
TOPS = (3.0, 7.0)  # densities are cut at one of these, in the picture only


@dataclass(frozen=True)
class Explored:
    """A trained policy and the optima at its KL. Shape: density, cdf, best, best_at_use [U], densities and a CDF on U.

    `win_rate` (probability) is under `used`, `best_win_rate` the largest at this KL (nats). `price` is beta in win rate
    per nat.
    """

    name: str
    trained: str
    used: str
    beta: float
    price: float
    density: Array
    cdf: Array
    best: Array
    best_at_use: Array
    win_rate: float
    kl: float
    best_win_rate: float

    @property
    def gap(self) -> float:
        """Win rate below the optimum of the same KL: what the shape of the transform loses."""
        return max(0.0, self.best_win_rate - self.win_rate)


def explore(procedure: str, n: int, n_use: int, transform: str, t: float, beta: float) -> Explored:
    """What training on a transform gives, exactly: f = exp(Phi / beta) / Z on the calibrated reward u.

    Phi has unit variance under the reference. Its beta becomes a price in win rate per nat by the standard deviation of
    the procedure's own Phi* (as KL -> 0), so identity at its beta is the optimum of standard at its price. "optimal" is
    the optimum at the price, for the procedure with n draws. All is judged with n_use draws.
    Paper: the objective (arXiv 2412.19792). Derived: the price; tests/test_widgets_transform.py.

    Raises: ValueError for a transform or a procedure that does not exist, such as exp with t = 0.

    >>> found = explore("standard", 1, 1, "identity", 0, 3**0.5)        # Phi = sqrt(12) u, so f = e^(2u) / Z
    >>> round(found.win_rate, 6), round(found.kl, 6), round(found.gap, 6), round(found.price, 3)
    (0.656518, 0.151596, 0.0, 0.5)
    """
    trained, used = named(procedure, n), named(procedure, n_use)
    spec = f"{transform}:{t:g}" if transform in ("exp", "power") else transform
    own, best = bound(trained), bound(used)
    policy = _best(trained, beta * own.slope) if transform == "optimal" else _policy(spec, beta)
    kl, price = policy.kl, beta * best.slope
    return Explored(
        name=f"optimal for {trained}" if transform == "optimal" else spec,
        trained=trained,
        used=used,
        beta=beta,
        price=price,
        density=policy.density(U),
        cdf=policy.cdf(U),
        best=own.density(kl),
        best_at_use=best.density(kl),
        win_rate=policy.win_rate(used),
        kl=kl,
        best_win_rate=best.win_rate(kl),
    )


@lru_cache(maxsize=256)
def _policy(spec: str, beta: float) -> Any:
    return theory.tilt(ia.standardize(ia.transform(spec)), beta)


@lru_cache(maxsize=256)
def _best(trained: str, price: float) -> Any:
    return theory.optimum(trained, price).policy


@lru_cache(maxsize=10)
def _live(family: str, top: float) -> Live:
    """The two panels, with the look that the transform has on every figure of the course."""
    ours, best = style(family), style("optimal")
    looks = {
        "reference": {**style("reference"), "linewidth": 1.2},
        "reference shown": {**style("reference"), "linestyle": "-", "linewidth": 1.2},
        "policy": {**ours, "linewidth": 2.4},
        "policy shown": {**ours, "linewidth": 2.4},
        "optimum": {**best, "linestyle": (0, (5, 1)), "linewidth": 1.4},
        "optimum at use": {**best, "linestyle": (0, (1, 1)), "linewidth": 1.8},
    }
    looks = {name: {k: v for k, v in look.items() if k != "marker"} for name, look in looks.items()}
    left = ["reference", "policy", "optimum", "optimum at use"]
    right = ["reference", "reference shown", "policy", "policy shown"]
    thin = {**looks["policy"], "linestyle": (0, (1, 1)), "linewidth": 1.6}
    return Live([
        Panel(CALIBRATED, f"density, cut at {top:g}", left, ylim=(0.0, top), looks=looks),
        Panel(CALIBRATED, "cumulative probability", right, looks={**looks, "policy": thin}),
    ])  # fmt: skip


def _draw(live: Live, data: Explored) -> bytes:
    """Left: the densities. Right: the CDF of a sampled response and of the one that is shown, G(F)."""
    top = live.panels[0].ylim[1]
    left = {"reference": np.ones_like(U), "policy": data.density, "optimum": data.best}
    if data.trained != data.used:
        left["optimum at use"] = data.best_at_use
    cut = {name: (U, np.clip(np.nan_to_num(f, posinf=np.inf), 0.0, top)) for name, f in left.items()}
    G = ia.procedure(data.used).cdf
    right = {"reference": (U, U), "reference shown": (U, G(U)),
             "policy": (U, data.cdf), "policy shown": (U, G(data.cdf))}  # fmt: skip
    return live.update([cut, right])


class TransformExplorer(Explorer[Explored]):
    """Choose a procedure, a transform and beta: densities, decoding, win rate, KL and the distance to the optimum.

    >>> explorer = TransformExplorer()
    >>> explorer.controls["transform"].value = "identity"
    >>> explorer.text[:46]
    'identity at beta 1.58, shown through best-of-4'
    """

    title = "What a transform makes of the policy"

    def __init__(self) -> None:
        beta = widgets.FloatLogSlider(
            value=10**0.2, base=10, min=-1.5, max=1.0, step=0.05, description="beta [Phi's sd / nat]", layout=WIDE,
            tooltip="weight of KL in training on Phi of unit variance", style=LABEL, readout_format=".3g",
        )  # fmt: skip
        super().__init__({
            "procedure": choice("procedure", KINDS, "best-of", "what is shown of N responses"),
            "n": whole("N, training [draws]", 4, 1, 64, "responses that the optimum is trained for"),
            "n_use": whole("N, at use [draws]", 4, 1, 128, "responses that are drawn when the policy is used"),
            "transform": choice("transform Phi", TRANSFORMS, "exp", "what training maximises: Phi(u)"),
            "t": slider("t of exp, power", 10.0, -30.0, 30.0, 0.5, "Phi = sign(t) exp(t u), or u to the power t"),
            "beta": beta,
        })  # fmt: skip

    def compute(self, **values: Any) -> Explored:
        return explore(**values)

    def draw(self, data: Explored) -> bytes:
        family = data.name.partition(":")[0].partition(" ")[0]
        tall = max(data.density.max(), data.best.max(), data.best_at_use.max()) > TOPS[0]
        return _draw(_live(family, TOPS[int(tall)]), data)

    def describe(self, data: Explored) -> str:
        return describe(data)


def describe(data: Explored) -> str:
    """The numbers of a policy in words."""
    used = data.used if data.used == data.trained else f"{data.used} (training was for {data.trained})"
    return (
        f"{data.name} at beta {data.beta:.3g}, shown through {used}: win rate {100 * data.win_rate:.1f} % against the "
        f"reference, KL(policy || reference) {_nats(data.kl)} nats. The optimum of the same KL wins "
        f"{100 * data.best_win_rate:.1f} %: {100 * data.gap:.1f} points are lost by the shape of the transform. "
        f"Largest density: {_peak(data.density)}, of the optimum {_peak(data.best)}."
    )


def _nats(kl: float) -> str:
    return f"{kl:.3f}" if kl >= 0.01 else f"{kl:.1e}"


def _peak(density: Array) -> str:
    return f"{density.max():.3g}" if np.isfinite(density).all() else "infinite"
