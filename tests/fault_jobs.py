"""What test_faults.py starts in child processes: small runs that are killed at a moment, or whose disk fails at a call.

A moment is counted in Python's own calls and returns, so that it is the same one on a slow and on a fast machine, or
the child says `begun` and whoever watches it kills it from outside. Every child is forked from a process that has
imported all this: the run is new, the minutes of importing are not.
"""

import errno
import os
import resource
import signal
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError

import infalign_edu as ia
import infalign_edu.theory  # noqa: F401
from infalign_edu import cli
from infalign_edu.lm import files, rewards
from infalign_edu.lm.datasets import load_preferences
from infalign_edu.lm.models import load
from infalign_edu.rl import ctrl, evaluation, report  # noqa: F401
from infalign_edu.rl.data import prepare
from infalign_edu.rl.experiments import design, runner
from infalign_edu.rl.runs import RunFolder

TINY = {
    "steps": 6, "warmup": 2, "prompts_per_step": 2, "samples_per_prompt": 4, "training_prompts": 4,
    "reference_samples": 4, "heldout_prompts": 3, "evaluation_samples": 4, "base_samples": 4, "snapshots": 3,
    "transform": "exp:10", "compare": "identity",
}  # fmt: skip
SHORT = TINY | {"steps": 2, "snapshots": 2, "compare": "", "prompts_per_step": 1}
TABLE = TINY | {"training_prompts": 24, "reference_samples": 16}
PAIRS = 160  # preference pairs of a reward model or head
SWEEP = """
seeds = [0]
kl = [0.01, 0.03]
procedures = ["standard", "best-of-2"]
steps = 2
prompts_per_step = 1
heldout_prompts = 3
training_prompts = 4
evaluation_samples = 4
cells = [{ transform = ["identity", "exp:10"], reward = "gold:helpfulness" }]
[[pairs]]
claim = "one beats another"
policy = { transform = "exp:10" }
baseline = { transform = "identity" }
shown = ["best-of-2"]
"""


class Moment:
    """The stretch of a job in which it may be killed: at its n-th call, from outside, or never; `hold`: it stays."""

    def __init__(self, kill: int = 0, hold: bool = False) -> None:
        self.kill, self.hold, self.calls = kill, hold, 0

    def begin(self) -> None:
        if self.calls == 0:
            print("begun", flush=True)
            if self.hold:
                signal.pause()
            if self.kill >= 0:
                threading.setprofile(self._look)
                sys.setprofile(self._look)

    def end(self) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    def _look(self, frame, event, argument) -> None:
        self.calls += 1
        if self.calls == self.kill:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, module, first: str, last: str = "") -> None:
        """From the first call of a function to the end of the job, or to the first call of another."""
        for name, mark in ((first, self.begin), (last, self.end)):
            if name:
                setattr(module, name, self._marked(getattr(module, name), mark))

    @staticmethod
    def _marked(function, mark):
        def marked(*given, **named):
            mark()
            return function(*given, **named)

        return marked


def broken_disk(folder: Path, at: int, number: int, lasting: bool) -> list[str]:
    """Lets the `at`-th call that writes below the folder fail with this error number, and if lasting all later ones."""
    seen: list[str] = []

    def check(what: str, given: object) -> None:
        path = Path(str(given))
        if str(path).startswith(f"{folder}/") and path != folder / "small.toml":
            seen.append(f"{what} {path}")
            if len(seen) == at or (lasting and len(seen) > at > 0):
                raise OSError(number, os.strerror(number), str(path))

    def hook(event: str, given: tuple) -> None:
        if event == "open" and isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR):
            check("open", given[0])
        elif event in ("os.mkdir", "os.rename") or (event == "os.remove" and number == errno.EROFS):
            check(event, given[0])

    fsync, save = os.fsync, files.save_file

    def synced(handle: int) -> None:
        check("fsync", Path(f"/proc/self/fd/{handle}").readlink())
        fsync(handle)

    def saved(tensors, path, about) -> None:
        try:
            check("save", path)
        except OSError as error:
            told = f"Error while serializing: I/O error: {error.strerror} (os error {error.errno})"
            raise SafetensorError(told) from None
        save(tensors, path, about)

    os.fsync, files.save_file = synced, saved
    sys.addaudithook(hook)
    return seen


