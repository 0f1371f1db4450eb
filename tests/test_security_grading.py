"""More hostile answers and submissions than `test_sandbox` and `test_grading` try: each costs its author alone."""

import json
import os

import nbformat
import pytest
from test_sandbox import ANSWERS, DENSITY, HIDDEN, body, needs_walls

from infalign_edu.classroom.exercise import judge
from infalign_edu.classroom.grading import grader, submissions
from infalign_edu.classroom.grading.marking import LONGEST, mark
from infalign_edu.classroom.grading.sandbox import FLAGS, Limits
from infalign_edu.classroom.grading.source import Cell, form, imports, library, python, untouched

QUICK = Limits(cpu=2, wall=4, memory=256 << 20)
SHORT = Limits(cpu=1, wall=1.5, memory=256 << 20)
READ = "may not open a file"
WRONG = "Wrong on 6 of 6 random inputs"

# The body of an answer, and what its author reads. The first ones end at once, ENDLESS ones at a limit.
ATTACKS = {
    "a process of multiprocessing": ("import multiprocessing as m\np = m.Process(target=print)\np.start()\nreturn u", "may not use os.fork"),
    "a terminal's process": ("import os\nos.forkpty()\nreturn u", "may not use os.forkpty"),
    "more files than it has": ("import os\nf = [os.pipe() for _ in range(1000)]\nreturn u", "Too many open files"),
    "a file in memory": ("import os\nos.write(os.memfd_create('x'), b'x' * 10**6)\nreturn u", ""),
    "a reducing object": ("class R:\n    def __reduce__(self): import os; return os.system, ('id',)\nreturn R()", "returned a R"),
    "a reducing list": ("class R(list):\n    def __reduce_ex__(self, p): import os; return os.system, ('id',)\nreturn R([1.0])", "shape"),
    "a pickle of its own": ("import pickle\nreturn pickle.loads(b\"cos\\nsystem\\n(S'id'\\ntR.\")", "may not use os.system"),
    "an array that lies": (
        "class A(np.ndarray):\n    def __eq__(self, o): return np.array(True)\n    def __array__(self, *a, **k): return n * u ** (n - 1)\n"
        "    def astype(self, *a, **k): return n * u ** (n - 1)\n    shape = property(lambda s: u.shape)\nreturn np.array([7.0]).view(A)", WRONG),
    "an array that leaves": ("class A(np.ndarray):\n    def __array_finalize__(self, o): raise SystemExit\nreturn u.view(A)", "ended the program"),
    "a number above all": ("class T(float):\n    __array_priority__ = 10**9\n    def __array_ufunc__(self, *a, **k): return True\nreturn T(1)", WRONG),
    "text that is equal to all": ("class S(str):\n    def __str__(self): return 'Right'\n    def __eq__(self, o): return True\n    __hash__ = str.__hash__\nreturn S('x')", "type str"),
    "an integer of another value": ("class I(int):\n    def __int__(self): return 5\n    def __eq__(self, o): return True\n    __hash__ = int.__hash__\nreturn I(3)", WRONG),
    "a class that lies": ("class T:\n    __class__ = float\nreturn T()", "numbers, text, or lists"),
    "a list of negative length": ("class L(list):\n    def __len__(self): return -1\nreturn L([1])", "should return >= 0"),
    "a dict of odd items": ("class D(dict):\n    def items(self): return [(1, 2), (1,)]\nreturn D(a=1)", "not enough values"),
    "a stop signal to itself": ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\nreturn u", "may not use os.kill"),
    "a signal to its thread": ("import signal, threading\nsignal.pthread_kill(threading.get_ident(), 19)\nreturn u", "may not use signal"),
    "a signal to its group": ("import os\nos.killpg(0, 9)\nreturn u", "may not use os.killpg"),
    "an abort": ("import os\nos.abort()", "ended its process"),
    "an alarm": ("import signal\nsignal.setitimer(signal.ITIMER_REAL, 0.05)\nwhile True: pass", "ended its process"),
    "something at the exit": ("import atexit, os, sys\natexit.register(os.write, int(sys.argv[1]), b'{\"case\": 0, \"value\": 1.0}')\nreturn u", "off by"),
    "its own memory as a file": ("return open('/proc/self/mem', 'rb').read(1)[0]", READ),
    "the grader's environment": ("import os\nreturn open(f'/proc/{os.getppid()}/environ', 'rb').read()[0]", READ),
    "its open files": ("import os\nreturn os.listdir('/proc/self/fd')", "may not list a folder"),
    "the reference by NumPy": (f"return np.load({ANSWERS!r}, allow_pickle=True)", READ),
    "the reference as a map": (f"return np.memmap({ANSWERS!r})", READ),
    "the reference below Python": (f"import io\nreturn io.FileIO({ANSWERS!r}).read()", READ),
    "the reference as code": (f"import io\nreturn io.open_code({ANSWERS!r}).read().decode()", READ),
    "the reference run": (f"import runpy\nreturn runpy.run_path({ANSWERS!r})['EXERCISES']", READ),
    "the reference as an archive": (f"import zipimport\nzipimport.zipimporter({ANSWERS!r})", "can't open Zip file"),
    "the reference line by line": (f"import linecache\nreturn linecache.getline({ANSWERS!r}, 1)", "type str"),
    "the reference beside a folder": (f"import os\nreturn os.open('procedures.py', 0, dir_fd=os.open(os.path.dirname({ANSWERS!r}), 0))", READ),
    "names of other homes": ("import glob\nreturn glob.glob('/root/*') + glob.glob('/home/*')", "shape"),
    "a page of the web": ("import urllib.request\nreturn urllib.request.urlopen('http://192.0.2.1').read()", "may not use urllib"),
    "a name of the web": ("import socket\nreturn socket.getaddrinfo('example.org', 80)", "may not use socket"),
    "a socket below Python": ("import _socket\nreturn _socket.socket(2, 1, 0).fileno()", "may not use socket"),
    "a hook of its own": (f"import sys\nsys.addaudithook(lambda *a: None)\nreturn open({ANSWERS!r}).read()", READ),
    "the walls' list emptied": (f"import sys\nfor m in list(sys.modules.values()):\n    if hasattr(m, 'REFUSED'): m.REFUSED = ()\nopen({ANSWERS!r}).read()", READ),
    "the sender found on the stack": ("import sys\nsys._getframe(2).f_locals['send']({'case': 0, 'value': 1.0})\nreturn u", "shape"),
    "another folder": ("import os\nos.chdir('/')", "may not use os.chdir"),
}  # fmt: skip
ENDLESS = {
    "forks without an end": ("import os\nwhile True:\n    try: os.fork()\n    except BaseException: pass", ""),
    "a list without an end": ("class L(list):\n    def __iter__(self):\n        while True: yield 1.0\nreturn L([1])", ""),
    "output without an end": ("import sys\nwhile True: sys.stdout.write('x' * 65536)", ""),
    "errors without an end": ("import os\nwhile True: os.write(2, b'x' * 65536)", ""),
    "a limit that is ignored": ("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", ""),
    "one endless instruction": ("return 9 ** 9 ** 9", ""),
    "an endless search": ("import re\nreturn re.match('(a+)+$', 'a' * 40 + 'b')", ""),
    "memory by and by": ("x = []\nwhile True: x.append(bytearray(10 ** 7))", "out of memory"),
    "memory doubled": ("x = 'a'\nwhile True: x *= 2", "out of memory"),
}  # fmt: skip
FAST = ("a process of multiprocessing", "a reducing list", "an array that lies", "an alarm", "the reference as a map",
        "the reference beside a folder", "a socket below Python", "the walls' list emptied")  # fmt: skip
