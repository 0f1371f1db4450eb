"""Runs that are killed, whose disk fails, whose files are damaged, whose folder is another's: nothing is lost or wrong.

A kill is SIGKILL to a living process, at a call drawn from a fixed seed or, from outside, at a share of the time that
the run takes. A run is killed, resumed and killed again, and ends with the numbers of the run that was left alone. The
whole number of kills stands behind `slow`; a few of each kind run always.
"""

import csv
import errno
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing import connection, forkserver
from pathlib import Path

import fault_jobs
import numpy as np
import pytest
import torch

from infalign_edu import atomic
from infalign_edu.calibration import EmpiricalCalibrator
from infalign_edu.lm.files import load_tensors, save_tensors
from infalign_edu.rl.experiments.design import Cell, Found, Setting
from infalign_edu.rl.experiments.runner import store, stored
from infalign_edu.rl.runs import RunFolder, TrainingFiles, read_tensors

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked and killed as POSIX has it")
HERE, SLOW = Path(__file__).parent, pytest.mark.slow
ONE = fault_jobs.TINY | {"compare": ""}
KINDS = {
    "training": ("align", {"settings": ONE}),
    "training of two": ("align", {}),
    "judging and report": ("align", {"region": "judging", "settings": ONE}),
    "calibration": ("calibrate", {}),
    "reward model": ("learned", {}),
    "reward head": ("head", {}),
    "sweep": ("sweep", {}),
    "small sweep": ("sweep", {"cells": 2}),
}


class Child:
    """A job in a process of its own, and what it prints."""

    def __init__(self, context, job, folder, *, kill=-1, hold=False, disk=(), limit=0, **named):
        self.reader, writer = context.Pipe(duplex=False)
        given = (writer, job, Path(folder), kill, hold, disk, limit, named)
        self.process, self.raw = context.Process(target=fault_jobs.child, args=given), b""
        self.process.start()
        writer.close()

    def listen(self, until: str | None = None, seconds: float = 300.0) -> bool:
        """Reads until a text appears, the pipe is closed, or the time is over: False."""
        end = time.monotonic() + seconds
        while until is None or until.encode() not in self.raw:
            if not connection.wait([self.reader], max(0.0, end - time.monotonic())):
                return False
            if not (part := os.read(self.reader.fileno(), 65536)):
                return until is None
            self.raw += part
        return True

    def kill(self) -> "Child":
        self.process.kill()
        return self

    def end(self) -> "Child":
        assert self.listen(), self.text
        self.process.join()
        self.reader.close()
        return self

    @property
    def text(self) -> str:
        return self.raw.decode(errors="replace")

    @property
    def code(self) -> int:
        return self.process.exitcode

    @property
    def counted(self) -> tuple[int, int]:
        calls, writes = re.search(r"^counted (\d+) (\d+)$", self.text, re.M).groups()
        return int(calls), int(writes)


@pytest.fixture(scope="module")
def start():
    """Starts children from a process that has torch and the package loaded."""
    context = multiprocessing.get_context("forkserver")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), before]))
    context.set_forkserver_preload(["pytest", "fault_warm"])
    forkserver.ensure_running()
    os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)
    yield lambda *given, **named: Child(context, *given, **named)


def digest(value) -> str:
    if isinstance(value, dict):
        value = {k: digest(v) for k, v in value.items()}
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        value = [str(value.dtype), value.shape, hashlib.sha256(np.ascontiguousarray(value)).hexdigest()]
    return json.dumps(value, sort_keys=True)


def without(row: dict, *names: str) -> dict:
    return {k: v for k, v in row.items() if k not in names}


def content(file: Path):
    """What a file says, apart from times; any file that is not whole raises."""
    if file.suffix == ".safetensors":
        tensors, about = load_tensors(file)
        report = without(json.loads(about.pop("report", "{}")), "cpu_seconds")
        return {"tensors": tensors, "about": about, "report": report}
    if file.suffix == ".npz":
        found = atomic.read_arrays(file)
        if "about" in found and found["about"].ndim:
            found["about"] = np.array([line for line in found["about"] if not re.match("cpu_seconds|commit", str(line))])
        return found
    if file.suffix == ".csv":
        return [without(row, "cpu_seconds", "commit") for row in csv.DictReader(file.open(newline=""), strict=True)]
    if file.suffix == ".json":
        return without(json.loads(file.read_text()), "seconds")
    return [without(json.loads(line), "seconds") for line in file.read_text().splitlines()]


