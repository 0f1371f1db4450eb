"""FixedPointExplorer: where the textbook iteration for the optimal transform goes, step by step.

Train on the transform that is right for the last policy, again and again: for best-of-N it swings for ever between two
policies, and for worst-of-N with few reward levels it settles at a policy that is stationary and far from the best.
The certified optimum stands beside every step. Left out: mixtures and k-th-best procedures, which `theory` solves too.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import ipywidgets as widgets
import numpy as np

from infalign_edu import plots
from infalign_edu.classroom.widgets.explorer import LABEL, WIDE, Explorer, choice, slider, whole
from infalign_edu.classroom.widgets.iteration import (
    GRID,
    KINDS,
    LEVELS,
    REFERENCES,
    STARTS,
    STEPS,
    Iteration,
    iterate,
    ramp,
    staircase,
)
from infalign_edu.order_statistics import Array
from infalign_edu.plots.live import Live, Panel

QUANTILE = "calibrated reward u  [quantile]"
LEAST = float(np.log10(0.3)) - 1.75  # of log10 beta: the steps of 0.05 above it meet 0.3
LOWEST = -0.5  # objectives below are drawn at the edge of the picture


@lru_cache(maxsize=1)
def _live() -> Live:
    looks: dict[str, dict[str, Any]] = {}
    for name, look in plots.looks(["this step", "step before", "optimal", "others"]).items():
        wide = {"linewidth": 3.2} if name == "this step" else {}  # so that it shows under a line that it coincides with
        line = ":" if name == "step before" else look["linestyle"]
        looks[name] = {"color": look["color"], "linestyle": line, **wide}
    seen = ("this step", "step before", "optimal")
    steps = {**looks, "this step": {**looks["this step"], "linewidth": 1.8, "marker": "o", "markevery": [-1]}}
    return Live([
        Panel(QUANTILE, "transform Phi  [share of highest]", seen, ylim=(-0.02, 1.02), looks=looks),
        Panel(QUANTILE, "CDF F(u) of the policy  [probability]", seen, ylim=(-0.02, 1.02), looks=looks),
        Panel("step  [number]", "J = W - beta KL  [win rate]", ("this step", "optimal", "others"),
              xlim=(0.0, None), ylim=(LOWEST - 0.02, 1.05), looks=steps),
    ], width=4.2)  # fmt: skip


def picture(data: Iteration) -> bytes:
    """The picture of an iteration: transform, CDF and objective, with the optimum in each."""
    history, t = data.history, data.step

    def curves(step: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        phi, F = history.transform[step] - history.transform[step].min(), history.cdf[step]
        if data.levels is not None:
            return staircase(phi), ramp(F)
        return (GRID, np.interp(GRID, history.u, phi)), (GRID, np.interp(GRID, [0, *history.u, 1], [0, *F, 1]))

    shown = {"this step": curves(t)} | ({"step before": curves(t - 1)} if t else {})
    phis = {name: both[0] for name, both in shown.items()} | {"optimal": data.optimum.transform}
    highest = max(float(y.max()) for _, y in phis.values())
    phis = {name: (x, y / (highest or 1.0)) for name, (x, y) in phis.items()}  # one scale, so that flat stays flat
    cdfs = {name: both[1] for name, both in shown.items()} | {"optimal": data.optimum.cdf}
    far, J = max(20, t), np.maximum(history.objective[: t + 1], LOWEST)
    best, *others = (max(J, LOWEST) for J, _, _ in data.optimum.stationary)
    walk: dict[str, Any] = {"optimal": ([0, far], [best, best]), "this step": (np.arange(t + 1), J)}
    if others:
        walk["others"] = (np.tile([0, far, np.nan], len(others)), np.repeat(others, 3))
    return _live().update([phis, cdfs, walk])


def words(data: Iteration) -> str:
    """The numbers of an iteration: verdict, this step, optimum, and the other stationary policies."""
    history, t, (best, *others) = data.history, data.step, data.optimum.stationary
    low, high = data.swing
    verdict = {
        "start": "Nothing has been trained yet",
        "moving": "Still moving",
        "two-cycle": f"Two-cycle: the objective swings between {low:.3f} and {high:.3f}",
        "optimum": "Converged to the optimum" if t else "The start is the optimum",
        "trap": f"{'Converged to' if t else 'The start is'} a stationary policy that is not the optimum: "
        f"J = {low:.4f} against {best[0]:.4f}",
        "frozen": "Damping 1 keeps the old transform whole: nothing ever moves",
    }[data.verdict]
    proof = "the only stationary policy" if not others else f"the best of {1 + len(others)} stationary policies found"
    if data.optimum.certified == "global":
        proof = "provably the only stationary policy"
    rest = "; ".join(f"J {J:.4f} (W {W:.4f}, KL {_short(kl)} nats)" for J, W, kl in others)
    return (
        f"{verdict}. {data.name}. Step {t}: J {history.objective[t]:.4f}, win rate {history.win_rate[t]:.4f}, "
        f"KL {_short(history.kl[t])} nats, residual {_short(history.residual[t])} nats. Optimum ({proof}): "
        f"J {best[0]:.4f}, win rate {best[1]:.4f}, KL {_short(best[2])} nats."
        + (f" Other stationary policies: {rest}." if rest else "")
    )


def _short(nats: float) -> str:
    """Three digits, and no rounding errors.

    >>> _short(0.370072), _short(7e-16)
    ('0.37', '0')
    """
    return f"{nats:.3g}" if abs(nats) > 1e-12 else "0"


class FixedPointExplorer(Explorer[Iteration]):
    """Step through the fixed-point iteration: watch it converge, swing, or settle in the wrong place.

    >>> explorer = FixedPointExplorer()
    >>> explorer.run.click()
    >>> explorer.text[:59]
    'Two-cycle: the objective swings between 0.230 and 0.507. be'
    """

    title = "The fixed point that is none"

    def __init__(self) -> None:
        beta = widgets.FloatLogSlider(
            value=0.3, base=10, min=LEAST, max=LEAST + 2.55, step=0.05, readout_format=".3g", style=LABEL, layout=WIDE,
            description="beta [1 / nat]", tooltip="price of a nat of KL(policy || reference), in win rate",
        )  # fmt: skip
        controls = {
            "procedure": choice("procedure", list(KINDS), "best-of", "what users keep of N responses"),
            "n": whole("N [responses]", 4, 2, 32, "how many responses are drawn for each one that is shown"),
            "reference": choice("reference shows", list(REFERENCES), "the same", "procedure on the other side"),
            "reward": choice("reward", list(LEVELS), "continuous", "how many values the reward can take"),
            "beta": beta,
            "damping": slider("damping [share]", 0.0, 0.0, 1.0, 0.05, "share of the old transform that a step keeps"),
            "start": choice("start", list(STARTS), "reference", "the policy that the iteration starts from"),
            "step": whole("step [number]", 0, 0, STEPS, "how many rounds of training have been done"),
        }
        self.one = self._button("one step", "one more round of training", 1)
        self.run = self._button("run 50", "fifty more rounds of training", 50)
        self.back = self._button("to the start", "back to step 0", -STEPS)
        super().__init__(controls, extra=(widgets.HBox([self.one, self.run, self.back]),))

    def _button(self, label: str, says: str, move: int) -> widgets.Button:
        button = widgets.Button(description=label, tooltip=says, layout=widgets.Layout(width="130px"))
        button.on_click(self.guarded(lambda _: self.go(move)))
        return button

    def go(self, move: int) -> None:
        """Moves the step by this many rounds, within what the slider holds."""
        self.controls["step"].value = int(np.clip(self.controls["step"].value + move, 0, STEPS))

    def compute(self, **values: Any) -> Iteration:
        return iterate(**values)

    def draw(self, data: Iteration) -> bytes:
        return picture(data)

    def describe(self, data: Iteration) -> str:
        return words(data)
