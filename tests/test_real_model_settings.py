"""What a real model changes in the settings: adapters above a visible size, and rewards that say what they judge."""

import pytest

import infalign_edu as ia
from infalign_edu.rl import ctrl
from infalign_edu.rl.config import FULL_RATE, LORA_RANK, SMALL
from infalign_edu.rl.runs import RunFolder

FEW = {"threads": 1, "steps": 1, "training_prompts": 2, "heldout_prompts": 2, "transform": "exp:-10"}
HUMAN = '{"chosen": "\\n\\nHuman: question %d\\n\\nAssistant: no", "rejected": "\\n\\nHuman: question %d\\n\\nAssistant: yes"}\n'


def test_adapters_begin_above_a_visible_size():
    small, large = (ia.CTRLConfig().resolved(size, False, 2) for size in (SMALL - 1, SMALL))
    assert (SMALL, LORA_RANK, FULL_RATE) == (5_000_000, 16, 1e-5)
    assert (small.lora_rank, small.learning_rate) == (0, 1.5e-3)
    assert (large.lora_rank, large.learning_rate) == (16, 1e-4)
    assert "lora_rank 16" in large.describe() and "lora_rank 0" in small.describe()
    full = ia.CTRLConfig(lora_rank=0).resolved(SMALL, True, 2)
    assert (full.lora_rank, full.learning_rate) == (0, 1e-5)
    assert ia.CTRLConfig(lora_rank=4).resolved(SMALL, True, 2).lora_rank == 4
    assert ia.CTRLConfig(lora_rank=0, learning_rate=0.1).resolved(SMALL, True, 2).learning_rate == 0.1


def test_a_micro_batch_is_chosen_by_size_and_memory_and_told():
    small, cpu, gpu = (
        ia.CTRLConfig().resolved(*about) for about in ((1000, False, 2), (SMALL, False, 2), (SMALL, True, 2))
    )
    assert [config.micro_batch for config in (small, cpu, gpu)] == [64, 8, 64]
    assert "micro_batch 64" in small.describe()
    assert ia.CTRLConfig().resolved(1000, False, 2, rows=5).micro_batch == 5
    assert ia.CTRLConfig().resolved(1000, False, 2, rows=500).micro_batch == 64
    assert ia.CTRLConfig(micro_batch=96).resolved(1000, False, 2, rows=5).micro_batch == 96  # what is asked for is done
    assert ia.CTRLConfig(micro_batch=96).identity() == ia.CTRLConfig().identity()  # a run may go on with another
    assert [config.allocator for config in (small, cpu, gpu)] == ["keep", "system", "system"]
    assert ia.CTRLConfig(allocator="system").resolved(1000, False, 2).allocator == "system"
    with pytest.raises(ValueError, match="allocator must be keep or system, got 'jemalloc'"):
        ia.CTRLConfig(allocator="jemalloc")
    with pytest.raises(ValueError, match="micro_batch must be a positive integer, got 0"):
        ia.CTRLConfig(micro_batch=0)


@pytest.mark.parametrize("rank", [-1, 1.5, True])
def test_a_rank_that_is_none(rank):
    with pytest.raises(ValueError, match="lora_rank must be an integer >= 0; 0 trains all weights, got"):
        ia.CTRLConfig(lora_rank=rank)


def test_a_run_with_adapters_end_to_end(tmp_path):
    pytest.importorskip("peft")
    config = ia.CTRLConfig(
        out=str(tmp_path / "r"), lora_rank=4, reference_samples=4, evaluation_samples=4, prompts_per_step=2,
        samples_per_prompt=4, learning_rate=5e-3, snapshots=1, **FEW | {"steps": 2},
    )  # fmt: skip
    report = ctrl.align(config).report
    assert report["kl"] > 0 and report["config"]["lora_rank"] == 4
    (weights,) = (tmp_path / "r" / "exp_-10" / "snapshots").iterdir()
    assert weights.stat().st_size < 100_000  # the embedded model alone is 1.4 MB


def test_a_setting_may_be_newer_than_the_run_that_goes_on(tmp_path):
    folder = RunFolder(tmp_path / "r")
    with folder.open({"steps": 3}, resume=False):
        pass
    with folder.open({"steps": 3, "lora_rank": 0}, resume=True):
        pass
    with pytest.raises(ValueError, match="steps must be 3 to resume"), folder.open({"steps": 4}, resume=True):
        pass


@pytest.fixture
def pairs(tmp_path):
    file = tmp_path / "harmless-base.jsonl"
    file.write_text("".join(HUMAN % (i, i) for i in range(40)), encoding="utf-8")
    return str(file)


def test_a_learned_reward_names_its_pairs(tmp_path, pairs, monkeypatch):
    monkeypatch.setenv("INFALIGN_CACHE", str(tmp_path / "cache"))
    config = ia.CTRLConfig(
        out=str(tmp_path / "r"), prompts=pairs, preferences=pairs, reference_samples=4, evaluation_samples=4,
        prompts_per_step=2, samples_per_prompt=2, **FEW,
    )  # fmt: skip
    assert "reward bradley-terry fitted on harmless-base.jsonl," in config.resolved(1, False, 1).describe()
    report = ctrl.align(config).report
    assert report["reward"] == "bradley-terry fitted on harmless-base.jsonl"
    assert report["reward_report"]["fitted_on"] == "harmless-base.jsonl"
    assert any("speaks for what harmless-base.jsonl prefers" in note and "helpfulness" in note for note in report["notes"])
    assert str(tmp_path) not in report["reward"]


def test_no_reward_judges_what_it_does_not_know(tmp_path, pairs):
    with pytest.raises(ValueError, match="reward gold:helpfulness needs prompts of the embedded world, got .*classifier:MODEL"):
        ctrl.align(ia.CTRLConfig(out=str(tmp_path / "a"), prompts=pairs, **FEW))
    with pytest.raises(ValueError, match="preferences must name the pairs that reward bradley-terry is fitted on, got none"):
        ctrl.align(ia.CTRLConfig(out=str(tmp_path / "b"), prompts=pairs, reward="bradley-terry", **FEW))
