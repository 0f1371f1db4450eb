"""FixedPointExplorer: where the textbook iteration for the optimal transform goes, step by step.

Train on the transform that is right for the last policy, again and again: for best-of-N it swings for ever between two
policies, and for worst-of-N with few reward levels it settles at a policy that is stationary and far from the best.
The certified optimum stands beside every step. Left out: mixtures and k-th-best procedures, which `theory` solves too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import ipywidgets as widgets
import numpy as np

from infalign_edu import plots, theory
from infalign_edu.classroom.widgets.explorer import LABEL, WIDE, Explorer, choice, slider, whole
from infalign_edu.order_statistics import Array, real
from infalign_edu.plots.live import Live, Panel
from infalign_edu.theory.lesson import History, fixed_point

STEPS = 100
KINDS = ("best-of", "worst-of")
REFERENCES = ("the same", "standard", "the opposite")
LEVELS = {"continuous": None, "2 levels (safe or not)": 2, "4 levels": 4, "16 levels": 16}
STARTS = ("reference", "optimum at 4 beta", "mostly low", "mostly high")
_ENDS = np.geomspace(1e-5, 0.01, 30)  # thin layers at either end are drawn too
GRID = np.unique(np.concatenate([np.linspace(0, 1, 201), _ENDS, 1 - _ENDS]))
LOWEST = -0.5  # objectives below are drawn at the edge of the picture


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
    shapes = _steps(phi - phi.min()), _ramps(np.cumsum(solution.policy))
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


def _steps(values: Array) -> tuple[Array, Array]:
    """One value a level, as a line of steps over [0, 1]."""
    return np.repeat(np.arange(values.size + 1) / values.size, 2)[1:-1], np.repeat(values, 2)


def _ramps(F: Array) -> tuple[Array, Array]:
    """F at the upper edges of the levels as a line over [0, 1]: within a level the reference's proportions stay."""
    return np.arange(F.size + 1) / F.size, np.concatenate([[0.0], F])


@lru_cache(maxsize=1)
def _live() -> Live:
    looks: dict[str, dict[str, Any]] = {}
    for name, look in plots.looks(["this step", "step before", "optimal", "other stationary"]).items():
        wide = {"linewidth": 3.2} if name == "this step" else {}  # so that it shows under a line that it coincides with
        line = ":" if name == "step before" else look["linestyle"]
        looks[name] = {"color": look["color"], "linestyle": line, **wide}
    seen = ("this step", "step before", "optimal")
    steps = {**looks, "this step": {**looks["this step"], "linewidth": 1.8, "marker": "o", "markevery": [-1]}}
    return Live([
        Panel(plots.CALIBRATED, "transform Phi  [share of the highest shown]", seen, ylim=(-0.02, 1.02), looks=looks),
        Panel(plots.CALIBRATED, "CDF F(u) of the policy  [probability]", seen, ylim=(-0.02, 1.02), looks=looks),
        Panel("step  [number]", "J = W - beta KL  [win rate]", ("this step", "optimal", "other stationary"),
              xlim=(0.0, None), ylim=(LOWEST - 0.02, 1.05), looks=steps),
    ])  # fmt: skip


def picture(data: Iteration) -> bytes:
    """The picture of an iteration: transform, CDF and objective, with the optimum in each."""
    history, t = data.history, data.step

    def curves(step: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        phi, F = history.transform[step] - history.transform[step].min(), history.cdf[step]
        if data.levels is not None:
            return _steps(phi), _ramps(F)
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
        walk["other stationary"] = (np.tile([0, far, np.nan], len(others)), np.repeat(others, 3))
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
            value=0.3, base=10, min=-2.3, max=0.3, step=0.05, readout_format=".3g", style=LABEL, layout=WIDE,
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
