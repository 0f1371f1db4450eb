"""Policies whose every response can be enumerated, so that training can be held against exact theory.

Responses are all sequences of `length` words out of `words` numbers, "0 3 1". Two models give the next word: a table
with a row of logits for each prefix, and a transformer, whose prefixes share weights. There is no end-of-sequence
token and one distribution serves every prompt.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from infalign_edu.lm.micro_batch import MAX_ROWS
from infalign_edu.lm.rollouts import Rollouts, draw

Forward = Callable[[torch.Tensor], torch.Tensor]


class PrefixTable(torch.nn.Module):
    """Logits of the next word for every prefix. Shape: tokens [rows, t] -> logits [rows, t + 1, words]."""

    def __init__(self, words: int, length: int) -> None:
        super().__init__()
        self.words, self.length = words, length
        self.table = torch.nn.Parameter(torch.zeros((words**length - 1) // (words - 1), words))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        states = [torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)]
        for t in range(tokens.shape[1]):  # prefixes are numbered breadth first: the children of s begin at words s + 1
            states.append(self.words * states[-1] + tokens[:, t] + 1)
        return self.table[torch.stack(states, dim=1)]


class SmallTransformer(torch.nn.Module):
    """A causal transformer over words. Shape: tokens [rows, t] -> logits [rows, t + 1, words].

    Its random weights are a function of `seed`; `spread` is the standard deviation, in nats, of the logits they give.

    >>> SmallTransformer(words=6, length=4)(torch.zeros(2, 3, dtype=torch.long)).shape
    torch.Size([2, 4, 6])
    """

    def __init__(
        self,
        words: int,
        length: int,
        *,
        width: int = 32,
        layers: int = 2,
        heads: int = 2,
        spread: float = 0.7,
        seed: int = 0,
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embedding = torch.nn.Parameter(torch.randn(words + 1, width))  # the last one starts a response
            self.position = torch.nn.Parameter(torch.randn(length, width))
            block = torch.nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            self.blocks = torch.nn.ModuleList(copy.deepcopy(block) for _ in range(layers))
            self.norm, self.head = torch.nn.LayerNorm(width), torch.nn.Linear(width, words, bias=False)
            torch.nn.init.normal_(self.head.weight, std=spread / width**0.5)  # a normed state has length sqrt(width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        first = tokens.new_full((len(tokens), 1), len(self.embedding) - 1)
        x = self.embedding[torch.cat([first, tokens], 1)] + self.position[: tokens.shape[1] + 1]  # [rows, t + 1, width]
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        for block in self.blocks:
            x = block(x, src_mask=future)
        return self.head(self.norm(x))


class Said:
    """The words that each row has said so far, in the place of a key-value cache. Shape: words [rows, t + 1]."""

    def __init__(self) -> None:
        self.words = torch.zeros(0, 0, dtype=torch.long)

    def batch_select_indices(self, rows: torch.Tensor) -> None:
        """Keep these rows, in this order; a row may be kept more than once."""
        self.words = self.words[rows]


class EnumerablePolicy:
    """A policy over all words^length responses, with the methods of `Policy` that training uses.

    `model` maps tokens [rows, t] to logits [rows, t + 1, words]: a `PrefixTable`, or any network of that shape.

    >>> policy = EnumerablePolicy(PrefixTable(words=3, length=2), words=3, length=2)
    >>> len(policy.responses()), round(float(policy.distribution().sum()), 6)
    (9, 1.0)
    """

    device = torch.device("cpu")
    stops: tuple[int, ...] = ()  # no word ends a response

    def __init__(self, model: torch.nn.Module, words: int, length: int) -> None:
        self.model, self.words, self.length = model, words, length

    @property
    def max_new_tokens(self) -> int:
        """Words of every response."""
        return self.length

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[str], samples: int, *, generator: torch.Generator, progress: bool = False
    ) -> Rollouts:
        """Draws `samples` responses a prompt. Shape: Rollouts of prompts x samples rows, prompt-major."""
        rows = len(prompts) * samples
        uniforms = torch.rand(rows, self.length, dtype=torch.float64, generator=generator)
        tokens, logprobs = torch.zeros(rows, 0, dtype=torch.long), torch.zeros(rows, 0)
        for t in range(self.length):
            token, logprob = draw(self.model(tokens)[:, -1].float(), uniforms[:, t])
            tokens, logprobs = torch.cat([tokens, token[:, None]], 1), torch.cat([logprobs, logprob[:, None]], 1)
        ids, seen = torch.zeros(len(prompts), 1, dtype=torch.long), torch.ones(len(prompts), 1, dtype=torch.bool)
        mask = torch.ones_like(tokens, dtype=torch.bool)
        responses = [" ".join(map(str, row)) for row in tokens.tolist()]
        return Rollouts(list(prompts), samples, ids, seen, tokens, mask, logprobs, responses)

    def logits(self, rollouts: Rollouts, rows: Any = slice(None)) -> torch.Tensor:
        """Logits at every response position, with gradients where they are enabled. Shape: [rows, length, words]."""
        return self.model(rollouts.tokens[rows][:, :-1]).float()

    def encode(self, prompts: Sequence[str], *, new_tokens: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """One start word for each prompt, and its mask. Shape: [P, 1] and [P, 1] bool."""
        if not prompts:
            raise ValueError("prompts must hold at least one prompt, got none")
        return torch.zeros(len(prompts), 1, dtype=torch.long), torch.ones(len(prompts), 1, dtype=torch.bool)

    def cache(self) -> Said:
        """An empty record of what was said, which `forward` fills."""
        return Said()

    def forward(self, tokens: torch.Tensor, seen: torch.Tensor, cache: Said, keep: int) -> torch.Tensor:
        """Logits after each of the last `keep` tokens, for responses that go on. Shape: [rows, keep, words].

        tokens [rows, n] follow what the cache holds; the first token ever given is the start word of `encode`.
        """
        cache.words = torch.cat([cache.words, tokens], 1) if len(cache.words) else tokens
        return self.model(cache.words[:, 1:])[:, -keep:].float()

    def decode(self, tokens: torch.Tensor, mask: torch.Tensor) -> list[str]:
        """Text of responses or their prefixes: numbers with a space between. Shape: [rows, t] and [rows, t] -> [rows].

        >>> policy = EnumerablePolicy(PrefixTable(words=3, length=2), words=3, length=2)
        >>> policy.decode(torch.tensor([[2, 0]]), torch.tensor([[True, False]]))
        ['2']
        """
        rows = zip(tokens.tolist(), mask.tolist(), strict=True)
        return [" ".join(str(word) for word, on in zip(row, keep, strict=True) if on) for row, keep in rows]

    def micro_batch(self, length: int) -> int:
        """Rows of one micro-batch: many, since a response is short and there is no cache to hold."""
        return 8 * MAX_ROWS

    def copy(self) -> EnumerablePolicy:
        """A frozen copy, the reference pi_ref."""
        model = copy.deepcopy(self.model)
        model.requires_grad_(False)
        return EnumerablePolicy(model, self.words, self.length)

    @classmethod
    def from_distribution(cls, probabilities: NDArray[np.float64], words: int, length: int) -> EnumerablePolicy:
        """The table policy that has these probabilities, in the order of `distribution`.

        Shape: [words^length]. Raises: ValueError unless they are positive, one for each response.

        >>> policy = EnumerablePolicy(SmallTransformer(words=3, length=2), words=3, length=2)
        >>> table = EnumerablePolicy.from_distribution(policy.distribution(), words=3, length=2)
        >>> bool(np.abs(table.distribution() - policy.distribution()).max() < 1e-7)
        True
        """
        p = np.asarray(probabilities, dtype=np.float64)
        if p.shape != (words**length,) or not p.min() > 0:
            raise ValueError(f"probabilities must be {words**length} positive numbers, got shape {p.shape}")
        prefixes = [p.reshape(words**t, words, -1).sum(-1) for t in range(length)]  # [words^t, words] each
        model = PrefixTable(words, length)
        with torch.no_grad():
            model.table.copy_(torch.as_tensor(np.log(np.concatenate(prefixes))))
        return cls(model, words, length)

    def sequences(self) -> NDArray[np.intp]:
        """All responses as numbers, in the order of `distribution`. Shape: [words^length, length]."""
        return np.indices((self.words,) * self.length).reshape(self.length, -1).T

    def responses(self) -> list[str]:
        """All responses as text, in the order of `distribution`."""
        return [" ".join(map(str, row)) for row in self.sequences()]

    @torch.no_grad()
    def distribution(self) -> NDArray[np.float64]:
        """pi(y) of every response. Shape: [words^length], summing to 1."""
        tokens = torch.as_tensor(self.sequences())
        steps = self.model(tokens[:, :-1]).double().log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
        return steps.sum(-1).exp().numpy()
