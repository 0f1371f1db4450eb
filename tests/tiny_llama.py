"""A random two-layer Llama with a chat template, as SmolLM2 has: the shape of a real model without its weights."""

import torch
from tiny_policy import SPECIAL, tokenizer_of
from transformers import LlamaConfig, LlamaForCausalLM

from infalign_edu.lm.policy import Policy

WORDS = [f"w{i}" for i in range(9)]
TEMPLATE = (
    "{% for m in messages %}<sep> {{ m['role'] }} {{ m['content'] }} <eos> {% endfor %}"
    "{% if add_generation_prompt %}<sep> assistant {% endif %}"
)


def tiny_llama(*, seed: int = 0, dtype: torch.dtype = torch.float32, sharpness: float = 4.0, length: int = 5) -> Policy:
    """A policy with grouped-query attention, tied embeddings and a chat template."""
    torch.manual_seed(seed)
    words = ["user", "assistant", *WORDS]
    config = LlamaConfig(
        vocab_size=len(SPECIAL) + len(words), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.norm.weight *= sharpness  # tied embeddings would only repeat themselves if it were much larger
    tokenizer = tokenizer_of(words)
    tokenizer.chat_template = TEMPLATE
    return Policy(model.to(dtype), tokenizer, name="tiny llama", max_new_tokens=length)
