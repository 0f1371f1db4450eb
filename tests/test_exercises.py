"""Every exercise of the course, whoever wrote it: right answers pass, wrong ones learn why, notebooks and catalogue agree."""

import csv
import importlib.util
import re
import warnings
from functools import cache
from pathlib import Path

import nbformat
import numpy as np
import pytest

from infalign_edu.classroom import masters
from infalign_edu.classroom.checks import VISIBLE, check, verdict
from infalign_edu.classroom.exercise import Exercise, Mistake, array, call, judge
from infalign_edu.classroom.exercises import catalogue

ROOT = Path(__file__).parents[1]
MASTERS = sorted((ROOT / masters.MASTERS).glob("[0-9]*.ipynb"))
SEEDS = (VISIBLE, masters.HIDDEN_SEED, 2026)


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "experiments" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


mutation = load("checker_mutants")
read = cache(lambda path: nbformat.read(path, as_version=4))
answered = cache(lambda: {answer.exercise.name: answer for answer in mutation.answers()})
every = pytest.mark.parametrize("exercise", catalogue(), ids=lambda exercise: exercise.name)


@cache
def right(exercise: Exercise, seed: int):
    """Cases of a seed and the right values."""
    cases = exercise.cases(seed)
    return cases, [call(exercise.answer, case) for case in cases]


def judged(exercise, values, seed=VISIBLE):
    """The verdict on given values; small classes of values are compared with every mistake, as in a notebook."""
    return judge(exercise, right(exercise, seed)[0], values)


@every
def test_the_right_answer_passes_on_visible_and_hidden_inputs(exercise):
    for seed in SEEDS:
        found = verdict(exercise, exercise.answer, seed)
        assert found.passed and found.tried == exercise.tries >= 3, found.message


@every
def test_every_mistake_is_told_by_its_own_message(exercise):
    assert len({mistake.says for mistake in exercise.mistakes}) == len(exercise.mistakes) >= 4
    for seed in SEEDS:
        cases, _ = right(exercise, seed)
        for mistake in exercise.mistakes:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                found = judge(exercise, cases, [call(mistake.answer, case) for case in cases])
            assert (found.passed, found.message) == (False, mistake.says), f"seed {seed}"


@every
def test_texts_are_there_and_differ(exercise):
    texts = [exercise.goal, *exercise.hints, *(mistake.says for mistake in exercise.mistakes)]
    assert len(set(texts)) == len(texts) and all(20 < len(text) < 400 and text[-1] in ".?!)" for text in texts)
    assert exercise.points == 2 and 3 <= exercise.minutes <= 30


@every
def test_no_answer_is_no_wrong_answer(exercise, capsys):
    check(exercise.name, lambda *_: None)
    assert f"{exercise.name}: to do. {exercise.goal}" in capsys.readouterr().out
    found = judged(exercise, [None] * exercise.tries)
    assert not found.passed and not found.answered


def touched(value, change):
    """A value with its first array (of a dict, list or tuple: its first numbers) changed."""
    if isinstance(value, dict):
        key = next(iter(value))
        return {**value, key: touched(value[key], change)}
    try:
        return change(array(value))
    except ValueError:
        return type(value)([touched(value[0], change), *value[1:]]) if isinstance(value, (list, tuple)) else "another"


def one_element(x):
    y = x.copy()
    y[(-1,) * x.ndim] += 1e-3
    return y


def one_nan(x):
    y = x.copy()
    y[(0,) * x.ndim] = np.nan
    return y


CHANGES = {
    "all a little larger": lambda x: x * (1 + 1e-3),
    "all a little more": lambda x: x + 1e-3,
    "noise": lambda x: x + 1e-3 * np.random.default_rng(0).uniform(0.1, 1, size=x.shape),
    "one element": one_element,
    "nan": one_nan,
    "infinite": lambda x: np.full_like(x, np.inf),
    "another shape": lambda x: np.stack([x, x]),
    "an axis more": lambda x: x[None],
    "text": lambda x: str(x),
    "twice": lambda x: 2 * x + 1,
}


