"""The classroom: exercises whose checks name the mistake, widgets, grading. Loaded lazily, one door for notebooks.

from infalign_edu.classroom import check, hint
"""

from __future__ import annotations

from typing import Any

__all__ = ["check", "hint"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from infalign_edu.classroom import checks

        return getattr(checks, name)
    raise AttributeError(f"module 'infalign_edu.classroom' has no attribute {name!r}")
