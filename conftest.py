"""No network in any test, notebook kernel or other child process, and a line that says how long the notebooks took.

The guard is in tests/offline/sitecustomize.py. This file stands at the root so that `pytest notebooks` is held as well
as `pytest tests`.
"""

import importlib.util
import os
import tempfile
from collections import Counter
from pathlib import Path

import pytest

GUARD = Path(__file__).parent / "tests" / "offline" / "sitecustomize.py"
NOBODY = "192.0.2.1"  # reserved for documentation (RFC 5737): the address that tests of the guard itself try

MINUTES = 6  # that all notebooks together may take; printed, never asserted: machines differ

collect_ignore = [str(GUARD)]


def pytest_configure(config):
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(GUARD.parent), os.environ.get("PYTHONPATH")]))
    handle, os.environ["INFALIGN_OFFLINE"] = tempfile.mkstemp(prefix="refused-")
    os.close(handle)
    config.refused_log = Path(os.environ["INFALIGN_OFFLINE"])
    spec = importlib.util.spec_from_file_location("infalign_offline_guard", GUARD)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def refused(config):
    """Attempts that were ours, "host by program": neither the guard's tests nor JupyterLab asking for its news."""
    lines = [line.partition(" by ") for line in config.refused_log.read_text(encoding="utf-8").splitlines()]
    lab = ("/jupyter-lab", "/jupyterlab/__main__.py")
    return [host + by + who for host, by, who in lines if host != NOBODY and not who.split(" ")[0].endswith(lab)]


def pytest_sessionfinish(session):
    if refused(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def seconds(reports):
    """Seconds of every notebook under notebooks/, its kernel's start included."""
    found = Counter()
    for report in reports:
        file = Path(report.nodeid.split("::")[0])
        if file.suffix == ".ipynb" and file.parts[0] == "notebooks":
            found[file.stem] += report.duration
    return dict(sorted(found.items()))


def pytest_terminal_summary(terminalreporter, config):
    reports = [report for group in terminalreporter.stats.values() for report in group if hasattr(report, "duration")]
    if took := seconds(reports):
        terminalreporter.section(f"notebooks: {sum(took.values()):.0f} s of the {60 * MINUTES} they may take together")
        terminalreporter.write_line(", ".join(f"{name} {duration:.0f} s" for name, duration in took.items()))
    if lines := refused(config):
        terminalreporter.section("tried to reach another machine, and was refused", red=True)
        terminalreporter.write_line("\n".join(sorted(set(lines))))


def pytest_unconfigure(config):
    config.refused_log.unlink(missing_ok=True)


@pytest.fixture
def online(monkeypatch):
    """Lifts the guard for one test that fetches something by name, in this process and its children."""
    monkeypatch.delenv("INFALIGN_OFFLINE")
