"""Sampling against transformers' `generate`: tokens per CPU second, on the same prompts and to the same length.

A token counts up to the end of its response; what is computed after that counts for nobody. Ours pays for decoding the
text as well. The check: the log-probabilities that came with our samples, against a plain pass of the model without a
cache. Memory: the peak of a process that samples for one lot of prompts, and for eight.
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

import torch

from benchmarks.rows import memory
from benchmarks.rows.training import SIZES, TINY, WORDS, Size, model
from benchmarks.table import Check, Row, in_turns
from infalign_edu.lm.datasets import load_prompts
from infalign_edu.lm.rollouts import Rollouts

LIMIT = 1e-5
BATCH = 256  # rows that `generate` is given at a time; it is slower with 64 and with 1,024
BASE = 64  # prompts of the smaller process
GROWTH = 1.25  # times the memory that 8 times the prompts may take: the samples are kept, the caches are not


def asked(count: int) -> list[str]:
    """Prompts of the embedded world, all of the same number of tokens, again from the first if there are too few."""
    found = [p for p in load_prompts("embedded").where(split="train", kind="harmless").prompts
             if len(p.split()) == WORDS]  # fmt: skip
    return (found * (count // len(found) + 1))[:count]


@torch.no_grad()
def agreement(policy: Any, rollouts: Rollouts, limit: float = LIMIT) -> Check:
    """The largest difference, in nats, between sampled log-probabilities and those of a pass without cache."""
    ids, seen = (x.repeat_interleave(rollouts.samples, 0) for x in (rollouts.prompt_ids, rollouts.prompt_mask))
    both, seen = torch.cat([ids, rollouts.tokens], 1), torch.cat([seen, rollouts.mask], 1)
    places = (seen.cumsum(1) - 1).clamp(min=0)
    logits = policy.model(both, attention_mask=seen.long(), position_ids=places, use_cache=False).logits.float()
    plain = logits[:, ids.shape[1] - 1 : -1].log_softmax(-1).gather(-1, rollouts.tokens[..., None])[..., 0]
    gap = (plain - rollouts.logprobs).masked_fill(~rollouts.mask, 0.0).abs().max()
    return Check("log-probabilities differ by", float(gap), limit).passed()


def generated(policy: Any, prompts: list[str], samples: int, batch: int = BATCH) -> int:
    """Draws `samples` responses a prompt with `generate` and counts their tokens."""
    ids, seen = policy.encode(prompts)
    count, each = 0, max(1, batch // samples)
    for part in range(0, len(prompts), each):
        found = policy.model.generate(
            ids[part : part + each], attention_mask=seen[part : part + each].long(), do_sample=True, temperature=1.0,
            top_k=0, top_p=1.0, num_return_sequences=samples, max_new_tokens=policy.max_new_tokens,
            eos_token_id=policy.stops, pad_token_id=policy.tokenizer.pad_token_id, disable_compile=True,
        )[:, ids.shape[1] :]  # fmt: skip
        ends = torch.isin(found, torch.tensor(policy.stops)).cumsum(1)
        count += int((ends == 0).sum() + (ends[:, -1] > 0).sum())
    return count


def sampling(size: Size, pairs: int, prompts: int = 64, samples: int = 16) -> Row:
    """Tokens per CPU second."""
    policy, texts = model(size), asked(prompts)
    check = agreement(policy, policy.sample(texts[:8], 4, seed=0))
    tokens: tuple[list[int], list[int]] = ([], [])
    ours, peer = in_turns(
        lambda: tokens[0].append(int(policy.sample(texts, samples).mask.sum())),
        lambda: tokens[1].append(generated(policy, texts, samples)),
        pairs,
    )
    rates = [tuple(n / s for n, s in zip(count[1:], cost, strict=True))
             for count, cost in zip(tokens, (ours, peer), strict=True)]  # fmt: skip
    what = f"sampling, {size.layers} layers of {size.width}, {prompts} x {samples} responses"
    return Row(f"sampling-{size.name}", what, "generate", "tokens a CPU s", *rates, check, 3.0, higher=True)


def bounded(size: Size, pairs: int, prompts: int = BASE) -> Row:
    """Peak memory of sampling for eight times the prompts, against that for one lot: the cache must not grow."""
    one, eight = [], []
    for _ in range(pairs):
        one.append(memory.peak("benchmarks.rows.sampling", size.name, str(prompts)))
        eight.append(memory.peak("benchmarks.rows.sampling", size.name, str(8 * prompts)))
    what = f"peak memory of sampling for {8 * prompts} prompts x 16 (peer: {prompts} prompts), {size.name} model"
    check = Check("memory grows by", statistics.median(eight) / statistics.median(one), GROWTH).passed()
    return Row("sampling-memory", what, "an eighth of the prompts", "MB", tuple(eight), tuple(one), check)


def main(name: str, prompts: str) -> None:
    """Samples for so many prompts, for `memory.peak`."""
    torch.set_num_threads(1)
    policy = model(next(size for size in (*SIZES, TINY) if size.name == name))
    policy.sample(asked(int(prompts)), 16, seed=0)
    memory.tell()


if __name__ == "__main__":
    main(*sys.argv[1:3])
