"""The analyst's notebook runs on models that its author never saw: other head counts, other sizes, another family."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from transformers import AutoModelForCausalLM
from variants import build

from comp_lib.plan import Plan
from comp_lib.shape import Shape

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "06_your_own_model.ipynb"
SHAPES = {
    # eight query heads in four groups, and a width that no power of two divides
    "gqa": {"hidden_size": 64, "intermediate_size": 150, "num_attention_heads": 8, "num_key_value_heads": 4},
    # norms of queries and keys, and one behind each dense layer: no target but the layer's own output, and no bias
    "gemma3": {},
}


@pytest.fixture(scope="module")
def kernel(kernels):
    """A client with a kernel that has imported what the notebook needs, once for all models."""
    client = NotebookClient(new_notebook(), timeout=1200, kernel_name="python3", record_timing=False)
    with client.setup_kernel():
        yield client


def run(kernel, model, folder):
    """The notebook, executed from an empty namespace with `model` in a folder beside which it may build."""
    folder.mkdir()
    course = f"import os, sys\nsys.path.insert(0, {str(NOTEBOOK.parent)!r})"  # as where the notebook lies
    place = f"{course}\nos.chdir({str(folder)!r})\nos.environ['COMP_MODEL'] = {str(model)!r}\ndel os, sys"
    kernel.nb = nbformat.read(NOTEBOOK, as_version=4)
    kernel.nb.cells.insert(0, new_code_cell(f"%reset -f\n{place}"))
    kernel.reset_execution_trackers()
    for number, cell in enumerate(kernel.nb.cells):
        kernel.execute_cell(cell, number)
    return kernel.nb


def texts(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join(
        str(output.get("text") or output["data"].get("text/markdown") or output["data"]["text/plain"])
        for output in outputs
    )


@pytest.mark.parametrize("variant", sorted(SHAPES))
def test_it_adapts_to_the_model(variant, kernel, tmp_path, tokenizer):
    model = build(variant, **SHAPES[variant])
    model.save_pretrained(tmp_path / "mine")
    tokenizer.save_pretrained(tmp_path / "mine")
    parent = {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
    notebook = run(kernel, tmp_path / "mine", tmp_path / "notebooks")
    said = texts(notebook)
    assert str(tmp_path) not in said  # of a path, the notebook shows the name only
    before = Shape.of(model)
    for number in (before.total, before.neurons[0], before.group_parameters):
        assert f"{number:,}" in said
    assert not [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.get("name") == "stderr"
    ]

    out = tmp_path / "build" / "your_own_model"
    saved = AutoModelForCausalLM.from_pretrained(out)
    after, plan = Shape.of(saved), Plan.load(out / "comp_plan.json")
    assert type(saved) is type(model)
    assert 1 - after.decoder / before.decoder >= 0.2 and after.neurons == plan.neurons
    assert sum(parameter.numel() for parameter in saved.parameters()) == after.total < before.total
    assert {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()} == parent
    card = (out / "README.md").read_text("utf-8")
    assert "# your_own_model" in card and str(tmp_path) not in card and "evaluation" in card
