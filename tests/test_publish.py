"""The course as pages and slides: whole, linked, readable without a network, and looked at in a real browser."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "notebooks"))

import publish  # noqa: E402
from web import deck, render  # noqa: E402

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
KEY = ROOT / "notebooks" / "key"
SOURCE = KEY if KEY.is_dir() else ROOT / "notebooks"  # what the site is made from
CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, str(ROOT / "notebooks" / "publish.py"), "site", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


class Page(HTMLParser):
    """What a page asks for and what it says."""

    def __init__(self, path):
        super().__init__()
        self.path, self.links, self.images, self.fetched, self.ids, self.tags = path, [], [], [], [], []
        self.prose, self._inside, self._lang = [], [], None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, pairs):
        values = dict(pairs)
        self.tags.append((tag, values))
        self.ids += [values["id"]] if "id" in values else []
        if tag == "a":
            self.links.append(values["href"])
        elif tag == "img":
            self.images.append(values)
        elif tag in ("script", "link", "iframe", "source") and (values.get("src") or values.get("href")):
            self.fetched.append(values.get("src") or values["href"])
        if tag in ("pre", "code", "script", "style", "title") or (tag == "span" and "math" in values.get("class", "")):
            self._inside.append(tag)

    def handle_endtag(self, tag):
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data):
        if not self._inside:
            self.prose.append(data)


@pytest.fixture(scope="module")
def pages(site):
    return {str(path.relative_to(site)): Page(path) for path in sorted(site.rglob("*.html"))}


def test_every_notebook_has_a_page_and_a_deck(pages):
    stems = [path.stem for path in NOTEBOOKS]
    assert {f"{stem}.html" for stem in stems} | {f"slides/{stem}.html" for stem in stems} | {"index.html"} <= set(pages)


def test_every_link_leads_to_a_page_and_a_place_in_it(pages, site):
    broken = []
    for name, page in pages.items():
        for link in page.links:
            path, _, place = link.partition("#")
            if path.startswith("https://"):
                continue
            target = (page.path.parent / path).resolve() if path else page.path
            other = pages.get(str(target.relative_to(site))) if target.is_relative_to(site) else None
            if other is None or (place and place not in other.ids):
                broken.append((name, link))
    assert broken == []


def test_links_out_of_the_site_stand_in_the_notebooks_and_references(pages):
    texts = [path.read_text(encoding="utf-8") for path in [*NOTEBOOKS, *KEY.glob("*.ipynb"),
                                                           *(ROOT / "teaching").glob("*.md")]]  # fmt: skip
    outside = {link for page in pages.values() for link in page.links if "://" in link}
    assert [link for link in outside if not any(link in text for text in texts)] == []


def test_no_page_fetches_anything_from_another_host(pages, site):
    for page in pages.values():
        for asked in page.fetched:
            assert asked == "data:," or (page.path.parent / asked).resolve().is_relative_to(site), (page.path.name, asked)
            assert asked == "data:," or (page.path.parent / asked).is_file(), (page.path.name, asked)
        assert all(image["src"].startswith("data:image/") for image in page.images)
    for style in (site / "assets").glob("*.css"):
        assert "url(" not in style.read_text() and "@import" not in style.read_text()


def test_every_figure_of_a_notebook_is_on_its_page_with_its_own_words(pages):
    for book in publish.read(SOURCE):
        outputs = [out for cell in book.notebook.cells for out in cell.get("outputs", [])]
        alts = [out["metadata"]["image/png"]["alt"] for out in outputs if "image/png" in out.get("data", {})]
        for name in (f"{book.stem}.html", f"slides/{book.stem}.html"):
            shown = [image["alt"] for image in pages[name].images]
            assert (alts or book.stem[0].isalpha()) and [alt for alt in alts if alt not in shown] == [], name


def test_every_page_has_a_language_a_title_and_one_main_heading(pages):
    for name, page in pages.items():
        tags = [tag for tag, _ in page.tags]
        assert ("html", {"lang": "en"}) in page.tags and tags.count("title") == tags.count("h1") == tags.count("main") == 1, name
        assert len(page.ids) == len(set(page.ids)), name


def test_no_equation_stays_raw_in_the_text(pages):
    for name, page in pages.items():
        prose = " ".join(page.prose)
        assert "$" not in prose and not re.search(r"\\[a-zA-Z]{2,}", prose), (name, re.search(r".{40}(\$|\\[a-z]).{40}", prose))


def test_the_index_says_what_each_notebook_is_for(pages):
    text = " ".join(" ".join(pages["index.html"].prose).split())
    for book in publish.read(SOURCE):
        assert f"{book.stem}.html" in pages["index.html"].links and f"slides/{book.stem}.html" in pages["index.html"].links
        assert re.sub("&.*", "", book.title) in text and book.minutes in text
        assert book.stem[0].isalpha() or len(book.goals) >= 3


def test_links_between_notebooks_become_links_between_pages():
    stems = {"03_reward_calibration", "glossary"}
    assert 'href="03_reward_calibration.html#2.-C"' in render.markdown("[x](03_reward_calibration.ipynb#2.-C)", stems)
    assert 'href="glossary.html"' in render.markdown("[x](../teaching/glossary.md)", stems)
    assert '<a href="03_reward_calibration.html"><code>' in render.markdown("see `03_reward_calibration`", stems)
    assert "<a" not in render.markdown("[a file](../data/runs/align.csv)", stems)
    assert 'href="https://arxiv.org/abs/2412.19792"' in render.markdown("[p](https://arxiv.org/abs/2412.19792)", stems)
    assert r"\(a &lt; b\)" in render.markdown("$a < b$") and r"\[\tfrac12\]" in render.markdown("$$\\tfrac12$$")
    assert render.markdown("## 2. A *b*'s").strip() == '<h2 id="2.-A-b&#x27;s">2. A <em>b</em>\'s</h2>'
    assert "&lt;b&gt;" in render.inline("`<b>`") and "<p>" not in render.inline("a *word*")


def key_cells():
    new = nbformat.v4
    answer = "def f(u):\n    ### BEGIN SOLUTION\n    return u\n    ### END SOLUTION"
    hidden = "check('f', f)\n### BEGIN HIDDEN TESTS\nassert f(3) == 3\n### END HIDDEN TESTS\nprint('seen')"
    widget = new.new_output("display_data", data={"application/vnd.jupyter.widget-view+json": {}})
    figure = new.new_output("display_data", data={"image/png": "AAAA"}, metadata={"image/png": {"alt": "a < b"}})
    return [new.new_markdown_cell("# Key\n\n**5 minutes.** You can\n\n- do $a$,\n- and b."), new.new_code_cell(answer),
            new.new_code_cell("install()", metadata={"tags": ["bootstrap"]}),
            new.new_code_cell(hidden, outputs=[widget, figure])]  # fmt: skip


def test_solutions_are_folded_and_hidden_tests_widgets_and_installation_left_out():
    book = publish.Book("key", publish.prepared(nbformat.v4.new_notebook(cells=key_cells())))
    body, _ = publish.Exporter(()).from_notebook_node(book.notebook)
    assert body.count('<details class="solution">') == 1 and body.index("<details") < body.index("return") < body.index("</details")
    assert "SOLUTION" not in body and "HIDDEN" not in body and "assert" not in body and "seen" in body
    assert "install" not in body
    assert "widget" not in body and 'alt="a &lt; b"' in body
    assert (book.title, book.minutes, book.goals) == ("Key", "5 minutes", ["do $a$", "and b"])


def test_a_key_is_read_before_the_student_copy_and_takes_its_outputs(tmp_path):
    student = NOTEBOOKS[0]
    key = nbformat.read(student, as_version=4)
    unseen = "figure-text"  # the text of a figure for a page that does not have it on the image
    kept = [[out for out in cell.outputs if unseen not in out.get("data", {}).get("text/html", "")]
            for cell in key.cells if cell.cell_type == "code"]  # fmt: skip
    for cell in key.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    key.cells[0].source = "# The key\n\n**5 minutes.**"
    nbformat.write(key, tmp_path / student.name)
    books = {book.stem: book for book in publish.read(tmp_path)}
    assert set(books) == {path.stem for path in NOTEBOOKS} and books[student.stem].title == "The key"
    assert [list(cell.outputs) for cell in books[student.stem].notebook.cells if cell.cell_type == "code"] == kept


def test_the_same_notebook_gives_the_same_bytes(site):
    book = next(book for book in publish.read(SOURCE) if book.stem == NOTEBOOKS[0].stem)
    body, _ = publish.Exporter(()).from_notebook_node(book.notebook)
    assert re.sub(r"</?a[^>]*>", "", body) in re.sub(r"</?a[^>]*>", "", (site / f"{book.stem}.html").read_text())


def test_a_source_that_is_no_folder_is_one_line(capsys):
    with pytest.raises(SystemExit, match="source must be a folder of notebooks, got /nowhere"):
        publish.main(["site", "--source", "/nowhere"])


def test_slides_follow_the_headings_boxes_equations_and_figures():
    new, text = nbformat.v4, "**Derived.** This holds (see 2. B). Not this. So\n\n$$a = 1$$\n\nDropped. **Kept.**"
    figure = new.new_output("display_data", data={"image/png": "AAAA"}, metadata={"image/png": {"alt": "seen"}})
    printed, alt = (new.new_output("stream", name="stdout", text=text) for text in ("0.5\n", "a" * 200))
    cells = [
        new.new_markdown_cell("# T\n\n**5 minutes.** More.\n\n- goal\n\nNot a goal.\n\n## 1. First\n\nOpening sentence."),
        new.new_markdown_cell(f"{text}\n\n> **Predict, then reveal.** How\n> much?"),
        new.new_code_cell("print(0.5)", outputs=[printed, alt, figure]),
        new.new_markdown_cell("**Short.**\n\n## 2. Second\n\nIts text."),
        new.new_code_cell("", outputs=[printed, figure]),
        new.new_code_cell("print(0.5)", outputs=[printed]),
        new.new_markdown_cell("**Left out whole.**", metadata={"tags": ["no-slide"]}),
        new.new_markdown_cell("Kept. Whole.", metadata={"tags": ["slide"]}),
        new.new_markdown_cell("### Exercise 2.1\n*One point.*\n\nSolve it. At once."),
        new.new_code_cell("f = 1", outputs=[printed], metadata={"tags": ["solution"]}),
        new.new_markdown_cell("**After it.**"),
    ]
    found = [(s.kind, s.heading, s.body, s.output) for s in deck.slides(cells)]
    assert found == [
        ("title", "T", "**5 minutes.**\n\n- goal", None),
        ("text", "1. First", "Opening sentence.", None),
        ("text", "1. First", "**Derived.** This holds (see 2. B). So\n\n$$a = 1$$\n\n**Kept.**", None),
        ("predict", "1. First", "**Predict, then reveal.** How\nmuch?", None),
        ("reveal", "1. First", "", printed),
        ("reveal", "1. First", "**Short.**", figure),
        ("text", "2. Second", "Its text.", None),
        ("reveal", "2. Second", "Kept. Whole.", figure),
        ("text", "Exercise 2.1", "*One point.*\n\nSolve it. At once.", None),
        ("text", "2. Second", "**After it.**", None),
    ]


def test_a_long_section_turns_the_page_and_keeps_an_equation_with_what_leads_to_it():
    long = "\n\n".join(f"Sentence {i}, which leads to\n\n$$a_{i}$$" for i in range(6))
    found = deck.slides([nbformat.v4.new_markdown_cell(f"# T\n\n## 1. Long\n\n{long}")])[1:]
    assert len(found) >= 2 and {slide.heading for slide in found} == {"1. Long"}
    assert all(slide.body.count("leads to") == slide.body.count("$$") / 2 for slide in found)
    assert all(deck.weight(slide.body) <= deck.LINES for slide in found)


def contrast(one, two):
    """The contrast ratio of two colours, as the WCAG defines it."""
    def luminance(colour):
        digits = colour.lstrip("#")
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    high, low = sorted([luminance(one), luminance(two)], reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("sheet", ["page.css", "deck.css"])
def test_text_stands_out_from_every_ground(sheet):
    style = (ROOT / "notebooks/web" / sheet).read_text()
    names = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", style))
    inks = {names.get(colour, colour) for colour in re.findall(r"[{;] color: (?:var\(--(\w+)\)|(#[0-9a-f]{6}))", style) for colour in colour if colour}
    assert len(inks) >= 3
    assert min(contrast(ink, ground) for ink in inks for ground in (names["paper"], names["tint"], "#fdf8e7")) >= 4.5


needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no chromium on this machine: see README.md")

LOOK = """() => {
  const text = document.body.cloneNode(true);
  text.querySelectorAll("pre, code, script, mjx-container").forEach(node => node.remove());
  return {
    raw: (text.textContent.match(/.{0,30}(\\$|\\\\[a-zA-Z([]).{0,30}/g) || []),
    images: [...document.images].filter(i => !(i.complete && i.naturalWidth > 0 && i.alt.length > 20)).length,
    equations: document.querySelectorAll(".math").length - document.querySelectorAll(".math > mjx-container > svg").length,
    spoken: document.querySelectorAll("mjx-container").length - document.querySelectorAll("mjx-assistive-mml math").length,
    errors: [...document.querySelectorAll("[data-mjx-error]")].map(e => e.dataset.mjxError),
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  };
}"""


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        running = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def tab(browser):
    """A page for which everything but files is refused, and what went wrong on it."""
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    context.route(re.compile(r"^(?!file:|data:)"), lambda route: route.abort())
    page = context.new_page()
    page.trouble = []
    page.on("request", lambda request: page.trouble.append(request.url) if not request.url.startswith(("file:", "data:")) else None)
    page.on("requestfailed", lambda request: page.trouble.append(f"failed: {request.url[:200]}"))
    page.on("console", lambda message: page.trouble.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: page.trouble.append(str(error)))
    yield page
    context.close()


def opened(tab, path):
    tab.goto(path.as_uri())
    tab.evaluate("() => MathJax.startup.promise")


WHOLE = {"raw": [], "images": 0, "equations": 0, "spoken": 0, "errors": [], "wide": 0}


@needs_chromium
def test_every_page_in_a_real_browser(site, pages, tab):
    """Figures drawn, every equation set, nothing fetched, no message, and no page wider than a telephone."""
    for name in (name for name in pages if "/" not in name):
        opened(tab, site / name)
        assert (name, tab.evaluate(LOOK)) == (name, WHOLE)
        tab.set_viewport_size({"width": 390, "height": 720})
        assert (name, tab.evaluate("document.documentElement.scrollWidth - innerWidth")) == (name, 0)
        tab.set_viewport_size({"width": 1280, "height": 720})
    assert tab.trouble == []


NOW = """() => {
  const shown = [...document.querySelectorAll("section")].filter(s => getComputedStyle(s).visibility === "visible");
  const inner = shown[0].querySelector(".inner"), box = shown[0].getBoundingClientRect(), text = inner.getBoundingClientRect();
  return { shown: shown.length, place: document.getElementById("place").textContent, size: parseFloat(inner.style.fontSize),
           over: Math.max(text.bottom - box.bottom, text.right - box.right, box.top - text.top, inner.scrollWidth - inner.clientWidth - 1) };
}"""
THROUGH = f"""(last) => {{
  const seen = [];
  for (let i = 0; i < last; i++) {{
    seen.push(({NOW})());
    document.dispatchEvent(new KeyboardEvent("keydown", {{ key: "ArrowRight" }}));
  }}
  return seen;
}}"""


@needs_chromium
def test_every_slide_is_reached_and_fits_the_window(site, pages, tab):
    for name in (name for name in pages if name.startswith("slides/")):
        opened(tab, site / name)
        assert (name, tab.evaluate(LOOK)) == (name, WHOLE)
        last = sum(tag == "section" for tag, _ in pages[name].tags)
        seen = tab.evaluate(THROUGH, last)
        assert [now["place"] for now in seen] == [f"{i} of {last}" for i in range(1, last + 1)], name
        assert {now["shown"] for now in seen} == {1}, name
        assert [(i, now) for i, now in enumerate(seen, 1) if now["over"] > 0 or now["size"] < 56] == [], name
        assert tab.evaluate(NOW)["place"] == f"{last} of {last}" and tab.url.endswith(f"#{last}")
    assert tab.trouble == []


@needs_chromium
def test_keys_move_through_a_deck(site, pages, tab):
    name = f"slides/{NOTEBOOKS[0].stem}.html"
    last = sum(tag == "section" for tag, _ in pages[name].tags)
    opened(tab, site / name)
    for number in range(2, last + 1):
        tab.keyboard.press("ArrowRight")
        assert tab.evaluate(NOW)["place"] == f"{number} of {last}"
    moves = [("ArrowRight", last), ("ArrowLeft", last - 1), ("Home", 1), ("PageDown", 2), (" ", 3), ("End", last), ("ArrowUp", last - 1)]
    for key, number in moves:
        tab.keyboard.press(key)
        assert tab.evaluate(NOW)["place"] == f"{number} of {last}", key
    tab.get_by_role("button", name="Next slide").focus()
    tab.keyboard.press("Enter")
    assert tab.evaluate(NOW)["place"] == f"{last} of {last}"
    tab.goto(f"{(site / name).as_uri()}#3")
    assert tab.evaluate(NOW)["place"] == f"3 of {last}"


@needs_chromium
def test_without_scripts_a_deck_is_a_page_to_scroll(site, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((site / "slides" / f"{NOTEBOOKS[0].stem}.html").as_uri())
    assert page.locator("section").first.is_visible() and page.locator("section").last.is_visible()
    context.close()


@needs_chromium
def test_slides_alone_need_only_their_own_folder(tmp_path, tab):
    publish.main(["slides", "--out", str(tmp_path / "deck")])
    assert {path.stem for path in (tmp_path / "deck").glob("*.html")} == {path.stem for path in NOTEBOOKS}
    opened(tab, tmp_path / "deck" / f"{NOTEBOOKS[1].stem}.html")
    assert tab.evaluate(NOW)["shown"] == 1 and tab.evaluate(LOOK)["equations"] == 0 and tab.trouble == []
    assert [page.links for page in map(Page, (tmp_path / "deck").glob("*.html")) if page.links] == []
