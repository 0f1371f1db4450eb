"""A Bradley-Terry reward model that is fine-tuned: the first block of the reference model, and a value for every word.

The reward is a sum over words of what each is worth after all that was read before it. The language model's states
already tell which words may come next, so little has to be learnt: a head on the last state needs over four times the
pairs (data/runs/reward_models.csv). Left out: backbones of other shapes, whose fine-tuning takes a GPU.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from infalign_edu.inputs import whole
from infalign_edu.lm.datasets import Preference, split
from infalign_edu.lm.features import fingerprint
from infalign_edu.lm.files import load_tensors, save_tensors
from infalign_edu.lm.rewards.gold import Reward
from infalign_edu.lm.rewards.preferences import agreement, batches, by_prompt, ceiling, relabelled
from infalign_edu.lm.rollouts import pad, trim
from infalign_edu.order_statistics import real

if TYPE_CHECKING:
    from infalign_edu.lm.policy import Policy

Array = NDArray[np.float64]
ROWS = 256  # responses scored at a time


@dataclass(frozen=True)
class Recipe:
    """Every number of the fit, found on pairs of training prompts.

    >>> Recipe(epochs=0)
    Traceback (most recent call last):
    ValueError: epochs must be a positive number, got 0
    """

    layers: int = 1  # blocks of the backbone that are kept
    epochs: int = 2
    batch: int = 128  # responses a step, about
    learning_rate: float = 6e-3  # of the backbone
    word_learning_rate: float = 2e-2  # of the words' values, which start at zero
    weight_decay: float = 0.01
    warmup: int = 10  # steps

    def __post_init__(self) -> None:
        for name in ("layers", "epochs", "batch", "learning_rate", "word_learning_rate", "warmup"):
            real(name, getattr(self, name), "a positive number", lambda value: value > 0)
            if not name.endswith("rate"):
                whole(name, getattr(self, name))


class RewardModel:
    """r(x, y) = sum_t ( h(x, y_<t) . w(y_t) / sqrt(d) + b(y_t) ), with P(a over b) = sigmoid(r(a) - r(b)).

    h is the backbone's state before word t, w and b the values of the words, the end of sequence among them. Source:
    the likelihood of Bradley and Terry 1952. Derived: the form of the reward, that of a log-ratio of two language
    models without its normalisation. Shape: prompts [R], responses [R] -> [R] float64, in nats of preference.

    Example:
        >>> model = RewardModel.fit(preferences, load("embedded"))   # doctest: +SKIP
        >>> model.report()["accuracy"] > 0.8                         # doctest: +SKIP
        True
    """

    def __init__(self, backbone: Policy, values: torch.Tensor, bias: torch.Tensor, report: dict[str, Any]):
        self.backbone, self.values, self.bias, self._report = backbone, values, bias, report

    @classmethod
    def fit(
        cls,
        preferences: Sequence[Preference],
        policy: Policy,
        *,
        test: Sequence[Preference] | None = None,
        held_out: float = 0.1,
        judge: Reward | None = None,
        recipe: Recipe | None = None,
        seed: int = 0,
        progress: bool = False,
    ) -> RewardModel:
        """Fine-tune on preferences by maximum likelihood; accuracy on `test`, else on a share of held-out prompts.

        With the `judge` who labelled them, the report has the agreement with the judge's own opinion and the ceiling
        that the noise sets. The policy is copied. Raises: ValueError for a model that is not GPT-2-shaped.
        """
        recipe, began = recipe or Recipe(), time.process_time()
        real("held_out", held_out, "a number between 0 and 1", lambda share: 0 < share < 1)
        train, rest = split(preferences, [1 - held_out, held_out], seed) if test is None else (list(preferences), test)
        backbone = first_blocks(policy, recipe.layers)
        words, width = backbone.model.get_input_embeddings().weight.shape
        device = policy.device
        values, bias = torch.zeros(words, width, device=device), torch.zeros(words, device=device)
        model = cls(backbone, values.requires_grad_(), bias.requires_grad_(), {})
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # a model this small is slower on more
        try:
            losses = model._train(train, recipe, np.random.default_rng(seed), progress)
            model._freeze()
            found = agreement(model, rest)
        finally:
            torch.set_num_threads(threads)
        model._report = {
            "model": policy.name, "backbone": fingerprint(policy), "recipe": asdict(recipe), "seed": seed,
            "training_pairs": len(train), "held_out_pairs": found["pairs"], "accuracy": found["accuracy"],
            "interval": found["interval"], "distinguishable_from_chance": found["interval"][0] > 0.5,
            "training_log_loss": float(np.mean(losses[-20:])), "log_loss_of_chance": float(np.log(2)),
            "cpu_seconds": time.process_time() - began,
        }  # fmt: skip
        if judge is not None:
            clean = agreement(model, relabelled(rest, judge))
            model._report |= {"gold_accuracy": clean["accuracy"], "gold_interval": clean["interval"],
                              "ceiling": ceiling(judge, rest)}  # fmt: skip
        return model

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> Array:
        prompts, tokens = list(prompts), self._tokens(responses)
        if len(prompts) != len(tokens):
            raise ValueError(f"responses must match the {len(prompts)} prompts, got {len(tokens)}")
        out = np.zeros(len(tokens))
        if not tokens:
            return out
        asked, owner = np.unique(prompts, return_inverse=True)
        ids, seen = self.backbone.encode(asked.tolist())
        order = np.argsort(owner, kind="stable")  # a prompt's responses together: it is read once for all of them
        with torch.inference_mode():
            for rows in np.array_split(order, -(-len(order) // ROWS)):
                part, local = np.unique(owner[rows], return_inverse=True)
                read = trim(ids[part], seen[part])
                out[rows] = self._rewards(*read, local, [tokens[i] for i in rows]).double().cpu().numpy()
        return out

    def report(self) -> dict[str, Any]:
        """How it was fitted, and its held-out accuracy with a 95 % interval."""
        return dict(self._report)

    def save(self, path: str | Path) -> None:
        """Write blocks and values as one safetensors file, whole or not at all."""
        tensors = {f"backbone.{name}": value for name, value in self.backbone.model.base_model.state_dict().items()}
        tensors |= {"values": self.values, "bias": self.bias}
        save_tensors(path, tensors, {"report": json.dumps(self._report)})

    @classmethod
    def load(cls, path: str | Path, policy: Policy) -> RewardModel:
        """Read a reward model back, for the model it was tuned from. Raises: ValueError for another or a bad file."""
        try:
            tensors, about = load_tensors(path)
            tensors = {name: value.to(policy.device) for name, value in tensors.items()}
            report = json.loads(about["report"])
            recipe, made_for = Recipe(**report["recipe"]), report["backbone"]
        except (KeyError, TypeError, ValueError) as error:
            told = f"got {path} ({error}); remove it to have it fitted again"
            raise ValueError(f"reward model must be a file that RewardModel.save wrote, {told}") from error
        if made_for != fingerprint(policy):
            raise ValueError(f"reward model {path} must be used with the model it was tuned from, got {policy.name}")
        backbone = first_blocks(policy, recipe.layers)
        values, bias = tensors.pop("values"), tensors.pop("bias")
        backbone.model.base_model.load_state_dict({k.removeprefix("backbone."): v for k, v in tensors.items()})
        model = cls(backbone, values, bias, report)
        model._freeze()
        return model

    def _tokens(self, responses: Sequence[str]) -> list[list[int]]:
        """Token ids of each response, and the end of sequence, which is worth something too."""
        rows = self.backbone.token_ids(responses) if len(responses) else []
        return [row[: self.backbone.max_new_tokens - 1] + self.backbone.stops[:1] for row in rows]

    def _rewards(
        self, ids: torch.Tensor, seen: torch.Tensor, local: NDArray[np.intp], tokens: list[list[int]]
    ) -> torch.Tensor:
        """Rewards [rows] of responses; row i answers prompt local[i] of ids [P, L]."""
        states, words, mask = self._read(ids, seen, local, tokens)
        worth = (states * self.values[words]).sum(-1) / math.sqrt(states.shape[-1]) + self.bias[words]  # [rows, T]
        return torch.where(mask, worth, 0.0).sum(1)

    def _read(
        self, ids: torch.Tensor, seen: torch.Tensor, local: NDArray[np.intp], tokens: list[list[int]]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The state before every word [rows, T, d], the words and their mask [rows, T]; each prompt is read once."""
        owner = torch.as_tensor(local, device=ids.device)
        words, mask = (x.to(ids.device) for x in pad(tokens, self.backbone.tokenizer.pad_token_id, left=False))
        cache = self.backbone.cache()
        states = self.backbone.forward(ids, seen, cache, None)[:, -1:][owner]  # before the first word
        if words.shape[1] > 1:
            cache.batch_select_indices(owner)
            so_far = torch.cat([seen[owner], torch.ones_like(mask[:, 1:])], 1)  # padding on the right is never read
            states = torch.cat([states, self.backbone.forward(words[:, :-1], so_far, cache, None)], 1)
        return states, words, mask

    def _train(
        self, pairs: Sequence[Preference], recipe: Recipe, rng: np.random.Generator, progress: bool
    ) -> list[float]:
        """Minimise the mean of -log sigmoid(r(chosen) - r(rejected)); the loss of every step, nats a pair."""
        groups = by_prompt(pairs)
        ids, seen = self.backbone.encode([group.prompt for group in groups])
        tokens = [self._tokens(group.texts) for group in groups]
        steps = [batch for _ in range(recipe.epochs) for batch in batches(groups, recipe.batch, rng)]
        body = list(self.backbone.model.base_model.requires_grad_().parameters())
        parts = [{"params": body}, {"params": [self.values, self.bias]}]
        optimizer = torch.optim.AdamW(parts, betas=(0.9, 0.98), weight_decay=recipe.weight_decay, fused=True)
        rates = [recipe.learning_rate, recipe.word_learning_rate]
        losses = []
        for step, batch in enumerate(tqdm(steps, desc="reward model", disable=not progress)):
            scale = min(1.0, (step + 1) / recipe.warmup) * 0.5 * (1 + math.cos(math.pi * step / len(steps)))
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * scale
            asked = torch.as_tensor(batch.groups, device=ids.device)
            said = [row for g in batch.groups for row in tokens[g]]
            rewards = self._rewards(*trim(ids[asked], seen[asked]), batch.owner, said)
            loss = torch.nn.functional.softplus(rewards[batch.rejected] - rewards[batch.chosen]).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([*body, self.values, self.bias], 1.0)
            optimizer.step()
            losses.append(loss.item())
        return losses

    def _freeze(self) -> None:
        self.backbone.model.requires_grad_(False)
        self.values, self.bias = self.values.detach(), self.bias.detach()


def first_blocks(policy: Policy, layers: int) -> Policy:
    """A copy of a GPT-2-shaped policy that keeps only its first blocks. Raises: ValueError for another shape."""
    kept = getattr(policy.model.base_model, "h", None)
    if kept is None:
        told = f"got {policy.name}: fit BradleyTerry on its frozen features instead"
        raise ValueError(f"a reward model is fine-tuned from a GPT-2-shaped model such as embedded, {told}")
    if len(kept) < layers:
        raise ValueError(f"layers must be at most the {len(kept)} of {policy.name}, got {layers}")
    twin = policy.copy()
    twin.model.base_model.h = twin.model.base_model.h[:layers]
    twin.model.config.num_hidden_layers = layers
    return twin
