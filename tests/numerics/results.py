"""A hash of everything that a seed decides; run as a script it prints them, for a process to be held against another."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

import infalign_edu as ia
from infalign_edu import theory


def of(*values: Any) -> str:
    """A hash of arrays by their bytes and of everything else by its repr."""
    found = hashlib.sha256()
    for value in values:
        array = value.detach().cpu().numpy() if hasattr(value, "detach") else value
        found.update(np.ascontiguousarray(array).tobytes() if isinstance(array, np.ndarray) else repr(array).encode())
    return found.hexdigest()[:16]


def hashes(quick: bool = False, seed: int = 0) -> dict[str, str]:
    """Name and hash of each result; `quick` leaves out what takes a second."""
    from infalign_edu.lm import decoding, rewards
    from infalign_edu.lm.datasets import load_preferences, split
    from infalign_edu.lm.models import load
    from infalign_edu.rl import toy

    policy, rng = load("embedded"), np.random.default_rng(seed)
    gold = rewards.GoldReward("helpfulness")
    prompts = gold.prompts[0][:6]
    drawn = policy.sample(prompts, 8, seed=seed)
    table = rewards.Noisy(gold, 0.1, seed)(drawn.row_prompts, drawn.responses).reshape(6, 8)
    C = ia.EmpiricalCalibrator(table[:, :4])
    world = toy.ToyWorld(words=3, length=3, seed=seed)
    trainer = world.trainer(world.target("exp:10"), "transformer", steps=4, samples_per_prompt=32, seed=seed)
    steps = [{k: v for k, v in trainer.advance().items() if k != "seconds"} for _ in range(2)]
    shown = decoding.decode(policy, gold, "best-of-4", prompts[:3], seed)
    tree = decoding.TreeSearch(lambda p, r: [len(text) for text in r], width=2, draws=2).draw(policy, prompts[:2], 1, seed=seed)
    found = {
        "sampled tokens": of(drawn.tokens, drawn.responses), "log-probabilities": of(policy.logprobs(drawn)), "rewards": of(table),
        "calibrated": of(C(table[:, 4:]), C.randomized(table[:, 4:], rng)), "win rate": of(ia.win_rate(table[:, :4], table[:, 4:], "best-of-3").per_prompt),
        "trained": of(steps, *trainer.tensors().values()), "best of 4": of(shown.responses, shown.rewards), "tree search": of(tree.responses, tree.drawn),
        "select": of(ia.BestOfN(4).select(np.zeros((50, 4)), rng)), "split": of(split(prompts, [0.5, 0.5], seed)), "world": of(world.problem.reward),
        "labels": of(rewards.corrupt(load_preferences("embedded")[:500], rewards.TRIGGERS["present"], 0.5, seed=seed)),
    }  # fmt: skip
    if not quick:
        best = theory.optimum("worst-of-4", 0.3)
        found |= {
            "tilted": of(theory.tilt(ia.Exponential(10.0), 0.3).kl, theory.tilt(ia.Log(), 0.3).win_rate("best-of-4")),
            "optimum": of(best.win_rate, best.kl, best.residual, best.transform(np.linspace(0, 1, 99))),
            "frontier": of(theory.optimal_frontier("best-of-4", np.geomspace(1e-3, 1e3, 50)).kl),
            "enumerated": of(world.problem.infalign("worst-of-8", 0.1).policy),
        }
    return found


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    print(*(f"{name}: {value}" for name, value in hashes().items()), sep="\n")
