"""`check-env` on bad machines, each played to one check, and on this one."""

import hashlib
import importlib.metadata as metadata
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from infalign_edu import cli, environment, machine
from infalign_edu.environment import Check
from infalign_edu.lm import embedded, models

ROOT = Path(__file__).parents[1]
MEND = f"{sys.executable} -m ipykernel install --sys-prefix"


def missing(name):
    raise metadata.PackageNotFoundError(name)


@pytest.mark.parametrize("line, needed, installed, said", [
    ("jupyterlab>=4.4", True, missing, "FAIL jupyterlab is missing: pip install -r requirements.txt"),
    ("torch>=2.11", True, lambda name: "2.2.0+cpu", "FAIL torch 2.2.0+cpu is outside >=2.11: pip install -r requirements.txt"),
    ("torch>=2.11", True, lambda name: "2.12.0rc1", "OK   torch 2.12.0rc1"),
    ("gguf>=0.17", False, missing, "--   gguf is missing, wanted for .gguf models only: pip install 'gguf>=0.17'"),
    ("gguf>=0.17", False, lambda name: "0.9", "--   gguf 0.9 is outside >=0.17: pip install 'gguf>=0.17'"),
    ("voila", False, missing, "--   voila is missing, wanted for make app only: pip install voila"),
    ("voila", False, lambda name: "0.5", "OK   voila 0.5"),
])  # fmt: skip
def test_a_package_against_its_range(line, needed, installed, said):
    assert str(environment.package(line, needed, installed)) == said


def test_the_fix_where_there_is_no_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "CHECKOUT", tmp_path)
    assert environment.package("numpy>=1.26", True, missing).fix == "pip install 'numpy>=1.26'"


def test_no_package_of_pyproject_is_lost_and_the_course_needs_the_lab():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(f"{line}; extra == '{name}'" for name, group in extras.items() for line in group)]
    found = environment.requirements(lines, list(extras))
    assert [line for line, needed in found if needed] == [*project["dependencies"], *extras["lab"]]
    assert {line for line, needed in found if not needed} >= set(extras["gguf"]) and len(dict(found)) == len(found)


def test_ranges_come_from_the_installed_metadata(monkeypatch):
    monkeypatch.setattr(metadata, "requires", lambda name: ["numpy>=99", "torch<1", "jupyterlab>=4; extra == 'lab'"])
    rows = {check.name: str(check) for check in environment.packages()}
    release = metadata.version("numpy")
    assert rows["numpy"] == f"FAIL numpy {release} is outside >=99: pip install -r requirements.txt"
    assert rows["torch"].startswith("FAIL torch") and rows["jupyterlab"] == f"OK   jupyterlab {metadata.version('jupyterlab')}"
    assert list(rows) == ["Python", "numpy", "torch", "jupyterlab", *environment.USES]


def test_a_python_outside_the_range_and_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(sys, "version", "3.9.2 (main)")
    fix = "make the environment again with a Python in that range"
    assert str(next(environment.packages())) == f"FAIL Python 3.9.2 is outside >=3.11: {fix}"
    monkeypatch.setattr(metadata, "metadata", missing)
    told = f"FAIL infalign-edu is not installed for {sys.executable}: pip install -r requirements.txt && pip install --no-deps -e ."
    assert [str(check) for check in environment.packages()] == [told]


PINNED = "# tested\n-r other.txt\na==1\nb==2\nc_d==3 ; python_version >= '3'\ne==4 ; os_name == 'none'\ntorch==2.13.0\nf==5\n"


def test_releases_other_than_the_pins(tmp_path):
    (tmp_path / "requirements.txt").write_text(PINNED)
    there = {"a": "1", "b": "2", "c-d": "3", "e": "9", "torch": "2.13.0+cpu"}  # f is missing, e is not for this system

    def installed(name):
        return there[name] if name in there else missing(name)

    def said(file="requirements.txt"):
        return str(environment.as_tested(file, installed, tmp_path))

    assert said() == "OK   4 packages as in requirements.txt"
    there["b"] = "2.1"
    fix = "to have what was tested, pip install -r requirements.txt"
    assert said() == f"--   1 of 4 packages differ from requirements.txt (b 2.1, not 2): {fix}"
    there.update({"a": "0", "c-d": "3.0.1", "torch": "2.12.0+cpu"})
    assert said() == f"--   4 of 4 packages differ from requirements.txt (a 0, not 1; b 2.1, not 2; c-d 3.0.1, not 3 and 1 more): {fix}"
    (tmp_path / "requirements-lock.txt").write_text("a==1 \\\n    --hash=sha256:00 \\\n    --hash=sha256:11\n")
    fix = "to have what was tested, pip install --require-hashes -r requirements-lock.txt"
    assert said("requirements-lock.txt") == f"--   1 of 1 packages differ from requirements-lock.txt (a 0, not 1): {fix}"
    (tmp_path / "requirements.txt").write_text("a = 1\n")
    assert said().startswith("--   requirements.txt can't be read (InvalidRequirement: ")


