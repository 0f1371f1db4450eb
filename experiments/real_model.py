"""CTRL on a real model and data: SmolLM2-135M with LoRA, HH harmless prompts, worst-of-4, a random-reward control.

    python experiments/real_model.py --pairs harmless-base.jsonl.gz --slice 480      one GPU, bfloat16
    python experiments/real_model.py --pairs harmless-base.jsonl.gz --quick          a CPU, six minutes of one thread

Trains {identity, exp:-10} on a reward that is learned from the pairs, and exp:-10 on noise. Every run is judged by the
learned reward under worst-of-4 on held-out prompts; the transforms are compared at matched KL, paired by prompt. Writes
real_model.csv, one row a run, into the run folder or to --csv. A harmless reward never says anything about helpfulness.

**Slices.** With `--slice 480` the command stops at a checkpoint before 480 seconds are over, says so and exits 0; run
it again, the same, until it says that it is done. `--estimate` prints how long all of it should take on one H100: 23
minutes, from counts of what is computed and from assumed speeds. It was not measured: no GPU was at hand.

**Without a network there.** Fetch the model where there is one, halve it, cut it into parts that any transfer takes:

    python -c "from infalign_edu.lm.models import load; load('smollm2', dtype='bfloat16').save('smollm2-bf16')"
    cd smollm2-bf16 && sha256sum model.safetensors > model.sha256
    split -b 50M model.safetensors part- && rm model.safetensors        # six parts

and over there put it together, check it and name the folder:

    cd smollm2-bf16 && cat part-* > model.safetensors && sha256sum -c model.sha256 && rm part-*
    python experiments/real_model.py --model smollm2-bf16 --pairs harmless-base.jsonl.gz --slice 480

**--quick** takes a handful of prompts, two updates and 24 tokens: it shows that the plumbing works and no effect at
all; its rows say so. The transcripts are red-team dialogues with upsetting text: this script prints and keeps none.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STARTED = time.monotonic()  # before torch is imported: that counts for a slice too

from infalign_edu import atomic  # noqa: E402
from infalign_edu.rl.config import CTRLConfig  # noqa: E402
from infalign_edu.rl.report import FEW_STEPS  # noqa: E402
from infalign_edu.rl.slices import Finished, Slice, SliceOver, run  # noqa: E402
from infalign_edu.rl.slices.work import CHUNK  # noqa: E402

FULL: dict[str, Any] = {
    "procedure": "worst-of-4", "transform": "exp:-10", "compare": "identity", "reward": "bradley-terry",
    "target_kl": 0.5, "training_prompts": 256, "heldout_prompts": 128, "evaluation_samples": 32,
    "reference_samples": 32, "steps": 96, "prompts_per_step": 16, "samples_per_prompt": 16, "max_new_tokens": 40,
    "preference_pairs": 1600, "micro_batch": 64,
}  # fmt: skip
QUICK: dict[str, Any] = FULL | {
    "training_prompts": 4, "heldout_prompts": 3, "evaluation_samples": 4, "reference_samples": 4, "steps": 2,
    "prompts_per_step": 2, "samples_per_prompt": 4, "max_new_tokens": 24, "preference_pairs": 40, "threads": 1,
    "device": "cpu",
}  # fmt: skip
PLUMBING = "plumbing only: no number in this row is an effect"
# Assumed seconds on one H100, bfloat16: most of it is the launching of small kernels, thirty layers with adapters.
DECODE, MICRO_BATCH, JUDGED, FEATURES, START = 0.045, 0.3, 7.0, 0.1, 40.0


def estimate(config: CTRLConfig) -> dict[str, float]:
    """What the run computes and how long that should take on one H100, in seconds, with loading in three slices."""
    arms, length = len(config.transforms) + 1, config.max_new_tokens
    rows = config.prompts_per_step * config.samples_per_prompt
    updates = arms * config.steps + 2 * 3 * math.ceil(config.steps / 12)  # the second: two runs led to a common KL
    policies = 1 + arms + 2 * 3
    sampled = config.training_prompts * config.reference_samples + updates * rows
    tokens = length * (sampled + policies * config.heldout_prompts * config.evaluation_samples)
    steps = length * (updates + 2 * policies + math.ceil(config.training_prompts / CHUNK))
    batches = updates * math.ceil(rows / config.micro_batch)
    seconds = steps * DECODE + batches * MICRO_BATCH + policies * JUDGED + (updates + tokens / 4096) * FEATURES
    return {"updates": updates, "sampled_tokens": tokens, "decoding_steps": steps, "micro_batches": batches,
            "policies_judged": policies, "seconds": round(seconds + 3 * START)}  # fmt: skip


def rows(found: Finished, about: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a run: settings, KL in nats, win rates with standard errors, theory, what it took."""
    shown, config = str(found.config.procedure), found.config
    told = found.data.reward_report
    low, high = told.get("interval", (math.nan, math.nan))
    shared = {
        "model": found.model, "dtype": found.dtype, "reward": found.data.reward_name,
        "reward_accuracy": told.get("accuracy", math.nan), "reward_accuracy_low": low, "reward_accuracy_high": high,
        "procedure": shown, "target_kl": config.target_kl, **{name: getattr(config, name) for name in SETTINGS},
        "training": len(found.data.training), "heldout": len(found.data.heldout), "samples": config.evaluation_samples,
    }  # fmt: skip
    table = []
    for arm, outcome in zip(found.arms, found.outcomes, strict=True):
        own = [spent for kind, spent in found.used.items() if kind.split(" ", 1)[-1] == arm.name]
        common = [spent for kind, spent in found.used.items() if kind in COMMON]
        table.append({
            "run": arm.name, "transform": arm.transform, "control": int(arm.control), "beta": outcome.trained.beta,
            "kl": outcome.samples.kl.mean, "kl_stderr": outcome.samples.kl.stderr,
            **{f"{name.replace('-', '_')}{end}": value for name, rate in outcome.win_rates.items()
               for end, value in (("", rate.mean), ("_stderr", rate.stderr), ("_theory", outcome.theory[name]))},
            **gain(found, arm.name), **shared,
            "cpu_seconds": sum(spent["cpu"] for spent in own), "gpu_seconds": sum(spent["gpu"] for spent in own),
            "shared_cpu_seconds": sum(spent["cpu"] for spent in common),
            "shared_gpu_seconds": sum(spent["gpu"] for spent in common), "hardware": found.hardware,
            "shows": PLUMBING if (config.steps or 0) < FEW_STEPS else "one seed", **about,
        })  # fmt: skip
    return [{name: f"{v:.6g}" if isinstance(v, float) else v for name, v in row.items()} for row in table]


