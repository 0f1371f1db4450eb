"""The course as pages to read and slides to show, made from the notebooks; neither needs a network.

    python notebooks/publish.py site   [--out build/site]   [--source notebooks/key]
    python notebooks/publish.py slides [--out build/slides] [--source notebooks/key]

`site` exports every notebook of the source (by default the key, where there is one) with nbconvert, folds solutions,
adds an index, the glossary, the map of equations and the slides. `slides` writes the slides alone. MathJax is copied
from the package django-static-mathjax, which is its files and nothing else. Left out: search, themes, PDF.
"""

from __future__ import annotations

import argparse
import html
import importlib.util
import re
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import nbformat
from nbconvert import HTMLExporter
from web import deck, render

from infalign_edu.atomic import write_text

HERE = Path(__file__).parent
WEB, TEACHING = HERE / "web", HERE.parent / "teaching"
REFERENCE = ("glossary", "equations")  # pages made from teaching/*.md
Link = tuple[str, str]  # its words and where it leads
COURSE: Link = ("Course", "index.html")
HIDDEN = re.compile(r"(?ms)^[ \t]*### BEGIN HIDDEN TESTS.*?^[ \t]*### END HIDDEN TESTS[ \t]*\n?")
MARKERS = re.compile(r"(?m)^[ \t]*### (BEGIN|END) SOLUTION[ \t]*\n?")
FOLDED = """{%- extends 'basic/index.html.j2' -%}
{% block codecell %}{% if 'solution' in cell.metadata.get('tags', []) -%}
<details class="solution"><summary>A solution</summary>{{ super() }}</details>
{%- else %}{{ super() }}{% endif %}{% endblock codecell %}"""


@dataclass(frozen=True)
class Book:
    """One notebook and what its first cell says about it."""

    stem: str
    notebook: Any

    @cached_property
    def opening(self) -> str:
        return str(self.notebook.cells[0].source)

    @property
    def title(self) -> str:
        found = re.search(r"(?m)^# (.*)$", self.opening)
        return render.plain(found[1]) if found else self.stem

    @property
    def minutes(self) -> str:
        found = re.search(r"\*\*(\d+) minutes", self.opening)
        return f"{found[1]} minutes" if found else ""

    @property
    def goals(self) -> list[str]:
        return re.findall(r"(?m)^- (.*?)[,.]?$", self.opening)


class Exporter(HTMLExporter):
    """nbconvert's HTML, one fragment without head or scripts, with our Markdown and with solutions folded."""

    stems: Collection[str] = ()

    def __init__(self, stems: Collection[str]) -> None:
        plain = {"exclude_input_prompt": True, "exclude_output_prompt": True}
        super().__init__(template_name="basic", raw_template=FOLDED, **plain)
        self.stems = stems

    @jinja2.pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        return render.markdown(source, self.stems)


def read(source: Path) -> list[Book]:
    """Every notebook of the course, from `source` where it is there, else the one that students open."""
    stems = {path.stem for folder in (HERE, source) for path in folder.glob("*.ipynb")}
    books = []
    for stem in sorted(stems):
        own, student = source / f"{stem}.ipynb", HERE / f"{stem}.ipynb"
        notebook = nbformat.read(own if own.is_file() else student, as_version=4)
        if own.is_file() and student.is_file() and own != student:
            _fill_outputs(notebook, nbformat.read(student, as_version=4))
        books.append(Book(stem, prepared(notebook)))
    return books


def _fill_outputs(notebook: Any, student: Any) -> None:
    """Gives cells that were saved without outputs those of the same cell in the copy that students open."""
    saved = {cell.source: cell.outputs for cell in student.cells if cell.cell_type == "code" and cell.outputs}
    for cell in notebook.cells:
        if cell.cell_type == "code" and not cell.outputs:
            cell.outputs = saved.get(cell.source, [])


def prepared(notebook: Any) -> Any:
    """The notebook as readers see it: no hidden tests or markers, nothing that needs a kernel, solutions tagged."""
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.outputs = [out for out in cell.outputs if not any("widget" in kind for kind in out.get("data", {}))]
        cell.outputs = [out for out in cell.outputs if "figure-text" not in out.get("data", {}).get("text/html", "")]
        if MARKERS.search(cell.source) or cell.metadata.get("nbgrader", {}).get("solution"):
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), "solution"]
        cell.source = MARKERS.sub("", HIDDEN.sub("", cell.source)).strip("\n")
    notebook.cells = [cell for cell in notebook.cells if cell.source and "bootstrap" not in deck.tags(cell)]
    return notebook


