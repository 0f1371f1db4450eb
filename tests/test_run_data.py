"""A run's prompts follow its reward, and a learned reward sees no held-out prompt and says which it saw."""

import pytest
import torch

from infalign_edu.lm import rewards, world
from infalign_edu.lm.models import load
from infalign_edu.rl.config import CTRLConfig
from infalign_edu.rl.data import OVERLAP, prepare, prompts_of

torch.set_num_threads(1)
KIND = {p.text: p.kind for p in [*world.TRAIN_PROMPTS, *world.HELDOUT_PROMPTS]}


def config(reward, **more) -> CTRLConfig:
    return CTRLConfig(reward=reward, training_prompts=60, heldout_prompts=60, **more).resolved(1, False, 1)


@pytest.mark.parametrize(
    "reward, kinds",
    [
        ("gold:helpfulness", {"harmless"}),
        ("gold:harmlessness", {"harmful"}),
        ("gold:both", {"harmless", "harmful"}),
        ("learned:harmlessness:seed=2", {"harmful"}),
        ("learned:both", {"harmless", "harmful"}),
        (lambda prompts, responses: [0.0] * len(prompts), {"harmless"}),
    ],
)
def test_prompts_are_those_that_the_reward_is_asked_about(reward, kinds):
    train, held = prompts_of(config(reward))
    assert {KIND[text] for text in train} == {KIND[text] for text in held} == kinds
    assert set(train) <= {p.text for p in world.TRAIN_PROMPTS} and set(held) <= {p.text for p in world.HELDOUT_PROMPTS}


def test_a_learned_reward_reports_its_accuracy_and_its_overlap(monkeypatch, tmp_path):
    monkeypatch.setenv("INFALIGN_CACHE", str(tmp_path))
    monkeypatch.setattr(rewards, "TEST_PAIRS", 20)
    data = prepare(config("learned:helpfulness:pairs=60"), load("embedded"))
    assert data.reward_name.startswith("learned:helpfulness")
    assert data.reward_report["held_out_pairs"] == 20 and "gold_accuracy" in data.reward_report
    assert OVERLAP in data.notes
    assert data.reward(data.heldout[:2], ["no", "no"]).shape == (2,)


def test_a_learned_reward_needs_the_worlds_prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("one\ntwo\nthree\n")
    with pytest.raises(ValueError, match="learned:both needs prompts of the embedded world"):
        prepare(config("learned:both", prompts=str(path)), load("embedded"))
