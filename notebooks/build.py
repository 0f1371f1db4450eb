"""Runs the course's notebooks and saves them with their outputs, the same bytes each time.

    python notebooks/build.py                    all of them
    python notebooks/build.py 08_ctrl_training   one

What differs from run to run is left out: timings, progress bars, widget state, object addresses.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from infalign_edu.atomic import write_text

HERE = Path(__file__).parent
ADDRESS = re.compile(r"0x[0-9a-f]{6,}")
TIMEOUT = 180  # seconds a cell may take on a slow machine; the aim is 60


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without what a second run would change."""
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
        cell.metadata = nbformat.NotebookNode({"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {})
        if cell.cell_type == "code":
            cell.outputs = _joined([output for output in map(_clean_output, cell.outputs) if output is not None])
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    return notebook


def _joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Printed text that arrived in several pieces as one: where it is cut depends on the machine's load."""
    joined: list[nbformat.NotebookNode] = []
    for output in outputs:
        if joined and output.output_type == "stream" and joined[-1].get("name") == output.name:
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def _clean_output(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    if output.get("name") == "stderr" or "application/vnd.jupyter.widget-view+json" in output.get("data", {}):
        return None  # progress bars
    if "text" in output:
        output["text"] = ADDRESS.sub("0x0", output["text"])
    if "text/plain" in output.get("data", {}):
        output["data"]["text/plain"] = ADDRESS.sub("0x0", output["data"]["text/plain"])
    return output


def run(path: Path) -> None:
    """Executes one notebook and writes it back whole; a cell that fails leaves the file as it was."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=TIMEOUT, kernel_name="python3", resources={"metadata": {"path": HERE}}).execute()
    write_text(path, nbformat.writes(clean(notebook)) + "\n")
    print(f"{path.name}: {len(notebook.cells)} cells")


if __name__ == "__main__":
    chosen = sys.argv[1:] or [path.stem for path in sorted(HERE.glob("*.ipynb"))]
    for name in chosen:
        run(HERE / f"{name.removesuffix('.ipynb')}.ipynb")
