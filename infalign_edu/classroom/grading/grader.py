"""Submissions -> rows of points and feedback: reads, runs, judges, stores; resumes where it was stopped."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import secrets
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import filelock
import nbformat
from tqdm import tqdm

from infalign_edu.atomic import write_json, write_text
from infalign_edu.classroom.checks import VISIBLE
from infalign_edu.classroom.exercise import Exercise, Verdict
from infalign_edu.classroom.grading import marking, submissions
from infalign_edu.classroom.grading.gradebook import Course, Row, page
from infalign_edu.classroom.grading.sandbox import USUAL, Limits
from infalign_edu.classroom.grading.source import FORCED, form, untouched
from infalign_edu.classroom.masters import MASTERS, Notebook

COLUMNS = ("student", "notebook", "exercise", "points", "max", "message", "seconds", "flags")
OWN_CELLS = "When answers are graded only your own cells run, not those that the course provides."
NO_LIBRARY = "When answers are graded the course's library is not there: write the mathematics yourself."


@dataclass(frozen=True)
class Grades:
    """Every row of grades.csv, and the hidden seed that they were found with."""

    rows: tuple[Row, ...]
    hidden_seed: int

    def points(self, student: str) -> float:
        """The sum of a student's points."""
        return sum(row["points"] for row in self.rows if row["student"] == student)


def grade(
    folder: Path, out: Path, hidden_seed: int | None = None, masters: Path = MASTERS,
    limits: Limits = USUAL, jobs: int = 2, say: Callable[[str], None] | None = None,
) -> Grades:  # fmt: skip
    """Grades every submission below `folder` into `out`; what is graded already, with the same seed, is kept.

    Raises: ValueError for a folder without submissions or masters, without nbgrader, or for a visible seed.
    """
    folder, out = _places(Path(folder).resolve(), Path(out).resolve())
    found = submissions.files(folder)
    course = Course(Path(masters), out)
    out.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(out / ".lock", timeout=0):
            seed = _seed(out, hidden_seed)
            course.open()
            hidden = (folder, out, Path(masters).resolve())
            return Grades(tuple(_grade_all(course, found, seed, limits, hidden, jobs, say)), seed)
    except filelock.Timeout:
        raise ValueError(f"out must be a folder in which no other grading runs, got {str(out)!r}") from None


def _places(folder: Path, out: Path) -> tuple[Path, Path]:
    if os.name != "posix":
        raise ValueError(f"grading needs Linux or macOS, where a process can be limited, got {sys.platform}")
    if out == folder or folder in out.parents:
        raise ValueError(f"out must lie outside the folder of submissions, got {str(out)!r}")
    if set("*?[]") & set(str(out)):  # nbgrader takes these for patterns
        raise ValueError(f"out must be a path without any of * ? [ ], got {str(out)!r}")
    return folder, out


def _grade_all(course: Course, found: Sequence[submissions.File], seed: int, limits: Limits, hidden: Sequence[Path],
               jobs: int, say: Callable[[str], None] | None) -> list[Row]:  # fmt: skip
    rows: list[Row] = []
    done: set[tuple[str, str]] = set()
    try:
        for file in tqdm(found, desc="grading", unit="notebook", disable=None):
            try:
                made = _graded(course, file, seed, limits, hidden, jobs, done)
            except Exception as error:  # one submission never keeps the others from their points
                made = [_refused(file, f"The grader could not grade this file ({type(error).__name__}: {error}).")]
            rows += made
            if say is not None:
                points, most = (sum(row[column] for row in made) for column in ("points", "max"))
                named = made[0]["notebook"] or submissions.printable(file.path.name)
                say(f"{file.student}  {named}  {points:g} of {most:g}")
    finally:  # also when it is interrupted: what is there is whole
        _similar(rows, course.solutions)
        _tables(course.root.parent, rows, course)
    return rows


