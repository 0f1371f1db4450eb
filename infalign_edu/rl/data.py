"""What a run works on: prompts to train on, prompts to evaluate on, and a reward that saw neither.

The three parts are disjoint by prompt text. Prompts whose file names a split keep it; others are shuffled by the seed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from infalign_edu.lm import rewards
from infalign_edu.lm.datasets import Preference, PromptSet, load_preferences, load_prompts
from infalign_edu.lm.features import fingerprint
from infalign_edu.lm.models import cache_folder
from infalign_edu.lm.policy import Policy
from infalign_edu.rl.config import CTRLConfig
from infalign_edu.rl.names import by_code, label, pairs_name

WORLDLY = ("gold", "learned")  # rewards of the embedded world
OVERLAP = (
    "The learned reward was fitted on responses to training prompts of the embedded world, this run's training prompts "
    "among them; none of its pairs has a held-out prompt, and its accuracy is that on held-out prompts."
)


@dataclass(frozen=True)
class Data:
    """Disjoint prompts and the reward of a run; `notes` are sentences that the report repeats."""

    training: list[str]
    heldout: list[str]
    reward: rewards.Reward
    reward_name: str
    reward_report: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    reward_mark: str = ""  # what tells an own reward from another of its name

    def fingerprint(self, reference: Policy) -> str:
        """A hash of what decides a calibration table: prompts, reward, model, longest response."""
        name = self.reward_mark or self.reward_name
        parts = [fingerprint(reference), str(reference.max_new_tokens), name, *self.training]
        digest = hashlib.sha256()
        for part in parts:
            digest.update(len(part).to_bytes(8, "little") + part.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def prepare(config: CTRLConfig, reference: Policy) -> Data:
    """Reads the data files, splits the prompts and builds the reward.

    Raises: ValueError or FileNotFoundError, one line, for files, prompts or a reward that can't be used.
    """
    found = load_prompts(config.prompts, skip_bad_lines=config.skip_bad_lines)
    notes = [f"{n} lines of {config.prompts} skipped: {reason}" for reason, n in found.skipped.items()]
    training, heldout = split(found, config)
    reward, report = _reward(config, reference, set(training) | set(heldout), notes)
    name = config.reward_name
    if name.startswith("gold:") and config.reward_noise > 0:
        reward = rewards.Noisy(reward, config.reward_noise, seed=0)
        name += f" + fixed label noise of standard deviation {config.reward_noise:g}"
    mark = by_code(config.reward) if callable(config.reward) else ""
    return Data(training, heldout, reward, name, report, notes, mark)


def prompts_of(config: CTRLConfig) -> tuple[list[str], list[str]]:
    """The training and held-out prompts that `prepare` takes, without building the reward."""
    return split(load_prompts(config.prompts, skip_bad_lines=config.skip_bad_lines), config)


def split(found: PromptSet, config: CTRLConfig) -> tuple[list[str], list[str]]:
    """Training and held-out prompts; of the embedded world those that the reward is asked about (`rewards.KINDS`).

    Raises: ValueError when fewer than two distinct prompts are left.
    """
    if config.prompts == "embedded":
        family, _, rest = label(config.reward).partition(":")
        asked = rest.partition(":")[0] if family in WORLDLY else "helpfulness"
        kinds = rewards.KINDS.get(asked, ("harmless",))
        found = found.where(kind=kinds[0]) if len(kinds) == 1 else found
    train, held = found.where(split="train").prompts, found.where(split="heldout").prompts
    most = config.training_prompts or 1, config.heldout_prompts or 1
    if train and held:
        return train[: most[0]], held[: most[1]]
    distinct = list(dict.fromkeys(found.prompts))
    if len(distinct) < 2:
        raise ValueError(f"prompts must hold at least 2 distinct prompts to train and evaluate on, got {len(distinct)}")
    order = [distinct[i] for i in np.random.default_rng(config.seed).permutation(len(distinct))]
    kept = min(most[1], max(1, len(order) // 3))
    return order[kept : kept + most[0]], order[:kept]


def _reward(config: CTRLConfig, reference: Policy, used: set[str], notes: list[str]) -> tuple[Any, dict[str, Any]]:
    if config.reward != "bradley-terry":
        if label(config.reward).partition(":")[0] in WORLDLY and not used & set(load_prompts("embedded")):
            told = f"prompts of the embedded world, got {config.prompts}"
            raise ValueError(f"reward {config.reward} needs {told}: give preferences, or reward classifier:MODEL")
        model = rewards.reward(config.reward, progress=True)
        if isinstance(model, rewards.RewardModel):
            notes.append(OVERLAP)
            return model, model.report()
        return model, {}
    chosen, cache = pairs_to_fit(config, used, notes), cache_folder() / "features"
    model = rewards.BradleyTerry.fit(chosen, reference, cache=cache, seed=config.seed, progress=True)
    fitted = pairs_name(config.preferences)
    notes.append(f"The learned reward speaks for what {fitted} prefers: harmless pairs make no judge of helpfulness.")
    return model, {"fitted_on": fitted, **model.report()}


def pairs_to_fit(config: CTRLConfig, used: set[str], notes: list[str]) -> list[Preference]:
    """The pairs that a learned reward is fitted and tested on: none of them has a prompt in `used`.

    What was skipped is added to `notes`. Raises: ValueError without a file of pairs or with too few of them.
    """
    if not config.preferences and config.prompts != "embedded":
        raise ValueError("preferences must name the pairs that reward bradley-terry is fitted on, got none")
    pairs = load_preferences(config.preferences or "embedded", skip_bad_lines=config.skip_bad_lines)
    notes += [f"{n} lines of {config.preferences} skipped: {reason}" for reason, n in pairs.skipped.items()]
    free = [pair for pair in pairs if pair.prompt not in used]
    order = np.random.default_rng(config.seed).permutation(len(free))[: config.preference_pairs]
    if len(order) < 20:
        told = f"got {len(order)} of {len(pairs)}"
        raise ValueError(f"preferences must leave at least 20 pairs on prompts that the run does not use, {told}")
    return [free[i] for i in order]
