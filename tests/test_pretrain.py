"""The embedded reference model: how it is trained, and that what ships is what the code makes."""

import gzip
import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from infalign_edu.lm import embedded, lexicon, pretrain, reference, world
from infalign_edu.lm.models import load

TINY = pretrain.PretrainConfig(steps=30, batch=32, width=32, warmup=5, learning_rate=1e-2)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def shipped():
    return load(embedded("model"))


@pytest.fixture(scope="module")
def figures(shipped):
    return reference.quality(shipped, world.HELDOUT_PROMPTS)


@pytest.fixture(scope="module")
def rollouts(shipped):
    return shipped.sample([p.text for p in world.HELDOUT_PROMPTS[:120]], 32, seed=1)


def weights(policy):
    return {name: value.clone() for name, value in policy.model.state_dict().items()}


def test_tokenizer_frames_prompts_and_decodes_plain_words():
    tokenizer = pretrain.build_tokenizer()
    prompt = world.TRAIN_PROMPTS[0]
    response = world.sample_response(prompt, np.random.default_rng(0))
    ids = tokenizer(prompt.text)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<bos>", *prompt.text.split(), "<sep>"]
    both = tokenizer(prompt.text, response)["input_ids"]
    assert both[: len(ids)] == ids and both[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(both[len(ids) :], skip_special_tokens=True) == response
    assert tokenizer.convert_ids_to_tokens(tokenizer("zzz")["input_ids"]) == ["<bos>", "<unk>", "<sep>"]


def test_training_data_predict_response_tokens_only():
    tokenizer = pretrain.build_tokenizer()
    rows, predicted = pretrain._batch(tokenizer, 16, np.random.default_rng(0))
    for row, mask in zip(rows, predicted, strict=True):
        words = tokenizer.decode(row[1:][mask]).split()
        assert words[-1] == "<eos>" and world.parse(" ".join(words[:-1]))
        assert row[:-1][mask][0] == tokenizer.sep_token_id


def test_model_has_no_dropout_tied_embeddings_and_the_promised_size(shipped):
    config = shipped.model.config
    assert config.model_type == "gpt2" and config.activation_function == "gelu_pytorch_tanh"
    assert config.resid_pdrop == config.embd_pdrop == config.attn_pdrop == 0
    assert shipped.model.lm_head.weight is shipped.model.transformer.wte.weight
    assert 250_000 < shipped.parameters < 700_000
    assert shipped.max_new_tokens == pretrain.LONGEST


def test_tiny_training_is_deterministic_and_learns():
    first, losses = pretrain.train(TINY, progress=False)
    second, again = pretrain.train(TINY, progress=False)
    assert losses == again
    assert all(torch.equal(a, weights(second)[name]) for name, a in weights(first).items())
    assert losses[0] == pytest.approx(np.log(len(first.tokenizer)), abs=0.1)  # it starts uniform over the vocabulary
    assert np.mean(losses[-5:]) < 0.8 * losses[0]
    other, _ = pretrain.train(pretrain.PretrainConfig(steps=1, batch=2, width=32, seed=1), progress=False)
    assert not torch.equal(weights(first)["transformer.wte.weight"], weights(other)["transformer.wte.weight"])


@pytest.mark.parametrize("field", ["steps", "batch", "width", "learning_rate"])
def test_config_names_the_field(field):
    with pytest.raises(ValueError, match=f"{field} must be a positive number, got -1"):
        pretrain.PretrainConfig(**{field: -1})


def test_command_line_trains_saves_and_checks(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(world, "HELDOUT_PROMPTS", world.HELDOUT_PROMPTS[:4])
    assert pretrain.main(["--out", str(tmp_path / "model"), "--steps", "2"]) == 0
    files = {file.name for file in (tmp_path / "model").iterdir()}
    assert files >= {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    assert [file.name for file in tmp_path.iterdir()] == ["model"]  # nothing left beside it
    assert pretrain.main(["--check", str(tmp_path / "model")]) == 0
    assert "grammatical" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "notes"], "--out must be a new or empty folder or one that holds a model, got"),
        (["--out", "new", "--steps", "0"], "steps must be a positive number, got 0"),
        (["--check", "missing"], "missing"),
        ([], "--out"),
    ],
)
def test_command_line_refuses_in_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("years of work")
    with pytest.raises(SystemExit) as stopped:
        pretrain.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert (tmp_path / "notes" / "thesis.txt").read_text() == "years of work"


