"""Trained policies under decoders that look inside a response: blockwise controlled decoding and tree search.

    python experiments/decoders.py [--quick] [--seeds 0]

Trains raw, identity and exp:10 to a KL of about 0.6, learns a value of prefixes from reference samples, and estimates
each policy's inference-time win rate against the reference under the same decoder. Writes data/runs/decoders.csv, anew
after each seed; a seed that is there is not run again. --quick trains for a third of the steps, on 60 prompts with 8
outputs, and writes to runs/quick: it shows that every decoder gains, not which policy gains most.
"""

from __future__ import annotations

import argparse
import csv
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from infalign_edu.lm.decoding import Blockwise, LearnedValue, Ranked, TreeSearch, judge_decoders
from infalign_edu.lm.rewards import GoldReward
from infalign_edu.rl import evaluation
from infalign_edu.rl.experiments import cells
from infalign_edu.rl.experiments.runner import commit, write

ROOT = Path(__file__).parents[1]
TRANSFORMS, KL = ("raw", "identity", "exp:10"), 0.6
FULL = cells.Setting(procedures=("standard", "best-of-4"), steps=140, prompts_per_step=8, training_prompts=128,
                     heldout_prompts=120, evaluation_samples=24)  # fmt: skip
QUICK = replace(FULL, steps=48, heldout_prompts=60, training_prompts=64, evaluation_samples=16)


def run(seed: int, setting: cells.Setting, outputs: int, command: str) -> list[dict[str, Any]]:
    """Every policy under every decoder, on one seed."""
    shared = cells.lab(seed, cells.Cell.reward, setting)
    policies: dict[str, Any] = {}
    for transform in tqdm(TRANSFORMS, desc=f"seed {seed}"):
        _, weights = cells.trained(cells.Cell(transform, KL, seed), setting)
        policies[transform] = shared.reference.copy()
        policies[transform].model.load_state_dict(weights)
    reward = shared.data.reward
    value = LearnedValue.fit(shared.reference, reward, shared.data.training, seed=seed)
    decoders = [
        Ranked("standard", reward), Ranked("best-of-4", reward), Blockwise(value, block=4, draws=4),
        Blockwise(value, block=8, draws=4), TreeSearch(value),
    ]  # fmt: skip
    prompts = shared.data.heldout
    kl = {
        name: evaluation.draw(policy, shared.reference, reward, prompts, 8, seed).kl.mean
        for name, policy in policies.items()
    }
    judges = {"reward": reward, "gold": GoldReward(setting.gold)}
    judged = judge_decoders(policies, decoders, shared.reference, judges, prompts, samples=outputs, seed=seed)
    about = {"seed": seed, "value_r2": value.report()["r2"], "commit": commit(), "command": command}
    return [rounded(one.row() | {"kl": kl[one.policy]} | about) for one in judged]


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    """Numbers with four digits."""
    return {name: f"{value:.4f}" if isinstance(value, float) else value for name, value in row.items()}


def main() -> None:
    """Runs the seeds that the table does not have yet."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--quick", action="store_true", help="the small form, in about three minutes")
    options.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    asked = options.parse_args()
    out = (ROOT / "runs" / "quick" if asked.quick else ROOT / "data" / "runs") / "decoders.csv"
    out.parent.mkdir(parents=True, exist_ok=True)
    command = "python experiments/decoders.py" + " --quick" * asked.quick
    for seed in asked.seeds:
        done = list(csv.DictReader(out.read_text(encoding="utf-8").splitlines())) if out.exists() else []
        if any(row["seed"] == str(seed) for row in done):
            continue
        began = time.process_time()
        rows = run(seed, QUICK if asked.quick else FULL, 8 if asked.quick else 16, command)
        write(out, [*done, *rows])
        print(f"seed {seed}: {time.process_time() - began:.0f} CPU seconds")


if __name__ == "__main__":
    main()
