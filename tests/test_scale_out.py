"""The table of TRL's own trainers says what notebook 13 says of it, and its theory columns are those of the code."""

import csv
import importlib.util
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
import trl_world as world

from infalign_edu.rl.tables import Tables
from infalign_edu.rl.trl_reward import CTRLReward

ROOT = Path(__file__).parents[1]
PINS = (ROOT / "requirements.txt").read_text().splitlines()
ROWS = list(csv.DictReader((ROOT / "data" / "runs" / "trl.csv").open(encoding="utf-8")))
TRANSFORMS = ("identity", "exp:10")


def load():
    spec = importlib.util.spec_from_file_location("scale_out", ROOT / "experiments" / "scale_out.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


scale_out = load()


def last(column, **where):
    """The column at the last step, of the rows with these values."""
    end = max(int(row["step"]) for row in ROWS)
    found = [row for row in ROWS if int(row["step"]) == end and all(row[k] == v for k, v in where.items())]
    return np.array([float(row[column]) for row in found])


def test_every_trainer_ran_with_every_transform_seed_and_prompt():
    runs = {(row["trainer"], row["transform"], row["seed"], row["prompt"]) for row in ROWS}
    assert len(runs) == len(scale_out.TRAINERS) * 2 * 3 * 3 and tuple(ROWS[0]) == scale_out.COLUMNS
    assert len(ROWS) == len(runs) * (150 // scale_out.EVERY + 1)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_rloo_reaches_the_optimum_and_grpo_ends_beside_it(transform):
    rloo = last("tv_to_optimum", trainer="RLOO", transform=transform)
    assert rloo.max() < 0.04 and len(rloo) == 9
    for trainer in ("GRPO", "GRPO without scaling"):
        assert last("tv_to_optimum", trainer=trainer, transform=transform).mean() > 3 * rloo.mean()
        if (trainer, transform) != ("GRPO", "identity"):
            where = {"trainer": trainer, "transform": transform}
            assert np.all(last("tv_to_claimed", **where) < last("tv_to_optimum", **where))


def test_scaled_grpo_on_identity_ends_with_one_response_a_prompt():
    where = {"trainer": "GRPO", "transform": "identity"}
    assert last("largest", **where).min() > 0.99
    assert [set(last("better", prompt=prompt, **where)) for prompt in world.PROMPTS] == [{0.0}, {0.0}, {3.0}]


@pytest.mark.skipif(f"transformers=={version('transformers')}" not in PINS, reason="another release draws other weights")
def test_its_theory_columns_are_computed_by_the_code_of_today(tmp_path):
    torch.set_num_threads(1)
    policy = world.policy(world.write(tmp_path / "model"))
    tables = Tables.make(policy, world.PROMPTS, world.reward, samples=world.K)
    columns = ("step", "prompt", "kl", "kl_optimum", "kl_claimed", "tv_to_optimum", "tv_claimed_to_optimum", "largest", "better")
    for transform in TRANSFORMS:
        ctrl = CTRLReward(tables, world.reward, transform=transform, target_kl=0.5)
        for trainer in scale_out.TRAINERS:
            judge = scale_out.Judge(ctrl, policy.model, trainer)
            judge.judge(policy.model, 0)
            saved = [row for row in ROWS if (row["trainer"], row["transform"], row["seed"], row["step"]) == (trainer, transform, "0", "0")]
            for now, then in zip(judge.rows, saved, strict=True):
                assert now["prompt"] == then["prompt"]
                assert [now[c] for c in columns[2:]] == pytest.approx([float(then[c]) for c in columns[2:]], abs=2e-4), trainer