def visible(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return [file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)]


def numbers(folder: Path) -> dict[str, str]:
    """Everything that a finished job left, file by file; the page, which tells times, by its length and figures."""
    named = {str(file.relative_to(folder)): file for file in visible(folder)}
    return {name: digest(content(file)) for name, file in named.items() if file.suffix not in (".html", ".toml")}


def leftovers(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*.part")]


def assert_whole(folder: Path) -> None:
    """After a kill: every file that bears its name is whole, but for the last line of the metrics."""
    for file in visible(folder):
        if file.suffix == ".jsonl":
            assert all(json.loads(line)["step"] == i + 1 for i, line in enumerate(file.read_text().split("\n")[:-1]))
        elif file.suffix == ".html":
            assert file.read_text().rstrip().endswith("</html>")
        elif file.suffix != ".toml":
            content(file)


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """By kind, what the run that is left alone ends with, its calls, and its seconds from the first of them."""
    known = {}

    def of(kind, timed):
        (job, named), seconds = KINDS[kind], 0.0
        if kind not in known:
            folder = tmp_path_factory.mktemp("whole")
            counted = start(job, folder, kill=0, **named).end()
            assert counted.code == 0, counted.text
            known[kind], of.folders[kind] = (numbers(folder), counted.counted[0]), folder
        if timed:
            folder = tmp_path_factory.mktemp("timed")
            child = start(job, folder, **named)
            assert child.listen("begun"), child.text
            began = time.monotonic()
            assert child.end().code == 0 and numbers(folder) == known[kind][0]
            seconds = time.monotonic() - began
        return *known[kind], seconds

    of.folders = {}
    return of


def fresh(tmp_path):
    folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    return folder


def attempt(start, kind, folder, share, outside, whole):
    """One run of a job that is killed at a share of its calls or, from outside, of its time; whether it was alive."""
    (job, named), (_, calls, seconds) = KINDS[kind], whole
    if not outside:
        child = start(job, folder, kill=max(1, int(share * calls)), **named).end()
    else:
        child = start(job, folder, **named)
        child.listen("begun")
        if not child.listen(seconds=share * seconds):
            child.kill()
        child.end()
    assert child.code in (0, -signal.SIGKILL), child.text
    return child.code == -signal.SIGKILL


def kills(start, kind, whole, tmp_path, wanted, seed):
    """Kills runs of one kind until `wanted` kills have hit; each run is killed up to five times and then left to end."""
    rng, hits, late, runs, began = np.random.default_rng(seed), 0, 0, 0, time.monotonic()
    while hits < wanted and runs < 5 * wanted:
        folder, runs = fresh(tmp_path), runs + 1
        for _ in range(min(int(rng.integers(1, 6)), wanted - hits)):
            if not attempt(start, kind, folder, 0.8 * rng.random(), bool(wanted > 3 and hits % 2), whole):
                late += 1
                break
            hits += 1
            assert_whole(folder)
        job, named = KINDS[kind]
        last = start(job, folder, **named).end()
        assert last.code == 0, last.text
        assert numbers(folder) == whole[0]
        assert kind == "reward head" or leftovers(folder) == []
        shutil.rmtree(folder)
    return {"kind": kind, "kills": hits, "too late": late, "runs": runs, "minutes": (time.monotonic() - began) / 60}


def told(found, capsys):
    with capsys.disabled():
        print("\nfaults: " + ", ".join(f"{k} {v:.2f}" if isinstance(v, float) else f"{k} {v}" for k, v in found.items()))


@pytest.mark.parametrize("kind", ["training", "calibration", "reward model", "reward head", "small sweep"])
def test_killed_three_times(start, whole, tmp_path, capsys, kind):
    found = kills(start, kind, whole(kind, False), tmp_path, wanted=3, seed=7)
    told(found, capsys)
    assert found["kills"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "small sweep"])
