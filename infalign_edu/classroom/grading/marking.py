"""The points of one answer: its values come from the sandbox, the verdicts are found here, out of its reach.

Half of an exercise's points are for the visible cases, which learners have seen, half for hidden ones of another seed.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from infalign_edu.classroom.checks import VISIBLE
from infalign_edu.classroom.exercise import Arguments, Exercise, Failure, Verdict, judge
from infalign_edu.classroom.grading.sandbox import USUAL, Code, Limits, run

LONGEST = 2_000  # characters of a message, which may quote what was returned
_JUDGING = threading.Lock()  # what silences warnings while judging is common to all threads


@dataclass(frozen=True)
class Outcome:
    """One exercise of one submission: the verdicts on the visible and on the hidden cases."""

    visible: Verdict
    hidden: Verdict
    seconds: float = 0.0
    flags: tuple[str, ...] = ()

    def points(self, exercise: Exercise) -> float:
        """Half of the exercise's points for the visible cases, half for the hidden ones."""
        return exercise.points * (self.visible.passed + self.hidden.passed) / 2


def mark(
    exercise: Exercise, code: Code, hidden_seed: int, limits: Limits = USUAL, hidden: Sequence[Path] = ()
) -> Outcome:
    """Runs an answer on the visible and the hidden cases in one process and judges what comes back.

    Raises: ValueError for a hidden seed that is the visible one.
    """
    if hidden_seed == VISIBLE:
        raise ValueError(f"hidden_seed must differ from the visible tests' seed {VISIBLE}, got {hidden_seed}")
    cases = [exercise.cases(VISIBLE), exercise.cases(hidden_seed)]
    found = run(code, [*cases[0], *cases[1]], limits, hidden)
    first, second = found.values[: len(cases[0])], found.values[len(cases[0]) :]
    visible, other = _judge(exercise, cases[0], first), _judge(exercise, cases[1], second)
    if not other.passed:
        other = replace(other, message=_hidden_message(exercise, other, second))
    return Outcome(visible, other, round(found.seconds, 2), found.flags)


def _judge(exercise: Exercise, cases: Sequence[Arguments], values: Sequence[Any]) -> Verdict:
    try:
        with _JUDGING:
            verdict = judge(exercise, cases, values)
            return replace(verdict, message=verdict.message[:LONGEST])
    except Exception as error:  # a value made to upset the comparison costs its author the points, not the grader
        return Verdict(False, f"The values can't be compared ({type(error).__name__}).", len(cases))


def _hidden_message(exercise: Exercise, verdict: Verdict, values: Sequence[Any]) -> str:
    """A message that does not tell the hidden inputs."""
    if not verdict.answered or verdict.message in {mistake.says for mistake in exercise.mistakes}:
        return verdict.message
    failed = [value.says for value in values if isinstance(value, Failure)]
    if not failed:
        return "Wrong on other inputs than the ones you see."
    return f"On other inputs {failed[0].partition(':')[0][:120]}."  # what an error says could hold the inputs
