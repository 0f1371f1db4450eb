"""What every notebook promises, read from its file; nbval runs them."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
BOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
KEYS = sorted((ROOT / "notebooks" / "key").glob("*.ipynb"))  # the solved masters keep the same promises


@pytest.fixture(params=[*BOOKS, *KEYS], ids=lambda path: f"{path.parent.name}-{path.stem}")
def book(request):
    return json.loads(request.param.read_text(encoding="utf-8"))


def code(book):
    return [cell for cell in book["cells"] if cell["cell_type"] == "code"]


def test_cells_were_run_in_order_and_none_failed(book):
    assert [cell["execution_count"] for cell in code(book)] == list(range(1, len(code(book)) + 1))
    assert not [out for cell in code(book) for out in cell["outputs"] if out["output_type"] == "error"]


def test_length_and_compared_cells(book):
    assert 20 <= len(book["cells"]) <= 30
    compared = [cell for cell in code(book) if "nbval-check-output" in cell["metadata"].get("tags", [])]
    assert len(compared) >= 5 and all(cell["outputs"] for cell in compared)


def test_every_image_has_alternative_text(book):
    images = [out for cell in code(book) for out in cell["outputs"] if "image/png" in out.get("data", {})]
    assert images and all(len(out["metadata"]["image/png"]["alt"]) > 40 for out in images)


def test_it_opens_with_goals_and_minutes_and_says_whose_claim_it_is(book):
    first = "".join(book["cells"][0]["source"])
    text = "\n".join("".join(cell["source"]) for cell in book["cells"])
    assert re.search(r"\*\*\d+ minutes", first) and "you can" in first
    assert re.search(r"(?i)\*\*?(paper|derived|measured)", text) and "redict, then reveal" in text


def test_nothing_of_this_run_is_kept(book):
    text = re.sub(r'"image/png": "[^"]*"', "", json.dumps(book))  # pixels in base64 may spell anything
    assert "widget-view" not in text and "widget-state" not in text and "/home/" not in text and "/root/" not in text
    assert not re.search(r"0x[0-9a-f]{6,}", text)
    assert [cell["id"] for cell in book["cells"]] == [f"cell-{i:02d}" for i in range(len(book["cells"]))]


def builder():
    spec = importlib.util.spec_from_file_location("build", ROOT / "notebooks" / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    return build


@pytest.mark.parametrize("answer", ["return u", "x = u\n    ...  # your answer", "return ("])
def test_a_notebook_with_answers_is_not_made_anew(answer, tmp_path, monkeypatch):
    """`make notebooks` is for who writes the course; a student who runs it keeps what they have written."""
    build, name = builder(), "01_alignment_and_win_rate"
    shutil.copytree(ROOT / "notebooks" / "key", tmp_path / "key")
    book = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    assert build.answered(book) == []
    cell = next(cell for cell in book.cells if cell.metadata.get("nbgrader", {}).get("solution"))
    cell.source = cell.source.replace("...  # your answer", answer)
    nbformat.write(book, tmp_path / f"{name}.ipynb")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.ipynb")}
    monkeypatch.setattr(build, "HERE", tmp_path)
    with pytest.raises(ValueError, match=f"must hold no answers to be made anew, got answers to {cell.metadata.nbgrader.grade_id};"):
        build.build(name)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.ipynb")} == before


def test_printed_text_is_saved_in_one_piece_however_it_arrived():
    build = builder()
    new = nbformat.v4.new_output
    figure = new("display_data", data={"image/png": "", "text/plain": "<Image at 0x7f90c027eb60>"})
    pieces = [new("stream", name=n, text=t) for n, t in (("stdout", "a\n"), ("stderr", "50 %"), ("stdout", "b\n"))]
    cell = nbformat.v4.new_code_cell("", outputs=[*pieces, figure, new("stream", name="stdout", text="c\n")])
    outputs = build.clean(nbformat.v4.new_notebook(cells=[cell])).cells[0].outputs
    assert [out.get("text", out.get("data")) for out in outputs] == [
        "a\nb\n", {"image/png": "", "text/plain": "<Image at 0x0>"}, "c\n"]


def test_the_readme_lists_every_notebook():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in BOOKS if path.name not in readme] == []
