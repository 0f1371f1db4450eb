"""nbgrader's part: the one file that knows it, an optional extra.

nbgrader restores the test cells of a submission, keeps the gradebook and makes the pages of feedback. Its step that
executes a notebook is replaced by one that writes verdicts, found elsewhere, as the outputs of the test cells. Left
out: late penalties, manual points and its exchange; open the folder `course/` with nbgrader for those.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nbformat

from infalign_edu.atomic import write_json, write_text
from infalign_edu.classroom import exercise, exercises
from infalign_edu.classroom.exercises import find
from infalign_edu.classroom.grading.source import form
from infalign_edu.classroom.masters import Notebook, answers, instructor

Row = dict[str, Any]
PIP = "grading needs nbgrader: python -m pip install 'infalign-edu[grading]'"
_HIDDEN = re.compile(r"^### BEGIN HIDDEN TESTS$.*?^### END HIDDEN TESTS$", re.DOTALL | re.MULTILINE)
_ACTIVE = re.compile(
    r"<script\b.*?</script\s*>|<link\b[^>]*>|<meta http-equiv[^>]*>|@font-face\s*{[^}]*}", re.DOTALL | re.IGNORECASE
)
_STYLE = "<style>pre { white-space: pre-wrap; overflow-wrap: anywhere; }</style>"
_POLICY = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"


class Course:
    """The masters as nbgrader's source notebooks, and its folders below `out`.

    Raises: ValueError without nbgrader, or for a folder without masters.
    """

    def __init__(self, masters: Path, out: Path) -> None:
        try:
            import nbgrader.apps  # noqa: F401
        except ImportError:
            raise ValueError(PIP) from None
        paths = sorted(masters.glob("[0-9]*.ipynb"))
        if not paths:
            raise ValueError(f"masters must be a folder with solved notebooks, got {str(masters)!r} without any")
        read = {path.stem: nbformat.read(path, as_version=4) for path in paths}
        self.sources = {stem: instructor(master) for stem, master in read.items() if any(answers(master))}
        self.exercises = {stem: [find(name) for _, name, _ in answers(nb)] for stem, nb in self.sources.items()}
        self.solutions = {name: form(cell.source)[0] for nb in self.sources.values() for cell, name, _ in answers(nb)}
        self.root, self.verdicts = out / "course", out / "course" / "verdicts"
        text = json.dumps(self.sources, sort_keys=True)
        checks = sorted([Path(exercise.__file__), *Path(exercises.__file__).parent.glob("*.py")])
        self.checks = hashlib.sha256(b"".join(path.read_bytes() for path in checks)).hexdigest()
        self.digest = hashlib.sha256(text.encode()).hexdigest()

    def open(self) -> None:
        """Makes nbgrader's folders and gradebook, anew where the masters have changed."""
        stamp = self.root / "masters.sha256"
        if stamp.is_file() and stamp.read_text(encoding="utf-8") == self.digest:
            return
        shutil.rmtree(self.root, ignore_errors=True)
        for stem, notebook in self.sources.items():
            write_text(self.root / "source" / stem / f"{stem}.ipynb", nbformat.writes(notebook))
            _do(self.api().generate_assignment, stem)
        write_text(stamp, self.digest)

    def api(self) -> Any:
        """nbgrader for this course, with our step in place of the one that executes."""
        from nbgrader.apps import NbGraderAPI
        from nbgrader.preprocessors import CheckCellMetadata, SaveAutoGrades
        from traitlets.config import Config

        settings = Config()
        settings.CourseDirectory.root = str(self.root)
        settings.CourseDirectory.db_url = f"sqlite:///{self.root / 'gradebook.db'}"
        settings.Exchange.root = str(self.root / "exchange")
        settings.Autograde.autograde_preprocessors = [_fill(self.verdicts), SaveAutoGrades, CheckCellMetadata]
        settings.NbGraderAPI.log_level = logging.CRITICAL
        (self.root / "exchange").mkdir(parents=True, exist_ok=True)  # unused, but nbgrader looks for it
        return NbGraderAPI(config=settings)

    def store(self, student: str, stem: str, notebook: Notebook, rows: Sequence[Row]) -> str:
        """Hands verdicts to nbgrader and gives back its page of feedback. Raises: ValueError if nbgrader fails."""
        write_text(self.root / "submitted" / student / stem / f"{stem}.ipynb", nbformat.writes(notebook))
        write_json(self.verdicts / student / f"{stem}.json", {row["exercise"]: row for row in rows})
        api = self.api()
        _do(api.autograde, stem, student)
        _do(api.generate_feedback, stem, student)
        with api.gradebook as gradebook:
            grades = gradebook.find_submission_notebook(stem, stem, student).grades
            # read back, since nbgrader gives full marks for a test cell without any output
            kept = {grade.name.removeprefix("test-"): grade.auto_score for grade in grades}
        if kept != {row["exercise"]: row["points"] for row in rows}:
            raise ValueError(f"points in nbgrader's gradebook must be the sandbox's, got {kept}")
        return (self.root / "feedback" / student / stem / f"{stem}.html").read_text(encoding="utf-8")

    def export(self, path: Path) -> None:
        """Writes nbgrader's own table of scores."""
        from nbgrader.plugins import CsvExportPlugin

        with self.api().gradebook as gradebook:
            CsvExportPlugin(to=str(path)).export(gradebook)


def _do(step: Callable[..., dict[str, Any]], *arguments: str) -> None:
    """One step of nbgrader's. It calls `alembic`, which lies beside Python. Raises: ValueError if the step fails."""
    scripts = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    before = os.environ.get("PATH")
    os.environ["PATH"] = scripts
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SQLAlchemy's, about nbgrader's own queries
            report = step(*arguments)
    finally:
        os.environ.pop("PATH")
        os.environ.update({} if before is None else {"PATH": before})
    if not report["success"]:
        said = [line for line in str(report.get("error") or report.get("log")).splitlines() if line.strip()]
        raise ValueError(f"nbgrader could not do its part: {said[-1] if said else 'no reason given'}")


def _fill(verdicts: Path) -> Any:
    """The preprocessor that stands where nbgrader would execute the notebook."""
    from nbgrader.preprocessors import NbGraderPreprocessor

    class Fill(NbGraderPreprocessor):
        def preprocess(self, nb: Notebook, resources: Any) -> tuple[Notebook, Any]:
            about = resources["nbgrader"]
            rows = json.loads((verdicts / about["student"] / f"{about['notebook']}.json").read_text(encoding="utf-8"))
            for cell in nb.cells:
                marks = cell.metadata.get("nbgrader", {})
                if cell.cell_type == "code":
                    cell.outputs = []
                if marks.get("grade"):
                    row = rows[marks["grade_id"].removeprefix("test-")]
                    said = nbformat.v4.new_output("stream", name="stdout", text=row["feedback"] + "\n")
                    points = nbformat.v4.new_output("execute_result", data={"text/plain": repr(float(row["points"]))})
                    cell.outputs = [said, points]
                    cell.source = _HIDDEN.sub("# hidden tests: the same function on other random inputs", cell.source)
            return nb, resources

    return Fill


def page(html: str) -> str:
    """nbgrader's page without anything active: no script, nothing fetched, and a policy that would refuse both.

    >>> page("<html><head></head><script src='x'></script>a</html>").endswith("</style></head>a</html>")
    True
    """
    still = _ACTIVE.sub("", html)
    return (
        still.replace("<html>", '<html lang="en">', 1)
        .replace("<head>", f"<head>\n{_POLICY}", 1)
        .replace("</head>", f"{_STYLE}</head>", 1)
    )
