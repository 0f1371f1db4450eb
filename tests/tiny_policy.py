"""A random two-layer GPT-2 with a word-level tokenizer: small enough that its distribution can be enumerated."""

import itertools

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from infalign_edu.lm.policy import Policy

SPECIAL = ["<pad>", "<bos>", "<sep>", "<eos>", "<unk>"]
EOS = 3


def tokenizer_of(words: list[str], **special: str) -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *words])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(
        single="<bos> $A <sep>", special_tokens=[("<bos>", 1), ("<sep>", 2)]
    )
    names = {"pad_token": "<pad>", "bos_token": "<bos>", "sep_token": "<sep>", "eos_token": "<eos>"} | special
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", **names)


def tiny(
    words: int = 6, *, seed: int = 0, sharpness: float = 8.0, max_new_tokens: int = 5, positions: int = 64
) -> Policy:
    """A policy over `words` words w0, w1, ...; `sharpness` scales its head, so that it is far from uniform."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(SPECIAL) + words, n_positions=positions, n_embd=32, n_layer=2, n_head=4,
        bos_token_id=1, eos_token_id=EOS, pad_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        model.lm_head.weight *= sharpness
    return Policy(model, tokenizer_of([f"w{i}" for i in range(words)]), name="tiny", max_new_tokens=max_new_tokens)


@torch.no_grad()
def enumerate_responses(policy: Policy, prompt: str, length: int) -> dict[tuple[int, ...], float]:
    """Probability of every token sequence that ends with <eos> or is cut at `length`, by plain unpadded forwards."""
    start = policy.tokenizer(prompt)["input_ids"]
    vocabulary = policy.model.config.vocab_size
    out, open_ends = {}, {(): 1.0}
    for t in range(length):
        heads = list(open_ends)
        ids = torch.tensor([start + list(head) for head in heads])
        step = policy.model(ids).logits[:, -1].double().softmax(-1)
        grown = {}
        for (head, token), p in zip(itertools.product(heads, range(vocabulary)), step.flatten().tolist(), strict=True):
            target = out if token == EOS or t + 1 == length else grown
            target[(*head, token)] = open_ends[head] * p
        open_ends = grown
    return out
