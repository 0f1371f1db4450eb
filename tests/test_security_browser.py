"""Texts shaped like scripts in a real browser, and the servers of `make lab` and `make app` from outside."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import lab
import nbformat
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).with_name("security")))  # helpers that are no tests
from hostile import SCRIPTS

import infalign_edu as ia
from infalign_edu.rl import ctrl

ROOT = Path(__file__).parents[1]
needs_browser = pytest.mark.skipif(not lab.CHROMIUM, reason=lab.NO_BROWSER)
WATCH = "window.owned = 0; window.alert = () => { window.owned = 1; };"
ACTIVE = """() => [...document.querySelectorAll('script, iframe, base, object, embed, svg, form, link, meta[http-equiv=refresh]')]
  .filter(it => !it.closest('nav')).map(it => it.outerHTML.slice(0, 80))"""
LINKS = """() => [...document.querySelectorAll('*')].filter(it => [...it.attributes].some(
  a => /^on/i.test(a.name) || /^\\s*javascript:/i.test(a.value))).map(it => it.outerHTML.slice(0, 200))"""


def look(page_file, says):
    """Opens a page from disk with every script allowed that the page itself allows; returns what was asked for."""
    with lab.chromium() as browser:
        page = browser.new_page()
        page.add_init_script(WATCH)
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(page_file.as_uri())
        page.wait_for_load_state("networkidle")
        title, owned, text = page.title(), page.evaluate("window.owned"), page.inner_text("body")
        active, links = page.evaluate(ACTIVE), page.evaluate(LINKS)
    assert "owned" not in title and not owned and active == [] and links == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    missing = [script for script in says if " ".join(script.split()) not in " ".join(text.split())]
    assert missing == []
    return title


class Named:
    """A reward whose name is a script, as somebody's own reward may have."""

    __name__ = SCRIPTS[1]

    def __call__(self, prompts, responses):
        return np.arange(len(responses)) % 7


@pytest.fixture
def report(tmp_path, monkeypatch):
    """A small run: every response, prompt and name in it is shaped like a script."""
    monkeypatch.setattr("infalign_edu.lm.policy.Policy.decode", lambda *a: [SCRIPTS[i % len(SCRIPTS)] for i in range(len(a[1]))])
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"why {i} {SCRIPTS[0]} {SCRIPTS[1]} {SCRIPTS[i % 4]}\n" for i in range(24)))
    model = shutil.copytree(_embedded(), tmp_path / "<img src=x onerror=alert(1)>")
    config = ia.CTRLConfig(
        model=str(model), prompts=str(prompts), reward=Named(), out=str(tmp_path / "run"), steps=1, prompts_per_step=2,
        samples_per_prompt=2, reference_samples=4, heldout_prompts=6, evaluation_samples=4, base_samples=4, snapshots=1,
        transform="identity", max_new_tokens=4,
    )  # fmt: skip
    return ctrl.align(config)


def _embedded():
    from infalign_edu.lm import embedded

    return embedded("model")


def test_a_report_of_scripts_holds_no_tag_of_theirs(report):
    text = (report.folder / "report.html").read_text()
    body = text.partition("<body>")[2]
    assert set(re.findall(r"<(\w+)", body)) == {"h1", "h2", "h3", "p", "ul", "li", "table", "tr", "th", "td", "img"}
    assert "Content-Security-Policy\" content=\"default-src 'none'" in text and text.count("<style>") == 1
    assert body.count("&lt;script&gt;") >= 3 and "&lt;img src=x onerror=" in body


@needs_browser
@pytest.mark.slow
def test_a_report_of_scripts_in_a_browser_with_and_without_its_policy(report):
    page = report.folder / "report.html"
    drawn = [SCRIPTS[0], SCRIPTS[1], SCRIPTS[2], SCRIPTS[3]]
    assert look(page, drawn) == "identity for best-of-4"
    bare = page.with_name("bare.html")  # escaping alone must hold as well
    bare.write_text(re.sub(r"<meta http-equiv[^>]*>", "", page.read_text()))
    assert "Content-Security" not in bare.read_text()
    look(bare, drawn)


@needs_browser
@pytest.mark.slow
def test_the_browser_would_have_noticed(tmp_path):
    for script in SCRIPTS[:2]:
        page = tmp_path / "page.html"
        page.write_text(f"<title>page</title><body>{script}</body>")
        with pytest.raises(AssertionError):
            look(page, [])


