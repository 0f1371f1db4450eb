"""Win rate against KL: transforms race the optimum, and so does one that is drawn by hand with nine sliders.

`race` computes, `_draw` draws, `FrontierExplorer` is the shell. The transform drawn by hand is linear between nine
points (`by_hand`), so that its whole curve takes a millisecond; `bound` keeps the curves of the others.
Left out: a free-hand canvas, which needs a mouse and a widget of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import ipywidgets as widgets
import numpy as np
from scipy.interpolate import PchipInterpolator

import infalign_edu as ia
from infalign_edu.classroom.widgets.bound import KINDS, MOST_KL, U, bound, curve_of, integral, named
from infalign_edu.classroom.widgets.by_hand import KNOTS, Curve, advise, curve_by_hand
from infalign_edu.classroom.widgets.explorer import LABEL, WIDE, Explorer, choice, slider, whole
from infalign_edu.order_statistics import Array
from infalign_edu.plots import CALIBRATED, KL, looks, style
from infalign_edu.plots.live import Live, Panel

MOST_CURVES = 6
OFFERED = ["identity", "log", "exp:5", "exp:10", "exp:-5", "exp:-10", "power:3", "power:7"]
LOWEST = 0.4  # win rates below are drawn at the edge of the picture
HAND, BEST, DOTS = "drawn by hand", "optimal", "_drawn by hand·"  # the last one stays out of the legend


@dataclass(frozen=True)
class Race:
    """Win rate - KL curves, and the win rates at one KL (nats).

    `win_rate` has an entry for each curve that reaches `kl`; `reach` is the largest KL of the curve drawn by hand, and
    `advice` the slider (a number from 0) whose move gains most there, with the direction, or None where there is none.
    Shape: hand and best_phi [9] and [U], both scaled to [0, 1].
    """

    procedure: str
    kl: float
    curves: Mapping[str, Curve]
    win_rate: Mapping[str, float]
    hand: Array
    best_phi: Array
    reach: float
    advice: tuple[int, int] | None

    def share(self, name: str) -> float:
        """The part of the optimum's gain over 1/2 that a curve reaches at `kl`."""
        return (self.win_rate[name] - 0.5) / (self.win_rate[BEST] - 0.5)


def race(procedure: str, transforms: Sequence[str], hand: Sequence[float], kl: float) -> Race:
    """Transforms by name and one drawn by hand against the optimum of a procedure, at a KL(policy || reference).

    Shape: hand [9], Phi at u = 0, 1/8, ..., 1, linear between.
    Raises: ValueError for a transform that does not exist, or one that is constant.

    >>> found = race("standard", ["exp:10"], [i / 8 for i in range(9)], 0.151596)     # identity: the optimum itself
    >>> round(found.win_rate["drawn by hand"], 5), round(found.win_rate["optimal"], 5), found.advice
    (0.65652, 0.65652, None)
    """
    names = list(dict.fromkeys(transforms))
    if len(names) > MOST_CURVES:
        raise ValueError(f"transforms must be at most {MOST_CURVES}, so that they are told apart, got {len(names)}")
    best = bound(procedure)
    curves = {name: curve_of(name, procedure) for name in names}
    phi = np.asarray(hand, dtype=float)
    curves[HAND], beta = curve_by_hand(phi, procedure, kl)
    reach = float(curves[HAND][0][-1])
    found = {name: _at(curve, kl) for name, curve in curves.items() if curve[0][-1] >= kl}
    found[BEST] = best.win_rate(kl)
    curves[BEST] = best.curve
    g = best.procedure.pdf
    level = integral(U, g(integral(U, best.density(kl)).clip(0, 1)) * g(U))  # Phi*' = g(F) g
    lost = found[BEST] - found.get(HAND, found[BEST])
    advice = advise(phi, beta, procedure) if lost > 5e-4 else None
    return Race(procedure, kl, curves, found, (phi - phi.min()) / np.ptp(phi), level / level[-1], reach, advice)


def _at(curve: Curve, kl: float) -> float:
    """W at a KL, smooth in sqrt(KL), where every curve starts as a straight line."""
    return float(PchipInterpolator(np.sqrt(curve[0]), curve[1])(np.sqrt(kl)))


@lru_cache(maxsize=16)
def _live(names: tuple[str, ...]) -> Live:
    """The race, and the shapes of the two transforms that matter, for one choice of curves."""
    found = looks([*names, BEST]) | {HAND: style(HAND, 7)}
    look = {name: {key: value for key, value in found[name].items() if key != "marker"} for name in found}
    dots = {DOTS: {"color": look[HAND]["color"], "marker": "o"}}
    look[HAND]["linewidth"] = 2.6
    line = {"at KL|": {"color": "#767676", "linestyle": "-", "linewidth": 0.9}}
    series, look = [*names, BEST, HAND, *line], look | line
    return Live([
        Panel(KL, "win rate", series, xlim=(0.0, MOST_KL), ylim=(LOWEST, 1.0), looks=look),
        Panel(CALIBRATED, "Phi, scaled [0 to 1]", [BEST, HAND, *dots], ylim=(-0.02, 1.02), looks={**look, **dots}),
    ])  # fmt: skip


def _draw(data: Race) -> bytes:
    """Left: the race. Right: the transform drawn by hand over the optimum's at this KL."""
    names = tuple(name for name in data.curves if name not in (HAND, BEST))
    left: dict[str, Any] = {name: (kl, np.maximum(w, LOWEST)) for name, (kl, w) in data.curves.items()}
    left["at KL|"] = [data.kl], [0.5]
    right: dict[str, Any] = {BEST: (U, data.best_phi), HAND: (KNOTS, data.hand), DOTS: (KNOTS, data.hand)}
    return _live(names).update([left, right])