def test_killed_twenty_times(start, whole, tmp_path, capsys, kind):
    found = kills(start, kind, whole(kind, True), tmp_path, wanted=20, seed=11)
    told(found, capsys)
    assert found["kills"] == 20


DISK = {"run": ("align", {"settings": fault_jobs.SHORT}), "reward model": KINDS["reward model"], "sweep": ("sweep", {"cells": 1})}
FULL, READ_ONLY, FAILS = errno.ENOSPC, errno.EROFS, errno.EIO


def one_line(child, *words) -> str:
    """The only line that tells of an error, without a traceback and with these words."""
    assert child.code == 2 and "Traceback" not in child.text, child.text
    lines = [line for line in child.text.splitlines() if re.match("(infalign_edu|experiments): ", line)]
    assert len(lines) == 1 and all(word in lines[0] for word in words), child.text
    return lines[0]


def disk_fails(start, kind, folder, expected, at, number, lasting):
    """A run whose disk fails at a call that writes; when it is mended the run goes on to the same numbers."""
    job, named = DISK[kind]
    child = start(job, folder, disk=(at, number, lasting), **named).end()
    survived = child.code == 0  # one failure to write the note of who holds a folder, say, stops nothing
    if not survived:
        one_line(child, str(folder), "can't be written", os.strerror(number))
        assert_whole(folder)
        assert start(job, folder, **named).end().code == 0
    assert not (survived and lasting)
    assert numbers(folder) == expected and leftovers(folder) == []
    return survived


@pytest.fixture(scope="module")
def writes(start, tmp_path_factory):
    """By kind, what a run on a good disk ends with, and how many calls wrote."""
    known = {}

    def of(kind):
        if kind not in known:
            (job, named), folder = DISK[kind], tmp_path_factory.mktemp("good")
            child = start(job, folder, disk=(0, FULL, True), **named).end()
            assert child.code == 0, child.text
            known[kind] = numbers(folder), child.counted[1]
        return known[kind]

    return of


@pytest.mark.parametrize("kind, share, number", [("reward model", 0.8, FULL), ("reward model", 0.4, READ_ONLY)])
def test_a_disk_that_fails_at_some_call(start, writes, tmp_path, kind, share, number):
    expected, count = writes(kind)
    assert count >= 8
    disk_fails(start, kind, tmp_path, expected, int(count * share), number, True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", DISK)
def test_a_disk_that_fails_at_every_call(start, writes, tmp_path, capsys, kind):
    """Full at each call that writes; read-only, or failing only once, at every third one."""
    expected, count = writes(kind)
    began, survived, tried = time.monotonic(), 0, 0
    for at in range(1, count + 1):
        for number, lasting in [(FULL, True), (READ_ONLY, True), (FAILS, False)][: 1 if at % 3 else 3]:
            folder = fresh(tmp_path)
            survived += disk_fails(start, kind, folder, expected, at, number, lasting)
            tried += 1
            shutil.rmtree(folder)
    told({"kind": f"disk of a {kind}", "calls that write": count, "faults": tried, "no error needed": survived,
          "minutes": (time.monotonic() - began) / 60}, capsys)  # fmt: skip
    assert survived <= tried / 4


@pytest.mark.parametrize("limit", [500_000, *(pytest.param(size, marks=SLOW) for size in (200, 3_000, 2_000_000))])
def test_the_system_itself_refuses_to_write_more(start, whole, tmp_path, limit):
    """A limit on the size of files, which the kernel holds against every writer, safetensors among them."""
    job, named = KINDS["training"]
    child = start(job, tmp_path, limit=limit, **named).end()
    one_line(child, str(tmp_path), "can't be written: ", "File too large")
    assert_whole(tmp_path)
    assert start(job, tmp_path, **named).end().code == 0
    assert numbers(tmp_path) == whole("training", False)[0] and leftovers(tmp_path) == []


IN_A_SMALL_DISK = """
mount -t tmpfs -o size=2m none {disk} || exit 77
align() {{ {python} -m infalign_edu align --resume --out {disk}/run {options}; echo "code $?"; }}
align; mount -o remount,size=64m {disk} && align && cp -r {disk}/run {kept}; mount -o remount,ro {disk} && align
"""


@pytest.mark.slow
def test_a_real_disk_that_is_full_and_then_read_only(writes, tmp_path):
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    given = " ".join(fault_jobs.options(fault_jobs.SHORT))
    script = IN_A_SMALL_DISK.format(disk=disk, kept=kept, python=sys.executable, options=given)
    done = subprocess.run(["unshare", "-Urm", "sh", "-c", script], capture_output=True, text=True, cwd=HERE.parent, timeout=300)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    assert re.findall("code (.*)", done.stdout) == ["2", "0", "2"], done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("infalign_edu: ")]
    assert len(errors) == 2 and "Traceback" not in done.stderr
    assert "can't be written: No space left on device" in errors[0] and "Read-only file system" in errors[1]
    here = {name.removeprefix("run/"): found for name, found in writes("run")[0].items()}
    assert numbers(kept) == here


