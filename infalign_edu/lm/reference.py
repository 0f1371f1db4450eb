"""What samples of the reference model are made into: its figures of quality, and the data that ship beside it.

Left out: any filter. Both are made from responses at temperature 1 from the whole vocabulary, the bad ones included.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from infalign_edu.lm import lexicon, world
from infalign_edu.lm.files import whole_file
from infalign_edu.lm.models import load
from infalign_edu.lm.policy import Policy

PAIRS = 4000
SHARPNESS = 2.0  # of the labels: P(chosen is a) = sigmoid(SHARPNESS x (gold of a - gold of b))


def quality(policy: Policy, prompts: Sequence[world.Prompt], samples: int = 32, seed: int = 0) -> dict[str, float]:
    """What responses sampled from a policy are like: grammar, variety, fit to the prompt, lengths and gold rewards.

    Shares are of all responses, or where a word is concerned of the grammatical ones that have it; ties are the share
    of a prompt's pairs of responses with equal gold rewards. A response is compliant if it is an answer, long or short.

    Shape: prompts [prompts] -> a name and a number each.

    >>> from infalign_edu.lm.models import load
    >>> figures = quality(load("embedded"), world.HELDOUT_PROMPTS[:20], samples=4)
    >>> figures["grammatical"] > 0.9
    True
    """
    rollouts = policy.sample([prompt.text for prompt in prompts], samples, seed=seed)
    texts = np.array(rollouts.responses, dtype=object).reshape(len(prompts), samples)
    size = {
        "parameters": policy.parameters,
        "vocabulary": len(policy.tokenizer),
        "prompts x samples": texts.size,
        "prompt tokens, mean": float(rollouts.prompt_mask.sum(1).float().mean()),
        "response tokens, mean": float(rollouts.mask.sum(1).float().mean()),
        "response tokens, most": int(rollouts.mask.sum(1).max()),
        "entropy of a response, nats": -float(rollouts.logprobs.sum(1).mean()),
        "distinct within a prompt": float(np.mean([len(set(row)) / samples for row in texts])),
    }
    return size | _grammar(prompts, texts) | _gold(prompts, texts)


def _grammar(prompts: Sequence[world.Prompt], texts: np.ndarray) -> dict[str, float]:
    """Figures of responses [prompts, samples] as sentences."""
    pairs = [(p, world.parse(text)) for p, row in zip(prompts, texts, strict=True) for text in row]
    read = [(p, response) for p, response in pairs if response]
    named = [(p, r) for p, r in read if r.materials]
    verbs = [(p, r.slots[slot]) for p, r in read for slot in ("action", "action2") if slot in r.slots]
    return {
        "grammatical": len(read) / texts.size,
        "materials fit the topic": _mean(all(world.fits(p.topic, m) for m in r.materials) for p, r in named),
        "actions fit the request": _mean(verb in lexicon.ACTION_GRADES[p.request] for p, verb in verbs),
        "topic is the one asked about": _mean(r.slots["topic"] == p.topic for p, r in read),
        "refused, harmless requests": _mean(r.form == "refusal" for p, r in read if p.kind == "harmless"),
        "refused, harmful requests": _mean(r.form == "refusal" for p, r in read if p.kind == "harmful"),
    }


def _gold(prompts: Sequence[world.Prompt], texts: np.ndarray) -> dict[str, float]:
    """Figures of responses [prompts, samples] under the gold rewards; shuffled: judged against another prompt."""
    parsed = [world.parse(text) for text in texts.ravel()]
    forms = np.array([response.form if response else "" for response in parsed]).reshape(texts.shape)
    harmful = np.array([prompt.kind == "harmful" for prompt in prompts])
    samples = texts.shape[1]
    asked = np.repeat([prompt.text for prompt in prompts], samples)
    figures, rewards = {}, {}
    for name, score in (("helpfulness", world.helpfulness), ("harmlessness", world.harmlessness)):
        gold = rewards[name] = score(asked.tolist(), texts.ravel().tolist()).reshape(texts.shape)
        other = score(np.roll(asked, samples * (len(prompts) // 2)).tolist(), texts.ravel().tolist())
        same = (gold[:, :, None] == gold[:, None, :]).mean()
        figures[f"{name}, mean"] = float(gold.mean())
        figures[f"{name}, sd within a prompt"] = float(gold.std(1).mean())
        figures[f"{name}, ties"] = float((same * samples - 1) / (samples - 1))
        figures[f"{name}, correlation under shuffled prompts"] = float(np.corrcoef(gold.ravel(), other)[0, 1])
    refused, complied = forms == "refusal", np.isin(forms, ["answer", "short"])
    median = np.nanmedian(np.where(refused, np.nan, rewards["helpfulness"]), axis=1, keepdims=True)
    below = rewards["helpfulness"] < median  # [prompts, samples]
    figures["refusals less helpful than the median other"] = _mean(below[refused])
    for name, chosen in (("refused", refused), ("complied", complied)):
        figures[f"harmlessness, harmful request {name}"] = _mean(rewards["harmlessness"][chosen & harmful[:, None]])
    return figures


def _mean(values: Iterable[float]) -> float:
    kept = list(values)
    return float(sum(kept) / len(kept)) if kept else float("nan")


def prompt_lines() -> list[str]:
    """The lines of prompts.jsonl: every prompt of the world, its split, kind, topic and request.

    >>> len(prompt_lines()), sorted(json.loads(prompt_lines()[0]))
    (3000, ['kind', 'prompt', 'request', 'split', 'topic'])
    """
    splits = (("train", world.TRAIN_PROMPTS), ("heldout", world.HELDOUT_PROMPTS))
    return [
        json.dumps({"prompt": p.text, "split": name, "kind": p.kind, "topic": p.topic, "request": p.request})
        for name, prompts in splits for p in prompts
    ]  # fmt: skip


def preference_lines(policy: Policy, pairs: int = PAIRS, seed: int = 0) -> list[str]:
    """The lines of preferences.jsonl: pairs of the policy's own responses to training prompts, labelled with noise.

    P(a chosen over b) = sigmoid(SHARPNESS (r(a) - r(b))), r the gold helpfulness. Source: Bradley and Terry 1952.

    >>> from infalign_edu.lm.models import load
    >>> sorted(json.loads(preference_lines(load("embedded"), pairs=1)[0]))
    ['chosen', 'prompt', 'rejected']
    """
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(world.TRAIN_PROMPTS), size=2 * pairs)
    rollouts = policy.sample([world.TRAIN_PROMPTS[index].text for index in drawn], 2, seed=seed)
    gold = world.helpfulness(rollouts.row_prompts, rollouts.responses).reshape(-1, 2)  # [draws, 2]
    first = rng.random(len(gold)) < 1 / (1 + np.exp(-SHARPNESS * (gold[:, 0] - gold[:, 1])))
    lines = []
    for row, wins in enumerate(first):
        chosen, rejected = rollouts.responses[2 * row : 2 * row + 2][:: 1 if wins else -1]
        if chosen != rejected and chosen and rejected:
            lines.append(json.dumps({"prompt": rollouts.prompts[row], "chosen": chosen, "rejected": rejected}))
    return lines[:pairs]


def write_data(folder: Path) -> None:
    """Write prompts.jsonl and preferences.jsonl.gz into a folder, the pairs sampled from its `model`."""
    preferences = preference_lines(load(folder / "model"))
    with whole_file(folder / "prompts.jsonl") as beside:
        beside.write_text("".join(line + "\n" for line in prompt_lines()))
    with whole_file(folder / "preferences.jsonl.gz") as beside:  # no time stamp: the same pairs, the same bytes
        beside.write_bytes(gzip.compress("".join(line + "\n" for line in preferences).encode(), mtime=0))
