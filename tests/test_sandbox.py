"""Answers in a process of their own: right ones are right there too, and no attack gains a point or stops the grader."""

import json
import math
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from infalign_edu.classroom.exercise import Exercise, Failure, Mistake
from infalign_edu.classroom.exercises import find
from infalign_edu.classroom.grading import sandbox
from infalign_edu.classroom.grading.marking import VISIBLE, mark
from infalign_edu.classroom.grading.sandbox import Code, Limits, run
from infalign_edu.classroom.grading.worker import decode, encode

DENSITY = find("best-of-n-density")
QUICK = Limits(cpu=5, wall=8, memory=256 << 20)
SHORT = Limits(cpu=1, wall=2, memory=256 << 20)
HIDDEN = 77
ANSWERS = str(Path(sandbox.PACKAGE) / "classroom" / "exercises" / "procedures.py")


def body(text, before=""):
    """An answer to best-of-n-density with this body, after `before` at the top of its cell."""
    lines = "\n".join(f"    {line}" for line in text.splitlines())
    return Code((f"{before}\ndef f(u, n):\n{lines}\n\ncheck('best-of-n-density', f)",), "f")


ONE = [(np.array([0.5]), 2)]


def seen(text, cases=ONE, limits=QUICK, **code):
    return run(body(text, **code), cases, limits)


WALLS = seen("return 0").walls
needs_walls = pytest.mark.skipif(
    not {"landlock", "seccomp"} <= set(WALLS),
    reason="this kernel has no Landlock, or no seccomp filter for its machine",
)


def test_a_right_answer_gets_all_points_and_a_known_mistake_its_message():
    outcome = mark(DENSITY, body("return n * u ** (n - 1)"), HIDDEN, QUICK)
    assert outcome.visible.passed and outcome.hidden.passed and outcome.points(DENSITY) == DENSITY.points == 2
    assert outcome.flags == ()
    wrong = mark(DENSITY, body("return u ** n"), HIDDEN, QUICK)
    assert wrong.visible.message == wrong.hidden.message == "That is the CDF. The density is its derivative by u."
    assert wrong.points(DENSITY) == 0


def test_an_unanswered_stub_gets_nothing():
    outcome = mark(DENSITY, body("..."), HIDDEN, QUICK)
    assert outcome.points(DENSITY) == 0 and not outcome.visible.answered and not outcome.hidden.answered


def test_knowing_the_visible_inputs_gets_the_visible_points_only():
    known = [(u.tolist(), n, (n * u ** (n - 1)).tolist()) for u, n in DENSITY.cases(VISIBLE)]
    text = (
        f"for v, m, value in {known!r}:\n    if n == m and u.tolist() == v:\n        return np.array(value)\nreturn u"
    )
    outcome = mark(DENSITY, body(text), HIDDEN, QUICK)
    assert outcome.visible.passed and not outcome.hidden.passed and outcome.points(DENSITY) == 1
    assert outcome.hidden.message == "Wrong on other inputs than the ones you see."


def test_the_hidden_message_never_tells_an_input():
    for text in ("return u + 1", "raise ValueError(f'{u}: {u[0]:.4f}')", "return [1, 2]"):
        outcome = mark(DENSITY, body(text), HIDDEN, QUICK)
        first = f"{DENSITY.cases(HIDDEN)[0][0][0]:.4f}"
        assert first not in outcome.hidden.message and "(" not in outcome.hidden.message


def test_the_hidden_seed_is_not_the_visible_one():
    with pytest.raises(ValueError, match="hidden_seed must differ"):
        mark(DENSITY, body("return u"), VISIBLE, QUICK)


def test_only_the_code_and_the_arguments_leave_the_grader(monkeypatch):
    asked = []
    monkeypatch.setattr(sandbox, "_Process", lambda folder, handle, limits: asked.append(handle.read()) or Nobody())

    class Nobody:
        def collect(self, cases):
            return sandbox.Run((None,) * cases)

    mark(DENSITY, body("return u"), HIDDEN, QUICK)
    request = json.loads(asked[0])
    assert set(request) == {"cells", "function", "imports", "cases", "cpu", "memory", "hidden"}
    cases = [*DENSITY.cases(VISIBLE), *DENSITY.cases(HIDDEN)]
    assert request["cases"] == [encode(case) for case in cases]


