"""Input that somebody got wrong, and what must come of it: the right answer, or one line that says what to mend.

Each module lists `Case`s of one part of the package; `tests/test_bad_input.py` tries and counts them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

nan, inf = math.nan, math.inf


@dataclass(frozen=True)
class Case:
    """A call with input that is wrong (`says`: what its one line holds) or odd (`value`: the right answer)."""

    name: str
    call: Callable[[], Any]
    says: tuple[str, ...] = ()
    value: Any = None
    kind: str = "value"


def wrong(name: str, call: Callable[[], Any], *says: object) -> Case:
    """Must raise one line with every fragment: the field, the value, what is accepted."""
    return Case(name, call, tuple(map(str, says)), kind="error")


def right(name: str, call: Callable[[], Any], value: Any) -> Case:
    """Must give that value, a number within 1e-9."""
    return Case(name, call, value=value)


def agrees(found: Any, expected: Any) -> bool:
    """Equal, or arrays of the same shape that are close."""
    if isinstance(expected, (str, bool, dict, tuple)) or (isinstance(expected, list) and expected and isinstance(expected[0], str)):
        return found == expected
    if callable(expected):
        return bool(expected(found))
    found, expected = np.asarray(found, dtype=float), np.asarray(expected, dtype=float)
    return found.shape == expected.shape and np.allclose(found, expected, rtol=1e-9, atol=1e-12)