def _seed(out: Path, asked: int | None) -> int:
    """The hidden tests' seed: the one asked for, else the one recorded in `out`, else a new random one."""
    record = out / "grading.json"
    kept = json.loads(record.read_text(encoding="utf-8"))["hidden_seed"] if record.is_file() else None
    seed = asked if asked is not None else kept if kept is not None else 2 + secrets.randbelow(2**31)
    if type(seed) is not int or seed < 0 or seed == VISIBLE:
        raise ValueError(f"hidden_seed must be a whole number from 0 other than {VISIBLE}, got {seed!r}")
    if seed != kept:
        write_json(record, {"hidden_seed": seed})
    return seed


def _graded(course: Course, file: submissions.File, seed: int, limits: Limits, hidden: Sequence[Path],
            jobs: int, done: set[tuple[str, str]]) -> list[Row]:  # fmt: skip
    """The rows of one file, from the record of an earlier run where nothing has changed."""
    if file.problem:
        return [_refused(file, file.problem)]
    found = submissions.read(file.path)
    stem = _which(course, file, found)
    if not stem:
        return [_refused(file, found.problem or "It is none of the course's notebooks with exercises.")]
    if (file.student, stem) in done:
        return [_refused(file, f"Another file of this student for {stem} is graded already.")]
    done.add((file.student, stem))
    state = course.root / "state" / file.student / f"{stem}.json"
    feedback = course.root.parent / "feedback" / file.student / f"{stem}.html"
    stamp = hashlib.sha256(
        json.dumps([found.digest, seed, course.digest, course.checks, str(limits)]).encode()
    ).hexdigest()
    if state.is_file() and feedback.is_file():
        kept = json.loads(state.read_text(encoding="utf-8"))
        if kept["stamp"] == stamp:
            return kept["rows"]
    notebook, rows = grade_one(course, file, found, stem, seed, limits, hidden, jobs)
    write_text(feedback, page(course.store(file.student, stem, notebook, rows)))
    write_json(state, {"stamp": stamp, "rows": rows})
    return rows


def _which(course: Course, file: submissions.File, found: submissions.Submission) -> str:
    """The notebook that a file answers: by the file's name, else by the exercises in it."""
    if file.path.stem in course.sources:
        return file.path.stem
    shared = {stem: len(found.exercises & {e.name for e in given}) for stem, given in course.exercises.items()}
    best = max(shared, key=lambda stem: shared[stem])
    return best if shared[best] else ""


def _refused(file: submissions.File, message: str) -> Row:
    nothing = {"notebook": "", "exercise": "", "points": 0.0, "max": 0, "seconds": 0.0, "form": "", "feedback": ""}
    told = submissions.printable(f"{file.path.name}: {message}")
    return {"student": file.student, **nothing, "message": told, "flags": ["not graded"]}


def grade_one(course: Course, file: submissions.File, found: submissions.Submission, stem: str, seed: int,
              limits: Limits, hidden: Sequence[Path], jobs: int) -> tuple[Notebook, list[Row]]:  # fmt: skip
    """The rows of one submitted notebook, and the notebook that its author gets back with them."""
    source = course.sources[stem]
    read = [submissions.answer(found, source, exercise.name) for exercise in course.exercises[stem]]

    def marked(pair: tuple[Exercise, submissions.Answer]) -> marking.Outcome:
        exercise, answer = pair
        if answer.code is None or untouched(answer.text, answer.code.function):
            says = answer.problem or "Not answered yet."
            verdict = Verdict(False, says, 0, answered=False)
            return marking.Outcome(verdict, verdict)
        return marking.mark(exercise, answer.code, seed, limits, hidden)

    with ThreadPoolExecutor(jobs) as pool:
        outcomes = list(pool.map(marked, zip(course.exercises[stem], read, strict=True)))
    rows = [_row(file, stem, *each) for each in zip(course.exercises[stem], read, outcomes, strict=True)]
    return _returned(source, course.exercises[stem], read), rows


