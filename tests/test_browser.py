"""The explorers and a notebook as a learner meets them: JupyterLab, then the app, in a real browser, by keyboard."""

import shutil
from pathlib import Path

import lab
import pytest

pytestmark = pytest.mark.skipif(not lab.CHROMIUM, reason=lab.NO_BROWSER)
ROOT = Path(__file__).parents[1]
HARMLESS = ("No such comm", "favicon")  # what Lab and voila say on every page
EXPLORERS = 6
STATE = """box => {
  const image = box.querySelector('img.widget-image');
  const canvas = Object.assign(document.createElement('canvas'), {width: image.naturalWidth, height: image.naturalHeight});
  const context = canvas.getContext('2d');
  context.drawImage(image, 0, 0);
  const pixels = image.naturalWidth ? context.getImageData(0, 0, canvas.width, canvas.height).data : [];
  let hash = 0;
  for (const value of pixels) hash = (hash * 31 + value) | 0;
  return {pixels: hash, numbers: box.querySelector('.infalign-numbers').textContent, wide: image.naturalWidth,
          alert: (box.querySelector('[role=alert]') || {}).textContent || ''};
}"""
KEYS = {"div": ("ArrowRight", "ArrowLeft"), "select": ("ArrowDown", "ArrowUp"), "input": ("Space", "Space")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the notebooks: Lab saves what it opens."""
    place = tmp_path_factory.mktemp("course")
    for name in ("explorer", "00_start_here"):
        shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", place)
    return place


@pytest.fixture(scope="module")
def browser():
    with lab.chromium() as found:
        yield found


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory):
    with lab.lab(folder, tmp_path_factory.mktemp("log") / "lab.log") as found:
        yield found


def opened(browser, server, name):
    """A page with the notebook run to its end; `page.said` holds the console's errors."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.said = []
    page.on("console", lambda m: page.said.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: page.said.append(str(error)))
    lab.open_notebook(page, *server, f"{name}.ipynb")
    lab.run_all(page)
    return page


@pytest.fixture(scope="module")
def explorers(browser, server):
    page = opened(browser, server, "explorer")
    page.wait_for_function(f"() => document.querySelectorAll('.infalign-explorer').length >= {EXPLORERS}", timeout=30_000)
    yield page
    page.close()


def quiet(page):
    assert [text for text in page.said if not any(word in text for word in HARMLESS)] == []
    assert page.evaluate("() => window.kernelErrors") == []


def box(page, title):
    return page.locator(".infalign-explorer", has=page.locator("h3", has_text=title)).first


def changed(page, place, before, *, seconds=10.0):
    """The explorer's state once it differs from `before`, or the same state when time is up."""
    for _ in range(int(seconds * 20)):
        now = place.evaluate(STATE)
        if (now["pixels"], now["numbers"]) != (before["pixels"], before["numbers"]) and now["wide"]:
            return now
        page.wait_for_timeout(50)
    return before


def test_a_notebook_opened_in_lab_runs_to_its_end(browser, server):
    page = opened(browser, server, "00_start_here")
    quiet(page)
    images = page.locator(".jp-OutputArea-output img")
    assert images.count() >= 2 and all(images.nth(i).get_attribute("alt") for i in range(images.count()))
    page.close()


def test_every_explorer_shows_a_picture_and_its_numbers(explorers):
    boxes = explorers.locator(".infalign-explorer")
    assert boxes.count() == EXPLORERS
    for i in range(EXPLORERS):
        state = boxes.nth(i).evaluate(STATE)
        assert state["wide"] > 300 and len(state["numbers"]) > 20 and state["alert"] == ""
    quiet(explorers)


TITLES = ("Transform", "Calibration", "Frontier", "Fixed", "Best-of-N")


@pytest.mark.parametrize("title", TITLES)
def test_every_control_answers_to_the_keyboard(explorers, title):
    place = box(explorers, title)
    controls = place.locator(".noUi-handle, select, input[type=checkbox]")
    moved = 0
    for i in range(controls.count()):
        control = controls.nth(i)
        if not control.is_visible() or control.is_disabled():
            continue
        before = place.evaluate(STATE)
        tag = control.evaluate("it => it.tagName.toLowerCase()")
        for key in KEYS[tag]:
            control.focus()
            explorers.keyboard.press(key)
            after = changed(explorers, place, before, seconds=4)
            if after != before:
                break
        name = control.evaluate("it => it.closest('.jupyter-widgets').querySelector('label').textContent")
        assert name.strip(), "a control without a label"
        assert after["pixels"] != before["pixels"] or after["numbers"] != before["numbers"], f"{title}: {name} did nothing"
        assert after["alert"] == "", f"{title}: {name}: {after['alert']}"
        moved += 1
    assert moved >= 3
    quiet(explorers)


def test_buttons_are_reached_and_pressed_by_keyboard(explorers):
    pressed = 0
    for title in TITLES:
        place = box(explorers, title)
        buttons = place.locator("button:not([disabled])")
        for i in range(buttons.count()):
            before = place.evaluate(STATE)
            buttons.nth(i).focus()
            explorers.keyboard.press("Enter")
            after = changed(explorers, place, before, seconds=2)
            assert after["alert"] == "" and after["wide"], f"{title}: {buttons.nth(i).text_content()}"
            pressed += after != before
    assert pressed >= 3
    quiet(explorers)


def test_the_app_shows_the_explorers_without_their_code(browser, folder, tmp_path_factory):
    command = ["voila", "explorer.ipynb", "--no-browser", "--Voila.ip=127.0.0.1", "--port={port}", "--token={token}"]
    with lab.serving(folder, command, "/voila/static/favicon.ico", tmp_path_factory.mktemp("app") / "app.log") as (address, token):
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(f"{address}/?token={token}", timeout=90_000)
        page.wait_for_function(f"() => document.querySelectorAll('.infalign-explorer img').length >= {EXPLORERS}", timeout=120_000)
        place = box(page, "Transform")
        before = place.evaluate(STATE)
        place.locator(".noUi-handle").first.focus()
        page.keyboard.press("ArrowRight")
        after = changed(page, place, before)
        assert after["numbers"] != before["numbers"] and after["pixels"] != before["pixels"]
        assert page.locator("text=import").count() == 0  # no source
        page.close()
