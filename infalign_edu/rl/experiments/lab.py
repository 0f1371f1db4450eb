"""What the cells of one seed and reward share, each made once: reference, prompts, reward, evaluation samples, tables.

A calibration table is the cell's own, or one made for something else on purpose: an earlier checkpoint, other prompts,
all prompts together. Left out: training and judging, which `cells` and `judging` do with these things.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from infalign_edu.calibration import EmpiricalCalibrator
from infalign_edu.lm.models import load
from infalign_edu.lm.pretrain import PretrainConfig
from infalign_edu.lm.pretrain import train as pretrain
from infalign_edu.lm.rewards import GoldReward, Noisy, score
from infalign_edu.rl import ctrl, evaluation
from infalign_edu.rl.config import CTRLConfig
from infalign_edu.rl.data import Data, prepare
from infalign_edu.rl.experiments.design import Cell, Setting
from infalign_edu.rl.trainer import stream

FRESH_POOL = 128  # reference samples that stand for the true quantile where K fresh ones are drawn at every update
STALE_STEPS = 350  # half of the embedded model's training: the checkpoint that a stale table is made from
SHORT_RUNS: dict[str, Any] = {"reference_samples": 48, "adam_beta2": 0.999}  # the tables of the sweeps were made so
BASE = 2  # evaluation samples of the reference, which all policies share, per sample of a policy
FRESH, ROTATED = 11, 7  # a stream of randomness of its own; by how many prompts a table of other prompts is shifted


@dataclass(frozen=True, eq=False)
class Lab:
    """What the cells of one seed and reward share."""

    config: CTRLConfig
    reference: Any
    data: Data
    base: evaluation.Samples
    base_gold: np.ndarray


@lru_cache(maxsize=2)
def lab(seed: int, reward: str, setting: Setting) -> Lab:
    """Reference, prompts, reward and the reference's evaluation samples of one seed."""
    torch.set_num_threads(1)
    reference = load("embedded")
    config = CTRLConfig(
        seed=seed, reward=reward.format(seed=seed), heldout_prompts=setting.heldout_prompts,
        training_prompts=setting.training_prompts, evaluation_samples=setting.evaluation_samples,
        steps=setting.steps or None, prompts_per_step=setting.prompts_per_step or None, **SHORT_RUNS,
    ).resolved(reference.parameters, False, os.cpu_count() or 1)  # fmt: skip
    reference.model.requires_grad_(False)
    data = prepare(config, reference)
    drawn = BASE * setting.evaluation_samples
    base = evaluation.draw(reference, reference, data.reward, data.heldout, drawn, seed, evaluation.REFERENCE)
    return Lab(config, reference, data, base, gold(setting, base))


def gold(setting: Setting, samples: evaluation.Samples) -> np.ndarray:
    """Gold rewards of evaluation samples. Shape: [prompts, M]."""
    asked = [prompt for prompt in samples.prompts for _ in range(samples.rewards.shape[1])]
    return GoldReward(setting.gold)(asked, samples.responses).reshape(samples.rewards.shape)


@lru_cache(maxsize=1)
def _stale() -> Any:
    return pretrain(PretrainConfig(steps=STALE_STEPS), progress=False)[0]


@lru_cache(maxsize=4)
def made_table(shared: Lab, K: int, seed: int, stale: bool, control: str) -> EmpiricalCalibrator:
    """A table of K reference samples for each training prompt, from the reference or from its earlier checkpoint."""
    policy = _stale() if stale else shared.reference
    generator = torch.Generator().manual_seed(stream(seed, ctrl.CALIBRATION))
    rollouts = policy.sample(shared.data.training, K, generator=generator)
    rewards = score(training_reward(shared, control), rollouts.row_prompts, rollouts.responses)
    return EmpiricalCalibrator(rewards.reshape(-1, K))


def training_reward(shared: Lab, control: str) -> Any:
    """The reward that training sees: the run's own, or for the control one that knows nothing."""
    if control not in ("", "random"):
        raise ValueError(f"control must be random or empty, got {control!r}")
    return (
        Noisy(lambda prompts, responses: np.zeros(len(responses)), 1.0, shared.config.seed)
        if control
        else shared.data.reward
    )


def table(shared: Lab, cell: Cell) -> EmpiricalCalibrator:
    """The calibration table of a cell: its own, or one made for another model or for other prompts."""
    kinds = ("own", "fresh", "stale", "rotated", "pooled")
    if cell.table not in kinds:
        raise ValueError(f"table must be one of {', '.join(kinds)}, got {cell.table!r}")
    K = cell.K or shared.config.reference_samples or 1
    drawn = FRESH_POOL if cell.table == "fresh" else K
    found = made_table(shared, drawn, cell.seed, cell.table == "stale", cell.control)
    rewards = found.reference_rewards
    if cell.table == "rotated":
        return EmpiricalCalibrator(np.roll(rewards, ROTATED, axis=0))
    if cell.table == "pooled":
        rng = np.random.default_rng(stream(cell.seed, FRESH))
        return EmpiricalCalibrator(np.tile(rng.permutation(rewards.ravel())[: 8 * K], (len(rewards), 1)))
    return found
