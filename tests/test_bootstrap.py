"""The bootstrap cell, run as a notebook runs it: by a kernel of a fresh environment that lacks the course."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from infalign_edu.classroom.bootstrap import CELL

ROOT = Path(__file__).parents[1]
USE = """import infalign_edu as ia
from infalign_edu.lm.models import load
print(ia.__file__)
print(ia.theory.optimum("best-of-4", 0.1).certified, len(load("embedded").sample(["how do i clean my kettle ?"], 3, seed=0).responses))"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def fresh(folder, *, lend=lambda name: True, pip=False):
    """The Python of a new environment that sees packages of this one, but never infalign_edu."""
    site, lent = Path(sysconfig.get_path("purelib")), folder / "lent"
    lent.mkdir()
    for entry in site.iterdir():
        if "infalign" not in entry.name and entry.suffix != ".pth" and lend(entry.name):
            (lent / entry.name).symlink_to(entry)
    venv.create(folder / "env", with_pip=pip, symlinks=True)
    own = sysconfig.get_path("purelib", "venv", vars={"base": str(folder / "env")})
    Path(own, "lent.pth").write_text(f"{lent}\n")
    return folder / "env" / "bin" / "python"


def run(python, cwd, *cells):
    """Runs cells in a kernel of that Python; -> printed text, or the error as "name: message"."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    manager = AsyncKernelManager()
    manager._kernel_spec = KernelSpec(argv=[str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"])
    try:
        NotebookClient(book, km=manager, timeout=300, resources={"metadata": {"path": str(cwd)}}).execute()
    except CellExecutionError as error:
        return f"{error.ename}: {error.evalue}"
    return "".join(out["text"] for cell in book.cells for out in cell.outputs if out.get("name") == "stdout")


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fresh")
    return fresh(folder)


@pytest.fixture
def offline_pip(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "offline"))  # the guard alone, not a path to this tree
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("INFALIGN_EDU_SOURCE", raising=False)


def test_one_sentence_where_there_is_nothing_to_install(env, tmp_path, monkeypatch, offline_pip):
    said = run(env, tmp_path, CELL)
    assert said.startswith("SystemExit: infalign_edu is not installed here: run `make wheel`") and "\n" not in said
    assert "upload the file dist/infalign_edu-*.whl beside this notebook" in said and "which does not exist" not in said
    for name in ("infalign_edu", "infalign-edu==0.1.0", "/nowhere/infalign_edu-0.1.0-py3-none-any.whl"):
        monkeypatch.setenv("INFALIGN_EDU_SOURCE", name)  # never a name that pip would look up
        assert f"; it is {name!r}, which does not exist)" in run(env, tmp_path, CELL)


def test_a_wheel_that_pip_refuses_is_one_sentence_too(env, tmp_path, offline_pip):
    (tmp_path / "infalign_edu-0.1.0-py3-none-any.whl").write_text("half an upload")
    said = run(env, tmp_path, CELL)
    assert said.startswith("SystemExit: pip could not install /") and "ERROR: " in said and "\n" not in said


def test_from_nothing_to_a_sampled_model_with_the_wheel_beside_the_notebook(wheel, tmp_path, offline_pip):
    python, notebook = fresh(tmp_path), tmp_path / "notebook"
    (notebook / "infalign_edu").mkdir(parents=True)  # a mere folder of that name is not the package
    shutil.copy(wheel, notebook)
    first, second, *used = run(python, notebook, CELL, "print()", USE).splitlines()
    assert first == f"infalign_edu 0.1.0 is installed, from {notebook / wheel.name}" and second == ""
    assert Path(used[0]).is_relative_to(tmp_path / "env") and used[1] == "global 3"
    (notebook / wheel.name).unlink()
    again = run(python, notebook, CELL, "print('subprocess' in dir(), 'source' in dir())")
    assert again == "False False\n"  # the second time it does not even look for a wheel


def test_a_source_named_in_the_environment_goes_before_a_wheel_and_old_packages_ask_for_a_restart(
    wheel, tmp_path, monkeypatch, offline_pip
):
    python = fresh(tmp_path)
    (tmp_path / "infalign_edu-0.0.1-py3-none-any.whl").write_text("an old one")
    monkeypatch.setenv("INFALIGN_EDU_SOURCE", wheel.as_uri())
    said = run(python, tmp_path, "import numpy\nnumpy.__version__ = '1.0'", CELL)
    assert said == "SystemExit: numpy was updated: restart the kernel, then run the notebook from its first cell."
    assert run(python, tmp_path, CELL, "import infalign_edu as ia\nprint(ia.__version__)") == "0.1.0\n"


@pytest.mark.slow
def test_what_the_wheel_needs_comes_from_the_index(wheel, tmp_path, monkeypatch, online):
    """Every dependency installed for real, torch alone is lent: from some indices it brings gigabytes of CUDA."""
    fetched = ("numpy", "scipy", "matplotlib", "transformers", "safetensors", "tokenizers", "tqdm", "filelock", "pip")
    fetched += ("huggingface_hub", "contourpy", "fonttools", "kiwisolver", "pillow", "PIL", "cycler", "pyparsing")
    monkeypatch.setenv("INFALIGN_EDU_SOURCE", str(wheel))
    python = fresh(tmp_path, lend=lambda name: not name.startswith(fetched), pip=True)
    where = "import numpy, transformers\nprint(numpy.__file__)\nprint(transformers.__file__)"
    said = run(python, tmp_path, CELL, where, USE)
    if "No matching distribution found" in said or "Could not find a version" in said:
        pytest.skip("no package index within reach")
    _, *places, result = said.splitlines()
    assert len(places) == 3 and all(Path(place).is_relative_to(tmp_path / "env") for place in places) and result == "global 3"


def test_where_the_course_is_installed_the_cell_is_instant(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("it started a process"))
    found: dict = {}
    exec(CELL, found)  # noqa: S102
    assert set(found) - {"__builtins__"} == {"importlib", "spec"} and importlib.util.find_spec("infalign_edu")


def test_the_cell_is_short_enough_to_read_and_passes_the_linter():
    assert len(CELL.splitlines()) <= 35
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "-q", "--stdin-filename", "cell.py", "-"], input=CELL, capture_output=True, text=True, cwd=ROOT
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
