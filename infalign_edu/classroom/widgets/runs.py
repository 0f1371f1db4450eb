"""A run folder as the training monitor sees it, from outside: what was asked for, what is done, what theory expects.

It only reads, and reads what a running job writes without a lock: a line is taken once it is whole, a checkpoint is
moved into its place whole. Left out: several transforms at once; of a run that compares, the latest one is shown.
"""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from infalign_edu import theory
from infalign_edu.rl.config import CTRLConfig
from infalign_edu.transforms import standardize
from infalign_edu.transforms import transform as named_transform

EXAMPLES = 4  # held-out prompts whose responses are shown


@dataclass(frozen=True)
class Plan:
    """What the theory expects of a run: KL in nats, mean calibrated and transformed reward, win rate after T."""

    beta: float
    kl: float
    calibrated: float
    transformed: float
    win_rate: float


@dataclass(frozen=True)
class Progress:
    """A run so far. `metrics` has one row a step; `report` is report.json of a finished run."""

    config: CTRLConfig | None
    transform: str
    metrics: list[dict[str, float]]
    report: dict[str, Any] | None = None

    @property
    def steps(self) -> int:
        """Steps that are done."""
        return len(self.metrics)


@lru_cache(maxsize=512)
def plan(procedure: str, transform: str, beta: float | None, target_kl: float | None, scaled: bool = True) -> Plan:
    """The tilted policy that training at this beta (or at the beta of this KL) would end at.

    Derived: f = exp(Phi / beta) / Z maximises E[Phi] - beta KL(pi || pi_ref); tests hold its beta against `rl.ctrl`'s.
    Raises: ValueError for a transform without a name.

    >>> round(plan("best-of-4", "exp:10", None, 0.6).win_rate, 3)
    0.89
    """
    if transform == "optimal":
        from infalign_edu.rl.ctrl import objective  # brings torch, which takes seconds

        aim = objective(
            CTRLConfig(procedure=procedure, transform=transform, beta=beta, target_kl=target_kl, standardize=scaled),
            transform,
        )
        phi, beta = aim.transform, aim.beta
    else:
        phi = standardize(named_transform(transform)) if scaled else named_transform(transform)
        beta = beta or theory.beta_for_kl(phi, target_kl or 0.6)
    policy = theory.tilt(phi, beta)
    edges = np.concatenate([np.geomspace(1e-9, 1e-2, 200), np.linspace(1e-2, 1, 4000)[1:]])
    middle, mass = (edges[1:] + edges[:-1]) / 2, np.diff(policy.cdf(edges))
    mean = float(np.sum(np.asarray(phi(middle)) * mass))
    return Plan(float(beta), policy.kl, policy.win_rate("standard"), mean, policy.win_rate(procedure))


def plan_of(config: CTRLConfig, transform: str) -> Plan | None:
    """The plan of one of a run's transforms; None where it, or the procedure, is somebody's own object."""
    try:
        return plan(str(config.procedure), transform, config.beta, config.target_kl, config.standardize)
    except ValueError:
        return None


def saved_config(folder: Path) -> dict[str, Any] | None:
    """What config.json holds; None before a run has begun."""
    try:
        return dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None


def progress(folder: Path) -> Progress | None:
    """The run in a folder; None where there is none."""
    saved = saved_config(folder)
    if saved is None:
        return None
    try:
        config = CTRLConfig(**saved)
    except (ValueError, TypeError):  # trained with an own reward, procedure or transform: its name alone was kept
        config = None
    names = list(config.transforms) if config else [str(saved["transform"])]
    parts = {re.sub(r"[^A-Za-z0-9.-]+", "_", name): name for name in names}  # as `RunFolder.part` names them
    begun = [part for part in parts if (folder / part / "metrics.jsonl").exists()]
    part = begun[-1] if begun else next(iter(parts))
    report = folder / "report.json"
    done = json.loads(report.read_text(encoding="utf-8")) if report.exists() else None
    return Progress(config, parts[part], _rows(folder / part / "metrics.jsonl"), done)


def _rows(file: Path) -> list[dict[str, float]]:
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]  # the last one may be half-written


def stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Changes whenever the run has written something: sizes and times of what the monitor reads."""
    files = [*folder.glob("config.json"), *folder.glob("*/metrics.jsonl"), *folder.glob("report.json")]
    found = [(str(file), file.stat()) for file in sorted(files)]
    return tuple((name, status.st_size, status.st_mtime_ns) for name, status in found)


def arguments(config: dict[str, Any]) -> list[str]:
    """Options of the command line that stand for these fields of a `CTRLConfig`.

    >>> arguments({"steps": 3, "standardize": False, "beta": None})
    ['--steps=3', '--no-standardize']
    """
    given = {key.replace("_", "-"): value for key, value in config.items() if value is not None and value != ""}
    return [
        f"--{'' if value else 'no-'}{key}" if isinstance(value, bool) else f"--{key}={value}"
        for key, value in given.items()
    ]


@lru_cache(maxsize=2)
def _reference(model: str) -> Any:
    from infalign_edu.lm.models import load  # brings torch, which takes seconds

    return load(model, device="cpu")


@dataclass(frozen=True)
class Example:
    """Responses to one held-out prompt, drawn with the same random numbers, and their rewards (None: not gold)."""

    prompt: str
    before: str
    after: str
    rewards: tuple[float, float] | None


def newest_snapshot(folder: Path) -> Path | None:
    """The weights that were kept last, of the transform that is trained last."""
    found = sorted(folder.glob("*/snapshots/step-*.safetensors"), key=lambda file: (file.stat().st_mtime_ns, file.name))
    return found[-1] if found else None


def examples(folder: Path, snapshot: Path) -> list[Example]:
    """What the reference and a snapshot answer to held-out prompts; of the embedded model only, others are too slow.

    Raises: ValueError when the snapshot is damaged.
    """
    saved = saved_config(folder) or {}
    if saved.get("model") != "embedded" or saved.get("prompts") != "embedded":
        return []
    import torch

    from infalign_edu.lm.datasets import load_prompts
    from infalign_edu.lm.rewards import GoldReward
    from infalign_edu.rl.runs import read_tensors

    gold = str(saved["reward"]).removeprefix("gold:")
    kind = "harmful" if gold == "harmlessness" else "harmless"
    prompts = load_prompts("embedded").where(split="heldout", kind=kind).prompts[7::97][:EXAMPLES]
    reference = _reference("embedded")
    policy, (tensors, _) = reference.copy(), read_tensors(snapshot)
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            weight.copy_(tensors[f"policy.{name}"])
    before, after = (model.sample(prompts, 1, seed=saved["seed"]).responses for model in (reference, policy))
    rewards: list[tuple[float, float] | None] = [None] * len(prompts)
    if str(saved["reward"]).startswith("gold:"):
        scores = [GoldReward(gold)(prompts, texts) for texts in (before, after)]
        rewards = [(float(one), float(two)) for one, two in zip(*scores, strict=True)]
    return [Example(*row) for row in zip(prompts, before, after, rewards, strict=True)]


def table(found: list[Example], step: int) -> str:
    """The examples as an HTML table; what a model wrote is text and never markup.

    >>> "&lt;b&gt;" in table([Example("p", "<b>", "y", None)], 5)
    True
    """
    if not found:
        return ""
    left = 'style="text-align:left; padding:2px 8px"'
    names = ("prompt", "reference", f"policy after step {step}")
    head = "".join(f'<th scope="col" {left}>{name}</th>' for name in names)
    rows = []
    for one in found:
        texts = [one.before, one.after]
        if one.rewards is not None:
            texts = [f"{text} ({reward:+.2f})" for text, reward in zip(texts, one.rewards, strict=True)]
        cells = "".join(f"<td {left}>{html.escape(text)}</td>" for text in texts)
        rows.append(f'<tr><th scope="row" {left}>{html.escape(one.prompt)}</th>{cells}</tr>')
    caption = "Held-out prompts, answered with the same random numbers (gold reward in brackets)"
    return (
        f'<table><caption style="text-align:left"><b>{caption}</b></caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )
