"""Features are plain means of hidden states, whatever the batching; kept on disk, whole or not at all."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_policy import EOS, tiny

from infalign_edu.lm import features as module
from infalign_edu.lm.features import cached_features, fingerprint

torch.set_num_threads(1)
PROMPTS = ["w0 w1 w2", "w3", "w3", "w0 w1 w2", "w5 w5"]
RESPONSES = ["w1", "w2 w2 w4", "", "w5 w1 w0 w2", "w1"]


@torch.no_grad()
def plain(policy, prompt, response):
    start = policy.tokenizer(prompt)["input_ids"]
    tokens = policy.tokenizer(response, add_special_tokens=False)["input_ids"] + [EOS]
    hidden = policy.model.transformer(torch.tensor([start + tokens])).last_hidden_state[0]
    return hidden[len(start) :].mean(0).numpy()


@pytest.mark.parametrize("batch_tokens", [1, 12, 10_000])
def test_features_are_means_over_the_response(batch_tokens):
    policy = tiny()
    values = policy.features(PROMPTS, RESPONSES, batch_tokens=batch_tokens)
    expected = np.array([plain(policy, p, r) for p, r in zip(PROMPTS, RESPONSES, strict=True)])
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, expected, atol=1e-5)
    assert not any(p.grad is not None for p in policy.model.parameters())


def test_long_prompts_lose_their_beginning_and_long_responses_their_end():
    policy = tiny()
    cut = policy.features(["w1 " * 30 + "w2 w3"], ["w4 w5 w1 w1 w1"], max_prompt_tokens=3, max_response_tokens=3)
    ids = policy.tokenizer("w2 w3 <sep> w4 w5 <eos>", add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        hidden = policy.model.transformer(ids).last_hidden_state[0]
    np.testing.assert_allclose(cut[0], hidden[3:].mean(0).numpy(), atol=1e-5)


def test_too_few_responses_and_none():
    with pytest.raises(ValueError, match="responses must match the 2 prompts, got 1"):
        tiny().features(["w1", "w2"], ["w1"])
    assert tiny().features([], []).shape == (0, 32)


def test_the_cache_answers_instead_of_the_model(tmp_path, monkeypatch):
    policy = tiny()
    prompts, responses = PROMPTS * 30, RESPONSES * 30
    first = cached_features(policy, prompts, responses, tmp_path)
    np.testing.assert_allclose(first, policy.features(prompts, responses), atol=1e-5)
    assert len(list(tmp_path.iterdir())) == 3  # 150 responses in blocks of 64
    monkeypatch.setattr(type(policy), "features", lambda *args, **kw: pytest.fail("computed again"))
    np.testing.assert_array_equal(cached_features(policy, prompts, responses, tmp_path), first)


def test_a_damaged_block_is_made_again(tmp_path):
    policy = tiny()
    first = cached_features(policy, PROMPTS, RESPONSES, tmp_path)
    (block,) = tmp_path.iterdir()
    whole = block.read_bytes()
    for damage in (whole[:100], b"", whole[:60] + b"\0" * 20 + whole[80:]):
        block.write_bytes(damage)
        np.testing.assert_array_equal(cached_features(policy, PROMPTS, RESPONSES, tmp_path), first)


def test_another_model_or_text_has_another_key(tmp_path):
    one, other = tiny(seed=0), tiny(seed=1)
    assert fingerprint(one) == fingerprint(tiny(seed=0)) != fingerprint(other)
    a = cached_features(one, PROMPTS, RESPONSES, tmp_path)
    b = cached_features(other, PROMPTS, RESPONSES, tmp_path)
    c = cached_features(one, RESPONSES[:1] + PROMPTS[1:], RESPONSES, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    assert not np.allclose(a, b)
    assert not np.allclose(a[0], c[0])


def test_a_killed_run_goes_on_where_it_stopped(tmp_path):
    cache = tmp_path / "cache"
    code = (
        f"import sys, time; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from tiny_policy import tiny\nfrom infalign_edu.lm import features as f\n"
        "policy = tiny()\nslow = type(policy).features\n"
        "type(policy).features = lambda *a, **k: (time.sleep(0.3), slow(*a, **k))[1]\n"
        f"f.cached_features(policy, [f'w{{i}}' for i in range(6400)], ['w1'] * 6400, {str(cache)!r})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.time() + 60
    while len(list(cache.glob("[!.]*.npz"))) < 2 and time.time() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {p: p.stat().st_mtime_ns for p in cache.glob("[!.]*.npz")}
    assert 2 <= len(before) < 100
    n = module.BLOCK * len(before)
    values = cached_features(tiny(), [f"w{i}" for i in range(n)], ["w1"] * n, cache)
    assert values.shape == (n, 32)
    assert {p: p.stat().st_mtime_ns for p in cache.glob("[!.]*.npz")} == before
