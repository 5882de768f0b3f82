"""`comp-lib report`: what can be refused is, before work; page and notebook come, also after a failure."""

from __future__ import annotations

import nbformat
import pytest
from command import refused, run

from comp_lib.analysis import page

pytest.importorskip("papermill", reason="no papermill: pip install 'comp-lib[report]'")


@pytest.fixture
def asked(monkeypatch):
    """What the notebook was asked for, of each run; the second one stops."""
    seen = []

    def execute(values):
        seen.append(values)
        cells = [nbformat.v4.new_code_cell(f"run = {len(seen)}")]
        return nbformat.v4.new_notebook(cells=cells), "MemoryError: none left" if len(seen) > 1 else None

    monkeypatch.setattr(page, "execute", execute)
    return seen


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--kinds", "poems"], ["poems"]),
        (["--ratios", "a,b"], ["--ratios as numbers between commas", "a,b"]),
        (["--ways", "nobody"], ["nobody"]),
        (["--at-most", "0"], ["--at-most", "above 0"]),
        (["--calibration", "nowhere.txt"], ["nowhere.txt"]),
        (["--calibration", "shipped", "--sequences", "99999"], ["at most", "99999"]),
        (["--device", "quantum"], ["available device", "quantum"]),
        (["--against", "no-such-model"], ["no-such-model"]),
    ],
)
def test_bad_options_are_refused(parent, tmp_path, asked, options, words):
    refused(run("report", parent, "--out", tmp_path / "page.html", *options), words)
    assert not list(tmp_path.iterdir()) and not asked


def test_a_model_or_an_ending_that_cannot_be_is_refused(parent, tmp_path, asked):
    refused(run("report", tmp_path / "nobody", "--out", tmp_path / "page.html"), ["nobody"])
    refused(run("report", parent, "--out", tmp_path / "page.pdf"), [".html"])
    assert not asked


@pytest.mark.parametrize("name", ["page.html", "page.ipynb"])
def test_a_file_that_is_there_is_not_replaced(parent, tmp_path, asked, name):
    (tmp_path / name).write_text("{}", "utf-8")
    refused(run("report", parent, "--out", tmp_path / "page.html"), ["--overwrite", name])
    assert (tmp_path / name).read_text("utf-8") == "{}" and not asked


def test_page_and_notebook_are_written_also_after_a_failure(parent, tmp_path, asked):
    out, notebook = tmp_path / "page.html", tmp_path / "page.ipynb"
    done = run("report", parent, "--out", out, "--kinds", "code, prose", "--ways", "best, flap")
    assert done.exit_code == 0, done.output
    assert asked[0]["kinds"] == ["code", "prose"] and asked[0]["ways"] == ["best", "flap"]
    assert asked[0]["ratios"] == [0.1, 0.2, 0.3] and asked[0]["allowed"] == 0.5
    refused(run("report", parent, "--out", out), ["--overwrite"])
    done = run("report", parent, "--out", out, "--overwrite")
    assert done.exit_code == 1 and "MemoryError" in done.stderr
    assert "run = 2" in notebook.read_text("utf-8") and len(asked) == 2
