"""The notebooks in the real thing: JupyterLab, a headless Chromium, a reader who uses the keyboard.

Skipped with a reason where no browser is found. Screenshots stay in build/browser, to be looked at.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCREENSHOTS = ROOT / "build" / "browser"
BROWSER = os.environ.get("COMP_LIB_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run"]  # fmt: skip
RUN_SECONDS = 480  # for all cells of a notebook, on a busy machine; a time-out, not a measurement

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome found (or set COMP_LIB_BROWSER)"),
    pytest.mark.timeout(2 * RUN_SECONDS),
]
playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

CELLS = """() => {
  const panel = window.jupyterapp.shell.currentWidget;
  if (!panel || !panel.content || !panel.content.widgets) return null;
  return panel.content.widgets.filter(c => c.model.type === 'code' && c.model.sharedModel.source.trim())
    .map(c => ({count: c.model.executionCount, outputs: c.model.outputs.toJSON().map(o => ({
      type: o.output_type, name: o.name || null, text: (o.evalue || (o.name === 'stderr' ? o.text : '') || '').toString()}))}));
}"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Address of a JupyterLab over a copy of the notebooks."""
    folder = tmp_path_factory.mktemp("lab") / "notebooks"
    shutil.copytree(ROOT / "notebooks", folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    log = (folder.parent / "lab.log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
         "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}",
         "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None", "--LabApp.check_for_updates_class="
         "jupyterlab.handlers.announcements.NeverCheckForUpdate"],
        stdout=log, stderr=subprocess.STDOUT, cwd=folder,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=5).close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"JupyterLab did not start: {(folder.parent / 'lab.log').read_text()[-2000:]}")
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/lab/tree/{{name}}?token={token}&reset"
    finally:
        server.terminate()
        server.wait(20)
        log.close()


@pytest.fixture(scope="module")
def browser():
    with playwright_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield chromium
        chromium.close()


def run_all(browser, lab, name):
    """Open a notebook, run all its cells, and return the page when they are done, having found no error."""
    page = browser.new_page(viewport={"width": 1280, "height": 1800})
    page.goto(lab.format(name=name), wait_until="domcontentloaded")
    page.wait_for_function(f"() => window.jupyterapp && ({CELLS})() !== null", timeout=120_000)
    page.wait_for_function(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.connectionStatus === 'connected'",
        timeout=120_000,
    )
    page.evaluate("() => { window.jupyterapp.shell.currentWidget.content.widgets.filter(c => c.model.type === 'code')"
                  ".forEach(c => { c.model.clearExecution(); }); }")  # fmt: skip
    page.evaluate("() => { window.finished = null; window.jupyterapp.commands.execute('notebook:run-all-cells')"
                  ".then(() => { window.finished = true; }, e => { window.finished = String(e); }); }")  # fmt: skip
    page.wait_for_function(
        f"() => {{ const cells = ({CELLS})(); return window.finished !== null && (cells.every(c => c.count) ||"
        " cells.some(c => c.outputs.some(o => o.type === 'error'))); }",
        timeout=RUN_SECONDS * 1000,
    )
    cells = page.evaluate(CELLS)
    assert [o for cell in cells for o in cell["outputs"] if o["type"] == "error" or o["name"] == "stderr"] == []
    assert all(cell["count"] for cell in cells)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    return page


def test_00_runs_in_jupyterlab(lab, browser):
    page = run_all(browser, lab, "00_start_here.ipynb")
    shown = page.eval_on_selector_all(".jp-OutputArea img", "found => found.map(i => [i.alt, i.naturalWidth])")
    assert shown and all(alt for alt, _ in shown)
    page.screenshot(path=SCREENSHOTS / "00_start_here.png")
    page.close()
