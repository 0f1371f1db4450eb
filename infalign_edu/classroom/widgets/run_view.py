"""What the training monitor shows of a run: its curves, and its state in words. Knows no widget and no process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infalign_edu import plots
from infalign_edu.classroom.widgets.runs import Plan, Progress
from infalign_edu.plots.live import Live, Panel
from infalign_edu.rl.config import CTRLConfig

STEP, REACH = "_each step·", "_reach·"  # the leading _ keeps a series out of the legend
REACHES = {"kl": 2.0, "calibrated": 1.0, "transformed": 3.0}  # tops of axes: whoever plans does not move the axes
STEPS = 200.0  # steps on the axis before a run has begun
MEAN, SMOOTH = 8, "mean of 8"  # steps that a smoothed curve averages over
STATES = ("no run", "running", "stopped", "finished", "a run of another process")
Curves = dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]


@dataclass(frozen=True)
class Seen:
    """What is on the page: a run (None: no run yet), the state of its job, and what Start would train."""

    run: Progress | None
    state: str
    folder: Path | None
    next: CTRLConfig
    plan: Plan | None
    next_plan: Plan | None


def curves(data: Seen) -> list[Curves]:
    """One mapping a panel: each step as a dot, the mean of the last eight as a line, and where theory says it ends."""
    rows = data.run.metrics if data.run else []
    expected = data.plan if data.run else data.next_plan
    config = data.run.config if data.run else data.next
    end = float((config.steps if config else 0) or max(len(rows), 1))
    steps, panels = np.array([row["step"] for row in rows]), list[Curves]()
    for key in ("kl", "calibrated", "transformed"):
        values, shown = np.array([row[key] for row in rows]), Curves()
        if rows:
            width = min(MEAN, len(rows))
            shown[STEP] = (steps, values)
            shown[SMOOTH] = (steps[width - 1 :], np.convolve(values, np.ones(width) / width, mode="valid"))
        if expected is not None:
            shown["theory"] = (np.array([0.0, end]), np.full(2, getattr(expected, key)))
        shown[REACH] = (np.array([end if data.run else STEPS, np.nan]), np.array([np.nan, REACHES[key]]))
        panels.append(shown)
    return panels


def run_words(data: Seen) -> str:
    """State of the run, latest means and the theory's; while it runs every tenth step, for those who listen."""
    if data.run is None:
        running = data.state == "running"
        return "Starting: the first step comes in some ten seconds." if running else "No run yet: press Start."
    rows, run = data.run.metrics, data.run
    if data.state == "running":
        rows = rows[: len(rows) // 10 * 10]
    steps = run.config.steps if run.config else None
    told = f"{data.state.capitalize()} ({run.transform}, {data.folder}): {len(rows)} of {steps or 'some'} steps done"
    if rows:
        means = [float(np.mean([row[key] for row in rows[-MEAN:]])) for key in ("kl", "calibrated", "transformed")]
        told += f"; over the last {min(MEAN, len(rows))}, KL {means[0]:.3f} nats, u {means[1]:.3f}"
        told += f", Phi(u) {means[2]:.3f}"
    if data.plan is not None:
        told += f" (theory {data.plan.kl:.3f}, {data.plan.calibrated:.3f}, {data.plan.transformed:.3f})"
    if run.report is not None:
        shown = str(run.report["procedure"])
        rate, kl = run.report["win_rates"][shown], run.report["kl"]
        low, high = rate["interval"]
        told += f". Held out: KL {kl:.3f} nats, win rate under {shown} {rate['mean']:.3f} [{low:.3f}, {high:.3f}]"
    return told + "."


def plan_words(data: Seen) -> str:
    """What Start would train, and what theory expects of it."""
    asked, plan = data.next, data.next_plan
    told = f"Start trains {asked.transform} for {asked.procedure}, {asked.steps} steps, seed {asked.seed}"
    if plan is None:
        return told + "."
    return (
        f"{told}; theory expects KL {plan.kl:.3f} nats, u {plan.calibrated:.3f}, Phi(u) {plan.transformed:.3f} and a "
        f"win rate under {asked.procedure} of {plan.win_rate:.3f}."
    )


def figure() -> Live:
    """Three panels over steps: KL, mean calibrated reward (the win rate of one answer), mean transformed reward."""
    names = (REACH, STEP, SMOOTH, "theory")
    looks: dict[str, dict[str, Any]] = {
        STEP: {"color": "#767676", "marker": "o", "markersize": 3},
        SMOOTH: {"color": plots.PALETTE[0], "linestyle": "-"},
        "theory": {"color": plots.PALETTE[1], "linestyle": "--"},
    }
    labels = (plots.KL, "calibrated reward u  [quantile]", "transformed reward  [units of Phi]")
    limits: tuple[tuple[float, float | None], ...] = ((0.0, None), (0.3, 1.0), (-0.6, None))
    panels = [
        Panel("step  (dots: each, line: mean of 8)", label, names, xlim=(0.0, None), ylim=ylim, looks=looks)
        for label, ylim in zip(labels, limits, strict=True)
    ]
    return Live(panels, width=3.7, height=3.3)
