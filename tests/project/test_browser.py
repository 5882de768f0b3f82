"""A lesson in the real thing: JupyterLab, a headless Chromium, a reader who uses the keyboard.

Skipped with a reason where no browser is found. Screenshots stay in build/browser, to be looked at.
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
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "build" / "browser"
NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = os.environ.get("COMP_LIB_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
TIMEOUT = 1_800_000  # ms for all cells of a lesson on a busy machine, not a measurement

playwright_api = pytest.importorskip(
    "playwright.sync_api", reason="no playwright: pip install 'comp-lib[browser]'"
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.real,
    pytest.mark.skipif(
        BROWSER is None, reason=f"no browser: none of {', '.join(NAMES)}, and no COMP_LIB_BROWSER"
    ),
    pytest.mark.timeout(2 * TIMEOUT / 1000),
]

CELLS = """() => window.jupyterapp?.shell.currentWidget?.content?.widgets
  ?.filter(cell => cell.model.type === 'code' && cell.model.sharedModel.source.trim())
  .map(cell => ({count: cell.model.executionCount, outputs: cell.model.outputs.toJSON()}))"""
CONNECTED = """() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel
  ?.connectionStatus === 'connected'"""
RUN = """() => {
  window.ended = null;
  window.jupyterapp.shell.currentWidget.content.widgets.forEach(cell => cell.model.clearExecution?.());
  window.jupyterapp.commands.execute('notebook:run-all-cells')
    .then(() => { window.ended = 'finished'; }, error => { window.ended = String(error); });
}"""


# What is tested here is that a browser runs and shows cells, those of the planner; nbval runs all of them.
# jsonschema does without the grammars for addresses, which take most of its time.
START = "import sys; sys.modules['rfc3987_syntax'] = None; from jupyterlab.labapp import main; main()"
LESSON = "03_hybrid_granularity"
NEEDED = "hybrid-01 hybrid-04 w03-worth hybrid-05 w03-importance hybrid-26 hybrid-41".split()


def copy_notebooks(folder):
    """Copy the notebooks with what lessons draw; of LESSON only the cells that are needed."""
    shutil.copytree(ROOT / "notebooks", folder)
    path = folder / f"{LESSON}.ipynb"
    lesson = json.loads(path.read_text("utf-8"))
    cells = [cell for cell in lesson["cells"] if cell["cell_type"] == "markdown" or cell["id"] in NEEDED]
    assert set(NEEDED) <= {cell["id"] for cell in cells}
    path.write_text(json.dumps(lesson | {"cells": cells}), "utf-8")
    shutil.copytree(ROOT / "benchmarks", folder.parent / "benchmarks")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def lab(kernels, tmp_path_factory):
    """Address of a lesson in a JupyterLab over a copy of the notebooks."""
    folder = tmp_path_factory.mktemp("lab") / "notebooks"
    copy_notebooks(folder)
    port = free_port()
    token = secrets.token_hex(16)
    options = {
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.root_dir": folder,
        "IdentityProvider.token": token,
        "LabApp.expose_app_in_browser": True,
        "LabApp.news_url": None,
        "LabApp.check_for_updates_class": "jupyterlab.handlers.announcements.NeverCheckForUpdate",
    }
    command = [sys.executable, "-c", START, "--no-browser", "--allow-root", "--ip=127.0.0.1"]
    log = folder.parent / "lab.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [*command, *(f"--{name}={value}" for name, value in options.items())],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )
        try:
            deadline = time.monotonic() + 300
            while not answers(f"http://127.0.0.1:{port}/api"):
                if server.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"JupyterLab did not start: {log.read_text()[-2000:]}")
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/lab/tree/{LESSON}.ipynb?token={token}&reset"
        finally:
            server.terminate()
            server.wait(30)


def answers(address):
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except OSError:
        return False
    return True


@pytest.fixture
def page():
    with playwright_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield chromium.new_page(viewport={"width": 1280, "height": 1600})
        chromium.close()


def run_all(page, address):
    """Opens a lesson and runs its cells: all of them must run, without an error and a word on stderr."""
    page.goto(address, wait_until="domcontentloaded")
    page.wait_for_function(CONNECTED, timeout=120_000)
    page.evaluate(RUN)
    page.wait_for_function("() => window.ended !== null", timeout=TIMEOUT)
    assert page.evaluate("() => window.ended") == "finished"
    cells = page.evaluate(CELLS)
    bad = [
        output
        for cell in cells
        for output in cell["outputs"]
        if output["output_type"] == "error" or output.get("name") == "stderr"
    ]
    assert bad == []
    assert [cell["count"] for cell in cells] == list(range(1, len(cells) + 1))


def keep(page, name):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def test_a_slider_moved_by_keyboard_changes_the_figure(lab, page):
    run_all(page, lab)
    planner = page.locator(".jp-OutputArea .widget-vbox", has=page.locator(".noUi-handle")).first
    slider = planner.locator(".noUi-handle").first
    figure = planner.locator("img")
    slider.scroll_into_view_if_needed()
    before = {
        "value": slider.get_attribute("aria-valuenow"),
        "figure": figure.get_attribute("src"),
        "facts": planner.locator("table").inner_text(),
    }
    keep(page, "03_planner_before")

    slider.focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    playwright_api.expect(figure).not_to_have_attribute("src", before["figure"], timeout=30_000)
    playwright_api.expect(planner.locator("table")).not_to_have_text(before["facts"], timeout=30_000)
    page.wait_for_timeout(1000)  # until the last of the ten is drawn, for the picture

    assert float(slider.get_attribute("aria-valuenow")) == float(before["value"]) + 10
    assert figure.evaluate("image => image.naturalWidth") > 100
    assert page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    keep(page, "03_planner_after")