def _row(
    file: submissions.File, stem: str, exercise: Exercise, answer: submissions.Answer, outcome: marking.Outcome
) -> Row:
    visible, hidden = outcome.visible.message, outcome.hidden.message
    text = visible if visible == hidden else f"{visible} Hidden tests: {hidden}"
    note = _note(answer, outcome)
    digest, size = form(answer.text) if answer.code is not None else ("", 0)
    return {
        "student": file.student, "notebook": stem, "exercise": exercise.name,
        "points": outcome.points(exercise), "max": exercise.points, "message": f"{text} {note}".strip(),
        "seconds": outcome.seconds, "flags": [*answer.flags, *outcome.flags],
        "feedback": f"Visible tests: {visible}\nHidden tests: {hidden}\n{note}".strip(),
        "form": digest if size > FORCED else "",
    }  # fmt: skip


def _note(answer: submissions.Answer, outcome: marking.Outcome) -> str:
    """What else a learner should know whose answer works in the notebook and not here."""
    if outcome.visible.passed and outcome.hidden.passed:
        return ""
    if answer.library:
        return NO_LIBRARY
    return OWN_CELLS if "NameError" in outcome.visible.message else ""


def _returned(source: Notebook, exercises: Sequence[Exercise], read: Sequence[submissions.Answer]) -> Notebook:
    """Only what feedback is about: each exercise's text, the learner's cells for it, the answer, the test cell."""
    given = dict(zip((exercise.name for exercise in exercises), read, strict=True))
    cells: list[Notebook] = []
    shown: set[str] = set()
    for before, cell in zip([None, *source.cells], source.cells, strict=False):
        marks = cell.metadata.get("nbgrader", {})
        if marks.get("solution"):
            answer = given[marks["grade_id"]]
            own = [text for text in answer.own_cells if text not in shown]
            shown.update(own)
            texts = [nbformat.v4.new_code_cell(text) for text in own]
            if before is not None and before.cell_type == "markdown":
                texts.insert(0, nbformat.v4.new_markdown_cell(before.source))
            cell = nbformat.v4.new_code_cell(answer.text or "# no answer was found", metadata={"nbgrader": dict(marks)})
            cells += [*texts, cell]
        elif marks.get("grade"):
            cells.append(nbformat.v4.new_code_cell(cell.source, metadata={"nbgrader": dict(marks)}))
    return nbformat.v4.new_notebook(cells=cells, metadata=dict(source.metadata))


def _similar(rows: Sequence[Row], solutions: dict[str, str]) -> None:
    """Flags answers that are another student's, names and layout aside, where the exercise does not force them."""
    same: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        if row["form"] and row["form"] != solutions.get(row["exercise"]):
            same[row["exercise"], row["form"]].add(row["student"])
    for row in rows:
        others = sorted(same.get((row["exercise"], row["form"]), set()) - {row["student"]})
        if others:
            row["flags"] = [*row["flags"], f"the same answer as {', '.join(others[:5])}"]


def _tables(out: Path, rows: Sequence[Row], course: Course) -> None:
    """Writes the tables, whole."""
    listed = [{**row, "flags": "; ".join(row["flags"])} for row in rows]
    _csv(out / "grades.csv", COLUMNS, [[row[column] for column in COLUMNS] for row in listed])
    most = sum(exercise.points for given in course.exercises.values() for exercise in given)
    students = sorted({row["student"] for row in rows})
    totals = []
    for student in students:
        own = [row for row in rows if row["student"] == student]
        totals.append([student, sum(row["points"] for row in own), most, len({row["notebook"] for row in own} - {""})])
    _csv(out / "totals.csv", ("student", "points", "max", "notebooks"), totals)
    course.export(out / "nbgrader.csv")


def _csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([columns, *([_cell(entry) for entry in row] for row in rows)])
    write_text(path, text.getvalue())


def _cell(entry: object) -> object:
    """Text that no spreadsheet takes for a formula."""
    return f"'{entry}" if isinstance(entry, str) and entry[:1] in ("=", "+", "-", "@", "\t", "\r") else entry
