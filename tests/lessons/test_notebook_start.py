"""The first cell of a notebook: it works in silence, or one sentence says what to install or to choose."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from course.start import sizes_for, start, table

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
LESSONS = sorted(FOLDER.glob("[0-9]*.ipynb"))


@pytest.fixture
def folder(tmp_path, tiny_llama, tokenizer):
    """A tiny model on disk."""
    tiny_llama().save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_it_loads_seeds_and_says_nothing(folder, capfd):
    model, tokenizer = start(str(folder), seed=5)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))
    assert model.config.num_hidden_layers == 3 and len(tokenizer) == 512 and not model.training
    assert capfd.readouterr() == ("", "")


@pytest.fixture(scope="module")
def kernel(kernels):
    """What runs cells in a real kernel, one for all, and gives the error outputs of each; none stops the next."""
    options = {"timeout": 120, "kernel_name": "python3", "allow_errors": True, "record_timing": False}
    client = NotebookClient(new_notebook(), resources={"metadata": {"path": FOLDER}}, **options)

    def run(*sources):
        cells = [new_code_cell(source) for source in ("%reset -f", *sources)]
        client.nb = new_notebook(cells=cells)
        client.reset_execution_trackers()
        for number, cell in enumerate(cells):
            client.execute_cell(cell, number)
        return [[output for output in cell.outputs if output.output_type == "error"] for cell in cells[1:]]

    with client.setup_kernel():
        yield run


UNTROUBLED = """
import sys, ipywidgets
from comp_lib.models import load
sys.untroubled = ipywidgets, load.free_memory
"""
AS_BEFORE = """
import os, sys
from comp_lib.models import load
sys.modules["ipywidgets"], load.free_memory = sys.untroubled
os.environ.pop("COMP_MODEL", None)
"""


@pytest.fixture
def troubled(kernel):
    """The same for cells of which the first brings trouble, which goes with the test."""
    assert kernel(UNTROUBLED) == [[]]
    yield kernel
    assert kernel(AS_BEFORE) == [[]]


def first_cells():
    found = []
    for path in LESSONS:
        cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        found.append(
            next(
                cell.source
                for cell in cells
                if not cell.source.startswith("from course.start import drawing\n")
            )
        )
    return found


@pytest.mark.parametrize(
    "trouble, words, lessons",
    [
        ("import sys; sys.modules['ipywidgets'] = None", "pip install 'comp-lib[notebooks]'", LESSONS),
        pytest.param(
            "from comp_lib.models import load; load.free_memory = lambda: 10**8",
            "choose a smaller model",
            LESSONS[:1],  # what is asked of the memory is the same for all
            marks=pytest.mark.real,
        ),
    ],
)
def test_the_first_cell_of_each_notebook_says_what_to_install_or_to_choose(trouble, words, lessons, troubled):
    """In a real kernel, where the sentence is all that is shown: no traceback."""
    assert lessons
    nothing, *found = troubled(trouble, *first_cells()[: len(lessons)])
    assert nothing == []
    for path, errors in zip(lessons, found, strict=True):
        assert [error.ename for error in errors] == ["InputError"], path.name
        [line] = errors[0].traceback
        assert words in line and "\n" not in line


def test_a_model_that_is_not_there_is_a_sentence_in_a_notebook(troubled):
    own = next(
        source for path, source in zip(LESSONS, first_cells(), strict=True) if path.name.startswith("06")
    )
    setting = "import os; os.environ['COMP_MODEL'] = 'nobody/has-this'; os.environ['HF_HUB_OFFLINE'] = '1'"
    nothing, [error] = troubled(setting, own)
    assert error.ename == "InputError" and len(error.traceback) == 1
    assert "nobody/has-this" in error.traceback[0] and "\n" not in error.traceback[0]


# --- what notebooks show ----------------------------------------------------------------------------------------------


def test_a_table():
    assert table(
        ("what", "how many"), [("layers", 30), ("parameters", 134515008), ("share", "12%")]
    ).data == (
        "| what | how many |\n| --- | ---: |\n| layers | 30 |\n| parameters | 134,515,008 |\n| share | 12% |"
    )


def test_sizes_follow_from_the_shape(tiny_llama):
    tiny = sizes_for(tiny_llama())
    assert (tiny.length, tiny.window, tiny.multiple) == (128, 128, 1)  # its context; 48 neurons
    for neurons, multiple in ((63, 1), (64, 2), (1536, 32), (2048, 64), (11008, 64)):
        sizes = sizes_for(tiny_llama(intermediate_size=neurons, max_position_embeddings=2048))
        assert sizes.multiple == multiple and sizes.length == 256 and sizes.window == 512
        assert 8 <= sizes.sequences <= 64
        assert sizes.sequences in (8, 64) or abs(sizes.sequences * sizes.length - 3 * neurons) < sizes.length
