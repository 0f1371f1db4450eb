"""Features of responses under a frozen model: what a linear reward head sees, kept on disk because they cost minutes.

Real features cost about a second a pair on one CPU core, so each block of them is written as soon as it is there: a
process that is killed goes on where it stopped. Left out: fine-tuning the backbone, which a laptop cannot do.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm.auto import tqdm

from infalign_edu import atomic
from infalign_edu.lm.rollouts import pad, trim

if TYPE_CHECKING:
    from infalign_edu.lm.policy import Policy

BLOCK = 64  # responses a cache file holds, about a minute of work with a real model on one core


@torch.no_grad()
def features(
    policy: Policy,
    prompts: list[str],
    responses: list[str],
    *,
    max_prompt_tokens: int = 256,
    max_response_tokens: int = 128,
    batch_tokens: int | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Mean last hidden state of the model over each response's tokens, end-of-sequence token included.

    Each distinct prompt is run once, however many responses it has. A longer prompt loses its beginning, a longer
    response its end. Shape: [R] prompts and [R] responses -> [R, d] float32.
    """
    if len(prompts) != len(responses):
        raise ValueError(f"responses must match the {len(prompts)} prompts, got {len(responses)}")
    if not prompts:
        return np.zeros((0, policy.model.config.get_text_config().hidden_size), np.float32)
    unique = list(dict.fromkeys(prompts))
    ids, seen = policy.encode(unique, keep=max_prompt_tokens)
    number = {prompt: i for i, prompt in enumerate(unique)}
    owner = [number[prompt] for prompt in prompts]
    end = policy.stops[:1] or [policy.tokenizer.pad_token_id]
    tokens = [row[: max_response_tokens - 1] + end for row in policy.token_ids(responses)]
    size = batch_tokens or (8192 if policy.parameters < 10_000_000 or policy.device.type == "cuda" else 512)
    out: np.ndarray | None = None
    with tqdm(total=len(prompts), desc="features", disable=not progress) as bar:
        for rows in _batches(seen.sum(1).tolist(), owner, [len(row) for row in tokens], size):
            prompt, local = torch.tensor([owner[r] for r in rows], device=policy.device).unique(return_inverse=True)
            values = _means(policy, *trim(ids[prompt], seen[prompt]), local, [tokens[r] for r in rows])
            out = np.zeros((len(prompts), values.shape[1]), np.float32) if out is None else out
            out[rows] = values
            bar.update(len(rows))
    assert out is not None
    return out


def _means(
    policy: Policy, ids: torch.Tensor, seen: torch.Tensor, local: torch.Tensor, tokens: list[list[int]]
) -> np.ndarray:
    """Mean hidden states [rows, d] of one batch; row i continues prompt local[i]."""
    response, mask = (x.to(policy.device) for x in pad(tokens, policy.tokenizer.pad_token_id, left=False))
    cache = policy.cache()
    policy.forward(ids, seen, cache, None)
    cache.batch_select_indices(local)
    seen = torch.cat([seen[local], torch.ones_like(mask)], 1)  # padding on the right is seen by nothing before it
    hidden = policy.forward(response, seen, cache, None).float()  # [rows, n, d]
    weights = mask[:, :, None].float()
    return ((hidden * weights).sum(1) / weights.sum(1)).cpu().numpy()


def _batches(lengths: list[int], owner: list[int], sizes: list[int], limit: int) -> list[list[int]]:
    """Row numbers of each batch: a prompt's responses together, like lengths together, about `limit` tokens each."""
    rows_of: dict[int, list[int]] = {}
    for row, prompt in enumerate(owner):
        rows_of.setdefault(prompt, []).append(row)
    out: list[list[int]] = [[]]
    used = 0
    for prompt in sorted(rows_of, key=lambda p: (lengths[p], max(sizes[r] for r in rows_of[p]))):
        for row in rows_of[prompt]:
            if out[-1] and used + sizes[row] + lengths[prompt] > limit:
                out.append([])
                used = 0
            out[-1].append(row)
            used += sizes[row]
        used += lengths[prompt]
    return [rows for rows in out if rows]


def cached_features(
    policy: Policy,
    prompts: list[str],
    responses: list[str],
    cache: str | Path | None,
    *,
    progress: bool = False,
) -> np.ndarray:
    """`features`, kept in a folder as one .npz per block of responses, keyed by a hash of model and text.

    A file is written beside its place and renamed, so that an interrupted run loses at most one block; a file that
    cannot be read is made again. Shape: [R, d] float32. With cache None nothing is kept.
    """
    if cache is None:
        return policy.features(prompts, responses, progress=progress)
    folder = Path(cache)
    folder.mkdir(parents=True, exist_ok=True)
    model = fingerprint(policy)
    blocks = []
    for rows in tqdm(_blocks(prompts), desc="feature blocks", disable=not progress):
        path = folder / _block_name(model, prompts[rows], responses[rows])
        values = _read(path)
        if values is None or len(values) != len(prompts[rows]):
            values = policy.features(prompts[rows], responses[rows])
            atomic.write_arrays(path, features=values)
        blocks.append(values)
    return np.concatenate(blocks) if blocks else policy.features([], [])


def missing_blocks(policy: Policy, prompts: list[str], responses: list[str], cache: str | Path) -> list[slice]:
    """The rows of each block that `cached_features` would have to make: who asks for one at a time can stop between."""
    model = fingerprint(policy)
    return [
        rows
        for rows in _blocks(prompts)
        if _read(Path(cache) / _block_name(model, prompts[rows], responses[rows])) is None
    ]


def _blocks(prompts: list[str]) -> list[slice]:
    return [slice(start, start + BLOCK) for start in range(0, len(prompts), BLOCK)]


def _block_name(model: str, prompts: list[str], responses: list[str]) -> str:
    key = hashlib.sha256(model.encode())
    for text in (*prompts, *responses):
        key.update(len(text).to_bytes(8, "little") + text.encode("utf-8", "surrogatepass"))
    return f"{key.hexdigest()[:32]}.npz"


def fingerprint(policy: Policy) -> str:
    """A hash of what decides features: weights (a sample of each tensor), tokenizer size, chat template, dtype."""
    key = hashlib.sha256()
    template = policy.tokenizer.chat_template if policy.chat else None
    key.update(repr((policy.dtype, len(policy.tokenizer), policy.chat, template, "mean-v1")).encode())
    for name, value in sorted(policy.model.state_dict().items()):
        flat = value.detach().flatten()
        part = flat[:: max(1, flat.numel() // 4096)].float().cpu().numpy()
        key.update(name.encode() + repr(tuple(value.shape)).encode() + part.tobytes())
    return key.hexdigest()


def _read(path: Path) -> np.ndarray | None:
    try:
        return atomic.read_arrays(path)["features"]
    except (OSError, ValueError, KeyError):  # absent or damaged: made again
        return None
