"""What a terminal can show. The standard library only, since `check-env` speaks where packages are missing."""

from __future__ import annotations

import io
import sys


def any_text() -> None:
    r"""Lets stdout and stderr take any text: a letter that the terminal does not know is written as its number.

    A student's name, a path or a plus-minus would otherwise end a run or a grading half-way, where it is printed.

    >>> from contextlib import redirect_stdout
    >>> with redirect_stdout(io.TextIOWrapper(io.BytesIO(), "ascii")) as old:
    ...     any_text(); print("±", flush=True)
    >>> old.buffer.getvalue()
    b'\\xb1\n'
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook's takes all
            stream.reconfigure(errors="backslashreplace")
