"""LoRA on a tiny Llama and a tiny GPT-2: starts as the reference, moves alone, is saved alone, goes on bit for bit."""

import sys

import numpy as np
import pytest
import torch
from tiny_llama import tiny_llama
from tiny_policy import tiny

from infalign_edu.lm import adapters
from infalign_edu.lm.models import load
from infalign_edu.lm.policy import token_kl
from infalign_edu.rl import evaluation
from infalign_edu.rl.ctrl import trainable
from infalign_edu.rl.runs import TrainingFiles
from infalign_edu.rl.trainer import Scores, Trainer

pytest.importorskip("peft")
PROMPTS = ["w1 w2", "w3", "w4 w5 w6"]
BF16 = torch.bfloat16


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def reference(make=tiny_llama, **options):
    policy = make(**options)
    policy.model.requires_grad_(False)
    return policy


def trainer(base, *, rank=4, steps=6, seed=0, **options):
    """Rewards responses for the word w1: something that a policy can learn."""

    def score(indices, responses):
        rewards = np.array([float(text.split().count("w1")) for text in responses]).reshape(len(indices), -1)
        return Scores(rewards, rewards, rewards)

    options = {"prompts_per_step": 2, "samples_per_prompt": 8, "learning_rate": 0.02, "beta": 0.5} | options
    return Trainer(trainable(base, rank, seed), base, PROMPTS, score, steps=steps, seed=seed, **options)


@pytest.mark.parametrize("make", [tiny_llama, tiny])
def test_an_untrained_adapter_changes_nothing_at_all(make):
    base = reference(make)
    policy = adapters.attach(base, 4)
    rollouts = policy.sample(PROMPTS, 6, seed=0)
    assert torch.equal(rollouts.tokens, base.sample(PROMPTS, 6, seed=0).tokens)
    assert torch.equal(policy.logits(rollouts), base.logits(rollouts))
    assert token_kl(policy, base, rollouts).abs().max() == 0.0
    assert np.array_equal(policy.features(PROMPTS, ["w1"] * 3), base.features(PROMPTS, ["w1"] * 3))


def test_weights_are_shared_and_only_adapters_take_gradients():
    base = reference()
    policy = adapters.attach(base, 3)
    own = {p.data_ptr() for p in base.model.parameters()}
    for name, weight in policy.model.named_parameters():
        assert weight.requires_grad == (adapters.MARK in name) == (weight.data_ptr() not in own), name
    assert not any(p.requires_grad for p in base.model.parameters())
    # q, k, v, o, gate, up, down of two layers: rank x (inputs + outputs)
    expected = 3 * 2 * ((32 + 32) + (32 + 16) + (32 + 16) + (32 + 32) + 3 * (32 + 48))
    assert adapters.count(policy.model) == expected == policy.parameters - base.parameters
    assert not any("lm_head" in name or "embed" in name for name, p in policy.model.named_parameters() if p.requires_grad)


def test_the_formula_of_one_layer():
    base = reference()
    policy = adapters.attach(base, 2)
    layer = policy.model.model.layers[0].mlp.up_proj
    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        B.normal_()
    x = torch.randn(5, 32)
    expected = x @ layer.base_layer.weight.T + 2.0 * x @ A.T @ B.T
    assert torch.allclose(layer(x), expected, atol=1e-5)
    assert A.abs().max() <= 32**-0.5 and A.std().item() == pytest.approx(32**-0.5 / 3**0.5, rel=0.2)


