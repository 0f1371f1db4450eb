"""report.json and report.html: what a run found, with its error bars, beside what theory says.

The page is one file: figures are inside it, nothing is fetched, no script runs, and every text a model wrote is
escaped.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from infalign_edu import atomic, plots, theory
from infalign_edu.calibration import EmpiricalCalibrator
from infalign_edu.inputs import label
from infalign_edu.own_procedures import choice
from infalign_edu.procedures import procedure as named_procedure
from infalign_edu.rl.config import CTRLConfig
from infalign_edu.rl.evaluation import Comparison, Evaluation, Outcome
from infalign_edu.winrate import PromptMean

FEW_STEPS = 20  # with fewer updates a report speaks of plumbing, not of an effect
SHOWN_PROMPTS, DRAWS = 3, 4  # of the before-and-after table


def write(folder: Path, config: CTRLConfig, found: Evaluation, data: Any, seconds: float) -> dict[str, Any]:
    """Writes report.json and report.html into the run folder and returns the content of report.json."""
    content = summary(config, found, data, seconds)
    atomic.write_json(folder / "report.json", content)
    atomic.write_text(folder / "report.html", page(config, found, content))
    return content


def summary(config: CTRLConfig, found: Evaluation, data: Any, seconds: float) -> dict[str, Any]:
    """The content of report.json: KL in nats, win rates as probabilities, shares as ratios to theory."""
    shown = label(named_procedure(config.procedure))
    lines = notes(config, data)
    if len(found.comparisons) < len(found.outcomes) - 1:
        lines.append("Not every pair of runs reached a common KL: those pairs are not compared.")
    content: dict[str, Any] = {
        "procedure": shown,
        "transform": found.outcomes[-1].trained.name,
        "reward": data.reward_name,
        "reward_report": data.reward_report,
        **_outcome(found.outcomes[-1], shown),
        "runs": {outcome.trained.name: _outcome(outcome, shown) for outcome in found.outcomes},
        "comparisons": [_comparison(c) for c in found.comparisons],
        "training_prompts": len(data.training),
        "heldout_prompts": len(found.reference.prompts),
        "evaluation_samples": found.outcomes[-1].samples.rewards.shape[1],
        "base_samples": found.reference.rewards.shape[1],
        "notes": lines,
        "seconds": round(seconds, 1),
        "config": config.identity(),
    }
    if found.comparisons:
        content["transform_gain_share"] = _json(found.comparisons[0].gain_share)
        content["transform_gain_share_interval"] = content["comparisons"][0]["transform_gain_share_interval"]
    return content


def notes(config: CTRLConfig, data: Any) -> list[str]:
    """What a reader must know before quoting a number."""
    lines = ["One seed: intervals are over prompts, and the noise of training again is not in them."]
    if (config.steps or 0) < FEW_STEPS:
        lines.append(f"Training took {config.steps} steps: this shows that the plumbing works, not an effect.")
    if data.reward_report and not data.reward_report.get("distinguishable_from_chance", True):
        lines.append("The learned reward is not distinguishable from chance on held-out pairs.")
    lines.append("Calibrated rewards were clipped at 1/(2K) from below, K being the reference samples a prompt.")
    return lines + list(data.notes)


def _json(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _estimate(estimate: PromptMean) -> dict[str, Any]:
    low, high = estimate.interval(0.95)
    return {"mean": estimate.mean, "stderr": _json(estimate.stderr), "interval": [_json(low), _json(high)]}


def _outcome(outcome: Outcome, shown: str) -> dict[str, Any]:
    path = sorted(outcome.path, key=itemgetter(0))
    return {
        "beta": outcome.trained.beta,
        "steps": outcome.trained.final,
        "kl": outcome.samples.kl.mean,
        "kl_stderr": _json(outcome.samples.kl.stderr),
        "win_rates": {name: _estimate(rate) for name, rate in outcome.win_rates.items()},
        "theory": outcome.theory,
        "lift_share": _json(outcome.lift_share(shown)),
        "path": [{"step": step, "kl": kl, "win_rate": rate.mean} for step, kl, rate in path],
    }


def _comparison(c: Comparison) -> dict[str, Any]:
    return {
        "baseline": c.baseline,
        "transform": c.transform,
        "kl": c.kl,
        "between_steps": {name: list(steps) for name, steps in c.steps.items()},
        "difference": _estimate(c.difference),
        "theory_difference": c.theory,
        "transform_gain_share": _json(c.gain_share),
        "transform_gain_share_interval": [_json(end) for end in c.gain_share_interval()],
    }


def density_figure(found: Evaluation) -> Any:
    """Calibrated rewards of held-out responses under the trained policy, over the theoretical density at its KL."""
    outcome = found.outcomes[-1]
    calibrator = EmpiricalCalibrator(found.reference.rewards)
    u = calibrator.randomized(outcome.samples.rewards, np.random.default_rng(0))
    kl, name, phi = outcome.samples.kl.mean, outcome.trained.name, outcome.trained.transform
    grid = np.linspace(0.002, 0.998, 250)
    curves = {}
    if kl > 1e-6:
        curves[f"{name}, theory at KL {kl:.2f}"] = (grid, theory.tilt(phi, theory.beta_for_kl(phi, kl)).density(grid))
    top = float((u > 0.9).mean())
    alt = f"Histogram of calibrated rewards under the policy trained with {name}; {top:.0%} lie above 0.9, where the"
    return plots.density(u, curves, measured="trained policy", alt=f"{alt} reference has 10%. Theory drawn over it.")


def frontier_figure(config: CTRLConfig, found: Evaluation) -> Any:
    """Every trained policy as a point on the win rate - KL frontiers of its transform, and the optimum above."""
    shown = named_procedure(config.procedure)
    name_shown = label(shown)
    reach = max(1.2 * max(o.samples.kl.mean for o in found.outcomes), 0.05)
    levels = np.linspace(0.01, 1, 25) * reach
    curves: dict[str, tuple[Any, Any]] = {}
    points = {}
    for outcome in found.outcomes:
        name, phi = outcome.trained.name, outcome.trained.transform
        frontier = theory.frontier(phi, shown, [theory.beta_for_kl(phi, kl) for kl in levels])
        curves[name] = (frontier.kl, frontier.win_rate)
        rate = outcome.win_rates[name_shown]
        points[name] = (outcome.samples.kl.mean, rate.mean, np.nan_to_num(rate.mean - rate.interval()[0]))
    best = theory.optimal_frontier(shown, [theory.optimal_beta_for_kl(shown, kl) for kl in levels])
    curves["optimal"] = (best.kl, best.win_rate)
    told = ", ".join(f"{name} at KL {p[0]:.2f} and win rate {p[1]:.3f}" for name, p in points.items())
    alt = f"Win rate under {name_shown} against KL: theoretical frontiers with the trained policies as points, {told}."
    return plots.lines(curves, x=plots.KL, y=f"win rate under {name_shown}", points=points, alt=alt)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """An HTML table, every cell escaped.

    >>> table(["a"], [["<b>"]])
    '<table><tr><th>a</th></tr><tr><td>&lt;b&gt;</td></tr></table>'
    """
    cells = "".join(f"<th>{html.escape(str(cell))}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(c))}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><tr>{cells}</tr>{body}</table>"


def win_rate_rows(content: dict[str, Any]) -> list[list[str]]:
    """Rows of the win-rate table, one a run: measured with its standard error, theory beside it, and the lift share."""
    rows = []
    for name, run in content["runs"].items():
        cells = []
        for shown, rate in run["win_rates"].items():
            error = "" if rate["stderr"] is None else f" ± {rate['stderr']:.3f}"
            cells.append(f"{rate['mean']:.3f}{error} (theory {run['theory'][shown]:.3f})")
        share = "-" if run["lift_share"] is None else f"{run['lift_share']:.2f}"
        rows.append([name, f"{run['beta']:.3g}", f"{run['kl']:.3f}", *cells, share])
    return rows


def comparison_lines(content: dict[str, Any]) -> list[str]:
    """One sentence for each pair of transforms."""
    lines = []
    for c in content["comparisons"]:
        low, high = c["transform_gain_share_interval"]
        share = "-" if low is None else f"{c['transform_gain_share']:.2f} [{low:.2f}, {high:.2f}]"
        lines.append(
            f"{c['transform']} over {c['baseline']} at KL {c['kl']:.3f}: {100 * c['difference']['mean']:+.1f} points "
            f"(theory {100 * c['theory_difference']:+.1f}); share of the theoretical gain {share}, 95 % over prompts, "
            "one seed"
        )
    return lines


def _before_and_after(config: CTRLConfig, found: Evaluation) -> str:
    """The first draws of reference and policy for a few prompts, with what the procedure would show."""
    shown, policy = named_procedure(config.procedure), found.outcomes[-1].samples
    draws = shown.max_n or DRAWS
    parts = []
    for x, prompt in enumerate(found.reference.prompts[:SHOWN_PROMPTS]):
        C = EmpiricalCalibrator(found.reference.rewards[x : x + 1])
        rows = []
        for name, samples in (("reference", found.reference), (found.outcomes[-1].trained.name, policy)):
            rewards, M = samples.rewards[x, :draws], samples.rewards.shape[1]
            mark = choice(shown, rewards, np.random.default_rng(config.seed))
            for i, u in enumerate(C(rewards[None])[0]):
                text = samples.responses[x * M + i]
                rows.append([name, f"{rewards[i]:.2f}", f"{u:.2f}", "shown" if i == mark else "", text])
        heads = ["policy", "reward", "u", label(shown), "response"]
        parts.append(f"<h3>{html.escape(prompt)}</h3>" + table(heads, rows))
    return "".join(parts)


def page(config: CTRLConfig, found: Evaluation, content: dict[str, Any]) -> str:
    """The whole of report.html."""
    names = list(content["win_rates"])
    rates = table(["transform", "beta", "KL [nats]", *names, "lift share"], win_rate_rows(content))
    listed = "".join(f"<li>{html.escape(line)}</li>" for line in [*comparison_lines(content), *content["notes"]])
    reward = table(["reward", content["reward"]], content["reward_report"].items())
    figures = "".join(plots.html_image(fig) for fig in (density_figure(found), frontier_figure(config, found)))
    about = f"{content['heldout_prompts']} held-out prompts, {content['evaluation_samples']} fresh samples each"
    about += f", {content['base_samples']} of the reference"
    title = f"{content['transform']} for {content['procedure']}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src "
        "'unsafe-inline'\">"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1>"
        f"<p>Win rates against the reference on {about}, ± one standard error over prompts. Lift share is "
        "(W - 1/2) / (W_theory - 1/2), theory being the same transform at the measured KL(policy || reference).</p>"
        f"{rates}<ul>{listed}</ul>{figures}<h2>Before and after</h2>{_before_and_after(config, found)}"
        f"<h2>Reward</h2>{reward}<h2>Settings</h2>{table(['field', 'value'], content['config'].items())}"
        "</body></html>\n"
    )


STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0;display:block;overflow-x:auto}"
    "td,th{border-bottom:1px solid #ddd;padding:.3rem .7rem;text-align:left;vertical-align:top}"
    "img{max-width:100%;margin:.5rem}"
)
