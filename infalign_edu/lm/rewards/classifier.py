"""A reward that someone else trained: a sequence classifier from a folder or the Hub.

Left out: rewards of single tokens, which InfAlign has no use for, and classifiers that need their own code.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infalign_edu.lm.datasets import turns
from infalign_edu.lm.rewards.gold import score

Array = NDArray[np.float64]


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

        from infalign_edu.lm.files import one_line

        out = np.zeros(len(responses))
        order = np.argsort([len(p) + len(r) for p, r in zip(prompts, responses, strict=True)], kind="stable")
        for start in range(0, len(order), self.batch):
            rows = order[start : start + self.batch]
            with one_line("tokenizer of the classifier must encode every text, got"):
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
