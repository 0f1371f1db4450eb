"""A procedure of one's own, looked at before it is believed.

A cdf that falls, a pdf of another procedure, a choice that is a reward instead of a place: each gives numbers that look
like numbers. The procedures of this package are not looked at: tests are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from infalign_edu.inputs import label, reals, shown
from infalign_edu.order_statistics import Array, count


def check_law(procedure: Any) -> None:
    """Refuses a procedure whose cdf is none, or whose pdf is not the slope of its cdf.

    Looked at on 999 places, of which a pdf with steps may miss ten. Raises: ValueError that says what is wrong.

    >>> class Slip:
    ...     max_n = 2
    ...     def cdf(self, t): return t**2
    ...     def pdf(self, t): return t
    ...     def __str__(self): return "slip"
    >>> check_law(Slip())
    Traceback (most recent call last):
    ValueError: procedure slip: pdf must be the slope of cdf, got 0.999 at t = 0.999 for a slope of 2
    """
    if procedure.max_n is not None:
        count(f"procedure {label(procedure)}: max_n", procedure.max_n)
    h, t = 1e-6, np.linspace(0, 1, 1001)
    inner = t[1:-1]
    G, low, high = (_values(procedure, "cdf", where) for where in (t, inner - h, inner + h))
    g, slope, step = _values(procedure, "pdf", inner), (high - low) / (2 * h), float(np.diff(G).min())
    if abs(G[0]) > 1e-9 or abs(G[-1] - 1) > 1e-9 or step < -1e-9:
        told = f"got {G[0]:.3g} at 0, {G[-1]:.3g} at 1 and a least step of {step:.3g}"
        raise ValueError(f"procedure {label(procedure)}: cdf must rise from 0 to 1, {told}")
    miss = np.abs(g - slope) / (1 + np.abs(slope))
    if (miss > 1e-3).sum() > 10:
        i = int(miss.argmax())
        told = f"got {g[i]:.3g} at t = {inner[i]:.3g} for a slope of {slope[i]:.3g}"
        raise ValueError(f"procedure {label(procedure)}: pdf must be the slope of cdf, {told}")


def _values(procedure: Any, field: str, t: Array) -> Array:
    found = reals(f"procedure {label(procedure)}: {field}", getattr(procedure, field)(t))
    if found.shape != t.shape or not np.isfinite(found).all():
        raise ValueError(f"procedure {label(procedure)}: {field} must give one finite number for every t in [0, 1]")
    return found


def draws(procedure: Any, rng: np.random.Generator) -> int:
    """How many responses a procedure draws now, at most its `max_n`.

    >>> from infalign_edu.procedures import BestOfN
    >>> draws(BestOfN(4), np.random.default_rng(0))
    4
    """
    number = count(f"procedure {label(procedure)}: draws", procedure.draws(rng))
    if procedure.max_n is not None and number > procedure.max_n:
        raise ValueError(f"procedure {label(procedure)}: draws must be at most max_n = {procedure.max_n}, got {number}")
    return number


def choice(procedure: Any, rewards: Array, rng: np.random.Generator) -> int:
    """Which of its draws a procedure shows: a place in `rewards`, not a reward. Shape: rewards [n] -> int.

    >>> from infalign_edu.procedures import BestOfN
    >>> choice(BestOfN(2), np.array([0.2, 0.7]), np.random.default_rng(0))
    1
    """
    place: NDArray[np.intp] = np.asarray(procedure.select(rewards, rng))
    if place.shape != () or place.dtype.kind not in "iu" or not 0 <= place < len(rewards):
        told = f"a whole number from 0 to {len(rewards) - 1}, the place of the draw that is shown"
        raise ValueError(f"procedure {label(procedure)}: select must give {told}, got {shown(place.tolist())}")
    return int(place)