def site(out: Path, source: Path) -> None:
    """Writes the pages, their index, the reference pages and the slides."""
    books = read(source)
    references = [name for name in REFERENCE if (TEACHING / f"{name}.md").is_file()]
    stems = {*(book.stem for book in books), *references}
    exporter = Exporter(stems)
    for before, book, after in zip([None, *books], books, [*books[1:], None], strict=False):
        body, _ = exporter.from_notebook_node(book.notebook)
        around = [(f"{way}: {b.title}", f"{b.stem}.html") for way, b in (("Before", before), ("Next", after)) if b]
        links = [COURSE, ("Slides", f"slides/{book.stem}.html")]
        write_page(out / f"{book.stem}.html", book.title, body, links, around)
    for name in references:
        body = render.markdown((TEACHING / f"{name}.md").read_text(encoding="utf-8"), stems)
        write_page(out / f"{name}.html", name.capitalize(), _with_places(body, books), [COURSE])
    goals = {book.stem: [render.inline(goal) for goal in book.goals] for book in books}
    body = _template("index.html").render(books=books, goals=goals, references=references)
    write_page(out / "index.html", "The course", body, listed=False)
    slides(out / "slides", source, books)
    _assets(out, "page.css", "deck.css", "deck.js")
    print(f"{out / 'index.html'}: {len(books)} notebooks, {len(references)} reference pages")


def _with_places(body: str, books: list[Book]) -> str:
    """A page on which "02 §4" leads to section 4 of notebook 02."""
    found = {}
    for book in books:
        text = "\n".join(cell.source for cell in book.notebook.cells if cell.cell_type == "markdown")
        for heading, number in re.findall(r"(?m)^## ((\d+)\. .*)$", text):
            found[f"{book.stem[:2]} §{number}"] = f"{book.stem}.html#{render.anchor(render.inline(heading))}"
    return re.sub(r"\b\d\d §\d+", lambda m: f'<a href="{found[m[0]]}">{m[0]}</a>' if m[0] in found else m[0], body)


def slides(out: Path, source: Path, books: list[Book] | None = None) -> None:
    """Writes one deck a notebook; beside the site's pages the decks link to them and share their files."""
    beside = "" if books is None else "../"
    for book in books or read(source):
        shown = [{"kind": slide.kind, "html": slide_html(slide)} for slide in deck.slides(book.notebook.cells)]
        links = [("The notebook", f"{beside}{book.stem}.html")] if beside else []
        page = _template("deck.html").render(title=book.title, slides=shown, links=links, assets=f"{beside}assets/")
        write_text(out / f"{book.stem}.html", page)
        if not beside:
            print(f"{out / book.stem}.html: {len(shown)} slides")
    if not beside:
        _assets(out, "deck.css", "deck.js")


def slide_html(slide: deck.Slide) -> str:
    """The inside of one slide."""
    level = 1 if slide.kind == "title" else 2
    heading, body = f"<h{level}>{render.inline(slide.heading)}</h{level}>", render.markdown(slide.body)
    if slide.output is None:
        return f"{heading}\n{body}"
    if not deck.is_figure(slide.output):
        return f"{heading}\n<pre>{html.escape(slide.output['text'].rstrip())}</pre>\n{body}"
    alt, png = html.escape(slide.output["metadata"]["image/png"]["alt"]), slide.output["data"]["image/png"].strip()
    return f'{heading}\n<img src="data:image/png;base64,{png}" alt="{alt}">\n{body}'


def write_page(path: Path, title: str, body: str, links: Sequence[Link] = (), around: Sequence[Link] = (),
               listed: bool = True) -> None:
    """Writes one page: the body, later titles as headings, with head, navigation and, if `listed`, its sections."""
    opening, end, rest = body.partition("</h1>")
    body = opening + end + re.sub(r"<(/?)h1\b", r"<\1h2", rest)
    sections = re.findall(r'<h2 id="([^"]*)">(.*?)</h2>', body) if listed else []
    contents = [(text, f"#{place}") for place, text in sections]
    page = _template("page.html").render(title=title, body=body, links=links, around=around, contents=contents)
    write_text(path, page)


def _assets(out: Path, *names: str) -> None:
    """Copies our own files and MathJax into the folder `assets` beside the pages."""
    found = importlib.util.find_spec("mathjax")
    homes = [Path(home) for home in (found.submodule_search_locations if found else None) or ()]
    script = next((file for home in homes for file in home.glob("static/mathjax/es5/tex-svg-full.js")), None)
    if script is None:
        raise SystemExit("django-static-mathjax must be installed: pip install -r requirements-test.txt")
    (out / "assets").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(script, out / "assets" / "mathjax.js")
    for name in ("equations.js", *names):
        shutil.copyfile(WEB / name, out / "assets" / name)


def _template(name: str) -> jinja2.Template:
    return jinja2.Environment(loader=jinja2.FileSystemLoader(WEB)).get_template(name)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="The course as pages and slides, without a network.")
    key = HERE / "key"
    commands = parser.add_subparsers(dest="command", required=True)
    for name, make in (("site", site), ("slides", slides)):
        command = commands.add_parser(name, help=(make.__doc__ or "").splitlines()[0])
        command.add_argument("--out", type=Path, default=HERE.parent / "build" / name, help="folder to write to")
        command.add_argument("--source", type=Path, default=key if key.is_dir() else HERE, help="folder of notebooks")
        command.set_defaults(make=make)
    options = parser.parse_args(arguments)
    if not options.source.is_dir():
        raise SystemExit(f"source must be a folder of notebooks, got {options.source}")
    options.make(options.out, options.source)


if __name__ == "__main__":
    main()
