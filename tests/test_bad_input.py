"""Bad input: either the right answer, or one line that names the field, the value and what is accepted.

The cases are listed in tests/bad_input/, by the part of the package that they are for; those of the command line are
here. Silence would be a wrong answer, so a warning counts as a failure too. Exit codes: see `infalign_edu.cli`.
"""

from __future__ import annotations

import json
import os
import random
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import safetensors
import torch
from bad_input import Case, agrees, data, method, models, rewards, runs, theory
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import infalign_edu as ia
from infalign_edu import cli
from infalign_edu.lm import datasets
from infalign_edu.rl import ctrl

CASES = [case for part in (method, theory, data, models, rewards, runs) for case in part.cases()]
LONG = {"10^6 nats, optimal"}  # seconds
EXPECTED = (ValueError, FileNotFoundError, ConnectionError, ImportError)  # what a caller may be told


def outcome(case: Case) -> str:
    """What went wrong with a case, "" for nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = case.call()
    except Exception as error:
        message = str(error)
        if case.kind == "value":
            return f"raised {type(error).__name__}: {message}"
        if "\n" in message or "Traceback" in message or len(message) > 600:
            return f"not one line: {message!r}"
        if absent := [text for text in case.says if text not in message]:
            return f"{type(error).__name__} without {absent}: {message}"
        return ""
    if case.kind == "error":
        return f"no error, but {found!r}"
    return "" if agrees(found, case.value) else f"{found!r} in the place of {case.value!r}"


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=c.name, marks=[pytest.mark.slow] if c.name in LONG else []) for c in CASES]
)
def test_the_right_answer_or_one_line_that_says_what_to_mend(case: Case) -> None:
    assert outcome(case) == ""


QUICK = shlex.split(
    "align --steps 1 --training-prompts 2 --heldout-prompts 2 --reference-samples 2 --prompts-per-step 2 "
    "--samples-per-prompt 2 --snapshots 1 --evaluation-samples 4 --base-samples 4 --out run"
)
USAGE = {  # the whole command line, and what the line says
    "": "COMMAND", "bogus": "'bogus'", "algin": "did you mean 'align'", "check-env extra": "extra", "align check": "check",
    "align --bogus 1": "--bogus 1", "align --procdure best-of-4": "did you mean '--procedure'", "align --beta abc": "--beta: invalid float value: 'abc'",
    "align --steps 1.5": "--steps: invalid int value: '1.5'", "align --steps": "--steps: expected one argument", "align --seed x": "'x'",
    "align --no-beta": "did you mean '--beta'", "align --resume=yes": "yes", "align --out": "--out",
}  # fmt: skip
SETTINGS = {  # what is added to QUICK, what the line says
    "--beta nan": "beta must be a positive number, got nan", "--beta 1e31": "beta must be a number from 1e-30 to 1e+30, got 1e+31", "--beta -1": "got -1.0", "--beta 0": "got 0.0", "--beta 1e-400": "got 0.0",
    "--beta 1 --target-kl 1": "beta or target_kl", "--target-kl -1": "target_kl must be a positive number, got -1.0",
    "--procedure bst-of-4": "did you mean 'best-of-4'", "--procedure best-of-poisson-3": "largest number of draws",
    "--procedure best-of-64": "evaluation_samples must be at least 64", "--procedure best-of-99999999999": "n must be at most 1,000,000",
    "--transform exq:10": "did you mean 'exp:10'", "--compare a,b": "'a'", "--algorithm rlo": "did you mean 'rloo'", "--seed -1": "seed", "--steps 0": "steps",
    "--warmup 0": "warmup", "--threads 0": "threads", "--micro-batch 0": "micro_batch", "--lora-rank -1": "lora_rank", "--reward-noise nan": "reward_noise",
    "--device gpu": "'gpu'", "--device cuda:99": "'cuda:99'", "--device meta": "'meta'", "--dtype float31": "did you mean 'float32'", "--out ''": "out must be",
    "--model nowhere": "'nowhere'", "--model empty": "config.json, got empty", "--model file": "'file'", "--out file": "'file'", "--out file/x": "'file/x'",
    "--allocator fast": "allocator", "--snapshots 0": "snapshots", "--samples-per-prompt 1": "samples_per_prompt",
    "--target-kl 1e6 --transform identity": "kl must be one that some beta reaches",
}  # fmt: skip
WITHIN = {  # noticed when the run folder is held
    "--reward gold:helpfullness": "did you mean 'helpfulness'", "--reward nope": "got 'nope'", "--reward learned:x": "got 'x'",
    "--reward learned:both:strength=2": "strength", "--reward learned:both:trigger=x": "trigger", "--prompts nofile.jsonl": "nofile.jsonl",
    "--prompts bad.jsonl": "bad.jsonl, line 1: not valid JSON", "--prompts empty": "got empty", "--prompts embeded": "did you mean 'embedded'",
    "--prompts one.jsonl": "at least 2 distinct prompts", "--prompts two.jsonl": "needs prompts of the embedded world",
    "--prompts utf16.jsonl": "save the file as UTF-8", "--reward classifier:empty --prompts two.jsonl": "config.json, got empty",
    "--calibration bad.jsonl": "calibration table 'bad.jsonl'", "--calibration none.npz": "'none.npz' does not exist", "--calibration empty": "'empty'",
    "--reward bradley-terry --preferences bad.jsonl": "bad.jsonl, line 1", "--reward bradley-terry --preferences two.jsonl": "chosen must be a string",
    "--max-new-tokens 5000": "64 tokens", "--reward-noise 1e308": "rewards must be finite, got",
}  # fmt: skip
AFTER = {  # calibrated
    "--learning-rate 1e30": "log-probabilities must be finite", "--algorithm bonbon:8": "at least N = 8",
    "--evaluation-samples 1000000000000": "memory must suffice, got RuntimeError",
}  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with files that are no good, and everything at home in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INFALIGN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "bad.jsonl").write_text("{bad\n")
    (tmp_path / "one.jsonl").write_text('{"prompt": "a"}\n')
    (tmp_path / "two.jsonl").write_text('{"prompt": "a b"}\n{"prompt": "c d"}\n')
    (tmp_path / "utf16.jsonl").write_bytes('{"prompt": "a"}\n'.encode("utf-16"))
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    return tmp_path


def told(arguments: list[str], capsys) -> tuple[int, list[str]]:
    """Exit code and the lines on stderr that are no progress bar."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # NumPy's would stand above the one line
            code = cli.main(arguments)
    except SystemExit as end:  # argparse's own
        code = end.code
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    return code, [line for line in lines if line.strip() and "it/s]" not in line and "s/it]" not in line and "?it/s" not in line]


