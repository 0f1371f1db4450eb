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

import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import safetensors
import torch
from safetensors.torch import load_file, save_file

from infalign_edu import atomic
from infalign_edu.transforms import Transform


class Interrupted(Exception):
    """Training stopped at the user's wish, with its state on disk."""


class RunFolder:
    """A folder that belongs to one process at a time and to one configuration for good.

    Raises: ValueError when the folder holds another run and `resume` is off, holds a run of another configuration, or
    is in use by another process.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @contextmanager
    def open(self, config: dict[str, Any], *, resume: bool) -> Iterator[RunFolder]:
        """Holds the folder's lock while the block runs, and writes or checks config.json."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self.path / ".lock", timeout=0)
            lock.acquire()
        except filelock.Timeout:
            raise ValueError(f"out {str(self.path)!r} is in use by another process") from None
        except OSError as error:
            raise ValueError(f"out {str(self.path)!r} can't be written: {error.strerror}") from None
        try:
            self._claim(config, resume)
            yield self
        finally:
            lock.release()

    def _claim(self, config: dict[str, Any], resume: bool) -> None:
        file = self.path / "config.json"
        if file.exists() and not resume:
            raise ValueError(f"out {str(self.path)!r} already holds a run: add --resume, or choose another folder")
        if file.exists():
            before = json.loads(file.read_text(encoding="utf-8"))
            changed = [k for k in config if k in before and before[k] != config[k]]  # a setting may be newer than a run
            if changed:
                k = changed[0]
                raise ValueError(f"{k} must be {before.get(k)!r} to resume {str(self.path)!r}, got {config[k]!r}")
        else:
            atomic.write_json(file, config)

    def part(self, transform: str) -> TrainingFiles:
        """The files of one transform's training."""
        return TrainingFiles(self.path / re.sub(r"[^A-Za-z0-9.-]+", "_", transform))


class TrainingFiles:
    """Metrics, latest state and snapshots of one training run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics_file, self.state_file = path / "metrics.jsonl", path / "state.safetensors"

    def metrics(self) -> list[dict[str, float]]:
        """The metrics of every step so far."""
        if not self.metrics_file.exists():
            return []
        return [json.loads(line) for line in self.metrics_file.read_text(encoding="utf-8").splitlines() if line]

    def append(self, row: dict[str, float]) -> None:
        """Adds one step's metrics."""
        self.path.mkdir(parents=True, exist_ok=True)
        with self.metrics_file.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(row) + "\n")

    def save(self, tensors: dict[str, torch.Tensor], step: int) -> None:
        """Replaces the latest state, whole or not at all."""
        _save(self.state_file, tensors, step)

    def snapshot(self, tensors: dict[str, torch.Tensor], step: int) -> None:
        """Keeps the policy's weights of this step."""
        weights = {k: v for k, v in tensors.items() if k.startswith("policy.")}
        _save(self.snapshot_file(step), weights, step)

    def snapshot_file(self, step: int) -> Path:
        """Where the snapshot of a step is kept."""
        return self.path / "snapshots" / f"step-{step:06d}.safetensors"

    def latest(self) -> tuple[dict[str, torch.Tensor], int] | None:
        """The latest state and its step, None for a new run; metrics of later steps are dropped.

        A line that a killed process left half-written goes with them: the step it tells of is done again.
        """
        if not self.state_file.exists():
            self.metrics_file.unlink(missing_ok=True)
            return None
        tensors, step = read_tensors(self.state_file)
        lines = self.metrics_file.read_text(encoding="utf-8").splitlines()[:step] if self.metrics_file.exists() else []
        atomic.write_text(self.metrics_file, "".join(line + "\n" for line in lines))
        return tensors, step


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


def _save(path: Path, tensors: dict[str, torch.Tensor], step: int) -> None:
    with atomic.replacing(path) as part:
        whole = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        save_file(whole, str(part), metadata={"step": str(step)})


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], int]:
    """Tensors and step of a checkpoint. Raises: ValueError naming the file when it is damaged."""
    try:
        tensors = load_file(str(path))
        with safetensors.safe_open(str(path), framework="pt") as handle:
            return tensors, int(handle.metadata()["step"])
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"checkpoint {str(path)!r} can't be read: {error}") from None


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
