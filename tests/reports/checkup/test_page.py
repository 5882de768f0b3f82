"""The page of a check-up: run for real on a tiny model, self-contained, and cut short."""

from __future__ import annotations

import inspect
import os
import re
import shutil

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from comp_lib.calibration.windows import calibration_tokens
from comp_lib.cli.use import report
from comp_lib.pruning.settings import USUAL_PRESET
from comp_lib.reports.checkup import page
from comp_lib.reports.checkup.page import check_page_request, execute, render
from comp_lib.utils.errors import InputError

pytestmark = pytest.mark.slow

PARAMETERS = {
    "against": "",
    "kinds": ["prose", "code"],
    "ratios": [0.2],
    "ways": ["stock"],
    "allowed": 0.2,
    "seed": 0,
    "calibration": "general",
    "sequences": 64,
    "dtype": "float32",
    "device": "cpu",
}
SET_BY_EXECUTE = {
    "model",
    "name",
    "length",
    "window_count",
    "judged_length",
    "layer_window_count",
    "loss_increase",
}
SET_BY_EXECUTE |= {"show_progress"}
SOURCE = next(
    folder / page.NOTEBOOK for folder in page.NOTEBOOK_FOLDERS if (folder / page.NOTEBOOK).is_file()
)
pytest.importorskip("papermill", reason="no papermill: pip install 'comp-lib[report]'")


@pytest.fixture(scope="module")
def executed(kernels, parent, tmp_path_factory):
    """A check-up of a tiny model that has learned a little, against itself."""
    trained = tmp_path_factory.mktemp("trained") / "parent"
    shutil.copytree(parent, trained)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(parent))
    ids = calibration_tokens("shipped", AutoTokenizer.from_pretrained(parent), sequences=64, length=64)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(20):
        optimiser.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
    model.save_pretrained(trained)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMP_LIB_CACHE", str(tmp_path_factory.mktemp("cache")))
        changes = {
            "model": str(trained),
            "name": "parent",
            "against": str(trained),
            "ratios": [0.1, 0.2],
            "ways": ["stock", "magnitude"],
            "calibration": "shipped",
            "sequences": 16,
        }
        return execute(PARAMETERS | changes)


@pytest.fixture
def short(monkeypatch, tmp_path, kernels):
    """`short(cell)` runs a notebook of the check-up's parameters, a heading, this cell and another one."""

    def run(source, name="somebody", text="general"):
        notebook = nbformat.read(SOURCE, 4)
        notebook.cells = [
            cell_of_parameters(notebook),
            new_markdown_cell("## A heading"),
            new_code_cell(source),
            new_code_cell("print('after it')"),
        ]
        folder = tmp_path / "notebooks"
        folder.mkdir()
        nbformat.write(notebook, folder / page.NOTEBOOK)
        monkeypatch.setattr(page, "NOTEBOOK_FOLDERS", (folder,))
        return execute(PARAMETERS | {"model": name, "calibration": text})

    return run


def test_a_notebook_that_is_not_installed_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "NOTEBOOK_FOLDERS", (tmp_path,))
    with pytest.raises(InputError, match=r"expected checkup\.ipynb, which comes with comp_lib"):
        execute(PARAMETERS | {"model": "somebody"})


def cell_of_parameters(notebook):
    [cell] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    return cell


def test_the_notebook_asks_for_what_the_command_line_does():
    values = {}
    exec(cell_of_parameters(nbformat.read(SOURCE, 4)).source, values)
    assert values["ways"] == [USUAL_PRESET]
    assert values["judged_length"] == page.JUDGED_LENGTH
    options = inspect.signature(report).parameters
    assert options["at_most"].default == f"{values['allowed']:g}nats"


def printed(notebook):
    return "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))


def test_all_cells_run_and_each_figure_has_its_summary(executed):
    notebook, stopped = executed
    assert stopped is None
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    figures = [index for index, output in enumerate(outputs) if "image/png" in output.get("data", {})]
    assert len(figures) == 3  # layers, costs, and what changed
    for index in figures:
        alt_text = outputs[index].data["text/plain"]
        assert outputs[index + 1].data["text/markdown"] == alt_text
        assert len(alt_text.split()) > 10
    assert "0 of 3 layers" not in printed(notebook)


def test_the_page_begins_with_the_recommendation(executed):
    first = next(cell.outputs[0] for cell in executed[0].cells if cell.get("outputs"))
    assert first.data["text/plain"].startswith("parent: ")
    assert "comp-lib prune parent" in first.data["text/html"]
    text = render(executed[0])[1]
    assert text.index("comp-lib prune parent") < text.index("<h2") < text.index("<img ")


def test_what_a_cell_writes_to_stderr_is_seen_at_once_and_is_not_on_the_page(short, capsys):
    cell = "progress = log_lines(0)\nprogress('pruning', 3, 4)\nprint('a line', show_progress)"
    notebook, stopped = short(f"from comp_lib.utils.progress import log_lines\n{cell}")
    assert not stopped
    assert "pruning: 3 of 4, 0 s\n" in capsys.readouterr().err
    assert "pruning: 3 of 4" not in render(notebook)[1]
    assert "a line True\n" in printed(notebook)


