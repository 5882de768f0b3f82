"""docs/explore.html in Chromium, by file:// and without a network: each part says Python's numbers.

Skipped with a reason where no browser is found. Screenshots stay in build/explore, to be looked at.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import measure
import pytest
import torch

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explore.html"
NUMBERS = ROOT / "docs" / "explore" / "numbers"
SCREENSHOTS = ROOT / "build" / "explore"
NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = os.environ.get("COMP_LIB_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
SWEEP_TIMEOUT = 300_000  # ms for a race on a busy machine, not a measurement
AXE = "axe-core@4.10.2"

playwright_api = pytest.importorskip(
    "playwright.sync_api", reason="no playwright: pip install 'comp-lib[browser]'"
)
expect = playwright_api.expect
expect.set_options(timeout=60_000)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        BROWSER is None, reason=f"no browser: none of {', '.join(NAMES)}, and no COMP_LIB_BROWSER"
    ),
]


def numbers_of(part):
    file = NUMBERS / f"{part}.json"
    if not file.exists():
        pytest.skip(f"the numbers of {part!r} were not taken: python docs/explore/measure.py {part}")
    return json.loads(file.read_text("utf-8"))


@pytest.fixture(scope="module")
def chromium():
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """`open_page(fragment)`: the page. There were no requests but the file's own, and no errors."""
    contexts = []
    requests = []
    console_lines = []

    def open_it(fragment="", script="", **options):
        options.setdefault("viewport", {"width": 1280, "height": 900})
        context = chromium.new_context(offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda entry: console_lines.append(entry.text))
        page.on("pageerror", lambda error: console_lines.append(str(error)))
        if script:
            page.add_init_script(script)
        page.goto(PAGE.as_uri() + fragment)
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert [url for url in requests if not url.startswith((PAGE.as_uri(), "blob:", "data:"))] == []
    assert console_lines == []


def keep(part, name):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    part.screenshot(path=SCREENSHOTS / f"{name}.png")


def address_ends(page, ending):
    page.wait_for_function("words => decodeURIComponent(location.hash).endsWith(words)", arg=ending)