def test_a_lock_that_is_not_of_the_pins(tmp_path):
    assert environment.lock_agrees(ROOT).ok
    (tmp_path / "requirements.txt").write_text(PINNED)
    assert str(environment.lock_agrees(tmp_path)).startswith("--   requirements-lock.txt can't be compared (FileNotFoundError: ")
    (tmp_path / "requirements-lock.txt").write_text("a==1\nb==2.1\nc-d==3\ntorch==2.13.0\ng==7\n")
    assert str(environment.lock_agrees(tmp_path)) == "--   requirements-lock.txt is not of requirements.txt (b, f): make lock"


def test_the_releases_are_compared_in_a_checkout_only(tmp_path, monkeypatch):
    assert [check.name for check in environment.releases()] == ["lock", "requirements.txt", "requirements-lock.txt"]
    monkeypatch.setattr(environment, "CHECKOUT", tmp_path)
    assert not list(environment.releases())


def test_a_torch_that_is_there_but_broken_and_one_on_a_gpu():
    def broken():
        raise OSError("a long story\nlibtorch_cpu.so: cannot open shared object file")

    assert str(environment.torch_works(broken)) == (
        "FAIL torch can't be imported (OSError: libtorch_cpu.so: cannot open shared object file): "
        "pip install --force-reinstall torch, the CPU build as README.md says where there is no GPU")  # fmt: skip
    cuda = SimpleNamespace(is_available=lambda: True, get_device_name=lambda: "NVIDIA H100")
    fake = SimpleNamespace(cuda=cuda, get_num_threads=lambda: 16, __version__="2.13.0+cu130")
    assert str(environment.torch_works(lambda: fake)) == "OK   torch 2.13.0 (NVIDIA H100, 16 threads)"
    cuda.is_available, fake.get_num_threads = lambda: False, lambda: 1
    assert str(environment.torch_works(lambda: fake)) == "OK   torch 2.13.0 (CPU, 1 thread)"


def test_the_checksums_are_those_of_the_files_that_ship():
    files = [path for path in embedded().rglob("*") if path.is_file() and path.suffix != ".md"]
    found = {str(path.relative_to(embedded())): hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in files}
    assert found == machine.SHIPPED


def test_a_changed_and_a_missing_embedded_file(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CHECKOUT", tmp_path)
    (tmp_path / ".git").mkdir()
    copy = shutil.copytree(embedded(), tmp_path / "embedded")
    assert machine.embedded_files(copy).ok
    weights = copy / "model" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert str(machine.embedded_files(copy)) == (
        "FAIL embedded file model/model.safetensors is not the one that was shipped: git checkout data/embedded")  # fmt: skip
    weights.unlink()
    (tmp_path / ".git").rmdir()  # as where a wheel is installed
    said = str(machine.embedded_files(copy))
    assert said.startswith("FAIL embedded files can't be read (FileNotFoundError: ") and "model.safetensors" in said
    assert said.endswith("): install infalign-edu again")


def test_a_model_file_cut_in_half(tmp_path):
    copy = shutil.copytree(embedded("model"), tmp_path / "model")
    whole = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    said = str(machine.embedded_model(lambda: models.load(copy)))
    assert said.startswith(f"FAIL embedded model can't be used (ValueError: model {copy} can't be read: ")
    assert said.endswith("): mend what failed above, then ask again") and "\n" not in said
    assert machine.embedded_model().ok


def test_a_run_folder_that_cant_be_written(tmp_path):
    (tmp_path / "runs").write_text("a file where a folder should be")
    (only,) = machine.run_folder(tmp_path / "runs" / "deeper")
    assert str(only) == (
        f"FAIL run folder {tmp_path}/runs/deeper can't be written (Not a directory): "
        "work in a folder of your own, or name one with align --out FOLDER")  # fmt: skip
    if os.geteuid():
        (tmp_path / "mine").mkdir(mode=0o555)
        (only,) = machine.run_folder(tmp_path / "mine" / "runs")
        assert "can't be written (Permission denied)" in str(only)


def test_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0.123e9))
    written, room = machine.run_folder(tmp_path / "new" / "runs")
    assert written.ok and not (tmp_path / "new").exists()
    assert str(room) == "FAIL 0.1 GB of disk free, 0.5 needed: make room, or name a folder on another disk with align --out FOLDER"


