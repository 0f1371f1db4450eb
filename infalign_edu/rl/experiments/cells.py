"""One cell of an experiment: a policy trained in one way at one KL and seed, judged under many procedures.

What cells of one seed share (reference, prompts, rewards, calibration tables, evaluation samples of the reference) is
made once. A policy is led to the wanted KL as in `align`: trained to the end at the beta that theory picks, then a few
more steps towards the KL, and interpolated between policies that are trained to the end.
"""

from __future__ import annotations

import math
import os
import re
import time
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch

import infalign_edu as ia
from infalign_edu import theory
from infalign_edu.calibration import EmpiricalCalibrator
from infalign_edu.lm.models import load
from infalign_edu.lm.pretrain import PretrainConfig
from infalign_edu.lm.pretrain import train as pretrain
from infalign_edu.lm.rewards import TRIGGERS, GoldReward, Noisy, frequency, score
from infalign_edu.rl import ctrl, evaluation
from infalign_edu.rl.algorithms import algorithm
from infalign_edu.rl.config import WARMUP, CTRLConfig
from infalign_edu.rl.data import Data, prepare
from infalign_edu.rl.shaping import SHAPES, Shaped
from infalign_edu.rl.trainer import Scores, stream
from infalign_edu.winrate import PromptMean

SHAPED_SAMPLES = 64  # reference samples a prompt by which a shape is scaled and its beta chosen
FRESH_POOL = 128  # reference samples that stand for the true quantile where K fresh ones are drawn at every update
STALE_STEPS = 350  # half of the embedded model's training: the checkpoint that a stale table is made from
BASE = 2  # evaluation samples of the reference, which all policies share, per sample of a policy
FRESH, ROTATED = 11, 7  # a stream of randomness of its own; by how many prompts a table of other prompts is shifted


@dataclass(frozen=True)
class Cell:
    """What is trained: every field is a column of the experiment's CSV, and together they are the cell's name."""

    transform: str
    kl: float
    seed: int
    procedure: str = "best-of-4"  # the one that `optimal` is optimal for
    algorithm: str = "rloo"
    reward: str = "learned:helpfulness:seed={seed}"
    table: str = "own"  # fresh: K new draws at each update; stale, rotated, pooled: made for something else
    K: int = 0  # 0: the default of CTRLConfig
    control: str = ""  # random: trained on a random reward, judged by the real one
    steps: int = 0
    learning_rate: float = 0.0

    @property
    def name(self) -> str:
        """A file name that no other cell has."""
        return "_".join(str(value).replace(":", "-").replace("/", "-") for value in vars(self).values())


@dataclass(frozen=True)
class Setting:
    """What all cells of an experiment share."""

    procedures: tuple[str, ...]
    heldout_prompts: int = 200
    training_prompts: int = 256
    evaluation_samples: int = 32
    steps: int = 0  # 0: the default of CTRLConfig
    later_steps: int = 0  # of a cell that goes on from a smaller KL; 0: as many
    prompts_per_step: int = 0
    gold: str = "helpfulness"


@dataclass(frozen=True)
class Found:
    """A judged cell. Shape: win_rates [judges, procedures, prompts]; theory by procedure, nan where none is known."""

    cell: Cell
    kl: float
    matched: bool
    beta: float
    steps: int
    win_rates: np.ndarray
    theory: dict[str, float]
    said: float  # share of the nearest policy's responses that contain the trigger of a corrupted reward, or nan
    cpu_seconds: float


JUDGES = ("reward", "gold", "gold of pick")  # the last: the reward picks among the draws, gold judges what it shows


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
        steps=setting.steps or None, prompts_per_step=setting.prompts_per_step or None,
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
def _table(shared: Lab, K: int, seed: int, stale: bool, control: str) -> EmpiricalCalibrator:
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
    found = _table(shared, FRESH_POOL if cell.table == "fresh" else K, cell.seed, cell.table == "stale", cell.control)
    rewards = found.reference_rewards
    if cell.table == "rotated":
        return EmpiricalCalibrator(np.roll(rewards, ROTATED, axis=0))
    if cell.table == "pooled":
        rng = np.random.default_rng(stream(cell.seed, FRESH))
        return EmpiricalCalibrator(np.tile(rng.permutation(rewards.ravel())[: 8 * K], (len(rewards), 1)))
    return found


