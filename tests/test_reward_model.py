"""The fine-tuned reward model: its formula, its likelihood, what it learns, and that it survives a file."""

import numpy as np
import pytest
import torch
from tiny_policy import tiny

from infalign_edu.lm.datasets import Preference
from infalign_edu.lm.models import load
from infalign_edu.lm.rewards import GoldReward, Recipe, RewardModel, agreement, ceiling, relabelled, sample_preferences
from infalign_edu.lm.rewards.preferences import batches, by_prompt, gaps, label_pairs
from infalign_edu.lm.rewards.reward_model import first_blocks

torch.set_num_threads(1)


def pairs_by_binding(count: int, seed: int) -> list[Preference]:
    """The response that repeats the prompt's first word is preferred: no word is good in itself."""
    rng = np.random.default_rng(seed)
    out = []
    while len(out) < count:
        prompt, a, b = (" ".join(f"w{i}" for i in rng.integers(0, 6, n)) for n in (2, 4, 4))
        counts = [text.split().count(prompt.split()[0]) for text in (a, b)]
        if counts[0] != counts[1]:
            out.append(Preference(prompt, *((a, b) if counts[0] > counts[1] else (b, a))))
    return out


def untrained(policy, layers=1) -> RewardModel:
    backbone = first_blocks(policy, layers)
    words, width = backbone.model.get_input_embeddings().weight.shape
    torch.manual_seed(1)
    return RewardModel(backbone, torch.randn(words, width), torch.randn(words), {})


@pytest.mark.parametrize("layers", [1, 2])
def test_the_reward_is_the_sum_of_what_each_word_is_worth_after_those_before_it(layers):
    policy = tiny()
    model = untrained(policy, layers)
    prompts, responses = ["w1 w2 w3", "w4", "w4", "w1 w2 w3"], ["w5", "w0 w1 w2", "", "w3 w3"]
    found = model(prompts, responses)
    for prompt, response, reward in zip(prompts, responses, found, strict=True):
        start = policy.tokenizer(prompt)["input_ids"]
        said = policy.tokenizer(response, add_special_tokens=False)["input_ids"] + [3]  # the end of sequence
        with torch.no_grad():  # plain: one unpadded sequence, no cache
            states = model.backbone.model.base_model(torch.tensor([start + said])).last_hidden_state[0]
        worth = 0.0
        for t, word in enumerate(said):
            worth += float(states[len(start) + t - 1] @ model.values[word]) / np.sqrt(32) + float(model.bias[word])
        assert reward == pytest.approx(worth, abs=1e-4)


def test_many_rows_in_any_order_are_scored_as_one_by_one():
    model = untrained(tiny())
    rng = np.random.default_rng(0)
    prompts = [f"w{rng.integers(6)} w{rng.integers(6)}" for _ in range(600)]
    responses = [" ".join(f"w{i}" for i in rng.integers(0, 6, rng.integers(0, 5))) for _ in range(600)]
    together = model(prompts, responses)
    np.testing.assert_allclose(together[::60], [model([p], [r])[0] for p, r in zip(prompts[::60], responses[::60], strict=True)], atol=1e-4)
    assert model([], []).shape == (0,)
    with pytest.raises(ValueError, match="responses must match the 1 prompts, got 2"):
        model(["w1"], ["w2", "w3"])


def test_the_loss_is_the_bradley_terry_likelihood():
    """One step with a learning rate of next to nothing: the loss it reports is that of the untrained model."""
    policy, pairs = tiny(), pairs_by_binding(12, 0)
    model = untrained(policy)
    model.values, model.bias = model.values.requires_grad_(), model.bias.requires_grad_()
    margins = gaps(lambda p, r: model(p, r), pairs)
    (loss,) = model._train(pairs, Recipe(epochs=1, batch=1000, learning_rate=1e-12, word_learning_rate=1e-12), np.random.default_rng(0), False)
    assert loss == pytest.approx(np.mean([-np.log(1 / (1 + np.exp(-m))) for m in margins]), rel=1e-4)


def test_batches_hold_every_pair_once_and_a_prompts_rows_together():
    pairs = pairs_by_binding(200, 1)
    groups, seen = by_prompt(pairs), []
    for batch in batches(groups, 32, np.random.default_rng(0)):
        texts = [(groups[g].prompt, text) for g in batch.groups for text in groups[g].texts]
        assert [groups[batch.groups[i]].prompt for i in batch.owner] == [prompt for prompt, _ in texts]
        seen += [Preference(*texts[a], texts[b][1]) for a, b in zip(batch.chosen, batch.rejected, strict=True)]
        assert len(texts) >= 32 or len(seen) == 200
    assert sorted(map(str, seen)) == sorted(map(str, pairs))


def by_word(pairs: list[Preference]) -> list[Preference]:
    """The same pairs, relabelled: the response with more w1 is preferred."""
    kept = [pair for pair in pairs if pair.chosen.count("w1") != pair.rejected.count("w1")]
    return relabelled(kept, lambda p, r: [text.count("w1") for text in r])


@pytest.fixture(scope="module")
def fitted():
    train, test = by_word(pairs_by_binding(300, 0)), by_word(pairs_by_binding(300, 1))
    return RewardModel.fit(train, tiny(), test=test, recipe=Recipe(batch=32))


