"""How close training comes to the theoretical curve, and what the missing part is made of: one change at a time.

    python experiments/reach.py [--only default ...] [--seed 0]

Writes data/runs/reach.csv, a row a variant: exp:10 for best-of-4 at a target KL of 0.6, judged on held-out and on
training prompts against 300 reference samples each, so that the judge's own noise stays below half a point. The lift
share is (W - 1/2) / (W_theory(KL) - 1/2); beside it the share of the mean of W_theory(KL_x), which takes out what the
spread of KL over prompts costs. What is missing is split in two: lost_unseen, the lift that theory gives for the KL
that was spent on differences which the reward does not see, and lost_shape, the rest: the KL that it does see is not
spent as theory would. Each change is made to a short run, of 320 steps and K = 48; "default" is CTRLConfig's own,
longer one. Variants that are in the file already are not run again. Each takes 2 to 7 CPU minutes.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import infalign_edu as ia
from infalign_edu import atomic
from infalign_edu.calibration import EmpiricalCalibrator, reward_kl
from infalign_edu.lm.models import load
from infalign_edu.lm.pretrain import PretrainConfig
from infalign_edu.lm.pretrain import train as pretrain
from infalign_edu.lm.rewards import score
from infalign_edu.rl import ctrl, evaluation
from infalign_edu.rl.config import CTRLConfig
from infalign_edu.rl.data import Data, prepare
from infalign_edu.rl.experiments.lab import SHORT_RUNS
from infalign_edu.rl.experiments.runner import commit
from infalign_edu.rl.trainer import Trainer, stream

OUT = Path(__file__).parents[1] / "data" / "runs" / "reach.csv"
KEPT = Path(__file__).parents[1] / "runs" / "reach"
SHOWN, TRANSFORM, PROMPTS, SAMPLES, REFERENCE_SAMPLES = "best-of-4", "exp:10", 200, 48, 300
SHORT = {"steps": 320} | SHORT_RUNS
VARIANTS: dict[str, dict[str, Any]] = {
    "320 steps": {},
    "identity": {"transform": "identity"},
    "exp:3": {"transform": "exp:3"},
    "no label noise": {"reward_noise": 0.0},
    "Adam's beta2 .95": {"adam_beta2": 0.95},
    "K = 128": {"reference_samples": 128},
    "560 steps": {"steps": 560},
    "beta from below": {"anneal": -0.4},
    "learned reward": {"reward": "learned:helpfulness"},
    "4 layers of 128": {"pretrain": {"layers": 4, "width": 128}},
    "1200 steps, K = 128": {"steps": 1200, "reference_samples": 128},
    "default": {"steps": None, "reference_samples": None, "adam_beta2": None},
    "all together": {"steps": 1200, "reference_samples": 128, "reward_noise": 0.0, "adam_beta2": 0.95},
}


def model(shape: dict[str, int]) -> str:
    """The embedded model, or one of another shape on the same data, kept in runs/reach."""
    if not shape:
        return "embedded"
    folder = KEPT / "-".join(f"{name}-{value}" for name, value in shape.items())
    if not folder.exists():
        pretrain(PretrainConfig(**shape))[0].save(folder)
    return str(folder)


def reference_rewards(name: str, reference: Any, data: Data, prompts: list[str]) -> np.ndarray:
    """Rewards of the reference's samples that every variant is judged against, kept in runs/reach. Shape: [P, 300]."""
    key = hashlib.sha256((name + data.fingerprint(reference)).encode()).hexdigest()[:16]
    kept = KEPT / f"{key}.npz"
    if not kept.exists():
        rollouts = reference.sample(prompts, REFERENCE_SAMPLES, seed=77)
        rewards = score(data.reward, rollouts.row_prompts, rollouts.responses).reshape(len(prompts), -1)
        kept.parent.mkdir(parents=True, exist_ok=True)
        with atomic.replacing(kept) as part, part.open("wb") as file:
            np.savez(file, rewards=rewards)
    with np.load(kept, allow_pickle=False) as saved:
        return saved["rewards"]


