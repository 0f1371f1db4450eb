"""README's figure and its table of claims, every number from the tables in data/runs.

    python experiments/claims.py

A claim is the paper's, with the arXiv version it is quoted from, or ours. Its effect and its interval come from
NAME_pairs.csv, its verdict from there too: confirmed needs five seeds and an interval without 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import infalign_edu as ia
from infalign_edu import atomic, plots, theory
from infalign_edu.rl.experiments.results import Row, corruption, mean_over_seeds, pick, read
from infalign_edu.rl.experiments.verdicts import points, told

ROOT = Path(__file__).parents[1]
KLS = ("0.4", "0.8")
SHOWN = "best-of-4"
#       claim in README, whose it is, the table, its claim there, procedure
CLAIMS = [
    ("training for best-of-4 gains win rate under best-of-4 (exp:10 over identity)",
     "paper (v1, v2: 8-12 % helpfulness; v5: up to 3-8 %; other models and data)", "frontiers",
     "calibrate and transform for best-of-4", "best-of-4"),
    ("training for worst-of-4 gains win rate under worst-of-4 (exp:-10 over identity)",
     "paper (v1, v2: 4-9 % harmlessness; v5: up to 3-8 %; other models and data)", "frontiers",
     "calibrate and transform for worst-of-4", "worst-of-4"),
    ("the milder log gains under worst-of-4 too (over identity)", "ours", "frontiers", "log for worst-of-4",
     "worst-of-4"),
    ("CTRL beats training on the raw reward, best-of-4", "paper", "frontiers",
     "CTRL against the raw reward, best-of-4", "best-of-4"),
    ("CTRL beats training on the raw reward, worst-of-4", "paper", "frontiers",
     "CTRL against the raw reward, worst-of-4", "worst-of-4"),
    ("calibration alone is a strong baseline for the standard win rate (identity over raw)", "paper", "frontiers",
     "calibration alone against the raw reward", "standard"),
    ("the optimal transform beats exp:10 at best-of-4", "ours: theory expects a tie", "frontiers",
     "exp:10 against the optimal transform, best-of-4", "best-of-4"),
    ("a transform for the wrong procedure loses (exp:-10 under best-of-4)", "ours", "frontiers",
     "the wrong direction, best-of-4", "best-of-4"),
    ("more reference samples help (64 over 4, fresh at each update)", "ours", "samples",
     "64 fresh samples at each update against 4", "best-of-4"),
    ("more reference samples help (256 over 16, one fixed table)", "paper", "samples",
     "256 reference samples against 16, one table", "best-of-4"),
    ("more reference samples help (256 over 4, one fixed table)", "paper", "samples",
     "256 reference samples against 4, one table", "best-of-4"),
    ("trained for best-of-16 and shown without a choice, a policy loses (to one for best-of-4)", "ours", "mismatch",
     "trained for best-of-16 rather than for best-of-4, shown best-of-4", "standard"),
    ("a table for each prompt beats one for all prompts", "ours", "mismatch",
     "a table a prompt against one for all prompts", "best-of-4"),
    ("PPO ends below RLOO on the same rewards", "ours", "algorithms", "RLOO against PPO", "best-of-4"),
    ("calibration resists reward hacking (judged by gold)", "paper", "hacking",
     "calibrated against raw under corrupted preferences", "standard"),
]  # fmt: skip
EXACT = [
    ("exponential transforms come close to the optimum", "paper",
     "the family does, each N with its own t; one fixed t does not serve every N (notebooks 04, 05)",
     "confirmed, with a limit (exact)"),
    ("one curve per N solves every beta", "ours", "two solvers agree (data/runs/theory_grid.csv)", "exact"),
]  # fmt: skip


def effect(row: Row, table: str) -> str:
    """One effect in points, with its interval, and what theory expects where it expects anything."""
    done = corruption(row["reward"])
    about = f", {done if done == 'clean' else 'trigger ' + done.replace(' ', ' at ')}" if table == "hacking" else ""
    unknown = table == "hacking" or row["theory"] in ("nan", "0.0000", "-0.0000")  # theory knows nothing of gold
    expected = "" if unknown else f"; theory {points(row['theory'], '+.1f')}"
    return f"KL {row['kl']}{about}: {told(row, '+.1f')}{expected}"


def measured() -> Iterator[tuple[str, str, str, str]]:
    """The rows of claims that were trained for."""
    for claim, whose, table, key, shown in CLAIMS:
        judge, other = ("gold", "reward") if table == "hacking" else ("reward", "gold")
        every = pick(read(f"{table}_pairs"), claim=key, shown=shown)
        rows, beside = pick(every, judge=judge), pick(every, judge=other)
        if not rows:
            continue
        effects = [effect(row, table) for row in rows]
        seeds = sorted({int(row["seeds"]) for row in rows})
        number = f"{seeds[0]} seed" + "s" * (seeds[0] > 1)
        verdicts, besides = (in_order([row["verdict"] for row in part]) for part in (rows, beside))
        yield claim, whose, f"points: {'; '.join(effects)} ({number}; by {other}: {besides})", verdicts


def in_order(verdicts: list[str]) -> str:
    """One verdict where all agree, else one for each effect in the order of the effects."""
    return verdicts[0] if len(set(verdicts)) == 1 else " / ".join(verdicts)


def lifts() -> tuple[str, str, str, str] | None:
    """How close training comes to the theoretical curve, over seeds."""
    rows = pick(read("frontiers"), shown=SHOWN, judge="reward", control="")
    shares: dict[str, list[float]] = {}
    for row in rows:
        if row["transform"] in ("identity", "exp:10", "optimal"):
            share = (float(row["win_rate"]) - 0.5) / (float(row["theory"]) - 0.5)
            shares.setdefault(row["transform"], []).append(share)
    if not shares:
        return None
    words = [f"{name} {np.mean(found):.2f} ({min(found):.2f}-{max(found):.2f})" for name, found in shares.items()]
    about = f"share of the theoretical lift over 1/2, best-of-4, mean and range over seeds and KL: {', '.join(words)}"
    return "training reaches the theoretical curve", "ours", about, "measured"


def claims() -> str:
    """The README's table of claims."""
    rows = [("claim", "whose", "what we found", "verdict"), ("---",) * 4, *measured(), *filter(None, [lifts()]), *EXACT]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def figure() -> Any:
    """Theory as curves, trained policies as points: means over seeds with their 95 % intervals."""
    rows = pick(read("frontiers"), shown=SHOWN, judge="reward", control="")
    budget = np.linspace(0.01, 1.0, 40)
    curves: dict[str, Any] = {}
    measured: dict[str, Any] = {}
    for name in ("identity", "exp:10"):
        phi = ia.transform(name)
        curve = theory.frontier(phi, SHOWN, [theory.beta_for_kl(phi, kl) for kl in budget])
        curves[name] = (curve.kl, curve.win_rate)
    best = theory.optimal_frontier(SHOWN, [theory.optimal_beta_for_kl(SHOWN, kl) for kl in budget])
    curves["optimal"] = (best.kl, best.win_rate)
    for name in curves:
        found = [pick(rows, transform=name, target_kl=kl) for kl in KLS]
        if all(found):
            means, halves = zip(*map(mean_over_seeds, found), strict=True)
            measured[name] = [float(kl) for kl in KLS], means, halves
    words = "; ".join(f"{n} {p[1][0]:.3f} at KL {KLS[0]} and {p[1][1]:.3f} at KL {KLS[1]}" for n, p in measured.items())
    alt = f"Win rate under best-of-4 against KL: theory as curves, means over five training seeds as points, {words}."
    return plots.lines(curves, x=plots.KL, y="win rate under best-of-4", points=measured, alt=alt)


def replace_block(text: str, name: str, content: str) -> str:
    """The text with the block between `<!-- name -->` and `<!-- /name -->` replaced."""
    before, rest = text.split(f"<!-- {name} -->\n")
    return f"{before}<!-- {name} -->\n{content}\n<!-- /{name} -->{rest.split(f'<!-- /{name} -->')[1]}"


def main() -> None:
    """Writes the figure and the README's two blocks."""
    fig = figure()
    with atomic.replacing(ROOT / "data" / "figures" / "frontier.png") as part:
        part.write_bytes(plots.png(fig))
    readme = ROOT / "README.md"
    image = f"![{fig.alt_text}](data/figures/frontier.png)"
    page = replace_block(readme.read_text(encoding="utf-8"), "frontier", image)
    atomic.write_text(readme, replace_block(page, "claims", claims()))


if __name__ == "__main__":
    main()
