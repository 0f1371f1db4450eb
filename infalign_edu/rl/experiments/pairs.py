"""Paired differences of win rates between cells at the same KL, with intervals that hold the noise of training.

A difference is taken per held-out prompt and seed. Prompts and seeds are both a sample of what could have been, so the
variance of the mean is the sum of three parts: between seeds, between prompts, and what is left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from scipy.stats import t as student

from infalign_edu.rl.experiments.design import JUDGES, Cell

SEEDS_FOR_A_CLAIM = 5


def interval(differences: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Mean and interval of differences over crossed random seeds and prompts. Shape: [seeds, prompts].

    Source: the variance of a mean in a crossed two-way layout, as in Cornfield and Tukey 1956: with MS_s, MS_p, MS_e
    the mean squares of seeds, prompts and the rest, Var = (MS_s + MS_p - MS_e) / (seeds x prompts), not less than
    the largest part alone. Degrees of freedom by Satterthwaite. One seed: prompts only.
    """
    S, P = differences.shape
    mean = float(differences.mean())
    over_prompts = differences.mean(0).var(ddof=1) / P
    if S == 1:
        half = float(student.ppf(0.5 + level / 2, P - 1)) * math.sqrt(over_prompts)
        return mean, mean - half, mean + half
    rest = differences - differences.mean(0) - differences.mean(1, keepdims=True) + mean
    left = (rest**2).sum() / ((S - 1) * (P - 1)) / (S * P)
    over_seeds = differences.mean(1).var(ddof=1) / S
    variance = max(over_seeds + over_prompts - left, over_seeds, over_prompts)
    freedom = variance**2 / (over_seeds**2 / (S - 1) + over_prompts**2 / (P - 1) + 1e-300)
    half = float(student.ppf(0.5 + level / 2, max(1.0, freedom))) * math.sqrt(variance)
    return mean, mean - half, mean + half


def verdict(low: float, high: float, seeds: int, wanted: int) -> str:
    """What a difference allows one to say: a claim needs five seeds and an interval without 0.

    >>> verdict(0.01, 0.05, seeds=5, wanted=1), verdict(0.01, 0.05, seeds=1, wanted=1), verdict(-0.1, 0.1, 5, 1)
    ('confirmed', 'one seed', 'tied')
    """
    if low <= 0 <= high:
        return "tied"
    word = "confirmed" if (low > 0) == (wanted > 0) else "contradicted"
    if seeds >= SEEDS_FOR_A_CLAIM:
        return word
    weaker = "indicative" if seeds > 1 else "one seed"
    return weaker if word == "confirmed" else f"{weaker}, {word}"


def comparisons(
    pairs: Sequence[Mapping[str, Any]], done: Mapping[Cell, Mapping[str, Any]], procedures: Sequence[str]
) -> list[dict[str, Any]]:
    """One row for each asked pair, KL, procedure and judge: policy minus baseline, over the seeds that both have.

    A pair names fields of two cells; what it does not name is the same in both. `shown` lists procedures; the claim is
    that the policy is better, or worse with `worse = true`.
    """
    table = []
    for pair in pairs:
        seen: dict[tuple[Any, ...], list[tuple[Cell, Cell]]] = {}
        for cell in done:
            if not all(getattr(cell, k) == v for k, v in pair["policy"].items()):
                continue
            twin = Cell(**asdict(cell) | pair["baseline"])
            if twin in done and done[twin]["matched"] == done[cell]["matched"] == "True":
                rest = tuple(v for k, v in asdict(cell).items() if k != "seed")
                seen.setdefault(rest, []).append((cell, twin))
        for found in seen.values():
            judges = range(min(len(done[one]["rates"]) for two in found for one in two))
            table += [
                _row(pair, found, done, i, procedures[i], j)
                for i in map(procedures.index, pair["shown"]) for j in judges
                if (procedures[i], JUDGES[j]) != ("standard", "gold of pick")  # nothing is picked in standard use
            ]  # fmt: skip
    return table


def _row(
    pair: Mapping[str, Any],
    found: list[tuple[Cell, Cell]],
    done: Mapping[Cell, Mapping[str, Any]],
    i: int,
    shown: str,
    j: int,
) -> dict[str, Any]:
    d = np.array([done[cell]["rates"][j, i] - done[twin]["rates"][j, i] for cell, twin in found])
    mean, low, high = interval(d)
    cell, twin = found[0]
    gap = float(np.mean([done[a]["theory"][i] - done[b]["theory"][i] for a, b in found]))
    wanted = -1 if pair.get("worse") else 1
    return {
        "claim": pair["claim"], "policy": _short(cell, pair), "baseline": _short(twin, pair), "kl": cell.kl,
        "reward": cell.reward,
        "shown": shown, "judge": JUDGES[j], "difference": f"{mean:.4f}", "low": f"{low:.4f}", "high": f"{high:.4f}",
        "theory": f"{gap:.4f}", "share": f"{mean / gap:.3f}" if abs(gap) > 1e-3 else "nan", "seeds": len(found),
        "prompts": d.shape[1], "by_seed": " ".join(f"{x:.4f}" for x in d.mean(1)),
        "verdict": verdict(low, high, len(found), wanted),
        "commit": done[cell]["commit"], "command": done[cell]["command"],
    }  # fmt: skip


def _short(cell: Cell, pair: Mapping[str, Any]) -> str:
    """The fields that tell a cell of a pair from the other."""
    named = dict.fromkeys([*pair["policy"], *pair["baseline"]])
    how = ("kl", "steps", "learning_rate", "control")
    return ", ".join(str(getattr(cell, name)) for name in named if name not in how)
