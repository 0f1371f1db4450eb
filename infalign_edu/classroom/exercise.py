"""An exercise: a few lines of mathematics, the answer, and the wrong answers that learners really give.

A verdict comes from comparing what the learner's function returned with the right answer and with every known mistake,
on the same random inputs. An answer that agrees with a mistake is told which one it is; any other is told where it
first differs. `judge` sees values only and never calls the learner's code, so that grading can run that code elsewhere.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Arguments = tuple[Any, ...]
DIFFICULTY = {1: "warm-up", 2: "solid", 3: "hard"}


@dataclass(frozen=True)
class Mistake:
    """A wrong answer with a name: what the learner reads, and the function that makes the mistake."""

    says: str
    answer: Callable[..., Any]


@dataclass(frozen=True)
class Failure:
    """What stands in the place of a value when the learner's function raised, or ran out of time or memory."""

    says: str


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right, what its author reads, and how many inputs it was tried on."""

    passed: bool
    message: str
    tried: int
    answered: bool = True


@dataclass(frozen=True)
class Exercise:
    """One exercise of a notebook: its texts, its points, its right answer and its known wrong ones.

    `inputs` draws the arguments of one call from a generator: numbers, strings, arrays, torch tensors, or tuples, lists
    and dicts of them. `corners` draw the first cases of every run: what must never be left to chance, such as N = 1.
    `points` 2 means one for the visible and one for the hidden tests.

    Raises: ValueError unless there are three hints, at least four mistakes and at least three tries more than corners.
    """

    name: str
    notebook: str
    goal: str
    difficulty: int
    minutes: int
    points: int
    answer: Callable[..., Any]
    inputs: Callable[[np.random.Generator], Arguments]
    mistakes: tuple[Mistake, ...]
    hints: tuple[str, str, str]
    tolerance: float = 1e-6
    tries: int = 6
    corners: tuple[Callable[[np.random.Generator], Arguments], ...] = ()

    def __post_init__(self) -> None:
        for field, value, accepted, holds in (
            ("hints", len(self.hints), "3 steps", len(self.hints) == 3),
            ("mistakes", len(self.mistakes), "at least 4", len(self.mistakes) >= 4),
            ("difficulty", self.difficulty, "1, 2 or 3", self.difficulty in DIFFICULTY),
            ("tries", self.tries, "3 more than its corners", self.tries >= 3 + len(self.corners)),
        ):
            if not holds:
                raise ValueError(f"{field} of exercise {self.name!r} must be {accepted}, got {value}")

    def cases(self, seed: int) -> list[Arguments]:
        """The arguments of `tries` calls, the corners first; the same for the same seed."""
        rng = np.random.default_rng([seed, *self.name.encode()])
        draws = [*self.corners, *[self.inputs] * (self.tries - len(self.corners))]
        return [draw(rng) for draw in draws]

    @property
    def heading(self) -> str:
        """Difficulty, minutes and points in one line, as the notebook shows them."""
        stars = "★" * self.difficulty + "☆" * (3 - self.difficulty)
        plural = "" if self.points == 1 else "s"
        return f"{stars} {DIFFICULTY[self.difficulty]}, {self.minutes} minutes, {self.points} point{plural}"


def call(function: Callable[..., Any], arguments: Arguments) -> Any:
    """The value of one call on a copy of the arguments, or the `Failure` that it ended in."""
    given = copy.deepcopy(arguments)
    try:
        value = function(*given)
    except (
        Exception,
        SystemExit,
    ) as error:  # whatever a learner's code raises is shown to its author, not to the caller
        return Failure(f"it raised {type(error).__name__}: {error}")
    if not all(same(now, before, 0.0) for now, before in zip(given, arguments, strict=True)):
        return Failure("it changes its input in place; work on a copy, since the caller still needs the original")
    return value


def same(value: Any, expected: Any, tolerance: float) -> bool:
    """Whether two values agree: same structure and shape, numbers to a relative and absolute tolerance.

    >>> same([1.0, (2, "a")], [1.0, (2, "a")], 1e-9), same([1.0, 2.0], np.array([1.0, 2.0]), 0), same(1.0, [1.0], 0)
    (True, True, False)
    """
    if isinstance(expected, dict) or isinstance(value, dict):
        both = isinstance(expected, dict) and isinstance(value, dict) and expected.keys() == value.keys()
        return both and all(same(value[key], expected[key], tolerance) for key in expected)
    if expected is None or value is None or isinstance(expected, str) or isinstance(value, str):
        texts = isinstance(expected, str) and isinstance(value, str)  # a NumPy string is one too
        return expected == value if texts else expected is value
    try:
        left, right = array(value), array(expected)
    except (TypeError, ValueError):
        if isinstance(value, (list, tuple)) and isinstance(expected, (list, tuple)):
            return len(value) == len(expected) and all(map(lambda v, e: same(v, e, tolerance), value, expected))
        return False
    return left.shape == right.shape and np.allclose(left, right, rtol=tolerance, atol=tolerance, equal_nan=True)


def array(value: Any) -> np.ndarray:
    """Numbers as one float array; a torch tensor is detached. Raises: ValueError for anything else."""
    try:
        found = np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
    except Exception as error:  # a learner may return any object, and an object may raise anything
        raise ValueError(f"values must be numbers, got {type(value).__name__}") from error
    if found.dtype.kind not in "biuf":
        raise ValueError(f"values must be real numbers, got {found.dtype}")
    return found.astype(float)


def judge(exercise: Exercise, cases: Sequence[Arguments], values: Sequence[Any]) -> Verdict:
    """The verdict on the values that a learner's function returned for `cases`."""
    tried = len(cases)
    if all(value is None for value in values):
        return Verdict(False, "Not answered yet: the function returns None.", tried, answered=False)
    wrong = [i for i in range(tried) if not _agrees(exercise, exercise.answer, cases[i], values[i])]
    if not wrong:
        return Verdict(True, f"Right, on {tried} random inputs.", tried)
    for mistake in exercise.mistakes:
        if all(_agrees(exercise, mistake.answer, case, value) for case, value in zip(cases, values, strict=True)):
            return Verdict(False, mistake.says, tried)
    return Verdict(False, _where(exercise, cases[wrong[0]], values[wrong[0]], len(wrong), tried), tried)


