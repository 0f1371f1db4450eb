"""CTRL on one page: calibrate, transform, reinforce, and hold the result against theory.

    prompts -> samples -> rewards -> calibrated -> transformed -> training -> decoding -> win rate

Every stage is a function below, in that order; `align` calls them one after the other. Nothing is tuned on held-out
prompts, no run is repeated until it looks good, and one seed is called one seed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from infalign_edu import theory
from infalign_edu.calibration import EmpiricalCalibrator
from infalign_edu.inputs import shown
from infalign_edu.lm import adapters
from infalign_edu.lm.models import load
from infalign_edu.lm.policy import Policy
from infalign_edu.lm.rewards import score
from infalign_edu.memory import keep_freed_memory
from infalign_edu.procedures import procedure as named_procedure
from infalign_edu.rl import evaluation, report
from infalign_edu.rl.algorithms import algorithm
from infalign_edu.rl.config import CTRLConfig
from infalign_edu.rl.data import Data, prepare
from infalign_edu.rl.runs import Interrupted, RunFolder, Trained, TrainingFiles, interruptible
from infalign_edu.rl.trainer import Score, Scores, Trainer, stream
from infalign_edu.transforms import Standardized, Transform, standardize
from infalign_edu.transforms import transform as named_transform

APPROACHES = 5  # how often a trained policy is led on towards a KL before it counts as not led there
CALIBRATION, ADAPTERS = 4, 5  # streams of randomness; the trainer uses 0 and 1, the evaluation 2 and 3


@dataclass(frozen=True)
class Result:
    """Where a run is and what it found: `report` is the content of report.json."""

    folder: Path
    report: dict[str, Any]


@dataclass(frozen=True)
class Objective:
    """One transform with the beta it is trained at: maximise E[Phi(C)] - beta KL(pi || pi_ref)."""

    name: str
    transform: Transform
    beta: float


def align(config: CTRLConfig) -> Result:
    """Runs CTRL end to end and writes a run folder with report.json and report.html.

    Paper: calibrate, transform, KL-regularised RL (arXiv 2412.19792).
    Raises: ValueError for settings, data or a run folder that can't be used; Interrupted after Ctrl-C, when all that
    was done is on disk and `resume=True` goes on.
    """
    began = time.perf_counter()
    if not isinstance(config, CTRLConfig):
        raise ValueError(f"config must be settings such as ia.CTRLConfig(beta=0.1), got {shown(config)}")
    reference = load(config.model, device=config.device, dtype=config.dtype, max_new_tokens=config.max_new_tokens)
    config = fitted(config, reference)
    settle(config)
    reference.max_new_tokens = config.max_new_tokens or reference.max_new_tokens
    reference.model.requires_grad_(False)
    aims = [objective(config, name) for name in config.transforms]  # a KL that no beta reaches is told at once
    with RunFolder(config.out).open(config.identity(), resume=config.resume) as run:
        print(reference.describe(), config.describe(), sep="\n", flush=True)
        data = prepare(config, reference)
        calibrator = calibrate(config, run, reference, data)
        trained = [train(config, aim, run.part(aim.name), reference, data, calibrator) for aim in aims]
        explore = partial(sweep, config, reference=reference, data=data, calibrator=calibrator)
        found = evaluation.evaluate(config, trained, reference, data, explore)
        content = report.write(run.path, config, found, data, seconds=time.perf_counter() - began)
        return Result(run.path, content)


def fitted(config: CTRLConfig, reference: Policy) -> CTRLConfig:
    """The configuration with every None chosen for this model and this machine.

    Prompts are taken to be as long as responses where the update's micro-batch is fitted to the memory.
    """
    longest = config.max_new_tokens or reference.max_new_tokens
    rows = reference.rows_to_train(2 * longest)
    return config.resolved(reference.parameters, reference.device.type == "cuda", os.cpu_count() or 1, rows)


def settle(config: CTRLConfig) -> None:
    """Sets this process's threads and allocator as the configuration says."""
    torch.set_num_threads(config.threads or 1)
    if config.allocator == "keep":
        keep_freed_memory()


def calibrate(config: CTRLConfig, run: RunFolder, reference: Policy, data: Data) -> EmpiricalCalibrator:
    """C: rewards of K reference samples for every training prompt, or the table of an earlier run.

    Raises: ValueError when a table to reuse was made for other prompts or another reward.
    """
    key = data.fingerprint(reference)
    saved = run.path / "calibration.npz"
    source = Path(config.calibration) if config.calibration else saved if saved.exists() else None
    if source is not None:
        calibrator = EmpiricalCalibrator.load(source)
        if calibrator.metadata.get("key") != key:
            raise ValueError(f"calibration {str(source)!r} was made for other prompts, another reward or another model")
    else:
        K = config.reference_samples or 1
        generator = torch.Generator().manual_seed(stream(config.seed, CALIBRATION))
        rollouts = reference.sample(data.training, K, generator=generator, progress=True)
        rewards = score(data.reward, rollouts.row_prompts, rollouts.responses)
        calibrator = EmpiricalCalibrator(rewards.reshape(len(data.training), K), {"key": key})
    calibrator.save(saved)
    return calibrator


