"""A class is graded: students' copies -> answers -> points in the tables and in nbgrader's book, and pages of feedback.

nbgrader takes a second or two for a notebook, so a few students go through it, and many through all the rest.
"""

import csv
import json
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import nbformat
import pytest

from infalign_edu.classroom import masters as copies
from infalign_edu.classroom.exercises import find
from infalign_edu.classroom.grading import gradebook, grader, marking, source, submissions
from infalign_edu.classroom.grading.__main__ import main
from infalign_edu.classroom.grading.sandbox import Limits

pytest.importorskip("nbgrader", reason="nbgrader, an optional extra, is not installed")

SEED = 4711
LIMITS = Limits(cpu=1, wall=3, memory=256 << 20)
STEM, OTHER = "02_inference_time_procedures", "06_toy_rl_meets_theory"
DENSITY = 'def density(u, n):\n    """At u."""\n    ### BEGIN SOLUTION\n    return n * u ** (n - 1)\n    ### END SOLUTION\n\n\ncheck("best-of-n-density", density)'
SORTED = (
    "def shown(rewards, k, n):\n    ### BEGIN SOLUTION\n    M = rewards.shape[1]\n"
    "    weight = [math.comb(i, n - k) * math.comb(M - 1 - i, k - 1) / math.comb(M, n) for i in range(M)]\n"
    '    return np.sort(rewards, axis=1) @ np.array(weight)\n    ### END SOLUTION\n\n\ncheck("kth-best-estimate", shown)'
)
RLOO = 'def advantages(rewards):\n    ### BEGIN SOLUTION\n    others = (rewards.sum(1, keepdims=True) - rewards) / (rewards.shape[1] - 1)\n    return rewards - others\n    ### END SOLUTION\n\n\ncheck("rloo-advantages", advantages)'
IMPORTS = "%matplotlib inline\nimport math\n\nimport numpy as np\n\nimport infalign_edu as ia\nfrom infalign_edu import theory\nfrom infalign_edu.classroom import check, hint"


def master(*answers):
    cells = [nbformat.v4.new_markdown_cell("# A notebook"), nbformat.v4.new_code_cell(IMPORTS)]
    for text in answers:
        name = re.search(r'check\("([^"]+)"', text)[1]
        marks = {
            "grade": False,
            "solution": True,
            "locked": False,
            "task": False,
            "schema_version": 3,
            "grade_id": name,
        }
        cells.append(nbformat.v4.new_markdown_cell(f"### Exercise {name}\nWith $u$."))
        cells.append(nbformat.v4.new_code_cell(text, metadata={"nbgrader": marks}))
    for i, cell in enumerate(cells):
        cell["id"] = f"cell-{i:02d}"
    return nbformat.v4.new_notebook(cells=cells)


MASTERS = {STEM: master(DENSITY, SORTED), OTHER: master(RLOO)}
RIGHT = {
    "best-of-n-density": "return n * u ** (n - 1)",
    "kth-best-estimate": textwrap.dedent(SORTED.split("BEGIN SOLUTION\n")[1].split("    ### END")[0]).strip(),
}


def filled(answers=(), stem=STEM):
    """A student's copy with these answers in place of the stubs."""
    notebook = copies.hosted(copies.student(MASTERS[stem]))
    for name, text in dict(answers).items():
        cell = answer_cell(notebook, name)
        cell.source = cell.source.replace(copies.STUB, text.replace("\n", "\n    "))
    return notebook


def answer_cell(notebook, name):
    return next(cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("grade_id") == name)


def changed(answers, change):
    notebook = filled(answers)
    change(notebook)
    return notebook


def insert(text, at=2):
    return lambda notebook: notebook.cells.insert(at, nbformat.v4.new_code_cell(text))


def rewrite(name, old, new):
    def change(notebook):
        cell = answer_cell(notebook, name)
        assert old in cell.source
        cell.source = cell.source.replace(old, new)

    return change


def drop(name):
    return lambda notebook: notebook.cells.remove(answer_cell(notebook, name))


def renumber(notebook):
    answer_cell(notebook, "kth-best-estimate").metadata.nbgrader["grade_id"] = "best-of-n-density-2"


def double(notebook):
    first = nbformat.from_dict(json.loads(json.dumps(answer_cell(notebook, "best-of-n-density"))))
    first["id"] = "again"
    first.source = "def density(u, n):\n    return u"
    notebook.cells.insert(2, first)


