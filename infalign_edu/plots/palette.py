"""Colours, line styles and markers of series: which name looks how, on every figure of the course.

Blue, vermilion and green are those of Okabe and Ito (2008). Their purple, orange, sky blue and yellow are too light for
thin lines on white (contrast 3.1 down to 1.3, where 3 is asked for on white and on light bars), so darker ones stand in
their place. tests/test_accessibility.py measures that any two of the eight are told apart, by 17 CIELAB units in
simulated deuteranopia and protanopia and by 25 in normal sight. No meaning rests on colour alone: line style and marker
differ as well. Left out: a dark theme.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#C46A9E", "#664400", "#5533CC", "#000000", "#882255")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2, 2, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
BAR: dict[str, Any] = {"color": "#f2f2f2", "edgecolor": "#767676", "linewidth": 0.8}  # light inside, outline 4.5:1
LEGEND: dict[str, Any] = {"fontsize": 9, "handlelength": 3, "framealpha": 0.85, "edgecolor": "none"}

_KNOWN = ("identity", "exp", "log", "power", "optimal", "standard", "reference")  # a colour each, always the same
_DETAILS = {"exp": ("10", "5", "-10", "-5"), "power": ("3", "7"), "optimal": ("best-of-4", "worst-of-4")}


def style(name: str, position: int = 0) -> dict[str, Any]:
    """Colour, line style and marker of a series: a transform always looks the same, other names go by position.

    Members of one family, such as exp:10 and exp:-10, share its colour and differ in line style and marker.

    >>> style("exp:10")["color"] == style("exp:-10")["color"], style("identity")["linestyle"]
    (True, '-')
    >>> style("exp:10")["marker"], style("exp:5")["marker"], style("exp:-10")["marker"]
    ('s', '^', 'D')
    """
    return _look(*_place(name, position))


def looks(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The looks of series that share axes: those of `style`, moved on where two would look alike.

    Colours of transforms stay; other names take those that are left, in order. No two of up to eight series share a
    line style, so that a figure can be read in black and white.

    >>> found = looks(["policy", "identity", "exp:10"])
    >>> len({look["color"] for look in found.values()}), found["exp:10"] == style("exp:10")
    (3, True)
    """
    unique = list(dict.fromkeys(names))
    known = {name: _place(name) for name in unique if _family(name) in _KNOWN}
    free = [i for i in range(len(PALETTE)) if i not in {colour for colour, _ in known.values()}]
    others = [name for name in unique if name not in known]
    places = known | {name: _shifted(free[i % len(free)], i // len(free)) for i, name in enumerate(others)}
    lines: dict[str, int] = {}
    for name in sorted(unique, key=lambda name: places[name][0] != places[name][1]):  # usual looks are kept first
        ring = [(places[name][1] + step) % len(LINES) for step in range(len(LINES))]
        lines[name] = next((line for line in ring if line not in lines.values()), ring[0])
    return {name: _look(places[name][0], lines[name]) for name in unique}


def _family(name: str) -> str:
    return name.replace(":", " ", 1).partition(" ")[0]


def _place(name: str, position: int = 0) -> tuple[int, int]:
    """Number of the colour and of the line style; the first of `_DETAILS` looks like its family without detail."""
    family = _family(name)
    if family not in _KNOWN:
        return _shifted(position % len(PALETTE), position // len(PALETTE))
    detail, usual = name[len(family) :].strip(": "), _DETAILS.get(family, ())
    shift = usual.index(detail) if detail in usual else zlib.crc32(detail.encode()) if detail else 0
    return _shifted(_KNOWN.index(family), shift)


def _shifted(colour: int, shift: int) -> tuple[int, int]:
    return colour, (colour + shift) % len(LINES)


def _look(colour: int, line: int) -> dict[str, Any]:
    return {"color": PALETTE[colour], "linestyle": LINES[line], "marker": MARKERS[line]}
