"""The first cell of a notebook: it prints nothing, or one sentence says what to install or to choose."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from course.start import drawing, sizes_for, start, table

pytestmark = pytest.mark.slow

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
LESSONS = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))


@pytest.fixture
def model_folder(tmp_path, tiny_llama, tokenizer):
    """A tiny model on disk."""
    folder = tmp_path / "tiny"
    tiny_llama().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_it_loads_and_seeds_and_prints_nothing(model_folder, capfd):
    model, tokenizer = start(str(model_folder), seed=5)
    numbers = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(numbers, torch.rand(3))
    assert model.config.num_hidden_layers == 3
    assert len(tokenizer) == 512
    assert not model.training
    assert capfd.readouterr() == ("", "")


@pytest.fixture(scope="module")
def run_cells(kernels):
    """A function that runs cells in a real kernel and returns the error outputs of each cell.

    All tests share the kernel. A cell that fails does not stop the next one.
    """
    options = {"timeout": 120, "kernel_name": "python3", "allow_errors": True, "record_timing": False}
    client = NotebookClient(new_notebook(), resources={"metadata": {"path": NOTEBOOKS}}, **options)

    def run(*sources):
        cells = [new_code_cell(source) for source in ("%reset -f", *sources)]
        client.nb = new_notebook(cells=cells)
        client.reset_execution_trackers()
        for number, cell in enumerate(cells):
            client.execute_cell(cell, number)
        return [[output for output in cell.outputs if output.output_type == "error"] for cell in cells[1:]]

    with client.setup_kernel():
        yield run


SAVE = """
import sys, ipywidgets
from comp_lib.checkpoints import load
sys.saved = ipywidgets, load.free_memory
"""
RESTORE = """
import os, sys
from comp_lib.checkpoints import load
sys.modules["ipywidgets"], load.free_memory = sys.saved
os.environ.pop("COMP_MODEL", None)
"""


@pytest.fixture
def run_cells_and_restore(run_cells):
    """The same function, for cells that spoil the kernel; afterwards the kernel is as before."""
    assert run_cells(SAVE) == [[]]
    yield run_cells
    assert run_cells(RESTORE) == [[]]


def first_cell(path):
    """The source of the first code cell of a notebook that does more than draw."""
    cells = nbformat.read(path, as_version=4).cells
    sources = [cell.source for cell in cells if cell.cell_type == "code"]
    return next(source for source in sources if not source.startswith("from course.start import drawing\n"))


@pytest.mark.parametrize(
    "trouble, hint, lessons",
    [
        pytest.param(
            "import sys; sys.modules['ipywidgets'] = None",
            "pip install 'comp-lib[notebooks]'",
            LESSONS,
            id="a package is missing",
        ),
        pytest.param(
            "from comp_lib.checkpoints import load; load.free_memory = lambda: 10**8",
            "choose a smaller model",
            LESSONS[:1],  # all lessons need the same memory
            id="too little memory",
            marks=pytest.mark.real,
        ),
    ],
)
def test_the_first_cell_of_each_notebook_says_what_to_install_or_to_choose(
    trouble, hint, lessons, run_cells_and_restore
):
    """In a real kernel, where the sentence is all that is shown: no traceback."""
    assert lessons
    errors_of_trouble, *errors_of_lessons = run_cells_and_restore(trouble, *map(first_cell, lessons))
    assert errors_of_trouble == []
    for path, errors in zip(lessons, errors_of_lessons, strict=True):
        assert [error.ename for error in errors] == ["InputError"], path.name
        [line] = errors[0].traceback
        assert hint in line
        assert "\n" not in line


def test_a_model_that_is_not_there_is_a_sentence_in_a_notebook(run_cells_and_restore):
    setting = "import os; os.environ['COMP_MODEL'] = 'nobody/has-this'; os.environ['HF_HUB_OFFLINE'] = '1'"
    [lesson] = [path for path in LESSONS if path.name.startswith("06")]
    _, [error] = run_cells_and_restore(setting, first_cell(lesson))
    assert error.ename == "InputError"
    [line] = error.traceback
    assert "nobody/has-this" in line
    assert "\n" not in line


# --- what notebooks show ------------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch):
    """A function that draws, and returns the SVG and its alt text."""

    def draw(*arguments):
        shown = []
        monkeypatch.setattr("course.start.display", lambda data, raw: shown.append(data))
        drawing(*arguments)
        encoded = re.search('base64,(.*?)"', shown[0]["text/html"])[1]
        return base64.b64decode(encoded).decode(), shown[0]["text/plain"]

    return draw


@pytest.mark.parametrize("lit", ["plan", "watch", "choose", "refit", "cut", "pass on"])
def test_the_part_of_the_loop_on_trial_is_lit_and_the_others_are_dimmed(lit, drawn):
    whole_drawing, caption = drawn("loop")
    svg, words_of_lit = drawn("loop", lit)
    classes = {part: looks for looks, part in re.findall('class="part ?(.*?)" id="(.*?)"', svg)}
    assert classes == dict.fromkeys(re.findall('class="part" id="(.*?)"', whole_drawing), "dim") | {
        lit: "lit"
    }
    assert len(classes) == 6
    for selector in (".lit rect", ".dim rect", ".dim text"):
        assert f"{selector} {{" in svg
    assert words_of_lit == f"{caption} Lit is the part on trial: {lit}."


def test_a_drawing_without_that_part_says_which_it_has():
    with pytest.raises(ValueError, match="choose, refit, cut, pass on"):
        drawing("loop", lit="re-tune")


def test_a_table():
    shown = table(("what", "how many"), [("layers", 30), ("parameters", 134515008), ("share", "12%")])
    assert shown.data == (
        "| what | how many |\n| --- | ---: |\n| layers | 30 |\n| parameters | 134,515,008 |\n| share | 12% |"
    )


def test_sizes_are_those_of_a_short_context(tiny_llama):
    sizes = sizes_for(tiny_llama())  # 128 tokens, 48 neurons
    assert (sizes.length, sizes.window, sizes.multiple) == (128, 128, 1)


@pytest.mark.parametrize(("neurons", "multiple"), [(63, 1), (64, 2), (1536, 32), (2048, 64), (11008, 64)])
def test_sizes_follow_from_the_shape(neurons, multiple, tiny_llama):
    sizes = sizes_for(tiny_llama(intermediate_size=neurons, max_position_embeddings=2048))
    assert sizes.multiple == multiple
    assert sizes.length == 256
    assert sizes.window == 512
    assert 8 <= sizes.sequences <= 64
    if 8 < sizes.sequences < 64:
        assert abs(sizes.sequences * sizes.length - 3 * neurons) < sizes.length