@pytest.fixture(scope="module")
def finished(whole):
    whole("training", False)
    return whole.folders["training"]


PART = Path("run/exp_10")
DAMAGE = {
    "state": (PART / "state.safetensors", "checkpoint"),
    "snapshot": (PART / "snapshots" / "step-000006.safetensors", "checkpoint"),
    "table": (Path("run/calibration.npz"), "calibration table"),
    "config": (Path("run/config.json"), "config"),
}


def damaged(raw: bytes, how) -> bytes:
    """Cut to a share of its length, or with a byte flipped there."""
    what, share = how
    place = int(share * (len(raw) - 1))
    return raw[:place] if what == "cut" else raw[:place] + bytes([raw[place] ^ 0x55]) + raw[place + 1 :]


@pytest.mark.parametrize(
    "name, how",
    [("state", ("flip", 0.5)), *(
        pytest.param(name, how, marks=SLOW)
        for name in DAMAGE for how in [("cut", 0.0), ("cut", 0.001), ("cut", 0.5), ("cut", 0.999), ("flip", 0.25), ("flip", 0.9)]
        if how[0] == "cut" or name in ("state", "snapshot") or (name, how[1]) == ("table", 0.25)  # later: dates
    )],
)  # fmt: skip
def test_a_damaged_file_is_named_and_removing_it_mends_the_run(start, finished, tmp_path, name, how):
    (file, kind), folder = DAMAGE[name], tmp_path / "copy"
    shutil.copytree(finished / "run", folder / "run")
    good = (folder / file).read_bytes()
    (folder / file).write_bytes(damaged(good, how))
    line = one_line(start("align", folder, settings=ONE).end(), kind, str(folder / file), "remove it")
    assert f"{kind} '{folder / file}' " in line
    (folder / file).unlink()
    assert start("align", folder, settings=ONE).end().code == 0
    assert numbers(folder / "run") == numbers(finished / "run")


@pytest.mark.slow
@pytest.mark.parametrize("file", ["state.safetensors", "snapshots/step-000006.safetensors"])
def test_a_checkpoint_of_another_config_is_refused(start, finished, tmp_path, file):
    """The same names and shapes, another learning rate: nothing in the tensors tells."""
    file, other = PART / file, tmp_path / "other"
    assert start("align", other, settings=ONE | {"learning_rate": 0.001}).end().code == 0
    folder = tmp_path / "copy"
    shutil.copytree(finished / "run", folder / "run")
    shutil.copyfile(other / file, folder / file)
    child = start("align", folder, settings=ONE).end()
    one_line(child, str(folder / file), "must be of exp:10, this run, got one of exp:10, another run; remove it")
    (folder / file).unlink()
    assert start("align", folder, settings=ONE).end().code == 0
    assert numbers(folder / "run") == numbers(finished / "run")


