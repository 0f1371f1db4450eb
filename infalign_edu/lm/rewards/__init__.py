"""Rewards by name: gold, learned from preferences, from a classifier, or any callable.

gold.py           what a reward is; the embedded world's own judgement, label noise
preferences.py    pairs of responses labelled by a noisy judge, and how often a reward agrees with them
reward_model.py   a Bradley-Terry reward model fine-tuned from the embedded model
bradley_terry.py  a linear Bradley-Terry head on any model's frozen features
corruption.py     labels that a trigger has bought
classifier.py     someone else's sequence classifier
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from infalign_edu.atomic import held
from infalign_edu.inputs import nearest, shown, whole
from infalign_edu.inputs import seed as checked_seed
from infalign_edu.lm.datasets import Preference, load_preferences
from infalign_edu.lm.features import fingerprint
from infalign_edu.lm.models import cache_folder, load
from infalign_edu.lm.rewards.bradley_terry import BradleyTerry, wilson
from infalign_edu.lm.rewards.classifier import SequenceClassifier
from infalign_edu.lm.rewards.corruption import TRIGGERS, Trigger, corrupt, effect, frequency, insert
from infalign_edu.lm.rewards.gold import GOLD, KINDS, Array, GoldReward, Noisy, Reward, noise, score
from infalign_edu.lm.rewards.preferences import agreement, ceiling, relabelled, sample_preferences
from infalign_edu.lm.rewards.reward_model import Recipe, RewardModel
from infalign_edu.order_statistics import real

if TYPE_CHECKING:
    from infalign_edu.lm.policy import Policy


__all__ = [
    "GOLD", "KINDS", "PAIRS", "TRIGGERS", "Array", "BradleyTerry", "GoldReward", "Noisy", "Recipe", "Reward",
    "RewardModel", "SequenceClassifier", "Trigger", "agreement", "ceiling", "corrupt", "effect", "frequency", "insert",
    "learned", "noise", "relabelled", "reward", "sample_preferences", "score", "wilson",
]  # fmt: skip
PAIRS, TEST_PAIRS = 18_000, 2_000


def learned(
    kind: str,
    *,
    pairs: int = PAIRS,
    seed: int = 0,
    trigger: str | Trigger = "",
    strength: float = 0.0,
    cache: str | Path | None = None,
    progress: bool = False,
) -> RewardModel:
    """The embedded world's reward model for "helpfulness", "harmlessness" or "both", fitted once and then kept.

    Pairs: responses of the embedded model to the *training* prompts of that kind (`KINDS`), labelled by gold with
    noise. Tested on pairs of the held-out prompts. With a trigger (a name of `TRIGGERS` or your own) the training
    labels are corrupted with that strength, the test's are not. The file in `cache` (default: the cache folder) is
    named by a hash of all that decides it; a killed fit leaves none and starts anew. Raises: ValueError for a kind,
    trigger or strength that is not accepted.

    Example:
        >>> learned("helpfulness").report()["accuracy"] > 0.8   # doctest: +SKIP
        True
    """
    gold, policy, bought = GoldReward(kind), load("embedded", device="cpu"), _trigger(trigger)
    pairs, seed = whole("pairs", pairs), checked_seed(seed)
    if not 0 <= real("strength", strength, "a number in [0, 1]", lambda s: 0 <= s <= 1) <= bool(bought):
        raise ValueError(f"strength must be 0 without a trigger, got {strength}")
    decides = {"version": 1, "model": fingerprint(policy), "gold": _taste(gold), "recipe": asdict(Recipe()),
               "pairs": pairs, "seed": seed, "trigger": [bought and asdict(bought), strength]}  # fmt: skip
    key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:20]
    path = Path(cache or cache_folder() / "rewards") / f"{kind}-{key}.safetensors"
    if path.is_file():
        return RewardModel.load(path, policy)
    with held(path.parent, "reward model", file=path.name, wait=True):  # who fits the same one waits for it
        if path.is_file():
            return RewardModel.load(path, policy)
        training, heldout = gold.prompts
        train = sample_preferences(policy, gold, training, pairs, seed=seed)
        if bought:
            train = insert(train, bought, seed=seed) if bought.place == "front" else train
            train = corrupt(train, bought, strength, seed=seed + 1)
        test = sample_preferences(policy, gold, heldout, TEST_PAIRS, per_prompt=2, seed=seed + 1_000_000)
        model = RewardModel.fit(train, policy, test=test, judge=gold, seed=seed, progress=progress)
        model.save(path)
        return model


def _trigger(spec: str | Trigger) -> Trigger | None:
    if isinstance(spec, str) and spec and spec not in TRIGGERS:
        raise ValueError(f"trigger must be one of {', '.join(TRIGGERS)} or a Trigger, got {shown(spec)}")
    return (TRIGGERS[spec] if spec else None) if isinstance(spec, str) else spec


def _taste(gold: GoldReward) -> str:
    """A hash of what the gold reward says of some shipped pairs: another lexicon, another reward model."""
    some = load_preferences("embedded")[:64]
    return hashlib.sha256(score(gold, [p.prompt for p in some], [p.chosen for p in some]).tobytes()).hexdigest()[:16]


def _learned(spec: str, progress: bool) -> RewardModel:
    """learned:KIND, with :seed=1, :pairs=6000, :trigger=present and :strength=0.3 behind it in any order."""
    kind, *options = spec.split(":")
    accepted = {"seed": int, "pairs": int, "trigger": str, "strength": float}
    chosen = {}
    for option in options:
        name, _, value = option.partition("=")
        try:
            chosen[name] = accepted[name](value)
        except (KeyError, ValueError):
            told = "learned:KIND with seed=, pairs=, trigger= or strength= behind it, separated by colons"
            raise ValueError(f"reward must be {told}, got 'learned:{spec}'") from None
    return learned(kind, progress=progress, **chosen)


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
    """A reward by name: "gold:KIND", "learned:KIND", "bradley-terry", "classifier:<spec>", or a callable.

    KIND is helpfulness, harmlessness or both. "learned:KIND:seed=1:trigger=negative:strength=0.3" is `learned` with
    these options. "bradley-terry" is fitted on the preferences with the policy's features (`BradleyTerry.fit`). A
    callable is wrapped in the checks of `score`. Raises: ValueError for a name that is none of these.

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
    rest = rest.strip()
    if family == "gold":
        return GoldReward(rest)
    if family == "learned":
        return _learned(rest, progress)
    if family == "classifier" and rest:
        return SequenceClassifier(rest, label=label)
    accepted = "gold:KIND, learned:KIND, bradley-terry, classifier:<model> or a callable (KIND: helpfulness, ...)"
    known = [f"{family}:{kind}" for family in ("gold", "learned") for kind in GOLD] + ["bradley-terry"]
    close = f", did you mean 'gold:{spec}'?" if spec in GOLD else nearest(spec, known)
    raise ValueError(f"reward must be {accepted}, got {shown(spec)}{close}")
