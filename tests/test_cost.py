"""The cost formulas: parts that can be counted against real models, sums by hand, and the page's table."""

from pathlib import Path

import pytest
import torch
from tiny_llama import tiny_llama
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from infalign_edu.lm import adapters
from infalign_edu.rl.cost import FROZEN_BYTES, SHAPES, TRAINED_BYTES, Plan, Shape, cost, table

PAGE = Path(__file__).parents[1] / "teaching" / "scaling_out.md"


def llama(shape):
    heads = max(1, shape.width // 64)
    return LlamaConfig(vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.hidden,
                       num_hidden_layers=shape.layers, num_attention_heads=heads,
                       num_key_value_heads=heads * shape.kv // shape.width, tie_word_embeddings=shape.tied)  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_are_those_of_the_model_of_that_shape(name):
    with torch.device("meta"):
        model = LlamaForCausalLM(llama(SHAPES[name]))
    if SHAPES[name].tied:
        model.tie_weights()
    assert sum(p.numel() for p in model.parameters()) == SHAPES[name].parameters


def test_a_forward_pass_takes_two_flop_a_parameter_and_token():
    shape = SHAPES["1 M"]
    model, ids = LlamaForCausalLM(llama(shape)), torch.zeros(4, 64, dtype=torch.long)
    with FlopCounterMode(display=False) as forward:
        loss = model(ids).logits.sum()
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    assert forward.get_total_flops() / (2 * shape.parameters * ids.numel()) == pytest.approx(1, abs=0.1)  # attention on top
    assert backward.get_total_flops() / (4 * shape.parameters * ids.numel()) == pytest.approx(1, abs=0.1)


def test_cache_and_states_are_counted_right():
    policy = tiny_llama(dtype=torch.bfloat16)
    c = policy.model.config
    shape = Shape(c.num_hidden_layers, c.hidden_size, 16, c.intermediate_size, c.vocab_size, tied=True)
    assert policy.parameters == shape.parameters
    cache = policy.cache()
    policy.forward(torch.zeros(3, 7, dtype=torch.long), torch.ones(3, 7, dtype=torch.bool), cache, 1)
    held = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    assert held == 3 * 7 * shape.cache_bytes
    master = [torch.nn.Parameter(p.detach().float()) for p in policy.model.parameters()]
    for p in master:
        p.grad = torch.zeros_like(p)
    adam = torch.optim.Adam(master)
    adam.step()
    moments = sum(state[k].numel() * 4 for state in adam.state.values() for k in ("exp_avg", "exp_avg_sq"))
    bf16 = 2 * 2 * policy.parameters  # weights and gradients
    assert bf16 + sum(p.numel() * 4 for p in master) + moments == TRAINED_BYTES * shape.parameters
    lora = adapters.attach(tiny_llama(), 2)
    assert sum(p.numel() for p in lora.model.parameters() if p.requires_grad) == shape.lora(2)


def test_the_sums_by_hand():
    """A model of N parameters, 3 prompts of 5 tokens and 2 x 7 sampled ones; 4 steps of 2 prompts x 3 samples."""
    shape = Shape(layers=1, width=2, kv=1, hidden=3, vocabulary=10)
    assert shape.parameters == 8 + 4 + 18 + 4 + 40 + 2 and shape.cache_bytes == 4
    assert shape.lora(1) == 2 * 4 + 2 * 3 + 3 * 5
    plan = Plan(prompts=3, K=2, steps=4, prompts_per_step=2, samples_per_prompt=3, prompt_tokens=5, response_tokens=7, rows=2)
    found, N = cost(shape, plan, rank=1, peak=1.0, decoding=0.5, updating=0.25), shape.parameters
    assert (plan.calibration_tokens, plan.training_tokens, plan.table_bytes) == (42, 168, 48)
    assert found.calibration_flop == 2 * N * (3 * 5 + 42)
    decoded, scored = 2 * N * (4 * 2 * 5 + 168), 10 * N * 24 * 12
    assert found.training_flop == decoded + scored
    assert found.calibration_hours * 3600 == pytest.approx(found.calibration_flop / 0.5)
    assert found.training_hours * 3600 == pytest.approx(decoded / 0.5 + scored / 0.25)
    assert found.full_bytes == (TRAINED_BYTES + FROZEN_BYTES) * N and found.cache_bytes == 2 * 12 * 4
    assert found.lora_bytes == FROZEN_BYTES * N + TRAINED_BYTES * shape.lora(1) and found.devices == 1


def test_the_pages_tables_are_the_functions():
    page = PAGE.read_text(encoding="utf-8")
    assert page.split("<!-- cost -->\n")[1].split("<!-- /cost -->")[0].splitlines() == table()
    plan = Plan()
    for number in (plan.prompts, plan.calibration_samples, plan.calibration_tokens, plan.training_samples, plan.training_tokens):
        assert f"{number:,}" in page
    assert f"{plan.table_bytes / 1e6:.1f} MB" in page
    found = cost(SHAPES["8 B"])
    share = found.calibration_hours / (found.calibration_hours + found.training_hours)
    told = f"{plan.calibration_tokens / plan.training_tokens:.2f} times as much as the training and takes {100 * share:.0f} % of all"
    assert told in page and found.lora_bytes + found.cache_bytes < 0.8 * 80e9 < found.full_bytes
