"""Copies of a small master, cell by cell; what a master must not be; and the course's own copies."""

import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest

from infalign_edu.classroom import checks, masters
from infalign_edu.classroom.bootstrap import CELL
from infalign_edu.classroom.exercise import call
from infalign_edu.classroom.exercises import find

ROOT = Path(__file__).parents[1]
MASTERS = sorted((ROOT / masters.MASTERS).glob("[0-9]*.ipynb"))
MARKS = {"grade": False, "solution": True, "locked": False, "task": False, "schema_version": 3}
ANSWER = '''\
def best_of_n_density(u, n):
    """Density."""
    ### BEGIN SOLUTION
    exponent = n - 1

    return n * u**exponent
    ### END SOLUTION


check("best-of-n-density", best_of_n_density)'''


def answer_cell(source=ANSWER, name="best-of-n-density"):
    return nbformat.v4.new_code_cell(source, metadata={"nbgrader": {**MARKS, "grade_id": name}})


def master(*cells):
    """A title, the import, the given answer cells, and a cell after them; run, with outputs."""
    ran = nbformat.v4.new_code_cell(
        "from infalign_edu.classroom import check", execution_count=1, outputs=[nbformat.v4.new_output("stream", text="!")])
    made = [nbformat.v4.new_markdown_cell("# Title"), ran, *(cells or [answer_cell()]), nbformat.v4.new_code_cell("1 + 1")]
    for number, cell in enumerate(made):
        cell["id"] = f"cell-{number:02d}"
    return nbformat.v4.new_notebook(cells=made)


def sources(notebook):
    return [cell.source for cell in notebook.cells]


STUDENT = '''\
def best_of_n_density(u, n):
    """Density."""
    ...  # your answer


check("best-of-n-density", best_of_n_density)'''
KEY = '''\
def best_of_n_density(u, n):
    """Density."""
    exponent = n - 1

    return n * u**exponent


check("best-of-n-density", best_of_n_density)'''
TESTS = '''\
check("best-of-n-density", best_of_n_density)
### BEGIN HIDDEN TESTS
from infalign_edu.classroom.checks import require

require("best-of-n-density", best_of_n_density, seed=2)
### END HIDDEN TESTS'''
FIRST, LAST = ["# Title", "from infalign_edu.classroom import check"], ["1 + 1"]


def test_the_sources_of_every_copy():
    before = nbformat.writes(master())
    made = nbformat.reads(before, as_version=4)
    assert sources(masters.student(made)) == [*FIRST, STUDENT, *LAST]
    assert sources(masters.key(made)) == [*FIRST, KEY, *LAST]
    assert sources(masters.instructor(made)) == [*FIRST, ANSWER, TESTS, *LAST]
    assert sources(masters.hosted(made)) == [FIRST[0], CELL, FIRST[1], ANSWER, *LAST]
    assert sources(masters.COPIES["student"](made)) == [FIRST[0], CELL, FIRST[1], STUDENT, *LAST]
    assert nbformat.writes(made) == before  # the master itself is left as it was


