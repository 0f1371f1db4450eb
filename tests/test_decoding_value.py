"""A value learnt from whole responses knows on held-out prompts what a prefix will be worth."""

import itertools

import numpy as np
import pytest
import torch
from tiny_policy import EOS, enumerate_responses, tiny

from infalign_edu.calibration import EmpiricalCalibrator
from infalign_edu.lm import world
from infalign_edu.lm.decoding import Blockwise, LearnedValue, TextValue, TreeSearch
from infalign_edu.lm.models import load
from infalign_edu.lm.rewards import GoldReward, score
from infalign_edu.lm.table import EnumerablePolicy, PrefixTable

torch.set_num_threads(1)
PROMPTS = [" ".join(words) for words in itertools.product(("w0", "w1", "w2", "w3", "w4", "w5"), repeat=2)]


def ones(prompts, responses):  # how often w1 is said, and a little for what was asked
    return np.array([t.count("w1") + 0.5 * p.count("w2") for p, t in zip(prompts, responses, strict=True)])


@pytest.fixture(scope="module")
def policy():
    return tiny(max_new_tokens=4)


@pytest.fixture(scope="module")
def value(policy):
    return LearnedValue.fit(policy, ones, PROMPTS, samples=48, epochs=16, width=32, held_out=0.25, seed=0)


def test_it_beats_a_constant_on_held_out_prompts(value):
    report = value.report()
    assert report["training_prompts"] == 27 and report["held_out_prompts"] == 9
    assert report["r2"] > 0.6 and report["r2_within_prompt"] > 0.6
    assert 0.9 < report["r2_whole_response"] < 1
    shuffled = np.random.default_rng(0)
    noise = LearnedValue.fit(
        value.policy, lambda p, t: shuffled.normal(size=len(t)), PROMPTS, samples=16, epochs=2, width=16
    )
    assert noise.report()["r2"] < 0.02  # and what can't be known isn't


def test_it_estimates_the_exact_conditional_mean(policy, value):
    prompt, length = "w3 w2", 3
    exact = enumerate_responses(policy, prompt, 4)
    rollouts = policy.sample([prompt], 400, seed=9)
    learned = value.along(rollouts)
    assert learned.shape == rollouts.tokens.shape
    np.testing.assert_array_equal(np.isnan(learned), ~rollouts.mask.numpy())
    for t in range(1, length + 1):
        mass, worth = {}, {}
        for tokens, p in exact.items():
            said = policy.tokenizer.decode(tokens, skip_special_tokens=True)
            mass[tokens[:t]] = mass.get(tokens[:t], 0) + p
            worth[tokens[:t]] = worth.get(tokens[:t], 0) + p * ones([prompt], [said])[0]
        rows = rollouts.mask[:, t - 1].numpy()
        heads = [tuple(tokens[:t].tolist()) for tokens in rollouts.tokens[rows]]
        truth = np.array([worth[head] / mass[head] for head in heads])
        found = learned[rows, t - 1]
        assert np.corrcoef(found, truth)[0, 1] > 0.95 and np.mean((found - truth) ** 2) < 0.5 * truth.var()


def test_the_value_of_a_whole_response_is_close_to_its_reward_and_in_its_order(policy, value):
    rollouts = policy.sample(PROMPTS[:12], 20, seed=4)
    learned, true = value.along(rollouts), score(ones, rollouts.row_prompts, rollouts.responses)
    last = learned[np.arange(len(learned)), rollouts.mask.sum(1).numpy() - 1]
    assert np.abs(last - true).mean() < 0.25 * np.abs(true - true.mean()).mean()
    means = [last[true == level].mean() for level in np.unique(true) if (true == level).sum() >= 5]
    assert len(means) >= 4 and (np.diff(means) > 0).all()


