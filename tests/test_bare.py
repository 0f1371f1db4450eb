"""The bare forward pass against transformers' own: logits, states, gradients, samples, caches."""

import copy

import pytest
import torch
from tiny_llama import tiny_llama
from tiny_policy import tiny
from transformers import DynamicCache

from infalign_edu.lm import bare
from infalign_edu.lm.models import load

PROMPTS = ["w0 w1 w2", "w3", "w4 w5 w0 w1 w2 w3"]  # of several lengths: the short ones are padded


@pytest.fixture(params=["tiny", "embedded"])
def policy(request):
    return tiny() if request.param == "tiny" else load("embedded")


@pytest.fixture
def asked(policy):
    return PROMPTS if policy.name == "tiny" else ["how do i clean my kettle", "how do i fix a tap before work today"]


def own(monkeypatch):
    """From here on policies run transformers' forward pass."""
    monkeypatch.setattr(bare, "fits", lambda model: False)


def walk(policy, asked, cache):
    """Logits after each prompt, after one more token, and after four more with half of the rows gone."""
    ids, seen = policy.encode(asked)
    found = [policy.forward(ids, seen, cache, 1)]
    rows = torch.arange(len(asked)).repeat_interleave(2)
    cache.batch_select_indices(rows)
    seen = torch.cat([seen[rows], seen.new_ones(len(rows), 1)], 1)
    found.append(policy.forward(torch.full((len(rows), 1), 5), seen, cache, 1))
    rows = rows[::2]
    cache.batch_select_indices(torch.arange(0, 2 * len(asked), 2))
    seen = torch.cat([seen[::2], seen.new_ones(len(rows), 4)], 1)
    return [*found, policy.forward(torch.arange(5, 9).repeat(len(rows), 1), seen, cache, 4)]


@pytest.mark.parametrize("gradients", [False, True])
def test_logits_are_those_of_the_model_with_padding_and_lost_rows(policy, asked, gradients):
    with torch.set_grad_enabled(gradients):
        mine = walk(policy, asked, bare.Cache(policy.model))
        theirs = walk(policy, asked, DynamicCache(config=policy.model.config))
    for a, b in zip(mine, theirs, strict=True):
        assert a.shape == b.shape and (a - b).abs().max() < 2e-6 * b.abs().max().clamp(min=1)


def test_hidden_states_beyond_the_room_of_a_buffer(policy, asked):
    limit = min(policy.context - 20, bare.ROOM + 10)
    found = []
    with torch.no_grad():
        for cache in (bare.Cache(policy.model), DynamicCache(config=policy.model.config)):
            ids, seen = policy.encode(asked)
            policy.forward(ids, seen, cache, None)
            for t in range(limit):
                seen = torch.cat([seen, seen.new_ones(len(seen), 1)], 1)
                states = policy.forward(torch.full((len(seen), 1), 5 + t % 3), seen, cache, None)
            found.append(states)
    assert (found[0] - found[1]).abs().max() < 1e-5 * found[1].abs().max()


def test_short_keys_and_used_memory_change_nothing(policy, asked):
    """A head's keys are fewer than the fast kernel wants, and rows are lost, doubled and lost again in one memory."""
    found = []
    with torch.no_grad():
        for cache in (bare.Cache(policy.model), DynamicCache(config=policy.model.config)):
            seen = torch.ones(1, 1, dtype=torch.bool)
            found.append([policy.forward(torch.tensor([[5]]), seen, cache, 1)])
            for t, rows in enumerate(([0] * 6, [1, 4], [0, 1, 1, 0], [3])):
                cache.batch_select_indices(torch.tensor(rows))
                if isinstance(cache, bare.Cache):
                    cache.spare = [one.fill_(torch.nan) for one in cache.spare]  # what memory may hold
                seen = torch.ones(len(rows), t + 2, dtype=torch.bool)
                found[-1].append(policy.forward(2 + torch.arange(len(rows))[:, None] % 4, seen, cache, 1))
    for mine, theirs in zip(*found, strict=True):
        assert mine.shape == theirs.shape and (mine - theirs).abs().max() < 2e-6 * theirs.abs().max().clamp(min=1)


def test_samples_and_gradients_are_those_of_the_model(policy, asked, monkeypatch):
    policy.model.requires_grad_(True)

    def both():
        rollouts = policy.sample(asked, 8, seed=3)
        policy.model.zero_grad()
        policy.logprobs(rollouts).sum().backward()
        return rollouts, {name: weight.grad.clone() for name, weight in policy.model.named_parameters()}

    mine, slopes = both()
    own(monkeypatch)
    theirs, wanted = both()
    assert torch.equal(mine.tokens, theirs.tokens) and torch.equal(mine.mask, theirs.mask)
    assert (mine.logprobs - theirs.logprobs).abs().max() < 1e-5
    largest = max(float(slope.abs().max()) for slope in wanted.values())
    assert max(float((slopes[name] - wanted[name]).abs().max()) for name in wanted) < 2e-6 * largest


def test_gelu_and_its_slope():
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, z = bare._Gelu.apply(mine), torch.nn.functional.gelu(theirs, approximate="tanh")
    weights = torch.linspace(1, 2, len(x), dtype=torch.float64)
    (y * weights).sum().backward(), (z * weights).sum().backward()
    assert torch.allclose(y, z, atol=1e-12) and torch.allclose(mine.grad, theirs.grad, atol=1e-12)


def test_new_weights_are_seen_by_the_next_pass():
    policy = tiny()
    ids, seen = policy.encode(PROMPTS)
    with torch.no_grad():
        before = policy.forward(ids, seen, policy.cache(), 1)
        policy.model.transformer.h[0].mlp.c_fc.weight.mul_(1.5)
        after = policy.forward(ids, seen, policy.cache(), 1)
        theirs = policy.forward(ids, seen, DynamicCache(config=policy.model.config), 1)
    assert (after - before).abs().max() > 1e-3 and torch.allclose(after, theirs, atol=1e-5)


def test_an_exchanged_part_is_called_as_it_is():
    policy = tiny()
    policy.model.transformer.h[1].mlp.c_fc = torch.nn.Linear(32, 128)
    policy.model.lm_head.bias = torch.nn.Parameter(torch.linspace(-1, 1, policy.model.config.vocab_size))
    mine, theirs = (
        walk(policy, PROMPTS, cache) for cache in (policy.cache(), DynamicCache(config=policy.model.config))
    )
    assert all((a - b).abs().max() < 1e-5 for a, b in zip(mine, theirs, strict=True))


def test_it_fits_a_plain_gpt2_only():
    policy = tiny()
    assert bare.fits(policy.model) and isinstance(policy.cache(), bare.Cache)
    assert isinstance(tiny_llama().cache(), DynamicCache)
    for change in (
        lambda model: setattr(model.config, "scale_attn_by_inverse_layer_idx", True),
        lambda model: setattr(model.transformer.h[1], "mlp", torch.nn.Linear(32, 32)),
        lambda model: model.train(),
        lambda model: model.bfloat16(),
        lambda model: model.transformer.h[0].attn.register_forward_hook(lambda *_: None),
    ):
        other = copy.deepcopy(policy.model)
        change(other)
        assert not bare.fits(other)
