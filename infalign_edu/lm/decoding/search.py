"""Two decoders that look inside a response: blockwise controlled decoding, and a sampled tree search.

Both draw from the policy itself and let a value choose, so that their output is a distribution T(pi) that moves with
pi, as the theorem of InfAlign wants; `theory.decoders` has the same two on enumerable responses, exactly.
Left out: beam search by likelihood, an argmax of which the theorem says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from infalign_edu.lm.decoding.draws import Draws
from infalign_edu.lm.decoding.prefixes import Prefixes, run
from infalign_edu.lm.decoding.value import Value, as_value
from infalign_edu.lm.rewards import Reward
from infalign_edu.order_statistics import count


@dataclass(frozen=True)
class Blockwise:
    """Blockwise controlled decoding: draw some blocks of tokens, keep the one of the highest value, go on from there.

    Source: Mudgal et al., Controlled Decoding from Language Models, arXiv 2310.17022. One draw is plain sampling; a
    block as long as a response is best-of-`draws`. With a `reward`, a response that has ended is judged by the reward
    itself, which must then be on the value's scale.

    Raises: ValueError unless block and draws are positive integers, or for a reward beside a calibrated value.

    >>> str(Blockwise(lambda prompts, prefixes: [len(text) for text in prefixes], block=4, draws=4))
    'blockwise-b4-k4'
    """

    value: Value | Reward
    block: int = 4
    draws: int = 4
    reward: Reward | None = None

    def __post_init__(self) -> None:
        _check(self, draws=self.draws, block=self.block)

    def draw(
        self, policy: Any, prompts: list[str], samples: int, *, seed: int, micro_batch: int | None = None
    ) -> Draws:
        """`samples` independent responses for each prompt, as this decoder shows them. Shape: P x samples."""
        value = as_value(self.value)
        return run(self._search, self.draws, policy, value, self.reward, prompts, samples, seed, micro_batch)

    def _search(self, prefixes: Prefixes, uniforms: torch.Tensor, ties: torch.Tensor) -> None:
        responses, draws, length = uniforms.shape
        first = torch.arange(responses, device=uniforms.device) * draws
        for start in range(0, length, self.block):
            prefixes.branch(draws)
            prefixes.grow(uniforms[:, :, start : start + self.block].flatten(0, 1), length)
            best = prefixes.values.view(responses, draws).argmax(1)  # draws of one prefix: the first of equals is fair
            prefixes.keep(first + best)
            if not prefixes.running.any():
                break

    def __str__(self) -> str:
        return f"blockwise-b{self.block}-k{self.draws}"


@dataclass(frozen=True)
class TreeSearch:
    """Sampled tree search: each of `width` prefixes draws some blocks, the best of all go on; the best one is shown.

    All prefixes start empty, so the first step keeps the best of width x draws blocks. A prefix that has ended keeps
    its place until better ones push it out; ties are broken at random among the draws. Width 1 is `Blockwise`. Derived:
    for width 2 and blocks of one token its exact distribution is `theory.decoders.SequenceSpace.tree_search`.

    Raises: ValueError unless width, draws and block are positive integers, or for a reward beside a calibrated value.

    >>> str(TreeSearch(lambda prompts, prefixes: [len(text) for text in prefixes], width=2, draws=4, block=4))
    'tree-w2-m4-b4'
    """

    value: Value | Reward
    width: int = 2
    draws: int = 4
    block: int = 4
    reward: Reward | None = None

    def __post_init__(self) -> None:
        _check(self, width=self.width, draws=self.draws, block=self.block)

    def draw(
        self, policy: Any, prompts: list[str], samples: int, *, seed: int, micro_batch: int | None = None
    ) -> Draws:
        """`samples` independent responses for each prompt, as this decoder shows them. Shape: P x samples."""
        value, branches = as_value(self.value), self.width * self.draws
        return run(self._search, branches, policy, value, self.reward, prompts, samples, seed, micro_batch)

    def _search(self, prefixes: Prefixes, uniforms: torch.Tensor, ties: torch.Tensor) -> None:
        responses, branches, length = uniforms.shape
        first = torch.arange(responses, device=uniforms.device) * branches
        another = torch.arange(branches, device=uniforms.device) % self.draws > 0
        for step, start in enumerate(range(0, length, self.block)):
            prefixes.branch(self.draws if start else branches)
            ended = ~prefixes.running.view(responses, branches)
            prefixes.grow(uniforms[:, :, start : start + self.block].flatten(0, 1), length)
            values = prefixes.values.view(responses, branches)
            values = values.masked_fill(ended & another, -torch.inf)  # what has ended counts once, not draws times
            best = _best(values, ties[:, :, step], self.width)
            prefixes.keep((first[:, None] + best).flatten())
            if not prefixes.running.any():
                break
        prefixes.keep(torch.arange(responses, device=uniforms.device) * self.width)

    def __str__(self) -> str:
        return f"tree-w{self.width}-m{self.draws}-b{self.block}"


def _best(values: torch.Tensor, ties: torch.Tensor, keep: int) -> torch.Tensor:
    """Places of the highest values in each row, best first, ties in the order of `ties`. Shape: [B, n] -> [B, keep]."""
    order = ties.argsort(1)
    return order.gather(1, values.gather(1, order).argsort(dim=1, descending=True, stable=True)[:, :keep])


def _check(decoder: Blockwise | TreeSearch, **counts: int) -> None:
    for name, number in counts.items():
        count(name, number)
    value = as_value(decoder.value)
    if decoder.reward is not None and value.calibrated:
        raise ValueError("reward must be None beside a value of calibrated rewards, which has another scale")
