"""What pruning must hold: counted from tensors that are there."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig

from comp_lib.calibration.stream import embed
from comp_lib.lessons.scale import Needs, needs
from comp_lib.models.skeleton import skeleton
from comp_lib.plots.on_device import GIB, plot_memory
from comp_lib.shape import Shape
from comp_lib.statistics.gram import Gram


def test_needs_are_the_bytes_of_real_tensors(tiny_llama):
    model = tiny_llama(tie_word_embeddings=True)
    ids = torch.zeros(5, 8, dtype=torch.long)
    found = needs(Shape.of(model), ids.numel())
    half = tiny_llama(tie_word_embeddings=True).bfloat16()
    assert found.weights == found.gradients == sum(p.nbytes for p in half.parameters())
    assert found.layer == sum(p.nbytes for p in model.model.layers[0].parameters())
    assert found.hidden == embed(model, ids).nbytes
    neurons = model.config.intermediate_size
    assert found.gram == Gram.zeros(neurons).xtx.nbytes
    inputs = torch.zeros(ids.numel(), neurons)
    assert found.dual == inputs.nbytes + (inputs @ inputs.T).double().nbytes


def test_the_smaller_form_of_the_statistics_counts():
    assert Needs(1, 2, 4, 8, 16, 32).streamed == 4 + 8 + 16 and Needs(1, 2, 4, 8, 64, 32).streamed == 4 + 8 + 32
    assert Needs(1, 2, 4, 8, 16, 32).whole == 3


def test_a_shape_on_paper_is_that_of_the_model(tiny_llama):
    model = tiny_llama()
    assert Shape.of(skeleton(LlamaConfig(**model.config.to_dict()))) == Shape.of(model)


def test_memory_shows_lines_and_marks():
    figure = plot_memory(
        {"all": [(2_000_000_000, 4 * GIB), (1_000_000_000, 2 * GIB)]}, {"measured": [(1_000_000_000, GIB)]}
    )
    lines = figure.axes[0].lines
    assert list(lines[0].get_xdata()) == [1.0, 2.0] and list(lines[0].get_ydata()) == [2.0, 4.0]
    assert lines[0].get_linestyle() == "-" and lines[1].get_linestyle() == "None"
    assert list(lines[1].get_ydata()) == pytest.approx([1.0])
    assert "all: 2.00 GiB at 1.00 billion parameters, 4.00 GiB at 2.00 billion" in figure.alt_text
