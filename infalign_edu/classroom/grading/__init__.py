"""Grading: submitted notebooks -> points, a table, pages of feedback.

    python -m infalign_edu.classroom.grading SUBMISSIONS --out DIR

`submissions.py` reads files that anybody may have written, `source.py` their code without running it; `sandbox.py`
runs an answer in a process of its own (`worker.py`, behind the `walls.py`), `marking.py` judges the values that come
back; `grader.py` goes through a class; `gradebook.py` is nbgrader's part, an optional extra.

In the folder given as `out`: `grades.csv` (an exercise a row), `totals.csv` (a student a row), `nbgrader.csv`,
`feedback/STUDENT/NN_name.html`, `grading.json` with the hidden seed, so that grading again gives the same points, and
`course/`, which nbgrader itself can open.
"""

from __future__ import annotations

from typing import Any

__all__ = ["grade"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from infalign_edu.classroom.grading import grader

        return getattr(grader, name)
    raise AttributeError(f"module 'infalign_edu.classroom.grading' has no attribute {name!r}")
