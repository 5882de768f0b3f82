"""The first cell of a notebook: it works in silence, or one sentence says what to install or to choose."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from tqdm import tqdm
from variants import VARIANTS, build

from comp_lib.errors import InputError
from comp_lib.models import load
from comp_lib.models.load import EMBEDDED, check_memory, count_parameters
from comp_lib.models.wheels import wheel_gguf
from comp_lib.plots import figure_with_axes
from comp_lib.system import machine
from comp_lib.system.machine import free_memory
from course import start as notebook
from course.start import check_extras, show, side_by_side, sizes_for, start, table

LESSONS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("[0-9]*.ipynb"))


@pytest.fixture
def folder(tmp_path, tiny_llama, tokenizer):
    """A tiny model on disk."""
    tiny_llama().save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def sentence(caught):
    text = str(caught.value)
    assert "\n" not in text and text.startswith("expected") and "got" in text
    assert caught.value._render_traceback_() == [f"InputError: {text}"]
    return text


def test_it_loads_seeds_and_says_nothing(folder, capfd):
    model, tokenizer = start(str(folder), seed=5)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))
    assert model.config.num_hidden_layers == 3 and len(tokenizer) == 512 and not model.training
    assert capfd.readouterr() == ("", "")


def test_bars_are_seen_only_where_asked_for(folder, capfd, monkeypatch):
    def slow(name, dtype):
        for _ in tqdm(range(3), desc="converting"):
            pass
        return None, None

    monkeypatch.setattr(notebook, "load_model", slow)
    start(str(folder))
    assert capfd.readouterr().err == ""
    start(str(folder), progress=True)
    assert "converting" in capfd.readouterr().err


def test_a_missing_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(InputError) as caught:
        start("whatever/it-is")
    assert "ipywidgets" in sentence(caught) and "pip install 'comp-lib[notebooks]'" in sentence(caught)


def test_a_missing_extra_is_said_by_the_widgets_too(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("course.widgets")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(InputError) as caught:
        import course.widgets.generation  # noqa: F401
    assert "pip install 'comp-lib[notebooks]'" in sentence(caught)


def test_nothing_is_missing_here():
    check_extras()


def test_a_model_too_big_is_refused_before_its_weights_are_read(folder, monkeypatch):
    parameters = count_parameters(str(folder))
    needed = parameters * 4 * load.COPIES

    def read(*arguments, **options):
        raise AssertionError("weights were read")

    monkeypatch.setattr(notebook, "load_model", read)
    monkeypatch.setattr(load, "free_memory", lambda: needed - 1)
    with pytest.raises(InputError) as caught:
        start(str(folder))
    assert "memory" in sentence(caught) and "choose a smaller model" in sentence(caught)
    monkeypatch.setattr(load, "free_memory", lambda: needed)
    with pytest.raises(AssertionError, match="weights were read"):
        start(str(folder))


def test_half_precision_needs_half(folder, monkeypatch):
    monkeypatch.setattr(load, "free_memory", lambda: count_parameters(str(folder)) * 2 * load.COPIES)
    check_memory(str(folder), "bfloat16")
    with pytest.raises(InputError, match="float32"):
        check_memory(str(folder), "float32")


def test_an_included_model_is_counted_before_it_is_converted(own_cache, tmp_path):
    assert 134e6 < count_parameters(EMBEDDED) < 135e6
    assert not list(tmp_path.glob("gguf-*"))
    with pytest.raises(InputError, match="a dtype among float32"):
        check_memory(EMBEDDED, "float8")


def test_the_sentence_about_memory_gives_both_numbers(folder, monkeypatch):
    monkeypatch.setattr(load, "count_parameters", lambda name: 7_000_000_000)
    monkeypatch.setattr(load, "free_memory", lambda: 16_000_000_000)
    with pytest.raises(InputError, match=r"expected 56\.0 GB .* got 16\.0 GB"):
        check_memory("some/model")


@pytest.mark.parametrize("name", ["nobody/has-this-model", "no-such-thing", "", "./nowhere.gguf"])
def test_an_unreachable_model(name):
    with pytest.raises(InputError) as caught:
        start(name)
    assert re.search("check the spelling|choose another", sentence(caught))


def test_an_unknown_dtype(folder):
    with pytest.raises(InputError) as caught:
        start(str(folder), dtype="float31")
    assert "did you mean 'float32'" in sentence(caught)


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_parameters_are_counted_without_reading_them(variant, tmp_path, tokenizer):
    model = build(variant)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert count_parameters(str(tmp_path)) == model.num_parameters()


@pytest.mark.real
def test_parameters_of_a_gguf_file_are_counted_without_converting_it(tmp_path, monkeypatch):
    expected = count_parameters(EMBEDDED)  # of the converted folder
    monkeypatch.setenv("COMP_LIB_CACHE", str(tmp_path))
    assert count_parameters(str(wheel_gguf(EMBEDDED))) == expected
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_gguf_file_is_refused_in_words(tmp_path):
    (tmp_path / "half.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError) as caught:
        start(str(tmp_path / "half.gguf"))
    assert "complete GGUF file" in sentence(caught) and "half.gguf" in sentence(caught)


def test_a_container_has_less_than_the_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(machine.psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    assert free_memory() == 1000  # no limits here
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory() == 1000
    (tmp_path / "memory.max").write_text("700\n")
    (tmp_path / "memory.current").write_text("500\n")
    (tmp_path / "memory.stat").write_text("anon 300\ninactive_file 150\n")
    assert free_memory() == 700 - 500 + 150
    (tmp_path / "memory.max").write_text("5000\n")
    assert free_memory() == 1000


@pytest.fixture(scope="module")
def kernel(kernels):
    """What runs cells in a real kernel, one for all, and gives the error outputs of each; none stops the next."""
    options = {"timeout": 120, "kernel_name": "python3", "allow_errors": True, "record_timing": False}
    client = NotebookClient(new_notebook(), **options)

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
        found.append(cells[0].source)
    return found


@pytest.mark.parametrize(
    "trouble, words",
    [
        ("import sys; sys.modules['ipywidgets'] = None", "pip install 'comp-lib[notebooks]'"),
        pytest.param(
            "from comp_lib.models import load; load.free_memory = lambda: 10**8",
            "choose a smaller model",
            marks=pytest.mark.real,
        ),
    ],
)
def test_the_first_cell_of_each_notebook_says_what_to_install_or_to_choose(trouble, words, troubled):
    """In a real kernel, where the sentence is all that is shown: no traceback."""
    assert LESSONS
    nothing, *found = troubled(trouble, *first_cells())
    assert nothing == []
    for path, errors in zip(LESSONS, found, strict=True):
        assert [error.ename for error in errors] == ["InputError"], path.name
        [line] = errors[0].traceback
        assert words in line and "\n" not in line


def test_a_model_that_is_not_there_is_a_sentence_in_a_notebook(troubled):
    own = next(source for path, source in zip(LESSONS, first_cells(), strict=True) if path.name.startswith("06"))
    setting = "import os; os.environ['COMP_MODEL'] = 'nobody/has-this'; os.environ['HF_HUB_OFFLINE'] = '1'"
    nothing, [error] = troubled(setting, own)
    assert error.ename == "InputError" and len(error.traceback) == 1
    assert "nobody/has-this" in error.traceback[0] and "\n" not in error.traceback[0]


# --- what notebooks show ----------------------------------------------------------------------------------------------


def test_a_figure_is_shown_with_its_words(capsys):
    figure, axes = figure_with_axes()
    axes.plot([1, 2])
    figure.alt_text = "A line that rises from 1 to 2."
    show(figure)  # outside a kernel, display prints
    assert "A line that rises from 1 to 2." in capsys.readouterr().out


def test_a_table():
    assert table(("what", "how many"), [("layers", 30), ("parameters", 134515008), ("share", "12%")]).data == (
        "| what | how many |\n| --- | ---: |\n| layers | 30 |\n| parameters | 134,515,008 |\n| share | 12% |"
    )


@pytest.mark.parametrize(
    "cells, side",
    [
        ((3, 1.5, "2"), "---:"),
        (("12%", "+0.81", "-0.9", "2.16 ± 0.21", "7,411.3%"), "---:"),
        (("17, 14, 25", "5, 3, 4"), "---"),
        (("20% of the decoder", "3"), "---"),
        (("", "3"), "---"),
    ],
)
def test_numbers_stand_to_the_right(cells, side):
    assert table(("some",), [(cell,) for cell in cells]).data.splitlines()[1] == f"| {side} |"


def test_texts_side_by_side(monkeypatch):
    shown = []
    monkeypatch.setattr(notebook, "display", lambda data, raw: shown.append(data))
    side_by_side({"dense": "a < b", "pruned": "two\nlines"})
    [data] = shown
    assert "a &lt; b" in data["text/html"] and data["text/html"].count("<td") == 2
    assert data["text/plain"] == "dense:\na < b\n\npruned:\ntwo\nlines"
    json.dumps(data)


def test_sizes_follow_from_the_shape(tiny_llama):
    tiny = sizes_for(tiny_llama())
    assert (tiny.length, tiny.window, tiny.multiple) == (128, 128, 1)  # its context; 48 neurons
    for neurons, multiple in ((63, 1), (64, 2), (1536, 32), (2048, 64), (11008, 64)):
        sizes = sizes_for(tiny_llama(intermediate_size=neurons, max_position_embeddings=2048))
        assert sizes.multiple == multiple and sizes.length == 256 and sizes.window == 512
        assert 8 <= sizes.sequences <= 64
        assert sizes.sequences in (8, 64) or abs(sizes.sequences * sizes.length - 3 * neurons) < sizes.length
