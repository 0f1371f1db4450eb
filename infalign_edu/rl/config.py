"""Every hyper-parameter of the CTRL pipeline, in one dataclass with a line of help each.

The command line is generated from these fields. A number left at None is chosen from the size of the model and the
device when the run starts, printed, and written to the run's config.json.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

from infalign_edu.inputs import shown
from infalign_edu.order_statistics import real
from infalign_edu.procedures import Procedure
from infalign_edu.procedures import procedure as named_procedure
from infalign_edu.rl import algorithms
from infalign_edu.rl.names import by_code, by_values, label, pairs_name
from infalign_edu.transforms import Transform
from infalign_edu.transforms import transform as named_transform

SMALL = 5_000_000  # parameters; below it a laptop core samples thousands of tokens a second and trains all weights
LORA_RANK = 16  # of the adapters that are trained in a larger model, in the place of its weights
WARMUP = 1 / 7  # of the steps: a shorter one overshoots the KL, and what is forgotten then is slow to come back
FULL_RATE = 1e-5  # learning rate of a larger model whose weights are all trained
LARGEST = 1e30  # beyond it float32 overflows
THREADS = max(64, os.cpu_count() or 1)  # beyond them nothing is gained, and a system may refuse to make more


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class CTRLConfig:
    """What `align` does: which model, data and reward, for which procedure, by which transform.

    `reward`, `procedure` and `transform` take your own objects in the place of a name: any callable
    (prompts, responses) -> rewards, any procedure, any vectorised function on [0, 1].

    Raises: ValueError that names the field, its value and what is accepted.

    >>> list(CTRLConfig(procedure="worst-of-4", transform="exp:-10").transforms)
    ['exp:-10']
    >>> list(CTRLConfig().transforms)
    ['identity', 'exp:10']
    """

    model: str = _option("embedded", "embedded, smollm2, a local folder, a .gguf file or a Hub id")
    prompts: str = _option("embedded", "embedded, a .jsonl(.gz) or text file, or hub:REPO/FILE")
    preferences: str = _option("", "pairs to fit the learned reward on: embedded, .jsonl(.gz), hub:REPO/FILE")
    reward: str | Callable[..., Any] = _option("", "gold:helpfulness, gold:harmlessness, bradley-terry, classifier:M")
    reward_noise: float = _option(0.1, "standard deviation of fixed label noise added to a gold reward")
    procedure: str | Procedure = _option("best-of-4", "what the user sees: standard, best-of-4, worst-of-4, ...")
    transform: str | Transform = _option("", "identity, log, exp:10, exp:-10, power:7 or optimal")
    compare: str = _option("", "transforms to train beside it, comma-separated; both empty: identity,exp:10")
    standardize: bool = _option(True, "scale Phi to unit variance under U[0,1]; beta then speaks of that scale")
    beta: float | None = _option(None, "weight of KL(pi || pi_ref), per nat; give this or target_kl")
    target_kl: float | None = _option(None, "KL(pi || pi_ref) in nats at which theory picks beta; default 0.6")
    reference_samples: int | None = _option(None, "K, reference samples a prompt for calibration")
    calibration: str = _option("", "a calibration.npz of an earlier run to use instead of sampling")
    training_prompts: int | None = _option(None, "most prompts to train on")
    heldout_prompts: int | None = _option(None, "most held-out prompts to evaluate on")
    evaluation_samples: int | None = _option(None, "fresh samples of each policy for a held-out prompt")
    base_samples: int | None = _option(None, "fresh samples of the reference there; all policies meet the same")
    algorithm: str = _option("rloo", f"{', '.join(algorithms.NAMES)}, or bonbon:8 for another N than 4")
    steps: int | None = _option(None, "updates")
    warmup: int | None = _option(None, "updates until the learning rate is full; default a seventh of steps")
    prompts_per_step: int | None = _option(None, "prompts in one update")
    samples_per_prompt: int | None = _option(None, "responses a prompt in one update, at least 2")
    learning_rate: float | None = _option(None, "Adam's learning rate")
    adam_beta2: float | None = _option(None, "decay of Adam's second moments, in [0, 1)")
    micro_batch: int | None = _option(None, "rows run at once in an update; by default as memory allows, at most 64")
    lora_rank: int | None = _option(None, f"rank of LoRA adapters, 0: all weights; above 5 M parameters {LORA_RANK}")
    max_new_tokens: int | None = _option(None, "longest response in tokens")
    preference_pairs: int | None = _option(None, "most pairs the learned reward is fitted and tested on")
    snapshots: int = _option(8, "checkpoints along the run; a killed run goes on from the last one")
    seed: int = _option(0, "every random draw is a function of it")
    device: str = _option("auto", "auto, cpu, cuda or cuda:1")
    dtype: str = _option("auto", "auto, float32, bfloat16 or float16")
    threads: int | None = _option(None, "CPU threads; a tiny model is fastest on one")
    allocator: str | None = _option(None, "keep or system: whether freed memory is kept for the next step, on Linux")
    skip_bad_lines: bool = _option(False, "count malformed lines of data files instead of stopping")
    out: str = _option("runs/align", "run folder")
    resume: bool = _option(False, "go on with the run in the run folder")

    def __post_init__(self) -> None:
        for name in ("model", "prompts", "preferences", "compare", "calibration", "device", "dtype", "out"):
            if not isinstance(value := getattr(self, name), (str, os.PathLike)) or (name == "out" and not str(value)):
                raise ValueError(f"{name} must be a string{' with a name' * (name == 'out')}, got {shown(value)}")
        n = named_procedure(self.procedure).max_n
        if n is None:
            raise ValueError(f"procedure must have a largest number of draws to be evaluated, got {self.procedure}")
        for spec in self.transforms.values():
            if spec != "optimal":
                named_transform(spec)
        if self.beta is not None and self.target_kl is not None:
            raise ValueError(f"give beta or target_kl, not both: got beta {self.beta} and target_kl {self.target_kl}")
        algorithms.parse(self.algorithm)
        for name in ("beta", "target_kl", "learning_rate"):
            self._check(name, float, math.ulp(0), "a positive number")
            self._check(name, float, 1 / LARGEST, f"a number from {1 / LARGEST:g} to {LARGEST:g}", LARGEST)
        for name in ("steps", "prompts_per_step", "training_prompts", "heldout_prompts", "reference_samples"):
            self._check(name, int, 1, "a positive integer")
        for name in ("warmup", "evaluation_samples", "base_samples", "max_new_tokens", "snapshots", "micro_batch"):
            self._check(name, int, 1, "a positive integer")
        self._check("threads", int, 1, f"an integer from 1 to {THREADS}", THREADS)
        if self.allocator not in (None, "keep", "system"):
            raise ValueError(f"allocator must be keep or system, got {self.allocator!r}")
        self._check("samples_per_prompt", int, 2, "an integer of at least 2")
        self._check("preference_pairs", int, 20, "an integer of at least 20")
        self._check("seed", int, 0, "an integer >= 0")
        self._check("lora_rank", int, 0, "an integer >= 0; 0 trains all weights")
        real("reward_noise", self.reward_noise, "a number >= 0", lambda sd: sd >= 0)
        if self.adam_beta2 is not None:
            real("adam_beta2", self.adam_beta2, "a number in [0, 1)", lambda decay: 0 <= decay < 1)
        for name in ("evaluation_samples", "base_samples"):
            if (value := getattr(self, name)) is not None and value < max(n, 4):
                told = f"at least {max(n, 4)} to evaluate {self.procedure}, best-of-4 and worst-of-4"
                raise ValueError(f"{name} must be {told}, got {value}")

    def _check(self, name: str, kind: type, least: float, accepted: str, most: float = math.inf) -> None:
        value = getattr(self, name)
        if value is None:
            return
        number = isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
        if not number or not (least <= value <= most and abs(value) < math.inf):
            raise ValueError(f"{name} must be {accepted}, got {shown(value)}")

    @property
    def transforms(self) -> dict[str, str | Transform]:
        """The transforms to train by name, in order, each once; the last one is the run's own."""
        specs = [name.strip() for name in self.compare.split(",")] + [self.transform]
        named = {label(spec): spec for spec in specs if spec}
        return named or {"identity": "identity", "exp:10": "exp:10"}

    def resolved(self, parameters: int, cuda: bool, cores: int, rows: int | None = None) -> CTRLConfig:
        """The same configuration with every None chosen for a model of that size on that device.

        `rows` is what memory has room for in one micro-batch of training, where that is known.
        """
        small = parameters < SMALL
        column = 0 if small else 2 if cuda else 1
        n = max(4, named_procedure(self.procedure).max_n or 4)
        chosen: dict[str, Any] = {name: values[column] for name, values in _CHOICES.items()}
        chosen["evaluation_samples"] = max(n, chosen["evaluation_samples"])
        most = (1 if column else 3) * (self.evaluation_samples or chosen["evaluation_samples"])
        chosen["base_samples"] = max(n, min(chosen["base_samples"], most))
        chosen["threads"] = 1 if small else cores
        chosen["micro_batch"] = min(chosen["micro_batch"], rows or chosen["micro_batch"])
        if not small and self.lora_rank == 0:
            chosen["learning_rate"] = FULL_RATE
        chosen["learning_rate"] *= algorithms.algorithm(self.algorithm).rate
        if self.beta is None:
            chosen["target_kl"] = 0.6
        wanted = {k: v for k, v in chosen.items() if getattr(self, k) is None and v is not None}
        if not self.reward:
            wanted["reward"] = "bradley-terry" if self.preferences else "gold:helpfulness"
        result = replace(self, **wanted)
        if result.warmup is None:
            result = replace(result, warmup=max(1, round(WARMUP * (result.steps or 1))))
        visited = (result.steps or 1) * (result.prompts_per_step or 1)
        return replace(result, training_prompts=min(result.training_prompts or visited, visited))

    def describe(self) -> str:
        """One line a reader can check: every number that was chosen for this run."""
        words = [f"{name} {getattr(self, name)}" for name in [*_CHOICES, "warmup"] if getattr(self, name) is not None]
        pull = f"beta {self.beta}" if self.beta is not None else f"target KL {self.target_kl} nats"
        shown = f"{label(self.procedure)}, {' and '.join(self.transforms)}, reward {self.reward_name}, {pull}"
        shown += "" if self.algorithm == "rloo" else f", algorithm {self.algorithm}"
        return f"{shown}; {', '.join(words)}, threads {self.threads}, seed {self.seed}"

    @property
    def reward_name(self) -> str:
        """The reward in words. A learned one means what its pairs mean, so their file is named.

        >>> CTRLConfig(reward="bradley-terry", preferences="data/harmless-base.jsonl.gz").reward_name
        'bradley-terry fitted on harmless-base.jsonl.gz'
        """
        name = label(self.reward)
        return f"{name} fitted on {pairs_name(self.preferences)}" if name == "bradley-terry" else name

    def identity(self) -> dict[str, Any]:
        """The fields that decide a run's numbers: what a resumed run must share with the first one."""
        free = ("out", "resume", "threads", "allocator", "micro_batch")  # where it runs, and how much at once
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in free}
        own = {
            "procedure": by_values(self.procedure, named_procedure, named_procedure(self.procedure).cdf),
            "transform": by_values(self.transform, named_transform, self.transform),  # type: ignore[arg-type]
            "reward": by_code(self.reward),
        }
        return {k: v if v is None or isinstance(v, int | float | str) else label(v) for k, v in values.items()} | own


