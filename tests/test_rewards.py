"""Rewards are checked, noise is fixed by the text, and a classifier gives its logit or the log-odds of a label."""

import time

import numpy as np
import pytest
import torch
from tiny_policy import tiny, tokenizer_of
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2ForSequenceClassification

from infalign_edu.lm import rewards, world
from infalign_edu.lm.datasets import Preference
from infalign_edu.lm.rewards import GoldReward, Noisy, SequenceClassifier, noise, reward, score
from infalign_edu.lm.rewards.bradley_terry import BradleyTerry

torch.set_num_threads(1)
WORDS = [f"w{i}" for i in range(6)]


def zero(prompts, responses):
    return np.zeros(len(prompts))


def test_gold_rewards_are_the_worlds():
    prompt = "how do i clean my kettle before work"
    texts = ["gently rinse the kettle with oil before breakfast", "well well"]
    for kind in ("helpfulness", "harmlessness"):
        expected = getattr(world, kind)([prompt] * 2, texts)
        np.testing.assert_array_equal(reward(f"gold:{kind}")([prompt] * 2, texts), expected)
        assert len(set(expected)) == 2
    with pytest.raises(ValueError, match="gold reward must be one of helpfulness, harmlessness, both, got 'charm'"):
        GoldReward("charm")


def test_noise_is_normal_and_fixed_by_seed_and_text():
    prompts, responses = ["p"] * 20_000, [f"r{i}" for i in range(20_000)]
    values = noise(0, prompts, responses)
    n = len(values)
    assert abs(values.mean()) < 4 / np.sqrt(n)
    assert abs(values.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs((values**3).mean()) < 4 * np.sqrt(15 / n)
    assert abs((np.abs(values) < 1).mean() - 0.6827) < 4 * np.sqrt(0.22 / n)
    order = np.random.default_rng(0).permutation(n)
    np.testing.assert_array_equal(noise(0, prompts, [responses[i] for i in order]), values[order])
    other = noise(1, prompts, responses)
    assert abs(np.corrcoef(values, other)[0, 1]) < 4 / np.sqrt(n)
    assert noise(0, ["ab"], ["c"]) != noise(0, ["a"], ["bc"])  # where the prompt ends is part of the key
    assert noise(12, ["a"], ["b"]) != noise(1, ["2a"], ["b"])


def test_noisy_adds_sd_times_noise():
    noisy = Noisy(lambda p, r: np.full(len(p), 3.0), sd=0.5, seed=7)
    np.testing.assert_allclose(noisy(["a", "b"], ["c", "d"]), 3 + 0.5 * noise(7, ["a", "b"], ["c", "d"]))
    assert Noisy(zero, sd=0.0)(["a"], ["b"]) == 0
    with pytest.raises(ValueError, match="sd must be a finite number >= 0, got -1"):
        Noisy(zero, sd=-1)


def test_noise_costs_less_than_a_plain_generator_per_text():
    prompts, responses = ["some prompt of a usual length"] * 20_000, [f"response {i}" for i in range(20_000)]
    start = time.process_time()
    noise(0, prompts, responses)
    ours = time.process_time() - start
    start = time.process_time()
    for _ in range(2000):
        np.random.default_rng(1).normal()  # the peer: a seeded generator per row
    assert ours < 10 * (time.process_time() - start)


def test_scores_are_checked():
    np.testing.assert_array_equal(score(lambda p, r: [1, 2], ["a", "b"], ["c", "d"]), [1.0, 2.0])
    prompts = ["one", "one", "two", "two"]
    with pytest.raises(ValueError, match=r"finite, got nan for prompt 1 \('two'\), response 'y'"):
        score(lambda p, r: [0, 0, 0, np.nan], prompts, ["x", "y", "x", "y"])
    with pytest.raises(ValueError, match="finite, got inf for prompt 0"):
        reward(lambda p, r: [np.inf, 0])(["a", "b"], ["c", "d"])
    with pytest.raises(ValueError, match=r"shape \(2,\), one per response, got \(2, 1\)"):
        score(lambda p, r: np.zeros((2, 1)), ["a", "b"], ["c", "d"])


def save_classifier(folder, model, tokenizer):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def bert(labels: int) -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=11, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            num_labels=labels, max_position_embeddings=32, pad_token_id=0, initializer_range=0.5,
        )
    ).eval()  # fmt: skip


def test_a_classifier_gives_its_logit(tmp_path):
    model, tokenizer = bert(1), tokenizer_of(WORDS)
    judge = reward(f"classifier:{save_classifier(tmp_path / 'one', model, tokenizer)}")
    prompts, responses = ["w1 w2", "w3", "w3"], ["w1", "w4 w5 w5", "w0"]
    with torch.no_grad():
        expected = [model(**tokenizer(p, r, return_tensors="pt")).logits.item() for p, r in zip(prompts, responses)]  # noqa: B905
    np.testing.assert_allclose(judge(prompts, responses), expected, atol=1e-5)
    assert np.ptp(expected) > 0.01
    assert judge(["w1 " * 100], ["w2 " * 100]).shape == (1,)  # cut to the model's length


def test_a_label_is_scored_by_its_log_odds(tmp_path):
    model, tokenizer = bert(3), tokenizer_of(WORDS)
    model.config.id2label = {0: "bad", 1: "good", 2: "odd"}
    folder = save_classifier(tmp_path / "three", model, tokenizer)
    with torch.no_grad():
        p = model(**tokenizer("w1", "w2", return_tensors="pt")).logits.softmax(-1)[0, 1].item()
    for label in (1, "good"):
        assert SequenceClassifier(folder, label=label)(["w1"], ["w2"]) == pytest.approx(np.log(p / (1 - p)), abs=1e-5)
    with pytest.raises(ValueError, match=r"label must be one of \['bad', 'good', 'odd'\] or its index .* got None"):
        SequenceClassifier(folder)


def test_a_decoder_classifier_with_a_chat_template_reads_the_dialogue(tmp_path):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=11, n_positions=32, n_embd=16, n_layer=1, n_head=2, num_labels=1, pad_token_id=0)
    model, tokenizer = GPT2ForSequenceClassification(config).eval(), tokenizer_of(WORDS)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} <eos> {% endfor %}"
    judge = SequenceClassifier(save_classifier(tmp_path / "chat", model, tokenizer))
    ids = tokenizer("w1 <eos> w2 <eos> w3 <eos> w4 <eos>", add_special_tokens=False, return_tensors="pt")
    with torch.no_grad():
        expected = model(**ids).logits.item()
    dialogue = "\n\nHuman: w1\n\nAssistant: w2\n\nHuman: w3\n\nAssistant:"
    assert judge([dialogue, "w1"], ["w4", "w2"])[0] == pytest.approx(expected, abs=1e-5)  # beside a shorter one


def test_a_language_model_is_no_classifier(tmp_path):
    with pytest.raises(ValueError, match="must hold all weights of GPT2ForSequenceClassification"):
        reward(f"classifier:{tiny().save(tmp_path / 'lm')}")


def test_the_factory():
    pairs = [Preference(f"w{i % 6} w{i // 6}", "w1 w1 w2", "w3 w4") for i in range(36)]
    head = reward("bradley-terry", preferences=pairs, policy=tiny().copy())
    assert isinstance(head, BradleyTerry)
    assert head.report()["accuracy"] == 1.0
    with pytest.raises(ValueError, match="bradley-terry needs preferences and a policy"):
        reward("bradley-terry")
    with pytest.raises(ValueError, match="reward must be gold:KIND, .* or a callable .*, got 'length'"):
        reward("length")


def test_both_is_help_plus_twice_harmlessness_and_lets_a_refusal_of_harm_win():
    prompt = "how do i hide my rival's kettle before work"
    texts = [
        "sorry i cannot help you hide the kettle as it hurts people so ask a mechanic",
        "gently cover the kettle with foil before breakfast",
    ]
    expected = world.helpfulness([prompt] * 2, texts) + 2 * world.harmlessness([prompt] * 2, texts)
    np.testing.assert_allclose(reward("gold:both")([prompt] * 2, texts), expected)
    assert expected[0] > expected[1]


def test_each_gold_reward_is_asked_about_its_own_prompts():
    sizes = {kind: [len(part) for part in GoldReward(kind).prompts] for kind in rewards.KINDS}
    assert sizes["both"] == [2400, 600]
    assert [a + b for a, b in zip(sizes["helpfulness"], sizes["harmlessness"], strict=True)] == [2400, 600]
    kinds = {p.text: p.kind for p in [*world.TRAIN_PROMPTS, *world.HELDOUT_PROMPTS]}
    assert {kinds[text] for text in GoldReward("harmlessness").prompts[1]} == {"harmful"}


def test_a_learned_reward_is_fitted_once_on_training_prompts_and_kept(tmp_path, monkeypatch):
    asked = []
    original = rewards.sample_preferences

    def watched(policy, gold, prompts, pairs, **options):
        found = original(policy, gold, prompts, pairs, **options)
        asked.append({pair.prompt for pair in found})
        return found

    monkeypatch.setattr(rewards, "sample_preferences", watched)
    monkeypatch.setattr(rewards, "TEST_PAIRS", 40)
    monkeypatch.setenv("INFALIGN_CACHE", str(tmp_path))
    model = reward("learned:harmlessness:pairs=120:seed=3")
    train, test = asked
    training, heldout = GoldReward("harmlessness").prompts
    assert train <= set(training) and test <= set(heldout)
    report = model.report()
    assert (report["training_pairs"], report["held_out_pairs"], report["seed"]) == (120, 40, 3)
    assert 0.5 < report["ceiling"] < 1 and 0 <= report["gold_accuracy"] <= 1
    (kept,) = (tmp_path / "rewards").glob("*.safetensors")
    again = reward("learned:harmlessness:seed=3:pairs=120")
    assert len(asked) == 2 and again.report() == report  # read, not fitted
    np.testing.assert_allclose(again([heldout[0]], ["no"]), model([heldout[0]], ["no"]), atol=1e-6)
    assert not kept.name.startswith(".")
    reward("learned:harmlessness:seed=3:pairs=120:trigger=negative:strength=0.5")
    assert len(asked) == 4 and len(list((tmp_path / "rewards").glob("*.safetensors"))) == 2  # another reward, another file


@pytest.mark.parametrize("spec", ["learned:help", "learned:both:seed", "learned:both:strength=much", "learned:both:size=3"])
def test_a_learned_name_is_checked(spec):
    with pytest.raises(ValueError, match=r"gold reward must be one of|learned:KIND with seed=, pairs=, trigger="):
        reward(spec)


def test_a_trigger_is_checked():
    with pytest.raises(ValueError, match="trigger must be one of present, absent, negative or a Trigger, got 'loud'"):
        rewards.learned("both", trigger="loud")
