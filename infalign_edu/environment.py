"""What `python -m infalign_edu check-env` says: one line a check, with what mends it. Here the packages come first.

Each check is a small function of what it looks at, so that a bad machine can be played in a test. The standard library
is all that this file needs; everything else is imported inside a check and by name, so that a broken package is a line
and not a traceback. Where the package itself can't be imported, `python infalign_edu/environment.py` says why. Nothing
here asks the network. Left out: speed, and repairs, which are the reader's to make.
"""

from __future__ import annotations

import importlib
import importlib.metadata as metadata
import importlib.util
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE, CHECKOUT = "infalign-edu", Path(__file__).resolve().parents[1]
PINS, LOCK = "requirements.txt", "requirements-lock.txt"
NEEDED_EXTRAS = ("", "lab")  # the course needs what the library needs, and a notebook to run in
USES = {"gguf": ".gguf models", "accelerate": ".gguf models", "nbgrader": "make grade", "voila": "make app"}


@dataclass(frozen=True)
class Check:
    """One line: `ok` is True for well, False for what must be mended, None for what is good to know.

    >>> print(Check("jupyterlab", False, "jupyterlab is missing", "pip install -r requirements.txt"))
    FAIL jupyterlab is missing: pip install -r requirements.txt
    """

    name: str
    ok: bool | None
    detail: str
    fix: str = ""

    def __str__(self) -> str:
        word = "--" if self.ok is None else "OK" if self.ok else "FAIL"
        return f"{word:<4} {self.detail}" + (f": {self.fix}" if self.fix else "")


def told(error: BaseException) -> str:
    """Kind and last line of an error, where its reason stands.

    >>> told(OSError("a header\\nno such library"))
    'OSError: no such library'
    """
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__


def version(name: str, found: str, wanted: str, fix: str, ill: bool | None = False) -> Check:
    """A version against a range such as ">=3.11".

    >>> print(version("Python", "3.9.2", ">=3.11", "make the environment again"))
    FAIL Python 3.9.2 is outside >=3.11: make the environment again
    """
    from packaging.specifiers import SpecifierSet

    if SpecifierSet(wanted).contains(found, prereleases=True):
        return Check(name, True, f"{name} {found}")
    return Check(name, ill, f"{name} {found} is outside {wanted}", fix)


def package(requirement: str, needed: bool = True, installed: Callable[[str], str] = metadata.version) -> Check:
    """An installed package against its range; one that is not needed is at worst good to know.

    >>> print(package("numpy>=2.0", installed=lambda name: "2.0.2"))
    OK   numpy 2.0.2
    """
    from packaging.requirements import Requirement

    wanted, ill = Requirement(requirement), False if needed else None
    use = f", wanted for {USES[wanted.name]} only" if wanted.name in USES else ""
    fix = f"pip install {shlex.quote(requirement)}"
    if needed and (CHECKOUT / PINS).is_file():
        fix = f"pip install -r {PINS}"
    try:
        return version(wanted.name, installed(wanted.name), str(wanted.specifier), fix, ill)
    except metadata.PackageNotFoundError:
        return Check(wanted.name, ill, f"{wanted.name} is missing{use}", fix)


def requirements(lines: Sequence[str], extras: Sequence[str]) -> list[tuple[str, bool]]:
    """(requirement, needed) of the metadata's lines, every package once, those that are needed first.

    >>> requirements(['voila>=0.5; extra == "app"', "numpy>=2.0", 'infalign-edu[app]; extra == "all"'], ["app", "all"])
    [('numpy>=2.0', True), ('voila>=0.5', False)]
    """
    from packaging.requirements import Requirement

    found: dict[str, tuple[str, bool]] = {}
    for extra in dict.fromkeys((*NEEDED_EXTRAS, *extras)):
        for line in map(Requirement, lines):
            if line.name != PACKAGE and (line.marker is None or line.marker.evaluate({"extra": extra})):
                found.setdefault(line.name, (f"{line.name}{line.specifier}", extra in NEEDED_EXTRAS))
    return list(found.values())


def packages() -> Iterator[Check]:
    """Python and every package against the ranges of the installed metadata, which are those of pyproject.toml."""
    try:
        about = metadata.metadata(PACKAGE)
        importlib.import_module("packaging.requirements")
    except ImportError as error:  # PackageNotFoundError is one
        fix = "pip install -r requirements.txt && pip install --no-deps -e ."
        yield Check(PACKAGE, False, f"{error.name} is not installed for {sys.executable}", fix)
        return
    fix = "make the environment again with a Python in that range"
    yield version("Python", sys.version.split()[0], about["Requires-Python"], fix)
    wanted = requirements(metadata.requires(PACKAGE) or [], about.get_all("Provides-Extra") or [])
    wanted += [(name, False) for name in USES if not any(line.startswith(name) for line, _ in wanted)]
    for line, needed in wanted:
        check = package(line, needed)
        yield torch_works() if check.name == "torch" and check.ok else check


