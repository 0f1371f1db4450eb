"""The guard of tests/offline: it refuses, it lets loopback through, and it is on where notebooks run."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "tests" / "offline" / "kernels_are_held.ipynb"
NBVAL = ("-p", "nbval.plugin", "--nbval-lax", "--nbval-current-env")
NOBODY = ("192.0.2.1", 80)  # reserved for documentation


def pytest_run(*arguments, cwd=ROOT):
    """A session of its own that inherits nothing of this one's guard, and no plugin that it does not name."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "INFALIGN_OFFLINE")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, arguments)]
    environment = kept | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_kernels_of_nbval_are_held_by_the_conftest_and_by_nothing_else():
    done = pytest_run(*NBVAL, BOOK)
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout
    bare = pytest_run(*NBVAL, "--noconftest", BOOK)
    assert bare.returncode == 1 and "1 failed, 1 passed" in bare.stdout, bare.stdout


def test_the_tests_themselves_are_held():
    with socket.socket() as caller:
        caller.settimeout(0.2)
        for attempt in (caller.connect, caller.connect_ex, lambda to: socket.create_connection(to, timeout=0.2)):
            with pytest.raises(OSError, match=r"^tests run without a network: \w+ to 192.0.2.1 refused$"):
                attempt(NOBODY)


def test_a_child_is_held_whichever_library_it_uses():
    code = "import urllib.request; urllib.request.urlopen('http://192.0.2.1/', timeout=0.2)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "tests run without a network: getaddrinfo to 192.0.2.1 refused" in done.stderr


def test_the_machine_may_talk_to_itself(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(("localhost", server.getsockname()[1])):
        assert server.accept()[1][0] == "127.0.0.1"
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(tmp_path / "s"))
        server.listen()
        client.connect(str(tmp_path / "s"))


@pytest.mark.parametrize("name, here", [
    ("", True), ("localhost", True), ("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("0.0.0.0", True), ("::", True),
    ("127.0.0.1.example.org", False), ("localhost.example.org", False), ("10.0.0.1", False), ("192.168.0.1", False),
    ("8.8.8.8", False), ("fe80::1%eth0", False), ("example.org", False), ("2001:db8::1", False), ("1", False),
])  # fmt: skip
def test_what_counts_as_this_machine(name, here):
    found: dict = {"__name__": "guard"}
    exec(BOOK.with_name("sitecustomize.py").read_text(), found)  # noqa: S102
    assert found["local"](name) is here
    assert found["host"]("connect", (None, (name, 80))) == found["host"]("getaddrinfo", (name.encode(), 80)) == name


def test_an_attempt_whose_error_is_swallowed_fails_the_session(tmp_path):
    shutil.copytree(BOOK.parent, tmp_path / "tests" / "offline")
    shutil.copy(ROOT / "conftest.py", tmp_path)
    test = "import contextlib, socket\ndef test_quiet():\n    with contextlib.suppress(OSError):\n        socket.create_connection(('HOST', 1), 0.2)\n"
    for address, code in (("203.0.113.7", 1), ("192.0.2.1", 0), ("127.0.0.1", 0)):
        (tmp_path / "test_quiet.py").write_text(test.replace("HOST", address))
        done = pytest_run("test_quiet.py", cwd=tmp_path)
        assert done.returncode == code and ("203.0.113.7 by" in done.stdout) == (code == 1), done.stdout


def test_news_that_jupyterlab_asks_for_is_refused_but_does_not_fail_the_session(tmp_path):
    found: dict = {"__file__": str(ROOT / "conftest.py"), "__name__": "conftest"}
    exec((ROOT / "conftest.py").read_text(), found)  # noqa: S102
    log = tmp_path / "log"
    log.write_text("a.org by /x/bin/jupyter-lab --no-browser\n192.0.2.1 by t.py\nb.org by /x/ipykernel_launcher.py -f\n"
                   "c.org by /y/jupyterlab/__main__.py --x\nd.org by t.py /x/jupyter-lab\n")  # fmt: skip
    kept = ["b.org by /x/ipykernel_launcher.py -f", "d.org by t.py /x/jupyter-lab"]
    assert found["refused"](type("Config", (), {"refused_log": log})) == kept


def test_one_test_may_ask_for_the_network(online):
    assert socket.getaddrinfo("192.0.2.1", 80)  # a number needs no look-up, so nothing is sent
    assert "INFALIGN_OFFLINE" not in os.environ


def test_the_session_says_how_long_each_notebook_took():
    found: dict = {"__file__": str(ROOT / "conftest.py"), "__name__": "conftest"}
    exec((ROOT / "conftest.py").read_text(), found)  # noqa: S102
    nodes = [("notebooks/b.ipynb::Cell 0", 1.5), ("notebooks/a.ipynb::Cell 0", 1.0), ("notebooks/a.ipynb::Cell 0", 0.25)]
    nodes += [("tests/test_a.py::test_b", 9.0), ("tests/offline/kernels_are_held.ipynb::Cell 1", 9.0)]
    reports = [pytest.TestReport(name, None, {}, "passed", None, "call", duration=taken) for name, taken in nodes]
    assert found["seconds"](reports) == {"a": 1.25, "b": 1.5}