def content(folder: Path) -> dict[str, bytes]:
    """Every file but the hidden ones, which are locks."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name[0] != "."}


@pytest.mark.parametrize("line", [*USAGE, *SETTINGS, *WITHIN])
def test_a_wrong_command_line_is_one_line_code_2_and_nothing_written(line: str, place: Path, capsys) -> None:
    before = content(place)
    code, lines = told(shlex.split(line) if line in USAGE else [*QUICK, *shlex.split(line)], capsys)
    says = (USAGE | SETTINGS | WITHIN)[line]
    assert code == cli.EXIT_INPUT and len(lines) == 1 and says in lines[0] and lines[0].startswith("infalign_edu"), lines
    assert content(place) == before


@pytest.mark.parametrize("line", AFTER)
def test_what_fails_in_training_leaves_whole_files(line: str, place: Path, capsys) -> None:
    code, lines = told([*QUICK, *shlex.split(line)], capsys)
    assert code == cli.EXIT_INPUT and AFTER[line] in lines[-1]
    json.loads((place / "run" / "config.json").read_text())
    assert ia.EmpiricalCalibrator.load(place / "run" / "calibration.npz").K == 2
    for file in (place / "run").rglob("*"):
        assert ".part" not in file.name
        if file.suffix == ".safetensors":
            safetensors.safe_open(file, "pt").keys()


def test_after_a_slip_the_mended_command_may_use_the_folder(place: Path, capsys) -> None:
    assert told([*QUICK, "--reward", "gold:helpfullness"], capsys)[0] == cli.EXIT_INPUT
    assert told([*QUICK, "--reward", "gold:helpfulness", "--compare", "identity"], capsys)[0] == cli.EXIT_OK
    assert (place / "run" / "report.html").is_file()
    code, lines = told([*QUICK, "--reward", "gold:helpfulness"], capsys)
    assert code == cli.EXIT_INPUT and "already holds a run: add --resume" in lines[0]
    kept = content(place)
    assert told([*QUICK, "--reward", "gold:nothing", "--resume"], capsys)[0] == cli.EXIT_INPUT
    assert content(place) == kept


def test_faults_interrupts_and_help(place: Path, capsys, monkeypatch) -> None:
    def fails(error: BaseException):
        def align(config: object) -> None:
            raise error

        monkeypatch.setattr(ctrl, "align", align)
        return told(QUICK, capsys)

    assert fails(KeyError("x\ny")) == (1, ["infalign_edu: KeyError: 'x\\ny' (INFALIGN_TRACEBACK=1 shows where)"])
    assert fails(type("PanicException", (BaseException,), {})("no pool")) == (1, ["infalign_edu: PanicException: no pool (INFALIGN_TRACEBACK=1 shows where)"])
    smaller = "ask for fewer prompts and samples, a smaller micro_batch or a smaller model"
    assert fails(MemoryError("15 GiB")) == (2, [f"infalign_edu: memory must suffice, got MemoryError: 15 GiB; {smaller}"])
    assert fails(torch.OutOfMemoryError("CUDA")) == (2, [f"infalign_edu: memory must suffice, got OutOfMemoryError: CUDA; {smaller}"])
    assert fails(KeyboardInterrupt()) == (130, ["infalign_edu: stopped; go on with --resume"])
    assert fails(OSError(28, "No space left on device", "a")) == (2, ["infalign_edu: [Errno 28] No space left on device: 'a'"])
    monkeypatch.setenv("INFALIGN_TRACEBACK", "1")
    with pytest.raises(KeyError):
        fails(KeyError("x"))
    for arguments in (["--help"], ["align", "--help"], ["check-env", "--help"]):
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        shown = " ".join(capsys.readouterr().out.split())
        assert end.value.code == 0 and all(f"{code} " in shown[shown.index("exit codes:") :] for code in (0, 1, 2, 130))


def child(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "infalign_edu", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | more, check=False, timeout=120)


@pytest.mark.slow
def test_a_child_process_ends_in_the_same_way(place: Path) -> None:
    before = content(place)
    done = child(*QUICK, "--reward", "gold:helpfullness")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1) and "did you mean 'helpfulness'" in done.stderr
    assert content(place) == before


@pytest.mark.slow
@pytest.mark.parametrize("line", ["", "align --beta abc", "align --device cuda:99", "align --prompts bad.jsonl", "align --target-kl 1e6 --transform optimal"])
def test_more_child_processes(line: str, place: Path) -> None:
    done = child(*shlex.split(line))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1) and "Traceback" not in done.stdout + done.stderr


OLD = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}  # a terminal that knows ASCII only


def test_a_terminal_that_knows_ascii_only_is_told_all(place: Path) -> None:
    done = child(*QUICK, "--reward", "gold:helpfulness", "--compare", "identity", "--out", "läuft", **OLD)
    assert done.returncode == 0 and r" \xb1 0." in done.stdout and done.stdout.splitlines()[-1].startswith("report: l"), done


def test_an_output_that_nobody_reads_is_one_line(place: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    for line in (["check-env"], QUICK):
        command = [sys.executable, "-m", "infalign_edu", *line]
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False, timeout=120)
        assert (done.returncode, done.stderr) == (2, "infalign_edu: standard output was closed before all was told\n")
    os.close(write)


@pytest.mark.parametrize("cache", ["file", "file/in/it"])
def test_a_cache_that_is_no_folder_is_named(cache: str, place: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("INFALIGN_CACHE", cache)
    code, lines = told([*QUICK, "--reward", "bradley-terry"], capsys)
    assert (code, lines[-1]) == (2, f"infalign_edu: $INFALIGN_CACHE must name a folder, got {cache!r}")


GRADING = {"nowhere --out out": "must be a folder, got", "empty --out out": "got none in", "empty --out empty/out": "out must lie outside",
           "empty --out out --jobs 0": "jobs must be at least 1, got 0", "empty --out out --masters empty": "must", "file --out out": "must be a folder"}  # fmt: skip


@pytest.mark.parametrize("line", GRADING)
def test_grading_and_copies_end_in_one_line(line: str, place: Path, capsys) -> None:
    from infalign_edu.classroom.grading.__main__ import main

    before = content(place)
    assert main(line.split()) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and GRADING[line] in lines[0] and content(place) == before


def test_there_are_more_than_two_hundred_cases_each_with_a_name_of_its_own() -> None:
    lines = [*USAGE, *SETTINGS, *WITHIN, *AFTER, *GRADING]
    assert len(CASES) > 900 and len(lines) > 70
    by_kind = {kind: sum(case.kind == kind for case in CASES) for kind in ("error", "value")}
    assert by_kind["error"] > 750 and by_kind["value"] > 90, by_kind
    assert all(case.says for case in CASES if case.kind == "error" and "seed" not in case.name)


# What nobody has thought of: any object at all, any bytes in a file, any words on the command line.

WORDS = ["best-of-", "worst-of-4", "exp:", "power:", "+", "*", "0.5", "standard", "-", ":", "nan", "1e999", "\n", "\0", "gold:", "learned:"]
THINGS = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers(), st.text(max_size=9), st.binary(max_size=9),
              st.lists(st.sampled_from(WORDS), max_size=4).map("".join), st.dates(),
              hnp.arrays(st.sampled_from(["f2", "f8", "i4", "U3", "?", "c8", "M8[s]"]), hnp.array_shapes(min_side=0, max_dims=3, max_side=3))),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=2), st.tuples(inner, inner)),
    max_leaves=5,
)  # fmt: skip
ASKED = {
    "calibrator": lambda x: ia.EmpiricalCalibrator(x), "rewards": lambda x: ia.EmpiricalCalibrator([[1.0]])(x),
    "win rate": lambda x: ia.win_rate(x, x), "procedure": lambda x: ia.win_rate([[1.0]], [[1.0]], x) if x is not None else None,
    "transform": lambda x: ia.transform(x), "tabulated": lambda x: ia.Tabulated(x, x), "n": lambda x: ia.BestOfN(x), "t": lambda x: ia.BestOfN(2).cdf(x),
    "mixture": lambda x: ia.Mixture(x, [ia.Standard()]), "beta": lambda x: ia.theory.tilt(ia.Identity(), x), "problem": lambda x: ia.theory.FiniteProblem(x, x),
    "below": lambda x: ia.unbiased_power(x, 4, 2), "settings": lambda x: ia.CTRLConfig(procedure=x, beta=x), "seed": lambda x: ia.CTRLConfig(seed=x),
    "score": lambda x: ia.lm.rewards.score(lambda p, r: x, ["a"], ["b"]), "reward": lambda x: ia.lm.rewards.reward(x) if "learned" not in str(x) else None,
    "prompts": lambda x: models.policy().encode(x), "split": lambda x: datasets.split(x, [0.5], 0), "fractions": lambda x: datasets.split(["a", "b"], x, 0),
    "spec": lambda x: datasets.load_prompts(x) if not isinstance(x, int) else None, "delta": lambda x: ia.theory.dkw_band(9, x), "name": lambda x: ia.shipped(x) if x else None,
}  # fmt: skip


def anything(ask: str, thing: object) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ASKED[ask](thing)
    except EXPECTED as error:
        assert str(error) and "\n" not in str(error) and len(str(error)) < 700, str(error)


@pytest.mark.parametrize("ask", [ask for ask in ASKED if ask != "name"])
@hypothesis_settings(max_examples=25)
@given(thing=THINGS)
def test_any_object_is_an_answer_or_one_line(ask: str, thing: object) -> None:
    anything(ask, thing)


@pytest.mark.slow
@pytest.mark.parametrize("ask", [ask for ask in ASKED if ask != "name"])
@hypothesis_settings(max_examples=1500)
@given(thing=THINGS)
def test_any_object_at_length(ask: str, thing: object) -> None:
    anything(ask, thing)


def any_file(folder: Path, bytes_: bytes, suffix: str) -> None:
    file = folder / f"any{suffix}"
    file.write_bytes(bytes_)
    for load in (datasets.load_prompts, datasets.load_preferences):
        try:
            assert all(isinstance(text, str) and text.strip() for text in (p if isinstance(p, str) else p.prompt for p in load(file)))
        except ValueError as error:
            assert str(file) in str(error) and "\n" not in str(error)


PIECES = st.sampled_from([b'{"prompt": "a"}', b"\n", b"\r\n", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b'{"chosen": "', b'"}', b"\\ud800", b"[" * 99, b"\x1f\x8b\x08\0", b"9" * 5000])
BYTES = st.one_of(st.binary(max_size=99), st.lists(st.one_of(PIECES, st.binary(max_size=5)), max_size=8).map(b"".join))


@hypothesis_settings(max_examples=150)
@given(bytes_=BYTES, suffix=st.sampled_from([".jsonl", ".jsonl.gz", ".txt", ".json"]))
def test_any_bytes_are_prompts_or_one_line_with_the_file(bytes_: bytes, suffix: str, tmp_path_factory) -> None:
    any_file(tmp_path_factory.getbasetemp(), bytes_, suffix)


def any_command(rng: random.Random, place: Path, capsys, monkeypatch) -> None:
    """A command line of real options with values that somebody typed; nothing is run."""
    monkeypatch.setattr(ctrl, "align", lambda config: (_ for _ in ()).throw(ValueError("stopped here")))
    options = [f"--{name.replace('_', '-')}" for name in ia.CTRLConfig.__dataclass_fields__]
    values = ["", "0", "-1", "1", "1.5", "nan", "inf", "1e999", "best-of-4", "exp:10", "a b", "--", "-", "\u0664", "9" * 400, "None", "[1]", "embedded"]
    line = ["align"]
    for _ in range(rng.randint(0, 3)):
        line += [rng.choice(options), rng.choice(values)]
    code, lines = told(line, capsys)
    assert code == 2 and len(lines) == 1 and content(place) == content(place), (line, lines)


@pytest.mark.parametrize("number", [40, pytest.param(2000, marks=pytest.mark.slow)])
def test_any_words_on_the_command_line_are_one_line(number: int, place: Path, capsys, monkeypatch) -> None:
    rng, before = random.Random(0), content(place)
    for _ in range(number):
        any_command(rng, place, capsys, monkeypatch)
    assert content(place) == before


def test_the_numbers_that_come_in_are_numbers() -> None:
    from infalign_edu import inputs

    values = np.array([[1.0, 2.0]])
    assert inputs.reals("x", values) is values  # no copy where none is needed
    assert inputs.reals("x", [[1, 2]]).dtype == np.float64
    assert inputs.texts("prompts", iter(["a", "b"])) == ["a", "b"]
