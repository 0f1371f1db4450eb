"""CTRL on a real model in slices of time, with a control: the same run again on a reward that knows nothing.

A machine that is lent for minutes runs the same command until the run is done. Every unit of work (a block of features,
a chunk of a table, one update, one judged policy) is on disk before the next begins, and none begins that would not fit
what is left of the slice. No text is kept. On a CPU the cut run is the whole one bit for bit; a GPU adds in another
order. Left out: several seeds and transforms that are compared with anything but the last.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from infalign_edu import atomic, theory
from infalign_edu.calibration import EmpiricalCalibrator
from infalign_edu.lm.features import cached_features, missing_blocks
from infalign_edu.lm.models import cache_folder, load
from infalign_edu.lm.rewards import Noisy, score
from infalign_edu.procedures import procedure as named_procedure
from infalign_edu.rl import ctrl, evaluation
from infalign_edu.rl.config import CTRLConfig
from infalign_edu.rl.data import Data, pairs_to_fit, prepare, prompts_of
from infalign_edu.rl.report import FEW_STEPS
from infalign_edu.rl.runs import RunFolder, Trained
from infalign_edu.rl.slices.clock import Slice, SliceOver, hardware
from infalign_edu.rl.trainer import stream
from infalign_edu.winrate import PromptMean

CONTROL = "random reward"
CHUNK = 64  # prompts of one unit of a calibration table
SAVE_EVERY = 10  # updates between checkpoints, beside the one at the end of a slice
ROUNDS = 2  # of three policies each, on the way to a common KL


@dataclass(frozen=True)
class Arm:
    """One training run: a transform on the learned reward, or on noise; the learned reward judges both."""

    name: str
    transform: str
    control: bool = False


@dataclass(frozen=True)
class Finished:
    """A run that is done: each arm with its outcome, the comparison at matched KL or None, and what it used."""

    config: CTRLConfig
    data: Data
    model: str
    dtype: str
    hardware: str
    arms: list[Arm]
    outcomes: list[evaluation.Outcome]
    comparison: evaluation.Comparison | None
    used: dict[str, dict[str, float]]


def run(config: CTRLConfig, part: Slice) -> Finished:
    """Everything that `ctrl.align` does with a control beside it, unit by unit in the run folder `config.out`.

    Raises: SliceOver when the slice is used up; the same call goes on. Else as `ctrl.align`.
    """
    reference = load(config.model, device=config.device, dtype=config.dtype, max_new_tokens=config.max_new_tokens)
    config = ctrl.fitted(config, reference)
    ctrl.settle(config)
    reference.max_new_tokens = config.max_new_tokens or reference.max_new_tokens
    reference.model.requires_grad_(False)
    with RunFolder(config.out).open(config.identity(), resume=True) as folder:
        part.keep(folder.path / "used.json")
        print(reference.describe(), config.describe(), sep="\n", flush=True)
        return Work(config, reference, folder, part).finish()


class Work:
    """The stages of one run, in order; each looks first for what is on disk."""

    def __init__(self, config: CTRLConfig, reference: Any, folder: RunFolder, part: Slice) -> None:
        self.config, self.reference, self.folder, self.part = config, reference, folder, part
        last = list(config.transforms)[-1]
        self.arms = [Arm(name, name) for name in config.transforms] + [Arm(CONTROL, last, control=True)]

    def finish(self) -> Finished:
        """All stages. Raises: SliceOver."""
        self.features()
        data = prepare(self.config, self.reference)
        noise = replace(data, reward=Noisy(_nothing, 1.0, self.config.seed), reward_name=CONTROL)
        calibrators = self.tables(data, noise)
        given = [(noise if arm.control else data, calibrators[arm.control]) for arm in self.arms]
        trained = [self.train(arm, *its) for arm, its in zip(self.arms, given, strict=True)]
        base = self.judged("reference", self.reference, data)
        outcomes = [self.outcome(run, data, base, arm) for arm, run in zip(self.arms, trained, strict=True)]
        comparison = None
        if len(self.arms) > 2 and (self.config.steps or 0) >= FEW_STEPS:  # less would be interpolated noise
            comparison = self.compared(outcomes, data, calibrators[False], base)
        return Finished(
            self.config, data, self.reference.name, str(self.reference.dtype).removeprefix("torch."),
            hardware(self.reference.device), self.arms, outcomes, comparison, self.part.used,
        )  # fmt: skip

    def features(self) -> None:
        """Fills the feature cache block by block: on a CPU the longest stage of a learned reward."""
        if self.config.reward != "bradley-terry":
            return
        pairs = pairs_to_fit(self.config, set().union(*prompts_of(self.config)), [])
        prompts = [pair.prompt for pair in pairs for _ in range(2)]
        responses = [text for pair in pairs for text in (pair.chosen, pair.rejected)]
        cache = cache_folder() / "features"
        for rows in missing_blocks(self.reference, prompts, responses, cache):
            with self.part.unit("features"):
                cached_features(self.reference, prompts[rows], responses[rows], cache)

    def tables(self, *kinds: Data) -> list[EmpiricalCalibrator]:
        """Calibration tables of several rewards from the same reference samples, a chunk of prompts at a time."""
        K, prompts, parts = self.config.reference_samples or 1, kinds[0].training, []
        for number, start in enumerate(range(0, len(prompts), CHUNK)):
            file = self.folder.path / "calibration" / f"part-{number:03d}.npz"
            if not file.exists():
                with self.part.unit("calibration"):
                    generator = torch.Generator().manual_seed(stream(self.config.seed, ctrl.CALIBRATION, number))
                    rollouts = self.reference.sample(prompts[start : start + CHUNK], K, generator=generator)
                    found = [score(data.reward, rollouts.row_prompts, rollouts.responses) for data in kinds]
                    atomic.write_arrays(file, rewards=np.reshape(found, (len(kinds), -1, K)))
            parts.append(read(file)["rewards"])
        return [EmpiricalCalibrator(table) for table in np.concatenate(parts, axis=1)]

    def train(self, arm: Arm, data: Data, calibrator: EmpiricalCalibrator) -> Trained:
        """The updates that are still to be done, one unit each; a checkpoint at the end of the slice."""
        aim = ctrl.objective(self.config, arm.transform)
        files, steps = self.folder.part(arm.name), self.config.steps or 1
        trained = Trained(arm.name, aim.transform, aim.beta, files, (steps,))
        if files.snapshot_file(steps).exists():
            return trained
        trainer = ctrl.build_trainer(self.config, aim, self.reference, data, calibrator)
        files.take_up(trainer)
        try:
            while trainer.step < steps:
                with self.part.unit(f"train {arm.name}"):
                    files.append(trainer.advance())
                if trainer.step % SAVE_EVERY == 0 or trainer.step == steps:
                    files.save(trainer.tensors(), trainer.step)
        except SliceOver:
            files.save(trainer.tensors(), trainer.step)
            raise
        files.snapshot(trainer.tensors(), steps)
        return trained

    def judged(self, name: str, policy: Any, data: Data) -> evaluation.Samples:
        """Rewards and KL of a policy's fresh held-out samples, drawn once and kept without their text."""
        if not self._file(name).exists():
            with self.part.unit(f"judge {name}"):
                self._judge(name, policy, data)
        kept = read(self._file(name))
        return evaluation.Samples(data.heldout, [], kept["rewards"], PromptMean(kept["kl"]))

    def _judge(self, name: str, policy: Any, data: Data) -> None:
        who = evaluation.REFERENCE if policy is self.reference else evaluation.POLICY
        M, seed = self.config.evaluation_samples or 1, self.config.seed
        found = evaluation.draw(policy, self.reference, data.reward, data.heldout, M, seed, who)
        atomic.write_arrays(self._file(name), rewards=found.rewards, kl=found.kl.per_prompt)

    def _file(self, name: str) -> Path:
        return self.folder.path / "judged" / f"{name.replace(' ', '_').replace(':', '_')}.npz"

    def outcome(self, trained: Trained, data: Data, base: evaluation.Samples, arm: Arm) -> evaluation.Outcome:
        """Win rates of a trained policy by the learned reward; of the control theory says one half."""
        policy = ctrl.trainable(self.reference, self.config.lora_rank or 0)
        evaluation.load_snapshot(policy, trained.files.snapshot_file(trained.final), trained.files.owner)
        found = self.judged(arm.name, policy, data)
        shown = [named_procedure(name) for name in ("standard", str(named_procedure(self.config.procedure)))]
        rates = {str(p): found.win_rate(base, p) for p in shown}
        kl = found.kl.mean
        theory = {str(p): 0.5 if arm.control else evaluation.theory_at(trained.transform, kl, p) for p in shown}
        return evaluation.Outcome(trained, found, rates, theory, [(trained.final, kl, rates[str(shown[1])])])

    def compared(
        self, outcomes: list[evaluation.Outcome], data: Data, calibrator: EmpiricalCalibrator, base: evaluation.Samples
    ) -> evaluation.Comparison | None:
        """The last transform against the first at their mean KL; None when a few more steps do not lead there."""
        shown, pair = named_procedure(self.config.procedure), [outcomes[0], outcomes[-2]]
        kl = float(np.mean([outcome.samples.kl.mean for outcome in pair]))
        for outcome in pair:
            for step in self._judged_steps(outcome):
                samples = self.judged(f"{outcome.trained.name} step {step}", None, data)
                outcome.path.append((step, samples.kl.mean, samples.win_rate(base, shown)))
            policies = self._approach(outcome, data, calibrator, kl)
            while not _reaches(outcome, kl):
                last = outcome.path[-1][0]
                with self.part.unit(f"sweep {outcome.trained.name}"):  # what an earlier slice judged is trained again
                    step, policy = next((found for found in policies if found[0] > last), (0, None))
                    if policy is None:
                        return None
                    self._judge(f"{outcome.trained.name} step {step}", policy, data)
                samples = self.judged(f"{outcome.trained.name} step {step}", policy, data)
                outcome.path.append((step, samples.kl.mean, samples.win_rate(base, shown)))
        return evaluation.compare(pair[0], pair[1], kl, shown)

    def _approach(
        self, outcome: evaluation.Outcome, data: Data, calibrator: EmpiricalCalibrator, kl: float
    ) -> Iterator[tuple[int, Any]]:
        """Policies from a finished run towards `kl`; the second round has the beta that the first one asks for."""
        run = outcome.trained
        aim = ctrl.Objective(run.name, run.transform, run.beta)
        trainer = ctrl.build_trainer(self.config, aim, self.reference, data, calibrator)
        run.files.take_up(trainer)
        for _ in range(ROUNDS):
            here = next(reached for step, reached, _ in outcome.path if step == trainer.step)
            yield from ctrl.approach(trainer, partial(theory.beta_for_kl, run.transform), here, kl)

    def _judged_steps(self, outcome: evaluation.Outcome) -> list[int]:
        pattern = self._file(f"{outcome.trained.name} step *")
        found = pattern.parent.glob(pattern.name)
        return sorted(int(file.stem.rsplit("_", 1)[1]) for file in found)


def _nothing(prompts: Any, responses: Any) -> NDArray[np.float64]:
    return np.zeros(len(responses))


def _reaches(outcome: evaluation.Outcome, kl: float) -> bool:
    found = [reached for _, reached, _ in outcome.path]
    return min(found) <= kl <= max(found)


def read(path: Path) -> dict[str, NDArray[np.float64]]:
    """What a unit of work left on disk. Raises: ValueError naming a damaged file."""
    try:
        return atomic.read_arrays(path)
    except ValueError as error:
        raise ValueError(f"{error}; remove it, and the same command makes it again") from None
