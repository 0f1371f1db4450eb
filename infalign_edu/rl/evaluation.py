"""Held-out evaluation: fresh samples, exact KL, unbiased win rates, theory beside them, comparisons at matched KL.

Nothing here sees a sample that calibration saw: prompts are held out and every response is drawn anew. The reference's
samples are drawn once and shared by all policies, so that differences between policies are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from infalign_edu import theory
from infalign_edu.inputs import label
from infalign_edu.lm import adapters
from infalign_edu.lm.rewards import Reward, score
from infalign_edu.procedures import Procedure
from infalign_edu.procedures import procedure as named_procedure
from infalign_edu.rl.config import CTRLConfig
from infalign_edu.rl.objectives import exact_kl
from infalign_edu.rl.runs import Trained, read_tensors
from infalign_edu.rl.trainer import stream
from infalign_edu.transforms import Transform
from infalign_edu.winrate import PromptMean, win_rate

Array = NDArray[np.float64]
REFERENCE, POLICY = 2, 3  # streams of randomness; the trainer uses 0 and 1


@dataclass(frozen=True)
class Samples:
    """Rewarded responses to held-out prompts. Shape: responses [prompts x M], rewards [prompts, M], kl [prompts]."""

    prompts: list[str]
    responses: list[str]
    rewards: Array
    kl: PromptMean

    def win_rate(self, reference: Samples, procedure: Procedure | str) -> PromptMean:
        """Inference-time win rate over the reference's samples, an estimate with a standard error over prompts."""
        return win_rate(self.rewards, reference.rewards, procedure)


def draw(
    policy: Any, reference: Any, reward: Reward, prompts: Sequence[str], samples: int, seed: int, who: int = POLICY
) -> Samples:
    """Fresh responses of a policy with their rewards and the exact KL(policy || reference) a prompt, in nats.

    Shape: `samples` responses for each of `prompts`. The seed does not depend on the policy: two policies see the same
    uniform numbers, which makes their difference less noisy.
    """
    generator = torch.Generator().manual_seed(stream(seed, who))
    rollouts = policy.sample(list(prompts), samples, generator=generator, progress=True)
    rewards = score(reward, rollouts.row_prompts, rollouts.responses).reshape(len(prompts), samples)
    same = policy is reference
    kl = np.zeros(len(prompts)) if same else sequence_kl(policy, reference, rollouts).reshape(len(prompts), -1).mean(1)
    return Samples(list(prompts), rollouts.responses, rewards, PromptMean(kl))


@torch.no_grad()
def sequence_kl(policy: Any, reference: Any, rollouts: Any, rows: int = 256) -> Array:
    """Exact per-token KL(policy || reference) summed along each response, in nats. Shape: [rows]."""
    parts = []
    for start in range(0, len(rollouts.tokens), rows):
        chunk = slice(start, min(start + rows, len(rollouts.tokens)))
        log_policy, log_reference = (p.logits(rollouts, chunk).log_softmax(-1) for p in (policy, reference))
        parts.append(exact_kl(log_policy, log_reference, rollouts.mask[chunk]).double().cpu().numpy())
    return np.concatenate(parts)


def share_of(measured: float, expected: float) -> float:
    """measured / expected, and nan where theory expects nothing that could be shared.

    >>> share_of(0.05, 0.1), share_of(0.05, 0.0)
    (0.5, nan)
    """
    return measured / expected if abs(expected) > 1e-6 else float("nan")


@dataclass(frozen=True)
class Outcome:
    """One trained policy on held-out prompts, and every snapshot of it that was looked at."""

    trained: Trained
    samples: Samples
    win_rates: dict[str, PromptMean]
    theory: dict[str, float]
    path: list[tuple[int, float, PromptMean]]

    def lift_share(self, shown: str) -> float:
        """(W - 1/2) / (W_theory - 1/2), W_theory being the tilted policy of the same transform at the measured KL."""
        return share_of(self.win_rates[shown].mean - 0.5, self.theory[shown] - 0.5)


@dataclass(frozen=True)
class Comparison:
    """Two transforms at the same KL, paired by prompt, beside the same difference in theory."""

    baseline: str
    transform: str
    kl: float
    steps: dict[str, tuple[int, int]]
    difference: PromptMean
    theory: float

    @property
    def gain_share(self) -> float:
        """Measured over theoretical gain of the transform, at matched KL."""
        return share_of(self.difference.mean, self.theory)

    def gain_share_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Interval of the gain share over prompts: one seed's noise of training is not in it."""
        low, high = sorted(share_of(end, self.theory) for end in self.difference.interval(level))
        return low, high


@dataclass(frozen=True)
class Evaluation:
    """Everything measured on held-out prompts; the last outcome is the run's own transform."""

    reference: Samples
    outcomes: list[Outcome]
    comparisons: list[Comparison]


