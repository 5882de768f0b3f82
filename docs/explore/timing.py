"""Print how fast docs/explore.html answers in Chromium: `python docs/explore/timing.py`

Times are of this machine, with whatever else it does. A step is one move of a slider or of an arrow: from the
event to the end of the layout that follows.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

PAGE = Path(__file__).resolve().parents[1] / "explore.html"
NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu"]
STEPS = 20
SWEEP_TIMEOUT = 600_000  # ms
SLIDERS = ("costs-ratio", "layer-width", "budget-ratio", "tokens-layer")
MOVE_SLIDER = """([id, steps]) => {
  const input = document.getElementById(id);
  if (!input) return null;
  const times = [];
  for (let step = 0; step < steps; step += 1) {
    const start = performance.now();
    input[step % 2 ? 'stepDown' : 'stepUp'](1);
    input.dispatchEvent(new Event('input'));
    document.body.getBoundingClientRect();
    times.push(performance.now() - start);
  }
  return times;
}"""
MOVE_ARROW = """(steps) => {
  const handle = document.querySelector('#neurons-live .handle');
  const times = [];
  for (let step = 0; step < steps; step += 1) {
    const start = performance.now();
    handle.dispatchEvent(new KeyboardEvent('keydown', { key: step % 2 ? 'ArrowUp' : 'ArrowDown' }));
    document.body.getBoundingClientRect();
    times.push(performance.now() - start);
  }
  return times;
}"""


def say(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


def say_times(name: str, times: list[float]) -> None:
    say(f"{name}: median {statistics.median(times):.1f} ms, slowest {max(times):.1f} ms a step")


def measure(page: Page) -> None:
    """Print the times of one visit."""
    page.goto(PAGE.as_uri())
    loaded = page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    say(f"all parts started {loaded:.0f} ms after the page was asked for")
    say_times("an arrow of part 2", page.evaluate(MOVE_ARROW, STEPS))
    for slider in SLIDERS:
        times = page.evaluate(MOVE_SLIDER, [slider, STEPS])
        if times is not None:
            say_times(f"slider {slider}", times)
    page.locator("#layer").scroll_into_view_if_needed()
    page.wait_for_selector("#layer-live[data-done]", timeout=SWEEP_TIMEOUT)
    say(page.locator("#layer-live .progress").inner_text())


def main() -> int:
    browser = os.environ.get("COMP_LIB_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=FLAGS)
        measure(chromium.new_page(viewport={"width": 1280, "height": 900}))
        chromium.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