@pytest.mark.parametrize("block", [1, 2, 4])
def test_block_by_block_it_reads_what_it_reads_along_whole_responses(policy, value, block):
    """The values that a decoder saw, with its caches branched and cut, are those of the responses read at once."""
    seen = []

    class Spy(LearnedValue):
        def reader(self, policy, ids, mask):
            reader = super().reader(policy, ids, mask)
            read = reader.read

            def remember(prefixes, rows, new):
                values = read(prefixes, rows, new)
                seen.append((prefixes.tokens[rows], prefixes.mask[rows], prefixes.texts(rows)[0], values))
                return values

            reader.read = remember
            return reader

    spy = Spy(value.policy, value.head, {})
    prompts = ["w0 w1 w2", "w4"]
    for decoder in (Blockwise(spy, block, 3), TreeSearch(spy, 2, 2, block)):
        draws = decoder.draw(policy, prompts, 6, seed=0)
        np.testing.assert_array_equal(draws.read, draws.drawn)
    assert len(seen) >= 2 * (4 // block)
    for tokens, mask, asked, values in seen[:: max(1, len(seen) // 8)]:
        for row in range(0, len(tokens), 3):
            start = policy.tokenizer(asked[row])["input_ids"]
            said = tokens[row][mask[row]]
            hidden = policy.model.base_model(torch.tensor([[*start, *said.tolist()]])).last_hidden_state[
                :, len(start) :
            ]
            embedding, zero = policy.model.get_input_embeddings()(said)[None], torch.zeros(1)
            hidden, embedding = hidden.detach(), embedding.detach()
            alone, _ = value.head(hidden, embedding, torch.ones(1, len(said), dtype=torch.bool), zero[:, None], zero)
            assert float(value.head.rewards(alone)[0, -1]) == pytest.approx(float(values[row]), abs=1e-4)


def test_a_policy_that_moved_is_guided_by_the_old_states(policy, value):
    other = tiny(seed=1, max_new_tokens=4)
    other.tokenizer = policy.tokenizer
    plain = other.sample(PROMPTS[:6], 40, seed=0)
    draws = Blockwise(value, 2, 4).draw(other, PROMPTS[:6], 40, seed=0)
    assert draws.rewards(ones).mean() > ones(plain.row_prompts, plain.responses).mean() + 0.3


def test_a_calibrated_value_is_of_the_rank_among_the_prompts_own_samples(policy):
    value = LearnedValue.fit(policy, ones, PROMPTS, samples=24, epochs=12, width=32, calibrated=True)
    assert value.calibrated and value.report()["target"] == "calibrated reward"
    assert value.report()["constant"] == pytest.approx(0.5, abs=1e-9)  # mid-ranks have mean 1/2
    rollouts = policy.sample(PROMPTS[:20], 16, seed=3)
    rewards = score(ones, rollouts.row_prompts, rollouts.responses).reshape(20, 16)
    last = value.along(rollouts)[np.arange(320), rollouts.mask.sum(1).numpy() - 1]
    assert np.corrcoef(last, EmpiricalCalibrator(rewards)(rewards).ravel())[0, 1] > 0.8
    with pytest.raises(ValueError, match="reward must be None beside a value of calibrated rewards"):
        Blockwise(value, reward=ones)


def test_fitting_repeats_and_leaves_the_callers_randomness_alone(policy):
    torch.manual_seed(5)
    one, again, other = (
        LearnedValue.fit(policy, ones, PROMPTS[:10], samples=4, epochs=1, width=8, seed=seed) for seed in (0, 0, 1)
    )
    after = torch.rand(1)
    torch.manual_seed(5)
    assert after == torch.rand(1)
    assert all(torch.equal(a, b) for a, b in zip(*(h.head.state_dict().values() for h in (one, again)), strict=True))
    assert not torch.equal(one.head.first.weight, other.head.first.weight)


def test_it_is_read_back_as_it_was_written(policy, value, tmp_path):
    value.save(tmp_path / "value.npz")
    back, rollouts = LearnedValue.load(tmp_path / "value.npz", policy), policy.sample(["w0"], 5, seed=0)
    np.testing.assert_array_equal(back.along(rollouts), value.along(rollouts))
    assert back.report() == value.report() and not back.calibrated
    with np.load(tmp_path / "value.npz", allow_pickle=False) as data:
        assert "about" in data.files
    with pytest.raises(ValueError, match="must be used with the model it was fitted on, got tiny"):
        LearnedValue.load(tmp_path / "value.npz", tiny(seed=1, max_new_tokens=4))
    (tmp_path / "bad.npz").write_bytes(b"PK not a value")
    with pytest.raises(ValueError, match="value must be a file that LearnedValue.save wrote, got .*bad.npz"):
        LearnedValue.load(tmp_path / "bad.npz", policy)
    with pytest.raises(FileNotFoundError):
        LearnedValue.load(tmp_path / "none.npz", policy)


def test_a_policy_with_other_tokens_is_refused(value):
    for other in (tiny(words=4), EnumerablePolicy(PrefixTable(3, 2), 3, 2)):
        with pytest.raises(ValueError, match="policy must have the tokens of the value's model tiny, got"):
            Blockwise(value).draw(other, ["w1"], 1, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 1}, "samples must be an integer of at least 2, got 1"),
        ({"epochs": 0}, "epochs must be an integer of at least 1, got 0"),
        ({"prompts": ["w0"]}, "must leave each part a prompt, got 1 prompts"),
        ({"held_out": 0.0}, "held_out must be a number between 0 and 1, got 0.0"),
        ({"reward": lambda p, t: np.full(len(t), np.inf)}, "rewards must be finite"),
    ],
)
def test_errors_name_the_field(policy, options, message):
    given = {"reward": ones, "prompts": PROMPTS[:8], "samples": 2, "epochs": 1} | options
    with pytest.raises(ValueError, match=message):
        LearnedValue.fit(policy, given.pop("reward"), given.pop("prompts"), **given)


def test_text_values_need_no_model():
    assert TextValue(ones).passes == 0 and not TextValue(ones).calibrated
    assert EOS in tiny().stops


@pytest.mark.slow
def test_on_the_embedded_model_it_explains_half_of_the_reward_and_pays():
    policy, reward = load("embedded"), GoldReward("helpfulness")
    train, heldout = (
        [p.text for p in prompts if p.kind == "harmless"] for prompts in (world.TRAIN_PROMPTS, world.HELDOUT_PROMPTS)
    )
    value = LearnedValue.fit(policy, reward, train)
    report = value.report()
    assert report["r2"] > 0.6 and report["r2_within_prompt"] > 0.6 and report["r2_whole_response"] > 0.6
    rollouts = policy.sample(heldout[:100], 16, seed=1)
    last = value.along(rollouts)[np.arange(1600), rollouts.mask.sum(1).numpy() - 1]
    true = score(reward, rollouts.row_prompts, rollouts.responses)
    assert 1 - np.mean((last - true) ** 2) / true.var() > 0.5  # pairs of topic and request never seen
    draws = Blockwise(value, 4, 4).draw(policy, heldout[:100], 8, seed=2)
    best_of = reward(rollouts.row_prompts, rollouts.responses).reshape(100, 4, 4).max(2).mean()
    assert draws.rewards(reward).mean() > best_of  # more than best-of-4, for as many tokens drawn
    assert abs(draws.drawn.mean() / 4 - rollouts.mask.sum(1).float().mean()) < 3
