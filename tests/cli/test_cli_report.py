"""`comp-lib report`: what can be refused is, before work; page and notebook come, also after a failure."""

from __future__ import annotations

import nbformat
import pytest
from command import ran, refused, run

from comp_lib.reports.checkup import page

pytestmark = pytest.mark.slow

pytest.importorskip("papermill", reason="no papermill: pip install 'comp-lib[report]'")


@pytest.fixture
def requests(monkeypatch):
    """The parameters of each run of the notebook; the second run stops."""
    requests = []

    def execute(parameters):
        requests.append(parameters)
        failure = None if len(requests) == 1 else "MemoryError: none left"
        cells = [nbformat.v4.new_code_cell(f"run = {len(requests)}")]
        return nbformat.v4.new_notebook(cells=cells), failure

    monkeypatch.setattr(page, "execute", execute)
    return requests


@pytest.mark.parametrize(
    ("options", "phrases"),
    [
        (["--kinds", "poems"], ["poems"]),
        (["--ratios", "a,b"], ["--ratios as numbers between commas", "a,b"]),
        (["--ways", "nobody"], ["nobody"]),
        (["--at-most", "0"], ["at_most", "above 0"]),
        (["--calibration", "nowhere.txt"], ["nowhere.txt"]),
        (["--calibration", "shipped", "--sequences", "99999"], ["at most", "99999"]),
        (["--device", "quantum"], ["available device", "quantum"]),
        (["--against", "no-such-model"], ["no-such-model"]),
    ],
)
def test_bad_options_are_refused(parent, tmp_path, requests, options, phrases):
    refused(run("report", parent, "--out", tmp_path / "page.html", *options), phrases)
    assert not list(tmp_path.iterdir())
    assert not requests


def test_a_model_or_an_ending_that_cannot_be_is_refused(parent, tmp_path, requests):
    refused(run("report", tmp_path / "nobody", "--out", tmp_path / "page.html"), ["nobody"])
    refused(run("report", parent, "--out", tmp_path / "page.pdf"), [".html"])
    assert not requests


@pytest.mark.parametrize("name", ["page.html", "page.ipynb"])
def test_a_file_that_is_there_is_not_replaced(parent, tmp_path, requests, name):
    (tmp_path / name).write_text("{}", "utf-8")
    refused(run("report", parent, "--out", tmp_path / "page.html"), ["or set overwrite (--overwrite)", name])
    assert (tmp_path / name).read_text("utf-8") == "{}"
    assert not requests


def test_page_and_notebook_are_written_also_after_a_failure(parent, tmp_path, requests):
    out = tmp_path / "page.html"
    ran("report", parent, "--out", out, "--kinds", "code, prose", "--ways", "best, flap")
    assert requests[0]["kinds"] == ["code", "prose"]
    assert requests[0]["ways"] == ["best", "flap"]
    assert requests[0]["ratios"] == [0.1, 0.2, 0.3]
    assert requests[0]["allowed"] == 0.2
    assert requests[0]["sequences"] == 32
    refused(run("report", parent, "--out", out), ["or set overwrite (--overwrite)"])
    result = run("report", parent, "--out", out, "--overwrite")
    assert result.exit_code == 1
    assert "MemoryError" in result.stderr
    assert "run = 2" in out.with_suffix(".ipynb").read_text("utf-8")
    assert len(requests) == 2
    assert requests[1]["ways"] == ["tailored"]
