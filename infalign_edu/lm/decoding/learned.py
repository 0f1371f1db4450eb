"""A value learnt by regression: what a frozen model's states say of how a response will end.

Responses are drawn from the reference, rewarded once they are whole, and every prefix is regressed on that reward. The
head sums over tokens (`value.Head`), because what a response is worth is mostly the sum of what its parts are worth,
and a model's last state has forgotten most of them. Left out: bootstrapped targets (TD), which trade the noise of whole
responses for the bias of a value that is still wrong, and fine-tuning the model itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from infalign_edu.atomic import read_arrays, replacing
from infalign_edu.calibration import EmpiricalCalibrator
from infalign_edu.inputs import seed as checked_seed
from infalign_edu.inputs import texts
from infalign_edu.lm.datasets import split
from infalign_edu.lm.decoding.value import Head, StateReader
from infalign_edu.lm.features import fingerprint
from infalign_edu.lm.policy import Policy, Rollouts
from infalign_edu.lm.rewards import Reward, score
from infalign_edu.lm.rollouts import batches, trim
from infalign_edu.order_statistics import count, real

Array = NDArray[np.float64]
BATCH, RATE, DECAY = 32, 4e-3, 0.01  # responses a step, peak learning rate of AdamW, weight decay
SEVERAL = 4  # the report has an R^2 for every so many tokens


class LearnedValue:
    """V(x, prefix) = E[r(x, Y) | prefix] for Y drawn from the model it was fitted on, the reference: a `Value`.

    Source: the prefix scorer of controlled decoding, fitted by regression on the rewards of whole responses (the
    CD-FUDGE of Mudgal et al., arXiv 2310.17022). With `calibrated`, r is the calibrated reward, in [0, 1].

    Example:
        >>> value = LearnedValue.fit(reference, reward, prompts)          # doctest: +SKIP
        >>> value.report()["r2"]                                          # doctest: +SKIP
        0.75
    """

    passes = 1

    def __init__(self, policy: Policy, head: Head, report: dict[str, Any], calibrated: bool = False):
        trainable = any(p.requires_grad for p in policy.model.parameters())
        self.policy = policy.copy() if trainable else policy  # a guide must not move with the policy it guides
        self.head, self.calibrated, self._report = head.requires_grad_(False), calibrated, report

    @classmethod
    def fit(
        cls,
        policy: Policy,
        reward: Reward,
        prompts: Sequence[str],
        *,
        samples: int = 12,
        calibrated: bool = False,
        held_out: float = 0.2,
        epochs: int = 8,
        width: int = 128,
        seed: int = 0,
        progress: bool = False,
    ) -> LearnedValue:
        """Regress the rewards of sampled responses on all their prefixes; R^2 is measured on held-out prompts.

        A calibrated reward is the mid-rank among the prompt's own samples, so that a table for the prompts is not
        needed. States are kept in half precision: 2 d bytes a token. Raises: ValueError for too few prompts or samples.
        """
        start, samples, epochs = time.process_time(), count("samples", samples, 2), count("epochs", epochs)
        prompts, seed = list(dict.fromkeys(texts("prompts", prompts))), checked_seed(seed)
        real("held_out", held_out, "a number between 0 and 1", lambda share: 0 < share < 1)
        train = set(split(prompts, [1 - held_out, held_out], seed)[0])
        rollouts = policy.sample(prompts, samples, seed=seed, progress=progress)
        target = score(reward, rollouts.row_prompts, rollouts.responses).reshape(len(prompts), samples)
        target = EmpiricalCalibrator(target)(target) if calibrated else target
        states = _States(policy, rollouts)
        fitted = torch.tensor([prompt in train for prompt in rollouts.row_prompts]).nonzero()[:, 0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = Head(states.hidden.shape[1], width, float(rollouts.mask.sum(1).float().mean())).to(policy.device)
            _train(head, states, torch.as_tensor(target.ravel()), fitted, epochs, progress)
        test = np.setdiff1d(np.arange(target.size), fitted.numpy())
        values = np.concatenate([_values(head, *states.of(rows)) for rows in torch.as_tensor(test).split(256)])
        report = {
            "model": policy.name, "target": "calibrated reward" if calibrated else "reward", "samples": samples,
            "training_prompts": len(train), "held_out_prompts": len(prompts) - len(train), "epochs": epochs,
        } | _fit_of(values, target.ravel()[test], samples, float(target.ravel()[fitted].mean()))  # fmt: skip
        report["cpu_seconds"] = round(time.process_time() - start, 1)
        return cls(policy, head, report, calibrated)

    def along(self, rollouts: Rollouts) -> Array:
        """Values of every prefix of responses, also those of another policy: [R, T], nan on padding."""
        states = _States(self.policy, rollouts)
        rows = torch.arange(len(rollouts.tokens)).split(256)
        return np.concatenate([_values(self.head, *states.of(part)) for part in rows])

    def report(self) -> dict[str, Any]:
        """R^2 on held-out prompts against the training mean, of all prefixes and by length, and what was fitted on."""
        return dict(self._report)

    def reader(self, policy: Any, ids: torch.Tensor, seen: torch.Tensor) -> StateReader:
        """A reader for prompts [P, L]. Raises: ValueError for a policy with other tokens than the value's model."""
        own, other = (getattr(p, "tokenizer", None) for p in (self.policy, policy))
        if own is not other and (own is None or other is None or own.get_vocab() != other.get_vocab()):
            name = getattr(policy, "name", type(policy).__name__)
            raise ValueError(f"policy must have the tokens of the value's model {self.policy.name}, got {name}")
        return StateReader(self.policy, self.head, ids, seen)

    def save(self, path: str | Path) -> None:
        """Write the head (not the model) as one .npz, whole or not at all."""
        about = {"model": fingerprint(self.policy), "calibrated": self.calibrated, "report": self._report}
        arrays = {name: tensor.cpu().numpy() for name, tensor in self.head.state_dict().items()}
        with replacing(path) as beside, beside.open("wb") as file:
            np.savez(file, about=np.array(json.dumps(about)), **arrays)

    @classmethod
    def load(cls, path: str | Path, policy: Policy) -> LearnedValue:
        """Read a value back for the model it was fitted on. Raises: ValueError for another model or a damaged file."""
        try:
            data = read_arrays(path)
            about = json.loads(str(data.pop("about")))
            arrays = {name: torch.tensor(value) for name, value in data.items()}
            width, twice = arrays["first.weight"].shape
            head = Head(twice // 2, width).to(policy.device)
            head.load_state_dict(arrays)
        except FileNotFoundError:
            raise
        except Exception as error:  # zip, array, JSON and shape errors alike
            told = f"got {path} ({' '.join(str(error).split())[:200]}); fit it again"
            raise ValueError(f"value must be a file that LearnedValue.save wrote, {told}") from error
        if about["model"] != fingerprint(policy):
            raise ValueError(f"value {path} must be used with the model it was fitted on, got {policy.name}")
        return cls(policy, head, about["report"], about["calibrated"])


class _States:
    """Hidden states of all response tokens, flat and in half precision, and the tokens they belong to."""

    @torch.no_grad()
    def __init__(self, policy: Policy, rollouts: Rollouts) -> None:
        self.policy, self.tokens, self.mask = policy, rollouts.tokens, rollouts.mask
        lengths = self.mask.sum(1)
        self.start = lengths.cumsum(0) - lengths  # [R], where a response's states begin
        self.hidden = torch.empty(0)
        for rows, hidden in _batches(policy, rollouts):
            if not len(self.hidden):
                self.hidden = hidden.new_zeros(int(lengths.sum()), hidden.shape[2], dtype=torch.float16)
            mask = self.mask[rows][:, : hidden.shape[1]]
            place = self.start[rows, None] + torch.arange(hidden.shape[1], device=mask.device)
            self.hidden[place[mask]] = hidden[mask].half()

    def of(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
        """Hidden states and embeddings [rows, n, d], the mask [rows, n], and the longest response of all."""
        rows = rows.to(self.mask.device)
        longest = int(self.mask[rows].sum(1).max())
        mask = self.mask[rows, :longest]
        place = (self.start[rows, None] + torch.arange(longest, device=mask.device)).clamp(max=len(self.hidden) - 1)
        with torch.no_grad():
            embedding = self.policy.model.get_input_embeddings()(self.tokens[rows, :longest])
        return self.hidden[place], embedding, mask, self.mask.shape[1]


def _batches(policy: Policy, rollouts: Rollouts) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Row numbers and last hidden states [rows, n, d]; each prompt is run once a micro-batch."""
    size = policy.micro_batch(rollouts.prompt_ids.shape[1] + rollouts.tokens.shape[1])
    for rows in batches(rollouts.prompt_mask.sum(1), rollouts.samples, size):
        prompt, local = (rows // rollouts.samples).unique(return_inverse=True)
        ids, seen = trim(rollouts.prompt_ids[prompt], rollouts.prompt_mask[prompt])
        mask = rollouts.mask[rows]
        mask = mask[:, : int(mask.sum(1).max())]
        cache = policy.cache()
        policy.forward(ids, seen, cache, None)
        local = local.to(ids.device)
        cache.batch_select_indices(local)
        seen = torch.cat([seen[local], torch.ones_like(mask)], 1)
        yield rows, policy.forward(rollouts.tokens[rows][:, : mask.shape[1]], seen, cache, None)


def _train(head: Head, states: _States, target: torch.Tensor, rows: torch.Tensor, epochs: int, progress: bool) -> None:
    """Least squares over every prefix of the rows, by AdamW with one cycle of the learning rate."""
    y = target[rows].float()
    head.scale.copy_(torch.stack([y.mean(), y.std().clamp(min=1e-6)]))
    y = ((target - y.mean()) / y.std().clamp(min=1e-6)).float().to(head.scale.device)
    hidden, embedding, mask, _ = states.of(rows[:4096])
    inputs = torch.cat([hidden[mask].float(), embedding[mask].float()], 1)
    head.mean.copy_(inputs.mean(0)), head.sd.copy_(inputs.std(0).clamp(min=1e-6))
    optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=DECAY)
    steps = epochs * -(-len(rows) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps + 1)
    bar = tqdm(total=steps, desc="fitting the value", disable=not progress)
    for _ in range(epochs):
        for batch in rows[torch.randperm(len(rows))].split(BATCH):
            hidden, embedding, mask, _ = states.of(batch)
            zero = hidden.new_zeros(len(batch), dtype=torch.float32)
            values, _ = head(hidden, embedding, mask, zero[:, None], zero)
            loss = (values - y[batch][:, None])[mask].square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.update()
    bar.close()


@torch.no_grad()
def _values(head: Head, hidden: torch.Tensor, embedding: torch.Tensor, mask: torch.Tensor, length: int) -> Array:
    """Values of every prefix, [R, length], nan on padding."""
    zero = hidden.new_zeros(len(hidden), dtype=torch.float32)
    values, _ = head(hidden, embedding, mask, zero[:, None], zero)
    values = head.rewards(values).masked_fill(~mask, torch.nan)
    return torch.nn.functional.pad(values, (0, length - values.shape[1]), value=torch.nan).cpu().numpy()


def _fit_of(values: Array, target: Array, samples: int, constant: float) -> dict[str, Any]:
    """R^2 = 1 - error / error of a constant, over every SEVERAL-th prefix and whole responses. Shape: [R, T], [R]."""
    R, T = values.shape
    length, at = np.isfinite(values).sum(1)[:, None], np.arange(1, T + 1)[None]
    whole = at == length
    used = ((at % SEVERAL == 0) & (at < length)) | whole
    truth = np.broadcast_to(target[:, None], values.shape)

    def r2(part: NDArray[np.bool_]) -> float:
        return float(1 - np.mean((values - truth)[part] ** 2) / np.mean((truth[part] - constant) ** 2))

    inner = 0.0, 0.0
    for rows in np.arange(R).reshape(-1, samples):  # one prompt's responses
        v, y = values[rows][used[rows]], truth[rows][used[rows]]
        inner = inner[0] + np.sum((v - v.mean() - y + y.mean()) ** 2), inner[1] + np.sum((y - y.mean()) ** 2)
    parts = {str(t): (at == t) & used & ~whole for t in range(SEVERAL, T, SEVERAL)}
    by_tokens = {name: round(r2(part), 3) for name, part in parts.items() if part.sum() >= R // 4}
    return {
        "r2": r2(used), "r2_within_prompt": float(1 - inner[0] / inner[1]), "r2_whole_response": r2(whole),
        "r2_by_tokens": by_tokens, "constant": constant,
    }  # fmt: skip
