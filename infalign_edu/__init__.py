"""infalign_edu: learn inference-aware language model alignment (InfAlign, arXiv 2412.19792) by running it.

Everything is loaded when it is first used: the method needs NumPy and SciPy only, `theory`, `plots`, `lm`, `rl`,
`align` and `CTRLConfig` are heavier. So `python -m infalign_edu check-env` can speak where NumPy is missing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from infalign_edu.shipped import shipped  # at once: it has the name of its module

if TYPE_CHECKING:
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
    from infalign_edu.transforms import Exponential, Identity, Log, Power, Tabulated, standardize, transform
    from infalign_edu.winrate import PromptMean, judged_win_rate, win_rate

__version__ = "0.1.0"

_MODULES = ("theory", "plots", "lm", "rl", "classroom")
_HOME = {
    "calibration": ("EmpiricalCalibrator", "unbiased_power"),
    "mixtures": ("Mixture",),
    "procedures": (
        "BestOfN",
        "BestOfPoisson",
        "KthBest",
        "Procedure",
        "Standard",
        "TopM",
        "WorstOfN",
        "procedure",
    ),
    "transforms": ("Exponential", "Identity", "Log", "Power", "Tabulated", "standardize", "transform"),
    "winrate": ("PromptMean", "judged_win_rate", "win_rate"),
    "rl.ctrl": ("align",),
    "rl.config": ("CTRLConfig",),
}
_NAMES = {name: f"infalign_edu.{module}" for module, names in _HOME.items() for name in names}

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
    "judged_win_rate",
    "procedure",
    "shipped",
    "standardize",
    "transform",
    "unbiased_power",
    "win_rate",
    *_MODULES,
    "align",
    "CTRLConfig",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"infalign_edu.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'infalign_edu' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(__all__) | set(globals()))
