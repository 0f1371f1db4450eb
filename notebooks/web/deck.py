"""Which parts of a notebook become slides, by rules alone: no slide is written by hand.

The first cell gives the title slide, each `##` heading a new slide. From a section's prose stay its first sentence (its
first paragraph if short), every sentence with something in bold, and what leads into a displayed equation; displayed
equations, lists and tables stay whole. A box that begins "Predict, then reveal" is a slide of its own, and what the
next code cells show is the slide after it. Other figures are slides too; a short text that follows goes under them.
Exercises stay whole. Other printed text, and all code, stays in the notebook.

Two cell tags overrule this: `slide` shows a cell whole, `no-slide` leaves it out. Left out: fragments, notes, themes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

LINES, CAPTION = 11, 4  # lines of a slide, before the next begins with the same heading; and of text under a figure
PROTECTED = re.compile(r"\$[^$]*\$|`[^`]*`|\b(?:e\.g|i\.e|et al|cf|vs)\.|\([^()]*\)")
LABEL = 40  # characters: a sentence as short as "**Derived.**" takes the next one with it
WIDE = 140  # characters: printed text with a longer line is no table
TALL = 45  # lines: printed text of more goes on, after an empty line of its own, on the next slide
SHORT = 360  # characters: a first paragraph that is shorter stays whole
HEADING = re.compile(r"(#{1,6})\s+(.*)")
SECTION = re.compile(r"(?m)^## (.*)$")


@dataclass(frozen=True)
class Slide:
    """One slide: `kind` is title, text, predict or reveal; the body is Markdown, the output a code cell's."""

    kind: str
    heading: str
    body: str = ""
    output: Any = None


def slides(cells: list[Any]) -> list[Slide]:
    """The slides of a notebook's cells, in order."""
    first, *rest = [cell for cell in cells if "no-slide" not in tags(cell)]
    opening, *more = re.split(r"(?m)^(?=## )", source(first))
    title = HEADING.match(opening.strip())
    deck = [Slide("title", title[2] if title else "", _goals(opening))]
    heading, section, asked = "", "", False
    for cell in [*({"cell_type": "markdown", "source": part, "metadata": {}} for part in more), *rest]:
        if cell["cell_type"] == "markdown":
            found = _text_slides(source(cell), heading, whole="slide" in tags(cell))
            deck += _captioned(deck, found)
            heading = found[-1].heading if found else heading
            section = next((title for title in reversed(SECTION.findall(source(cell)))), section)
            asked = bool(found) and found[-1].kind == "predict"
        elif "solution" in tags(cell):
            heading, asked = section, False  # an exercise ends with its answer, which is not shown
        else:
            shown = _shown(cell, asked or "slide" in tags(cell))
            deck += [Slide("reveal", heading, output=output) for output in shown]
            asked = asked and not any(map(is_figure, shown))
    return deck


def _captioned(deck: list[Slide], found: list[Slide]) -> list[Slide]:
    """The slides that remain where a short text after a figure or table has gone under it."""
    if not found or deck[-1].kind != "reveal" or found[0].kind != "text" or found[0].heading != deck[-1].heading:
        return found
    if weight(found[0].body) > CAPTION:
        return found
    deck[-1] = replace(deck[-1], body=found[0].body)
    return found[1:]


def tags(cell: Any) -> list[str]:
    return list(cell["metadata"].get("tags", []))


def source(cell: Any) -> str:
    return "".join(cell["source"])


def is_figure(output: Any) -> bool:
    return "image/png" in output.get("data", {})


def _shown(cell: Any, printed_too: bool) -> list[Any]:
    """A code cell's figures and, where it answers a question, its printed tables."""
    outputs = cell.get("outputs", [])
    printed = [out for out in outputs if "text" in out and max(map(len, out["text"].splitlines()), default=0) <= WIDE]
    kept = [out for out in outputs if is_figure(out) or (printed_too and out in printed)]
    return [page for out in kept for page in ([out] if is_figure(out) else pages(out))]


