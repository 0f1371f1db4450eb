"""One cell of an experiment: a policy trained in one way at one KL and seed, judged under many procedures.

A policy is led to the wanted KL as in `align`: trained to the end at the beta that theory picks, then a few more steps
towards the KL, and interpolated between policies that are trained to the end. What is trained stands in `design`, what
cells share in `lab`, how they are judged in `judging`; their names can be taken from here.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from infalign_edu import theory
from infalign_edu.lm.rewards import score
from infalign_edu.rl import ctrl
from infalign_edu.rl.algorithms import algorithm
from infalign_edu.rl.config import WARMUP
from infalign_edu.rl.experiments.design import JUDGES, Cell, Found, Setting
from infalign_edu.rl.experiments.judging import at, bracketed, expected, judged, trigger_share
from infalign_edu.rl.experiments.lab import FRESH, Lab, gold, lab, made_table, table, training_reward
from infalign_edu.rl.shaping import SHAPES, Shaped
from infalign_edu.rl.trainer import Scores, stream

__all__ = ["JUDGES", "Cell", "CellScore", "Found", "Lab", "Setting", "aim", "at", "bracketed", "expected", "gold",
           "judged", "lab", "run", "table", "trained", "training_reward", "trigger_share"]  # fmt: skip

SHAPED_SAMPLES = 64  # reference samples a prompt by which a shape is scaled and its beta chosen


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
        samples = made_table(shared, SHAPED_SAMPLES, cell.seed, False, cell.control).reference_rewards
        shaped = Shaped(cell.transform, samples)
        return shaped, shaped.beta_for_kl(cell.kl), shaped.beta_for_kl
    config = replace(shared.config, transform=cell.transform, compare="", procedure=cell.procedure, target_kl=cell.kl)
    objective = ctrl.objective(config, cell.transform)
    return objective.transform, objective.beta, partial(theory.beta_for_kl, objective.transform)


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
