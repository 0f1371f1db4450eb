"""A running job as live curves and samples, with buttons that start, stop and resume it.

The job is `python -m infalign_edu align` in a process of its own (`job`), so that the page stays free, and the monitor
reads the run folder from outside (`runs`): it follows a job of a terminal as well as its own. A stopped job finishes
its step and saves. Left out: stopping what was started elsewhere.

Runs go to runs/monitor-1, -2 ... in the working folder unless a folder is named: where the command line puts its own,
in sight, and still there to be resumed when the kernel is not. Nothing is written before Start is pressed.
"""

from __future__ import annotations

import asyncio
import html
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from infalign_edu.classroom.widgets import runs
from infalign_edu.classroom.widgets.explorer import Explorer, choice, slider, whole
from infalign_edu.classroom.widgets.job import STOPPED, Job
from infalign_edu.classroom.widgets.run_view import Seen, curves, figure, plan_words, run_words
from infalign_edu.rl.config import CTRLConfig

EVERY = 0.5  # seconds between two looks at the folder
SMALL = {"training_prompts": 96, "reference_samples": 24, "heldout_prompts": 40, "evaluation_samples": 8,
         "prompts_per_step": 8, "samples_per_prompt": 12, "snapshots": 6}  # fmt: skip


class TrainingMonitor(Explorer[Seen]):
    """Live curves, examples and buttons of one run folder; `settings` are fields of `CTRLConfig` without a control.

    `poll()` looks at the folder once; in a kernel a task calls it twice a second. Raises: ValueError for a setting
    that `CTRLConfig` refuses.

    >>> monitor = TrainingMonitor()
    >>> monitor.data.state, monitor.text.split(":")[0]
    ('no run', 'No run yet')
    """

    title = "Training monitor"

    def __init__(self, folder: str | Path | None = None, **settings: Any) -> None:
        self.folder, self.settings = None if folder is None else Path(folder), {**SMALL, **settings}
        self.named, self.ours = folder is not None, False
        self.job: Job | None = None
        self._examples: tuple[Path, list[runs.Example]] | None = None
        self._task: asyncio.Task[None] | None = None
        self._stamp: object = None
        self.live = figure()
        self.start_button, self.stop_button, self.resume_button = self._buttons()
        self.bar = widgets.IntProgress(description="steps done", style={"description_width": "90px"})
        self.table = widgets.HTML()
        row = widgets.HBox([self.start_button, self.stop_button, self.resume_button, self.bar])
        super().__init__(_controls(), extra=(row,))
        self.box.children = (*self.box.children[:-1], self.table, self.message)
        self.box.observe(lambda change: self.close() if change["new"] is None else None, "comm")
        self._follow()

    def _buttons(self) -> list[widgets.Button]:
        made = []
        for name, does, says in (
            ("Start", self.start, "train a policy with the settings above, in a run folder of its own"),
            ("Stop", self.stop, "finish the step, save, and end; Resume goes on from there"),
            ("Resume", self.resume, "go on with the run in this folder, with the settings it was started with"),
        ):
            button = widgets.Button(description=name, tooltip=says, layout=widgets.Layout(width="90px"))
            button.on_click(self.guarded(lambda button, does=does: does()))
            made.append(button)
        return made

    def start(self) -> None:
        """Starts a new run. Raises: RuntimeError while one is running, ValueError for settings."""
        config = self._config(**self.values())
        folder = self.folder if self.named and self.folder else _free(Path("runs"))
        self._launch(folder, runs.arguments(config.identity()))

    def resume(self) -> None:
        """Goes on with the run in the folder, with its own settings. Raises: RuntimeError without one."""
        saved = runs.saved_config(self.folder) if self.folder else None
        if saved is None or self.folder is None:
            raise RuntimeError("there is no run to resume yet: press Start")
        self._launch(self.folder, [*runs.arguments(saved), "--resume"])

    def stop(self) -> None:
        """Asks the job to end after its step; the next polls see it end. Raises: RuntimeError without a job."""
        if self.job is None:
            raise RuntimeError("this page runs no job: stop a job of another process where it was started")
        self.job.stop()
        self.poll()

    def close(self) -> None:
        """Ends the job, as Stop does, and takes the monitor off the page."""
        if self.job is not None and not self.job.stopping:
            self.job.stop()
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self.box.comm is not None:
            self.box.close()

    def _launch(self, folder: Path, arguments: list[str]) -> None:
        if self.job is not None:
            raise RuntimeError("a job is running: stop it first")
        self.job = Job([*arguments, f"--out={folder}"])
        self.folder, self.ours, self._examples, self._stamp = folder, True, None, None
        self.table.value = ""
        self._follow()
        self.poll()

    def poll(self) -> None:
        """Looks once and shows what is new. Raises: RuntimeError with the last words of a job that failed."""
        code = self.job.ended() if self.job is not None else None
        ended = self.job if code is not None else None
        if ended is not None:
            self.job = None
        stamp = (runs.stamp(self.folder) if self.folder else (), self.job and self.job.stopping, ended)
        if stamp != self._stamp:
            self._stamp = stamp
            self.refresh()
        if ended is not None and code not in (0, STOPPED) and not (ended.stopping and code != 2):
            raise RuntimeError(ended.last_words())

    def look(self) -> None:
        """Samples from the newest snapshot if it is new; torch is imported and the model loaded the first time."""
        snapshot = runs.newest_snapshot(self.folder) if self.folder else None
        if self.folder is None or snapshot is None or (self._examples and self._examples[0] == snapshot):
            return
        found = runs.examples(self.folder, snapshot)
        self._examples = (snapshot, found)
        self.table.value = runs.table(found, int(snapshot.stem.partition("-")[2]))

    def _follow(self) -> None:
        """Polls from now on, in the kernel's event loop; a script without one calls `poll` itself."""
        if self.folder is None or (self._task is not None and not self._task.done()):
            return
        try:
            self._task = asyncio.get_running_loop().create_task(self._watch())
        except RuntimeError:
            self._task = None

    async def _watch(self) -> None:
        over = False
        while not over:
            await asyncio.sleep(EVERY)
            try:
                self.poll()
            except Exception as error:
                self.complain(error)
            over = self.job is None and (self.ours or self.data is None or self.data.state == "finished")
            await self._glance()

    async def _glance(self) -> None:
        """`look` in a thread: importing torch must not freeze the page."""
        try:
            await asyncio.to_thread(self.look)
        except Exception as error:  # the curves go on without examples
            self.table.value = html.escape(f"No examples: {error}")

    def _config(self, procedure: str, transform: str, target_kl: float, steps: int, seed: int) -> CTRLConfig:
        chosen = {"procedure": procedure, "transform": transform, "steps": steps, "seed": seed}
        return CTRLConfig(**(self.settings | chosen), target_kl=round(target_kl, 6))

    def compute(self, **values: Any) -> Seen:
        """The run in the folder, and what Start would train."""
        asked = self._config(**values)
        run = runs.progress(self.folder) if self.folder else None
        found = runs.plan_of(run.config, run.transform) if run and run.config else None
        return Seen(run, self._state(run), self.folder, asked, found, runs.plan_of(asked, str(asked.transform)))

    def _state(self, run: runs.Progress | None) -> str:
        if self.job is not None:
            return "running"
        if run is None:
            return "no run"
        if run.report is not None:
            return "finished"
        return "stopped" if self.ours else "a run of another process"

    def draw(self, data: Seen) -> bytes:
        """Each step as a dot, the mean of the last eight as a line, and where theory says it should end."""
        return self.live.update(curves(data))

    def describe(self, data: Seen) -> str:
        """State, latest means and the theory's; it speaks every tenth step, so that a screen reader can keep up."""
        return f"{run_words(data)} {plan_words(data)}"

    def show(self, data: Seen) -> None:
        """Picture, words, and which buttons may be pressed."""
        super().show(data)
        running = data.state == "running"
        self.start_button.disabled, self.stop_button.disabled = running, not running
        self.resume_button.disabled = running or data.run is None or data.run.report is not None
        config = data.run.config if data.run else data.next
        self.bar.max = (config.steps if config else 0) or max(data.run.steps if data.run else 1, 1)
        self.bar.value = data.run.steps if data.run else 0


def _free(parent: Path) -> Path:
    """The first of monitor-1, monitor-2 ... that holds no run."""
    number = 1
    while (parent / f"monitor-{number}").exists():
        number += 1
    return parent / f"monitor-{number}"


def _controls() -> dict[str, Any]:
    procedures = ["standard", "best-of-2", "best-of-4", "best-of-8", "worst-of-2", "worst-of-4", "worst-of-8"]
    transforms = ["identity", "log", "exp:5", "exp:10", "exp:-10", "power:7", "optimal"]
    return {
        "procedure": choice("procedure", procedures, "best-of-4", "what the user sees of the trained policy"),
        "transform": choice("transform Phi", transforms, "exp:10", "what training does to the calibrated reward"),
        "target_kl": slider("target KL  [nats]", 0.6, 0.1, 1.2, 0.1, "KL at which theory picks beta"),
        "steps": whole("updates  [steps]", 60, 10, 200, "how long to train; 60 take about half a minute"),
        "seed": whole("seed", 0, 0, 99, "the same seed trains the same policy"),
    }
