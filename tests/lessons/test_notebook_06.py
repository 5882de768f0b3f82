"""The analyst's notebook runs on models that its author never saw: other heads, sizes and families."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from transformers import AutoModelForCausalLM
from variants import build

from comp_lib.decoder.shape import Shape
from comp_lib.hybrid_granularity.plan import Plan

pytestmark = pytest.mark.slow

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "06_your_own_model.ipynb"
SHAPES = {
    # eight query heads in four groups, and a width that no power of two divides
    "gqa": {"hidden_size": 64, "intermediate_size": 150, "num_attention_heads": 8, "num_key_value_heads": 4},
    # norms of queries and keys, and one after each output linear;
    # only the layer's output is a target; no bias
    "gemma3": {},
}


@pytest.fixture(scope="module")
def kernel(kernels):
    """A client with a kernel, which all models share: it imports what the notebook needs only once."""
    client = NotebookClient(new_notebook(), timeout=1200, kernel_name="python3", record_timing=False)
    with client.setup_kernel():
        yield client


# Modules are found as in the folder of the notebook; the working directory is a folder of the test.
FIRST_CELL = """\
%reset -f
import os, sys
sys.path.insert(0, {notebooks!r})
os.chdir({folder!r})
os.environ['COMP_MODEL'] = {model!r}
del os, sys"""


def run(kernel, model, folder):
    """The notebook, executed from an empty namespace in `folder`; it may build beside that folder."""
    folder.mkdir()
    first = FIRST_CELL.format(notebooks=str(NOTEBOOK.parent), folder=str(folder), model=str(model))
    kernel.nb = nbformat.read(NOTEBOOK, as_version=4)
    kernel.nb.cells.insert(0, new_code_cell(first))
    kernel.reset_execution_trackers()
    for number, cell in enumerate(kernel.nb.cells):
        kernel.execute_cell(cell, number)
    return kernel.nb


def text_of(output):
    """What a reader sees of an output."""
    if output.get("text"):
        return output["text"]
    return str(output["data"].get("text/markdown") or output["data"]["text/plain"])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("variant", sorted(SHAPES))
def test_it_adapts_to_the_model(variant, kernel, tmp_path, tokenizer):
    model = build(variant, **SHAPES[variant])
    parent = tmp_path / "mine"
    model.save_pretrained(parent)
    tokenizer.save_pretrained(parent)
    parent_before = contents(parent)
    notebook = run(kernel, parent, tmp_path / "notebooks")

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "\n".join(map(text_of, outputs))
    assert str(tmp_path) not in text  # of a path, the notebook shows the name only
    before = Shape.of(model)
    for number in (before.total_parameters, before.neurons[0], before.group_parameters):
        assert f"{number:,}" in text
    assert [output for output in outputs if output.get("name") == "stderr"] == []

    target = tmp_path / "build" / "your_own_model"
    saved = AutoModelForCausalLM.from_pretrained(target)
    assert type(saved) is type(model)
    after = Shape.of(saved)
    assert 1 - after.decoder_parameters / before.decoder_parameters >= 0.05  # the smallest ratio
    assert after.neurons == Plan.load(target / "comp_plan.json").neurons
    assert (
        sum(parameter.numel() for parameter in saved.parameters())
        == after.total_parameters
        < before.total_parameters
    )
    assert contents(parent) == parent_before
    card = (target / "README.md").read_text("utf-8")
    assert "# your_own_model" in card
    assert "evaluation" in card
    assert str(tmp_path) not in card
