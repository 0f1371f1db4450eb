"""Rewards: any callable reward(prompts [R], responses [R]) -> [R].

Gold rewards of the embedded world, label noise on top of any reward, a preference model (`bradley_terry`), and a
sequence classifier from a folder or the Hub. Left out: rewards of single tokens, which InfAlign has no use for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from infalign_edu.lm.bradley_terry import BradleyTerry
from infalign_edu.lm.datasets import Preference, turns

if TYPE_CHECKING:
    from infalign_edu.lm.policy import Policy

Array = NDArray[np.float64]
Reward = Callable[[list[str], list[str]], ArrayLike]
GOLD = ("helpfulness", "harmlessness")


def score(reward: Reward, prompts: Sequence[str], responses: Sequence[str]) -> Array:
    """The rewards as [R] float64, checked: one finite number per response.

    Raises: ValueError for a wrong shape, or for a reward that is not finite, with the index of its prompt among the
    distinct prompts.

    >>> score(lambda prompts, responses: [len(text) for text in responses], ["a", "a"], ["xyz", ""])
    array([3., 0.])
    """
    values = np.asarray(reward(list(prompts), list(responses)), dtype=np.float64)
    if values.shape != (len(responses),):
        raise ValueError(f"rewards must have shape ({len(responses)},), one per response, got {values.shape}")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        row, order = int(bad[0]), list(dict.fromkeys(prompts))
        prompt = prompts[row]
        where = f"prompt {order.index(prompt)} ({prompt[:40]!r}), response {responses[row][:40]!r}"
        raise ValueError(f"rewards must be finite, got {values[row]} for {where}")
    return values


@dataclass(frozen=True)
class GoldReward:
    """The embedded world's own judgement, "helpfulness" or "harmlessness": exact, and defined for its prompts only.

    >>> GoldReward("helpfulness")(["how do i clean my kettle before work"], ["well well"]).shape
    (1,)
    """

    kind: str

    def __post_init__(self) -> None:
        if self.kind not in GOLD:
            raise ValueError(f"gold reward must be one of {', '.join(GOLD)}, got {self.kind!r}")

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> Array:
        from infalign_edu.lm import world

        return getattr(world, self.kind)(prompts, responses)


@dataclass(frozen=True)
class Noisy:
    """A reward with fixed label noise: N(0, sd^2), the same for the same seed, prompt and response at every call.

    >>> noisy = Noisy(lambda prompts, responses: np.zeros(len(prompts)), sd=1.0, seed=0)
    >>> bool(noisy(["a"], ["b"]) == noisy(["a"], ["b"])), bool(noisy(["a"], ["b"]) == noisy(["a"], ["c"]))
    (True, False)
    """

    reward: Reward
    sd: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.sd) and self.sd >= 0):
            raise ValueError(f"sd must be a finite number >= 0, got {self.sd}")

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> Array:
        return score(self.reward, prompts, responses) + self.sd * noise(self.seed, prompts, responses)


def noise(seed: int, prompts: Sequence[str], responses: Sequence[str]) -> Array:
    """Standard normal numbers that are a function of (seed, prompt, response), by hashing the text, [R]."""
    start = hashlib.blake2b(str(seed).encode() + b"\0", digest_size=8)
    digests = bytearray()
    for prompt, response in zip(prompts, responses, strict=True):
        one = start.copy()
        one.update(b"%d\0" % len(prompt) + (prompt + response).encode("utf-8", "surrogatepass"))
        digests += one.digest()
    bits = np.frombuffer(bytes(digests), dtype="<u8") >> np.uint64(11)
    return ndtri((bits + 0.5) / 2.0**53)  # strictly inside (0, 1)


class SequenceClassifier:
    """A sequence classifier as a reward: its one logit, or the log-odds of a chosen label.

    `spec` is a local folder or a Hub id with safetensors. A tokenizer with a chat template reads the dialogue, others
    the pair (prompt, response); longer text loses its beginning. Shape: [R], [R] -> [R] float64.
    """

    def __init__(self, spec: str | Path, *, label: int | str | None = None, device: str = "auto", batch: int = 16):
        import torch
        from transformers import AutoModelForSequenceClassification

        from infalign_edu.lm.models import locate, read

        folder, self.name, gguf = locate(spec)
        model, self.tokenizer = read(folder, AutoModelForSequenceClassification, dtype=torch.float32, gguf=gguf)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model, self.batch = model.eval().requires_grad_(False).to(device), batch
        labels = {str(name): index for index, name in model.config.id2label.items()}
        label = labels.get(label, label) if isinstance(label, str) else label
        if model.config.num_labels > 1 and label not in labels.values():
            raise ValueError(f"label must be one of {list(labels)} or its index for {self.name}, got {label!r}")
        self.label = int(label) if isinstance(label, int) else 0
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        model.config.pad_token_id = self.tokenizer.pad_token_id
        self.tokenizer.truncation_side = "left"

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> Array:
        import torch

        out = np.zeros(len(responses))
        order = np.argsort([len(p) + len(r) for p, r in zip(prompts, responses, strict=True)], kind="stable")
        for start in range(0, len(order), self.batch):
            rows = order[start : start + self.batch]
            inputs = self._encode([prompts[i] for i in rows], [responses[i] for i in rows]).to(self.model.device)
            with torch.no_grad():
                logits = self.model(**inputs).logits.double()  # [rows, labels]
            value = logits[:, self.label]
            if logits.shape[1] > 1:
                others = [k for k in range(logits.shape[1]) if k != self.label]
                value = value - logits[:, others].logsumexp(-1)
            out[rows] = value.cpu().numpy()
        return score(lambda *_: out, prompts, responses)

    def _encode(self, prompts: list[str], responses: list[str]) -> Any:
        limit = getattr(self.model.config, "max_position_embeddings", None) or 512
        options = {"return_tensors": "pt", "padding": True, "truncation": True, "max_length": limit}
        if not self.tokenizer.chat_template:
            return self.tokenizer(prompts, responses, **options)
        answered = [[*turns(p), {"role": "assistant", "content": r}] for p, r in zip(prompts, responses, strict=True)]
        texts = [self.tokenizer.apply_chat_template(dialogue, tokenize=False) for dialogue in answered]
        return self.tokenizer(texts, add_special_tokens=False, **options)


def reward(
    spec: str | Reward,
    *,
    preferences: Sequence[Preference] | None = None,
    policy: Policy | None = None,
    cache: str | Path | None = None,
    label: int | str | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Reward:
    """A reward by name: "gold:helpfulness", "gold:harmlessness", "bradley-terry", "classifier:<spec>", or a callable.

    "bradley-terry" is fitted on the preferences with the policy's features (`BradleyTerry.fit`). A callable is
    wrapped in the checks of `score`. Raises: ValueError for a name that is none of these.

    >>> reward("gold:harmlessness")
    GoldReward(kind='harmlessness')
    """
    if callable(spec):
        return lambda prompts, responses: score(spec, prompts, responses)
    if spec == "bradley-terry":
        if preferences is None or policy is None:
            raise ValueError("reward bradley-terry needs preferences and a policy for its features, got neither or one")
        return BradleyTerry.fit(preferences, policy, cache=cache, seed=seed, progress=progress)
    family, _, rest = str(spec).partition(":")
    if family == "gold":
        return GoldReward(rest)
    if family == "classifier" and rest:
        return SequenceClassifier(rest, label=label)
    accepted = "gold:helpfulness, gold:harmlessness, bradley-terry, classifier:<model> or a callable"
    raise ValueError(f"reward must be {accepted}, got {spec!r}")