def tampered(notebook):
    """Locked tests that give points away, more points, and outputs that try to run."""
    marks = {"grade": True, "solution": False, "locked": True, "task": False, "schema_version": 3, "points": 100}
    cell = nbformat.v4.new_code_cell("100", metadata={"nbgrader": {**marks, "grade_id": "test-best-of-n-density"}})
    notebook.cells.append(cell)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [
                nbformat.v4.new_output(
                    "execute_result", data={"text/plain": "2.0", "text/html": "<script>alert(5)</script>"}
                )
            ]
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell("<script>alert(6)</script>"))
    notebook.metadata["title"] = "<script>alert(7)</script>"


PATCH = "np.sort = np.exp = np.allclose = lambda *a, **k: 0.0"
TABLE = "for v, m in {known!r}:\n    if n == m and u.tolist() == v:\n        return n * u ** (n - 1)\nreturn u"
KNOWN = [(u.tolist(), n) for u, n in find("best-of-n-density").cases(marking.VISIBLE)]

# student -> notebook, points for the density and for the sorted estimate, words of the first message that is not "Right"
CLASS = {
    "right": (filled(RIGHT), 2, 2, ""),
    "blank": (filled(), 0, 0, "Not answered yet."),
    "half": (filled({"best-of-n-density": "return u ** n"}), 0, 0, "That is the CDF."),
    "memorised": (filled({"best-of-n-density": TABLE.format(known=KNOWN)}), 1, 0, "Wrong on other inputs"),
    "loop": (filled({**RIGHT, "best-of-n-density": "while True: pass"}), 0, 2, "it "),
    "crash": (filled({**RIGHT, "best-of-n-density": "import os; os._exit(1)"}), 0, 2, "it ended its process"),
    "bomb": (filled({**RIGHT, "best-of-n-density": "return np.ones(10 ** 9)"}), 0, 2, "it ran out of memory"),
    "forger": (filled({"best-of-n-density": "print('{\"passed\": true}')\nreturn 'Right, on 6 random inputs.'"}), 0, 0, "type str"),
    "patcher": (filled({**RIGHT, "best-of-n-density": f"{PATCH}\nreturn u"}), 0, 2, "off by"),
    "patched": (changed(RIGHT, insert(f"check = hint = lambda *a: None\n{PATCH}")), 2, 2, ""),
    "tamperer": (changed({}, tampered), 0, 0, "Not answered yet."),
    "borrower": (filled({"best-of-n-density": "return ia.BestOfN(n).pdf(u)"}), 0, 0, "write the mathematics yourself"),
    "importer": (filled({"best-of-n-density": "from infalign_edu import BestOfN\nreturn BestOfN(n).pdf(u)"}), 0, 0, "write the mathematics yourself"),
    "leaner": (filled({"best-of-n-density": "return grid"}), 0, 0, "NameError: name 'grid' is not defined"),
    "deleted": (changed(RIGHT, drop("best-of-n-density")), 0, 2, "The answer cell is missing"),
    "renamed": (changed(RIGHT, rewrite("best-of-n-density", "def density", "def mine")), 0, 2, "no function named density"),
    "unparsed": (changed(RIGHT, rewrite("best-of-n-density", "return n", "return return n")), 0, 2, "not valid Python: line 3"),
    "renumbered": (changed(RIGHT, renumber), 2, 2, ""),
    "doubled": (changed(RIGHT, double), 2, 2, ""),
    "reordered": (changed(RIGHT, lambda notebook: notebook.cells.reverse()), 2, 2, ""),
    "helped": (changed({**RIGHT, "best-of-n-density": "return power(u, n)"}, insert("def power(x, k):\n    return k * np.power(x, k - 1)")), 2, 2, ""),
}  # fmt: skip
BROKEN = {
    "empty": (b"", "The file is empty."),
    "no json": (b"{'cells': []}", "not valid JSON"),
    "list": (b"[]", "it has no list of cells"),
    "latin": ('{"cells": ["\xe9"]}'.encode("latin-1"), "not UTF-8"),
    "numbers": (b'{"cells": [{"cell_type": "code", "source": 3}]}', "a cell has no text"),
    "deep": (b"[" * 100_000, "not valid JSON"),
    "old": (b'{"worksheets": [], "nbformat": 3}', "it has no list of cells"),
}


