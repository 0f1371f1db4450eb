"""One master notebook, three copies: what a student opens, the key, and the instructor's copy for grading.

A master is the solved notebook. A cell that carries nbgrader's `solution` mark holds an answer between the lines
`### BEGIN SOLUTION` and `### END SOLUTION` and ends with the `check` of its exercise. From it are made

- the student's copy: the answer replaced by `...`, which returns None, so that the copy still runs to its end;
- the key: the answer kept, the two lines left out;
- the instructor's copy: after each answer a locked cell with its visible and hidden tests, in nbgrader's format.

    python -m infalign_edu.classroom.masters student --out build/student

None of the copies is executed, and the same masters give the same bytes.
"""

from __future__ import annotations

import argparse
import copy
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat

from infalign_edu.atomic import write_text
from infalign_edu.classroom.bootstrap import CELL
from infalign_edu.classroom.exercises import find

Notebook = nbformat.NotebookNode
MASTERS = Path("notebooks") / "key"
STUB = "...  # your answer"
HIDDEN_SEED = 2
_SOLUTION = re.compile(r"^([ \t]*)### BEGIN SOLUTION\n(.*?)^[ \t]*### END SOLUTION[ \t]*$", re.DOTALL | re.MULTILINE)
_CHECK = re.compile(r"^check\(\s*\"([^\"]+)\",\s*(\w+)\s*\)\s*$", re.MULTILINE)


def answers(master: Notebook) -> Iterator[tuple[Notebook, str, str]]:
    """The answer cells of a notebook, each with its exercise's name and the name of the function asked for.

    Raises: ValueError for an answer cell without one pair of solution lines, without its one
        `check("<exercise>", <function>)`, or with another grade_id; for solution lines in another cell, which no copy
        would leave out; for an exercise that is asked twice.
    """
    seen = set()
    for number, cell in enumerate(master.cells):
        found = len(_SOLUTION.findall(cell.source)), cell.source.count("SOLUTION")
        if not cell.metadata.get("nbgrader", {}).get("solution"):
            if "### BEGIN SOLUTION" in cell.source or "### END SOLUTION" in cell.source:
                raise ValueError(f"cell {number} must carry nbgrader's solution mark, since it holds solution lines")
            continue
        if found != (1, 2):
            raise ValueError(f"cell {number} must hold one answer between ### BEGIN SOLUTION and ### END SOLUTION")
        called = _CHECK.findall(cell.source)
        if len(called) != 1 or not _CHECK.search(cell.source.rstrip().rsplit("\n", 1)[-1]):
            raise ValueError(f'cell {number} must end with one check("<exercise>", <function>), got {len(called)}')
        (name, function) = called[0]
        if cell.metadata.nbgrader.grade_id != name:
            raise ValueError(f"grade_id of cell {number} must be {name!r}, got {cell.metadata.nbgrader.grade_id!r}")
        if name in seen:
            raise ValueError(f"exercise {name!r} must be asked once, got it again in cell {number}")
        seen.add(name)
        yield cell, name, function


def student(master: Notebook) -> Notebook:
    """The copy for students: answers replaced by a stub that returns None. Raises: ValueError as `answers` does."""
    return _copy(master, lambda source: _SOLUTION.sub(rf"\1{STUB}", source))


def key(master: Notebook) -> Notebook:
    """The solved copy, without the lines that mark the solutions."""
    return _copy(master, lambda source: _SOLUTION.sub(lambda found: found[2].rstrip("\n"), source))


def instructor(master: Notebook) -> Notebook:
    """The copy that nbgrader takes as its source: after each answer a locked cell with visible and hidden tests."""
    made = _copy(master, lambda source: source)
    tests = {name: _test_cell(name, function) for _, name, function in answers(made)}
    cells = []
    for cell in made.cells:
        cells.append(cell)
        if cell.metadata.get("nbgrader", {}).get("solution"):
            cells.append(tests[cell.metadata.nbgrader.grade_id])
    made.cells = cells
    return made


def hosted(notebook: Notebook) -> Notebook:
    """The notebook with a first code cell that installs the package where it is missing."""
    made = copy.deepcopy(notebook)
    made.cells.insert(1, _cell("bootstrap", CELL, {"tags": ["bootstrap"]}))
    return made


def _copy(master: Notebook, rewrite: Callable[[str], str]) -> Notebook:
    """The notebook without outputs, its answer cells rewritten. Raises: ValueError as `answers` does."""
    made, given = copy.deepcopy(master), [name for _, name, _ in answers(master)]
    for cell in made.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            if cell.metadata.get("nbgrader", {}).get("grade_id") in given:
                cell.source = rewrite(cell.source)
    return made


def _test_cell(name: str, function: str) -> Notebook:
    source = (
        f'check("{name}", {function})\n### BEGIN HIDDEN TESTS\n'
        "from infalign_edu.classroom.checks import require\n\n"
        f'require("{name}", {function}, seed={HIDDEN_SEED})\n### END HIDDEN TESTS'
    )
    marks = {"grade": True, "solution": False, "locked": True, "task": False, "schema_version": 3}
    return _cell(
        f"test-{name}", source, {"nbgrader": {**marks, "points": find(name).points, "grade_id": f"test-{name}"}}
    )


def _cell(identifier: str, source: str, metadata: dict) -> Notebook:
    cell = nbformat.v4.new_code_cell(source, metadata=metadata)
    cell["id"] = identifier[:64]
    return cell


COPIES = {
    "student": lambda master: hosted(student(master)),
    "key": key,
    "instructor": instructor,
}


def write(kind: str, masters: Path, out: Path) -> list[Path]:
    """Writes one kind of copy of every master, each file whole.

    Raises: ValueError for a folder without masters, and for the masters' own: their solutions would be gone.
    """
    if kind not in COPIES:
        raise ValueError(f"kind must be one of {', '.join(COPIES)}, got {kind!r}")
    sources = sorted(masters.glob("[0-9]*.ipynb"))
    if not sources:
        raise ValueError(f"masters must be a folder with solved notebooks, got {str(masters)!r} without any")
    if out.resolve() == masters.resolve():
        raise ValueError(f"out must be another folder than that of the masters, got {str(out)!r}")
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for source in sources:
        made = COPIES[kind](nbformat.read(source, as_version=4))
        written.append(out / source.name)
        write_text(written[-1], nbformat.writes(made) + "\n")
    return written


def main(arguments: list[str] | None = None) -> int:
    """The command line: 0 when the copies are written, 2 with one line when they can't be."""
    parser = argparse.ArgumentParser(
        prog="infalign_edu.classroom.masters", description="Copies of the solved notebooks."
    )
    parser.add_argument("kind", choices=list(COPIES))
    parser.add_argument("--masters", type=Path, default=MASTERS, help="folder of the solved notebooks")
    parser.add_argument("--out", type=Path, required=True, help="folder for the copies")
    options = parser.parse_args(arguments)
    try:
        written = write(options.kind, options.masters, options.out)
    except (ValueError, OSError) as error:
        print(f"masters: {error}", file=sys.stderr)
        return 2
    print(f"{len(written)} notebooks in {options.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