def test_the_start_is_a_function_of_the_seed_and_moves_no_other_generator():
    base = reference()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, same, other = (trainable(base, 4, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    name = "model.layers.0.mlp.up_proj.lora_A.default.weight"
    a, b, c = (dict(policy.model.named_parameters())[name] for policy in (first, same, other))
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_training_moves_adapters_only_and_kl_starts_at_zero(dtype):
    base = reference(dtype=dtype)
    before = {name: p.clone() for name, p in base.model.named_parameters()}
    run = trainer(base, steps=25)
    assert {p.dtype for p in run.parameters.values()} == {torch.float32}
    assert run.policy.dtype == dtype
    history = [run.advance() for _ in range(run.steps)]
    assert history[0]["kl"] == 0.0 and history[-1]["kl"] > 0.02
    assert np.mean([row["reward"] for row in history[-5:]]) > np.mean([row["reward"] for row in history[:5]]) + 0.2
    for name, p in base.model.named_parameters():
        assert torch.equal(p, before[name]), name
    assert set(run.tensors()) == {
        f"{kind}.{name}" for name in run.weights for kind in ("policy", "adam.step", "adam.exp_avg", "adam.exp_avg_sq")}
    assert all(adapters.MARK in name for name in run.weights)


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_stopping_and_going_on_is_the_same_run_bit_for_bit(tmp_path, dtype):
    base, files = reference(dtype=dtype), TrainingFiles(tmp_path)
    whole, first = trainer(base), trainer(base)
    rows = [whole.advance() for _ in range(6)]
    for _ in range(2):
        first.advance()
    files.save(first.tensors(), first.step)
    second = trainer(base, seed=0)
    second.restore(*files.latest())
    later = [second.advance() for _ in range(4)]
    assert [{**row, "seconds": 0} for row in later] == [{**row, "seconds": 0} for row in rows[2:]]
    for name, value in whole.tensors().items():
        assert torch.equal(value, second.tensors()[name]), name


def test_a_snapshot_holds_adapters_only_and_is_read_into_a_plain_copy(tmp_path):
    base, files = reference(dtype=BF16), TrainingFiles(tmp_path)
    run = trainer(base)
    for _ in range(3):
        run.advance()
    files.snapshot(run.tensors(), 3)
    assert files.snapshot_file(3).stat().st_size < 0.6 * sum(p.nbytes for p in base.model.parameters())
    again = base.copy()
    evaluation.load_snapshot(again, files.snapshot_file(3))
    rollouts = run.policy.sample(PROMPTS, 4, seed=1)
    assert torch.equal(again.logits(rollouts), run.policy.logits(rollouts))
    assert not torch.equal(again.logits(rollouts), base.logits(rollouts))
    assert evaluation.sequence_kl(again, base, rollouts).mean() > 0


def test_a_snapshot_of_another_shape_is_refused(tmp_path):
    base, files = reference(), TrainingFiles(tmp_path)
    state = trainer(base).tensors()
    files.snapshot(dict(list(state.items())[:5]), 1)
    with pytest.raises(ValueError, match="snapshot .* must hold model.layers.* more, got none of it"):
        evaluation.load_snapshot(base.copy(), files.snapshot_file(1))
    files.snapshot({"policy.model.norm.weight": torch.ones(32)}, 2)
    with pytest.raises(ValueError, match="must hold model.embed_tokens.weight"):
        evaluation.load_snapshot(base.copy(), files.snapshot_file(2))
    with pytest.raises(ValueError, match="checkpoint must hold .*lora_A.* of shape .4, 32., got shape .3, 32."):
        trainer(base, rank=4).restore(trainer(base, rank=3).tensors(), 0)


@pytest.mark.parametrize("make", [tiny_llama, tiny])
def test_adapters_alone_are_saved_and_loaded_and_peft_reads_them(make, tmp_path):
    import peft

    base = reference(make)
    run = trainer(base, rank=2, learning_rate=0.1)
    run.advance()
    folder = adapters.save(run.policy, tmp_path / "adapters")
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    rollouts = base.sample(PROMPTS, 4, seed=0)
    expected = run.policy.logits(rollouts)
    assert torch.equal(adapters.load(base, folder).logits(rollouts), expected)
    wrapped = peft.PeftModel.from_pretrained(base.copy().model, str(folder)).eval()
    found = wrapped(rollouts.prompt_ids[:1], logits_to_keep=1, attention_mask=rollouts.prompt_mask[:1],
                    position_ids=(rollouts.prompt_mask[:1].cumsum(-1) - 1).clamp(min=0)).logits[:, 0]
    assert torch.allclose(found, expected[:1, 0], atol=1e-5)
    with pytest.raises(ValueError, match="adapters .* must be those of tiny( llama)?, got weights of another model"):
        adapters.load(reference(tiny if make is tiny_llama else tiny_llama), folder)
    with pytest.raises(ValueError, match="adapters must be a folder with adapter_model.safetensors"):
        adapters.load(base, tmp_path)
    with pytest.raises(ValueError, match="policy must have adapters"):
        adapters.save(base, tmp_path / "none")


def test_a_saved_policy_is_a_plain_model_with_the_same_distribution(tmp_path):
    base = reference()
    run = trainer(base, learning_rate=0.05)
    for _ in range(3):
        run.advance()
    again = load(run.policy.save(tmp_path / "model"), max_new_tokens=5)
    assert [name for name in again.model.state_dict() if "lora" in name or "base_layer" in name] == []
    rollouts = run.policy.sample(PROMPTS, 6, seed=0)
    assert torch.allclose(again.logits(rollouts), run.policy.logits(rollouts), atol=1e-4)
    assert not torch.allclose(again.logits(rollouts), base.logits(rollouts), atol=1e-2)
    assert adapters.count(run.policy.model) > 0  # saving left the policy as it was


def test_a_copy_is_frozen_and_stands_alone():
    base = reference()
    run = trainer(base, learning_rate=0.1)
    run.advance()
    twin, rollouts = run.policy.copy(), base.sample(PROMPTS, 3, seed=0)
    before = twin.logits(rollouts)
    assert torch.equal(before, run.policy.logits(rollouts)) and not any(p.requires_grad for p in twin.model.parameters())
    run.advance()
    assert torch.equal(twin.logits(rollouts), before) and not torch.equal(run.policy.logits(rollouts), before)


@pytest.mark.parametrize("rank", [0, -1, 2.0, True])
def test_a_rank_is_a_positive_integer(rank):
    with pytest.raises(ValueError, match="rank must be a positive integer"):
        adapters.attach(reference(), rank)


def test_without_peft_there_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"^lora_rank above 0 needs peft: pip install 'infalign-edu\[lora\]', or take 0$"):
        adapters.attach(reference(), 4)