def hand_in(folder, student, notebook, stem=STEM):
    path = folder / student / f"{stem}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(notebook if isinstance(notebook, bytes) else nbformat.writes(notebook).encode())
    return path


@pytest.fixture(scope="module")
def masters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masters")
    for stem, notebook in MASTERS.items():
        (folder / f"{stem}.ipynb").write_text(nbformat.writes(notebook), encoding="utf-8")
    return folder


def everybody(folder, masters):
    for student, (notebook, *_) in CLASS.items():
        hand_in(folder, student, notebook)
    for student, (raw, _) in BROKEN.items():
        hand_in(folder, student, raw)
    (folder / "leaver" / "link.ipynb").parent.mkdir()
    (folder / "leaver" / "link.ipynb").symlink_to(masters / f"{STEM}.ipynb")
    (folder / "linked").symlink_to(masters)
    hand_in(folder, "a..b", filled(RIGHT))
    hand_in(folder, ".hidden", filled(RIGHT))
    hand_in(folder, "by assignment/" + OTHER, filled({"rloo-advantages": "return rewards"}, OTHER), OTHER)
    hand_in(folder, "stranger", nbformat.v4.new_notebook(), "holiday")
    (folder / "flat.ipynb").write_text(nbformat.writes(filled(RIGHT)), encoding="utf-8")


def without_nbgrader(patch):
    """Leaves out nbgrader's part of grading."""
    patch.setattr(gradebook.Course, "open", lambda course: None)
    patch.setattr(gradebook.Course, "store", lambda course, student, stem, notebook, rows: "<html></html>")
    patch.setattr(gradebook.Course, "export", lambda course, path: None)


@pytest.fixture(scope="module")
def everyone(masters, tmp_path_factory):
    """The whole class, without nbgrader's part."""
    folder, out = tmp_path_factory.mktemp("class"), tmp_path_factory.mktemp("out")
    everybody(folder, masters)
    with pytest.MonkeyPatch.context() as patch:
        without_nbgrader(patch)
        return grader.grade(folder, out, SEED, masters, LIMITS), out


@pytest.fixture
def alone(monkeypatch):
    without_nbgrader(monkeypatch)


FEW = ("half", "memorised", "tamperer", "deleted")


@pytest.fixture(scope="module")
def graded(masters, tmp_path_factory):
    """A few students and a broken file, with nbgrader's part, in nbgrader's own layout."""
    folder, out = tmp_path_factory.mktemp("course"), tmp_path_factory.mktemp("out")
    for student in FEW:
        hand_in(folder, f"submitted/{student}/{STEM}", CLASS[student][0])
    hand_in(folder, f"submitted/list/{STEM}", BROKEN["list"][0])
    said = []
    return grader.grade(folder, out, SEED, masters, LIMITS, say=said.append), out, said, folder


def table(path):
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


@pytest.mark.parametrize("student", CLASS)
def test_every_submission_gets_its_points_and_its_message(everyone, student):
    _, first, second, says = CLASS[student]
    rows = {row["exercise"]: row for row in table(everyone[1] / "grades.csv") if row["student"] == student}
    assert [float(rows[name]["points"]) for name in RIGHT] == [first, second]
    assert {row["max"] for row in rows.values()} == {"2"} and {row["notebook"] for row in rows.values()} == {STEM}
    for name, points in zip(RIGHT, (first, second), strict=True):
        assert rows[name]["message"].startswith("Right, on") == (points == 2 or (student, points) == ("memorised", 1))
    assert says in rows["best-of-n-density"]["message"]
    assert (grader.OWN_CELLS in rows["best-of-n-density"]["message"]) == (student == "leaner")


@pytest.mark.parametrize("student", BROKEN)
def test_what_is_no_notebook_is_scored_with_a_message(everyone, student):
    rows = [row for row in everyone[0].rows if row["student"] == student]
    assert len(rows) == 2 and sum(row["points"] for row in rows) == 0
    assert all(BROKEN[student][1] in row["message"] for row in rows)


def test_links_and_strange_names_are_refused_and_other_layouts_are_read(everyone):
    grades, out = everyone
    messages = {row["student"]: row["message"] for row in grades.rows if row["notebook"] == ""}
    assert "links are refused" in messages["leaver"] and "links are refused" in messages["linked"]
    assert "must be letters" in messages["a..b"] and "none of the course's notebooks" in messages["stranger"]
    assert not {"a..b", ".hidden"} & {path.name for path in (out / "feedback").iterdir()}
    assert grades.points("flat") == 4
    (other,) = [row for row in grades.rows if row["student"] == "by assignment"]
    assert other["notebook"] == OTHER and other["points"] == 0