def evaluate(
    config: CTRLConfig, trained: list[Trained], reference: Any, data: Any, explore: Callable[..., Any]
) -> Evaluation:
    """Evaluates every trained policy on held-out prompts, then compares the transforms at matched KL.

    `explore(run, final_kl=..., kl=...)` yields (step, policy) pairs on the way from a run's final KL to another.
    """
    prompts, samples, seed = data.heldout, config.evaluation_samples or 1, config.seed
    shown = label(named_procedure(config.procedure))
    names = list(dict.fromkeys(["standard", "best-of-4", "worst-of-4", shown]))
    base = draw(reference, reference, data.reward, prompts, config.base_samples or samples, seed, REFERENCE)

    def sample(policy: Any) -> Samples:
        return draw(policy, reference, data.reward, prompts, samples, seed)

    outcomes = []
    for run in trained:
        policy = reference.copy()
        load_snapshot(policy, run.files.snapshot_file(run.final), run.files.owner)
        found = sample(policy)
        rates = {name: found.win_rate(base, _procedure(config, name)) for name in names}
        expected = {name: theory_at(run.transform, found.kl.mean, _procedure(config, name)) for name in names}
        outcomes.append(Outcome(run, found, rates, expected, [(run.final, found.kl.mean, rates[shown])]))
    own, kl = _procedure(config, shown), float(np.mean([outcome.samples.kl.mean for outcome in outcomes]))
    for outcome in outcomes if len(outcomes) > 1 else []:
        reach(outcome, kl, explore, sample, base, own)
    there = [outcome for outcome in outcomes if _reaches(outcome, kl)]
    pairs = [outcome for outcome in there if outcome is not outcomes[-1]] if outcomes[-1] in there else []
    return Evaluation(base, outcomes, [compare(outcome, outcomes[-1], kl, own) for outcome in pairs])


def _procedure(config: CTRLConfig, name: str) -> Procedure:
    own = named_procedure(config.procedure)
    return own if label(own) == name else named_procedure(name)


def theory_at(transform: Transform, kl: float, shown: Procedure) -> float:
    """Win rate of the tilted policy of a transform whose KL(pi || pi_ref) is `kl`; 1/2 at a KL of zero."""
    return theory.tilt(transform, theory.beta_for_kl(transform, kl)).win_rate(shown) if kl > 1e-9 else 0.5


def load_snapshot(policy: Any, path: Any, owner: str = "") -> None:
    """Puts the weights of a snapshot, or the adapters that it holds, into a policy that has the reference's weights.

    Raises: ValueError when the snapshot is damaged, not the owner's, or lacks a weight that it should hold.
    """
    tensors, _ = read_tensors(path, owner)
    rank = adapters.rank_in(tensors)
    if rank and not adapters.count(policy.model):
        adapters.inject(policy.model, rank)
    parameters = dict(policy.model.named_parameters())
    wanted = [name for name in parameters if adapters.MARK in name] if rank else list(parameters)
    if lacking := [name for name in wanted if f"policy.{name}" not in tensors]:
        raise ValueError(f"snapshot {str(path)!r} must hold {lacking[0]} and {len(wanted) - 1} more, got none of it")
    with torch.no_grad():
        for name in wanted:
            parameters[name].copy_(tensors[f"policy.{name}"])


def _reaches(outcome: Outcome, kl: float) -> bool:
    found = [reached for _, reached, _ in outcome.path]
    return min(found) <= kl <= max(found)


def reach(
    outcome: Outcome,
    kl: float,
    explore: Callable[..., Any],
    sample: Callable[[Any], Samples],
    base: Samples,
    shown: Procedure,
) -> None:
    """Evaluates policies on the way from a run's final KL to `kl`, until the path has it between two of them."""
    if _reaches(outcome, kl):
        return
    for step, policy in explore(outcome.trained, final_kl=outcome.samples.kl.mean, kl=kl):
        found = sample(policy)
        outcome.path.append((step, found.kl.mean, found.win_rate(base, shown)))
        if _reaches(outcome, kl):
            return


def compare(baseline: Outcome, outcome: Outcome, kl: float, shown: Procedure) -> Comparison:
    """The paired difference of two transforms at the same KL, and what theory says of it."""
    at = {o.trained.name: at_matched_kl(kl, o.path) for o in (baseline, outcome)}
    a, b = (at[o.trained.name] for o in (baseline, outcome))
    expected = [theory_at(o.trained.transform, kl, shown) for o in (baseline, outcome)]
    steps = {name: matched.steps for name, matched in at.items()}
    return Comparison(
        baseline.trained.name, outcome.trained.name, kl, steps, b.win_rate - a.win_rate, expected[1] - expected[0]
    )


@dataclass(frozen=True)
class Matched:
    """A run's win rate at a given KL, between two of its policies.

    The per-prompt win rates of the two policies around the KL are averaged with the weights of linear interpolation.
    """

    kl: float
    steps: tuple[int, int]
    win_rate: PromptMean


def at_matched_kl(kl: float, path: Sequence[tuple[int, float, PromptMean]]) -> Matched:
    """Win rate at `kl` on a path of policies (step, KL, win rate), by linear interpolation, never extrapolation.

    The policies are put in the order of their KL. Raises: ValueError when the KL lies outside the path.

    >>> path = [(0, 0.0, PromptMean(np.array([0.5]))), (10, 0.4, PromptMean(np.array([0.7])))]
    >>> at_matched_kl(0.1, path).win_rate.mean
    0.55
    """
    ordered = sorted(path, key=lambda policy: policy[1])
    if len(ordered) == 1 and ordered[0][1] == kl:
        return Matched(kl, (ordered[0][0],) * 2, ordered[0][2])
    for (step, low, before), (later, high, after) in zip(ordered, ordered[1:], strict=False):
        if low <= kl <= high:
            share = 0.0 if high == low else (kl - low) / (high - low)
            mixed = (1 - share) * before.per_prompt + share * after.per_prompt
            return Matched(kl, (step, later), PromptMean(mixed))
    raise ValueError(f"KL {kl:.3f} lies outside the path of policies: {[round(k, 3) for _, k, _ in ordered]}")