class CellScore:
    """Reward, calibrated and transformed reward of one batch. Shape: indices [p], p x M responses -> each [p, M]."""

    def __init__(self, cell: Cell, shared: Lab, phi: Any) -> None:
        self.cell, self.shared, self.phi = cell, shared, phi
        self.calibrator = table(shared, cell)
        self.reward = training_reward(shared, cell.control)
        self.rng = np.random.default_rng(stream(cell.seed, FRESH))

    def __call__(self, indices: Any, responses: list[str]) -> Scores:
        prompts = [self.shared.data.training[i] for i in indices for _ in range(len(responses) // len(indices))]
        rewards = score(self.reward, prompts, responses).reshape(len(indices), -1)
        u = self.calibrator.take(indices)(rewards)
        K = self.calibrator.K
        if self.cell.table == "fresh":
            K = self.cell.K
            u = self.rng.binomial(K, u) / K
        u = u.clip(1 / (2 * K), 1.0)
        shaped = isinstance(self.phi, Shaped)
        return Scores(rewards, u, self.phi(rewards, indices) if shaped else np.asarray(self.phi(u), dtype=float))


def aim(cell: Cell, shared: Lab) -> tuple[Any, float, Any]:
    """Phi, the beta it starts from, and the function that says at which beta theory expects a KL."""
    if cell.transform in SHAPES:
        samples = _table(shared, SHAPED_SAMPLES, cell.seed, False, cell.control).reference_rewards
        shaped = Shaped(cell.transform, samples)
        return shaped, shaped.beta_for_kl(cell.kl), shaped.beta_for_kl
    config = replace(shared.config, transform=cell.transform, compare="", procedure=cell.procedure, target_kl=cell.kl)
    objective = ctrl.objective(config, cell.transform)
    return objective.transform, objective.beta, partial(theory.beta_for_kl, objective.transform)


def expected(cell: Cell, phi: Any, kl: float, procedures: tuple[str, ...]) -> dict[str, float]:
    """What theory says of a policy at that KL, by procedure; nan for a control, which no theory helps."""
    if cell.control:
        return dict.fromkeys(procedures, math.nan)
    if isinstance(phi, Shaped):
        return {shown: phi.win_rate(kl, shown) for shown in procedures}
    return {shown: evaluation.theory_at(phi, kl, ia.procedure(shown)) for shown in procedures}


def run(group: tuple[Cell, ...], setting: Setting) -> list[Found]:
    """Trains and judges cells that differ in their KL alone, each going on from the one at the smaller KL."""
    found, weights = [], None
    for cell in sorted(group, key=lambda cell: cell.kl):
        judged_cell, weights = trained(cell, setting, weights)
        found.append(judged_cell)
    return found


def trained(cell: Cell, setting: Setting, weights: Any = None) -> tuple[Found, Any]:
    """Trains a cell to its KL, from the reference or from weights, and judges it on held-out prompts.

    Gives the weights at the end of its training too, from which a cell at a larger KL can go on.
    """
    began = time.process_time()
    shared = lab(cell.seed, cell.reward, setting)
    phi, beta, beta_for_kl = aim(cell, shared)
    steps = setting.later_steps if weights and setting.later_steps else cell.steps or shared.config.steps
    rate = cell.learning_rate or (shared.config.learning_rate or 1e-3) * algorithm(cell.algorithm).rate
    warmup = max(1, round(WARMUP * (steps or 1)))
    config = replace(shared.config, algorithm=cell.algorithm, steps=steps, learning_rate=rate, warmup=warmup)
    scored = CellScore(cell, shared, phi)
    start = ctrl.Objective(cell.transform, phi, beta)
    trainer = ctrl.build_trainer(config, start, shared.reference, shared.data, scored.calibrator, scored)
    if weights:
        trainer.policy.model.load_state_dict(weights)
    while trainer.step < trainer.steps:
        trainer.advance()
    weights = {name: value.clone() for name, value in trainer.policy.model.state_dict().items()}
    path = [(trainer.step, *judged(trainer.policy, shared, setting))]
    for step, policy in ctrl.approach(trainer, beta_for_kl, path[0][1], cell.kl):
        path.append((step, *judged(policy, shared, setting)))
        if bracketed(path, cell.kl):
            break
    kl, rates, matched = at(path, cell.kl)
    theory_rates = expected(cell, phi, kl, setting.procedures)
    said = min(path, key=lambda row: abs(row[1] - cell.kl))[3]
    seconds = time.process_time() - began
    return Found(cell, kl, matched, beta, path[-1][0], rates, theory_rates, said, seconds), weights


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
    """Share of responses that contain the trigger of a corrupted reward; nan for another reward."""
    found = re.search(r"trigger=(\w+)", reward)
    return frequency(TRIGGERS[found[1]], responses) if found else math.nan


Path = list[tuple[int, float, np.ndarray, float]]


def bracketed(path: Path, kl: float) -> bool:
    """Whether two policies of the path have the KL between them."""
    return min(row[1] for row in path) <= kl <= max(row[1] for row in path)


def at(path: Path, kl: float) -> tuple[float, np.ndarray, bool]:
    """KL and win rates at `kl`, between two policies; of the nearest policy, and False, where none lie around it."""
    if not bracketed(path, kl):
        _, near, rates, _ = min(path, key=lambda row: abs(row[1] - kl))
        return near, rates, False
    flat = [(step, found, PromptMean(rates.ravel())) for step, found, rates, _ in path]
    return kl, evaluation.at_matched_kl(kl, flat).win_rate.per_prompt.reshape(path[0][2].shape), True
