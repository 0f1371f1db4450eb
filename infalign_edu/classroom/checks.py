"""What learners call in a notebook: `check` says at once whether an answer is right, `hint` gives one step at a time.

Neither ever raises for a wrong answer, so that a notebook with unsolved exercises still runs to its end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from infalign_edu.classroom.exercise import Exercise, Verdict, call, judge
from infalign_edu.classroom.exercises import find

VISIBLE = 1  # the seed of the visible tests; hidden ones use the instructor's
_hints_given: dict[str, int] = {}


def verdict(exercise: Exercise, function: Callable[..., Any], seed: int = VISIBLE) -> Verdict:
    """The verdict on a function, called in this process."""
    cases = exercise.cases(seed)
    return judge(exercise, cases, [call(function, case) for case in cases])


def check(name: str, function: Callable[..., Any]) -> None:
    """Tries the learner's function on random inputs and prints the verdict.

    Raises: ValueError for a name that no exercise has.

    >>> check("best-of-n-density", lambda u, n: u ** (n - 1))     # doctest: +ELLIPSIS
    best-of-n-density: not yet. ...
    """
    exercise = find(name)
    if not callable(function):
        print(
            f"{name}: not yet. Give `check` the function itself, not a value of it: you gave {type(function).__name__}."
        )
        return
    found = verdict(exercise, function)
    if found.passed:
        print(f"{name}: right, on {found.tried} random inputs.")
    elif found.answered:
        print(f'{name}: not yet. {found.message}\nA hint: hint("{name}")')
    else:
        print(f'{name}: to do. {exercise.goal}\nA first hint: hint("{name}")')


def hint(name: str) -> None:
    """Prints the next of an exercise's three hints; after the third it begins again.

    Raises: ValueError for a name that no exercise has.

    >>> hint("best-of-n-density")      # doctest: +ELLIPSIS
    Hint 1 of 3: ...
    """
    exercise = find(name)
    step = _hints_given.get(name, 0) % 3
    _hints_given[name] = step + 1
    print(f"Hint {step + 1} of 3: {exercise.hints[step]}")


def require(name: str, function: Callable[..., Any], seed: int) -> None:
    """The hidden test of an instructor's copy. Raises: AssertionError with the verdict's message unless it passes."""
    found = verdict(find(name), function, seed)
    if not found.passed:
        raise AssertionError(found.message)