def _agrees(exercise: Exercise, answer: Callable[..., Any], case: Arguments, value: Any) -> bool:
    with warnings.catch_warnings(), np.errstate(all="ignore"):  # a mistake may divide by zero, the learner did not
        warnings.simplefilter("ignore")
        expected = call(answer, case)
    if isinstance(expected, Failure) or isinstance(value, Failure):
        return False
    return same(value, expected, exercise.tolerance)


def _where(exercise: Exercise, case: Arguments, value: Any, wrong: int, tried: int) -> str:
    """How an answer that is no known mistake differs, at the first input where it does, without giving it away."""
    shown = ", ".join(_short(argument) for argument in case)
    if isinstance(value, Failure):
        return f"For the input ({shown}) {value.says}."
    if value is None:
        return f"For the input ({shown}) your function returns None: is a `return` missing?"
    found = _difference(value, call(exercise.answer, case), exercise.tolerance, "your value")
    return f"Wrong on {wrong} of {tried} random inputs. For ({shown}) {found}."


def _difference(value: Any, expected: Any, tolerance: float, name: str) -> str:
    """The first difference between two values that are not the same; parts of dicts and lists by their place."""
    if isinstance(expected, dict) and isinstance(value, dict) and expected.keys() == value.keys():
        key = next(key for key in expected if not same(value[key], expected[key], tolerance))
        return _difference(value[key], expected[key], tolerance, f"{name}[{key!r}]")
    if isinstance(expected, str) and isinstance(value, str):
        return f"{name} is {_short(value)}; another text is asked for"
    try:
        left, right = array(value), array(expected)
    except (TypeError, ValueError):
        if isinstance(expected, (list, tuple)) and isinstance(value, (list, tuple)) and len(expected) == len(value):
            at = next(i for i in range(len(expected)) if not same(value[i], expected[i], tolerance))
            return _difference(value[at], expected[at], tolerance, f"{name}[{at}]")
        return f"{name} is {_kind(value)}; {_kind(expected)} is asked for"
    if left.shape != right.shape:
        return f"the shape of {name} is {left.shape}; it should be {right.shape}"
    unlike = ~np.isfinite(left) & np.isfinite(right)
    if unlike.any():
        return f"{name} is not finite: {_short(value)}"
    both = np.isfinite(left) & np.isfinite(right)
    off = np.abs(left[both] - right[both])
    if off.size == 0 or not np.any(off > tolerance):
        return f"{name} is {_short(value)}, which should not be finite everywhere"
    return f"{name} is {_short(value)}, off by up to {off.max():.3g}"


def _kind(value: Any) -> str:
    """What a value is, in words: its type, its keys, its length or its shape."""
    if value is None:
        return "None"
    if isinstance(value, dict):
        more = f" and {len(value) - 8} more" if len(value) > 8 else ""
        return f"a dict with the keys {', '.join(map(str, list(value)[:8]))}{more}"
    try:
        shape = array(value).shape
    except (TypeError, ValueError):
        length = f" of {len(value)}" if isinstance(value, (list, tuple)) else ""
        return f"a value of type {type(value).__name__}{length}"
    return f"an array of shape {shape}" if shape else "a number"


def _short(value: Any) -> str:
    """A value on one line, long arrays cut."""
    try:
        with np.printoptions(precision=4, suppress=True, threshold=8, edgeitems=2):
            text = str(array(value)) if not isinstance(value, int) else str(value)
    except ValueError:
        text = repr(value)
    text = " ".join(text.split())
    return text if len(text) <= 120 else text[:117] + "..."
