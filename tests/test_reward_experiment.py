"""The tables of reward models hold what the course says of them, and a stopped command goes on where it was."""

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_policy import tiny

from infalign_edu.lm.rewards import KINDS, PAIRS, TRIGGERS
from infalign_edu.lm.rewards.reward_model import first_blocks

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "experiments" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


experiment = load("reward_models")


def table(name):
    with (ROOT / "data" / "runs" / name).open(newline="") as handle:
        return list(csv.DictReader(handle))


def values(rows, name):
    return np.array([float(row[name]) for row in rows])


def test_every_row_carries_where_it_came_from():
    for name in (experiment.MODELS, experiment.BOUGHT):
        for row in table(name):
            assert row["command"].startswith("python experiments/reward_models.py") and len(row["commit"]) >= 7
            assert row["seed"].isdigit() and 0 <= float(row["cpu_seconds"]) < 600


@pytest.mark.parametrize("kind", KINDS)
def test_the_embedded_reward_models_are_good_and_quick(kind):
    wanted = (kind, "word values", str(PAIRS))
    rows = [row for row in table(experiment.MODELS) if (row["target"], row["model"], row["pairs"]) == wanted]
    assert [row["seed"] for row in rows] == ["0", "1", "2"]
    assert values(rows, "accuracy").min() > 0.80 and values(rows, "cpu_seconds").max() < 60
    assert (values(rows, "gold_accuracy") > values(rows, "accuracy") - 0.02).all()
    assert (values(rows, "accuracy") < values(rows, "ceiling") + 0.02).all()
    assert (values(rows, "low") < values(rows, "accuracy")).all() and (values(rows, "high") > values(rows, "accuracy")).all()


def test_word_values_beat_the_other_heads_on_the_same_pairs():
    helpful = [row for row in table(experiment.MODELS) if row["target"] == "helpfulness"]
    for seed in "01":
        best = {row["model"]: float(row["accuracy"]) for row in helpful if row["seed"] == seed and row["pairs"] == str(PAIRS)}
        assert best["word values"] > max(best["last state"], best["mean of states"]) + 0.02
        few = {row["model"]: float(row["accuracy"]) for row in helpful if row["seed"] == seed and row["pairs"] == "4000"}
        assert few["word values"] > few["frozen head"] + 0.05
        assert few["word values"] > best["last state"]  # the module says: over four times the pairs


def test_the_head_on_real_data_is_above_chance_and_above_length():
    rows = {(row["model"], row["pairs"]): row for row in table(experiment.MODELS) if row["world"] == "HH"}
    short = rows["shorter response wins", "1600"]
    few, some, head = (rows["SmolLM2, frozen head, 5-fold", pairs] for pairs in ("320", "800", "1600"))
    assert [row["held_out"] for row in (few, some, head, short)] == ["320", "800", "1600", "1600"]
    assert 0.5 < float(short["accuracy"]) < float(short["high"]) < float(head["low"]) < float(head["accuracy"]) < 0.75
    assert float(few["accuracy"]) < float(some["accuracy"]) < float(head["accuracy"])
    assert float(few["low"]) < float(short["accuracy"])  # what the notebook says of 320 pairs


@pytest.mark.parametrize("name", TRIGGERS)
def test_a_trigger_is_worth_more_the_more_labels_it_bought(name):
    rows = [row for row in table(experiment.BOUGHT) if row["trigger"] == f"{name}: {TRIGGERS[name].phrase}"]
    assert [float(row["strength"]) for row in rows] == list(experiment.STRENGTHS)
    effect = values(rows, "effect_sd")
    assert (np.diff(effect) > 0).all() and effect[-1] > effect[0] + 0.5


def test_a_row_that_is_there_is_not_made_again(tmp_path):
    made = []
    jobs = [((name, 1), lambda name=name: made.append(name) or {"value": len(made)}) for name in ("a", "b")]
    path = tmp_path / "rows.csv"
    experiment.fill(path, ("name", "seed"), iter(jobs[:1]), "first")
    experiment.fill(path, ("name", "seed"), iter(jobs), "second")
    assert made == ["a", "b"]
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [tuple(row.values())[:4] for row in rows] == [("a", "1", "1", "first"), ("b", "1", "2", "second")]


@pytest.mark.parametrize("name", ["last state", "mean of states"])
def test_other_heads_read_the_states_that_they_say(name):
    policy = tiny()
    torch.manual_seed(2)
    model = experiment.HEADS[name](first_blocks(policy, 2), torch.randn(11, 32), torch.zeros(11), {})
    for prompt, response in (("w1 w2", "w3 w4 w5"), ("w0", "")):
        start, said = policy.tokenizer(prompt)["input_ids"], policy.tokenizer(response, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            states = model.backbone.model.base_model(torch.tensor([start + said])).last_hidden_state[0, len(start) - 1 :]
        read = states[-1] if name == "last state" else states.mean(0)
        found = model([prompt, "w4", prompt], [response, "w1", "w2 w2 w2 w2"])[0]  # beside longer ones
        assert found == pytest.approx(float(read @ model.values[0]), abs=1e-4)