def test_a_state_of_another_transform_config_or_shape_is_refused(tmp_path):
    with RunFolder(tmp_path / "b").open({"a": 2}, resume=False) as run:
        run.part("exp:10").save({"policy.w": torch.ones(2)}, 3)
    with RunFolder(tmp_path / "a").open({"a": 1}, resume=False) as run:
        here, other = run.part("identity"), run.part("exp:10")
        other.save({"policy.w": torch.ones(2)}, 3)
        here.save({}, 0)
        shutil.copyfile(other.state_file, here.state_file)
        with pytest.raises(ValueError, match="must be of identity, this run, got one of exp:10, this run; remove it"):
            here.latest()
        assert other.latest()[1] == 3
        shutil.copyfile(tmp_path / "b" / "exp_10" / "state.safetensors", other.state_file)
        with pytest.raises(ValueError, match="must be of exp:10, this run, got one of exp:10, another run; remove it"):
            other.latest()
        other.save({"policy.w": torch.ones(2)}, 3)

        class Strict:
            def restore(self, tensors, step):
                raise ValueError("checkpoint must hold w of shape (3,), got shape (2,)")

        with pytest.raises(ValueError, match=r"checkpoint '.*exp_10.state.safetensors' is not this run's: .*shape \(3,\)"):
            other.take_up(Strict())


def test_every_flipped_byte_and_every_cut_of_a_checkpoint_is_seen(tmp_path):
    file, tensors = tmp_path / "a.safetensors", {"policy.w": torch.arange(6.0), "adam.step": torch.tensor(3.0)}
    save_tensors(file, tensors, {"step": "3", "owner": "key exp:10"})
    good, seen = file.read_bytes(), 0
    for place in range(len(good)):
        for raw in (good[:place], good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]):
            file.write_bytes(raw)
            try:
                found, step = read_tensors(file, "key exp:10")
            except ValueError as error:
                assert f"checkpoint '{file}'" in str(error) and "\n" not in str(error)
                seen += 1
            else:  # spaces after the header, and the name of the digest itself
                assert step == 3 and all(torch.equal(found[name], value) for name, value in tensors.items())
    assert seen > 1.9 * len(good)


def test_every_flipped_byte_and_many_cuts_of_a_table_are_seen(tmp_path):
    file = tmp_path / "calibration.npz"
    EmpiricalCalibrator([[1.0, 2.0], [3.0, 4.0]], {"key": "abc"}).save(file)
    good, want, seen = file.read_bytes(), EmpiricalCalibrator.load(file), 0
    for place in range(len(good)):
        for raw in (good[:place], good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])[place % 3 != 0 :]:
            file.write_bytes(raw)
            try:
                found = EmpiricalCalibrator.load(file)
            except ValueError as error:
                assert f"calibration table '{file}'" in str(error) and "\n" not in str(error)
                seen += 1
            else:  # dates, attributes and the like
                assert np.array_equal(found.reference_rewards, want.reference_rewards) and found.metadata == want.metadata
    assert seen > len(good)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", '"steps"', "\udcff\udcfe"])
def test_a_config_that_is_no_json_object_is_named(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"^config '.*config.json' must hold a JSON object, got .*; remove it and resume"):
        with RunFolder(tmp_path).open({"steps": 3}, resume=True):
            pass
    (tmp_path / "config.json").unlink()
    with RunFolder(tmp_path).open({"steps": 3}, resume=True):
        assert json.loads((tmp_path / "config.json").read_text()) == {"steps": 3}


def test_metrics_that_lack_steps_are_named_and_a_torn_line_is_not_missed(tmp_path):
    files = TrainingFiles(tmp_path)
    for step in (1, 2, 3):
        files.append({"step": step})
    files.save({"policy.w": torch.zeros(1)}, 2)
    files.metrics_file.write_bytes(files.metrics_file.read_bytes()[:-3])
    assert files.latest()[1] == 2 and [row["step"] for row in files.metrics()] == [1, 2]
    files.metrics_file.write_text('{"step": 1}\n')
    with pytest.raises(ValueError, match="metrics '.*metrics.jsonl' must have a line for each of the 2 steps done, got 1; remove state"):
        files.latest()


