"""Speed on a GPU: tokens a second, share of the memory-bandwidth roofline for decoding, and a step against TRL's.

    python benchmarks/gpu.py [--model embedded] [--prompts 64] [--samples 16] [--length 64] [--pairs 5]
    python benchmarks/gpu.py --device cpu --quick      the same path with tiny sizes, to try the script

A token of a row cannot be decoded without reading every weight and the row's key-value cache once, so the bytes that a
step of decoding must read, over the bandwidth, are the least time it can take. The bandwidth is that of a copy within
the device, measured in the same run. Wall time, since the device works beside the CPU; bfloat16 on CUDA. The table is
data/runs/bench_gpu.csv; without CUDA the script says so and ends with code 2.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from benchmarks import table  # noqa: E402
from benchmarks.rows import trl_peer  # noqa: E402
from benchmarks.rows.sampling import agreement, asked  # noqa: E402
from benchmarks.rows.training import BETA, RATE, WARM, phi  # noqa: E402
from benchmarks.table import Check, Row  # noqa: E402
from infalign_edu.lm.models import load  # noqa: E402
from infalign_edu.rl.trainer import Scores, Trainer  # noqa: E402

COLUMNS = (*table.COLUMNS, "device", "dtype", "model", "cuda")
LIMITS = {torch.float32: 1e-4, torch.bfloat16: 0.25}  # nats a token's log-probability may differ by


@dataclass(frozen=True)
class Work:
    """What is measured: a model on a device, and how much of it."""

    policy: Any
    prompts: int
    samples: int
    length: int
    pairs: int

    @property
    def device(self) -> torch.device:
        return self.policy.device

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def clock(self) -> float:
        """Wall seconds, once the device is idle."""
        self.wait()
        return time.perf_counter()


def bandwidth(work: Work, repeats: int = 20) -> float:
    """Bytes a second that a copy within the device reads and writes, the best of a few."""
    size = 2**28 if work.device.type == "cuda" else 2**22  # far beyond the caches of a GPU
    source, target = (torch.zeros(size, device=work.device) for _ in range(2))
    target.copy_(source)
    best = min(table.timed(lambda: target.copy_(source), work.clock) for _ in range(repeats))
    return 2 * 4 * size / best


def decoded_bytes(policy: Any, prompt: int, lengths: torch.Tensor) -> float:
    """Bytes that decoding must read at the least: all weights once a step, and each running row's cache.

    `lengths` [rows]: tokens of each response. The first token comes from the prompt's pass, which is not counted.
    """
    config, dtype = policy.model.config.get_text_config(), policy.dtype
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width *= getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    token = 2 * config.num_hidden_layers * width * dtype.itemsize
    steps = torch.arange(1, int(lengths.max()), device=lengths.device)
    held = ((prompt + steps) * (lengths[:, None] > steps)).sum()
    return float(len(steps) * policy.parameters * dtype.itemsize + held * token)


def checked(work: Work) -> Check:
    """The largest difference between a token's log-probability in sampling and in a pass without cache."""
    rollouts = work.policy.sample(asked(8), 4, seed=0, max_new_tokens=work.length)
    return agreement(work.policy, rollouts, LIMITS[work.policy.dtype])


def sampling(work: Work) -> list[Row]:
    """Tokens a second, and the least time that reading weights and cache takes as a share of the time taken."""
    check, texts, speed = checked(work), asked(work.prompts), bandwidth(work)
    rates, shares = [], []
    for i in range(work.pairs + 1):
        began = work.clock()
        rollouts = work.policy.sample(texts, work.samples, seed=i, max_new_tokens=work.length)
        seconds, lengths = work.clock() - began, rollouts.mask.sum(1)
        rates.append(float(lengths.sum()) / seconds)
        shares.append(decoded_bytes(work.policy, rollouts.prompt_ids.shape[1], lengths) / speed / seconds)
    what = f"sampling, {work.prompts} x {work.samples} responses of up to {work.length} tokens"
    return [
        Row("gpu-sampling", what, "", "tokens a wall s", tuple(rates[1:]), (), check),
        Row("gpu-roofline", f"{what}; a copy moves {speed / 1e9:.0f} GB a second", "", "share of the bandwidth bound",
            tuple(shares[1:]), (), check),
    ]  # fmt: skip