@pytest.mark.parametrize("kind", list(masters.COPIES))
def test_a_copy_is_valid_and_holds_no_output(kind):
    made = masters.COPIES[kind](master())
    nbformat.validate(made)
    assert len({cell.id for cell in made.cells}) == len(made.cells)
    code = [cell for cell in made.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


def test_marks_of_the_instructor_s_copy():
    _, _, answer, tests, _ = masters.instructor(master()).cells
    assert answer.metadata.nbgrader == {**MARKS, "grade_id": "best-of-n-density"}
    assert tests.id == "test-best-of-n-density" and tests.metadata.nbgrader == {
        "grade": True, "solution": False, "locked": True, "task": False, "schema_version": 3,
        "points": find("best-of-n-density").points, "grade_id": "test-best-of-n-density"}  # fmt: skip


def test_several_answers_each_get_their_own_tests():
    other = ANSWER.replace("best-of-n-density", "shortfall").replace("best_of_n_density", "shortfall")
    made = masters.instructor(master(answer_cell(), answer_cell(other, "shortfall")))
    assert sources(made)[3:6:2] == [TESTS, TESTS.replace("best-of-n-density", "shortfall").replace("best_of_n_density", "shortfall")]


def test_a_deeper_answer_keeps_its_indentation():
    nested = ANSWER.replace("    ###", "        ###")
    assert sources(masters.student(master(answer_cell(nested))))[2] == STUDENT.replace("    ...", "        ...")


BAD = {
    "no solution lines": (ANSWER.replace("### BEGIN", "### START"), "cell 2 must hold one answer between ### BEGIN SOLUTION and"),
    "no end": (ANSWER.replace("### END SOLUTION", ""), "cell 2 must hold one answer"),
    "end before begin": (ANSWER.replace("BEGIN", "X").replace("END", "BEGIN").replace("X", "END"), "cell 2 must hold one answer"),
    "two answers": (ANSWER + "\n" + ANSWER, "cell 2 must hold one answer"),
    "no check": (ANSWER.replace("check(", "print("), "cell 2 must end with one check.*got 0"),
    "two checks": (ANSWER + '\ncheck("shortfall", f)', "must end with one check.*got 2"),
    "check in the middle": (ANSWER + "\nprint(1)", "cell 2 must end with one check"),
    "another name": (ANSWER.replace('check("best-of-n-density"', 'check("shortfall"'), "grade_id of cell 2 must be 'shortfall', got"),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(masters.COPIES))
@pytest.mark.parametrize("case", list(BAD))
def test_what_a_master_must_not_be(kind, case):
    source, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        masters.COPIES[kind](master(answer_cell(source)))


@pytest.mark.parametrize("kind", list(masters.COPIES))
def test_a_solution_that_no_copy_would_leave_out_is_refused(kind):
    with pytest.raises(ValueError, match="cell 2 must carry nbgrader's solution mark"):
        masters.COPIES[kind](master(nbformat.v4.new_code_cell(ANSWER)))
    with pytest.raises(ValueError, match="'best-of-n-density' must be asked once, got it again in cell 3"):
        masters.COPIES[kind](master(answer_cell(), answer_cell()))


def test_an_exercise_that_the_course_does_not_have():
    with pytest.raises(ValueError, match="exercise must be one of the course's, such as best-of-n-density.*got 'best-of-m'"):
        masters.instructor(master(answer_cell(ANSWER.replace("best-of-n-density", "best-of-m"), "best-of-m")))


@pytest.mark.parametrize("kind", list(masters.COPIES))
def test_writing_twice_gives_the_same_bytes(kind, tmp_path):
    folder = ROOT / masters.MASTERS
    first, second = (masters.write(kind, folder, tmp_path / name) for name in ("one", "two"))
    assert [path.name for path in first] == [path.name for path in MASTERS]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    for path in first:
        text = path.read_text(encoding="utf-8")
        assert text.endswith("}\n") and ("BEGIN SOLUTION" in text) == (kind == "instructor")
        assert ("your answer" in text) == (kind == "student")


def test_the_command_line(tmp_path, capsys):
    assert masters.main(["key", "--masters", str(ROOT / masters.MASTERS), "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{len(MASTERS)} notebooks in {tmp_path}\n"
    empty = tmp_path / "empty"
    assert masters.main(["student", "--masters", str(empty), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"masters: masters must be a folder with solved notebooks, got {str(empty)!r} without any\n"
    with pytest.raises(ValueError, match="kind must be one of student, key, instructor, got 'teacher'"):
        masters.write("teacher", tmp_path, tmp_path)
    shutil.copytree(ROOT / masters.MASTERS, tmp_path / "own")
    before = {path.name: path.read_bytes() for path in (tmp_path / "own").iterdir()}
    for kind in masters.COPIES:  # else the solutions would be gone
        assert masters.main([kind, "--masters", str(tmp_path / "own"), "--out", str(tmp_path / "one" / ".." / "own")]) == 2
        assert "out must be another folder than that of the masters" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "own").iterdir()} == before
    (tmp_path / "file").write_text("")
    assert masters.main(["key", "--masters", str(ROOT / masters.MASTERS), "--out", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("path", MASTERS, ids=lambda path: path.stem)
def test_the_notebook_of_the_course_is_its_master_s_student_copy(path):
    committed = nbformat.read(ROOT / "notebooks" / path.name, as_version=4)
    for cell in committed.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    assert committed == masters.student(nbformat.read(path, as_version=4))


@pytest.mark.parametrize("path", MASTERS, ids=lambda path: path.stem)
def test_nbgrader_takes_the_instructor_s_copy_and_clears_it(path):
    """As `nbgrader generate_assignment` does: validate, clear answers, clear hidden tests, validate."""
    pytest.importorskip("nbgrader")
    from nbgrader.nbgraderformat import MetadataValidator
    from nbgrader.preprocessors import CheckCellMetadata, ClearHiddenTests, ClearSolutions

    made = nbformat.reads(nbformat.writes(masters.instructor(nbformat.read(path, as_version=4))), as_version=4)
    MetadataValidator().validate_nb(made)
    names = [name for _, name, _ in masters.answers(nbformat.read(path, as_version=4))]
    for step in (CheckCellMetadata, ClearSolutions, ClearHiddenTests):
        made, _ = step().preprocess(made, {})
    MetadataValidator().validate_nb(made)
    text = json.dumps(made)
    assert "SOLUTION" not in text and "HIDDEN" not in text and "require(" not in text
    student = {c.metadata.nbgrader.grade_id: c for c in made.cells if c.metadata.get("nbgrader", {}).get("solution")}
    tests = [cell for cell in made.cells if cell.metadata.get("nbgrader", {}).get("grade")]
    assert list(student) == names and all("NotImplementedError" in cell.source for cell in student.values())
    assert [cell.metadata.nbgrader.points for cell in tests] == [find(name).points for name in names]
    assert all(re.fullmatch(r'check\("[^"]+", \w+\)', cell.source) and cell.metadata.nbgrader.locked for cell in tests)


def test_hidden_tests_run_the_hidden_inputs_and_name_the_mistake():
    names = {"check": checks.check, "best_of_n_density": lambda u, n: u**n}
    with pytest.raises(AssertionError, match="That is the CDF"):
        exec(TESTS, names)
    names["best_of_n_density"] = find("best-of-n-density").answer
    exec(TESTS, names)
    assert masters.HIDDEN_SEED != checks.VISIBLE


def test_the_stub_returns_none():
    names = {"check": lambda name, function: names.update(given=(name, function))}
    exec(STUDENT, names)
    name, function = names["given"]
    assert name == "best-of-n-density" and call(function, (0.5, 2)) is None