def pages(output: Any, tall: int = TALL) -> list[Any]:
    """A printed text as slides can show it: parted at its empty lines where it is taller than a slide.

    >>> [page["text"] for page in pages({"text": "a\\nb\\n\\nc\\n"}, tall=3)]
    ['a\\nb', 'c']
    """
    parts = output["text"].strip("\n").split("\n\n")
    found = [parts[0]]
    for part in parts[1:]:
        joined = f"{found[-1]}\n\n{part}"
        found[-1:] = [joined] if joined.count("\n") < tall else [found[-1], part]
    return [output] if len(found) == 1 else [{**output, "text": text} for text in found]


def _goals(opening: str) -> str:
    """The minutes and the list of goals of a first cell."""
    keep = [block for block in blocks(opening) if re.match(r"\*\*\d+ minutes|[-*] ", block)]
    return "\n\n".join(re.match(r"(\*\*.*?\*\*)?", block)[0] if block.startswith("**") else block for block in keep)  # type: ignore[index]


def blocks(text: str) -> list[str]:
    """Headings, paragraphs, list items, tables, quotes and displayed equations of a Markdown text, one string each."""
    pieces = re.split(r"(\$\$.*?\$\$)", re.sub(r"(?m)^(#{1,6} .*)$", r"\1\n", text), flags=re.S)
    apart = r"\n\s*\n|\n(?=#|[-*] |\d+\. )"
    split = [[piece] if piece.startswith("$$") else re.split(apart, piece) for piece in pieces]
    found = [block.strip() for group in split for block in group]
    return [block for block in found if block.strip(" .,")]  # a full stop after an equation is no paragraph


def _text_slides(text: str, heading: str, whole: bool) -> list[Slide]:
    """The slides of one Markdown cell; `heading` is that of the section it goes on with."""
    deck: list[Slide] = []
    body: list[str] = []
    fresh, lead = False, ""

    def turn_page() -> None:
        if body:
            deck.append(Slide("text", heading, "\n\n".join(body)))
            body.clear()

    parts = blocks(text)
    for part, following in zip(parts, [*parts[1:], ""], strict=True):
        if match := HEADING.match(part):
            turn_page()
            heading, fresh = match[2], True
        elif part.startswith(">"):
            turn_page()
            quoted = re.sub(r"(?m)^> ?", "", part)
            deck.append(Slide("predict" if "redict, then reveal" in part else "text", heading, quoted))
        elif kept := part if whole or heading.startswith("Exercise") else _essence(part, fresh, following):
            fresh = False
            if following.startswith("$$"):  # what leads into an equation stays with it
                lead += kept + "\n\n"
                continue
            if body and sum(map(weight, [*body, lead + kept])) > LINES:
                turn_page()
            body.append(lead + kept)
            lead = ""
    turn_page()
    return deck


def _essence(part: str, fresh: bool, following: str) -> str:
    """What stays of a block: equations, lists and tables whole, of prose the sentences that matter."""
    if re.match(r"\$\$|\||[-*] |\d+\. ", part):
        return part
    said = sentences(part)
    keep = {i for i, sentence in enumerate(said) if "**" in sentence}
    keep |= {i + 1 for i in keep if len(said[i]) < LABEL}
    keep |= set(range(len(said) if len(part) < SHORT else 1)) if fresh else set()
    keep |= {len(said) - 1} if following.startswith("$$") else set()
    return " ".join(sentence for i, sentence in enumerate(said) if i in keep)


def sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph; a stop inside mathematics, code or brackets ends none.

    >>> sentences("Take $a. b$ (see 2. B). **Then** stop.")
    ['Take $a. b$ (see 2. B).', '**Then** stop.']
    """
    held: list[str] = []

    def hold(match: re.Match[str]) -> str:
        held.append(match[0])
        return f"\x00{len(held) - 1}\x00"

    text = PROTECTED.sub(hold, " ".join(paragraph.split()))
    found = re.split(r"(?<=[.!?])\s+|(?<=[.!?]\*)\s+|(?<=[.!?]\*\*)\s+", text)
    return [re.sub("\x00(\\d+)\x00", lambda m: held[int(m[1])], sentence) for sentence in found if sentence]


def weight(text: str) -> float:
    """About how many lines a text takes on a slide."""
    lines = 0.0
    for block in blocks(text):
        rows = block.splitlines()
        lines += 2.5 * (1 + block.count(r"\\")) if block.startswith("$$") else sum(1 + len(row) / 85 for row in rows)
    return lines
