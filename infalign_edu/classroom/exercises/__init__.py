"""The catalogue: every exercise of the course, one file for the notebooks of one subject."""

from __future__ import annotations

import importlib
from functools import cache

from infalign_edu.classroom.exercise import Exercise

SUBJECTS = (
    "start", "alignment", "procedures", "calibration", "transforms", "optimum", "toy_rl", "rewards", "training",
    "evidence", "hacking", "reference_samples", "real_model", "scaling",
)  # fmt: skip


@cache
def catalogue() -> tuple[Exercise, ...]:
    """Every exercise, in the order of the course.

    >>> len({exercise.name for exercise in catalogue()}) == len(catalogue())
    True
    """
    modules = [importlib.import_module(f"{__name__}.{subject}") for subject in SUBJECTS]
    return tuple(exercise for module in modules for exercise in module.EXERCISES)


def find(name: str) -> Exercise:
    """The exercise of that name. Raises: ValueError that lists the nearest names.

    >>> find("best-of-n-density").notebook
    '02_inference_time_procedures'
    """
    known = {exercise.name: exercise for exercise in catalogue()}
    if name not in known:
        import difflib

        near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.3) or sorted(known)[:3]
        raise ValueError(f"exercise must be one of the course's, such as {', '.join(near)}; got {name!r}")
    return known[name]