def test_the_tables_agree_with_nbgraders_book(graded):
    grades, out, said, _ = graded
    totals = {row["student"]: row for row in table(out / "totals.csv")}
    assert totals["deleted"] == {"student": "deleted", "points": "2.0", "max": "6", "notebooks": "1"}
    book = {(row["student_id"], row["assignment"]): float(row["score"]) for row in table(out / "nbgrader.csv")}
    for student in FEW:
        assert float(totals[student]["points"]) == CLASS[student][1] + CLASS[student][2]
        assert book[student, STEM] == float(totals[student]["points"]) == grades.points(student)
    assert f"deleted  {STEM}  2 of 4" in said and f"half  {STEM}  0 of 4" in said


def test_feedback_tells_the_learner_why_and_runs_nothing(graded):
    out = graded[1]
    page = (out / "feedback" / "half" / f"{STEM}.html").read_text(encoding="utf-8")
    assert "(Score: 0.0 / 4.0)" in page and "Exercise best-of-n-density" in page
    assert "Visible tests: That is the CDF. The density is its derivative by u." in page
    page = (out / "feedback" / "memorised" / f"{STEM}.html").read_text(encoding="utf-8")
    assert "(Score: 1.0 / 4.0)" in page and "Hidden tests: Wrong on other inputs than the ones you see." in page
    for path in (out / "feedback").glob("*/*.html"):
        text = path.read_text(encoding="utf-8")
        assert "<script" not in text.lower() and "alert(" not in text and 'http-equiv="Content-Security-Policy"' in text
        assert "seed=" not in text and "require(" not in text and "hidden tests: the same function" in text
    assert {path.parent.name for path in (out / "feedback").glob("*/*.html")} == {*FEW, "list"}
    assert BROKEN["list"][1] in (out / "feedback" / "list" / f"{STEM}.html").read_text(encoding="utf-8")


def test_flags_tell_the_instructor_what_to_look_at(everyone):
    rows = {(row["student"], row["exercise"]): row["flags"] for row in table(everyone[1] / "grades.csv")}
    assert rows["borrower", "best-of-n-density"] == "uses infalign_edu: ia"
    assert rows["importer", "best-of-n-density"] == "uses infalign_edu: BestOfN; refused: import"
    assert rows["bomb", "best-of-n-density"] == "limit: 256 MiB of memory"
    assert rows["renumbered", "kth-best-estimate"] == "the exercise's mark was changed or removed"
    assert rows["doubled", "best-of-n-density"].startswith("2 cells with this exercise's mark")
    assert rows["right", "kth-best-estimate"] == ""  # the same as many others', and as the key: nothing to tell


def test_the_same_submission_is_not_run_again_and_a_changed_one_is(graded, masters, monkeypatch):
    grades, out, _, folder = graded
    ran = []
    monkeypatch.setattr(marking, "mark", lambda *arguments, **_: ran.append(arguments[0].name))
    again = grader.grade(folder, out, None, masters, LIMITS)
    assert ran == [] and again.hidden_seed == SEED and again.rows == grades.rows
    monkeypatch.undo()
    path = hand_in(folder, f"submitted/half/{STEM}", filled({"best-of-n-density": RIGHT["best-of-n-density"]}))
    assert grader.grade(folder, out, None, masters, LIMITS).points("half") == 2
    assert "(Score: 2.0 / 4.0)" in (out / "feedback" / "half" / f"{STEM}.html").read_text(encoding="utf-8")
    path.write_text(nbformat.writes(CLASS["half"][0]), encoding="utf-8")


def test_an_interrupted_run_goes_on_where_it_stopped(masters, tmp_path, monkeypatch, alone):
    for student in ("a", "b", "c"):
        hand_in(tmp_path / "class", student, filled({"rloo-advantages": "return rewards"}, OTHER), OTHER)
    real, ran = marking.mark, []

    def stopping(*arguments, **options):
        ran.append(arguments[0].name)
        if len(ran) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(marking, "mark", stopping)
    with pytest.raises(KeyboardInterrupt):
        grader.grade(tmp_path / "class", tmp_path / "out", None, masters, LIMITS)
    assert {row["student"] for row in table(tmp_path / "out" / "grades.csv")} == {"a"}
    seed = json.loads((tmp_path / "out" / "grading.json").read_text())["hidden_seed"]
    grades = grader.grade(tmp_path / "class", tmp_path / "out", None, masters, LIMITS)
    assert grades.hidden_seed == seed and len(ran) == 4 and {row["student"] for row in grades.rows} == {"a", "b", "c"}