def test_freed_memory_is_kept_where_the_c_library_can_be_told():
    told = "from infalign_edu.memory import keep_freed_memory as keep; import numpy as np; kept = {}; "
    told += "faults = lambda: __import__('resource').getrusage(0).ru_minflt\n"
    told += "def more():\n np.ones(2**18); before = faults(); [np.ones(2**18) for _ in range(40)]; return faults() - before\n"
    told += "before = more(); print(keep(), before, min(more(), more()))"
    said, before, after = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout.split()
    if said == "False":
        pytest.skip("the C library of this system can't be told")
    assert int(after) < int(before) / 10  # 2 MB forty times: the same pages again


def test_memory_is_what_the_machine_and_its_container_leave(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000000 kB\nMemFree: 1 kB\nMemAvailable:    3000000 kB\n")
    assert machine.free_memory(meminfo, tmp_path) == 3.0
    (tmp_path / "memory.max").write_text("2000000000\n")
    (tmp_path / "memory.current").write_text("1500000000\n")
    assert machine.free_memory(meminfo, tmp_path) == 0.5
    (tmp_path / "memory.stat").write_text("anon 5\nfile 900000000\ninactive_file 400000000\n")  # read once, given up when asked
    assert machine.free_memory(meminfo, tmp_path) == 0.9
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.free_memory(meminfo, tmp_path) == 3.0
    assert machine.free_memory(tmp_path / "none") is None
    assert str(machine.amount("memory", None, 1.0, "x")) == "--   free memory can't be told on this system, 1.0 GB needed"
    assert [machine.amount("memory", free, 1.0, "x").ok for free in (0.99, 1.0)] == [False, True]


def kernel_of(folder, interpreter):
    spec = folder / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True, exist_ok=True)
    spec.write_text(json.dumps({"argv": [str(interpreter), "-m", "x"], "display_name": "Python 3", "language": "python"}))


def test_a_kernel_of_another_environment(tmp_path, monkeypatch):
    """The student's classic: an old kernel.json of that name, found before the right one."""
    assert machine.kernel().ok
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    other = tmp_path / "bin" / "python3"
    kernel_of(tmp_path, other)
    assert str(machine.kernel()) == f"FAIL kernel python3 runs {other}, which is not there: {MEND}"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\necho Traceback >&2\necho \"ModuleNotFoundError: No module named 'infalign_edu'\" >&2\nexit 1\n")
    other.chmod(0o755)
    assert str(machine.kernel()) == (
        f"FAIL kernel python3 runs {other}, which can't import the course (ModuleNotFoundError: "
        f"No module named 'infalign_edu'): {MEND}")  # fmt: skip
    (tmp_path / "kernels" / "python3" / "kernel.json").write_text("{")
    assert str(machine.kernel()).startswith("FAIL kernel python3 can't be found (") and machine.kernel().fix == MEND


def test_a_kernel_of_an_environment_that_has_the_course_too(tmp_path, monkeypatch):
    """It runs, but with other releases than those that were looked at."""
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    other = tmp_path / "bin" / "python3"
    kernel_of(tmp_path, other)
    other.parent.mkdir()
    other.write_text(f"#!/bin/sh\necho hello from a start-up file\necho {tmp_path}\n")
    other.chmod(0o755)
    assert str(machine.kernel()) == f"FAIL kernel python3 runs {other}, of another environment: {MEND}"
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "bin" / ".."))  # the same folder by another name
    assert str(machine.kernel()) == f"OK   kernel python3 runs {other}, which imports the course"


