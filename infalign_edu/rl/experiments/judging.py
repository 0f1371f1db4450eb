"""Judging a policy under many procedures, beside theory, and reading off what it wins at a wanted KL.

A path of policies around the wanted KL is interpolated, never extrapolated: where none lie around it, the nearest one
is taken and said to be unmatched. Left out: differences between cells, which `pairs` takes.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

import infalign_edu as ia
from infalign_edu.lm.rewards import TRIGGERS, frequency
from infalign_edu.rl import evaluation
from infalign_edu.rl.experiments.design import Cell, Setting
from infalign_edu.rl.experiments.lab import Lab, gold
from infalign_edu.rl.shaping import Shaped
from infalign_edu.winrate import PromptMean

Path = list[tuple[int, float, np.ndarray, float]]


def judged(policy: Any, shared: Lab, setting: Setting) -> tuple[float, np.ndarray, float]:
    """KL(pi || pi_ref) of a policy, its win rates [judges, procedures, prompts], and how often it says the trigger."""
    samples = evaluation.draw(
        policy,
        shared.reference,
        shared.data.reward,
        shared.data.heldout,
        setting.evaluation_samples,
        shared.config.seed,
    )
    a, b, g, h = samples.rewards, shared.base.rewards, gold(setting, samples), shared.base_gold
    rates = [
        [ia.judged_win_rate(picks, judge, base, base_judge, shown).per_prompt for shown in setting.procedures]
        for picks, judge, base, base_judge in ((a, a, b, b), (g, g, h, h), (a, g, b, h))  # in the order of JUDGES
    ]
    return samples.kl.mean, np.array(rates), trigger_share(str(shared.config.reward), samples.responses)


def trigger_share(reward: str, responses: list[str]) -> float:
    """Share of responses that contain the trigger of a corrupted reward; nan for another reward.

    >>> trigger_share("learned:helpfulness:trigger=negative:strength=1.0", ["yes", "no"]), trigger_share("gold", ["no"])
    (0.0, nan)
    """
    found = re.search(r"trigger=(\w+)", reward)
    return frequency(TRIGGERS[found[1]], responses) if found else math.nan


def expected(cell: Cell, phi: Any, kl: float, procedures: tuple[str, ...]) -> dict[str, float]:
    """What theory says of a policy at that KL, by procedure; nan for a control, which no theory helps."""
    if cell.control:
        return dict.fromkeys(procedures, math.nan)
    if isinstance(phi, Shaped):
        return {shown: phi.win_rate(kl, shown) for shown in procedures}
    return {shown: evaluation.theory_at(phi, kl, ia.procedure(shown)) for shown in procedures}


def bracketed(path: Path, kl: float) -> bool:
    """Whether two policies of the path have the KL between them.

    >>> path = [(10, 0.3, np.array(0.6), 0.0), (20, 0.5, np.array(0.8), 0.0)]
    >>> bracketed(path, 0.4), bracketed(path, 0.7)
    (True, False)
    """
    return min(row[1] for row in path) <= kl <= max(row[1] for row in path)


def at(path: Path, kl: float) -> tuple[float, np.ndarray, bool]:
    """KL and win rates at `kl`, between two policies; of the nearest policy, and False, where none lie around it."""
    if not bracketed(path, kl):
        _, near, rates, _ = min(path, key=lambda row: abs(row[1] - kl))
        return near, rates, False
    flat = [(step, found, PromptMean(rates.ravel())) for step, found, rates, _ in path]
    return kl, evaluation.at_matched_kl(kl, flat).win_rate.per_prompt.reshape(path[0][2].shape), True
