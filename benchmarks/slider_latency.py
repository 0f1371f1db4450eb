"""How long from a key on a slider to new pixels, for every explorer, in JupyterLab with headless Chromium.

    python benchmarks/slider_latency.py [--moves 30] [--out data/runs/slider_latency.csv]

The page itself keeps the time: from the keydown event to the first frame after the new picture has loaded. The kernel's
share is measured beside it, in this process: CPU time of one `refresh`. A machine with other work on it gives larger
numbers, so the table names the machine's load.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import lab  # noqa: E402

from infalign_edu.atomic import write_text  # noqa: E402
from infalign_edu.classroom import widgets  # noqa: E402

CONTROLS = {  # explorer -> label of the slider that is moved
    "TransformExplorer": "beta",
    "CalibrationExplorer": "K",
    "FrontierExplorer": "u=4/8",
    "FixedPointExplorer": "beta",
    "BestOfNPlayground": "N",
    "TrainingMonitor": "target KL",
}
STOPWATCH = """box => {
  box.moves = [];
  const image = box.querySelector('img.widget-image');
  image.addEventListener('load', () => requestAnimationFrame(() => {
    if (box.pressed) { box.moves.push(performance.now() - box.pressed); box.pressed = 0; }
  }));
  box.addEventListener('keydown', () => { box.pressed = performance.now(); }, true);
}"""


def in_the_browser(moves: int) -> dict[str, list[float]]:
    """Milliseconds from key to pixels of each explorer."""
    found = {}
    with tempfile.TemporaryDirectory() as place:
        shutil.copy(ROOT / "notebooks" / "explorer.ipynb", place)
        logs = Path(place) / "logs"
        logs.mkdir()
        with lab.lab(Path(place), logs / "lab.log") as server, lab.chromium() as browser:
            page = browser.new_page(viewport={"width": 1400, "height": 1000})
            lab.open_notebook(page, *server, "explorer.ipynb")
            lab.run_all(page)
            page.wait_for_timeout(2000)
            for name, label in CONTROLS.items():
                found[name] = _moved(page, getattr(widgets, name).title, label, moves)
    return found


def _moved(page, title: str, label: str, moves: int) -> list[float]:
    box = page.locator(".infalign-explorer", has=page.locator("h3", has_text=title)).first
    row = box.locator(".widget-slider", has=page.locator("label", has_text=label)).first
    handle = row.locator(".noUi-handle")
    box.evaluate(STOPWATCH)
    for i in range(moves + 3):  # the first three warm up
        handle.focus()
        page.keyboard.press("ArrowLeft" if (i // 5) % 2 else "ArrowRight")
        page.wait_for_timeout(300)  # asking the page while it works would slow it down
    return box.evaluate("box => box.moves")[3:]


def in_the_kernel(name: str, moves: int) -> float:
    """Median CPU milliseconds of one refresh after its slider moved, without a browser."""
    explorer = getattr(widgets, name)()
    slider = next(c for c in explorer.controls.values() if c.description.startswith(CONTROLS[name]))
    values = getattr(slider, "options", None)
    took = []
    for i in range(moves):
        step = -1 if (i // 5) % 2 else 1
        start = time.process_time()
        if values is not None:
            slider.value = values[values.index(slider.value) + step]
        elif slider.step and hasattr(slider, "base"):
            slider.value = slider.value * slider.base ** (step * slider.step)
        else:
            slider.value = slider.value + step * slider.step
        took.append(1000 * (time.process_time() - start))
    return statistics.median(took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moves", type=int, default=30)
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "runs" / "slider_latency.csv")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    page = in_the_browser(options.moves)
    rows = []
    for name, took in page.items():
        quartiles = statistics.quantiles(took, n=4)
        rows.append(
            {
                "explorer": name, "slider": CONTROLS[name], "moves": len(took),
                "median_ms": f"{quartiles[1]:.0f}", "quarter_ms": f"{quartiles[0]:.0f}",
                "three_quarters_ms": f"{quartiles[2]:.0f}",
                "kernel_cpu_ms": f"{in_the_kernel(name, options.moves):.1f}",
                "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f} before",
            }
        )  # fmt: skip
        print(rows[-1])
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(options.out, out.getvalue())


if __name__ == "__main__":
    main()
