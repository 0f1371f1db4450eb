"""A language model whose every response can be written down, in a folder as TRL wants it, and its analytic optimum.

A GPT-2 with five words and responses of two: no word ends a response, since the tokenizer's end token lies outside the
model's vocabulary. Each of three prompts has its own distribution, rewards, table and optimum.
"""

import itertools

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from infalign_edu.lm.policy import Policy
from infalign_edu.lm.rewards import noise
from infalign_edu.theory.finite import FiniteProblem

WORDS, LENGTH, K = 5, 2, 64
PROMPTS = {"one": "w0", "two": "w1", "three": "w2"}
ASKED: list[str] = []  # what the reward was asked about in this process


def reward(prompts, responses):
    """A number for each prompt and response, the same in every process; no ties."""
    ASKED.extend(prompts)
    return noise(0, prompts, responses)


def write(folder, *, spread=1.0, seed=0):
    """The reference, with random weights, as `save_pretrained` leaves it."""
    torch.manual_seed(seed)
    names = [f"w{i}" for i in range(WORDS)]
    raw = Tokenizer(models.WordLevel({name: i for i, name in enumerate([*names, "<eos>"])}, unk_token="<eos>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>", pad_token="<eos>", unk_token="<eos>")
    config = GPT2Config(vocab_size=WORDS, n_positions=8, n_embd=32, n_layer=2, n_head=2, bos_token_id=WORDS,
                        eos_token_id=WORDS, pad_token_id=WORDS, tie_word_embeddings=False)  # fmt: skip
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for weight in model.transformer.wte.weight, model.transformer.wpe.weight:
            weight.normal_()
        model.lm_head.weight.normal_(std=spread / 32**0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def policy(folder):
    """The model of a folder as the library's policy."""
    model = GPT2LMHeadModel.from_pretrained(folder)
    return Policy(model, PreTrainedTokenizerFast.from_pretrained(folder), max_new_tokens=LENGTH)


def responses():
    return [" ".join(f"w{i}" for i in row) for row in itertools.product(range(WORDS), repeat=LENGTH)]


@torch.no_grad()
def distribution(model, prompt):
    """pi(y | prompt) of every response, by plain forwards. Shape: [WORDS^LENGTH]."""
    y = torch.tensor(list(itertools.product(range(WORDS), repeat=LENGTH)))
    ids = torch.cat([torch.full((len(y), 1), int(prompt[1:])), y], 1)
    steps = model(ids[:, :-1]).logits.double().log_softmax(-1)
    return steps.gather(-1, y[..., None])[..., 0].sum(-1).exp().numpy()


def problem(model, key):
    """The finite problem of a prompt: reference probabilities and rewards of all responses."""
    text, all_responses = PROMPTS[key], responses()
    return FiniteProblem(distribution(model, text), reward([text] * len(all_responses), all_responses))


def optimum(ctrl, model, key):
    """pi_ref exp(Phi / beta) with the Phi that training sees: through the prompt's own table."""
    text, said = PROMPTS[key], responses()
    phi = np.array(ctrl(prompts=[text] * len(said), completions=said, prompt_id=[key] * len(said)))
    return problem(model, key).rlhf(phi, ctrl.beta).policy
