"""A language model as a policy pi(y | x): exact sampling, log-probabilities, KL and features.

Sampling is at temperature 1 from the whole vocabulary, because the theory speaks of the model's own distribution:
temperature, top-k, top-p and beam search are left out on purpose (a procedure is chosen on top, see `decoding`).
A prompt is run once and its key-value cache is shared by all its samples, in sampling as in training.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import DynamicCache

from infalign_edu.inputs import texts as checked_texts
from infalign_edu.inputs import whole
from infalign_edu.lm import bare
from infalign_edu.lm.adapters import merged
from infalign_edu.lm.datasets import turns
from infalign_edu.lm.files import no_progress_bars, one_line, whole_folder
from infalign_edu.lm.micro_batch import rows_to_sample, rows_to_train
from infalign_edu.lm.rollouts import Rollouts, batches, generate, pad, trim, uniform_block


@lru_cache
def cache_name(forward: Callable[..., Any]) -> str:
    """What a model's forward calls its key-value cache: `cache` from transformers 5.24 on, `past_key_values` before."""
    return "cache" if "cache" in inspect.signature(forward).parameters else "past_key_values"


class Policy:
    """A causal language model with its tokenizer, as the policy pi(y | x) that alignment moves.

    `chat` renders prompts through the tokenizer's chat template. The model is put in evaluation mode and stays there:
    dropout would make pi a different distribution at every call, and KL(pi || pi_ref) non-zero at the first step.

    Example:
        >>> from infalign_edu.lm.models import load
        >>> policy = load("embedded")                                   # doctest: +SKIP
        >>> policy.sample(["how do I fix a tap ?"], 4, seed=0).responses  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str = "model",
        max_new_tokens: int | None = None,
        chat: bool | None = None,
    ):
        self.model, self.tokenizer, self.name = model.eval(), tokenizer, name
        self.chat = bool(getattr(tokenizer, "chat_template", None)) if chat is None else chat
        generation = getattr(model, "generation_config", None)
        stops = getattr(generation, "eos_token_id", None)
        stops = stops if isinstance(stops, list) else [stops]
        self.stops = sorted({s for s in [*stops, tokenizer.eos_token_id] if s is not None})
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
        if max_new_tokens is not None:
            whole("max_new_tokens", max_new_tokens)
        self.max_new_tokens = (
            max_new_tokens or getattr(generation, "max_new_tokens", None) or min(64, self.context // 2)
        )

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    @property
    def context(self) -> int:
        """Most tokens, prompt and response together, that the model has positions for."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30

    @property
    def parameters(self) -> int:
        """Number of parameters, shared ones counted once."""
        return sum(p.numel() for p in self.model.parameters())

    def describe(self) -> str:
        """One line for a reader: model, parameters, device, dtype, chat template, pad token."""
        return (
            f"{self.name}: {self.parameters:,} parameters, {self.device}, {str(self.dtype).removeprefix('torch.')}, "
            f"chat template {'yes' if self.chat else 'no'}, pad token {self.tokenizer.pad_token!r}"
        )

    def encode(
        self, prompts: list[str], *, new_tokens: int = 0, keep: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and mask of prompts, padded on the left: [P, L] and [P, L] bool.

        With `keep`, only the last `keep` tokens of a longer prompt. Raises: ValueError if a prompt has no tokens, or
        with `new_tokens` more does not fit the context.
        """
        prompts = checked_texts("prompts", prompts)
        if self.chat:
            render = self.tokenizer.apply_chat_template
            texts = [render(turns(prompt), tokenize=False, add_generation_prompt=True) for prompt in prompts]
        else:
            texts = list(prompts)
        rows = self.token_ids(texts, special=not self.chat)
        rows = [row[-keep:] if keep else row for row in rows]
        for i, row in enumerate(rows):
            if not row:
                raise ValueError(f"prompt {i} must encode to at least one token, got {prompts[i]!r}")
            if max(row) >= (words := self.model.get_input_embeddings().num_embeddings):
                raise ValueError(f"prompt {i} must encode to tokens below {words}, those of the model, got {max(row)}")
            if len(row) + new_tokens > self.context:
                raise ValueError(
                    f"prompt {i} must fit the context of {self.context} tokens, got {len(row)} tokens"
                    + (f" and {new_tokens} new ones" if new_tokens else "")
                )
        ids, mask = pad(rows, self.tokenizer.pad_token_id, left=True)
        return ids.to(self.device), mask.to(self.device)

    def token_ids(self, texts: Iterable[str], *, special: bool = False) -> list[list[int]]:
        """Token ids of each text, by itself. Raises: ValueError with the tokenizer's words where it can't."""
        with one_line(f"tokenizer of {self.name} must encode every text, got"):
            found: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=special)["input_ids"]
        return found

    def cache(self) -> Any:
        """An empty key-value cache for this model: transformers' own, or the bare one where it `fits`."""
        return bare.Cache(self.model) if bare.fits(self.model) else DynamicCache(config=self.model.config)

    def forward(self, tokens: torch.Tensor, seen: torch.Tensor, cache: Any, keep: int | None) -> torch.Tensor:
        """Logits [rows, keep, V] float32 of the last `keep` tokens [rows, n]; last hidden states if keep is None.

        `seen` [rows, cached + n] is True where a real token sits; positions count real tokens only, so that padding
        on the left changes nothing.
        """
        if isinstance(cache, bare.Cache):
            return cache.states(tokens, seen) if keep is None else cache.logits(tokens, seen, keep).float()
        positions = (seen.cumsum(-1) - 1).clamp_(min=0)[:, -tokens.shape[1] :]
        model = self.model.base_model if keep is None else self.model
        inputs = {"input_ids": tokens, "attention_mask": seen, "position_ids": positions}
        inputs[cache_name(type(model).forward)] = cache
        if keep is None:
            return model(**inputs, use_cache=True).last_hidden_state
        return model(**inputs, use_cache=True, logits_to_keep=keep).logits[:, -keep:].float()

    @torch.no_grad()
    def sample(
        self,
        prompts: list[str],
        samples: int,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        max_new_tokens: int | None = None,
        micro_batch: int | None = None,
        progress: bool = False,
    ) -> Rollouts:
        """Draw `samples` independent responses per prompt from the model's own distribution.

        Derived: inverse-CDF sampling, y = min{v : F(v) > U}, all uniforms drawn up front as one [R, T] block, so that
        a seed gives the same responses whatever the micro-batch (tests/test_policy.py). Shape: Rollouts of P x samples
        rows; a response ends with the end-of-sequence token or at max_new_tokens. Raises: ValueError for a prompt too
        long, FloatingPointError for logits that are not finite.
        """
        prompts, samples = checked_texts("prompts", prompts), whole("samples", samples)
        length = self.max_new_tokens if max_new_tokens is None else whole("max_new_tokens", max_new_tokens)
        ids, mask = self.encode(prompts, new_tokens=length)
        rows = len(prompts) * samples
        uniforms = uniform_block(rows, length, seed, generator).to(self.device)
        stops, fill = torch.tensor(self.stops, device=self.device), self.tokenizer.pad_token_id
        tokens = torch.full((rows, length), fill, device=self.device)
        logprobs = torch.zeros(rows, length, device=self.device)
        done = torch.zeros(rows, length, dtype=torch.bool, device=self.device)
        size = self.micro_batch(ids.shape[1] + length) if micro_batch is None else whole("micro_batch", micro_batch)
        for batch in tqdm(list(batches(mask.sum(1), samples, size)), desc="sampling", disable=not progress):
            batch = batch.to(self.device)
            prompt, local = (batch // samples).unique(return_inverse=True)
            tokens[batch], logprobs[batch], done[batch] = generate(
                self.forward, self.cache(), *trim(ids[prompt], mask[prompt]), local, uniforms[batch], stops, fill
            )
        if not torch.isfinite(logprobs).all():
            raise FloatingPointError(f"log-probabilities must be finite, got nan or inf from {self.name}")
        longest = int(done.sum(1).max())
        tokens, done, logprobs = tokens[:, :longest], done[:, :longest], logprobs[:, :longest]
        return Rollouts(list(prompts), samples, ids, mask, tokens, done, logprobs, self.decode(tokens, done))

    def decode(self, tokens: torch.Tensor, mask: torch.Tensor) -> list[str]:
        """Text of responses [R, T], special tokens skipped, outer white space stripped."""
        rows = [list(compress(line, keep)) for line, keep in zip(tokens.tolist(), mask.tolist(), strict=True)]
        with one_line(f"tokenizer of {self.name} must decode every token, got"):
            return [text.strip() for text in self.tokenizer.batch_decode(rows, skip_special_tokens=True)]

    def logits(self, rollouts: Rollouts, rows: slice = slice(None)) -> torch.Tensor:
        """Logits [rows, T, V] float32 at every response position, with gradients where they are enabled.

        Each prompt is run once; the head is applied to response positions only. Values on padding mean nothing.
        """
        index = torch.arange(len(rollouts.tokens), device=self.device)[rows]
        prompt, local = (index // rollouts.samples).unique(return_inverse=True)
        ids, seen = trim(rollouts.prompt_ids[prompt], rollouts.prompt_mask[prompt])
        tokens, mask = rollouts.tokens[index], rollouts.mask[index]
        longest = int(mask.sum(1).max())
        cache = self.cache()
        logits = self.forward(ids, seen, cache, 1)[local]  # [rows, 1, V]
        if longest > 1:
            cache.batch_select_indices(local)
            seen = torch.cat([seen[local], mask.new_ones(len(index), longest - 1)], 1)
            rest = self.forward(tokens[:, : longest - 1], seen, cache, longest - 1)
            logits = torch.cat([logits, rest], 1)
        padding = tokens.shape[1] - longest
        return torch.nn.functional.pad(logits, (0, 0, 0, padding)) if padding else logits  # a pad of nothing copies

    def logprobs(self, rollouts: Rollouts, rows: slice = slice(None)) -> torch.Tensor:
        """log pi(y_t | x, y_<t) of the response tokens, [rows, T] float32 in nats, 0 on padding."""
        logits, tokens, mask = self.logits(rollouts, rows), rollouts.tokens[rows], rollouts.mask[rows]
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none")
        return torch.where(mask, -losses.view(tokens.shape), 0.0)

    def features(self, prompts: list[str], responses: list[str], **limits: Any) -> np.ndarray:
        """Mean last hidden state over each response's tokens, [R, d] float32: see `features.features`."""
        from infalign_edu.lm.features import features

        return features(self, prompts, responses, **limits)

    def copy(self) -> Policy:
        """A frozen copy, the reference pi_ref: parameters take no gradients."""
        model, length = copy.deepcopy(self.model), self.max_new_tokens
        twin = Policy(model, self.tokenizer, name=self.name, max_new_tokens=length, chat=self.chat)
        twin.model.requires_grad_(False)
        return twin

    def save(self, folder: str | Path) -> Path:
        """Write model (safetensors) and tokenizer to a folder: beside its place first, then moved there whole.

        Adapters are merged into the weights they adapt; `adapters.save` writes them alone.
        """
        with whole_folder(folder) as beside, no_progress_bars():
            merged(self.model).save_pretrained(beside)
            self.tokenizer.save_pretrained(beside)
        return Path(folder)

    def micro_batch(self, length: int) -> int:
        """Rows of `length` tokens whose cache and logits fit the memory set aside for one micro-batch."""
        return rows_to_sample(self.model.config.get_text_config(), self.dtype, self.device, length)

    def rows_to_train(self, length: int) -> int:
        """Rows of `length` tokens of which an update may keep everything for the way back, in the memory set aside."""
        return rows_to_train(self.model.config.get_text_config(), self.dtype, self.device, length)


def token_kl(policy: Policy, reference: Policy, rollouts: Rollouts) -> torch.Tensor:
    """Exact KL(pi(. | h_t) || pi_ref(. | h_t)) at every state h_t that the rollouts visit, over the whole vocabulary.

    Derived: with responses drawn from pi, the row sums are unbiased for KL(pi || pi_ref) and vary less than the sum
    of log-ratios (chain rule, then Rao-Blackwell; tests/test_policy.py enumerates it).

    Shape: [R, T] float32, nats, 0 on padding; with gradients where they are enabled.
    """
    size = policy.micro_batch(rollouts.prompt_ids.shape[1] + rollouts.tokens.shape[1])
    size = max(1, size // 8)  # here every position's logits live at once, for two models
    parts = []
    for start in range(0, len(rollouts.tokens), size):
        rows = slice(start, start + size)
        log_p = policy.logits(rollouts, rows).log_softmax(-1)
        log_q = reference.logits(rollouts, rows).log_softmax(-1)
        terms = torch.where(log_p > -torch.inf, log_p.exp() * (log_p - log_q), 0.0)
        parts.append(torch.where(rollouts.mask[rows], terms.sum(-1), 0.0))
    return torch.cat(parts)
