"""Submitted notebooks, read as what they are: files that anybody may have written.

Accepted are `STUDENT/NN_name.ipynb`, nbgrader's `submitted/STUDENT/ASSIGNMENT/NN_name.ipynb`, and single files
`STUDENT.ipynb`, which are recognised by the exercises in them. Nothing of a submission is executed here, and of its
cells only the text is taken, never outputs or metadata. What can't be read becomes a message for its author.

An answer may use the learner's own cells before it and earlier answers, so those that define what it uses go with it.
Cells that the course provides are not run; of them only the imports of ordinary libraries are kept.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infalign_edu.classroom.grading.sandbox import Code
from infalign_edu.classroom.grading.source import LONGEST, Cell, imports, library, preload, python
from infalign_edu.classroom.masters import Notebook, answers

LARGEST, MOST, CODE = 20 << 20, 2_000, 1_000_000  # bytes of a file, cells of a notebook, characters of its code
STUDENT = re.compile(r"\w[\w .@+-]{0,63}")


@dataclass(frozen=True)
class File:
    """A file to grade: whose it is and where it lies. `problem` says why it is refused unread."""

    student: str
    path: Path
    problem: str = ""


@dataclass(frozen=True)
class Answer:
    """A learner's answer to one exercise: its text, the code to run (None with a `problem`), what it leans on."""

    text: str = ""
    code: Code | None = None
    problem: str = ""
    flags: tuple[str, ...] = ()
    library: tuple[str, ...] = ()
    own_cells: tuple[str, ...] = ()


@dataclass(frozen=True)
class Submission:
    """What a file holds: its digest, its cells' texts with their identifiers, or the problem that it can't be read."""

    digest: str
    cells: tuple[Cell, ...] = ()
    problem: str = ""
    exercises: frozenset[str] = field(default=frozenset())


def files(folder: Path) -> list[File]:
    """Every notebook below a folder of submissions, in a fixed order; links and strange names are refused.

    Raises: ValueError for a folder that does not exist or holds no notebook.
    """
    if not folder.is_dir():
        raise ValueError(f"submissions must be a folder, got {str(folder)!r}")
    root = folder / "submitted" if (folder / "submitted").is_dir() else folder
    found = list(_below(root, root))
    if not found:
        raise ValueError(f"submissions must hold notebooks such as STUDENT/02_name.ipynb, got none in {str(folder)!r}")
    return found


def printable(text: str) -> str:
    r"""Text for a terminal and a table: what moves a cursor, or was no UTF-8 in a file's name, becomes a question mark.

    >>> printable("a\x1b[2J\udcff\nb")
    'a?[2J??b'
    """
    return "".join(c if c.isprintable() else "?" for c in text)


def _below(folder: Path, root: Path) -> Iterator[File]:
    for path in sorted(folder.iterdir()):
        parts = path.relative_to(root).parts
        if any(part.startswith(".") for part in parts):
            continue
        student = printable(parts[0] if len(parts) > 1 or path.is_dir() else path.stem)
        if path.is_symlink():
            yield File(student, path, "links are refused: hand in the file itself")
        elif path.is_dir() and len(parts) <= 2:
            yield from _below(path, root)
        elif path.suffix == ".ipynb" and (not STUDENT.fullmatch(student) or ".." in student):
            yield File(student, path, "the student's name must be letters, digits, spaces or one of .@+-_")
        elif path.suffix == ".ipynb":
            yield File(student, path) if path.is_file() else File(student, path, "this is no file")


def read(path: Path) -> Submission:
    """The cells of a submitted notebook, or why it can't be read; never an exception for what is in the file."""
    size = path.stat().st_size
    if size > LARGEST:
        return Submission(f"{size} bytes", problem=f"The file has {size >> 20} MB; at most {LARGEST >> 20} are read.")
    raw = path.read_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    if not raw.strip():
        return Submission(digest, problem="The file is empty.")
    try:
        cells = tuple(_cells(json.loads(raw.decode("utf-8-sig"))))
    except UnicodeDecodeError:
        return Submission(digest, problem="The file is not UTF-8 text, as notebooks are.")
    except (ValueError, RecursionError):
        return Submission(digest, problem="The file is not a notebook: it is not valid JSON.")
    except TypeError as error:
        return Submission(digest, problem=f"The file is not a notebook: {error}.")
    return Submission(digest, cells, exercises=frozenset(cell.grade_id for cell in cells if cell.grade_id))


