"""Rollouts: responses sampled from a policy, and the loop that draws them token by token.

Kept apart from `Policy` because it knows no tokenizer and no model class: any function from tokens to logits serves.
Left out: beam search, temperature, top-k and top-p, which would sample from another distribution than the model's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from transformers import DynamicCache

from infalign_edu.inputs import seed as checked_seed

DROP_AT = 3 / 4  # finished rows leave the cache once fewer than this share is still running

Forward = Callable[[torch.Tensor, torch.Tensor, DynamicCache, int], torch.Tensor]


@dataclass(frozen=True)
class Rollouts:
    """Responses sampled from a policy, prompt-major: row r answers prompt r // samples.

    Shape: P prompts, R = P x samples rows, L and T the longest prompt and response in tokens. Log-probabilities in
    nats, those of the policy that sampled; tokens include the end-of-sequence token where one was drawn.
    """

    prompts: list[str]  # [P]
    samples: int
    prompt_ids: torch.Tensor  # [P, L], padded on the left
    prompt_mask: torch.Tensor  # [P, L] bool
    tokens: torch.Tensor  # [R, T], padded on the right
    mask: torch.Tensor  # [R, T] bool
    logprobs: torch.Tensor  # [R, T] float32, 0 on padding
    responses: list[str]  # [R], special tokens skipped

    @property
    def row_prompts(self) -> list[str]:
        """The prompt of every row, [R]: what a reward function is called with."""
        return [prompt for prompt in self.prompts for _ in range(self.samples)]

    def first(self, tokens: int) -> Rollouts:
        """What the first `tokens` tokens of every response show; `responses` stay whole. Nothing is copied."""
        cut = {name: getattr(self, name)[:, :tokens] for name in ("tokens", "mask", "logprobs")}
        return replace(self, **cut)


def generate(
    forward: Forward,
    cache: DynamicCache,
    ids: torch.Tensor,
    seen: torch.Tensor,
    local: torch.Tensor,
    uniforms: torch.Tensor,
    stops: torch.Tensor,
    fill: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Continue prompts token by token: row i continues prompt local[i], by the uniforms [rows, T] in [0, 1).

    `forward(tokens [rows, n], seen [rows, cached + n], cache, 1)` returns logits [rows, 1, V]; `ids` and `seen` are
    the prompts [P, L], padded on the left. A row ends with any token in `stops` and leaves the cache soon after.

    Shape: tokens (`fill` on padding), log-probabilities in nats (0 on padding) and mask, [rows, T] each.
    """
    tokens = torch.full(uniforms.shape, fill, device=ids.device)
    logprobs = torch.zeros(uniforms.shape, device=ids.device)
    logits = forward(ids, seen, cache, 1)[local, -1]  # [rows, V]
    cache.batch_select_indices(local)
    seen = seen[local]
    row = torch.arange(len(local), device=ids.device)  # the row that each line of the cache belongs to
    running = torch.ones_like(row, dtype=torch.bool)
    for t in range(uniforms.shape[1]):
        token, logprob = draw(logits, uniforms[row, t])
        tokens[row, t], logprobs[row, t] = token, logprob  # also after a row's end: wiped out below
        running = running & ~torch.isin(token, stops)
        left = int(running.sum())
        if left == 0 or t + 1 == uniforms.shape[1]:
            break
        if left < DROP_AT * len(row):
            keep = running.nonzero()[:, 0]
            cache.batch_select_indices(keep)
            row, token, seen, running = row[keep], token[keep], seen[keep], running[keep]
        seen = torch.cat([seen, seen.new_ones(len(row), 1)], 1)
        logits = forward(token[:, None], seen, cache, 1)[:, -1]
    ends = torch.isin(tokens, stops)
    mask = (ends.cumsum(1) == ends) & (torch.arange(uniforms.shape[1], device=ids.device) <= t)
    return tokens.masked_fill(~mask, fill), logprobs.masked_fill(~mask, 0.0), mask


def uniform_block(rows: int, length: int, seed: int | None, generator: torch.Generator | None) -> torch.Tensor:
    """Uniforms [rows, length] in [0, 1), float64, from the generator, or from a new one with the seed (None: any)."""
    if generator is None:
        generator = torch.Generator()
        generator.manual_seed(generator.seed() if seed is None else checked_seed(seed))
    if not isinstance(generator, torch.Generator):
        raise ValueError(f"generator must be a torch.Generator, got {generator!r}: give a number as seed=")
    return torch.rand(rows, length, dtype=torch.float64, generator=generator, device=generator.device)


def draw(logits: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One token a row by inverse CDF, and its log-probability: [rows, V] and [rows] in [0, 1) -> [rows], [rows].

    Example:
        >>> draw(torch.tensor([[0.0, 0.0], [0.0, -torch.inf]]), torch.tensor([0.7, 0.7]))[0]
        tensor([1, 0])
    """
    logprobs = logits.log_softmax(-1)
    cdf = logprobs.exp().cumsum(-1, dtype=torch.float64)
    token = torch.searchsorted(cdf, (uniforms * cdf[:, -1])[:, None], right=True).clamp_(max=logits.shape[1] - 1)
    return token[:, 0], logprobs.gather(1, token)[:, 0]


def pad(rows: list[list[int]], fill: int, *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Ragged rows as one tensor and its mask, [rows, longest] each."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), fill)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, row in enumerate(rows):
        where = slice(longest - len(row), None) if left else slice(0, len(row))
        ids[i, where], mask[i, where] = torch.tensor(row), True
    return ids, mask


def trim(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Drop the columns of left padding that no row needs."""
    longest = int(mask.sum(1).max())
    return ids[:, ids.shape[1] - longest :], mask[:, mask.shape[1] - longest :]


def batches(lengths: torch.Tensor, samples: int, size: int) -> Iterator[torch.Tensor]:
    """Row numbers of each micro-batch: prompts of like length together, one prompt's samples together if they fit."""
    order = lengths.cpu().argsort(stable=True)
    rows = (order[:, None] * samples + torch.arange(samples)).flatten()
    whole = max(size // samples, 1) * samples  # whole prompts
    for block in rows.split(whole):
        yield from block.split(size)