SLOW = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in ATTACKS]


@pytest.mark.parametrize("name", SLOW)
def test_an_attack_gains_no_point(name):
    text, says = ATTACKS[name]
    outcome = mark(DENSITY, body(text), HIDDEN, QUICK)
    assert outcome.points(DENSITY) == 0 and not outcome.visible.passed and not outcome.hidden.passed
    assert says in outcome.visible.message
    assert os.path.isfile(ANSWERS)  # noqa: PTH113


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDLESS)
def test_what_has_no_end_is_ended(name):
    text, says = ENDLESS[name]
    outcome = mark(DENSITY, body(text), HIDDEN, SHORT)
    assert outcome.points(DENSITY) == 0 and says in outcome.visible.message
    assert any(flag.startswith("limit: ") for flag in outcome.flags)


@needs_walls
def test_threads_and_signals_that_the_hook_does_not_see_are_the_kernels():
    threads = "import threading\nfor _ in range(100):\n    threading.Thread(target=print).start()"
    for text, says in ((threads, "can't start new thread"), ("import signal\nsignal.raise_signal(19)", "not permitted"),
                       ("import os\nos.setsid()", "not permitted")):  # fmt: skip
        assert says in mark(DENSITY, body(text), HIDDEN, QUICK).visible.message


def test_a_process_that_lies_about_refusals_fills_no_table():
    text = (
        "import os, sys\nfor i in range(3000):\n"
        "    os.write(int(sys.argv[1]), b'{\"refused\": \"%d' % i + b'z' * 300 + b'\"}\\n')\nreturn n * u ** (n - 1)"
    )
    outcome = mark(DENSITY, body(text), HIDDEN, QUICK)
    assert len(outcome.flags) <= FLAGS + 1 and len("".join(outcome.flags)) < 5000