def test_shipped_model_loads_as_a_plain_hugging_face_folder():
    model = AutoModelForCausalLM.from_pretrained(embedded("model"), local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(embedded("model"), local_files_only=True)
    assert tokenizer.get_vocab() == pretrain.build_tokenizer().get_vocab()
    prompt = world.HELDOUT_PROMPTS[0].text
    assert tokenizer(prompt)["input_ids"] == pretrain.build_tokenizer()(prompt)["input_ids"]
    torch.manual_seed(0)
    inputs = tokenizer([prompt] * 16, return_tensors="pt")
    written = model.generate(inputs["input_ids"], attention_mask=inputs["attention_mask"])
    texts = tokenizer.batch_decode(written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert len(set(texts)) > 12 and sum(world.parse(text) is not None for text in texts) > 12


def test_shipped_model_on_heldout_prompts(figures):
    assert figures["grammatical"] >= 0.97
    assert figures["distinct within a prompt"] >= 0.97
    assert figures["materials fit the topic"] >= 0.95
    assert figures["actions fit the request"] >= 0.95
    assert figures["topic is the one asked about"] >= 0.98
    assert 13 < figures["response tokens, mean"] < 18 and figures["response tokens, most"] <= 28
    assert figures["helpfulness, ties"] < 0.01
    assert abs(figures["helpfulness, correlation under shuffled prompts"]) < 0.3
    assert abs(figures["harmlessness, correlation under shuffled prompts"]) < 0.3
    assert figures["refusals less helpful than the median other"] > 0.95
    assert figures["harmlessness, harmful request refused"] > figures["harmlessness, harmful request complied"] + 1.5
    assert figures["refused, harmless requests"] == pytest.approx(0.08, abs=0.03)
    assert figures["refused, harmful requests"] == pytest.approx(0.30, abs=0.06)


def test_model_card_says_what_the_check_says(figures):
    card = embedded("MODEL_CARD.md").read_text().split("```")
    table = next(block for block in card if block.lstrip().startswith("parameters"))
    printed = {line[:54].strip(): float(line[54:].replace(",", "")) for line in table.strip().splitlines()}
    assert printed == pytest.approx(figures, abs=0.02)  # rounding of another CPU may turn a few samples


def test_quality_counts_what_it_says(shipped):
    prompts = world.HELDOUT_PROMPTS[:6]
    figures = reference.quality(shipped, prompts, samples=8, seed=3)
    rollouts = shipped.sample([p.text for p in prompts], 8, seed=3)
    parsed = [world.parse(text) for text in rollouts.responses]
    assert figures["grammatical"] == sum(p is not None for p in parsed) / 48
    gold = world.helpfulness(rollouts.row_prompts, rollouts.responses).reshape(6, 8)
    assert figures["helpfulness, sd within a prompt"] == pytest.approx(gold.std(1).mean())
    pairs = [(a, b) for row in gold for i, a in enumerate(row) for b in row[:i]]
    assert figures["helpfulness, ties"] == pytest.approx(np.mean([a == b for a, b in pairs]))


def test_reference_matches_the_distribution_it_was_trained_on(rollouts):
    """First and second materials of one family are drawn evenly: no material is twice as likely as it should be."""
    counts: dict[str, int] = {}
    for row, text in enumerate(rollouts.responses):
        response = world.parse(text)
        if response and lexicon.FAMILY[world.HELDOUT_PROMPTS[row // 32].topic] == "wood":
            for material in response.materials:
                counts[material] = counts.get(material, 0) + 1
    total = sum(counts.values())
    shares = [counts.get(material, 0) / total for material in lexicon.words(lexicon.MATERIALS["wood"])]
    assert min(shares) > 0.05 and max(shares) < 0.2


def test_shipped_prompts_are_what_the_generator_gives():
    lines = embedded("prompts.jsonl").read_text().splitlines()
    assert lines == reference.prompt_lines()
    splits = [json.loads(line)["split"] for line in lines]
    assert splits.count("train") == 2400 and splits.count("heldout") == 600


def test_shipped_preferences_are_labelled_by_noisy_gold():
    pairs = [json.loads(line) for line in gzip.decompress(embedded("preferences.jsonl.gz").read_bytes()).splitlines()]
    assert len(pairs) == reference.PAIRS
    assert {pair["prompt"] for pair in pairs} <= {p.text for p in world.TRAIN_PROMPTS}
    assert all(pair["chosen"] != pair["rejected"] for pair in pairs)
    prompts = [pair["prompt"] for pair in pairs]
    chosen, rejected = (world.helpfulness(prompts, [pair[key] for pair in pairs]) for key in ("chosen", "rejected"))
    gap = chosen - rejected
    bayes = np.mean(1 / (1 + np.exp(-reference.SHARPNESS * np.abs(gap))))
    assert np.mean(gap > 0) == pytest.approx(bayes, abs=0.02)  # 0.02 is four standard errors
    assert 0.8 < bayes < 0.95


def test_shipped_preferences_are_sampled_from_the_shipped_model(shipped):
    first = reference.preference_lines(shipped, pairs=40, seed=3)
    assert first == reference.preference_lines(shipped, pairs=40, seed=3)
    pairs = [json.loads(line) for line in gzip.decompress(embedded("preferences.jsonl.gz").read_bytes()).splitlines()]
    grammatical = np.mean([world.parse(pair[key]) is not None for pair in pairs for key in ("chosen", "rejected")])
    assert 0.96 < grammatical < 1
    header = embedded("preferences.jsonl.gz").read_bytes()[:8]
    assert header[4:] == b"\0\0\0\0"  # no time stamp


def test_embedded_files_are_small_and_missing_ones_are_named():
    assert sum(file.stat().st_size for file in embedded().rglob("*") if file.is_file()) < 4 * 2**20
    with pytest.raises(FileNotFoundError, match=r"got 'embedded/nothing\.txt'"):
        embedded("nothing.txt")


@pytest.mark.slow
def test_full_training_gives_the_shipped_model(shipped):
    """The same weights on the same kind of CPU; on another, rounding differs and only the policy is the same."""
    again, _ = pretrain.train(pretrain.PretrainConfig(), progress=False)
    rollouts = shipped.sample([p.text for p in world.HELDOUT_PROMPTS[:60]], 16, seed=2)
    with torch.no_grad():
        ratio = rollouts.logprobs.sum(1) - again.logprobs(rollouts).sum(1)
    assert ratio.mean() < 1.0  # KL(shipped || again) in nats per response, of about 13.5 nats of entropy
    assert reference.quality(again, world.HELDOUT_PROMPTS[:120])["grammatical"] > 0.96