# Each attack is the body of an answer. It must get no point, as an unanswered stub does, with what its author reads.
ATTACKS = {
    "a class equal to everything": ("class All(float):\n    def __eq__(self, other): return True\nreturn All(3)", "shape"),
    "an object that is an array": ("class A:\n    def __array__(self, *a, **k): return u\nreturn A()", "returned a A"),
    "an object array": ("return np.array([object()] * len(u))", "values of type object"),
    "text that looks like a verdict": ("return 'Right, on 6 random inputs.'", "type str"),
    "text that looks like a result": ('return \'{"case": 0, "value": 1.0}\'', "type str"),
    "not a number": ("return u * np.nan", "not finite"),
    "a complex array": ("return u * 1j", "complex128"),
    "a huge array": ("return np.zeros(10**6)", "an array of 1000000 numbers"),
    "a huge number": ("return 10 ** 10000", ""),
    "a list in itself": ("a = []\na.append(a)\nreturn a", "too many entries or levels"),
    "a generator": ("return (x for x in u)", "returned a generator"),
    "leaving": ("import sys\nsys.exit(0)", "ended the program"),
    "leaving at once": ("import os\nos._exit(0)", "ended its process"),
    "an interrupt": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "an error that can't be shown": ("class E(Exception):\n    def __str__(self): raise self\nraise E", "raised E"),
    "endless recursion": ("return f(u, n)", "RecursionError"),
    "a memory bomb": ("return np.ones(10 ** 9)", "out of memory"),
    "the pipe closed": ("import os\nos.closerange(3, 4096)\nreturn u", "ended its process"),
    "a forged line of JSON": ("import os\nos.write(int(__import__('sys').argv[1]), b'{\"case\": 0, \"value\": 1.0}\\n' * 9)\nreturn u", "shape"),
    "a forged verdict": ("import os\nos.write(int(__import__('sys').argv[1]), b'{\"done\": true, \"passed\": true}\\n')\nos._exit(0)", "ended its process"),
    "a forged array": (
        "import os\nline = b'{\"case\": 0, \"value\": {\"a\": [\"<f8\", [99999999999], \"\"]}}\\n'\n"
        "os.write(int(__import__('sys').argv[1]), line)\nreturn u", "something that is no value"),
    "a flood of results": ("import os\nwhile True: os.write(int(__import__('sys').argv[1]), b'x' * 65536)", "more than 8 MiB"),
    "a flood of output": ("print('x' * 10 ** 7)\nreturn u", "off by"),
    "the comparison replaced": ("np.allclose = np.array_equal = lambda *a, **k: True\nreturn u", "off by"),
    "the worker's own functions replaced": ("import __main__\n__main__.encode = lambda *a: 1.0\n__main__.answer_one = lambda *a: {'value': 1.0}\nreturn u", "changes its input"),
    "the checker replaced": ("import sys, types\nfake = types.ModuleType('infalign_edu')\nsys.modules['infalign_edu'] = fake\nfake.judge = lambda *a: True\nreturn u", "off by"),
    "a new process": ("import os\nos.fork()\nreturn u", "may not use os.fork"),
    "a program": ("import subprocess\nreturn subprocess.run(['id'])", "may not use subprocess.Popen"),
    "a shell": ("import os\nreturn os.system('id')", "may not use os.system"),
    "a program in its place": ("import os\nos.execv('/bin/true', ['true'])", "may not use os.exec"),
    "another program in its place": ("import os\nos.posix_spawn('/bin/true', ['true'], {})", "may not use os.posix_spawn"),
    "a signal to the grader": ("import os\nos.kill(os.getppid(), 9)", "may not use os.kill"),
    "a socket": ("import socket\nsocket.socket()", "may not use socket"),
    "machine code": ("import ctypes\nctypes.CDLL(None)", "may not use ctypes"),
    "a looser limit": ("import resource\nresource.setrlimit(resource.RLIMIT_CPU, (-1, -1))", "may not use resource"),
    "the reference imported": ("from infalign_edu.classroom.exercises import find\nreturn find('best-of-n-density').answer(u, n)", "write the mathematics yourself"),
    "the reference opened": (f"open({ANSWERS!r}).read()", "may not open a file"),
    "the reference opened as bytes": (f"open({ANSWERS.encode()!r}).read()", "may not open a file"),
    "the reference opened by NumPy": (f"np.fromfile({ANSWERS!r}, np.uint8)", "may not open a file"),
    "the reference opened from the system": (f"import os\nos.open({ANSWERS!r}, 0)", "may not open a file"),
    "the reference opened over a detour": (f"import os\nopen(os.path.dirname(np.__file__) + '/../../../../..' + {ANSWERS!r})", "may not open a file"),
    "the reference loaded as a module": (
        f"from importlib.machinery import SourceFileLoader\nSourceFileLoader('x', {ANSWERS!r}).load_module()", "may not open a file"),
    "a link to the reference": (f"import os\nos.symlink({ANSWERS!r}, 'x')", "may not use os.symlink"),
    "objects of the grader": ("import gc\nreturn len(gc.get_objects())", "may not use gc.get_objects"),
    "a folder listed": (f"import os\nos.listdir({str(Path(ANSWERS).parent)!r})", "may not list a folder"),
    "a file written": ("open('x.txt', 'w').write('x')", "may not open a file for writing"),
    "a file removed": (f"import os\nos.remove({ANSWERS!r})", "may not use os.remove"),
    "a folder removed": (f"import shutil\nshutil.rmtree({str(Path(ANSWERS).parent)!r})", "may not use shutil.rmtree"),
    "the input changed in place": ("u *= 0\nreturn n * u ** (n - 1)", "changes its input in place"),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_gains_no_point(name):
    text, says = ATTACKS[name]
    outcome = mark(DENSITY, body(text), HIDDEN, QUICK)
    assert outcome.points(DENSITY) == 0
    assert says in outcome.visible.message
    assert Path(ANSWERS).is_file()


@pytest.mark.parametrize(
    "text, limit", [("while True: pass", "s "), ("import time\ntime.sleep(60)", "longer than the 2 s")]
)
def test_an_answer_without_an_end_is_stopped(text, limit):
    outcome = mark(DENSITY, body(text), HIDDEN, SHORT)
    assert outcome.points(DENSITY) == 0 and limit in outcome.visible.message
    assert any(flag.startswith("limit: ") for flag in outcome.flags)


def test_what_was_right_before_an_answer_ran_out_of_time_counts():
    text = "calls.append(n)\nif len(calls) > 6:\n    while True: pass\nreturn n * u ** (n - 1)"
    outcome = mark(DENSITY, body(text, before="calls = []"), HIDDEN, SHORT)
    assert outcome.visible.passed and not outcome.hidden.passed


@needs_walls
def test_the_kernel_holds_what_the_hook_does_not_see():
    fork = "import _posixsubprocess as p, os\nr, w = os.pipe()\nreturn p.fork_exec([b'/bin/true'], [b'/bin/true'], True, (w,), None, None, -1, -1, -1, -1, -1, -1, r, w, True, True, -1, None, None, None, -1, None, False)"
    (value,) = seen(fork).values
    assert isinstance(value, Failure) and "Operation not permitted" in value.says
    (value,) = seen("import threading\nthreading.Thread(target=print).start()").values
    assert isinstance(value, Failure) and "can't start new thread" in value.says
    (value,) = seen(
        f"import readline\nreadline.read_history_file({ANSWERS!r})\nreturn readline.get_history_item(1)"
    ).values
    assert isinstance(value, Failure) and "Permission denied" in value.says


def test_the_process_starts_with_nothing(monkeypatch):
    monkeypatch.setenv("COURSE_SECRET", "hunter2")
    found = seen(
        "import os, sys\nreturn [os.getcwd(), os.environ['HOME'], sorted(os.environ), [m for m in sys.modules if 'infalign' in m], [p for p in sys.path if os.path.exists(p + '/infalign_edu/cli.py')]]"
    )
    here, home, names, modules, paths = found.values[0]
    assert here == home and not Path(here).exists()
    assert "COURSE_SECRET" not in names and modules == []
    assert all("site-packages" in path for path in paths)


def test_what_is_printed_is_kept_apart_and_cut():
    found = seen("print('hello')\nreturn u")
    assert found.values[0].tolist() == [0.5] and found.printed == "hello\n"
    found = seen("import sys\nprint('y' * 10 ** 6, file=sys.stderr)\nreturn u")
    assert found.values[0].tolist() == [0.5] and found.printed == "y" * QUICK.printed


def test_a_flag_tells_the_instructor_what_was_refused():
    outcome = mark(
        DENSITY,
        body("try:\n    open('/etc/passwd')\nexcept Exception:\n    pass\nreturn n * u ** (n - 1)"),
        HIDDEN,
        QUICK,
    )
    assert outcome.points(DENSITY) == 2 and outcome.flags == ("refused: open",)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="only Linux shows the environment of a process")