COMMON = ("features", "calibration", "judge reference")
SETTINGS = ("lora_rank", "learning_rate", "steps", "prompts_per_step", "samples_per_prompt", "max_new_tokens",
            "reference_samples", "seed")  # fmt: skip


def gain(found: Finished, name: str) -> dict[str, Any]:
    """The gain over the other transform at matched KL, in the row of the transform it belongs to; else empty."""
    names = ("matched_kl", "gain", "gain_low", "gain_high", "gain_theory")
    compared = found.comparison
    if compared is None or name != compared.transform:
        return dict.fromkeys(names, "")
    values = (compared.kl, compared.difference.mean, *compared.difference.interval(), compared.theory)
    return dict(zip(names, values, strict=True))


def command(options: argparse.Namespace) -> str:
    """The command that makes the rows again, with files by their names only."""
    words = ["python experiments/real_model.py"]
    words += ["--quick"] if options.quick else []
    words += [f"--model {Path(options.model).name}"] if options.model != "smollm2" else []
    words += [f"--pairs {Path(options.pairs).name}"] + ([f"--seed {options.seed}"] if options.seed else [])
    return " ".join(words + ([f"--slice {options.slice:g}"] if options.slice else []))


def commit() -> str:
    """The commit that is run, with a + where the working tree differs; "unknown" outside a repository."""
    asked = ["git", "describe", "--always", "--dirty=+"]
    try:
        told = subprocess.run(asked, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return told.stdout.strip() or "unknown"


def say(table: list[dict[str, Any]], found: Finished) -> None:
    """The table for a reader, then what must be known before a number of it is quoted."""
    for row in table:
        told = f"KL {float(row['kl']):.4f} nats, worst-of-4 {float(row['worst_of_4']):.3f}"
        print(f"{row['run']:<14} {told} +- {float(row['worst_of_4_stderr']):.3f} (theory {row['worst_of_4_theory']})")
    print(*found.data.notes, f"This shows: {table[0]['shows']}.", sep="\n")


def main(arguments: list[str] | None = None, clock: Callable[[], float] = time.monotonic) -> int:
    """Works for one slice, or to the end. Exit code 0 either way, 2 for what can't be used."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", required=True, help="preference pairs: a .jsonl(.gz) file or hub:OWNER/NAME/FILE")
    parser.add_argument("--model", default="smollm2", help="smollm2, a folder, a .gguf file or a Hub id")
    parser.add_argument("--quick", action="store_true", help="the CPU form: shows the plumbing, no effect")
    parser.add_argument("--slice", type=float, help="stop at a checkpoint before so many seconds are over")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="run folder; default runs/real_model or runs/real_model_quick")
    parser.add_argument("--csv", type=Path, help="where the table goes; default: into the run folder")
    parser.add_argument("--estimate", action="store_true", help="print what the run computes, and stop")
    options = parser.parse_args(arguments)
    out = options.out or f"runs/real_model{'_quick' * options.quick}"
    named = {"model": options.model, "prompts": options.pairs, "preferences": options.pairs, "seed": options.seed}
    config = CTRLConfig(**(QUICK if options.quick else FULL), **named, out=out)
    if options.estimate:
        print(*(f"{name}: {value:,}" for name, value in estimate(config).items()), sep="\n")
        return 0
    told, part = command(options), Slice(options.slice, clock, STARTED if clock is time.monotonic else None)
    try:
        found = run(config, part)
    except SliceOver:
        print(f"slice over after {part.done} units of work; go on with the same command: {told}")
        return 0
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"real_model: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    table = rows(found, {"commit": commit(), "command": told})
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    atomic.write_text(options.csv or Path(out) / "real_model.csv", text.getvalue())
    say(table, found)
    print(f"done: {options.csv or Path(out) / 'real_model.csv'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