def test_a_kernel_that_finds_the_course_in_this_folder_only(monkeypatch):
    def asked(command, cwd, **options):
        assert command[0] == sys.executable and not Path(cwd).resolve().is_relative_to(ROOT)
        return SimpleNamespace(returncode=1, stderr="No module named 'infalign_edu'")

    monkeypatch.setattr(subprocess, "run", asked)
    assert machine.kernel(["python3", "-m", "ipykernel_launcher"]).fix == "pip install --no-deps -e ."


def test_widgets_jupyter_and_the_browser(tmp_path):
    assert str(machine.widgets([str(tmp_path)])) == (
        "FAIL JupyterLab can't show widgets, its extension jupyterlab-manager is missing: "
        "pip install --force-reinstall jupyterlab_widgets")  # fmt: skip
    (tmp_path / machine.WIDGETS).parent.mkdir(parents=True)
    (tmp_path / machine.WIDGETS).write_text('{"version": "5.0.1"}')
    assert str(machine.widgets([str(tmp_path)])) == "OK   widgets in JupyterLab, by jupyterlab-manager 5.0.1"
    assert machine.widgets().ok
    own = Path(sys.executable).parent / "jupyter"
    assert str(machine.jupyter(str(own))) == f"OK   jupyter is {own}"
    assert str(machine.jupyter(None)) == f"--   jupyter is not on PATH: start {own} lab, or activate the environment"
    assert str(machine.browser(None)) == (
        "--   chromium is missing, wanted for browser tests only: "
        "apt-get install --no-install-recommends chromium fonts-dejavu-core")  # fmt: skip
    assert str(machine.cores(1, None)) == "OK   1 CPU core (OMP_NUM_THREADS not set: a thread a core)"


@pytest.mark.parametrize("rows, code, last", [
    ([Check("a", True, "a 1"), Check("b", None, "b is missing", "get b")], cli.EXIT_OK, "All is well."),
    ([Check("a", False, "a is missing", "get a"), Check("b", True, "b 1")], cli.EXIT_INPUT, "1 to mend."),
])  # fmt: skip
def test_the_exit_code_says_whether_there_is_something_to_mend(monkeypatch, capsys, rows, code, last):
    monkeypatch.setattr(environment, "checks", lambda: iter(rows))
    assert cli.main(["check-env"]) == code
    assert capsys.readouterr().out.splitlines() == [*map(str, rows), last]


def command(*arguments, cwd, **variables):
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=os.environ | variables, capture_output=True, text=True)


def test_the_command_on_this_machine_without_a_network(tmp_path):
    done = command("-m", "infalign_edu", "check-env", cwd=tmp_path)
    rows = done.stdout.splitlines()
    assert done.returncode == 0 and not done.stderr and rows[-1] == "All is well.", done.stdout + done.stderr
    assert all(row[:5] in ("OK   ", "--   ") for row in rows[:-1]) and not list(tmp_path.iterdir())
    for start in ("Python 3.", "torch ", "jupyterlab ", "kernel python3 runs ", "widgets in", "run folder", "embedded model answers"):
        assert [row for row in rows if row[5:].startswith(start)], start


def test_a_broken_torch_is_a_line_and_no_traceback(tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise OSError('libtorch_cpu.so: cannot open shared object file')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = command("-m", "infalign_edu", "check-env", cwd=tmp_path, PYTHONPATH=path)
    ill = [row for row in done.stdout.splitlines() if row.startswith("FAIL")]
    assert done.returncode == 2 and "Traceback" not in done.stdout + done.stderr
    assert ill[0].startswith("FAIL torch can't be imported (OSError: libtorch_cpu.so: cannot open shared object file): pip install")
    assert len(ill) == 2 and ill[1].startswith("FAIL embedded model can't be used (OSError: libtorch")


def test_a_python_with_nothing_installed_gets_lines_too(tmp_path):
    done = command("-S", str(ROOT / "infalign_edu" / "environment.py"), cwd=tmp_path)
    assert done.returncode == 2 and not done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == (
        f"FAIL infalign-edu is not installed for {sys.executable}: pip install -r requirements.txt && pip install --no-deps -e ."
    )
    assert all(line.startswith(("OK   ", "FAIL ", "--   ")) for line in lines[:-1])
    assert lines[-1] == f"{sum(line.startswith('FAIL') for line in lines)} to mend."
    again = command("-S", "-m", "infalign_edu", "check-env", cwd=ROOT)  # the package itself must not need what is missing
    assert again.returncode == 2 and not again.stderr and again.stdout.splitlines()[0] == lines[0]
