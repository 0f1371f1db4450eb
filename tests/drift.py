"""What `make test-oldest`, `make test-newest` and `make lock` install: requirements read from pyproject.toml and the pins.

`oldest` prints the lower bound of every range of pyproject.toml as a pin, so that each bound must name a release that
was tested; `newest` prints the ranges themselves, for pip to take the newest. torch stays at its pin in both, because
its build is chosen by machine, and so do the test tools in `oldest`, which nobody's course depends on.

`lock` takes the pins of requirements.txt and requirements-test.txt with all that they need and writes the locks,
with the hash of every file that the registry lists for each release. It needs uv, which `make lock` installs in a
folder of its own. Left out: other Pythons. An old release has no wheel for a new Python; use the oldest Python there.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PINS, TEST_PINS = "requirements.txt", "requirements-test.txt"
LOCK, TEST_LOCK = "requirements-lock.txt", "requirements-test-lock.txt"
CUDA_LOCK, CPU_LOCK = "requirements-cuda-lock.txt", "requirements-cpu-lock.txt"
CUDA = ("cuda-", "nvidia-", "triton")
# The CPU builds of torch for Linux are not in the registry, so that no tool finds their hashes there. This one is of the
# file that the tests ran with; torch's own page of wheels has those for other Pythons and processors.
CPU_SYSTEM = "python_version == '3.11' and platform_machine == 'x86_64'"
CPU_BUILDS = {"torch==2.13.0": "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"}
HEADS = {
    LOCK: f"""\
# {PINS} with all that it needs, every file by its hash: made by `make lock`, not by hand. For an installation
# that is the same on every machine and every day: pip install --require-hashes -r {LOCK}
# On Linux torch has two builds. With an NVIDIA GPU, add -r {CUDA_LOCK} to that line. Without one, install
# {CPU_LOCK} first, as it says; the line above then keeps that torch.
""",
    TEST_LOCK: f"""\
# What {TEST_PINS} needs beyond {PINS}: made by `make lock`, not by hand.
-r {LOCK}
""",
    CUDA_LOCK: f"""\
# What the registry's torch needs on Linux beyond {LOCK}: made by `make lock`, not by hand.
# To be given beside it, in one line: pip install --require-hashes -r {LOCK} -r {CUDA_LOCK}
""",
    CPU_LOCK: f"""\
