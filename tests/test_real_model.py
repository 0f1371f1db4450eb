"""The real-model experiment on a tiny Llama through the same code: slices, rows, what it says of itself."""

import csv
import importlib.util
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_slices import Clock
from tiny_llama import WORDS, tiny_llama

import infalign_edu.rl.config
from infalign_edu.rl.config import CTRLConfig

pytest.importorskip("peft")
ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "data" / "runs" / "real_model_quick.csv"


@pytest.fixture(scope="module")
def experiment():
    spec = importlib.util.spec_from_file_location("real_model", ROOT / "experiments" / "real_model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a model and pairs, in which even a tiny model counts as a large one."""
    monkeypatch.setenv("INFALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(infalign_edu.rl.config, "SMALL", 1000)
    torch.set_num_threads(1)
    tiny_llama().save(tmp_path / "models" / "tiny")
    rows = [{"prompt": " ".join(words), "chosen": "w1 w1", "rejected": "w5"} for words in itertools.product(WORDS[:4], repeat=3)]
    (tmp_path / "harmless.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["--model", str(tmp_path / "models" / "tiny"), "--pairs", str(tmp_path / "harmless.jsonl")]


def read(path):
    with Path(path).open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_the_quick_form_in_slices(experiment, place, capsys):
    runs = 0
    while not Path("runs/real_model_quick/real_model.csv").exists():
        runs += 1
        assert experiment.main([*place, "--quick", "--slice", "9"], clock=Clock()) == 0
        told = capsys.readouterr().out.splitlines()[-1]
        if not told.startswith("done"):
            command = "python experiments/real_model.py --quick --model tiny --pairs harmless.jsonl --slice 9"
            assert told.startswith("slice over after ") and told.endswith(f"go on with the same command: {command}")
    table = read("runs/real_model_quick/real_model.csv")
    assert runs > 2 and [row["run"] for row in table] == ["identity", "exp:-10", "random reward"]
    assert [row["control"] for row in table] == ["0", "0", "1"]
    for row in table:
        assert row["shows"] == experiment.PLUMBING and row["reward"] == "bradley-terry fitted on harmless.jsonl"
        assert (row["lora_rank"], row["steps"], row["max_new_tokens"], row["seed"]) == ("16", "2", "24", "0")
        assert (row["heldout"], row["samples"], row["model"], row["dtype"]) == ("3", "4", "tiny", "float32")
        assert float(row["cpu_seconds"]) > 0 and float(row["gpu_seconds"]) == 0 and float(row["shared_cpu_seconds"]) > 0
        assert 0 <= float(row["worst_of_4"]) <= 1 and float(row["kl"]) > 0 and row["gain"] == ""
        assert row["commit"] and row["hardware"].endswith("1 thread") and "/" not in row["command"].removeprefix("python experiments/")
    assert [row["worst_of_4_theory"] for row in table][2] == "0.5" < table[1]["worst_of_4_theory"]
    assert float(table[0]["reward_accuracy_low"]) < float(table[0]["reward_accuracy"])


def test_an_error_is_one_line(experiment, place, capsys):
    assert experiment.main(["--quick", "--model", "nowhere", *place[2:]]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and told.startswith("real_model: model must be embedded, smollm2, a folder")


def test_the_estimate_counts_what_the_recipe_computes(experiment, capsys, monkeypatch):
    found = experiment.estimate(CTRLConfig(**experiment.FULL))
    assert found["updates"] == 3 * 96 + 2 * 3 * 8 and found["policies_judged"] == 10
    assert found["sampled_tokens"] == 40 * (256 * 32 + 336 * 16 * 16 + 10 * 128 * 32)
    assert found["decoding_steps"] == 40 * (336 + 2 * 10 + 4) and found["micro_batches"] == 336 * 4
    assert round(found["seconds"] / 60) == 23 < 30  # the notebook and the docstring say it
    book = (ROOT / "notebooks" / "12_real_model.ipynb").read_text(encoding="utf-8")
    assert "23\nminutes" in experiment.__doc__ and "23 minutes on one H100" in book
    slower = {name: 2 * getattr(experiment, name) for name in ("DECODE", "MICRO_BATCH", "JUDGED", "FEATURES", "START")}
    for name, value in slower.items():
        monkeypatch.setattr(experiment, name, value)
    assert experiment.estimate(CTRLConfig(**experiment.FULL))["seconds"] == pytest.approx(2 * found["seconds"], abs=1)
    assert experiment.main(["--pairs", "x", "--estimate"]) == 0 and "updates: 336" in capsys.readouterr().out


def test_the_gain_stands_in_one_row(experiment):
    from types import SimpleNamespace

    from infalign_edu.winrate import PromptMean

    compared = SimpleNamespace(kl=0.4, transform="exp:-10", theory=0.06, difference=PromptMean(np.array([0.02, 0.04])))
    found = SimpleNamespace(comparison=compared)
    row = experiment.gain(found, "exp:-10")
    assert row["gain"] == pytest.approx(0.03) and row["gain_low"] < 0.03 < row["gain_high"] and row["matched_kl"] == 0.4
    assert set(experiment.gain(found, "identity").values()) == {""} == set(experiment.gain(SimpleNamespace(comparison=None), "x").values())


@pytest.mark.skipif(not SHIPPED.exists(), reason="no quick run was made")
def test_the_shipped_quick_run_says_what_it_is(experiment):
    table = read(SHIPPED)
    assert [row["run"] for row in table] == ["identity", "exp:-10", "random reward"]
    for row in table:
        assert row["shows"] == experiment.PLUMBING and row["model"].startswith("HuggingFaceTB/SmolLM2-135M-Instruct")
        assert row["lora_rank"] == "16" and float(row["gpu_seconds"]) == 0
        assert row["command"].startswith("python experiments/real_model.py --quick --pairs ") and row["commit"]
        assert not any(word in " ".join(row.values()) for word in ("/home", "/root", "/tmp", "/work"))
    assert sum(float(row["cpu_seconds"]) for row in table) + float(table[0]["shared_cpu_seconds"]) < 360
    assert not (ROOT / "data" / "runs" / "real_model.csv").exists()  # nothing was measured on a GPU