#                         below 5 M parameters, larger on a CPU, larger on CUDA
_CHOICES: dict[str, tuple[Any, Any, Any]] = {
    "reference_samples": (128, 8, 32),
    "training_prompts": (256, 256, 512),
    "heldout_prompts": (200, 8, 128),
    "evaluation_samples": (32, 8, 32),
    "base_samples": (96, 8, 32),
    "steps": (1200, 2, 200),
    "prompts_per_step": (12, 4, 16),
    "samples_per_prompt": (16, 4, 16),
    "learning_rate": (1.5e-3, 1e-4, 1e-4),  # the large ones are of adapters
    "adam_beta2": (0.95, 0.999, 0.999),  # 0.999 ended lower in long runs: data/runs/reach.csv
    "lora_rank": (0, LORA_RANK, LORA_RANK),
    "micro_batch": (64, 8, 64),  # a tiny model is slower with more (benchmarks/rows/choices.py)
    "allocator": ("keep", "system", "system"),
    "max_new_tokens": (None, 24, 64),
    "preference_pairs": (2000, 240, 1600),
}


def option_help() -> dict[str, str]:
    """The line of help of every field.

    >>> option_help()["seed"]
    'every random draw is a function of it'
    """
    return {f.name: f.metadata["help"] for f in fields(CTRLConfig)}