@needs_browser
@pytest.mark.slow
def test_feedback_of_scripts_in_a_browser(tmp_path):
    pytest.importorskip("nbgrader", reason="nbgrader, an optional extra, is not installed")
    from test_grading import LIMITS, MASTERS, STEM, filled

    from infalign_edu.classroom.grading import grader

    masters, folder = tmp_path / "masters", tmp_path / "in" / "eve"
    masters.mkdir(), folder.mkdir(parents=True)
    nbformat.write(MASTERS[STEM], masters / f"{STEM}.ipynb")
    notebook = filled({
        "best-of-n-density": f"# {SCRIPTS[0]}\n{SCRIPTS[2]!r}\nraise ValueError({SCRIPTS[1]!r})",
        "kth-best-estimate": f"return {SCRIPTS[3]!r}",
    })  # fmt: skip
    notebook.cells.insert(2, nbformat.v4.new_markdown_cell("\n\n".join(SCRIPTS)))
    notebook.metadata["title"] = SCRIPTS[0]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [nbformat.v4.new_output("display_data", data={"text/html": script}) for script in SCRIPTS]
    nbformat.write(notebook, folder / f"{STEM}.ipynb")
    grader.grade(tmp_path / "in", tmp_path / "out", 4711, masters, LIMITS)
    page = tmp_path / "out" / "feedback" / "eve" / f"{STEM}.html"
    look(page, [SCRIPTS[0], SCRIPTS[1]])
    bare = page.with_name("bare.html")
    bare.write_text(re.sub(r"<meta http-equiv[^>]*>", "", page.read_text()))
    look(bare, [SCRIPTS[0], SCRIPTS[1]])


WIDGETS = f"""
import ipywidgets, numpy as np
from IPython.display import display
from infalign_edu.classroom.widgets import runs
from infalign_edu.classroom.widgets.draws import judge, table
from infalign_edu.classroom.widgets.explorer import Explorer, slider
SCRIPTS = {SCRIPTS!r}

class Hostile(Explorer):
    title = SCRIPTS[0]
    def __init__(self): super().__init__({{"x": slider("x", 1.0, 0.0, 9.0, 1.0, "x")}})
    def compute(self, x): return " ".join(SCRIPTS)
    def draw(self, data): return b""
    def describe(self, data): return data

explorer = Hostile()
explorer.complain(ValueError(SCRIPTS[1]))
said = (SCRIPTS * 2)[:16]
shown = judge(SCRIPTS[0], SCRIPTS[1], 4, 0, said, np.arange(16.0), np.arange(64.0) / 4)
examples = [runs.Example(script, script, script, (1.0, 2.0)) for script in SCRIPTS]
display(explorer.box, ipywidgets.HTML(table(shown)), ipywidgets.HTML(runs.table(examples, 5)), ipywidgets.HTML("<p id=end>end</p>"))
"""


def test_widgets_hold_no_tag_of_a_text():
    found: dict = {"display": None}
    exec(WIDGETS.replace("display(explorer", "tuple((explorer").rstrip()[:-1] + "))", found)  # noqa: S102
    explorer = found["explorer"]
    values = [widget.value for widget in (explorer.numbers, explorer.message, explorer.box.children[0])]
    values += [found["table"](found["shown"]), found["runs"].table(found["examples"], 5)]
    for value in values:
        tags = set(re.findall(r"<(\w+)", value))
        assert tags <= {"div", "b", "h3", "table", "caption", "thead", "tbody", "tr", "th", "td"}, value
    assert "&lt;img src=x" in explorer.message.value and "&lt;script&gt;" in explorer.numbers.value


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("server", ["lab", "voila"])
def test_widgets_of_scripts_in_a_browser(server, tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(WIDGETS)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    (tmp_path / "book").mkdir()
    nbformat.write(notebook, tmp_path / "book" / "hostile.ipynb")
    command = ["voila", "hostile.ipynb", "--no-browser", "--Voila.ip=127.0.0.1", "--port={port}", "--token={token}"]
    served = (lab.lab(tmp_path / "book", tmp_path / "lab.log") if server == "lab" else
              lab.serving(tmp_path / "book", command, "/voila/static/favicon.ico", tmp_path / "app.log"))  # fmt: skip
    with served as (address, token), lab.chromium() as browser:
        page = browser.new_page()
        page.add_init_script(WATCH)
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        if server == "lab":
            lab.open_notebook(page, address, token, "hostile.ipynb")
            lab.run_all(page)
        else:
            page.goto(f"{address}/?token={token}", timeout=90_000)
        page.wait_for_selector("#end", timeout=90_000)
        text = page.evaluate("() => document.body.textContent")
        inside = page.evaluate("""() => [...document.querySelectorAll('.widget-html, .jupyter-widgets')].flatMap(box =>
          [...box.querySelectorAll('script, iframe, svg[onload], base, link, meta, [onerror], [onload], a')].map(it => it.outerHTML))""")
        for link in page.query_selector_all("mjx-container a, .MathJax a, .widget-html a"):
            with suppress(Exception):
                link.click(timeout=500)
        owned, title = page.evaluate("window.owned"), page.title()
    assert "owned" not in title and not owned
    assert [html for html in inside if "javascript:" in html or "<a" not in html] == []
    assert SCRIPTS[0] in text and SCRIPTS[1] in text
    assert [url for url in asked if "example.org" in url] == []


# ---- servers


def listening(process):
    """Address and port of every socket that a process and its children listen on."""
    import psutil

    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    found = set()
    for member in family:
        with suppress(psutil.NoSuchProcess):
            found |= {tuple(c.laddr) for c in member.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    return found


def elsewhere():
    """An address of this machine that is not loopback."""
    import psutil

    found = [a.address for card in psutil.net_if_addrs().values() for a in card if a.family == socket.AF_INET]
    return next((address for address in found if not address.startswith("127.")), None)


def status(url, **headers):
    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *arguments):
            return None

    try:
        with urllib.request.build_opener(Stay).open(urllib.request.Request(url, headers=headers), timeout=60) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as error:
        return error.code, error.headers.get("Location") or ""


@contextmanager
def made(target, tmp_path, *more):
    """The server that `make TARGET` starts, without a browser and on a free port: process, address, token, log."""
    if not shutil.which("make"):
        pytest.skip("needs make")
    asked = subprocess.run(["make", "-n", target, f"BIN={Path(sys.executable).parent}"], cwd=ROOT, capture_output=True, text=True)
    command = asked.stdout.strip().splitlines()[-1].split()
    assert command[0].endswith(("/jupyter", "/voila"))
    port, log = lab.free_port(), tmp_path / f"{target}.log"
    command += [f"--port={port}", *(() if target == "app" else ("--no-browser", "--ServerApp.port_retries=0")), *more]
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR")
    env = {k: v for k, v in os.environ.items() if k != "JUPYTER_TOKEN"} | {name: str(tmp_path / name) for name in names}
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=subprocess.STDOUT)
    try:
        until = time.monotonic() + 90
        while not ((token := re.search(r"token=(\w+)", log.read_text())) and answers("127.0.0.1", port)):
            assert time.monotonic() < until and process.poll() is None, log.read_text()[-2000:]
            time.sleep(0.2)
        yield process, f"http://127.0.0.1:{port}", token[1]
    finally:
        process.terminate()
        process.wait(30)


