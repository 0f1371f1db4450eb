"""The pins, read without a network: exact, from the index alone, within pyproject's ranges, under licences we know.

No list of known weaknesses is asked here, since that takes a network: `make audit` does.
"""

import importlib.metadata as metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
FILES = ("requirements.txt", "requirements-test.txt")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PERMISSIVE = {"Apache", "BSD", "MIT", "PSF", "MPL"}  # MPL-2.0: of the files themselves, which nobody here changes
LICENCES = {
    "torch": "Apache", "transformers": "Apache", "tokenizers": "Apache", "safetensors": "Apache", "numpy": "BSD", "scipy": "BSD",
    "matplotlib": "PSF", "tqdm": "MPL", "filelock": "MIT", "jupyterlab": "BSD", "ipywidgets": "BSD", "ipykernel": "BSD",
    "voila": "BSD", "gguf": "MIT", "accelerate": "Apache", "peft": "Apache", "pytest": "MIT", "pytest-timeout": "MIT",
    "hypothesis": "MPL", "nbval": "BSD", "nbclient": "BSD", "nbformat": "BSD", "nbconvert": "BSD", "playwright": "Apache",
    "nbgrader": "BSD", "django-static-mathjax": "Apache", "ruff": "MIT", "mypy": "MIT", "trl": "Apache", "build": "MIT",
    "hatchling": "MIT",
}  # fmt: skip


def lines(file):
    return [line.partition(" #")[0].strip() for line in (ROOT / file).read_text().splitlines() if not line.startswith("#")]


def wrong(line):
    """What is wrong with a line of a requirements file, "" if it is one exact pin by name."""
    if line.startswith("-"):
        return "" if line in (f"-r {FILES[0]}", "") else "an option: another index, a link or a constraint may hide in it"
    if "://" in line or "@" in line or line.endswith((".whl", ".zip", ".gz")) or line.startswith((".", "/", "git+")):
        return "a direct address"
    return "" if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==\d+(\.\d+)*", line) else "no exact pin"


PINS = [line for file in FILES for line in lines(file) if line and not line.startswith("-")]
NAMES = [line.partition("==")[0] for line in PINS]


@pytest.mark.parametrize("file", FILES)
def test_every_line_is_an_exact_pin(file):
    assert {line: wrong(line) for line in lines(file) if line and wrong(line)} == {}


@pytest.mark.parametrize("line", [
    "torch", "torch>=2", "torch==2.*", "torch==2.13.0+cpu; x", "a @ https://example.org/a.whl", "git+https://example.org/a",
    "--index-url=https://example.org", "--extra-index-url https://example.org", "-f ./wheels", "--find-links=x", "-e .", "./a.whl",
    "-r other.txt", "-c limits.txt", "--trusted-host example.org", "--pre",
])  # fmt: skip
def test_a_line_that_is_none_is_found(line):
    assert wrong(line)


def test_no_package_is_pinned_twice():
    assert len(NAMES) == len({name.lower().replace("_", "-") for name in NAMES}) >= 30


def test_pins_lie_within_the_projects_ranges_and_every_range_has_a_pin():
    listed = [*PROJECT["dependencies"], *(line for extra in PROJECT["optional-dependencies"].values() for line in extra)]
    ranges = [found for found in map(Requirement, listed) if found.name != PROJECT["name"]]
    assert all(found.url is None for found in ranges)
    pinned = dict(line.split("==") for line in PINS)
    assert {found.name for found in ranges} <= set(pinned)
    assert [str(found) for found in ranges if pinned[found.name] not in found.specifier] == []


def family(name):
    """The licence of an installed package by its own metadata: expression, classifiers, then the text."""
    about = metadata.metadata(name)
    told = [about.get("License-Expression") or "", *(c for c in about.get_all("Classifier") or [] if c.startswith("License ::"))]
    text = " ".join(told) if any(told) else (about.get("License") or "").partition("\n")[0]
    words = {"Apache": "Apache", "BSD": "BSD", "Python Software Foundation": "PSF", "MPL": "MPL", "Mozilla": "MPL", "MIT": "MIT"}
    strong = re.search(r"\b(L|A)?GPL", text)
    return "GPL" if strong else next((short for word, short in words.items() if word in text), text)


@pytest.mark.parametrize("name", NAMES)
def test_licences_are_known_and_permissive(name):
    assert LICENCES[name] in PERMISSIVE
    try:
        found = family(name)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed here")
    if f"{name}=={metadata.version(name).partition('+')[0]}" not in PINS:
        pytest.skip(f"another release of {name} is installed here than the one that is pinned")
    assert found == LICENCES[name]


def test_no_licence_is_listed_for_what_is_not_pinned():
    assert set(LICENCES) == set(NAMES)


def test_the_audit_asks_about_every_lock_and_takes_no_answer_for_no():
    recipe = next(line for line in (ROOT / "Makefile").read_text().splitlines() if "pip-audit --" in line)
    assert "--strict" in recipe.split()
    locked = {file.name for file in ROOT.glob("requirements-*lock.txt")} - {"requirements-cpu-lock.txt"}  # torch, once more
    assert locked <= {*recipe.split()}