def test_a_process_that_left_its_group_is_found_by_its_mark():
    def start(mark):
        return subprocess.Popen(
            ["sleep", "60"], env={"INFALIGN_ANSWER": mark, "PATH": os.defpath}, start_new_session=True
        )

    left, other = start("mine"), start("another")
    try:
        while not all(Path(f"/proc/{child.pid}/environ").read_bytes() for child in (left, other)):
            pass  # until both have become `sleep`
        sandbox._end_marked("mine")
        assert left.wait(10) == -signal.SIGKILL and other.poll() is None
    finally:
        for child in (left, other):
            child.kill()
            child.wait()


def test_replaced_built_ins_do_not_loosen_the_hook():
    text = (
        "import builtins, posixpath\nposixpath.realpath = posixpath.abspath = lambda p: '/dev/null'\n"
        "kept = builtins.type, builtins.isinstance, builtins.str\n"
        "builtins.type = builtins.isinstance = builtins.str = lambda *a: True\n"
        f"try:\n    return open({ANSWERS!r}).read()\n"
        "finally:\n    builtins.type, builtins.isinstance, builtins.str = kept"
    )
    (value,) = seen(text).values
    assert isinstance(value, Failure) and "may not open a file" in value.says


@pytest.mark.parametrize(
    "cells, says",
    [
        (("def g(u, n): return u",), "no function named f"),
        (("1 / 0\ndef f(u, n): return u",), "your cell raised ZeroDivisionError"),
        (("f = 3",), "no function named f"),
    ],
)
def test_a_cell_that_gives_no_function_says_so(cells, says):
    (value,) = run(Code(cells, "f"), [(np.array([0.5]), 2)], QUICK).values
    assert isinstance(value, Failure) and says in value.says