def trainer(work: Work) -> Trainer:
    """Our trainer on a trainable copy of the model."""
    policy, prompts = work.policy.copy(), asked(256)
    policy.model.requires_grad_(True)

    def score(indices: Any, responses: list[str]) -> Scores:
        rows = [prompts[i] for i in indices for _ in range(work.samples)]
        return Scores(*3 * (phi(rows, responses).reshape(len(indices), -1),))

    return Trainer(policy, work.policy, prompts, score, beta=BETA, steps=1000, prompts_per_step=work.prompts,
                   samples_per_prompt=work.samples, learning_rate=RATE, warmup=1,
                   micro_batch=96 if work.device.type == "cpu" else work.prompts * work.samples)  # fmt: skip


def step(work: Work) -> list[Row]:
    """A whole RL step against TRL's, in turns; both keep master weights in float32 on CUDA and compute in bfloat16."""
    ours, seconds, on_gpu = trainer(work), [], work.device.type == "cuda"
    asked_in_order = [ours.prompts[i] for step in range(work.pairs + WARM) for i in ours.batch(step)]
    watch, theirs = trl_peer.stopwatch(lambda: seconds.append(table.timed(ours.advance, work.clock)), work.clock)
    settings: dict[str, Any] = {"bf16": True, "use_cpu": False} if on_gpu else {}
    made = trl_peer.trainer(work.policy, asked_in_order, phi, beta=BETA, samples=work.samples, learning_rate=RATE,
                            prompts_per_step=work.prompts, steps=work.pairs + WARM, callbacks=[watch],
                            **settings)  # fmt: skip
    made.train()
    return [Row("gpu-step", f"RL step, {work.prompts} x {work.samples} responses", "TRL RLOO", "wall s a step",
                tuple(seconds[WARM:]), tuple(theirs[WARM:]), checked(work))]  # fmt: skip


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", default="embedded", help="embedded, a folder or a Hub id that is on this machine")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to runs/quick")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--length", type=int, default=28, help="most tokens of a response")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--out", type=Path, help="the table; default data/runs/bench_gpu.csv")
    options = parser.parse_args(arguments)
    if options.quick:
        options.prompts, options.samples, options.length, options.pairs = 2, 4, 6, 1
    options.out = options.out or ROOT / ("runs/quick" if options.quick else "data/runs") / "bench_gpu.csv"
    return options


def about(work: Work, model: str) -> dict[str, str]:
    """The columns that name the device."""
    on_gpu = work.device.type == "cuda"
    name = torch.cuda.get_device_name(work.device) if on_gpu else table.processor()
    return {"device": name, "dtype": str(work.policy.dtype).removeprefix("torch."), "model": model,
            "cuda": torch.version.cuda or "-"}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = parsed(given)
    if torch.device(options.device).type == "cuda" and not torch.cuda.is_available():
        print("gpu.py needs a GPU that torch can use, got none; to try the script: --device cpu --quick")
        return 2
    if torch.device(options.device).type == "cpu" and not options.quick:
        print("gpu.py measures a GPU, got --device cpu; to try the script there, add --quick")
        return 2
    policy = load(options.model, device=options.device, max_new_tokens=options.length)
    policy.model.requires_grad_(False)
    work = Work(policy, options.prompts, options.samples, options.length, options.pairs)
    rows: list[dict[str, str]] = []
    parts: list[Callable[[Work], list[Row]]] = [sampling, *([step] if trl_peer.installed() else [])]
    for part in parts:
        place = table.machine(" ".join(["python benchmarks/gpu.py", *given]))
        for row in part(work):
            rows.append(row.cells() | place | about(work, options.model))
            print(table.shown(rows[-1]), flush=True)
        table.write(options.out, rows, COLUMNS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
