"""One answer in one process of its own, which is given arguments and hands back values, nothing else.

What a learner's code can reach is described in `walls.py`, what travels in `worker.py`. Here the grader starts the
process with an empty environment in an empty folder, reads at most a few megabytes, and ends its whole process group
when it is done or late. Left out: a process that escapes from its group can only be found by a mark in its environment
(Linux); where the kernel's walls stand there is none, because no process can be started.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infalign_edu.classroom.exercise import Arguments, Failure
from infalign_edu.classroom.grading.worker import decode, encode

START = 120.0  # seconds until Python and its imports are ready, before any of the learner's code runs
FLAGS = 8  # refusals that are told; the process that reports them may be lying
PACKAGE = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("worker.py")


@dataclass(frozen=True)
class Limits:
    """What one answer may use: seconds of processor and of wall clock, bytes above the imports, bytes handed in."""

    cpu: int = 10
    wall: float = 20.0
    memory: int = 1 << 30
    results: int = 8 << 20
    printed: int = 4096

    def __str__(self) -> str:
        return f"{self.cpu} s of processor time, {self.wall:g} s in all, {self.memory >> 20} MiB"


USUAL = Limits()


@dataclass(frozen=True)
class Code:
    """A learner's code for one exercise: cells in order with the answer last, the function's name, import lines."""

    cells: tuple[str, ...]
    function: str
    imports: tuple[str, ...] = ("import math", "import numpy as np")


@dataclass(frozen=True)
class Run:
    """What came back from a process: a value or a Failure for each case, and what the grader noticed."""

    values: tuple[Any, ...]
    seconds: float = 0.0
    flags: tuple[str, ...] = ()
    walls: tuple[str, ...] = ()
    printed: str = ""


def run(code: Code, cases: Sequence[Arguments], limits: Limits = USUAL, hidden: Sequence[Path] = ()) -> Run:
    """What a learner's function returns for `cases`, computed in a process of its own.

    >>> run(Code(("def f(x, y):\\n    return x / y",), "f"), [(3, 2), (3, 0)]).values
    (1.5, Failure(says='it raised ZeroDivisionError: division by zero'))
    """
    encoded = [encode(tuple(case)) for case in cases]
    request = {
        "cells": code.cells, "function": code.function, "imports": code.imports, "cases": encoded,
        "cpu": limits.cpu, "memory": limits.memory,
        "hidden": [f"{path}/" for path in (PACKAGE, *hidden)],
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="answer-", ignore_cleanup_errors=True) as folder:
        with tempfile.TemporaryFile() as asked:
            asked.write(json.dumps(request).encode("utf-8", "replace"))
            asked.seek(0)
            process = _Process(folder, asked, limits)
        return process.collect(len(cases))


class _Process:
    """A running worker and what it has sent so far."""

    def __init__(self, folder: str, asked: Any, limits: Limits) -> None:
        self.limits, self.token, self.started = limits, uuid.uuid4().hex, time.monotonic()
        reading, writing = os.pipe()
        environment = {
            "HOME": folder, "TMPDIR": folder, "PATH": os.defpath, "LC_ALL": "C.UTF-8", "INFALIGN_ANSWER": self.token,
            "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        try:
            self.child = subprocess.Popen(
                [sys.executable, "-I", "-B", str(WORKER), str(writing)],
                stdin=asked, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder, env=environment,
                pass_fds=(writing,), start_new_session=True, bufsize=0,
            )  # fmt: skip
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        assert self.child.stdout is not None
        self.pipes = {reading: bytearray(), self.child.stdout.fileno(): bytearray()}
        self.results, self.ready = reading, 0.0

    def collect(self, cases: int) -> Run:
        """Reads until the worker is done, dead, late or too loud; then ends it."""
        try:
            stopped = self._listen()
        finally:
            self._end()
        lines = [_parse(line) for line in bytes(self.pipes[self.results]).split(b"\n") if line]
        return self._summary(lines, cases, stopped)

    def _listen(self) -> str:
        with selectors.DefaultSelector() as selector:
            for pipe in self.pipes:
                selector.register(pipe, selectors.EVENT_READ)
            while selector.get_map():
                now = time.monotonic()
                until = self.ready + self.limits.wall if self.ready else self.started + START
                if now > until:
                    return "time"
                for key, _ in selector.select(min(until - now, 1.0)):
                    if not self._read(key.fd):
                        selector.unregister(key.fd)
                        if key.fd == self.results:
                            return ""
                if len(self.pipes[self.results]) > self.limits.results:
                    return "results"
        return ""

    def _read(self, pipe: int) -> bool:
        piece = os.read(pipe, 1 << 16)
        kept = self.pipes[pipe]
        if pipe == self.results:
            kept += piece
            if not self.ready and b"\n" in kept:
                self.ready = time.monotonic()
        elif len(kept) < self.limits.printed:
            kept += piece[: self.limits.printed - len(kept)]
        return bool(piece)

    def _end(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):  # it has closed its pipe: let it say how it ended
            if b'{"done"' in bytes(self.pipes[self.results][-32:]):
                self.child.wait(0.5)
            else:
                self.child.wait(0.05)
        self.status = self.child.poll()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.kill()
        self.child.wait()
        _end_marked(self.token)
        with contextlib.suppress(BlockingIOError):  # what it printed last, unless it printed more than anybody reads
            os.set_blocking(self.child_out, False)
            while len(self.pipes[self.child_out]) < self.limits.printed and self._read(self.child_out):
                pass
        os.close(self.results)
        assert self.child.stdout is not None
        self.child.stdout.close()

    def _summary(self, lines: list[dict[str, Any]], cases: int, stopped: str) -> Run:
        values: dict[int, Any] = {}
        broken = next((Failure(_line(line["broken"])) for line in lines if "broken" in line), None)
        refused = [f"refused: {_line(line['refused'])}" for line in lines if "refused" in line]
        flags = set(refused[:FLAGS])
        for line in lines:
            at = line.get("case")
            if type(at) is int and 0 <= at < cases and at not in values:
                values[at] = _value(line)
        if broken is None and len(values) < cases:
            broken = Failure(self._why(stopped))
            flags.add(f"limit: {broken.says}")
        if any("out of memory" in value.says for value in values.values() if isinstance(value, Failure)):
            flags.add(f"limit: {self.limits.memory >> 20} MiB of memory")
        ready: list[Any] = next((line["ready"] for line in lines if isinstance(line.get("ready"), list)), [])
        return Run(
            values=tuple(values.get(i, broken) for i in range(cases)),
            seconds=time.monotonic() - (self.ready or self.started),
            flags=tuple(sorted(flags)),
            walls=tuple(str(name) for name in ready),
            printed=bytes(self.pipes[self.child_out]).decode("utf-8", "replace"),
        )

    @property
    def child_out(self) -> int:
        return next(pipe for pipe in self.pipes if pipe != self.results)

    def _why(self, stopped: str) -> str:
        if stopped == "time":
            if not self.ready:
                return f"the grader could not start within {START:g} s"
            return f"it ran longer than the {self.limits.wall:g} s that an answer has, perhaps in a loop without an end"
        if stopped == "results":
            return f"it handed in more than {self.limits.results >> 20} MiB"
        if self.status in (-signal.SIGXCPU, -signal.SIGKILL):
            return f"it took more than the {self.limits.cpu} s of processor time that an answer has"
        return "it ended its process before it returned a value"


def _parse(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _value(line: dict[str, Any]) -> Any:
    if "failed" in line:
        return Failure(_line(line["failed"]))
    try:
        return decode(line["value"], tensors=False)
    except Exception:  # decode reads what a hostile process may have written
        return Failure("it handed in something that is no value")


def _line(text: Any) -> str:
    """Text from a learner's process on one printable line of bounded length."""
    shown = " ".join("".join(c if c.isprintable() else " " for c in str(text)[:400]).split())
    return shown.rstrip(".") or "it failed without a message"


def _end_marked(token: str) -> None:
    """Ends processes that an answer started and that left its group, found by the mark in their environment."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if token.encode() in (process / "environ").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