def options(settings: dict) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in settings.items() if value != ""]


def align(folder: Path, moment: Moment, region: str = "training", settings: dict = TINY, more: tuple = ()) -> int:
    """The command line; killed in training, or while it judges and writes the report."""
    if region == "training":
        moment.around(ctrl, "train")
        moment.around(evaluation, "", "evaluate")
    else:
        moment.around(evaluation, "evaluate")
    return cli.main(["align", f"--out={folder / 'run'}", "--resume", *options(settings), *more])


def calibrate(folder: Path, moment: Moment) -> int:
    """The table of a run, alone."""
    reference = load("embedded", device="cpu")
    config = ctrl.fitted(ia.CTRLConfig(out=str(folder / "run"), resume=True, **TABLE), reference)
    torch.set_num_threads(1)
    data = prepare(config, reference)
    moment.begin()
    with RunFolder(config.out).open(config.identity(), resume=True) as run:
        ctrl.calibrate(config, run, reference, data)
    return 0


def learned(folder: Path, moment: Moment) -> int:
    """A fine-tuned reward model in its cache; the stretch begins once it holds the lock."""
    rewards.TEST_PAIRS = 40
    moment.around(rewards, "sample_preferences")
    rewards.learned("helpfulness", pairs=PAIRS, cache=folder / "rewards")
    return 0


def head(folder: Path, moment: Moment) -> int:
    """A linear reward head, its features kept block by block."""
    policy, pairs = load("embedded", device="cpu"), load_preferences("embedded")[: 2 * PAIRS]
    torch.set_num_threads(1)
    moment.begin()
    rewards.BradleyTerry.fit(pairs, policy, cache=folder / "features").save(folder / "head.npz")
    return 0


def sweep(folder: Path, moment: Moment, pool: bool = False, cells: int = 4) -> int:
    """An experiment of four cells in two groups, two in two, or one; with `pool` in processes of its own, as the command runs it."""
    runner.ROOT, design.HERE, ctrl.APPROACHES = folder, folder, 1
    folder.mkdir(exist_ok=True)
    few = SWEEP if cells == 4 else SWEEP.replace("[0.01, 0.03]", "[0.01]")
    few = few.replace('["identity", "exp:10"]', '"identity"') if cells == 1 else few
    (folder / "small.toml").write_text(few)
    if not pool:
        runner.ProcessPoolExecutor = lambda jobs, context, initializer: ThreadPoolExecutor(jobs)
    moment.around(runner, "sweep")
    try:
        runner.main(["small"])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


JOBS = {"align": align, "calibrate": calibrate, "learned": learned, "head": head, "sweep": sweep}


def child(writer, job: str, folder: Path, kill: int, hold: bool, disk: tuple, limit: int, named: dict) -> None:
    """Runs a job with its output in a pipe; the last line says how many calls it took, or how often it wrote."""
    for stream in (1, 2):
        os.dup2(writer.fileno(), stream)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    moment, seen = Moment(kill, hold), broken_disk(folder, *disk) if disk else []
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    code = 99
    try:
        code = JOBS[job](folder, moment, **named)
    except (ValueError, OSError) as error:  # as the command line tells it
        print(f"infalign_edu: {' '.join(str(error).split())}")
        code = 2
    except BaseException:
        traceback.print_exc()
    moment.end()
    print(f"\ncpu {time.process_time():.2f}")
    print(f"counted {moment.calls} {len(seen)}", flush=True)
    sys.stderr.flush()
    os._exit(code)