def test_an_arrow_is_moved_by_keys_and_by_mouse(open_page):
    page = open_page()
    part = page.locator("#neurons-live")
    part.scroll_into_view_if_needed()
    expect(part.locator(".verdict")).to_contain_text("removes neuron 3, which loses 1.00 after the refit")
    handle = part.locator(".handle").nth(1)
    handle.focus()
    for _ in range(3):
        page.keyboard.press("ArrowUp")
    arrows = torch.tensor([[2, 0, 0], [2, 1.3, 0], [0, 0, 1]], dtype=torch.float64)
    check_table(part, arrows)
    address_ends(page, "neurons.arrows=2,0,2,1.3,1")
    assert handle.evaluate("handle => handle === document.activeElement")

    start = handle.bounding_box()
    x = start["x"] + start["width"] / 2
    y = start["y"] + start["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y + 30, steps=4)
    page.mouse.up()
    values = [float(field.input_value()) for field in part.locator("input[type=number]").all()]
    assert values[2] > 2.5 and values[3] < 1.3
    arrows[1] = torch.tensor([values[2], values[3], 0])
    check_table(part, arrows)
    keep(part, "neurons")


def check_table(part, arrows):
    """The table says energy, condition and price of arrows (3, 3), as lstsq has them."""
    for index, row in enumerate(part.locator("tbody tr").all()):
        kept = [column for column in range(3) if column != index]
        solution = torch.linalg.lstsq(arrows[kept].T, arrows[index][:, None]).solution[:, 0]
        price = float((arrows[index] - solution @ arrows[kept]).square().sum())
        energy = float(arrows[index].square().sum())
        cells = [float(cell) for cell in row.locator("td").all_inner_texts()[1:4]]
        assert cells == pytest.approx([energy, (energy / price) ** 0.5, price], abs=0.0051)


def test_a_neuron_is_removed_and_the_refit_takes_over(open_page):
    page = open_page("#neurons&neurons.gone=price")
    part = page.locator("#neurons-live")
    expect(part.locator(".verdict")).to_contain_text(
        "The refit multiplies neuron 2 by 1.80, and 0.80 is lost"
    )
    part.get_by_role("button", name="The condition is fooled").click()
    expect(part.locator(".verdict")).to_contain_text("The condition is fooled: it removes neuron 1")
    part.get_by_label("by condition").check()
    expect(part.locator(".verdict")).to_contain_text("3.20 is lost")
    part.get_by_role("button", name="A right angle").click()
    expect(part.locator(".verdict")).to_contain_text("Here no rule is fooled")


def test_the_sweep_of_the_page_is_comp_libs(open_page):
    """The error at 1,120 neurons to 1e-3, while the page stays alive; then a neuron by hand."""
    numbers = numbers_of("layer")
    page = open_page("#layer")
    part = page.locator("#layer-live")
    expect(part.locator(".progress")).to_contain_text("Your browser computes:", timeout=SWEEP_TIMEOUT)
    page.locator("#neurons-live").get_by_label("by price").check()  # the page is alive meanwhile
    expect(page.locator("#neurons-live .verdict")).to_contain_text("0.80 is lost")
    page.wait_for_selector("#layer-live[data-done]", timeout=SWEEP_TIMEOUT)
    race = numbers["race"]
    round_index = race["counts"].index(numbers["size"] - numbers["compared_width"])
    from_page = page.evaluate("window.exploreRace")
    for name in ("price", "energy", "random"):
        assert from_page[name]["kind"] == "curve", "the worker's, and not the stored one"
        assert from_page[name]["counts"] == race["counts"]
        assert from_page[name]["refitted"][round_index] == pytest.approx(
            race[name]["refitted"][round_index], rel=1e-3
        )
        assert from_page[name]["bare"][round_index] == pytest.approx(
            race[name]["bare"][round_index], rel=1e-3
        )
    slider = part.get_by_label("Neurons that stay", exact=True)
    slider.focus()
    page.keyboard.press("ArrowLeft")
    address_ends(page, f"layer.width={numbers['compared_width'] - numbers['per_round']}")
    shown = 100 * race["price"]["refitted"][round_index + 1]
    expect(part.locator(".verdict").first).to_contain_text(f"by price {significant(shown)}% with the refit")
    keep(part, "layer")

    first = part.locator(".grid button").first
    neuron = int(first.locator(".neuron").inner_text().split()[1])
    first.focus()
    page.keyboard.press("Enter")
    expect(first).to_have_attribute("aria-pressed", "true")
    expect(part.locator(".verdict").last).to_contain_text(f"Without neuron {neuron} the price of neuron")
    keep(part, "layer_by_hand")
    part.get_by_role("button", name="Put all back").click()
    expect(part.locator(".grid button[aria-pressed=true]")).to_have_count(0)


def significant(percent):
    """As the page writes a share: three digits from 10% on, and two below."""
    digits = 2 if percent < 10 else 3
    return f"{percent:#.{digits}g}"


def test_without_workers_the_stored_race_is_shown(open_page):
    numbers = numbers_of("layer")
    page = open_page("#layer", script="delete window.Worker;")
    part = page.locator("#layer-live")
    expect(part.locator(".progress")).to_contain_text("no workers")
    round_index = numbers["race"]["counts"].index(numbers["size"] - numbers["compared_width"])
    shown = significant(100 * numbers["race"]["price"]["refitted"][round_index])
    expect(part.locator(".verdict").first).to_contain_text(f"by price {shown}% with the refit")


def test_widths_by_hand_and_by_plan(open_page):
    numbers = numbers_of("budget")
    page = open_page()
    part = page.locator("#budget-live")
    measured = numbers["plans"]["measured"]["0.2"]
    expect(part.locator(".verdict")).to_contain_text(f"the loss rises by {measured['increase'][0]:.2f} nats")
    part.get_by_label("layers dropped").check()
    expect(part.locator(".verdict")).to_contain_text(
        "6 whole layers go, of which the prediction says nothing"
    )
    part.get_by_label("own widths").check()
    bar = part.get_by_role("slider", name="Layer 0", exact=True)
    bar.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    moved = part.get_by_role("slider", name="Layer 1", exact=True)
    expect(moved).to_have_attribute("aria-valuenow", str(measured["widths"][1] - numbers["multiple"]))
    expect(part.get_by_label("by hand")).to_be_checked()
    widths = list(measured["widths"])
    widths[1] -= numbers["multiple"]
    expect(part.locator(".verdict")).to_contain_text(
        f"{round(100 * abs(1 - predicted_share(numbers, widths)))}% "
    )
    expect(part.locator(".verdict")).to_contain_text("was not measured")
    address_ends(page, "budget.widths=" + ",".join(map(str, widths)))
    keep(part, "budget")


def predicted_share(numbers, widths):
    """The predicted harm, divided by that of one width with as many neurons."""
    record = {"multiple": numbers["multiple"], "gone": numbers["removed"]}
    record |= {"kl": numbers["harm"], "curves": numbers["curves"]}
    removed = [full - width for full, width in zip(numbers["neurons"], widths, strict=True)]
    predicted = sum(measure.predicted_harms(record, removed))
    mean = sum(removed) / len(removed)
    low = int(mean)
    below, above = (sum(measure.predicted_harms(record, [low + extra] * len(removed))) for extra in (0, 1))
    return predicted / (below + (above - below) * (mean - low))


def test_a_layer_is_skipped_and_tokens_are_looked_at(open_page):
    numbers = numbers_of("tokens")
    text = numbers["texts"]["facts"]
    page = open_page("#tokens&tokens.layer=12")
    part = page.locator("#tokens-live")
    dense = sum(text["loss"]) / len(text["loss"])
    part.get_by_label("Layer", exact=True).focus()
    page.keyboard.press("ArrowLeft")
    without = sum(text["without"][11]) / len(text["loss"])
    expect(part.locator(".verdict")).to_contain_text(
        f"Without layer 11 the loss is {without:.2f} nats per token instead of {dense:.2f}"
    )
    part.locator(".token").nth(3).hover()
    expect(part.locator(".verdict")).to_contain_text(f"instead of {text['loss'][2]:.2f}")
    address_ends(page, "tokens.position=3")
    part.get_by_label("silence layer 11").check()
    silent = sum(text["silenced"]) / len(text["loss"])
    expect(part.locator(".verdict")).to_contain_text(f"the loss is {silent:.2f} nats per token")
    part.get_by_label("code").check()
    expect(part.locator(".token")).to_have_count(len(numbers["texts"]["code"]["tokens"]))
    keep(part, "tokens")


def test_what_a_fifth_costs(open_page):
    numbers = numbers_of("costs")
    if not numbers["runs"]["tailored"].get("0.2"):
        pytest.skip("nothing was pruned yet: python docs/explore/measure.py costs")
    page = open_page("#costs&costs.ratio=0")
    part = page.locator("#costs-live")
    expect(part.locator(".verdict")).to_contain_text("This is the dense model")
    slider = part.get_by_label("Part of the decoder that is removed")
    slider.fill("0.2")
    run = numbers["runs"]["tailored"]["0.2"]
    rise = sum(run["losses"].values()) - sum(numbers["dense"]["losses"].values())
    expect(part.locator(".verdict")).to_contain_text(f"rises by {rise / len(numbers['kinds']):.2f} nats")
    part.get_by_label("The model goes on from").select_option(index=3)
    expect(part.locator(".written").last).to_have_text(numbers["prompts"][3] + run["texts"][3])
    keep(part, "costs")


def test_a_damaged_address_says_so_and_shows_the_default(open_page):
    page = open_page("#neurons&neurons.gone=nobody&neurons.arrows=1,1,1,1,1")
    expect(page.locator("#damaged")).to_contain_text("“neurons.gone=nobody”")
    expect(page.locator("#neurons-live").get_by_label("none")).to_be_checked()
    expect(page.locator("#neurons-live input[type=number]").nth(1)).to_have_value("1")


def test_an_address_of_another_is_taken_over(open_page):
    page = open_page()
    page.evaluate("location.hash = '#neurons&neurons.gone=energy'")
    expect(page.locator("#neurons-live").get_by_label("by energy")).to_be_checked()


def test_without_javascript_there_are_stills(open_page):
    page = open_page(java_script_enabled=False)
    for part in ("neurons", *(name for name in measure.PARTS if (NUMBERS / f"{name}.json").exists())):
        if part == "costs" and not any(numbers_of(part)["runs"].values()):
            continue
        expect(page.locator(f"#{part}-live figure svg")).to_be_visible()
        assert len(page.locator(f"#{part}-live figcaption").inner_text()) > 50
    keep(page, "without_javascript")


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_window(open_page, width):
    page = open_page(viewport={"width": width, "height": 740}, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=str(SCREENSHOTS / f"page_{width}.png"), full_page=True)


def test_an_arrow_is_dragged_by_touch(open_page):
    page = open_page(viewport={"width": 360, "height": 740}, has_touch=True)
    part = page.locator("#neurons-live")
    handle = part.locator(".handle").first
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    x = box["x"] + box["width"] / 2
    y = box["y"] + box["height"] / 2
    touches = page.context.new_cdp_session(page)
    for kind, move in (("touchStart", 0), ("touchMove", 20), ("touchMove", 40)):
        points = [{"x": x + move, "y": y - move}]
        touches.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    touches.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    fields = part.locator("input[type=number]")
    assert float(fields.nth(0).input_value()) > 2.3
    assert float(fields.nth(1).input_value()) > 0.3


@pytest.fixture(scope="session")
def axe(tmp_path_factory):
    """The text of axe-core, which npm fetches; a test without it is skipped."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm, which fetches axe-core")
    folder = tmp_path_factory.mktemp("axe")
    command = [npm, "pack", AXE, "--pack-destination", str(folder), "--silent"]
    try:
        finished_process = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm could not fetch {AXE} within a minute")
    if finished_process.returncode != 0:
        pytest.skip(f"npm could not fetch {AXE}")
    shutil.unpack_archive(next(folder.glob("*.tgz")), folder)
    return (folder / "package" / "axe.min.js").read_text("utf-8")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_violation(open_page, axe, scheme):
    page = open_page(color_scheme=scheme, bypass_csp=True)
    page.evaluate(axe)
    violations = page.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"]
    serious = [
        (violation["id"], violation["nodes"][0]["html"][:200])
        for violation in violations
        if violation["impact"] in ("serious", "critical")
    ]
    assert serious == []
