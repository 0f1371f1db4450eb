"""What callers hand over, looked at before it is used: arrays, seeds, generators, texts, names.

Each check returns the value in the form that the package works with, or raises one line that names the field, what it
got and what is accepted. Without them NumPy, torch and the tokenizers speak of shapes and types that no caller ever
saw, or take one prompt for a list of its letters. Single numbers are checked by `order_statistics.count` and `real`.
"""

from __future__ import annotations

import difflib
import operator
import re
import reprlib
from collections.abc import Iterable, Mapping
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST = 1_000_000  # draws of one response: far beyond any use, and rank weights of so many still fit the memory
_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 120


def shown(value: object) -> str:
    """A value as an error tells it: on one line, at most 120 characters, a NumPy number as a plain one.

    >>> shown(np.float64("nan")), len(shown("a" * 500))
    ('nan', 120)
    """
    return " ".join(_short.repr(value.item() if isinstance(value, np.generic) else value).split())


def label(spec: object) -> str:
    """What a setting is called: a string as it is, an own object by its name, its str or its class.

    >>> label("exp:10"), label(abs), label(object())
    ('exp:10', 'abs', 'object')
    """
    if isinstance(spec, str):
        return spec.strip()
    unnamed = type(spec).__str__ is object.__str__ and type(spec).__repr__ is object.__repr__
    name = getattr(spec, "__name__", type(spec).__name__ if unnamed else str(spec))
    return " ".join(re.sub(r" at 0x[0-9a-f]+", "", name).split())  # an address is another one in the next process


def reals(name: str, values: Any) -> NDArray[np.float64]:
    """`values` as float64: numbers in any nesting of equal lengths, NumPy's or torch's, on any device. Shape: kept.

    Raises: ValueError for text, complex numbers, dates, None, masked or ragged arrays, generators.

    >>> reals("rewards", [1, True])
    array([1., 1.])
    >>> reals("rewards", [[1, 2], [3]])
    Traceback (most recent call last):
    ValueError: rewards must hold real numbers in rows of equal length, got [[1, 2], [3]]
    """
    if type(values) is np.ndarray and values.dtype == np.float64:
        return values
    try:
        array = np.asarray(values.detach().cpu().double().numpy() if hasattr(values, "detach") else values)
    except Exception as error:  # ragged lists, and what other array libraries raise for sparse or nested tensors
        told = "real numbers in rows of equal length" if isinstance(values, (list, tuple)) else "real numbers"
        raise ValueError(f"{name} must hold {told}, got {shown(values)}") from error
    if np.ma.is_masked(values):
        raise ValueError(f"{name} must hold real numbers, got a masked array with {np.ma.count_masked(values)} missing")
    if array.dtype.kind in "biuf":
        return array.astype(np.float64, copy=False)
    if array.dtype.kind == "O":
        try:
            return np.array([_real(value) for value in array.flat], dtype=np.float64).reshape(array.shape)
        except (TypeError, ValueError, OverflowError) as error:
            bad = error.args[0] if isinstance(error, TypeError) else "a number that float64 can't hold"
            raise ValueError(f"{name} must hold real numbers, got {bad}") from None
    first = next(iter(array.flat), array.dtype)
    raise ValueError(f"{name} must hold real numbers, got {shown(first)}")


def _real(value: Any) -> float:
    if hasattr(value, "detach") and value.ndim == 0:
        value = value.item()
    if not isinstance(value, (Real, Decimal, np.number, np.bool_)):
        raise TypeError(shown(value))
    return float(value)


def whole(name: str, value: Any, accepted: str = "a positive integer", least: int = 1) -> int:
    """An integer that is large enough, NumPy's or Python's.

    >>> whole("samples", 1.5)
    Traceback (most recent call last):
    ValueError: samples must be a positive integer, got 1.5
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise ValueError(f"{name} must be {accepted}, got {shown(value)}")
    return number


def seed(value: Any, name: str = "seed") -> int:
    """A seed that NumPy and torch both take.

    >>> seed(7)
    7
    >>> seed(-1)
    Traceback (most recent call last):
    ValueError: seed must be an integer from 0 to 2^64 - 1, got -1
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if isinstance(value, bool) or not 0 <= number < 2**64:
        raise ValueError(f"{name} must be an integer from 0 to 2^64 - 1, got {shown(value)}")
    return number


def generator(rng: Any) -> np.random.Generator:
    """NumPy's generator of random numbers; a seed is not one, since the caller would draw the same again and again.

    >>> generator(0)
    Traceback (most recent call last):
    ValueError: rng must be a generator such as np.random.default_rng(0), got 0
    """
    if not isinstance(rng, (np.random.Generator, np.random.RandomState)):
        raise ValueError(f"rng must be a generator such as np.random.default_rng(0), got {shown(rng)}")
    return rng  # type: ignore[return-value]


def texts(name: str, values: Iterable[str], least: int = 1) -> list[str]:
    """`values` as a list of strings that a tokenizer can read. One string is refused: it would be its letters.

    >>> texts("prompts", ("hi", "you"))
    ['hi', 'you']
    >>> texts("prompts", "hi")
    Traceback (most recent call last):
    ValueError: prompts must be a list of strings, got 'hi': write ['hi']
    """
    if isinstance(values, str):
        raise ValueError(f"{name} must be a list of strings, got {shown(values)}: write [{shown(values)}]")
    if isinstance(values, (bytes, Mapping, set, frozenset)) or not isinstance(values, Iterable):
        raise ValueError(f"{name} must be a list of strings, got {shown(values)}")
    found = list(values)
    if len(found) < least:
        raise ValueError(f"{name} must hold at least one prompt, got none")
    for place, text in enumerate(found):
        if not isinstance(text, str):
            raise ValueError(f"{name} must be strings, got {shown(text)} at place {place}")
        if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
            raise ValueError(f"{name} must be text, got an unpaired surrogate at place {place}: {ascii(text)[:80]}")
    return found


def nearest(name: object, known: Iterable[str], least: float = 0.6) -> str:
    """", did you mean X?" where one of the known names is close to what was given, else nothing.

    >>> nearest("bets-of-4", ["best-of-4", "worst-of-4"])
    ", did you mean 'best-of-4'?"
    """
    given = str(name)[:80].strip().lower().replace("_", "-")
    close = difflib.get_close_matches(given, known, n=1, cutoff=least)
    return f", did you mean {close[0]!r}?" if close and close[0] != name else ""
