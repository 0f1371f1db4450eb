"""Fills the marked blocks of the teaching files from the catalogue of exercises.

    python teaching/fill.py            writes them
    python teaching/fill.py --check    says what would change, and fails if anything would

Left out: everything outside the marks, which is written by hand.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from infalign_edu.atomic import write_text
from infalign_edu.classroom.exercises import catalogue

HERE = Path(__file__).parent
BLOCK = "<!-- {0} -->\n{1}\n<!-- /{0} -->"


def mistakes(exercises: Iterable[Any]) -> str:
    """A list of what each check recognises, by notebook and exercise."""
    lines = []
    for notebook, group in groupby(exercises, key=lambda exercise: exercise.notebook):
        lines.append(f"\n### {notebook}\n")
        for exercise in group:
            lines += [f"- `{exercise.name}`", *(f"  - {said(mistake.says)}" for mistake in exercise.mistakes)]
    return "\n".join(lines).strip()


def exercises(found: Iterable[Any]) -> str:
    """A table of the exercises with their minutes and points."""
    lines = ["| notebook | exercise | goal | difficulty | min | points |", "|---|---|---|---|---|---|"]
    for e in found:
        cells = (e.notebook[:2], f"`{e.name}`", said(e.goal), f"{e.difficulty} of 3", e.minutes, e.points)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


BLOCKS: dict[str, tuple[str, Callable[[Iterable[Any]], str]]] = {
    "typical_mistakes.md": ("mistakes", mistakes),
    "plan_three_weeks.md": ("exercises", exercises),
}


def said(text: str) -> str:
    """A sentence of the catalogue as one line that can stand in a table."""
    return " ".join(text.split()).replace("|", "&#124;")


def filled(name: str, found: Iterable[Any]) -> str:
    """The text of a teaching file with its block written anew. Raises: ValueError where the marks are missing."""
    text = (HERE / name).read_text(encoding="utf-8")
    mark, write = BLOCKS[name]
    block = BLOCK.format(mark, write(found))
    new, count = re.subn(BLOCK.format(mark, ".*?").replace("\n", r"\s"), lambda _: block, text, flags=re.S)
    if count != 1:
        raise ValueError(f"{name} must hold the block {mark!r} once, found {count}")
    return new


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 if `--check` finds a block that is not up to date."""
    parser = argparse.ArgumentParser(description="Fills the marked blocks of the teaching files.")
    parser.add_argument("--check", action="store_true", help="write nothing, fail where a block is out of date")
    check = parser.parse_args(arguments).check
    stale = [name for name in BLOCKS if filled(name, catalogue()) != (HERE / name).read_text(encoding="utf-8")]
    for name in stale:
        if not check:
            write_text(HERE / name, filled(name, catalogue()))
        print(f"{name}: {'out of date, run python teaching/fill.py' if check else 'written'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    raise SystemExit(main())