@every
def test_a_right_answer_that_is_a_little_off_fails(exercise):
    for name, change in CHANGES.items():
        found = judged(exercise, [touched(value, change) for value in right(exercise, VISIBLE)[1]])
        assert not found.passed and found.answered, name


@every
def test_one_wrong_value_among_right_ones_fails_and_says_where(exercise):
    values = list(right(exercise, VISIBLE)[1])
    values[-1] = touched(values[-1], one_element)
    found = judged(exercise, values)
    assert not found.passed and f"Wrong on 1 of {exercise.tries} random inputs" in found.message


@every
def test_a_transposed_answer_fails(exercise):
    values = [touched(value, np.transpose) for value in right(exercise, VISIBLE)[1]]
    if any(np.ndim(array(v)) > 1 for v in values if not isinstance(v, (dict, str, tuple, list))):
        assert not judged(exercise, values).passed


@every
def test_an_answer_that_changes_its_input_fails(exercise):
    def spoiling(*arguments):
        value = exercise.answer(*arguments)
        for argument in arguments:
            if isinstance(argument, (list, dict)) and argument:
                argument.clear()
                return value
            if getattr(argument, "ndim", 0):
                argument[(0,) * argument.ndim] += 1
                return value
        pytest.skip("all its arguments are immutable")

    assert "changes its input in place" in verdict(exercise, spoiling).message


@every
def test_an_exception_is_named_and_never_raised(exercise):
    def broken(*_):
        raise ZeroDivisionError("as a learner's code may")

    found = verdict(exercise, broken)
    assert not found.passed and "it raised ZeroDivisionError: as a learner's code may" in found.message


@every
def test_the_key_passes_and_the_student_s_copy_returns_none(exercise, capsys):
    """The answer that the master notebook has, not the catalogue's own."""
    answer = answered()[exercise.name]
    assert f"### Exercise {int(exercise.notebook[:2])}." in "".join(c.source for c in notebook(exercise).cells)
    function = mutation.function_of(answer.source, answer.function)
    for seed in SEEDS:
        assert verdict(exercise, function, seed).passed
    cells = masters.student(notebook(exercise)).cells
    (student,) = [cell for cell in cells if cell.metadata.get("nbgrader", {}).get("grade_id") == exercise.name]
    assert "SOLUTION" not in student.source and masters.STUB in student.source and '"""' in student.source
    empty = mutation.function_of(student.source.rsplit("check(", 1)[0], answer.function)
    assert call(empty, exercise.cases(VISIBLE)[0]) is None
    capsys.readouterr()
    check(exercise.name, empty)
    assert capsys.readouterr().out.startswith(f"{exercise.name}: to do.")


def notebook(exercise):
    return read(ROOT / masters.MASTERS / f"{exercise.notebook}.ipynb")


@every
def test_its_heading_stands_before_its_cell(exercise):
    cells = notebook(exercise).cells
    (at,) = [i for i, cell in enumerate(cells) if cell.metadata.get("nbgrader", {}).get("grade_id") == exercise.name]
    lines = cells[at - 1].source.split("\n")
    (heading,) = [i for i, line in enumerate(lines) if line.startswith("### Exercise ")]
    assert re.fullmatch(rf"### Exercise {int(exercise.notebook[:2])}\.\d+: \S.*", lines[heading])
    assert lines[heading + 1] == f"*{exercise.heading}*" and len("".join(lines[heading + 2 :])) > 150
    assert cells[at].metadata.nbgrader == {
        "grade": False, "solution": True, "locked": False, "task": False, "schema_version": 3, "grade_id": exercise.name}
    solution = re.search(r"### BEGIN SOLUTION\n(.*?)\n *### END SOLUTION", cells[at].source, re.DOTALL)[1]
    assert 1 <= len([line for line in solution.split("\n") if line.strip()]) <= 15
    assert "infalign_edu" not in solution and not re.search(r"\b(ia|theory|plots)\.", solution)