def judged(trainer: Trainer, reference: Any, data: Data, aim: ctrl.Objective, seed: int) -> dict[str, float]:
    """Lift of a trained policy on held-out and on training prompts."""
    found: dict[str, float] = {}
    shown = ia.procedure(SHOWN)
    for name, prompts in (("heldout", data.heldout[:PROMPTS]), ("training", data.training[:PROMPTS])):
        base = reference_rewards(name, reference, data, prompts)
        samples = evaluation.draw(trainer.policy, reference, data.reward, prompts, SAMPLES, 1000 + seed)
        rate = ia.win_rate(samples.rewards, base, shown)
        theory = evaluation.theory_at(aim.transform, samples.kl.mean, shown)
        seen = reward_kl(EmpiricalCalibrator(base)(samples.rewards))
        unseen = theory - evaluation.theory_at(aim.transform, seen, shown)
        spread = np.mean([evaluation.theory_at(aim.transform, kl, shown) for kl in samples.kl.per_prompt])
        found |= {
            f"{name}_kl": samples.kl.mean, f"{name}_kl_sd": float(samples.kl.per_prompt.std()),
            f"{name}_win_rate": rate.mean, f"{name}_stderr": rate.stderr, f"{name}_theory": theory,
            f"{name}_lift_share": (rate.mean - 0.5) / (theory - 0.5),
            f"{name}_lift_share_of_prompts": (rate.mean - 0.5) / (float(spread) - 0.5),
            f"{name}_reward_kl": seen, f"{name}_lost_unseen": unseen / (theory - 0.5),
            f"{name}_lost_shape": (theory - unseen - rate.mean) / (theory - 0.5),
        }  # fmt: skip
    return found


def run(name: str, seed: int) -> dict[str, Any]:
    """Trains one variant and judges it."""
    began, changes = time.process_time(), SHORT | VARIANTS[name]
    anneal = changes.pop("anneal", 0.0)
    transform, named = changes.pop("transform", TRANSFORM), model(changes.pop("pretrain", {}))
    reference = load(named)
    config = CTRLConfig(seed=seed, model=named, transform=transform, **changes).resolved(reference.parameters, False, 1)
    torch.set_num_threads(1)
    reference.model.requires_grad_(False)
    data = prepare(config, reference)
    generator = torch.Generator().manual_seed(stream(seed, ctrl.CALIBRATION))
    K = config.reference_samples or 1
    rollouts = reference.sample(data.training, K, generator=generator)
    calibrator = EmpiricalCalibrator(score(data.reward, rollouts.row_prompts, rollouts.responses).reshape(-1, K))
    aim = ctrl.objective(config, transform)
    trainer = ctrl.build_trainer(replace(config), aim, reference, data, calibrator)
    most = 0.0
    for step in tqdm(range(trainer.steps), desc=name):
        trainer.beta = aim.beta * (1 + anneal * max(0.0, 1 - 2 * step / trainer.steps))
        most = max(most, trainer.advance()["kl"])
    rows = judged(trainer, reference, data, aim, seed)
    about = {"variant": name, "transform": transform, "seed": seed, "steps": trainer.steps, "highest_kl": most}
    numbers = {key: value if isinstance(value, (str, int)) else f"{value:.4f}" for key, value in (about | rows).items()}
    command = f"python experiments/reach.py --only {name!r}" + (f" --seed {seed}" if seed else "")
    return numbers | {"cpu_seconds": round(time.process_time() - began, 1), "commit": commit(), "command": command}


def main() -> None:
    """Runs the variants that the table does not have yet."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    options.add_argument("--only", nargs="*", choices=list(VARIANTS), help="only these variants")
    options.add_argument("--seed", type=int, default=0)
    asked = options.parse_args()
    for name in asked.only or VARIANTS:
        done = list(csv.DictReader(OUT.read_text().splitlines())) if OUT.exists() else []
        if any((row["variant"], row["seed"]) == (name, str(asked.seed)) for row in done):
            continue
        table = [*done, run(name, asked.seed)]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
        atomic.write_text(OUT, text.getvalue())


if __name__ == "__main__":
    main()