# torch's CPU build for Linux, which comes from torch's own page of wheels (pytorch.org names it; give it to pip with
# --index-url, or a folder with --find-links): made by `make lock`, not by hand. To be installed before {LOCK}:
# pip install --require-hashes --no-deps -r {CPU_LOCK}
""",
}


def ranges(project: Path = ROOT / "pyproject.toml") -> list[Requirement]:
    """Every requirement of pyproject.toml once, those of the extras too, by name."""
    about = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    lines = [*about["dependencies"], *(line for group in about["optional-dependencies"].values() for line in group)]
    found = {line: Requirement(line) for line in lines if Requirement(line).name != about["name"]}
    return sorted(found.values(), key=lambda wanted: wanted.name)


def pins(*files: str) -> dict[str, str]:
    """name -> version of requirements files."""
    lines = [line for file in files for line in (ROOT / file).read_text(encoding="utf-8").splitlines()]
    return dict(line.split("==") for line in lines if line and line[0] not in "#-")


def lowest(wanted: Requirement) -> str:
    """The lower bound as a pin.

    >>> lowest(Requirement("numpy>=1.26,<3"))
    'numpy==1.26'
    """
    (bound,) = (part.version for part in wanted.specifier if part.operator == ">=")
    return f"{wanted.name}=={bound}"


def oldest() -> list[str]:
    """The lower bounds, the pin of torch, the pins of what has no range."""
    fixed = pins(PINS, TEST_PINS)
    found = [f"torch=={fixed['torch']}" if wanted.name == "torch" else lowest(wanted) for wanted in ranges()]
    return found + [f"{name}=={fixed[name]}" for name in fixed if name not in {wanted.name for wanted in ranges()}]


def newest() -> list[str]:
    """The ranges, the pin of torch, and no bound on the test tools but the pin below."""
    fixed = pins(PINS, TEST_PINS)
    found = [f"torch=={fixed['torch']}" if wanted.name == "torch" else str(wanted) for wanted in ranges()]
    return found + [f"{name}>={fixed[name]}" for name in fixed if name not in {wanted.name for wanted in ranges()}]


def blocks(text: str) -> dict[str, str]:
    """First line -> the whole entry, its hashes on lines of their own, of a compiled requirements file.

    >>> blocks("a==1 \\\\\\n    --hash=sha256:00\\nb==2 ; os_name == 'nt' \\\\\\n    --hash=sha256:11\\n")["a==1"]
    'a==1 \\\\\\n    --hash=sha256:00\\n'
    """
    found: dict[str, str] = {}
    head = ""
    for line in text.splitlines(keepends=True):
        if not line.startswith((" ", "#", "-", "\n")):
            head = line.rstrip("\\\n ")
        if head:
            found[head] = found.get(head, "") + line
    return found


def compiled(file: str, *more: str) -> dict[str, str]:
    """What uv resolves a requirements file to, for every platform and every Python that the package allows."""
    command = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--generate-hashes"]
    command += ["--no-annotate", "--no-header", *more, file]
    return blocks(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout)


def cpu_build(pin: str) -> str:
    """The entry of torch's CPU build for a pin of torch.

    >>> print(cpu_build("torch==2.13.0").splitlines()[0])
    torch==2.13.0+cpu ; python_version == '3.11' and platform_machine == 'x86_64' \\
    """
    if pin not in CPU_BUILDS:
        sys.exit(f"CPU_BUILDS in tests/drift.py must hold the SHA-256 of the CPU build of {pin}")
    return f"{pin}+cpu ; {CPU_SYSTEM} \\\n    --hash=sha256:{CPU_BUILDS[pin]}\n"


def lock(compiled: Callable[..., dict[str, str]] = compiled, folder: Path = ROOT) -> None:
    """Writes the four locks."""
    course = compiled(PINS)
    tests = compiled(TEST_PINS, "--constraint", PINS)
    kept = {head.split(" ")[0] for head in tests}  # a marker may widen, as tests ask for a package on more systems
    if moved := [head for head in course if head.split(" ")[0] not in kept]:
        sys.exit(f"{PINS} and {TEST_PINS} resolve differently: {', '.join(moved)}; pin these in {PINS}")
    cuda = [head for head in course if head.startswith(CUDA)]
    parts: dict[str, list[str]] = {
        LOCK: [entry for head, entry in course.items() if head not in cuda],
        TEST_LOCK: [entry for head, entry in tests.items() if head not in course],
        CUDA_LOCK: [course[head] for head in cuda],
        CPU_LOCK: [cpu_build(head) for head in course if head.startswith("torch==")],
    }
    for name, entries in parts.items():
        (folder / name).write_text(HEADS[name] + "".join(entries), encoding="utf-8")


def locked(*files: str) -> dict[str, set[str]]:
    """name -> the releases that lock files hold; more than one where Pythons or systems differ."""
    found: dict[str, set[str]] = {}
    for file in files:
        for head in blocks((ROOT / file).read_text(encoding="utf-8")):
            name, release = head.split(" ")[0].split("==")
            found.setdefault(canonicalize_name(name), set()).add(release)
    return found


if __name__ == "__main__":
    if sys.argv[1:] == ["lock"]:
        lock()
    elif sys.argv[1:] in (["oldest"], ["newest"]):
        print(*(oldest() if sys.argv[1] == "oldest" else newest()), sep="\n")
    else:
        sys.exit(f"which must be oldest, newest or lock, got {' '.join(sys.argv[1:]) or 'nothing'}")