def objective(config: CTRLConfig, name: str) -> Objective:
    """Phi and beta of one transform, beta picked by theory where only a target KL is given.

    `optimal` is the procedure's own optimal transform; its beta is the one of W - beta KL(pi || pi_ref), whatever the
    scale the transform is then brought to.
    """
    spec, target = config.transforms[name], config.target_kl or 0.6
    if spec == "optimal":
        shown = named_procedure(config.procedure)
        beta = config.beta or theory.optimal_beta_for_kl(shown, target)
        phi: Transform = theory.optimum(shown, beta).transform
        if config.standardize:
            scaled = standardize(phi)
            assert isinstance(scaled, Standardized)
            phi, beta = scaled, beta / scaled.scale
        return Objective(name, phi, beta)
    phi = named_transform(spec)
    phi = standardize(phi) if config.standardize else phi
    return Objective(name, phi, config.beta or theory.beta_for_kl(phi, target))


@dataclass(frozen=True)
class CTRLScore:
    """Reward, calibrated reward and transformed reward of one training batch.

    u is clipped at 1/(2K): below every reference sample the quantile is only known to be small, and log 0 would forbid
    a response for good.
    """

    data: Data
    calibrator: EmpiricalCalibrator
    transform: Transform

    def __call__(self, indices: NDArray[np.intp], responses: list[str]) -> Scores:
        samples = len(responses) // len(indices)
        prompts = [self.data.training[i] for i in indices for _ in range(samples)]
        rewards = score(self.data.reward, prompts, responses).reshape(len(indices), samples)
        calibrated = self.calibrator.take(indices)(rewards).clip(1 / (2 * self.calibrator.K), 1.0)
        return Scores(rewards, calibrated, np.asarray(self.transform(calibrated), dtype=float))


def trainable(reference: Policy, lora_rank: int = 0, seed: int = 0) -> Policy:
    """A copy of the reference whose weights, or adapters of that rank, may move: it starts where its KL is 0."""
    if lora_rank:
        return adapters.attach(reference, lora_rank, seed=stream(seed, ADAPTERS))
    policy = reference.copy()
    policy.model.requires_grad_(True)
    return policy


def build_trainer(
    config: CTRLConfig, aim: Objective, reference: Policy, data: Data, calibrator: EmpiricalCalibrator,
    score: Score | None = None,
) -> Trainer:
    """The loop of one run, at its first step; `score` takes the place of CTRL's own stages."""
    return Trainer(
        trainable(reference, config.lora_rank or 0, config.seed),
        reference,
        data.training,
        score or CTRLScore(data, calibrator, aim.transform),
        beta=aim.beta,
        steps=config.steps or 1,
        prompts_per_step=config.prompts_per_step or 1,
        samples_per_prompt=config.samples_per_prompt or 2,
        learning_rate=config.learning_rate or 1e-3,
        adam_beta2=0.999 if config.adam_beta2 is None else config.adam_beta2,
        warmup=config.warmup or 1,
        seed=config.seed,
        micro_batch=config.micro_batch or 8,
        algorithm=algorithm(config.algorithm).told(aim.transform, calibrator.K),
    )


def train(
    config: CTRLConfig,
    aim: Objective,
    files: TrainingFiles,
    reference: Policy,
    data: Data,
    calibrator: EmpiricalCalibrator,
) -> Trained:
    """RL: one KL-regularised run from the reference, with a progress bar; a finished or stopped run is taken up.

    Raises: Interrupted after the first Ctrl-C, once the step is finished and saved.
    """
    trainer, steps = build_trainer(config, aim, reference, data, calibrator), config.steps or 1
    count = min(config.snapshots, steps)
    schedule = tuple(-(-steps * i // count) for i in range(1, count + 1))
    files.take_up(trainer)
    with interruptible() as stop, tqdm(total=steps, initial=trainer.step, desc=f"training {aim.name}") as bar:
        while trainer.step < steps:
            row = trainer.advance()
            files.append(row)
            bar.set_postfix(KL=f"{row['kl']:.3f}", u=f"{row['calibrated']:.3f}")
            bar.update()
            if trainer.step in schedule:
                files.snapshot(trainer.tensors(), trainer.step)
            if trainer.step in schedule or stop.is_set():
                files.save(trainer.tensors(), trainer.step)
            if stop.is_set() and trainer.step < steps:
                raise Interrupted(f"stopped after step {trainer.step} of {steps}; go on with --resume")
    return Trained(aim.name, aim.transform, aim.beta, files, schedule)


def sweep(
    config: CTRLConfig, run: Trained, reference: Policy, data: Data, calibrator: EmpiricalCalibrator,
    final_kl: float, kl: float,
) -> Iterator[tuple[int, Policy]]:
    """Policies on the way from a finished run's final KL to beyond `kl`: `approach`, from the run's latest state."""
    trainer = build_trainer(config, Objective(run.name, run.transform, run.beta), reference, data, calibrator)
    run.files.take_up(trainer)
    yield from approach(trainer, partial(theory.beta_for_kl, run.transform), final_kl, kl)


def approach(
    trainer: Trainer, beta_for_kl: Callable[[float], float], final_kl: float, kl: float
) -> Iterator[tuple[int, Policy]]:
    """Leads a trained policy from its KL to beyond `kl`: a few steps each at a beta that theory picks.

    Two runs are compared between policies that are both trained to the end, never on snapshots from a run's youth.
    """
    beyond = max(0.02, 2 * kl - final_kl + np.copysign(0.05, kl - final_kl))
    there = beta_for_kl(beyond)
    scaled = trainer.beta * there / beta_for_kl(max(final_kl, 1e-6))
    trainer.beta = max(there, scaled) if kl < final_kl else min(there, scaled)  # a short run is far from its own beta
    for _ in range(APPROACHES):
        for _ in range(max(4, -(-trainer.steps // 12))):
            trainer.advance()
        yield trainer.step, trainer.policy
