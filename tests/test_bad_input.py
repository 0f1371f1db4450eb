"""Bad input: either the right answer, or one line that names the field, the value and what is accepted.

The cases are listed in tests/bad_input/, by the part of the package that they are for. Silence would be a wrong answer
here, so a case's warnings count as a failure too.
"""

from __future__ import annotations

import warnings

import pytest
from bad_input import Case, agrees, data, method, theory

CASES = [*method.cases(), *theory.cases(), *data.cases()]


def outcome(case: Case) -> str:
    """What went wrong with a case, "" for nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = case.call()
    except Exception as error:
        message = str(error)
        if case.kind == "value":
            return f"raised {type(error).__name__}: {message}"
        if "\n" in message or "Traceback" in message or len(message) > 600:
            return f"not one line: {message!r}"
        if absent := [text for text in case.says if text not in message]:
            return f"{type(error).__name__} without {absent}: {message}"
        return ""
    if case.kind == "error":
        return f"no error, but {found!r}"
    return "" if agrees(found, case.value) else f"{found!r} in the place of {case.value!r}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_right_answer_or_one_line_that_says_what_to_mend(case: Case) -> None:
    assert outcome(case) == ""
