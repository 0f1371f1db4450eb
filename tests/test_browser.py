"""The explorers and a notebook as a learner meets them: JupyterLab, then the app, in a real browser, by keyboard."""

import shutil
from pathlib import Path

import lab
import pytest

from infalign_edu.classroom import widgets

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
KEYS = ("ArrowRight", "ArrowLeft")  # Lab keeps the keys of lists to itself


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the notebooks: Lab saves what it opens."""
    place = tmp_path_factory.mktemp("course")
    for name in ("explorer", "01_alignment_and_win_rate"):
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


def changed(page, place, before, *, seconds=10.0, parts=1):
    """The explorer's state once `parts` of picture and numbers differ from `before`, or as it is when time is up."""
    now = before
    for _ in range(int(seconds * 20)):
        now = place.evaluate(STATE)
        if (now["pixels"] != before["pixels"]) + (now["numbers"] != before["numbers"]) >= parts and now["wide"]:
            break
        page.wait_for_timeout(50)
    return now


def test_a_notebook_opened_in_lab_runs_to_its_end(browser, server):
    page = opened(browser, server, "01_alignment_and_win_rate")
    quiet(page)
    images, texts = page.locator(".jp-OutputArea-output img"), page.locator(".jp-OutputArea-output .figure-text")
    assert images.count() == texts.count() >= 2  # Lab leaves an image's own text out
    assert all(len(texts.nth(i).text_content()) > 60 for i in range(texts.count()))
    page.close()


def test_every_explorer_shows_a_picture_and_its_numbers(explorers):
    boxes = explorers.locator(".infalign-explorer")
    assert boxes.count() == EXPLORERS
    for i in range(EXPLORERS):
        state = boxes.nth(i).evaluate(STATE)
        assert state["wide"] > 300 and len(state["numbers"]) > 20 and state["alert"] == ""
    quiet(explorers)


BUTTONS = {
    "FrontierExplorer": ("start from exp:10", "start from identity", "clear"),
    "FixedPointExplorer": ("one step", "run 50", "to the start"),
    "BestOfNPlayground": ("Draw again",),
}
MOVED = ("TransformExplorer", "CalibrationExplorer", "FrontierExplorer", "FixedPointExplorer", "BestOfNPlayground")


@pytest.mark.parametrize("name", MOVED)
def test_every_control_answers_to_the_keyboard(explorers, name):
    place = box(explorers, getattr(widgets, name).title)
    if name == "FixedPointExplorer":  # before the first step damping has nothing to damp
        press(explorers, place, "one step")
    handles = place.locator(".noUi-handle")
    assert handles.count() >= 3
    for i in range(handles.count()):
        label = handles.nth(i).evaluate("it => it.closest('.jupyter-widgets').querySelector('label').textContent")
        before = place.evaluate(STATE)
        for key in KEYS:  # at the end of a scale one of the two does nothing
            handles.nth(i).focus()
            explorers.keyboard.press(key)
            after = changed(explorers, place, before, seconds=5, parts=2)
            if after != before:
                break
        assert label.strip() and after["alert"] == "", f"{name}: {label}: {after['alert']}"
        assert after["pixels"] != before["pixels"], f"{name}: {label} did not move the picture"
        assert after["numbers"] != before["numbers"], f"{name}: {label} did not move the numbers"
    quiet(explorers)


def press(page, place, label, *, seconds=30.0):
    """Presses a button by keyboard and waits until the explorer has changed."""
    before = place.evaluate(STATE)
    place.locator("button", has_text=label).first.focus()
    page.keyboard.press("Enter")
    after = changed(page, place, before, seconds=seconds)
    assert after != before and after["alert"] == "", f"{label}: {after['alert']}"
    return after


def test_buttons_and_text_are_worked_by_keyboard(explorers):
    title = {name: getattr(widgets, name).title for name in MOVED}
    for name, labels in BUTTONS.items():
        for label in labels:
            press(explorers, box(explorers, title[name]), label)
    place = box(explorers, title["FrontierExplorer"])
    before = place.evaluate(STATE)
    place.locator("select").select_option(["log", "identity"])
    assert changed(explorers, place, before)["pixels"] != before["pixels"]
    place.locator("input[type=text]").first.fill("exp:none")
    place.locator("button", has_text="add").focus()
    explorers.keyboard.press("Enter")
    place.locator("[role=alert]").wait_for(timeout=10_000)
    assert "exp:none" in place.locator("[role=alert]").text_content() and place.evaluate(STATE)["wide"]
    place.locator("input[type=text]").first.fill("exp:17")
    press(explorers, place, "add")
    quiet(explorers)


STEPS = """box => Number((box.querySelector('.infalign-numbers').textContent.match(/: ([0-9]+) of [0-9]+ steps/) || [0, 0])[1])"""


def wait_for_steps(page, place, more_than, *, seconds=90):
    for _ in range(seconds * 5):
        if (done := place.evaluate(STEPS)) > more_than:
            return done
        page.wait_for_timeout(200)
    raise AssertionError(f"no step after {more_than}: {place.evaluate(STATE)}")


def test_a_training_job_is_watched_stopped_and_resumed(explorers, folder):
    place = box(explorers, widgets.TrainingMonitor.title)
    handles = place.locator(".noUi-handle")
    for i in range(handles.count()):  # what Start would train, there and back
        for key in KEYS:
            before = place.evaluate(STATE)
            handles.nth(i).focus()
            explorers.keyboard.press(key)
            after = changed(explorers, place, before, seconds=3)
        assert after["numbers"] != before["numbers"] and after["alert"] == ""
    press(explorers, place, "Start", seconds=20)
    done = wait_for_steps(explorers, place, 0)
    before = place.evaluate(STATE)
    after = changed(explorers, place, before, seconds=60)
    assert after["pixels"] != before["pixels"]  # curves grow while the page is free
    place.locator("button", has_text="Stop").click()
    place.locator("button:not([disabled])", has_text="Resume").wait_for(timeout=60_000)
    done = place.evaluate(STEPS)
    assert "Stopped" in place.evaluate(STATE)["numbers"] and done >= 1
    place.locator("button", has_text="Resume").click()
    assert wait_for_steps(explorers, place, done) > done
    place.locator("button", has_text="Stop").click()
    place.locator("button:not([disabled])", has_text="Resume").wait_for(timeout=60_000)
    assert (folder / "runs" / "monitor-1" / "config.json").is_file()
    quiet(explorers)


def test_the_app_shows_the_explorers_without_their_code(browser, folder, tmp_path_factory):
    command = ["voila", "explorer.ipynb", "--no-browser", "--Voila.ip=127.0.0.1", "--port={port}", "--token={token}"]
    with lab.serving(folder, command, "/voila/static/favicon.ico", tmp_path_factory.mktemp("app") / "app.log") as (address, token):
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(f"{address}/?token={token}", timeout=90_000)
        page.wait_for_function(f"() => document.querySelectorAll('.infalign-explorer img').length >= {EXPLORERS}", timeout=120_000)
        place = box(page, widgets.TransformExplorer.title)
        before = place.evaluate(STATE)
        place.locator(".noUi-handle").first.focus()
        page.keyboard.press("ArrowRight")
        after = changed(page, place, before)
        assert after["numbers"] != before["numbers"] and after["pixels"] != before["pixels"]
        assert page.locator("text=import").count() == 0  # no source
        page.close()
