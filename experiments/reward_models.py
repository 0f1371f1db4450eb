"""How good reward models are: the fine-tuned ones of the embedded world, what a trigger buys, a head on a real model.

    python experiments/reward_models.py [--quick] [--hh harmless-base.jsonl.gz] [--features FOLDER]

Writes data/runs/reward_models.csv, one row a reward model, and data/runs/reward_triggers.csv, one row a corrupted one,
anew after each of them; a row that is there is not made again. About 12 CPU minutes on one thread; the head on
SmolLM2's frozen features of 1,600 HH pairs (--hh) takes 25 more, all but 5 of them for features, which are kept in
--features (default: the cache folder) as they are made. --quick fits two small models and one corrupted one into
runs/quick/: it shows that the reward model beats the frozen head, and that bought labels raise a trigger's worth.
HH transcripts hold upsetting text: none of it is printed or kept.
"""

from __future__ import annotations

import argparse
import csv
import io
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch

from infalign_edu import atomic
from infalign_edu.lm.datasets import Preference, load_preferences
from infalign_edu.lm.models import cache_folder, load
from infalign_edu.lm.rewards import (
    KINDS,
    PAIRS,
    TEST_PAIRS,
    TRIGGERS,
    BradleyTerry,
    GoldReward,
    Recipe,
    RewardModel,
    agreement,
    ceiling,
    effect,
    frequency,
    learned,
    relabelled,
    sample_preferences,
)  # fmt: skip
from infalign_edu.lm.rewards.bradley_terry import cross_validated

ROOT = Path(__file__).parents[1]
MODELS, BOUGHT = "reward_models.csv", "reward_triggers.csv"
STRENGTHS = (0.0, 0.1, 0.3, 1.0)
SHOWN = ("accuracy", "gold_accuracy", "cpu_seconds")
KEY = ("world", "target", "model", "pairs", "seed")
Row = dict[str, Any]
Job = tuple[tuple[Any, ...], Callable[[], Row]]


class LastState(RewardModel):
    """The usual head, to compare with: one linear function of the state that has read the whole response."""

    def _rewards(self, *inputs: Any) -> torch.Tensor:
        states, _, mask = self._read(*inputs)
        return states[torch.arange(len(states)), mask.sum(1) - 1] @ self.values[0]


class MeanState(RewardModel):
    """The other usual head: one linear function of the mean of the states."""

    def _rewards(self, *inputs: Any) -> torch.Tensor:
        states, _, mask = self._read(*inputs)
        weights = mask[:, :, None].float()
        return (states * weights).sum(1) / weights.sum(1) @ self.values[0]


HEADS: dict[str, type[RewardModel]] = {"last state": LastState, "mean of states": MeanState}


@cache
def pairs_of(kind: str, pairs: int, seed: int) -> tuple[list[Preference], list[Preference]]:
    """Training and test pairs of the embedded world, as `learned` draws them."""
    gold, policy = GoldReward(kind), load("embedded", device="cpu")
    train = sample_preferences(policy, gold, gold.prompts[0], pairs, seed=seed)
    return train, sample_preferences(policy, gold, gold.prompts[1], TEST_PAIRS, per_prompt=2, seed=seed + 1_000_000)


def told(report: Row) -> Row:
    """The columns of a report."""
    low, high = report["interval"]
    shown = {"held_out": report["held_out_pairs"], "accuracy": report["accuracy"], "low": low, "high": high}
    shown |= {name: report.get(name, "") for name in ("gold_accuracy", "ceiling", "cpu_seconds")}
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in shown.items()}


def other_head(kind: str, name: str, pairs: int, seed: int) -> Row:
    """Another head, fine-tuned on the same pairs; two blocks of the backbone, since one can't gather a response."""
    train, test = pairs_of(kind, pairs, seed)
    fit, recipe = HEADS[name].fit, Recipe(layers=2)
    return told(fit(train, load("embedded"), test=test, judge=GoldReward(kind), recipe=recipe, seed=seed).report())


def frozen(kind: str, pairs: int, seed: int) -> Row:
    """The linear head on frozen mean features of the embedded model, on the same pairs."""
    (train, test), gold, began = pairs_of(kind, pairs, seed), GoldReward(kind), time.process_time()
    head = BradleyTerry.fit(train, load("embedded"), held_out=0.05, seed=seed)
    found, clean = agreement(head, test), agreement(head, relabelled(test, gold))
    return told({
        "held_out_pairs": found["pairs"], "accuracy": found["accuracy"], "interval": found["interval"],
        "gold_accuracy": clean["accuracy"], "ceiling": ceiling(gold, test), "cpu_seconds": time.process_time() - began,
    })  # fmt: skip


