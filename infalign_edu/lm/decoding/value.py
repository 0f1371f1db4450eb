"""V(x, prefix): what a response is expected to be worth, given how it begins. Any callable on text serves.

Values belong to the procedure, so they are of the reference and the same for every policy: the policy that is decoded
may move, its guide does not. A head on a frozen model's states is a value too; `learned` fits it. Left out: values of a
single next token (Q values), which decoders that draw whole blocks don't need.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

from infalign_edu.lm.rewards import Reward, score

if TYPE_CHECKING:
    from infalign_edu.lm.decoding.prefixes import Prefixes
    from infalign_edu.lm.policy import Policy


class Reader(Protocol):
    """Follows the running prefixes of one micro-batch, line by line, as the policy's own cache does."""

    def keep(self, lines: torch.Tensor) -> None:
        """Keep these lines, in this order and as often as they are named."""

    def read(self, prefixes: Prefixes, rows: torch.Tensor, new: int) -> torch.Tensor:
        """Values of the rows [lines], each of which has up to `new` tokens that were not read before."""


@runtime_checkable
class Value(Protocol):
    """What a decoder asks of a value; `passes` is how many model forwards it makes of each token that is drawn."""

    @property
    def passes(self) -> int: ...
    @property
    def calibrated(self) -> bool: ...
    def reader(self, policy: Any, ids: torch.Tensor, seen: torch.Tensor) -> Reader:
        """A reader for prompts [P, L], one line each."""


@dataclass(frozen=True)
class TextValue:
    """A value that is a function of text: any callable (prompts [R], prefixes [R]) -> [R], a reward for example.

    A prefix that happens to be a whole response looks the same to it whether it has ended or not.

    >>> TextValue(lambda prompts, prefixes: [len(text) for text in prefixes]).passes
    0
    """

    function: Reward
    passes: int = 0
    calibrated: bool = False

    def reader(self, policy: Any, ids: torch.Tensor, seen: torch.Tensor) -> TextValue:
        """Itself: there is nothing to remember between blocks."""
        return self

    def keep(self, lines: torch.Tensor) -> None:
        """Nothing to keep."""

    def read(self, prefixes: Prefixes, rows: torch.Tensor, new: int) -> torch.Tensor:
        """Values of the rows, from their text so far. Raises: ValueError for a value that is not finite."""
        return torch.as_tensor(score(self.function, *prefixes.texts(rows)))


class Head(torch.nn.Module):
    """A small network on a frozen model's states: values of all prefixes of some responses.

    Every token adds a network's output for its last hidden state and its input embedding; a second network reads their
    sum, so that a value goes on from block to block without looking back. `before` and `length` are what earlier blocks
    summed up. Values are in standard deviations of the target from its mean; `scale` puts them right.

    Shape: hidden and embedding [R, n, d], mask [R, n], before [R, width], length [R] -> values [R, n] and sums
    [R, n, width].

    >>> state, mask, zero = torch.ones(2, 5, 3), torch.ones(2, 5, dtype=torch.bool), torch.zeros(2)
    >>> Head(d=3, width=8)(state, state, mask, zero[:, None], zero)[0].shape
    torch.Size([2, 5])
    """

    mean: torch.Tensor
    sd: torch.Tensor
    scale: torch.Tensor
    typical: torch.Tensor

    def __init__(self, d: int, width: int, typical: float = 1.0) -> None:
        super().__init__()
        self.first = torch.nn.Linear(2 * d, width)
        self.second = torch.nn.Sequential(
            torch.nn.Linear(2 * width + 1, width // 2), torch.nn.ReLU(), torch.nn.Linear(width // 2, 1)
        )
        self.register_buffer("mean", torch.zeros(2 * d))  # of the states that it was fitted on
        self.register_buffer("sd", torch.ones(2 * d))
        self.register_buffer("scale", torch.tensor([0.0, 1.0]))  # mean and standard deviation of the target
        self.register_buffer("typical", torch.tensor(float(typical)))  # tokens in a response: the unit of the sums

    def forward(
        self,
        hidden: torch.Tensor,
        embedding: torch.Tensor,
        mask: torch.Tensor,
        before: torch.Tensor,
        length: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        x = (torch.cat([hidden.float(), embedding.float()], -1) - self.mean) / self.sd
        token = torch.relu(self.first(x)) * mask[..., None]
        sums = before[:, None] + token.cumsum(1)
        lengths = length[:, None] + mask.cumsum(1)
        seen = torch.cat([sums / self.typical, token, lengths[..., None] / self.typical], -1)
        return self.second(seen)[..., 0], sums

    def rewards(self, values: torch.Tensor) -> torch.Tensor:
        """Values in the target's own units, float64."""
        return self.scale[0] + self.scale[1] * values.double()


class StateReader:
    """Reads the blocks that a policy draws with a value's own model and cache, a line for each running prefix."""

    def __init__(self, model: Policy, head: Head, ids: torch.Tensor, seen: torch.Tensor) -> None:
        self.model, self.head, self.cache, self.seen = model, head, model.cache(), seen
        self.model.forward(ids, seen, self.cache, None)
        self.sums = torch.zeros(len(ids), head.first.out_features, device=ids.device)
        self.length = torch.zeros(len(ids), device=ids.device)

    def keep(self, lines: torch.Tensor) -> None:
        """Keep these lines of the cache and of the sums."""
        self.cache.batch_select_indices(lines)
        self.seen, self.sums, self.length = self.seen[lines], self.sums[lines], self.length[lines]

    def read(self, prefixes: Prefixes, rows: torch.Tensor, new: int) -> torch.Tensor:
        """Values [lines] after the last `new` tokens; what ended within them is padded, and is not kept."""
        tokens, mask = prefixes.tokens[rows, -new:], prefixes.mask[rows, -new:]
        self.seen = torch.cat([self.seen, torch.ones_like(mask)], 1)
        hidden = self.model.forward(tokens, self.seen, self.cache, None)
        embedding = self.model.model.get_input_embeddings()(tokens)
        values, sums = self.head(hidden, embedding, mask, self.sums, self.length)
        self.sums, self.length = sums[:, -1], self.length + mask.sum(1)
        return self.head.rewards(values.gather(1, (mask.sum(1) - 1)[:, None])[:, 0])


def as_value(value: Value | Reward) -> Value:
    """A value as it is, and a callable on text as a `TextValue`.

    Raises: ValueError for anything else.
    """
    if isinstance(value, Value):
        return value
    if not callable(value):
        raise ValueError(f"value must be a LearnedValue or a callable (prompts, prefixes) -> values, got {value!r}")
    return TextValue(value)
