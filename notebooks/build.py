"""Runs the course's notebooks and saves them with their outputs, the same bytes each time.

    python notebooks/build.py                    all of them
    python notebooks/build.py 08_ctrl_training   one

`key/NN_name.ipynb` is the master of `NN_name.ipynb`: write there, with the solutions. The master is run and saved, then
the student's copy is made from it, run and saved. What differs from run to run is left out: timings, progress bars,
widget state, object addresses; of a widget its still picture stays.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from infalign_edu.atomic import write_text
from infalign_edu.classroom import masters
from infalign_edu.classroom.grading.source import untouched

HERE = Path(__file__).parent
KEPT = ("tags", "nbgrader")  # of a cell's metadata
WIDGET = "application/vnd.jupyter.widget-view+json"
ADDRESS = re.compile(r"0x[0-9a-f]{6,}")
TIMEOUT = 180  # seconds a cell may take on a slow machine; the aim is 60


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without what a second run would change."""
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
        cell.metadata = nbformat.from_dict({name: cell.metadata[name] for name in KEPT if cell.metadata.get(name)})
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
    if output.get("name") == "stderr":
        return None  # progress bars
    if WIDGET in output.get("data", {}):
        if "image/png" not in output["data"]:
            return None
        del output["data"][WIDGET]
        output["data"]["text/plain"] = "<an explorer: run the cell to use it>"
    if "text" in output:
        output["text"] = ADDRESS.sub("0x0", output["text"])
    if "text/plain" in output.get("data", {}):
        output["data"]["text/plain"] = ADDRESS.sub("0x0", output["data"]["text/plain"])
    return output


def run(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Executes a notebook and writes it whole to its path; a cell that fails leaves the file as it was."""
    NotebookClient(notebook, timeout=TIMEOUT, kernel_name="python3", resources={"metadata": {"path": HERE}}).execute()
    write_text(path, nbformat.writes(clean(notebook)) + "\n")
    print(f"{path.relative_to(HERE)}: {len(notebook.cells)} cells")


def answered(notebook: nbformat.NotebookNode) -> list[str]:
    """The exercises of a student's copy that are not as they were handed out."""
    cells = [cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("solution")]
    return [cell.metadata.nbgrader.grade_id for cell in cells if not _stub(cell.source)]


def _stub(source: str) -> bool:
    names = re.findall(r"^def (\w+)", source, re.MULTILINE)
    try:
        return len(names) == 1 and untouched(source, names[0])
    except SyntaxError:
        return False


def build(name: str) -> None:
    """Runs a notebook; one that has a master is made from it after the master ran.

    Raises: ValueError for one in which exercises are answered: somebody's work would be gone.
    """
    path, master = HERE / f"{name}.ipynb", HERE / "key" / f"{name}.ipynb"
    if path.exists() and (done := answered(nbformat.read(path, as_version=4))):
        told = f"got answers to {', '.join(done)}; move the file away, or give up the answers with git checkout"
        raise ValueError(f"{path.name} must hold no answers to be made anew, {told}")
    if not master.exists():
        run(nbformat.read(path, as_version=4), path)
        return
    run(nbformat.read(master, as_version=4), master)
    run(masters.student(nbformat.read(master, as_version=4)), path)


if __name__ == "__main__":
    known = sorted({path.stem for path in [*HERE.glob("*.ipynb"), *HERE.glob("key/*.ipynb")]})
    chosen = [name.removesuffix(".ipynb") for name in sys.argv[1:]] or known
    if unknown := {*chosen} - {*known}:
        sys.exit(f"notebook must be one of {', '.join(known)}, got {', '.join(sorted(unknown))}")
    try:
        for name in chosen:
            build(name)
    except ValueError as error:
        sys.exit(f"notebooks: {error}")
