"""The ranges, the pins and the locks say the same, each in its way; `make lock` is played without a registry."""

import re
import subprocess
import sys

import drift
import pytest
from packaging.requirements import Requirement
from packaging.version import Version

LOCKS = [drift.LOCK, drift.TEST_LOCK, drift.CUDA_LOCK, drift.CPU_LOCK]


def text(name):
    return (drift.ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", LOCKS)
def test_every_entry_of_a_lock_is_one_release_with_hashes_and_names_no_host(name):
    entries = drift.blocks(text(name))
    assert entries and not re.search(r"https?:|--(extra-)?index-url [^,]|--find-links [^)]|@", text(name))
    for head, entry in entries.items():
        first, *hashes = entry.rstrip("\n").split(" \\\n")
        assert first == head and re.fullmatch(r"[a-z0-9._-]+==[a-z0-9.+]+( ; .+)?", head), head
        assert Requirement(head) and hashes, head
        assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}", line) for line in hashes) and len(
            set(hashes)
        ) == len(hashes), head


def test_the_locks_hold_every_pin_in_its_release_and_no_other():
    course, tests = drift.locked(drift.LOCK), drift.locked(drift.LOCK, drift.TEST_LOCK)
    assert {name: course.get(name) for name in drift.pins(drift.PINS)} == {
        name: {pin} for name, pin in drift.pins(drift.PINS).items()
    }
    both = drift.pins(drift.PINS, drift.TEST_PINS)
    assert {name: tests.get(name) for name in both} == {name: {pin} for name, pin in both.items()}
    assert drift.locked(drift.CPU_LOCK) == {"torch": {both["torch"] + "+cpu"}}
    assert all(name.startswith(drift.CUDA) for name in drift.locked(drift.CUDA_LOCK))
    assert not [name for name in tests if name.startswith(drift.CUDA)] and f"-r {drift.LOCK}\n" in text(drift.TEST_LOCK)


def test_the_locks_hold_what_each_package_asks_for_here():
    """Offline: the requirements that the installed releases declare, followed from the pins."""
    from importlib import metadata

    from packaging.utils import canonicalize_name

    found = drift.locked(drift.LOCK, drift.TEST_LOCK, drift.CUDA_LOCK)
    todo, seen = [(name, "") for name in drift.pins(drift.PINS, drift.TEST_PINS)], set()
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        assert name in found, name
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # a part of the tests that this environment does without
            continue
        if metadata.version(name) not in found[name] and name != "torch":
            continue  # another release may ask for something else: `check-env` tells of it
        for need in map(Requirement, needs):
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                todo += [(canonicalize_name(need.name), part) for part in ("", *need.extras)]
    assert len(seen) > len(drift.pins(drift.PINS, drift.TEST_PINS))


def test_the_oldest_are_the_lower_bounds_and_the_newest_the_ranges():
    pins, ranges = drift.pins(drift.PINS, drift.TEST_PINS), {wanted.name: wanted for wanted in drift.ranges()}
    old, new = (
        {Requirement(line).name: Requirement(line) for line in lines} for lines in (drift.oldest(), drift.newest())
    )
    assert set(old) == set(new) == set(pins) | set(ranges)
    assert str(old["torch"]) == str(new["torch"]) == f"torch=={pins['torch']}"
    assert str(old["numpy"]) == "numpy==2.0" and str(new["numpy"]) == "numpy>=2.0"
    assert str(old["pytest"]) == f"pytest=={pins['pytest']}" and str(new["pytest"]) == f"pytest>={pins['pytest']}"
    for name, wanted in ranges.items():
        (release,) = (part.version for part in old[name].specifier)
        assert release in wanted.specifier and Version(release) <= Version(pins[name]), name


def compiled(file, *more):
    """Two small resolutions, in uv's form."""
    course = {
        "torch==2.13.0": "00",
        "triton==3 ; sys_platform == 'linux'": "11",
        "a==1 ; os_name == 'nt'": "22",
        "b==2": "33",
    }
    tests = {**course, "pytest==9": "44"} | ({"a==1 ; os_name == 'nt' or os_name == 'x'": "22"} if more else {})
    if more:
        del tests["a==1 ; os_name == 'nt'"]
    lines = (course if file == drift.PINS else tests).items()
    return drift.blocks("".join(f"{head} \\\n    --hash=sha256:{digest}\n" for head, digest in lines))


def test_the_locks_are_written_apart(tmp_path):
    drift.lock(compiled, tmp_path)
    heads = {name: list(drift.blocks((tmp_path / name).read_text())) for name in LOCKS}
    assert heads[drift.LOCK] == ["torch==2.13.0", "a==1 ; os_name == 'nt'", "b==2"]
    assert heads[drift.TEST_LOCK] == ["pytest==9", "a==1 ; os_name == 'nt' or os_name == 'x'"]
    assert heads[drift.CUDA_LOCK] == ["triton==3 ; sys_platform == 'linux'"]
    assert heads[drift.CPU_LOCK] == [f"torch==2.13.0+cpu ; {drift.CPU_SYSTEM}"]
    assert (tmp_path / drift.LOCK).read_text().endswith("b==2 \\\n    --hash=sha256:33\n")


def test_what_cant_be_locked_is_said(tmp_path, monkeypatch):
    def moved(file, *more):
        return {"torch==2.13.0": "", "b==2" if file == drift.PINS else "b==3": ""}

    with pytest.raises(
        SystemExit, match=r"^requirements.txt and requirements-test.txt resolve differently: b==2; pin these in "
    ):
        drift.lock(moved, tmp_path)
    monkeypatch.setattr(drift, "CPU_BUILDS", {})
    with pytest.raises(
        SystemExit, match=r"^CPU_BUILDS in tests/drift.py must hold the SHA-256 of the CPU build of torch==2.13.0$"
    ):
        drift.lock(compiled, tmp_path)
    command = [sys.executable, str(drift.ROOT / "tests" / "drift.py")]
    asked = subprocess.run([*command, "latest"], capture_output=True, text=True)
    assert asked.returncode == 1 and asked.stderr == "which must be oldest, newest or lock, got latest\n"
    printed = subprocess.run([*command, "oldest"], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == drift.oldest()
