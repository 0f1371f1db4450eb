"""The policy draws from the model's own distribution, whatever the padding, the batch or the order of finishing."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_llama import tiny_llama
from tiny_policy import EOS, enumerate_responses, tiny

from infalign_edu.lm.policy import Policy, cache_name, token_kl
from infalign_edu.lm.rollouts import batches, draw
from infalign_edu.rl.algorithms.rloo import log_distributions

torch.set_num_threads(1)
PROMPTS = ["w0 w1 w2 w3", "w4", "w1 w1"]


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny()


def rows_of(rollouts):
    return [tuple(t[m].tolist()) for t, m in zip(rollouts.tokens, rollouts.mask, strict=True)]


def unpadded_logprobs(policy: Policy, prompt: str, tokens: tuple[int, ...]) -> torch.Tensor:
    start = policy.tokenizer(prompt)["input_ids"]
    logits = policy.model(torch.tensor([[*start, *tokens]])).logits[0, len(start) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None])[:, 0]


def test_frequencies_are_the_models_probabilities(policy):
    exact = enumerate_responses(policy, "w4", 2)
    assert sum(exact.values()) == pytest.approx(1, abs=1e-6)
    rollouts = policy.sample(["w0 w1 w2 w3", "w4"], 20_000, seed=1, max_new_tokens=2)
    drawn = rows_of(rollouts)[20_000:]  # the short prompt: padded on the left beside the long one
    counts = {sequence: drawn.count(sequence) for sequence in exact}
    assert sum(counts.values()) == 20_000
    expected = np.array([20_000 * p for p in exact.values()])
    observed = np.array(list(counts.values()))
    common = expected >= 5
    assert common.sum() > 20
    chi2 = ((observed - expected)[common] ** 2 / expected[common]).sum()
    assert chi2 < common.sum() + 4 * np.sqrt(2 * common.sum())
    assert (np.abs(observed - expected) < 5 * np.sqrt(expected) + 5).all()


def test_sampling_logprobs_equal_unpadded_and_teacher_forced_forwards(policy):
    rollouts = policy.sample(PROMPTS, 8, seed=0)
    with torch.no_grad():
        forced = policy.logprobs(rollouts)
        for row, tokens in enumerate(rows_of(rollouts)):
            plain = unpadded_logprobs(policy, rollouts.row_prompts[row], tokens)
            assert torch.allclose(rollouts.logprobs[row, : len(tokens)], plain, atol=1e-5)
    assert torch.allclose(forced, rollouts.logprobs, atol=1e-5)
    assert (forced[~rollouts.mask] == 0).all()
    assert (rollouts.logprobs[~rollouts.mask] == 0).all()
    assert rollouts.logprobs.dtype == torch.float32


@pytest.mark.parametrize("architecture", ["Llama", "Mistral", "Gemma2", "Qwen2"])
def test_other_architectures_agree_with_an_unpadded_forward(architecture):
    sizes = {"vocab_size": 11, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    sizes |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": EOS}
    if architecture in {"Mistral", "Gemma2"}:
        sizes["sliding_window"] = 4
    torch.manual_seed(0)
    config = getattr(transformers, f"{architecture}Config")(**sizes)
    model = getattr(transformers, f"{architecture}ForCausalLM")(config)
    policy = Policy(model, tiny().tokenizer, max_new_tokens=7)
    rollouts = policy.sample(PROMPTS, 6, seed=0)
    with torch.no_grad():
        assert torch.allclose(policy.logprobs(rollouts), rollouts.logprobs, atol=1e-5)
        for row, tokens in enumerate(rows_of(rollouts)):
            plain = unpadded_logprobs(policy, rollouts.row_prompts[row], tokens)
            assert torch.allclose(rollouts.logprobs[row, : len(tokens)], plain, atol=1e-5)


@pytest.mark.parametrize("micro_batch", [1, 3, 8, 20, 1000])
def test_a_seed_gives_the_same_samples_whatever_the_micro_batch(policy, micro_batch):
    whole = policy.sample(PROMPTS, 8, seed=5)
    parts = policy.sample(PROMPTS, 8, seed=5, micro_batch=micro_batch)
    assert torch.equal(whole.tokens, parts.tokens)
    assert torch.allclose(whole.logprobs, parts.logprobs, atol=1e-5)
    assert whole.responses == parts.responses
    assert not torch.equal(whole.tokens, policy.sample(PROMPTS, 8, seed=6).tokens)


def test_rows_end_with_eos_or_at_the_limit(policy):
    rollouts = policy.sample(PROMPTS, 200, seed=0, max_new_tokens=6)
    lengths = rollouts.mask.sum(1)
    assert set(lengths.tolist()) >= {1, 2, 6}  # rows finish at different times
    assert rollouts.tokens.shape[1] == lengths.max()
    for tokens, n in zip(rows_of(rollouts), lengths.tolist(), strict=True):
        assert EOS not in tokens[:-1]
        assert tokens[-1] == EOS or n == 6
    assert (rollouts.tokens[~rollouts.mask] == 0).all()
    assert (rollouts.mask.long().diff(dim=1) <= 0).all()  # no hole
    assert all("<" not in text.replace("<unk>", "") for text in rollouts.responses)


def test_tokens_are_cut_to_the_longest_response(policy):
    policy_ends = tiny()
    with torch.no_grad():
        policy_ends.model.transformer.ln_f.bias.zero_()
        policy_ends.model.transformer.ln_f.weight.zero_()
        policy_ends.model.transformer.ln_f.bias[0] = 1.0
        policy_ends.model.lm_head.weight.zero_()
        policy_ends.model.lm_head.weight[EOS, 0] = 100.0  # <eos> with certainty
    rollouts = policy_ends.sample(PROMPTS, 4, seed=0, max_new_tokens=9)
    assert rollouts.tokens.tolist() == [[EOS]] * 12
    assert rollouts.responses == [""] * 12


def test_rollouts_are_prompt_major(policy):
    rollouts = policy.sample(PROMPTS, 2, seed=0)
    assert rollouts.row_prompts == [p for p in PROMPTS for _ in range(2)]
    assert policy.tokenizer.decode(rollouts.prompt_ids[1][rollouts.prompt_mask[1]]) == "<bos> w4 <sep>"
    assert not rollouts.prompt_mask[1, 0]
    assert rollouts.prompt_mask[1, -1]


def test_logits_have_gradients_and_slices_agree(policy):
    rollouts = policy.sample(PROMPTS, 4, seed=0)
    whole = policy.logprobs(rollouts)
    parts = torch.cat([policy.logprobs(rollouts, slice(i, i + 5)) for i in range(0, 12, 5)])
    assert torch.allclose(whole, parts, atol=1e-5)
    gradients = []
    for values in (whole, parts):
        policy.model.zero_grad()
        values.sum().backward()
        gradients.append(policy.model.transformer.wte.weight.grad.clone())
    assert gradients[0].abs().sum() > 0
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-4, atol=1e-4)
    assert policy.logits(rollouts, slice(0, 4)).shape == (4, rollouts.tokens.shape[1], 11)


def test_gradient_through_the_shared_prompt_equals_the_plain_one(policy):
    rollouts = policy.sample(["w0 w1", "w2"], 3, seed=2)
    policy.model.zero_grad()
    policy.logprobs(rollouts).sum().backward()
    shared = {n: p.grad.clone() for n, p in policy.model.named_parameters()}
    policy.model.zero_grad()
    sum(
        unpadded_logprobs(policy, p, t).sum() for p, t in zip(rollouts.row_prompts, rows_of(rollouts), strict=True)
    ).backward()
    for name, parameter in policy.model.named_parameters():
        assert torch.allclose(shared[name], parameter.grad, rtol=1e-3, atol=1e-3), name


def test_token_kl_equals_enumeration(policy):
    other = tiny(seed=1)
    p, q = (enumerate_responses(x, "w1 w1", 3) for x in (policy, other))
    exact = sum(p[s] * np.log(p[s] / q[s]) for s in p)
    ids = [list(s) for s in p]  # every sequence once, weighted by its probability
    rollouts = policy.sample(["w1 w1"], len(ids), seed=0, max_new_tokens=3)
    tokens, mask = torch.zeros(len(ids), 3, dtype=torch.long), torch.zeros(len(ids), 3, dtype=torch.bool)
    for i, row in enumerate(ids):
        tokens[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), True
    with torch.no_grad():
        kl = token_kl(policy, other, replace(rollouts, tokens=tokens, mask=mask))
    assert float((torch.tensor(list(p.values())) * kl.sum(1).double()).sum()) == pytest.approx(exact, rel=1e-4)
    assert exact > 0.05
    assert (kl[~mask] == 0).all()
    assert token_kl(policy, policy.copy(), rollouts).abs().max() < 1e-6


def test_token_kl_ignores_what_both_forbid(policy):
    def forbidding(seed):
        out = tiny(seed=seed)
        out.model.lm_head.bias = torch.nn.Parameter(torch.zeros(11))
        out.model.lm_head.bias.data[7] = -torch.inf
        return out

    first, second = forbidding(0), forbidding(1)
    rollouts = first.sample(PROMPTS, 50, seed=0)
    assert 7 not in rollouts.tokens
    assert torch.isfinite(token_kl(first, second, rollouts)).all()


@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_batches_hold_every_row_once_and_whole_prompts(seed, size, samples):
    lengths = torch.from_numpy(np.random.default_rng(seed).integers(1, 20, 7))
    parts = list(batches(lengths, samples, size))
    assert sorted(torch.cat(parts).tolist()) == list(range(7 * samples))
    assert max(len(part) for part in parts) <= max(size, 1)
    if size >= samples:
        assert all(len(part) % samples == 0 for part in parts)


def test_draw_is_the_inverse_cdf_and_never_takes_an_impossible_token():
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]).repeat(5, 1)
    uniforms = torch.tensor([0.0, 0.4999, 0.5, 0.75, 1 - 2**-53], dtype=torch.float64)
    token, logprob = draw(logits, uniforms)
    assert token.tolist() == [1, 1, 3, 3, 3]
    assert torch.allclose(logprob, torch.full((5,), -np.log(2), dtype=torch.float32))


def test_half_precision_models_report_float32(policy):
    half = policy.copy()
    half.model.to(torch.bfloat16)
    rollouts = half.sample(PROMPTS, 4, seed=0)
    assert rollouts.logprobs.dtype == torch.float32
    assert half.logits(rollouts).dtype == torch.float32
    assert half.features(["w1"], ["w2"]).dtype == np.float32


def test_copy_is_frozen_and_apart(policy):
    twin = policy.copy()
    assert not any(p.requires_grad for p in twin.model.parameters())
    before = twin.logprobs(rollouts := twin.sample(PROMPTS, 2, seed=0)).clone()
    moved = policy.copy()
    with torch.no_grad():
        moved.model.lm_head.weight += 1.0 * torch.randn_like(moved.model.lm_head.weight)
    assert torch.equal(twin.logprobs(rollouts), before)
    assert not torch.allclose(moved.logprobs(rollouts), before)


def test_errors_name_prompt_and_limit(policy):
    with pytest.raises(ValueError, match="prompt 1 must fit the context of 64 tokens, got 72 tokens"):
        policy.encode(["w1", "w1 " * 70])
    with pytest.raises(ValueError, match=r"prompt 0 must fit the context of 64 tokens, got 62 tokens and 5 new ones"):
        policy.sample(["w1 " * 60], 1, seed=0)
    with pytest.raises(ValueError, match="samples must be a positive integer, got 0"):
        policy.sample(["w1"], 0)
    with pytest.raises(ValueError, match="at least one prompt"):
        policy.sample([], 1)
    broken = policy.copy()
    broken.model.lm_head.weight.data[:] = torch.nan
    with pytest.raises(FloatingPointError, match="must be finite"):
        broken.sample(["w1"], 2, seed=0)


def test_describe_names_what_a_reader_needs(policy):
    line = policy.describe()
    assert "\n" not in line
    assert f"tiny: {policy.parameters:,} parameters, cpu, float32, chat template no, pad token '<pad>'" == line


def test_a_generator_serves_as_a_seed_and_moves_on(policy):
    generator = torch.Generator().manual_seed(5)
    first, second = (policy.sample(PROMPTS, 8, generator=generator) for _ in range(2))
    assert torch.equal(first.tokens, policy.sample(PROMPTS, 8, seed=5).tokens)
    assert first.responses != second.responses


def test_chat_template_renders_turns_and_pad_falls_back_to_eos():
    policy = tiny()
    policy.tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} <eos> {% endfor %}"
        "{% if add_generation_prompt %}<sep>{% endif %}"
    )
    policy.tokenizer.pad_token = None
    chat = Policy(policy.model, policy.tokenizer, max_new_tokens=5)
    assert chat.chat
    assert chat.tokenizer.pad_token == "<eos>"
    ids, mask = chat.encode(["\n\nHuman: w1\n\nAssistant: w2\n\nHuman: w3\n\nAssistant:", "w1"])
    assert policy.tokenizer.decode(ids[0]) == "<unk> w1 <eos> <unk> w2 <eos> <unk> w3 <eos> <sep>"
    assert mask.sum(1).tolist() == [10, 4]
    assert chat.sample(["w1"], 3, seed=0).responses  # padding with <eos> does no harm: masks say what is real


def test_a_micro_batch_stops_at_its_own_longest_response():
    policy = tiny()
    rollouts = policy.sample(["w0 w1", "w3", "w4 w5 w0"], 8, seed=2)
    lengths = rollouts.mask.sum(1)
    rows = lengths.argsort()[:5]
    longest = int(lengths[rows].max())
    assert longest < rollouts.tokens.shape[1]
    found = log_distributions(policy, rollouts, rows, longest)
    whole = policy.logits(rollouts).log_softmax(-1)
    assert found.shape[:2] == (5, longest)
    assert ((found - whole[rows, :longest]).abs().amax(-1) * rollouts.mask[rows, :longest]).max() < 1e-5
    cut = rollouts.first(longest)
    assert cut.tokens.shape == cut.mask.shape == cut.logprobs.shape == (24, longest) and cut.responses == rollouts.responses


def test_a_cache_goes_by_the_name_that_the_architecture_gives_it():
    """transformers 5.24 renamed the argument; a release knows one of the two, and a wrong name would be swallowed."""

    class Renamed:
        def forward(self, input_ids, cache=None, **more): ...

    class Before:
        def forward(self, input_ids, past_key_values=None, **more): ...

    assert (cache_name(Renamed.forward), cache_name(Before.forward)) == ("cache", "past_key_values")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy, ids, seen = tiny_llama(), torch.tensor([[5, 6, 7]]), torch.ones(1, 4, dtype=torch.bool)
        cache = policy.cache()
        policy.forward(ids, seen[:, :3], cache, 1)
        assert cache.get_seq_length() == 3  # it was handed on
        policy.forward(ids[:, :1], seen, cache, None)
        assert cache.get_seq_length() == 4
