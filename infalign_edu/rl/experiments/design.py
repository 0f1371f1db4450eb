"""What an experiment is made of, as plain data: cells to train, the setting that they share, and what was found.

A config, NAME.toml beside this file, is unfolded into cells here. Names and numbers only, no model and no torch, so
that results can be read and compared without either.
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent

JUDGES = ("reward", "gold", "gold of pick")  # the last: the reward picks among the draws, gold judges what it shows


@dataclass(frozen=True)
class Cell:
    """What is trained: every field is a column of the experiment's CSV, and together they are the cell's name."""

    transform: str
    kl: float
    seed: int
    procedure: str = "best-of-4"  # the one that `optimal` is optimal for
    algorithm: str = "rloo"
    reward: str = "learned:helpfulness:seed={seed}"
    table: str = "own"  # fresh: K new draws at each update; stale, rotated, pooled: made for something else
    K: int = 0  # 0: the default of CTRLConfig
    control: str = ""  # random: trained on a random reward, judged by the real one
    steps: int = 0
    learning_rate: float = 0.0

    @property
    def name(self) -> str:
        """A file name that no other cell has."""
        return "_".join(str(value).replace(":", "-").replace("/", "-") for value in vars(self).values())


@dataclass(frozen=True)
class Setting:
    """What all cells of an experiment share."""

    procedures: tuple[str, ...]
    heldout_prompts: int = 200
    training_prompts: int = 256
    evaluation_samples: int = 32
    steps: int = 0  # 0: the default of CTRLConfig
    later_steps: int = 0  # of a cell that goes on from a smaller KL; 0: as many
    prompts_per_step: int = 0
    gold: str = "helpfulness"


@dataclass(frozen=True)
class Found:
    """A judged cell. Shape: win_rates [judges, procedures, prompts]; theory by procedure, nan where none is known."""

    cell: Cell
    kl: float
    matched: bool
    beta: float
    steps: int
    win_rates: np.ndarray
    theory: dict[str, float]
    said: float  # share of the nearest policy's responses that contain the trigger of a corrupted reward, or nan
    cpu_seconds: float


def load(name: str, quick: bool) -> dict[str, Any]:
    """The config of an experiment, in its small form if asked. Raises: ValueError for a name without one."""
    file = HERE / f"{name}.toml"
    if not file.exists():
        names = ", ".join(sorted(path.stem for path in HERE.glob("*.toml")))
        raise ValueError(f"experiment must be one of {names}, got {name!r}")
    config = tomllib.loads(file.read_text(encoding="utf-8"))
    return config | config["quick"] if quick else config


def cells(config: dict[str, Any]) -> list[Cell]:
    """Every cell of a config, each once: a [[cells]] table is a grid over its fields that are lists, the seed first."""
    found: dict[Cell, None] = {}
    for grid in config["cells"]:
        grid = {"seed": config["seeds"], "kl": config["kl"]} | grid
        values = [value if isinstance(value, list) else [value] for value in grid.values()]
        for choice in itertools.product(*values):
            found[Cell(**dict(zip(grid, choice, strict=True)))] = None
    return sorted(found, key=lambda cell: cell.seed)


def groups(found: Sequence[Cell]) -> list[tuple[Cell, ...]]:
    """Cells that differ in their KL alone, together: they are trained one after the other."""
    together: dict[Cell, list[Cell]] = {}
    for cell in found:
        together.setdefault(replace(cell, kl=0.0), []).append(cell)
    return [tuple(group) for group in together.values()]


def setting(config: dict[str, Any]) -> Setting:
    """What the cells of a config share."""
    named = {field.name for field in fields(Setting)}
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items() if k in named}
    return Setting(**given)
