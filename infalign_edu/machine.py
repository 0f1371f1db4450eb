"""What a machine must have beside the packages: a kernel, widgets, memory, a folder to write to, the embedded model.

The second half of `check-env` (see `environment`). The model and the interpreter of the kernel are tried, not looked
at: they are what a notebook's first cell needs. Like the command line it stands above all floors; what it looks at is
imported by name, because a module that can't be imported is a line here.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from infalign_edu.environment import CHECKOUT, PACKAGE, Check, told
from infalign_edu.memory import free_memory

DISK, MEMORY = 0.5, 1.0  # gigabytes: a run folder with its snapshots; a kernel that trains (0.6 were measured)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDGETS = Path("@jupyter-widgets", "jupyterlab-manager", "package.json")
SHIPPED = {  # the first 16 digits of each file's SHA-256
    "model/config.json": "b4c7f1bf319344cd",
    "model/generation_config.json": "289f85993767efc2",
    "model/model.safetensors": "6dbacd65e9510310",
    "model/tokenizer.json": "bd8fa4ddb1f6a490",
    "model/tokenizer_config.json": "eb93bfd9f34c79d0",
    "preferences.jsonl.gz": "8d259cc8eadbc204",
    "prompts.jsonl": "07fcb30f04ca2591",
}


def jupyter(found: str | None) -> Check:
    """Whether the `jupyter` that a shell finds is of this environment.

    >>> print(jupyter("/elsewhere/bin/jupyter").detail)
    jupyter on PATH is of another environment (/elsewhere/bin/jupyter)
    """
    own = Path(sys.executable).parent
    if found and Path(found).parent == own:
        return Check("jupyter", True, f"jupyter is {found}")
    detail = f"jupyter on PATH is of another environment ({found})" if found else "jupyter is not on PATH"
    return Check("jupyter", None, detail, f"start {own / 'jupyter'} lab, or activate the environment")


def kernel(argv: Sequence[str] | None = None) -> Check:
    """Whether the kernel that notebooks ask for, python3, runs a Python that can import the course from any folder."""
    mend = f"{sys.executable} -m ipykernel install --sys-prefix"
    try:
        manager = importlib.import_module("jupyter_client.kernelspec").KernelSpecManager()
        command = list(argv or manager.get_kernel_spec("python3").argv)
    except Exception as error:  # not installed, no such kernel, or a kernel.json that can't be read
        return Check("kernel", False, f"kernel python3 can't be found ({told(error)})", mend)
    plain = {"python", "python3", f"python{sys.version_info[0]}.{sys.version_info[1]}"}  # Jupyter puts its own there
    interpreter = sys.executable if command[0] in plain else shutil.which(command[0])
    if not interpreter:
        return Check("kernel", False, f"kernel python3 runs {command[0]}, which is not there", mend)
    with tempfile.TemporaryDirectory() as elsewhere:
        asked = [interpreter, "-c", "import ipykernel, infalign_edu, sys; print(sys.prefix)"]
        done = subprocess.run(asked, cwd=elsewhere, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        own = Path(interpreter).parent == Path(sys.executable).parent
        detail = f"kernel python3 runs {interpreter}, which can't import the course ({reason})"
        return Check("kernel", False, detail, "pip install --no-deps -e ." if own else mend)
    prefix = done.stdout.strip().splitlines()[-1]
    if Path(prefix).resolve() != Path(sys.prefix).resolve():  # what was found above is not what a notebook meets
        return Check("kernel", False, f"kernel python3 runs {interpreter}, of another environment", mend)
    return Check("kernel", True, f"kernel python3 runs {interpreter}, which imports the course")


def widgets(folders: Sequence[str] | None = None) -> Check:
    """Whether JupyterLab has the extension that shows widgets."""
    try:
        places = folders or importlib.import_module("jupyter_core.paths").jupyter_path("labextensions")
        about = next(path for path in (Path(place) / WIDGETS for place in places) if path.is_file())
        release = json.loads(about.read_text(encoding="utf-8"))["version"]
    except (ImportError, StopIteration, OSError, ValueError, KeyError):
        detail = "JupyterLab can't show widgets, its extension jupyterlab-manager is missing"
        return Check("widgets", False, detail, "pip install --force-reinstall jupyterlab_widgets")
    return Check("widgets", True, f"widgets in JupyterLab, by jupyterlab-manager {release}")


def browser(found: str | None) -> Check:
    """Whether the tests can drive a real browser."""
    if found:
        return Check("browser", True, f"browser {found}")
    fix = "apt-get install --no-install-recommends chromium fonts-dejavu-core"
    return Check("browser", None, "chromium is missing, wanted for browser tests only", fix)


def cores(count: int, threads: str | None) -> Check:
    """How many cores there are, and how many of them the numerical libraries are told to take.

    >>> print(cores(2, "1"))
    OK   2 CPU cores (OMP_NUM_THREADS=1)
    """
    limit = f"OMP_NUM_THREADS={threads}" if threads else "OMP_NUM_THREADS not set: a thread a core"
    return Check("cores", True, f"{count} CPU core{'s' * (count != 1)} ({limit})")


def amount(name: str, free: float | None, needed: float, fix: str) -> Check:
    """Free gigabytes against those needed.

    >>> print(amount("memory", 0.25, 1.0, "close other programs and kernels"))
    FAIL 0.2 GB of memory free, 1.0 needed: close other programs and kernels
    """
    if free is None:
        return Check(name, None, f"free {name} can't be told on this system, {needed} GB needed")
    if free < needed:
        return Check(name, False, f"{free:.1f} GB of {name} free, {needed} needed", fix)
    return Check(name, True, f"{free:.1f} GB of {name} free")


def run_folder(folder: Path) -> Iterator[Check]:
    """Whether runs can be written, and have room."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            free = shutil.disk_usage(there).free / 1e9
    except OSError as error:
        detail = f"run folder {folder} can't be written ({error.strerror})"
        yield Check("run folder", False, detail, "work in a folder of your own, or name one with align --out FOLDER")
        return
    yield Check("run folder", True, f"run folder {folder} can be written")
    yield amount("disk", free, DISK, "make room, or name a folder on another disk with align --out FOLDER")