def describe(data: Race) -> str:
    """The score in words."""
    wins, best = data.win_rate, 100 * data.win_rate[BEST]
    where = f"KL {data.kl:.2f} nats under {data.procedure}"
    if HAND not in wins:
        score = (
            f"Your transform does not get as far as {where}, where the optimum wins {best:.1f} %: it ends at "
            f"{data.reach:.2f}, because it is flat at its top. Lower one of its highest sliders."
        )
    elif wins[HAND] < 0.5:
        score = (
            f"Your transform makes the policy worse than the reference: at {where} its win rate is "
            f"{100 * wins[HAND]:.1f} %, that of the optimum {best:.1f} %."
        )
    else:
        score = (
            f"Your transform reaches {_percent(data.share(HAND))} of the optimum's gain at {where}: win rate "
            f"{100 * wins[HAND]:.1f} % against {best:.1f} %."
        )
    if data.advice is not None:
        slider_at, sign = data.advice
        score += f" Most is gained by moving the slider at u = {slider_at}/8 {'up' if sign > 0 else 'down'}."
    elif HAND in wins:
        close = best - 100 * wins[HAND] < 0.05
        score += " That is the optimum to a tenth of a point." if close else " No single slider can gain more."
    others = [f"{name} {_percent(data.share(name)) if name in wins else 'ends before this KL'}"
              for name in data.curves if name not in (HAND, BEST)]  # fmt: skip
    return score + (f" Others, of the same gain: {', '.join(others)}." if others else "")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


class FrontierExplorer(Explorer[Race]):
    """Put transforms on a win rate - KL plot and draw one by hand, against what nothing beats.

    >>> explorer = FrontierExplorer()
    >>> explorer.start("exp:10")
    >>> explorer.text[:31]
    'Your transform reaches 98.5 % o'
    """

    title = "The race to the optimum"

    def __init__(self) -> None:
        self._held = False
        self.buttons = [self._button(name) for name in ("identity", "exp:10", BEST)]
        self.adding = widgets.Text(value="exp:25", description="another", style=LABEL, continuous_update=False,
                                   tooltip="a name such as exp:25, exp:-25 or power:15")  # fmt: skip
        add = widgets.Button(description="add", tooltip="put this transform on the plot")
        clear = widgets.Button(description="clear", tooltip="keep the one drawn by hand and the optimum")
        add.on_click(self.guarded(lambda _: self.add(self.adding.value)))
        clear.on_click(self.guarded(lambda _: self.clear()))
        self.add_button, self.clear_button = add, clear
        shown = widgets.SelectMultiple(options=OFFERED, value=["identity", "exp:10"], description="transforms", rows=5,
                                       tooltip="Ctrl or Shift chooses several", style=LABEL, layout=WIDE)  # fmt: skip
        hand = [self._upright(i) for i in range(KNOTS.size)]
        super().__init__(
            {
                "procedure": choice("procedure", KINDS, "best-of", "what is shown of N responses"),
                "n": whole("N [draws]", 4, 1, 64, "responses that are drawn for each one that is shown"),
                "kl": slider("KL [nats]", 0.5, 0.05, MOST_KL, 0.05, "KL(policy || reference) of the comparison"),
                "transforms": shown,
                **{f"u{i}": bar for i, bar in enumerate(hand)},
            },
            (widgets.HBox([self.adding, add, clear]), widgets.HBox(hand), widgets.HBox(self.buttons)),
        )
        row = self.box.children[1]
        row.children = [control for control in row.children if control not in hand]

    @staticmethod
    def _upright(i: int) -> widgets.FloatSlider:
        return widgets.FloatSlider(
            value=i / 8, min=0.0, max=1.0, step=0.01, orientation="vertical", description=f"u={i}/8",
            tooltip=f"Phi at the calibrated reward {i}/8", readout_format=".2f",
            layout=widgets.Layout(width="58px", height="170px"),
        )  # fmt: skip

    def _button(self, name: str) -> widgets.Button:
        button = widgets.Button(description=f"start from {name}", tooltip=f"set the nine sliders to {name}")
        button.layout.width = "160px"
        button.on_click(self.guarded(lambda _: self.start(name)))
        return button

    def start(self, name: str) -> None:
        """Sets the nine sliders to a transform, scaled to [0, 1]; "optimal" is the optimum's at the KL chosen."""
        phi = np.interp(KNOTS, U, self.data.best_phi) if name == BEST and self.data else ia.transform(name)(KNOTS)
        level = (phi - phi.min()) / np.ptp(phi)
        self._held = True
        try:
            for i, value in enumerate(level):
                self.controls[f"u{i}"].value = float(value)
        finally:
            self._held = False
        self.refresh()

    def add(self, name: str) -> None:
        """Puts a transform on the plot. Raises: ValueError for one that does not exist."""
        shown, name = self.controls["transforms"], str(ia.transform(name))
        if name not in shown.options:
            shown.options, shown.value = (*shown.options, name), shown.value
        shown.value = tuple(dict.fromkeys([*shown.value, name]))

    def clear(self) -> None:
        """Takes all transforms off the plot, except the optimum and the one drawn by hand."""
        self.controls["transforms"].value = ()

    def refresh(self) -> None:
        if not self._held:
            super().refresh()

    def compute(self, **values: Any) -> Race:
        hand = [values[f"u{i}"] for i in range(KNOTS.size)]
        return race(named(values["procedure"], values["n"]), values["transforms"], hand, values["kl"])

    def draw(self, data: Race) -> bytes:
        return _draw(data)

    def describe(self, data: Race) -> str:
        return describe(data)
