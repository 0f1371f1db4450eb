"""Explorers for notebooks and the app, one a file; each is loaded when it is first asked for."""

from __future__ import annotations

import importlib
from typing import Any

_PLACES = {
    "TransformExplorer": "transform",
    "CalibrationExplorer": "calibration",
    "FrontierExplorer": "frontier",
    "FixedPointExplorer": "fixed_point",
    "TrainingMonitor": "training",
    "BestOfNPlayground": "best_of_n",
}
__all__ = [*_PLACES]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
