"""A training job in a process of its own, tied to this one by a pipe.

The job holds one end of the pipe and this process the other: closing it is how the job is asked to stop, on every
system alike, and it closes by itself when this process dies, so that no job outlives its page. Left out: jobs on
another machine.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from typing import IO

STOPPED = 130  # exit status of a job that was interrupted with its state on disk
_JOB = """
import os, sys, threading, time, _thread
def follow():
    os.read(0, 1)  # returns when the page stops the job, or is gone
    for _ in range(2):  # the first is answered after the step, the second at once
        _thread.interrupt_main()
        time.sleep(30)
    os._exit(130)
threading.Thread(target=follow, daemon=True).start()
from infalign_edu.cli import main
sys.exit(main(sys.argv[1:]))
"""


class Job:
    """One process that trains; closing its input stops it after the step it is in. Raises: OSError."""

    def __init__(self, arguments: list[str]) -> None:
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the job, and never on the page
        self.stopping = False
        command = [sys.executable, "-c", _JOB, "align", *arguments]
        self.process = subprocess.Popen(  # a session of its own: interrupting a cell does not stop the training
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self.errors, start_new_session=True
        )

    def stop(self) -> None:
        """Asks the job to finish its step, save and end; returns at once."""
        self.stopping = True
        assert self.process.stdin is not None
        self.process.stdin.close()

    def ended(self) -> int | None:
        """Its exit status, None while it runs."""
        return self.process.poll()

    def last_words(self) -> str:
        """The last line the job wrote to its standard error: where `align` says what is wrong."""
        self.errors.seek(0)
        lines = self.errors.read().decode("utf-8", "replace").replace("\r", "\n").split("\n")
        told = [line.strip() for line in lines if line.strip()]
        return told[-1] if told else f"the job ended with status {self.process.returncode}"