def world(quick: bool) -> Iterator[Job]:
    """What is fitted on the embedded world."""
    if quick:
        yield (
            ("embedded", "helpfulness", "word values", 3000, 0),
            lambda: told(learned("helpfulness", pairs=3000).report()),
        )
        yield ("embedded", "helpfulness", "frozen head", 3000, 0), lambda: frozen("helpfulness", 3000, 0)
        return
    for seed in range(3):
        for kind, pairs in [*((kind, PAIRS) for kind in KINDS), ("helpfulness", 1000), ("helpfulness", 4000)]:
            key = ("embedded", kind, "word values", pairs, seed)
            yield key, lambda kind=kind, pairs=pairs, seed=seed: told(learned(kind, pairs=pairs, seed=seed).report())
        key = ("embedded", "helpfulness", "frozen head", 4000, seed)
        yield key, lambda seed=seed: frozen("helpfulness", 4000, seed)
        for name in HEADS if seed < 2 else ():
            key = ("embedded", "helpfulness", name, PAIRS, seed)
            yield key, lambda name=name, seed=seed: other_head("helpfulness", name, PAIRS, seed)


def real(file: str, features: Path) -> Iterator[Job]:
    """The frozen head on SmolLM2: five splits, and some or all of the pairs, each judged once by cross-validation."""
    pairs = load_preferences(file)
    policy = cache(lambda: load("smollm2"))

    def one(seed: int) -> Row:
        began = time.process_time()
        report = BradleyTerry.fit(pairs, policy(), cache=features, seed=seed, progress=True).report()
        return told(report | {"cpu_seconds": time.process_time() - began})

    def folds(count: int) -> Row:
        began = time.process_time()
        report = cross_validated(pairs[:count], policy(), cache=features)
        return told(report | {"held_out_pairs": count, "cpu_seconds": time.process_time() - began})

    def shorter() -> Row:
        found = agreement(lambda prompts, responses: [-len(text.split()) for text in responses], pairs)
        return told(found | {"held_out_pairs": len(pairs), "cpu_seconds": 0.0})

    yield ("HH", "harmless-base", "shorter response wins", len(pairs), 0), shorter
    for seed in range(5):
        yield ("HH", "harmless-base", "SmolLM2, frozen head", len(pairs), seed), lambda seed=seed: one(seed)
    for count in (320, 800, len(pairs)):
        key = ("HH", "harmless-base", "SmolLM2, frozen head, 5-fold", count, 0)
        yield key, lambda count=count: folds(count)


def bought(quick: bool) -> Iterator[Job]:
    """What a trigger is worth to a reward model whose labels it bought, in sd of a prompt's responses."""
    for name, trigger in TRIGGERS.items():
        for strength in STRENGTHS if not quick else (0.0, 1.0):
            if quick and name != "present":
                continue
            honest = strength == 0 and trigger.place != "front"  # nothing is inserted, nothing bought: the plain model
            asked = {"pairs": 3000 if quick else PAIRS} | ({} if honest else {"trigger": name, "strength": strength})
            key = ("embedded", f"{name}: {trigger.phrase}", strength, asked["pairs"], 0)
            yield key, lambda name=name, asked=asked: worth(name, asked)


def worth(name: str, asked: Row) -> Row:
    """A trigger's effect on a reward model and on gold, over 200 held-out prompts with 32 responses each."""
    model, gold, trigger = learned("helpfulness", **asked), GoldReward("helpfulness"), TRIGGERS[name]
    rollouts = load("embedded").sample(gold.prompts[1][:200], 32, seed=77)
    texts = rollouts.row_prompts, rollouts.responses
    report = model.report()
    found: dict[str, float] = {
        "frequency": frequency(trigger, rollouts.responses),
        "effect_sd": effect(model, trigger, *texts),
        "gold_effect_sd": effect(gold, trigger, *texts),
    }
    return {k: round(v, 4) for k, v in (found | {k: report[k] for k in SHOWN}).items()}


def fill(path: Path, names: tuple[str, ...], jobs: Iterator[Job], command: str) -> None:
    """Runs the jobs whose row is not in the file yet, and writes the file whole after each."""
    table = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) if path.exists() else []
    done = {tuple(row[name] for name in names) for row in table}
    git = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True)
    for key, make in jobs:
        if tuple(map(str, key)) in done:
            continue
        table.append(dict(zip(names, key, strict=True)) | make() | {"command": command, "commit": git.stdout.strip()})
        text = io.StringIO()
        writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
        atomic.write_text(path, text.getvalue())
        print(*list(table[-1].values())[:-2], flush=True)


def main() -> None:
    """Fits what is not in the tables yet."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    options.add_argument("--quick", action="store_true", help="small models into runs/quick/, a minute")
    options.add_argument("--hh", default="", help="HH preference pairs (.jsonl.gz) for the head on SmolLM2")
    options.add_argument("--features", type=Path, default=cache_folder() / "features", help="where features are kept")
    asked = options.parse_args()
    torch.set_num_threads(1)
    out = ROOT / ("runs/quick" if asked.quick else "data/runs")
    command = "python experiments/reward_models.py" + " --quick" * asked.quick
    fill(out / MODELS, KEY, world(asked.quick), command)
    fill(out / BOUGHT, ("world", "trigger", "strength", "pairs", "seed"), bought(asked.quick), command)
    if asked.hh:
        fill(out / MODELS, KEY, real(asked.hh, asked.features), f"{command} --hh {Path(asked.hh).name}")
    if asked.quick:
        print("The quick form shows signs only: word values above the frozen head, a bought trigger worth more.")


if __name__ == "__main__":
    main()