def test_a_grader_that_fails_on_one_file_goes_on_to_the_next(masters, tmp_path, monkeypatch, alone):
    for student in ("a", "b"):
        hand_in(tmp_path / "class", student, filled({}, OTHER), OTHER)
    real = grader.grade_one
    monkeypatch.setattr(grader, "grade_one", lambda *a: real(*a) if a[1].student == "b" else 1 / 0)
    grades = grader.grade(tmp_path / "class", tmp_path / "out", 5, masters, LIMITS)
    first, second = grades.rows
    assert "could not grade this file (ZeroDivisionError" in first["message"] and first["flags"] == ["not graded"]
    assert second["student"] == "b" and second["message"] == "Not answered yet."


def test_the_same_long_answer_is_flagged_whatever_its_names(masters, tmp_path, alone):
    long = "total = np.zeros(rewards.shape)\nfor i in range(rewards.shape[1]):\n    total[:, i] = rewards[:, i] - np.delete(rewards, i, axis=1).mean(axis=1)\nreturn total"
    other = long.replace("total", "mine").replace("return", "# my own\nreturn")
    for student, text in (("ann", long), ("ben", other), ("cas", "return rewards - 2"), ("dee", "return rewards - 2")):
        hand_in(tmp_path / "class", student, filled({"rloo-advantages": text}, OTHER), OTHER)
    rows = grader.grade(tmp_path / "class", tmp_path / "out", 5, masters, LIMITS).rows
    flags = {row["student"]: row["flags"] for row in rows}
    assert flags == {"ann": ["the same answer as ben"], "ben": ["the same answer as ann"], "cas": [], "dee": []}
    assert {row["student"]: row["points"] for row in rows} == {"ann": 2.0, "ben": 2.0, "cas": 0.0, "dee": 0.0}