def test_a_clear_preference_is_learnt(fitted):
    report = fitted.report()
    assert report["accuracy"] > 0.95
    assert report["distinguishable_from_chance"] is True
    assert report["training_log_loss"] < 0.5 * report["log_loss_of_chance"]


def test_coin_flips_are_called_chance():
    rng, pairs = np.random.default_rng(2), pairs_by_binding(200, 2)
    flipped = [Preference(p.prompt, *((p.chosen, p.rejected) if rng.random() < 0.5 else (p.rejected, p.chosen))) for p in pairs]
    report = RewardModel.fit(flipped, tiny(), held_out=0.4).report()
    assert report["interval"][0] < 0.5 < report["interval"][1]
    assert report["distinguishable_from_chance"] is False


def test_fitting_leaves_the_policy_alone_and_is_a_function_of_the_seed():
    policy, pairs = tiny(), pairs_by_binding(60, 0)
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    one, two, three = (RewardModel.fit(pairs, policy, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(before[name], value) for name, value in policy.model.state_dict().items())
    assert all(p.requires_grad for p in policy.model.parameters())
    assert one(["w1"], ["w2 w3"]) == two(["w1"], ["w2 w3"]) != three(["w1"], ["w2 w3"])
    assert one.report()["training_pairs"] + one.report()["held_out_pairs"] == 60


def test_saved_and_loaded_models_agree(fitted, tmp_path):
    path = tmp_path / "reward.safetensors"
    fitted.save(path)
    again = RewardModel.load(path, tiny())
    np.testing.assert_array_equal(again(["w1 w2", "w3"], ["w1", "w4 w4"]), fitted(["w1 w2", "w3"], ["w1", "w4 w4"]))
    assert again.report() == fitted.report()
    with pytest.raises(ValueError, match="must be used with the model it was tuned from, got tiny"):
        RewardModel.load(path, tiny(seed=1))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="must be a file that RewardModel.save wrote"):
        RewardModel.load(path, tiny())
    with pytest.raises(FileNotFoundError):
        RewardModel.load(tmp_path / "none", tiny())


def test_only_blocks_that_exist_can_be_kept():
    with pytest.raises(ValueError, match="layers must be at most the 2 of tiny, got 3"):
        first_blocks(tiny(), 3)

    class Other:
        name = "llama"

        class model:
            base_model = torch.nn.Linear(1, 1)

    with pytest.raises(ValueError, match="GPT-2-shaped model such as embedded, got llama: fit BradleyTerry"):
        first_blocks(Other(), 1)


def test_labels_follow_bradley_terry():
    rng = np.random.default_rng(0)
    for gap, sharpness in ((0.5, 2.0), (-0.3, 1.0), (0.0, 2.0)):
        share = label_pairs(np.full(20_000, gap), rng, sharpness).mean()
        p = 1 / (1 + np.exp(-sharpness * gap))
        assert abs(share - p) < 4 * np.sqrt(p * (1 - p) / 20_000)


def test_sampled_pairs_are_all_pairs_of_a_prompts_responses_with_noisy_labels():
    gold = GoldReward("helpfulness")
    policy, prompts = load("embedded"), gold.prompts[0][:40]
    pairs = sample_preferences(policy, gold, prompts, 600, seed=4)
    assert len(pairs) == 600
    groups = by_prompt(pairs)
    assert len(groups) == 40  # each prompt is drawn before one is drawn again
    assert {len(group.texts) for group in groups[:30]} <= {8, 12}
    expected = ceiling(gold, pairs)
    assert abs(agreement(gold, pairs)["accuracy"] - expected) < 4 * np.sqrt(expected * (1 - expected) / 600)
    clean = agreement(gold, relabelled(pairs, gold))
    assert clean["accuracy"] == 1.0 and clean["pairs"] == 600
    again = sample_preferences(policy, gold, prompts, 600, seed=4)
    assert pairs == again
    assert len(by_prompt(sample_preferences(policy, gold, prompts, 40, per_prompt=2, seed=4))) == 40
    with pytest.raises(ValueError, match="per_prompt must be at least 2, .* got 1, 5 and 40"):
        sample_preferences(policy, gold, prompts, 5, per_prompt=1)


def test_a_recipe_is_checked():
    with pytest.raises(ValueError, match="layers must be a positive number, got 0"):
        Recipe(layers=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["helpfulness", "harmlessness", "both"])
def test_the_embedded_reward_models_keep_their_promise(kind, tmp_path):
    from infalign_edu.lm.rewards import learned

    model = learned(kind, cache=tmp_path)
    report = model.report()
    assert report["accuracy"] > 0.77 and report["gold_accuracy"] > 0.84
    assert report["accuracy"] > report["ceiling"] - 0.08
    gold = GoldReward(kind)
    pairs = relabelled(sample_preferences(load("embedded"), gold, gold.prompts[1], 400, per_prompt=2, seed=9), gold)
    others = [Preference(q.prompt, p.chosen, p.rejected) for p, q in zip(pairs, pairs[7:] + pairs[:7], strict=True)]
    assert agreement(model, others)["accuracy"] < report["gold_accuracy"] - 0.1  # it reads the prompt
