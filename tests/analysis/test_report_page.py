"""The page of a check-up: run for real on a tiny model, opened in a browser without a network, and cut short."""

from __future__ import annotations

import html
import itertools
import os
import re
import shutil

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

from comp_lib.analysis import report_page
from comp_lib.analysis.checkup import Checkup
from comp_lib.analysis.parameters import Parameters
from comp_lib.analysis.report_page import Executed, Failure, execute, page, template
from comp_lib.errors import InputError

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = os.environ.get("COMP_LIB_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
FEW = {"kinds": ["prose", "code"], "ratios": [0.2], "minutes": 5.0, "peer": ""}
pytest.importorskip("papermill", reason="no papermill: pip install 'comp-lib[report]'")
pytestmark = pytest.mark.usefixtures("kernels")


@pytest.fixture(scope="module")
def executed(kernels, parent, tmp_path_factory):
    """A check-up of a tiny model against itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMP_LIB_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("COMP_LIB_STRICT_FIGURES", "1")
        cells = []
        done = execute(FEW | {"model": str(parent), "against": str(parent)}, lambda *told: cells.append(told))
        return done, cells


def test_all_cells_run_and_progress_is_told(executed):
    done, cells = executed
    assert done.failure is None
    assert cells[0][1] == 0 and cells[-1][1] == cells[-1][2] > 20
    outputs = [output for cell in done.notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]


def test_the_page_asks_nobody_and_describes_its_figures(executed):
    text = page(executed[0], "report.ipynb")
    assert text.startswith(report_page.MARK)
    assert not re.search(r"<script|<link|@import|url\(|src=\"(?!data:)", text)
    alts = re.findall(r"<img alt=\"([^\"]*)\"", text)
    assert len(alts) == text.count("<img") >= 8 and all(len(alt.split()) > 4 for alt in alts)
    assert len(text) < 5_000_000
    for heading in ("What it is", "Where it is redundant", "What can go", "What it costs", "What to distrust"):
        assert f"{heading}</h2>" in text
    assert "An interactive view" not in text and "only cell to edit" not in text


@pytest.mark.skipif(BROWSER is None, reason="no browser")
def test_in_a_browser_without_a_network(executed, tmp_path):
    api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install 'comp-lib[browser]'")
    file = tmp_path / "report.html"
    file.write_text(page(executed[0], "report.ipynb"), "utf-8")
    with api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--no-first-run"]
        browser = playwright.chromium.launch(executable_path=BROWSER, args=flags)
        for width, scheme in itertools.product((400, 1200), ("light", "dark")):
            look(browser, file, width, scheme)
        browser.close()


def look(browser, file, width, scheme):
    opened = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    asked, failed, said = [], [], []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("requestfailed", lambda request: failed.append(request.url))
    opened.on("console", lambda message: said.append(message.text))
    opened.context.set_offline(True)
    opened.goto(file.as_uri())
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
    assert failed == [] and said == []
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.evaluate("[...document.images].every(image => image.alt && image.naturalWidth > 100)")
    light = opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (scheme == "light")
    opened.close()


def test_a_check_up_again_computes_nothing_anew(parent, own_cache, monkeypatch):
    told = FEW | {"model": str(parent)}
    first = Checkup.of(**told)
    costs, layers = first.costs, first.layers

    def never(*_, **__):
        raise AssertionError("computed anew")

    for place in ("one_pass._look", "cost_frame._measured", "budget.measure_machine", "harm.sequence_loss_increase"):
        monkeypatch.setattr(f"comp_lib.analysis.{place}", never)
    again = Checkup.of(**told)
    assert again.costs.equals(costs) and again.layers.equals(layers) and again.effort == first.effort


ENDS = {
    "raise RuntimeError('the disk is full <b>')": "RuntimeError: the disk is full <b>",
    "import os\nos.kill(os.getpid(), 9)": "the kernel died: as a rule there was too little memory",
}


@pytest.mark.parametrize("cell", ENDS, ids=["an error", "the kernel dies"])
def test_a_failing_cell_ends_the_page_there(cell, tmp_path, monkeypatch, parent):
    notebook = nbformat.read(template(), as_version=4)
    place = next(place for place, cell in enumerate(notebook.cells) if "bench.neurons" in cell.source)
    names = [cell.source for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    kept = [cell for cell in notebook.cells[:place] if cell.cell_type == "markdown"]
    notebook.cells = [
        new_code_cell(names[0], metadata={"tags": ["parameters"]}),
        *kept,
        new_code_cell("print('before it')"),
        new_code_cell(cell),
        new_markdown_cell("## Never reached"),
        new_code_cell("print('never run')"),
    ]
    (tmp_path / "checkup.ipynb").write_text(nbformat.writes(notebook), "utf-8")
    monkeypatch.setattr(report_page, "PLACES", (tmp_path,))
    done = execute({"model": str(parent)})
    assert done.failure == Failure("Neurons", ENDS[cell])
    text = page(done, "report.ipynb")
    assert "before it" in text and "It stopped at: Neurons" in text and "ever r" not in text
    assert html.escape(ENDS[cell]) in text and "give the same" in text


def test_the_notebook_has_just_the_parameters_that_are_checked():
    notebook = nbformat.read(template(), as_version=4)
    [cell] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    space = {}
    exec(cell.source, space)
    names = set(space) - {"__builtins__"}
    assert names == set(Parameters.__dataclass_fields__)
    Parameters.of({name: space[name] for name in names})


def test_unknown_parameters_are_refused_before_work():
    with pytest.raises(InputError, match="did you mean 'minutes'"):
        execute({"minuets": 3})


def test_words_of_a_model_are_no_markup():
    """What a tokenizer or a user writes neither runs nor loads anything."""
    from comp_lib.analysis.texts import plain

    notebook = nbformat.v4.new_notebook(
        cells=[
            new_code_cell(
                "x",
                outputs=[
                    new_output(
                        "execute_result",
                        {"text/markdown": plain("<img src=x onerror=y> ![a](http://b/c.png) [d](http://e) |")},
                    )
                ],
            )
        ]
    )
    notebook.metadata["comp_lib"] = {"parameters": {"model": "a<script>", "against": ""}}
    text = page(Executed(notebook), "<i>.ipynb")
    assert "<img" not in text and "<script" not in text and "<a " not in text and "<i>" not in text


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(report_page, "NEEDED", ("papermill", "no_such_package"))
    with pytest.raises(InputError, match=r"no_such_package.*comp-lib\[report\]"):
        execute({})