def torch_works(load: Callable[[], Any] = lambda: importlib.import_module("torch")) -> Check:
    """Whether torch can be imported, not only found, and what it computes on."""
    try:
        torch = load()
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        threads, release = torch.get_num_threads(), str(torch.__version__).partition("+")[0]
    except Exception as error:  # a broken library raises what it likes
        fix = "pip install --force-reinstall torch, the CPU build as README.md says where there is no GPU"
        return Check("torch", False, f"torch can't be imported ({told(error)})", fix)
    return Check("torch", True, f"torch {release} ({device}, {threads} thread{'s' * (threads != 1)})")


def pinned(text: str) -> dict[str, set[str]]:
    """name -> the releases for this machine of a requirements file or of a lock.

    >>> pinned("# tested\\nnumpy==2.4.6 \\\\\\n    --hash=sha256:00\\npywinpty==3 ; os_name == 'none'\\n")
    {'numpy': {'2.4.6'}}
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        if line and line[0] not in "#- ":
            wanted = Requirement(line.rstrip("\\ "))
            if wanted.marker is None or wanted.marker.evaluate():
                releases = found.setdefault(canonicalize_name(wanted.name), set())
                releases.update(part.version for part in wanted.specifier)
    return found


def as_tested(file: str, installed: Callable[[str], str] = metadata.version, folder: Path = CHECKOUT) -> Check:
    """The installed packages against the exact releases of a requirements file or lock; others are good to know."""
    moved, count = [], 0
    try:
        wanted = pinned((folder / file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # packaging's errors are ValueErrors
        return Check(file, None, f"{file} can't be read ({told(error)})", f"git checkout {file}")
    for name, releases in wanted.items():
        try:
            found = installed(name).partition("+")[0]  # a build for a GPU or a CPU is of the same release
        except metadata.PackageNotFoundError:
            continue  # what must be there is looked at above
        count += 1
        if found not in releases:
            moved.append(f"{name} {found}, not {' or '.join(sorted(releases))}")
    if not moved:
        return Check(file, True, f"{count} packages as in {file}")
    more = f" and {len(moved) - 3} more" if len(moved) > 3 else ""
    detail = f"{len(moved)} of {count} packages differ from {file} ({'; '.join(moved[:3])}{more})"
    option = " --require-hashes" if "lock" in file else ""
    return Check(file, None, detail, f"to have what was tested, pip install{option} -r {file}")


def lock_agrees(folder: Path = CHECKOUT) -> Check:
    """Whether the lock holds the releases of requirements.txt, and no others."""
    try:
        pins, lock = (pinned((folder / file).read_text(encoding="utf-8")) for file in (PINS, LOCK))
    except (OSError, ValueError) as error:
        return Check("lock", None, f"{LOCK} can't be compared ({told(error)})", "make lock")
    if moved := [name for name, releases in pins.items() if lock.get(name) != releases]:
        return Check("lock", None, f"{LOCK} is not of {PINS} ({', '.join(moved)})", "make lock")
    return Check("lock", True, f"{LOCK} is of {PINS}")


def releases() -> Iterator[Check]:
    """The pins and the lock of a checkout; a package that was installed from a wheel has none."""
    if (CHECKOUT / PINS).is_file() and importlib.util.find_spec("packaging"):
        yield lock_agrees()
        yield from map(as_tested, (PINS, LOCK))


def checks() -> Iterator[Check]:
    """Every check of this machine: the packages, then what `machine` looks at."""
    yield from packages()
    yield from releases()
    try:
        machine = importlib.import_module("infalign_edu.machine")
    except ImportError as error:
        yield Check("infalign_edu", False, f"infalign_edu can't be imported ({told(error)})", "mend what failed above")
        return
    yield from machine.checks()


def report() -> bool:
    """Prints a line a check as it is made and says whether nothing must be mended."""
    ill = 0
    for check in checks():
        print(check, flush=True)
        ill += check.ok is False
    print(f"{ill} to mend." if ill else "All is well.")
    return not ill


if __name__ == "__main__":
    sys.path[0] = str(CHECKOUT)  # not the package's own folder, whose modules would hide others
    sys.exit(0 if report() else 2)