def test_a_value_with_endless_names_makes_no_endless_message():
    value = {f"{'k' * 30}{i}": 0 for i in range(100_000)}
    cases = DENSITY.cases(HIDDEN)
    message = judge(DENSITY, cases, [value] * len(cases)).message
    assert len(message) < 600 and "and 99992 more" in message
    outcome = mark(DENSITY, body("return {'k' * 3000 + str(i): 0 for i in range(9)}"), HIDDEN, QUICK)
    assert len(outcome.visible.message) <= LONGEST and "k" * 1000 in outcome.visible.message


# ---- texts that the grader itself parses, in its own process

DEEP = {
    "minuses": "-" * 20000 + "1", "brackets": "(" * 20000 + ")" * 20000, "lambdas": "lambda:" * 2800 + "1",
    "attributes": "a" + ".b" * 9000, "sums": "1" + "+1" * 9000, "nots": "not " * 4900 + "1", "calls": "f" + "()" * 9000,
    "entries": "a" + "[0]" * 6000, "ifs": "1 if 1 else " * 1500 + "1", "elifs": "if 1: pass\n" + "elif 1: pass\n" * 1500,
    "surrogates": "'\ud800'",
}  # fmt: skip
WIDE = {
    "decorators": "@a\n" * 2000 + "def f(): pass", "comparisons": "a" + "<a" * 2000, "alternatives": "a" + " or a" * 2000,
    "strings": "'a' " * 4900, "a power": "9 ** 9 ** 9 ** 9", "lines": "x = 1\n" * 1000,
    "functions": "".join(" " * i + "def f():\n" for i in range(70)) + " " * 70 + "pass",
}  # fmt: skip


@pytest.mark.parametrize("name", [*DEEP, *WIDE])
def test_a_text_of_any_shape_is_read_or_refused(name):
    text = {**DEEP, **WIDE}[name]
    found, cell = python(text), Cell("", "", text)
    assert isinstance(found, str) is (name in DEEP)
    assert isinstance(cell.code, str) and cell.bound <= {"x", "f"} and cell.used <= {"a", "f"}
    assert form(text)[1] > 0 and not untouched("def g(): return 1", "g")
    assert imports([cell], [cell]) == library([cell], [cell]) == ()