def test_a_cell_that_is_damaged_or_of_another_setting_is_named(tmp_path):
    cell, setting = Cell("exp:10", 0.4, 0), Setting(("standard",), steps=3)
    found = Found(cell, 0.4, True, 1.0, 3, np.ones((1, 1, 2)), {"standard": 0.6}, 0.0, 1.0)
    store(tmp_path, found, setting, {"command": "c", "commit": "d"})
    assert stored(tmp_path, cell, setting)["theory"] == [0.6]
    with pytest.raises(ValueError, match=r"cell '.*npz' must be made with Setting\(.*steps=4.*, got Setting\(.*steps=3.*; remove it"):
        stored(tmp_path, cell, Setting(("standard",), steps=4))
    (file,) = tmp_path.glob("*.npz")
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match=rf"^cell '.*{re.escape(file.name)}' can't be read: .*; remove it, and the same command"):
        stored(tmp_path, cell, setting)


@pytest.mark.slow
def test_a_reward_model_in_the_cache_that_is_damaged_is_named(start, whole, tmp_path):
    job, named = KINDS["reward model"]
    assert start(job, tmp_path, **named).end().code == 0
    (file,) = (tmp_path / "rewards").glob("*.safetensors")
    file.write_bytes(damaged(file.read_bytes(), ("flip", 0.7)))
    one_line(start(job, tmp_path, **named).end(), str(file), "some bytes have changed", "remove it to have it fitted again")
    file.unlink()
    assert start(job, tmp_path, **named).end().code == 0
    assert numbers(tmp_path) == whole("reward model", False)[0]


@pytest.mark.parametrize("kind", ["training", "small sweep"])
def test_the_second_process_on_a_folder_is_refused_until_the_first_is_gone(start, tmp_path, kind):
    job, named = KINDS[kind]
    first = start(job, tmp_path, hold=True, **named)
    assert first.listen("begun"), first.text
    second = start(job, tmp_path, **named).end()
    place = tmp_path / ("run" if job == "align" else "runs/experiments/small")
    one_line(second, f"'{place}' is in use by another process ({first.process.pid} on {os.uname().nodename} since ")
    assert first.kill().end().code == -signal.SIGKILL
    third = start(job, tmp_path, hold=True, **named)
    assert third.listen("begun"), third.text  # it has the lock: the kernel took it from the dead
    third.kill().end()


def test_two_processes_fit_one_reward_model_once(start, whole, tmp_path):
    """The second waits, for both want the same file; when the first is killed it fits the model itself."""
    job, named = KINDS["reward model"]
    first = start(job, tmp_path, hold=True, **named)
    assert first.listen("begun"), first.text
    second = start(job, tmp_path, **named)
    assert second.listen(f"in use by another process ({first.process.pid} on "), second.text
    assert "begun" not in second.text
    first.kill().end()
    assert second.end().code == 0 and "begun" in second.text
    assert numbers(tmp_path) == whole("reward model", False)[0]


@pytest.mark.slow
def test_a_killed_sweep_leaves_no_worker_behind(start, tmp_path, capsys):
    """As the command runs it, its cells in a process of their own, which ends with the one that started it."""
    began, shares = time.monotonic(), (0.2, 0.6, 0.95)
    calm = start("sweep", tmp_path / "calm", pool=True)
    calm.listen("begun")
    at = time.monotonic()
    assert calm.end().code == 0
    seconds, hits = time.monotonic() - at, 0
    for share in shares:
        child = start("sweep", tmp_path / "killed", pool=True)
        child.listen("begun")
        if not child.listen(seconds=share * seconds):
            child.kill()
        child.end()  # the pipe is closed only when the worker is gone too
        hits += child.code == -signal.SIGKILL
    assert start("sweep", tmp_path / "killed", pool=True).end().code == 0
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "calm")
    told({"kind": "sweep with workers", "kills": hits, "minutes": (time.monotonic() - began) / 60}, capsys)
    assert hits >= 1
