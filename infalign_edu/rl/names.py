"""What a setting is called, and what tells one's own object from another of the same name.

A run that goes on, and a calibration table that is used again, must be the ones that were begun, and every lambda is
called `<lambda>`. A transform and a procedure are known by their values, a reward that is a function by its code. Left
out: what such a function reads elsewhere, and rewards that are objects, known by their name alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from types import CodeType, FunctionType
from typing import Any

import numpy as np

from infalign_edu.inputs import label

GRID = np.linspace(0, 1, 259)[1:-1]


def by_values(spec: object, named: Callable[[str], object], values: Callable[[np.ndarray], Any]) -> str:
    """A transform's or a procedure's name, with a mark of its values where the name alone does not stand for it.

    >>> by_values("log", str, np.log)
    'log'
    >>> by_values(lambda u: u**2, str, lambda u: u**2) == by_values(lambda u: u**3, str, lambda u: u**3)
    False
    """
    name = label(spec)
    with suppress(ValueError):
        if isinstance(spec, str) or named(name) == spec:
            return name
    return f"{name} {_mark(' '.join(f'{value:.6g}' for value in np.ravel(values(GRID))))}"


def by_code(spec: object) -> str:
    """A reward's name, with a mark of its code and its defaults where it is a function.

    >>> by_code("gold:helpfulness"), by_code(lambda p, r: [0.0]) == by_code(lambda p, r: [1.0])
    ('gold:helpfulness', False)
    >>> by_code(lambda p, r, w=1: w) == by_code(lambda p, r, w=2: w), by_code(lambda p, r: r) == by_code(lambda p, r: r)
    (False, True)
    """
    if not isinstance(spec, FunctionType):
        return label(spec)
    defaults = [label(value) for value in (*(spec.__defaults__ or ()), *(spec.__kwdefaults__ or {}).values())]
    return f"{label(spec)} {_mark(' '.join([_code(spec.__code__), *defaults]))}"


def _code(code: CodeType) -> str:
    consts = (sorted(map(repr, c)) if isinstance(c, frozenset) else c for c in code.co_consts)  # a set has no order
    parts = [_code(c) if isinstance(c, CodeType) else repr(c) for c in consts]
    return " ".join([code.co_code.hex(), *code.co_names, *parts])


def _mark(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def pairs_name(spec: str) -> str:
    """A preference file without the folders it lies in; "embedded" and a Hub name as they are.

    >>> pairs_name("hub:a/b/harmless-base/test.jsonl.gz"), pairs_name("/data/pairs.jsonl"), pairs_name("")
    ('hub:a/b/harmless-base/test.jsonl.gz', 'pairs.jsonl', 'embedded')
    """
    return spec if spec.startswith("hub:") else spec.replace("\\", "/").rsplit("/", 1)[-1] or "embedded"
