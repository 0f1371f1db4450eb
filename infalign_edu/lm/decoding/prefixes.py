"""Unfinished responses and their caches: the part that every decoder that looks inside a response is made of.

A micro-batch of prefixes branches into copies, grows by a block of tokens, gets values, and keeps some. Each prompt is
run once; a prefix is read once, however many copies go on from it; what has ended leaves the cache. All uniform numbers
are drawn up front, so that a seed shows the same responses whatever the micro-batch.
Left out: temperature, top-k and top-p, which would draw from another distribution than the policy's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from infalign_edu.inputs import seed as checked_seed
from infalign_edu.inputs import texts, whole
from infalign_edu.lm.decoding.draws import Draws
from infalign_edu.lm.decoding.value import Value
from infalign_edu.lm.rewards import Reward, score
from infalign_edu.lm.rollouts import batches, draw, trim, uniform_block

Search = Callable[["Prefixes", torch.Tensor, torch.Tensor], None]


class Prefixes:
    """What some responses have said so far: tokens, values, and the cache lines of those that still run.

    It starts with one empty prefix for each response, response i answering prompt `local[i]`. With a `reward`, the
    value of a response that has ended is its reward.

    Shape: tokens and mask [rows, t], running, owner and values [rows]; drawn and scored [B], one for each response.
    """

    def __init__(
        self,
        policy: Any,
        prompts: list[str],
        ids: torch.Tensor,
        seen: torch.Tensor,
        local: torch.Tensor,
        value: Value,
        reward: Reward | None = None,
    ) -> None:
        P, B = len(prompts), len(local)
        self.policy, self.reward, self.cache = policy, reward, policy.cache()
        self.stops = torch.tensor(policy.stops, dtype=torch.long, device=ids.device)
        self.seen, self.pending, self.logits = seen, ids, torch.empty(0)  # pending: drawn or given, not yet read
        self.line = self.owner = torch.arange(P, device=ids.device)  # line: where in the cache a running row is
        self.tokens = ids.new_zeros(P, 0)
        self.mask = self.tokens.bool()
        self.running = torch.ones(P, dtype=torch.bool, device=ids.device)
        self.values = torch.zeros(P, dtype=torch.float64, device=ids.device)
        self.reader = value.reader(policy, ids, seen)
        self._read()
        self.keep(local)
        self.prompts, self.owner = [prompts[i] for i in local.tolist()], torch.arange(B, device=ids.device)
        self.drawn, self.scored = (torch.zeros(B, dtype=torch.long, device=ids.device) for _ in range(2))

    def _read(self) -> None:
        """Run the tokens that wait for it; logits [lines, V] of the next token."""
        if self.pending.shape[1]:
            self.logits = self.policy.forward(self.pending, self.seen, self.cache, 1)[:, -1]
            self.pending = self.pending[:, :0]

    def keep(self, rows: torch.Tensor) -> None:
        """Keep these rows, in this order and as often as they are named. Shape: rows [new rows]."""
        lines = self.line[rows[self.running[rows]]]
        self.tokens, self.mask, self.running = self.tokens[rows], self.mask[rows], self.running[rows]
        self.owner, self.values = self.owner[rows], self.values[rows]
        self.line = self.running.cumsum(0) - 1
        if len(lines):
            self.cache.batch_select_indices(lines)
            self.reader.keep(lines)
            self.seen, self.pending, self.logits = self.seen[lines], self.pending[lines], self.logits[lines]

    def branch(self, copies: int) -> None:
        """Make `copies` of every row, side by side: row r becomes rows r x copies ... r x copies + copies - 1."""
        self._read()
        self.keep(torch.arange(len(self.tokens), device=self.tokens.device).repeat_interleave(copies))

    def grow(self, uniforms: torch.Tensor, limit: int) -> None:
        """Draw one block for every running row, end at `limit` tokens, and value what came out of it.

        Shape: uniforms [rows, n] in [0, 1). Raises: FloatingPointError for log-probabilities that are not finite.
        """
        rows = self.running.nonzero()[:, 0]  # of each line of the cache
        live = torch.ones_like(rows, dtype=torch.bool)
        tokens = self.tokens.new_zeros(uniforms.shape)
        mask = torch.zeros_like(tokens, dtype=torch.bool)
        for t in range(uniforms.shape[1]):
            self._read()
            token, logprob = draw(self.logits, uniforms[rows, t])
            if not torch.isfinite(logprob).all():
                raise FloatingPointError("log-probabilities must be finite, got nan or inf from the policy")
            tokens[rows[live], t], mask[rows[live], t] = token[live], True
            live = live & ~torch.isin(token, self.stops)
            self.pending, self.seen = token[:, None], torch.cat([self.seen, self.seen.new_ones(len(rows), 1)], 1)
            if not live.any():
                break
        self.tokens, self.mask = torch.cat([self.tokens, tokens], 1), torch.cat([self.mask, mask], 1)
        self.running[rows] = live & (self.tokens.shape[1] < limit)
        self.drawn.index_add_(0, self.owner, mask.sum(1))
        self.values[rows] = self.reader.read(self, rows, uniforms.shape[1]).to(self.values)
        self._judge(rows[~self.running[rows]])

    def texts(self, rows: torch.Tensor) -> tuple[list[str], list[str]]:
        """Prompts and texts of some rows, [rows] each."""
        prompts = [self.prompts[i] for i in self.owner[rows].tolist()]
        return prompts, self.policy.decode(self.tokens[rows], self.mask[rows])

    def _judge(self, ended: torch.Tensor) -> None:
        if self.reward is not None and len(ended):
            rewards = torch.as_tensor(score(self.reward, *self.texts(ended)), device=self.values.device)
            self.values[ended] = rewards
            self.scored.index_add_(0, self.owner[ended], torch.ones_like(ended))


@torch.no_grad()
def run(
    search: Search,
    branches: int,
    policy: Any,
    value: Value,
    reward: Reward | None,
    prompts: list[str],
    samples: int,
    seed: int,
    micro_batch: int | None,
) -> Draws:
    """Run a search for every response, micro-batch by micro-batch, each row of it one branch of one response.

    `search(prefixes, uniforms [B, branches, T], ties [B, branches, T])` leaves one row for each response. Uniforms are
    numbers in [0, 1); ties is a second such block. Shape: Draws of P x samples responses.
    """
    prompts, samples, length = texts("prompts", prompts), whole("samples", samples), policy.max_new_tokens
    ids, seen = policy.encode(prompts, new_tokens=length)
    rows, generator = len(prompts) * samples, torch.Generator().manual_seed(checked_seed(seed))
    uniforms, ties = (
        uniform_block(rows * branches, length, None, generator).view(rows, branches, length) for _ in range(2)
    )
    size = max(1, (micro_batch or policy.micro_batch(ids.shape[1] + length)) // branches)
    responses, drawn, scored = [""] * rows, torch.zeros(rows, dtype=torch.long), torch.zeros(rows, dtype=torch.long)
    for batch in batches(seen.sum(1), samples, size):
        prompt, local = (batch // samples).unique(return_inverse=True)
        asked, at = [prompts[i] for i in prompt.tolist()], prompt.to(ids.device)
        found = Prefixes(policy, asked, *trim(ids[at], seen[at]), local.to(ids.device), value, reward)
        search(found, uniforms[batch].to(ids.device), ties[batch].to(ids.device))
        for row, text in zip(batch.tolist(), policy.decode(found.tokens, found.mask), strict=True):
            responses[row] = text
        drawn[batch], scored[batch] = found.drawn.cpu(), found.scored.cpu()
    return Draws(list(prompts), samples, responses, drawn.numpy(), value.passes * drawn.numpy(), scored.numpy())
