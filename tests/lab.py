"""JupyterLab on loopback and a real browser: what the widget tests and the latency benchmark stand on.

Lab's page says idle before a kernel exists, and an exception in a widget's callback appears nowhere in the page: so the
page waits for its own kernel connection, and listens to every message that the kernel sends.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NO_BROWSER = "needs a system Chromium: apt-get install --no-install-recommends chromium fonts-dejavu-core"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
SHELL = "window.jupyterapp.shell.currentWidget"
READY = f"""() => {{
  const context = window.jupyterapp && {SHELL} && {SHELL}.sessionContext;
  const kernel = context && context.isReady && context.session && context.session.kernel;
  return Boolean(kernel && kernel.connectionStatus === 'connected' && kernel.status === 'idle');
}}"""
LISTEN = f"""() => {{
  window.kernelErrors = [];
  {SHELL}.sessionContext.session.kernel.anyMessage.connect((_, {{msg, direction}}) => {{
    if (direction === 'recv' && msg.header.msg_type === 'error') window.kernelErrors.push(msg.content.evalue);
    const text = msg.header.msg_type === 'stream' && msg.content.name === 'stderr' ? msg.content.text : '';
    if (text.includes('Traceback')) window.kernelErrors.push(text);
  }});
}}"""
RUN_ALL = "() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }"  # not awaited: that can hang
LEFT = f"""() => {SHELL}.content.widgets.filter(
  cell => cell.model.type === 'code' && cell.model.sharedModel.source.trim() && !(cell.model.executionCount > 0)
          || cell.model.executionState === 'running').length"""


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@contextmanager
def serving(folder: Path, command: list[str], ready: str, log: Path):
    """A server process on loopback, its address once it answers; it is ended at the end."""
    port, token = free_port(), secrets.token_hex(16)
    home = log.parent / f"{log.stem}-home"
    settings = home / "lab" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(json.dumps({"fetchNews": "false"}))
    env = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "lab"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    env.pop("MPLBACKEND", None)
    places = {"port": port, "token": token}
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *(part.format(**places) for part in command)],
            cwd=folder, env=env, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(f"{address}{ready.format(**places)}", process, log)
        yield address, token
    finally:
        process.terminate()
        process.wait(20)


def _wait_for(url: str, process: subprocess.Popen, log: Path, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except urllib.error.HTTPError:
            return  # it answers, if only to refuse
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"no server at {url}: {log.read_text()[-2000:]}")


@contextmanager
def lab(folder: Path, log: Path):
    """JupyterLab with `folder` as its root."""
    root = ["--allow-root"] if hasattr(os, "getuid") and os.getuid() == 0 else []
    command = [
        "jupyterlab", "--no-browser", "--ip=127.0.0.1", "--port={port}", "--ServerApp.port_retries=0",
        "--IdentityProvider.token={token}", "--expose-app-in-browser", f"--ServerApp.root_dir={folder}", *root,
    ]  # fmt: skip
    with serving(folder, command, "/api?token={token}", log) as found:
        yield found


@contextmanager
def chromium():
    """A headless system Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def open_notebook(page, address: str, token: str, name: str) -> None:
    """Opens a notebook in Lab and waits for its kernel; the page then keeps every kernel error."""
    page.goto(f"{address}/lab/tree/{name}?token={token}&reset")
    page.wait_for_function(READY, timeout=90_000)
    page.evaluate(LISTEN)


def run_all(page, seconds: float = 240) -> None:
    """Runs every cell and waits for the last one."""
    page.evaluate(RUN_ALL)
    until = time.monotonic() + seconds
    while left := page.evaluate(LEFT):
        if time.monotonic() > until or page.evaluate("() => window.kernelErrors.length"):
            raise AssertionError(f"{left} cells left, kernel errors: {page.evaluate('() => window.kernelErrors')}")
        page.wait_for_timeout(200)
    page.wait_for_function(READY, timeout=60_000)
