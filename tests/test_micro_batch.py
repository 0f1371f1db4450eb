"""Micro-batches: the estimate of what training keeps, and the share of the free memory that one of them takes."""

import pytest
import torch
from tiny_llama import tiny_llama
from tiny_policy import tiny

from infalign_edu.lm import micro_batch as fitting
from infalign_edu.lm.models import load

PROMPTS = ["w0 w1 w2 w3", "w4", "w1 w1"]


@pytest.mark.parametrize("name", ["tiny", "llama", "embedded"])
def test_rows_to_train_are_fitted_to_what_autograd_keeps(name, monkeypatch):
    policy = {"tiny": tiny, "llama": tiny_llama, "embedded": lambda: load("embedded")}[name]()
    prompts = ["how do i clean my kettle"] * 4 if name == "embedded" else PROMPTS
    policy.model.requires_grad_(True)
    rollouts, kept = policy.sample(prompts, 16, seed=0), {}
    own = {weight.data_ptr() for weight in policy.model.parameters()}

    def hold(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        policy.logits(rollouts).log_softmax(-1).gather(-1, rollouts.tokens[..., None])
    monkeypatch.setattr(fitting, "budget", lambda device, most: sum(kept.values()))
    rows = policy.rows_to_train(rollouts.tokens.shape[1])
    assert 0.75 < rows / len(rollouts.tokens) < 1.15


def test_a_micro_batch_takes_a_quarter_of_what_is_free(monkeypatch):
    policy = load("embedded")
    large = policy.micro_batch(40), policy.rows_to_train(40)
    monkeypatch.setattr(fitting, "free_memory", lambda: 0.1)
    assert policy.micro_batch(400) < large[0] == fitting.MAX_ROWS and policy.rows_to_train(40) < large[1]
    per_row = 40 * (20 * 2 * 112 * 4 + 24 * policy.model.config.vocab_size)
    assert policy.rows_to_train(40) == int(0.025e9) // per_row
    monkeypatch.setattr(fitting, "free_memory", lambda: 0.0)
    assert policy.rows_to_train(40) == fitting.LEAST // per_row and policy.rows_to_train(10**9) == 1
    monkeypatch.setattr(fitting, "free_memory", lambda: None)
    assert policy.micro_batch(40) == large[0] and policy.rows_to_train(40) == fitting.TRAINING // per_row
