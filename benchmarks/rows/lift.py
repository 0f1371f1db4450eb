"""A race against TRL's RLOO trainer: how long until 90 % of the lift that theory promises, from the same start.

The embedded model is trained on exp:10 towards KL = 0.6 nats and shown as the best of four. The lift is the win rate on
held-out prompts above 1/2, its promise the one of theory for the same transform at the KL aimed at. Both sides take the
same steps at the same learning rate and schedule: ours, found on this model; at TRL's default of 1e-6 nothing
moves. Training alone is timed, in CPU seconds on one thread. One seed, and a win rate read every EVERY steps with an
error near a point: a report, no claim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.rows import trl_peer
from benchmarks.rows.training import SIZES, TINY, WORDS, Size, model, our_trainer, phi
from benchmarks.table import Row, timed
from infalign_edu import standardize, theory, transform, win_rate
from infalign_edu.calibration import EmpiricalCalibrator
from infalign_edu.lm.datasets import load_prompts
from infalign_edu.rl.trainer import Scores

SHOWN, KL, RATE, WARMUP = "best-of-4", 0.6, 1.5e-3, 1 / 7
SHARES = (0.5, 0.75, 0.9)
Point = tuple[float, float, float]  # seconds of training, win rate on held-out prompts, KL(pi || pi_ref) there in nats
STEPS, EVERY = 320, 20


@dataclass(frozen=True)
class Course:
    """What both sides run on: rewards of a prompt's response, its beta, and the promised win rate."""

    size: Size
    prompts: list[str]
    calibrator: EmpiricalCalibrator
    beta: float
    promise: float

    def phi(self, prompts: Any, responses: Any) -> np.ndarray:
        """Phi(C) of each response. Shape: [rows] -> [rows]."""
        number = {prompt: i for i, prompt in enumerate(self.prompts)}
        table = self.calibrator.take([number[prompt] for prompt in prompts])
        u = table(phi(prompts, responses)[:, None]).clip(1 / (2 * table.K), 1.0)
        return np.asarray(standardize(transform("exp:10"))(u), dtype=float)[:, 0]


def course(size: Size, K: int = 48) -> Course:
    """The race's prompts, with their calibration table."""
    prompts, policy, wanted = our_trainer(size).prompts, model(size), standardize(transform("exp:10"))
    drawn = policy.sample(prompts, K, seed=11)
    calibrator = EmpiricalCalibrator(phi(drawn.row_prompts, drawn.responses).reshape(-1, K))
    beta = theory.beta_for_kl(wanted, KL)
    return Course(size, prompts, calibrator, beta, theory.tilt(wanted, beta).win_rate(SHOWN))


def judge(size: Size, prompts: int = 64) -> Callable[[Any], tuple[float, float]]:
    """Win rate and KL of a policy on held-out prompts of the same length, over one fixed sample of the reference."""
    held = load_prompts("embedded").where(split="heldout", kind="harmless").prompts
    asked = [prompt for prompt in held if len(prompt.split()) == WORDS][:prompts]

    def paid(drawn: Any) -> np.ndarray:
        return phi(drawn.row_prompts, drawn.responses).reshape(len(asked), drawn.samples)

    base = paid(model(size).sample(asked, 64, seed=12))

    @torch.no_grad()
    def judged(policy: Any) -> tuple[float, float]:
        drawn = policy.sample(asked, 24, seed=13)
        ratios = policy.logprobs(drawn) - model(size).logprobs(drawn)
        return win_rate(paid(drawn), base, SHOWN).mean, float(ratios.sum(1).mean())

    return judged


def first(points: Sequence[tuple[float, ...]], level: float) -> float | None:
    """Seconds at which the win rate first reaches a level, between two points by a straight line; None if never.

    >>> first([(0.0, 0.5), (10.0, 0.7), (20.0, 0.6)], 0.6), first([(0.0, 0.5)], 0.6)
    (5.0, None)
    """
    for (before, low, *_), (after, high, *_) in zip(points, points[1:], strict=False):
        if high >= level:
            return before if low >= level else before + (after - before) * (level - low) / (high - low)
    return None


def ours(track: Course, judged: Callable[[Any], tuple[float, float]], steps: int, every: int) -> list[Point]:
    """Points at the start and every few steps."""
    trainer = our_trainer(track.size, steps, RATE)
    trainer.beta, trainer.warmup = track.beta, max(1, round(WARMUP * steps))
    samples = trainer.samples_per_prompt

    def score(indices: Any, responses: list[str]) -> Scores:
        asked = [track.prompts[i] for i in indices for _ in range(samples)]
        return Scores(*3 * (track.phi(asked, responses).reshape(len(indices), -1),))

    trainer.score, seconds, points = score, 0.0, [(0.0, *judged(trainer.policy))]
    for step in range(1, steps + 1):
        seconds += timed(trainer.advance)
        if step % every == 0:
            points.append((seconds, *judged(trainer.policy)))
    return points


def peers(track: Course, judged: Callable[[Any], tuple[float, float]], steps: int, every: int) -> list[Point]:
    """The same of TRL's trainer."""
    start, size = our_trainer(track.size, steps), track.size
    twin, points = model(size).copy(), [(0.0, *judged(model(size)))]

    def look() -> None:
        if len(seconds) % every == 0:
            twin.model.load_state_dict(made.model.state_dict(), strict=False)
            points.append((sum(seconds), *judged(twin)))

    watch, seconds = trl_peer.stopwatch(look)
    order = np.concatenate([start.batch(step) for step in range(steps)])
    made = trl_peer.trainer(
        model(size), [track.prompts[i] for i in order], track.phi, beta=track.beta, samples=size.samples,
        prompts_per_step=size.prompts, steps=steps, learning_rate=RATE, lr_scheduler_type="linear",
        warmup_steps=max(1, round(WARMUP * steps)), callbacks=[watch],
    )  # fmt: skip
    made.train()
    return points


def race(quick: bool = False) -> list[Row]:
    """A row for each share of the promised lift; a side that does not get there has no figure."""
    size, steps, every = (TINY, 4, 2) if quick else (SIZES[1], STEPS, EVERY)
    track, judged = course(size), judge(size)
    sides = [side(track, judged, steps, every) for side in (ours, peers)]
    best = ["{:.3f} after {:.0f} s at KL {:.2f}".format(*max((rate, at, kl) for at, rate, kl in points))
            for points in sides]  # fmt: skip
    rows = []
    for share in SHARES:
        times = [first(points, 0.5 + share * (track.promise - 0.5)) for points in sides]
        what = f"{share:.0%} of the lift to {track.promise:.3f} ({SHOWN}, exp:10, KL {KL}); highest: ours {best[0]}, "
        what += f"TRL {best[1]}"
        mine, theirs = (() if at is None else (at,) for at in times)
        rows.append(Row(f"lift-{share * 100:.0f}", what, "TRL RLOO, same steps", "CPU s, one seed",
                        mine or (float("nan"),), theirs if mine else (), target=5.0 if mine and theirs else None))
    return rows