def test_a_random_model_is_not_pruned_and_has_no_empty_parts(parent, own_cache, kernels):
    notebook, stopped = execute(PARAMETERS | {"model": str(parent), "loss_increase": False})
    text = render(notebook)[1]
    assert stopped is None
    assert "no better than by chance" in text
    assert "comp-lib generate" in text
    assert "What it costs" not in text
    assert "Against another" not in text
    assert text.count("<img ") == 1


def test_the_page_asks_nobody_and_describes_its_figures(executed):
    text = render(executed[0])[1]
    assert not re.search(r"<script|<link|@import|src=\"(?!data:)", text)
    assert "Content-Security-Policy" in text
    assert "default-src 'none'" in text
    alts = re.findall(r"<img alt=\"([^\"]*)\"", text)
    assert len(alts) == text.count("<img ") == 3
    assert all(len(alt.split()) > 4 for alt in alts)
    for heading in (
        "What it is",
        "Layers and KV groups",
        "What it costs",
        "Against another checkpoint",
    ):
        assert f"{heading}</h2>" in text
    assert "<title>Check-up of parent</title>" in text
    assert "only cell to edit" not in text  # which is said to those who run the notebook
    assert "analysis.neurons(" not in text  # which is code


ENDS = {
    "raise RuntimeError('the disk is full <b>')": "RuntimeError: the disk is full <b>",
    "import os\nos.kill(os.getpid(), 9)": "the kernel died: as a rule there was too little memory",
}


@pytest.mark.parametrize("cell", ENDS, ids=["an error", "the kernel dies"])
def test_a_failing_cell_ends_the_run_and_what_was_before_stays(cell, short, capsys):
    notebook, stopped = short(f"print('before it', flush=True)\n{cell}")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cells: ")]
    assert len(lines) >= 2
    assert "cells: 1 of 5, 00:" in lines[1]  # with that of the parameters
    assert stopped == ENDS[cell]
    text = render(notebook)[1]
    assert "A heading" in text
    assert "after it" not in printed(notebook)
    assert "before it" in text or "kernel died" in stopped


HOSTILE = "raise SystemExit('code of the folder that one stands in')\n"


def test_of_the_folder_that_one_stands_in_nothing_is_run_and_names_are_understood(
    short, tmp_path, monkeypatch
):
    modules = ["comp_lib.py", "ipykernel_launcher.py", "IPython.py", "pandas.py", "sitecustomize.py"]
    for name in (*modules, "mine.txt"):
        (tmp_path / name).write_text(HOSTILE, "utf-8")
    templates = ["lab/index.html.j2", "lab/base.html.j2", "lab/mathjax.html.j2", "base/base.html.j2"]
    for name in (*templates, "base.html.j2"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("of the folder", "utf-8")
    (tmp_path / "small").mkdir()
    monkeypatch.chdir(tmp_path)
    cell = "import comp_lib, os, sys\nprint(comp_lib.__name__, os.getcwd() in sys.path, model, calibration)"
    notebook, stopped = short(f"{cell}\nos.getcwd()", "small", "mine.txt+shipped")
    assert f"comp_lib False {tmp_path / 'small'} {tmp_path / 'mine.txt'}+shipped\n" in printed(notebook)
    assert not stopped
    [folder] = [output.data["text/plain"] for output in notebook.cells[-2].outputs if "data" in output]
    assert "comp-lib-" in folder
    assert not os.path.exists(folder.strip("'"))
    assert os.getcwd() == str(tmp_path)
    text = render(notebook)[1]
    assert text.startswith("<!DOCTYPE html>")
    assert "of the folder" not in text


def test_the_notebook_has_just_the_parameters_that_are_given():
    space = {}
    exec(cell_of_parameters(nbformat.read(SOURCE, 4)).source, space)
    assert space.keys() - {"__builtins__"} == PARAMETERS.keys() | SET_BY_EXECUTE


def test_page_and_notebook_hold_the_title():
    cells = [new_code_cell("x = 1\ny = 2"), new_markdown_cell("# Words")]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"title": "a<script>"})
    notebook_text, page_text = render(notebook)
    assert "<title>a&lt;script&gt;</title>" in page_text
    assert nbformat.reads(notebook_text, as_version=4) == notebook


def test_what_would_not_run_is_refused_before_work(parent):
    """test_cli_report.py tries what a user can write in options."""
    check_page_request(PARAMETERS | {"model": str(parent)})
    for change, message in (
        ({"kinds": ["code", "code"]}, "each kind of text once"),
        ({"ratios": []}, "at least one of the ratios"),
        ({"ways": []}, "at least one of the ways"),
        ({"ratios": [0.2, 0.99]}, "ratio"),
        ({"dtype": "float8"}, "float8"),
        ({"model": "no-such-model"}, "no-such-model"),
    ):
        with pytest.raises(InputError, match=message):
            check_page_request(PARAMETERS | {"model": str(parent)} | change)


def test_models_that_are_no_relatives_are_refused_before_work(parent, tmp_path, tiny_llama, tokenizer):
    tiny_llama(hidden_size=64).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="relatives"):
        check_page_request(PARAMETERS | {"model": str(parent), "against": str(tmp_path / "other")})