@pytest.mark.parametrize("path", MASTERS, ids=lambda path: path.stem)
def test_a_notebook_has_three_exercises_or_more_numbered_and_in_the_catalogue(path):
    names = [name for _, name, _ in masters.answers(read(path))]
    assert len(names) >= 3 and set(names) == {e.name for e in catalogue() if e.notebook == path.stem}
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    numbers = re.findall(r"^### Exercise (\d+)\.(\d+): ", text, re.MULTILINE)
    assert numbers == [(str(int(path.stem[:2])), str(i + 1)) for i in range(len(names))]
    first = next(cell.source for cell in read(path).cells if cell.cell_type == "code")
    assert "from infalign_edu.classroom import check, hint" in first and 'hint("' in text


def test_the_course_has_twenty_exercises():
    assert len(catalogue()) >= 20 and {e.notebook for e in catalogue()} == {path.stem for path in MASTERS}


def test_the_mutation_report_names_every_exercise_and_no_survivor():
    with (ROOT / "data" / "runs" / "checker_mutants.csv").open(newline="") as handle:
        rows = {row["exercise"]: row for row in csv.DictReader(handle)}
    assert set(rows) == {exercise.name for exercise in catalogue()}
    for name, row in rows.items():
        made, killed, equivalent = (int(row[column]) for column in ("mutants", "killed", "equivalent"))
        assert int(row["survivors"]) == 0 and made == killed + equivalent and killed >= 10
        assert made == len(mutation.mutants(answered()[name].source)), f"{name}: run experiments/checker_mutants.py again"


@pytest.mark.parametrize("name", ["best-of-n-density", "kl-from-probabilities", "leave-one-out"])
def test_mutants_are_killed_now_too(name):
    row = mutation.trial(answered()[name])
    assert row["alive"] == [] and row["killed"] >= 15


@pytest.mark.slow
@every
def test_no_mutant_of_any_exercise_survives(exercise):
    assert mutation.trial(answered()[exercise.name])["alive"] == []


def test_a_mutant_that_a_weak_check_lets_pass_is_found():
    """The mutation test itself can fail: with one input only, at which several formulas agree."""
    weak = Exercise(
        "weak", "02", "", 1, 5, 2, lambda u, n: n * u ** (n - 1), lambda rng: (np.array([1.0]), int(rng.integers(2, 3))),
        tuple(Mistake(str(i), lambda u, n, i=i: u + i + 7) for i in range(4)), ("", "", ""))  # fmt: skip
    answer = mutation.Answer(weak, "f", "def f(u, n):\n    return n * u ** (n - 1)")
    with np.errstate(all="ignore"):
        passed = [m for m in mutation.mutants(answer.source) if mutation.passes(answer, m)]
        strong = mutation.Answer(answered()["best-of-n-density"].exercise, "f", answer.source)
        alive = {mutation.ast.unparse(m) for m in passed if not mutation.equivalent(strong, m)}
    assert "def f(u, n):\n    return n * u ** (n - 2)" in alive and "def f(u, n):\n    return n * u ** (n + 1)" in alive


def test_mutants_change_operators_constants_comparisons_names_and_arguments():
    made = {mutation.ast.unparse(m) for m in mutation.mutants("def f(a, b):\n    return np.log(a / b) * 0.5 + max(a) - (a < b)")}
    for expected in ("np.log(b / a) * 0.5", "np.log(a * b) * 0.5", "np.log(a) * 0.5", "np.log1p(a / b)", "* 1.0", "min(a)",
                     "a <= b", "a > b", "np.log(a / a)", "np.log(a / b) + max", "a / b * 0.5"):  # fmt: skip
        assert any(expected in source for source in made), expected
    assert len(made) > 20 and not any(source == "def f(a, b):\n    return np.log(a / b) * 0.5 + max(a) - (a < b)" for source in made)


def test_a_mutant_that_never_returns_is_stopped(monkeypatch):
    monkeypatch.setattr(mutation, "SECONDS", 0.2)
    answer = answered()["best-of-n-density"]
    endless = mutation.ast.parse(f"def {answer.function}(u, n):\n    while True:\n        pass")
    assert not mutation.passes(answer, endless)


def test_corners_come_first_and_inputs_repeat():
    exercise = answered()["best-of-n-density"].exercise
    first, again, other = exercise.cases(3), exercise.cases(3), exercise.cases(4)
    assert [n for _, n in first[:2]] == [1, 3] == [n for _, n in other[:2]]
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[2][0], other[2][0])