def test_a_long_cell_is_not_parsed(monkeypatch):
    monkeypatch.setattr("infalign_edu.classroom.grading.source.python", lambda text: pytest.fail("was parsed"))
    assert Cell("", "", "x = 1\n" * 4000).bound == set()


# ---- files

CELL = {"cell_type": "code", "source": "x = 1"}
FILES = {
    "a million cells": ('{"cells":[' + ",".join(["{}"] * 1_000_000) + "]}", "has 1000000 cells, at most 2000 are read"),
    "much code": (json.dumps({"cells": [CELL | {"source": "x = 1\n" * 4000}] * 60}), "more than 1,000,000 characters of code"),
    "deep lists": ("[" * 1_000_000, "not valid JSON"),
    "deep metadata": ('{"cells":[{"cell_type":"code","source":"x","metadata":' + '{"a":' * 50_000 + "1" + "}" * 50_000 + "}]}", "not valid JSON"),
    "a number as text": (json.dumps({"cells": [CELL | {"source": 5}]}), "a cell has no text"),
    "no end of digits": ('{"cells":[{"cell_type":"code","source":"x","id":' + "9" * 5000 + "}]}", "not valid JSON"),
    "a script": ("<script>document.title='owned'</script>", "not valid JSON"),
    "a pickle": ("cos\nsystem\n(S'id'\ntR.", "not valid JSON"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_any_content_is_read_or_refused(name, tmp_path):
    text, says = FILES[name]
    (tmp_path / "a.ipynb").write_text(text)
    found = submissions.read(tmp_path / "a.ipynb")
    assert says in found.problem and found.cells == ()


def test_names_of_files_are_shown_without_what_moves_a_cursor(tmp_path):
    for name in (b"\xff\xfe", b"a\x1b]0;owned\x07\nb"):
        (tmp_path / os.fsdecode(name + b".ipynb")).write_text("{}")
    files = submissions.files(tmp_path)
    assert {file.student for file in files} == {"??", "a?]0;owned??b"} and all(file.problem for file in files)
    for file in files:
        assert grader._refused(file, file.problem)["message"].isprintable()


@pytest.mark.slow
def test_no_name_of_a_file_keeps_the_others_from_their_points(tmp_path):
    pytest.importorskip("nbgrader", reason="nbgrader, an optional extra, is not installed")
    from test_grading import MASTERS, RIGHT, STEM, filled

    masters, folder = tmp_path / "masters", tmp_path / "in"
    for place in (masters, folder / "good", folder / "link", folder / "pipe"):
        place.mkdir(parents=True)
    nbformat.write(MASTERS[STEM], masters / f"{STEM}.ipynb")
    nbformat.write(filled(RIGHT), folder / "good" / f"{STEM}.ipynb")
    (folder / "link" / f"{STEM}.ipynb").symlink_to(folder / "good" / f"{STEM}.ipynb")
    (folder / "etc").symlink_to("/etc")
    os.mkfifo(folder / "pipe" / f"{STEM}.ipynb")
    for name in (b"\xff\xfe", b"a\x1b]0;owned\x07\nb", b"=cmd|x", b"<script>"):
        (folder / os.fsdecode(name + b".ipynb")).write_text("{}")
    said: list[str] = []
    found = grader.grade(folder, tmp_path / "out", 4711, masters, QUICK, jobs=1, say=said.append)
    assert found.points("good") == 4 and len(said) == 8 and all(line.isprintable() for line in said)
    rows = {row["student"]: row["message"] for row in found.rows if row["student"] != "good"}
    assert set(rows) == {"link", "etc", "pipe", "??", "a?]0;owned??b", "=cmd|x", "<script>"}
    assert "links are refused" in rows["link"] and "links are refused" in rows["etc"] and "no file" in rows["pipe"]
    table = (tmp_path / "out" / "grades.csv").read_text()
    assert "\x1b" not in table and "\n'=cmd|x," in table and len(table) < 3000
    assert sorted(path.name for path in (tmp_path / "out" / "feedback").iterdir()) == ["good"]
