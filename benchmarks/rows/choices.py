"""What the library chooses by itself, against the other choice: threads, micro-batch, allocator, compiler.

A row is an RL step of the embedded model. Ours is what runs unless told otherwise: one thread (`--threads`),
micro-batches of 64 rows (`--micro-batch`), a glibc that keeps freed memory (`--allocator`), no compiler. Each side is a
process of its own, because threads and allocator are settled once; it warms up, then tells the seconds of each step.
Threads are compared in wall time, which on a machine with neighbours is what a second thread costs.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping

import torch

from benchmarks.rows.training import SIZES, TINY, our_trainer
from benchmarks.table import ROOT, Row, in_turns, timed
from infalign_edu.rl.algorithms.rloo import log_distributions
from infalign_edu.rl.config import CTRLConfig
from infalign_edu.rl.ctrl import settle

WARM, STEPS = 2, 5
CHOICES = {  # name: what the other side does, its settings, the clock
    "threads": ("two threads", {"threads": "2"}, "wall s"),
    "micro-batch": ("all 192 rows at once", {"micro_batch": "192"}, "CPU s"),
    "allocator": ("glibc as it is", {"allocator": "system"}, "CPU s"),
    "allocator-192": ("glibc as it is, all 192 rows at once", {"micro_batch": "192", "allocator": "system"}, "CPU s"),
}


def step(name: str, pairs: int, size: str = "embedded") -> Row:
    """One choice: the median step of a process of each side, in turns."""
    told, other, unit = CHOICES[name]
    found: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs):
        for side in (0, 1) if pair % 2 == 0 else (1, 0):
            found[side].append(measured(size, unit, ({}, other)[side]))
    return Row(f"choice-{name}", "RL step as chosen by the library, embedded model", told, f"{unit} a step",
               tuple(found[0]), tuple(found[1]))  # fmt: skip


def measured(size: str, unit: str, settings: Mapping[str, str]) -> float:
    """Median seconds of a step in a process of its own. Raises: RuntimeError with its last line of errors."""
    chosen = {"threads": "1", "micro_batch": "64", "allocator": "keep"} | dict(settings)
    command = [sys.executable, "-m", "benchmarks.rows.choices", size, unit.split()[0], *chosen.values()]
    environment = os.environ | {"OMP_NUM_THREADS": chosen["threads"]}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"choices failed: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    return float(done.stdout.splitlines()[-1])


def compiled(pairs: int, size: str = "embedded") -> list[Row]:
    """Log-probabilities with their gradients by our forward pass, against torch.compile on transformers' own.

    The second row is what compiling costs before the first result, in wall seconds.
    """
    trainer = our_trainer(next(one for one in (*SIZES, TINY) if one.name == size))
    asked = [trainer.prompts[i] for i in trainer.batch(0)]
    rollouts = trainer.policy.sample(asked, trainer.samples_per_prompt, seed=0)
    rows, longest = torch.arange(64 if len(rollouts.tokens) >= 64 else len(rollouts.tokens)), rollouts.tokens.shape[1]
    ids, seen = (x.repeat_interleave(rollouts.samples, 0)[rows] for x in (rollouts.prompt_ids, rollouts.prompt_mask))
    both = torch.cat([ids, rollouts.tokens[rows]], 1)
    seen = torch.cat([seen, rollouts.mask[rows]], 1)
    places = (seen.cumsum(1) - 1).clamp(min=0)
    model = torch.compile(trainer.policy.model, dynamic=True)

    def ours() -> None:
        log_distributions(trainer.policy, rollouts, rows, longest).mean().backward()

    def peer() -> None:
        out = model(both, attention_mask=seen.long(), position_ids=places, use_cache=False)
        out.logits[:, ids.shape[1] - 1 : -1].log_softmax(-1).mean().backward()

    first = timed(peer, time.perf_counter)
    what = "log-probabilities and gradients of 64 responses, embedded model"
    return [
        Row("choice-compile", what, "torch.compile on transformers' model", "CPU s", *in_turns(ours, peer, pairs)),
        Row("choice-compile-first", "the first call of what torch.compile made", "", "wall s", (first,)),
    ]


def main(size: str, clock: str, threads: str, micro_batch: str, allocator: str) -> None:
    """Prints the median seconds of a few steps, for `measured`."""
    config = CTRLConfig(threads=int(threads), micro_batch=int(micro_batch), allocator=allocator)
    settle(config)
    trainer = our_trainer(next(one for one in (*SIZES, TINY) if one.name == size))
    trainer.micro_batch = config.micro_batch or trainer.micro_batch
    for _ in range(WARM):
        trainer.advance()
    watch = time.perf_counter if clock == "wall" else time.process_time
    print(statistics.median(timed(trainer.advance, watch) for _ in range(STEPS)))


if __name__ == "__main__":
    main(*sys.argv[1:])