def _cells(data: Any) -> Iterator[Cell]:
    listed = data.get("cells") if isinstance(data, dict) else None
    if not isinstance(listed, list) or not all(isinstance(cell, dict) for cell in listed):
        raise TypeError("it has no list of cells")
    if len(listed) > MOST:
        raise TypeError(f"it has {len(listed)} cells, at most {MOST} are read")
    size = 0
    for cell in listed:
        text = cell.get("source", "")
        text = "".join(text) if isinstance(text, list) and all(isinstance(line, str) for line in text) else text
        if not isinstance(text, str):
            raise TypeError("a cell has no text")
        metadata = cell.get("metadata")
        marks = metadata.get("nbgrader") if isinstance(metadata, dict) else None
        mark = marks.get("grade_id") if isinstance(marks, dict) and marks.get("solution") is True else ""
        text = text.encode("utf-8", "replace").decode()
        if cell.get("cell_type") == "code":
            size += len(text)
            if size > CODE:
                raise TypeError(f"it has more than {CODE:,} characters of code")
            yield Cell(str(cell.get("id", ""))[:64], mark if isinstance(mark, str) else "", text)


def answer(submission: Submission, source: Notebook, name: str) -> Answer:
    """The answer to one exercise in a submission; `source` is the notebook as the course handed it out."""
    if submission.problem:
        return Answer(problem=submission.problem)
    function = next(function for _, exercise, function in answers(source) if exercise == name)
    position, flags = _place(submission.cells, name, function)
    if position is None:
        return Answer(problem="The answer cell is missing from the notebook.")
    cell = submission.cells[position]
    if len(cell.text) > LONGEST:
        return Answer(cell.text[:LONGEST], problem=f"The answer has more than {LONGEST} characters.", flags=flags)
    tree = python(cell.text)
    if isinstance(tree, str):
        return Answer(cell.text, problem=f"The answer is not valid Python: {tree}.", flags=flags)
    provided = {given.get("id") for given in source.cells} | {"bootstrap"}
    texts = {given.source for given in source.cells}
    given = [Cell(str(c.get("id", "")), "", c.source) for c in source.cells if c.cell_type == "code"]
    own = [c for c in submission.cells[:position] if c.grade_id or not (c.identifier in provided or c.text in texts)]
    chain = _chain(cell, own)
    provider = [*given, *submission.cells]
    borrowed = library(provider, chain)
    lines = (*imports(provider, chain), *preload(chain))
    code = Code(tuple(c.code for c in chain), function, lines)
    if borrowed:
        flags = (*flags, f"uses infalign_edu: {', '.join(borrowed)}")
    return Answer(cell.text, code, "", flags, borrowed, tuple(c.text for c in chain[:-1] if not c.grade_id))


def _place(cells: Sequence[Cell], name: str, function: str) -> tuple[int | None, tuple[str, ...]]:
    """Where the answer is: by its exercise's mark, else by the function's name, else by its `check`."""
    marked = [i for i, cell in enumerate(cells) if cell.grade_id == name]
    if marked:
        return marked[-1], (f"{len(marked)} cells with this exercise's mark; the last one counts",) * (len(marked) > 1)
    others = [i for i, cell in enumerate(cells) if re.search(rf"^def {function}\(", cell.text, re.MULTILINE)]
    others = others or [i for i, cell in enumerate(cells) if f'check("{name}"' in cell.text]
    return (others[-1], ("the exercise's mark was changed or removed",)) if others else (None, ())


def _chain(cell: Cell, before: Sequence[Cell]) -> list[Cell]:
    """The learner's cells that define what the answer uses, in order, the answer last."""
    chain, needed = [cell], set(cell.used)
    for earlier in reversed(before):
        if len(earlier.text) <= LONGEST and earlier.bound & needed:
            chain.insert(0, earlier)
            needed |= earlier.used
    return chain
