"""Run folders: one lock, one config, metrics as JSON lines, checkpoints that are whole or absent.

    runs/align/
      config.json               what was asked for, every default resolved
      calibration.npz           the reference rewards of every training prompt
      exp_10/metrics.jsonl      one line a step
      exp_10/state.safetensors  the latest training state: weights, Adam's moments, step
      exp_10/snapshots/         weights at scheduled steps; the last one is evaluated
      report.json report.html
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from infalign_edu import atomic
from infalign_edu.lm.files import load_tensors, save_tensors
from infalign_edu.transforms import Transform


class Interrupted(Exception):
    """Training stopped at the user's wish, with its state on disk."""


class RunFolder:
    """A folder that belongs to one process at a time and to one configuration for good.

    Raises: ValueError when the folder holds another run and `resume` is off, holds a run of another configuration, or
    is in use by another process.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path, self._key = Path(path), ""

    @contextmanager
    def open(self, config: dict[str, Any], *, resume: bool) -> Iterator[RunFolder]:
        """Holds the folder's lock while the block runs, and writes or checks config.json.

        A block that fails before it has written anything leaves no config.json: the mended command may use the folder.
        """
        with atomic.held(self.path, "out"):
            held_one = self._file.exists()
            self._claim(config, resume)
            try:
                yield self
            except Exception:
                if not held_one and {path.name for path in self.path.glob("[!.]*")} <= {self._file.name}:
                    with suppress(OSError):  # on a broken disk the first error is the one to tell
                        self._file.unlink(missing_ok=True)
                raise

    @property
    def _file(self) -> Path:
        return self.path / "config.json"

    def _claim(self, config: dict[str, Any], resume: bool) -> None:
        file, before = self._file, config
        if file.exists() and not resume:
            raise ValueError(f"out {str(self.path)!r} already holds a run: add --resume, or choose another folder")
        if file.exists():
            try:
                before = atomic.read_json(file)
            except ValueError as error:
                raise ValueError(f"config {error}; remove it and resume with the settings of the run's start") from None
            changed = [k for k in config if k in before and before[k] != config[k]]  # a setting may be newer than a run
            if changed:
                k = changed[0]
                raise ValueError(f"{k} must be {before.get(k)!r} to resume {str(self.path)!r}, got {config[k]!r}")
        else:
            atomic.write_json(file, config)
        self._key = hashlib.sha256(json.dumps(before, sort_keys=True).encode()).hexdigest()[:16]

    def part(self, transform: str) -> TrainingFiles:
        """The files of one transform's training; its checkpoints are told from those of another run or transform."""
        owner = f"{self._key} {transform}" if self._key else ""
        return TrainingFiles(self.path / re.sub(r"[^A-Za-z0-9.-]+", "_", transform), owner)


class TrainingFiles:
    """Metrics, latest state and snapshots of one training run; `owner` is written into its checkpoints."""

    def __init__(self, path: Path, owner: str = "") -> None:
        self.path, self.owner = path, owner
        self.metrics_file, self.state_file = path / "metrics.jsonl", path / "state.safetensors"

    def metrics(self) -> list[dict[str, float]]:
        """The metrics of every step so far."""
        if not self.metrics_file.exists():
            return []
        return [json.loads(line) for line in self.metrics_file.read_text(encoding="utf-8").splitlines() if line]

    def append(self, row: dict[str, float]) -> None:
        """Adds one step's metrics."""
        with atomic.writing(self.metrics_file):
            self.path.mkdir(parents=True, exist_ok=True)
            with self.metrics_file.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(row) + "\n")

    def save(self, tensors: dict[str, torch.Tensor], step: int) -> None:
        """Replaces the latest state, whole or not at all."""
        save_tensors(self.state_file, tensors, {"step": str(step), "owner": self.owner})

    def snapshot(self, tensors: dict[str, torch.Tensor], step: int) -> None:
        """Keeps the policy's weights of this step."""
        weights = {k: v for k, v in tensors.items() if k.startswith("policy.")}
        save_tensors(self.snapshot_file(step), weights, {"step": str(step), "owner": self.owner})

    def snapshot_file(self, step: int) -> Path:
        """Where the snapshot of a step is kept."""
        return self.path / "snapshots" / f"step-{step:06d}.safetensors"

    def latest(self) -> tuple[dict[str, torch.Tensor], int] | None:
        """The latest state and its step, None for a new run; metrics of later steps are dropped.

        A line that a killed process left half-written goes with them: the step it tells of is done again. Raises:
        ValueError for a checkpoint that is damaged or another run's, and for metrics that lack a step before it.
        """
        if not self.state_file.exists():
            with atomic.writing(self.metrics_file):
                self.metrics_file.unlink(missing_ok=True)
            return None
        tensors, step = read_tensors(self.state_file, self.owner)
        if self.metrics_file.exists():
            lines = self.metrics_file.read_bytes().splitlines()[:step]
            if len(lines) < step:
                told = f"must have a line for each of the {step} steps done, got {len(lines)}"
                again = f"remove {self.state_file.name} beside it to train from the first step"
                raise ValueError(f"metrics {str(self.metrics_file)!r} {told}; {again}")
            atomic.write_text(self.metrics_file, "".join(line.decode("utf-8", "replace") + "\n" for line in lines))
        return tensors, step

    def take_up(self, trainer: Any) -> bool:
        """Brings a trainer to the latest state, if there is one; a last snapshot that has gone is kept anew.

        Raises: ValueError naming the file whose content is damaged, another run's or of another shape.
        """
        if (state := self.latest()) is None:
            return False
        try:
            trainer.restore(*state)
        except ValueError as error:
            raise ValueError(f"checkpoint {str(self.state_file)!r} is not this run's: {error}") from None
        if trainer.step == trainer.steps and not self.snapshot_file(trainer.step).exists():
            self.snapshot(trainer.tensors(), trainer.step)
        return True


@dataclass(frozen=True)
class Trained:
    """One finished run: maximised E[Phi(C)] - beta KL(pi || pi_ref), and the steps at which weights were kept."""

    name: str
    transform: Transform
    beta: float
    files: TrainingFiles
    snapshots: tuple[int, ...]

    @property
    def final(self) -> int:
        """The last step."""
        return self.snapshots[-1]


def read_tensors(path: Path, owner: str = "") -> tuple[dict[str, torch.Tensor], int]:
    """Tensors and step of a checkpoint. Raises: ValueError naming a file that is damaged, or not the owner's."""
    again = "remove it, and --resume makes it again"
    try:
        tensors, about = load_tensors(path)
        step, made_for = int(about["step"]), about.get("owner", "")
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"checkpoint {str(path)!r} can't be read: {error}; {again}") from None
    (key, _, name), (own, _, wanted) = made_for.partition(" "), owner.partition(" ")
    if key and own and (key, name) != (own, wanted):
        told = f"got one of {name}, {'this' if key == own else 'another'} run"
        raise ValueError(f"checkpoint {str(path)!r} must be of {wanted}, this run, {told}; {again}")
    return tensors, step


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, so that a step is finished and saved; the second Ctrl-C stops at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, request)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