def answers(host, port):
    """Whether somebody listens there."""
    with socket.socket() as caller:
        caller.settimeout(2)
        return caller.connect_ex((host, port)) == 0


def closed(address):
    """Whether the same port is closed on another interface of this machine."""
    other = elsewhere()
    return other is None or not answers(other, int(address.rsplit(":", 1)[1]))


@pytest.mark.slow
def test_make_lab_listens_to_this_machine_alone_and_asks_for_its_token(tmp_path, online):
    log = tmp_path / "refused"
    os.environ["INFALIGN_OFFLINE"] = str(log)  # of the server, which is held; this test itself may knock at its own doors
    try:
        log.touch()
        context = made("lab", tmp_path)
        process, address, token = context.__enter__()
    finally:
        del os.environ["INFALIGN_OFFLINE"]
    try:
        assert len(token) >= 40
        for path in ("/lab", "/tree", "/lab/tree/00_start_here.ipynb"):
            assert status(address + path)[0] == 302 and status(address + path)[1].startswith("/login")
            assert status(f"{address}{path}?token={token[:-1]}x")[0] == 302
        for path in ("/api/kernels", "/api/contents", "/api/terminals", "/api/sessions", "/lab/api/settings"):
            assert status(address + path)[0] in (302, 403), path
        assert status(f"{address}/lab?token={token}")[0] == 200
        assert status(f"{address}/api/contents?token={token}")[0] == 200
        assert status(f"{address}/lab?token={token}", Host="evil.example")[0] == 403  # a name that points here
        for path in ("/lab/api/update", "/lab/api/news"):
            assert status(f"{address}{path}?token={token}")[0] == 200
        start = urllib.request.Request(f"{address}/api/kernels?token={token}", method="POST", data=b"{}")
        with urllib.request.urlopen(start, timeout=60) as answer:
            assert answer.status == 201
        for _ in range(300):  # until the kernel has its sockets
            if len(found := listening(process)) >= 5:
                break
            time.sleep(0.2)
        assert len(found) >= 5 and {host for host, _ in found} <= {"127.0.0.1", "::1"}, found
        assert closed(address)
        assert log.read_text() == ""  # neither news nor updates were looked for
    finally:
        context.__exit__(None, None, None)


@pytest.mark.slow
def test_make_app_listens_to_this_machine_alone_and_asks_for_its_token(tmp_path, online):
    with made("app", tmp_path) as (process, address, token):
        assert len(token) >= 40
        for path in ("/", "/voila/render/explorer.ipynb", "/api/kernels", "/voila/files/explorer.ipynb", "/api/contents"):
            assert status(address + path)[0] in (302, 403, 404), path
            assert status(f"{address}{path}?token={token[:-1]}x")[0] in (302, 403, 404), path
        assert status(address + "/")[0] != 404 and status(f"{address}/?token={token}")[0] == 200
        found = listening(process)
        assert found and {host for host, _ in found} <= {"127.0.0.1", "::1"}, found
        assert closed(address)