def embedded_files(folder: Path | None = None, shipped: Mapping[str, str] = SHIPPED) -> Check:
    """Every embedded file against its checksum."""
    fix = "git checkout data/embedded" if (CHECKOUT / ".git").exists() else f"install {PACKAGE} again"
    try:
        place = folder or importlib.import_module("infalign_edu.lm").embedded()
        for name, digest in shipped.items():
            if not hashlib.sha256((place / name).read_bytes()).hexdigest().startswith(digest):
                return Check("embedded files", False, f"embedded file {name} is not the one that was shipped", fix)
    except (ImportError, OSError) as error:
        return Check("embedded files", False, f"embedded files can't be read ({told(error)})", fix)
    return Check("embedded files", True, f"embedded model and data: {len(shipped)} files as shipped")


def embedded_model(load: Callable[[], Any] | None = None) -> Check:
    """Whether the embedded model loads and answers."""
    try:
        policy = load() if load else importlib.import_module("infalign_edu.lm.models").load("embedded")
        (said,) = policy.sample(["how do i clean my kettle before work"], 1, seed=0).responses
    except Exception as error:  # torch, transformers and safetensors each have their own
        detail = f"embedded model can't be used ({told(error)})"
        return Check("embedded model", False, detail, "mend what failed above, then ask again")
    return Check("embedded model", True, f"embedded model answers: {said!r}")


def checks(runs: Path = Path("runs")) -> Iterator[Check]:
    """Every check of this machine, the quick ones first."""
    yield jupyter(shutil.which("jupyter"))
    yield kernel()
    yield widgets()
    yield browser(next(filter(None, map(shutil.which, BROWSERS)), None))
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield cores(own, os.environ.get("OMP_NUM_THREADS"))
    yield amount("memory", free_memory(), MEMORY, "close other programs and kernels")
    yield from run_folder(runs)
    yield embedded_files()
    yield embedded_model()
