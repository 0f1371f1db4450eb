"""infalign_edu: learn inference-aware language model alignment (InfAlign, arXiv 2412.19792) by running it.

The method is imported at once and needs NumPy and SciPy only. Everything heavier (`theory`, `plots`, `lm`, `rl`,
`align`, `CTRLConfig`) is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

from infalign_edu.calibration import EmpiricalCalibrator, unbiased_power
from infalign_edu.mixtures import Mixture
from infalign_edu.procedures import (
    BestOfN,
    BestOfPoisson,
    KthBest,
    Procedure,
    Standard,
    TopM,
    WorstOfN,
    procedure,
)
from infalign_edu.shipped import shipped
from infalign_edu.transforms import Exponential, Identity, Log, Power, Tabulated, standardize, transform
from infalign_edu.winrate import PromptMean, win_rate

__version__ = "0.1.0"

_MODULES = ("theory", "plots", "lm", "rl", "classroom")
_NAMES = {"align": "infalign_edu.rl.ctrl", "CTRLConfig": "infalign_edu.rl.config"}

__all__ = [
    "BestOfN",
    "BestOfPoisson",
    "EmpiricalCalibrator",
    "Exponential",
    "Identity",
    "KthBest",
    "Log",
    "Mixture",
    "Power",
    "Procedure",
    "PromptMean",
    "Standard",
    "Tabulated",
    "TopM",
    "WorstOfN",
    "procedure",
    "shipped",
    "standardize",
    "transform",
    "unbiased_power",
    "win_rate",
    *_MODULES,
    *_NAMES,
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"infalign_edu.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'infalign_edu' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(__all__) | set(globals()))