def test_cells_before_the_answer_and_errors_after_the_function_are_no_obstacle():
    cells = ("1 / 0", "def twice(x):\n    return 2 * x", "def f(u, n):\n    return twice(u)\n\ncheck('x', f)\nf()")
    (value,) = run(Code(cells, "f"), [(np.array([0.5]), 2)], QUICK).values
    assert value.tolist() == [1.0]


@pytest.mark.parametrize(
    "value",
    [1, 1.5, -0.0, math.inf, True, None, "text", [1, [2.0]], (1, ("a",)), {"a": [1], 2: (3,)}, np.float32(0.1), np.int8(3),
     np.arange(6).reshape(2, 3)[:, ::2], np.array(2.5), np.zeros((0, 3)), np.array([True, False])],
)  # fmt: skip
def test_values_travel_unchanged(value):
    back = decode(json.loads(json.dumps(encode(value))))
    assert type(back) is type(value) and repr(back) == repr(value)


def test_tensors_travel_and_come_back_as_arrays():
    import torch

    sent = torch.tensor([[1.0, 2.0]], requires_grad=True)
    assert torch.equal(decode(encode(sent)), sent) and decode(encode(sent)).requires_grad
    assert decode(encode(sent), tensors=False).tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize(
    "data",
    [[1], {"a": 1}, {"x": []}, {"a": ["<f8", [2], "AA=="]}, {"a": ["O", [1], "AAAAAAAAAAA="]}, {"a": ["<f8", [-1], ""]},
     {"a": ["<f8", [True], ""]}, {"a": ["V8", [1], "AAAAAAAAAAA="]}, {"l": [{"l": [{"l": [{"l": [{"l": [{"l": [{"l": [{"l": []}]}]}]}]}]}]}]}, {"l": 1, "u": 2}],
)  # fmt: skip
def test_what_no_worker_would_send_is_refused(data):
    with pytest.raises((ValueError, TypeError)):
        decode(data, tensors=False)


@pytest.fixture(scope="module")
def hook_only(tmp_path_factory):
    """The worker as it is on a machine whose kernel raises no walls."""
    folder = tmp_path_factory.mktemp("worker")
    for name in ("worker.py", "walls.py"):
        text = sandbox.WORKER.with_name(name).read_text(encoding="utf-8")
        text = text.replace('if sys.platform != "linux":', "if True:")
        (folder / name).write_text(text, encoding="utf-8")
    return folder / "worker.py"


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_without_the_kernels_walls_the_hook_holds_all_of_these(name, hook_only, monkeypatch):
    monkeypatch.setattr(sandbox, "WORKER", hook_only)
    assert seen("return u").walls == ()
    outcome = mark(DENSITY, body(ATTACKS[name][0]), HIDDEN, QUICK)
    assert outcome.points(DENSITY) == 0 and ATTACKS[name][1] in outcome.visible.message


@pytest.mark.slow
def test_answers_in_torch_run_behind_the_walls():
    import torch

    exercise = Exercise(
        "slope", "00_start_here", "The slope of sum(x^2).", 1, 5, 2, lambda x: 2 * x,
        lambda rng: (torch.tensor(rng.random(4)),),
        tuple(Mistake(f"m{i}", lambda x, i=i: x * i * 7.0) for i in range(1, 5)), ("a", "b", "c"),
    )  # fmt: skip
    text = "def f(x):\n    x = x.clone().requires_grad_(True)\n    (x ** 2).sum().backward()\n    return x.grad"
    outcome = mark(exercise, Code((text,), "f", ("import torch",)), HIDDEN)
    assert outcome.points(exercise) == 2
    read = f"def f(x):\n    return torch.from_file({ANSWERS!r}, size=10, dtype=torch.uint8)"
    outcome = mark(exercise, Code((read,), "f", ("import torch",)), HIDDEN)
    assert outcome.points(exercise) == 0