@pytest.mark.parametrize(
    "options, says",
    [
        ((), "submissions must hold notebooks"),
        (("--hidden-seed", "1"), "hidden_seed must be a whole number from 0 other than 1, got 1"),
        (("--hidden-seed", "-3"), "hidden_seed must be"),
        (("--masters", "nowhere"), "masters must be a folder with solved notebooks"),
        (("--jobs", "0"), "jobs must be at least 1, got 0"),
    ],
)
def test_the_command_says_in_one_line_why_it_can_not_begin(masters, tmp_path, capsys, options, says):
    (tmp_path / "class").mkdir()
    if options:
        hand_in(tmp_path / "class", "a", filled())
    given = [str(tmp_path / "class"), "--out", str(tmp_path / "out"), *options]
    assert main(given if "--masters" in options else [*given, "--masters", str(masters)]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


def test_tables_inside_the_submissions_are_refused(masters, tmp_path):
    hand_in(tmp_path, "a", filled())
    with pytest.raises(ValueError, match="out must lie outside"):
        grader.grade(tmp_path, tmp_path / "out", None, masters)


def test_one_folder_is_for_one_grading_at_a_time(masters, tmp_path, alone):
    import filelock

    hand_in(tmp_path / "class", "a", filled())
    (tmp_path / "out").mkdir()
    with filelock.FileLock(tmp_path / "out" / ".lock"), pytest.raises(ValueError, match="no other grading runs"):
        grader.grade(tmp_path / "class", tmp_path / "out", 5, masters)
    with pytest.raises(ValueError, match=r"without any of \* \? \[ \]"):
        grader.grade(tmp_path / "class", tmp_path / "out[1]", 5, masters)


def test_a_changed_checker_grades_again(masters, tmp_path, monkeypatch, alone):
    hand_in(tmp_path / "class", "a", filled({"rloo-advantages": "return rewards"}, OTHER), OTHER)
    ran = []
    real = marking.mark
    monkeypatch.setattr(marking, "mark", lambda *a, **k: ran.append(a[2]) or real(*a, **k))
    for seed in (5, 5, 6):
        grader.grade(tmp_path / "class", tmp_path / "out", seed, masters, LIMITS)
    assert ran == [5, 6]
    made = gradebook.Course.__init__

    def changed_checks(course, *arguments):
        made(course, *arguments)
        course.checks = "changed"

    monkeypatch.setattr(gradebook.Course, "__init__", changed_checks)
    grader.grade(tmp_path / "class", tmp_path / "out", 6, masters, LIMITS)
    assert ran == [5, 6, 6]


def test_without_nbgrader_the_command_names_the_line_that_installs_it(masters, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "nbgrader.apps", None)
    hand_in(tmp_path / "class", "a", filled())
    assert main([str(tmp_path / "class"), "--out", str(tmp_path / "out"), "--masters", str(masters)]) == 2
    assert capsys.readouterr().err == "grading: grading needs nbgrader: python -m pip install 'infalign-edu[grading]'\n"


def test_a_name_that_the_terminal_does_not_know_stops_no_grading(masters, tmp_path, monkeypatch):
    """As on a terminal that knows ASCII only; every other student would have gone without points."""
    for student in ("müller", "zoe"):
        hand_in(tmp_path / "class", student, filled())
    with (tmp_path / "told").open("w", encoding="ascii") as told:
        monkeypatch.setattr(sys, "stdout", told)
        assert main([str(tmp_path / "class"), "--out", str(tmp_path / "out"), "--masters", str(masters)]) == 0
    assert r"m\xfcller  02_inference_time_procedures" in (tmp_path / "told").read_text("ascii")
    with (tmp_path / "out" / "totals.csv").open(encoding="utf-8") as totals:
        assert [row["student"] for row in csv.DictReader(totals)] == ["müller", "zoe"]


def test_no_cell_of_a_table_is_a_formula(tmp_path):
    grader._csv(tmp_path / "t.csv", ("a", "b"), [["=1+1", -2], ["@x", "-y"], ["plain", "a=b"]])
    assert (tmp_path / "t.csv").read_text() == "a,b\n'=1+1,-2\n'@x,'-y\nplain,a=b\n"


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(submissions, "LARGEST", 1 << 20)
    (tmp_path / "a.ipynb").write_bytes(b" " * (3 << 20))
    assert submissions.read(tmp_path / "a.ipynb").problem == "The file has 3 MB; at most 1 are read."


@pytest.mark.parametrize(
    "text", ["-" * 19_999 + "1", "(" * 5000, "x" + ".a" * 9000, "not " * 4000 + "1", "lambda:" * 2500 + "1", "x = \x00"]
)
def test_text_that_breaks_parsers_is_only_a_message(text):
    assert isinstance(source.python(text), str)


def test_imports_are_taken_only_where_used_and_only_of_ordinary_libraries():
    given = [
        source.Cell(
            "",
            "",
            "import os, math\nimport numpy as np\nfrom scipy import special\nimport subprocess\nimport infalign_edu as ia",
        )
    ]
    chain = [source.Cell("", "", "def f(u):\n    import scipy.stats\n    return np.exp(u) + os.getpid() + ia.x")]
    assert source.imports(given, chain) == ("import numpy as np",)
    assert source.preload(chain) == ("__import__('scipy.stats')",)
    assert source.library(given, chain) == ("ia",)


@pytest.mark.slow
def test_the_courses_own_keys_get_every_point_and_its_stubs_none(tmp_path):
    for path in sorted(Path("notebooks/key").glob("[0-9]*.ipynb")):
        solved = nbformat.read(path, as_version=4)
        hand_in(tmp_path / "class", "key", copies.key(solved), path.stem)
        hand_in(tmp_path / "class", "stub", copies.hosted(copies.student(solved)), path.stem)
    grades = grader.grade(tmp_path / "class", tmp_path / "out")
    assert grades.points("key") == sum(row["max"] for row in grades.rows if row["student"] == "key") >= 40
    assert grades.points("stub") == 0
    assert {row["message"] for row in grades.rows if row["student"] == "stub"} == {"Not answered yet."}
    assert [row["flags"] for row in grades.rows if row["flags"]] == []


def test_make_clean_keeps_the_grades(tmp_path):
    shutil.copy(Path(__file__).parents[1] / "Makefile", tmp_path)
    for folder in ("build/grades", "build/student", "dist", "runs"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "file").write_text("x")
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("file")}
    assert left == {"build/grades/file", "runs/file"}
