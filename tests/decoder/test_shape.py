"""The numbers of parameters that Shape computes, against the tensors of the model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tools import parameter_count
from variants import VARIANTS, WHOLE_ATTENTION, build

from comp_lib.decoder.shape import Shape
from comp_lib.decoder.surgery import keep_layers, shrink


@pytest.mark.parametrize("name", VARIANTS)
def test_arithmetic_equals_the_tensors_before_and_after_pruning(name):
    model = build(name)
    before = Shape.of(model)
    assert before.total_parameters == model.num_parameters()
    assert before.decoder_parameters == parameter_count(model.model.layers)
    assert before.neurons == (model.config.intermediate_size,) * 3
    assert before.kv_groups == (model.config.num_key_value_heads,) * 3
    assert before.group_heads * before.kv_groups[0] == model.config.num_attention_heads == 4
    assert (before.hidden_size, before.layer_count) == (model.config.hidden_size, 3)

    groups = before.kv_groups[0] if name in WHOLE_ATTENTION else 1
    # layer 1 goes, and the two layers that stay differ in their widths
    expected = before.with_widths((48, 7), (groups, before.kv_groups[0]))
    keep_layers(model, [0, 2])
    last_groups = torch.arange(before.kv_groups[0] - groups, before.kv_groups[0])
    shrink(model.model.layers[0], "attention", last_groups)
    shrink(model.model.layers[1], "mlp", torch.arange(7))
    assert Shape.of(model) == expected
    assert expected.total_parameters == model.num_parameters()
    assert expected.decoder_parameters == parameter_count(model.model.layers)
    assert [expected.parameters_of_layer(i) for i in range(2)] == [
        parameter_count(layer) for layer in model.model.layers
    ]


def test_of_reads_the_tensors_and_not_the_config():
    model = build()
    model.config.intermediate_size = 1000
    assert Shape.of(model).neurons == (48, 48, 48)


def test_of_does_not_depend_on_the_width_of_the_first_layer():
    """The parameters of one neuron and of one KV group are read from layer 0, however few are left there."""
    model = build("all-at-once")
    before = Shape.of(model)
    shrink(model.model.layers[0], "mlp", torch.arange(1))
    shrink(model.model.layers[0], "attention", torch.arange(1))
    assert Shape.of(model) == before.with_widths((1, 48, 48), (1, 2, 2))


def test_tied_embedding_counts_once():
    tied = Shape.of(build("tied"))
    untied = Shape.of(build("gqa"))
    assert untied.other_parameters - tied.other_parameters == 512 * 32
    assert untied.decoder_parameters == tied.decoder_parameters


@pytest.mark.parametrize(
    ("neurons", "kv_groups", "uniform", "stock"),
    [
        ((48, 48, 48), (2, 2, 2), True, True),
        ((7,), (1,), True, True),
        ((48, 47, 48), (2, 2, 2), False, False),
        ((48, 48, 48), (2, 1, 2), False, False),
        ((48, 48), (3, 3), True, False),  # 6 heads do not divide a stream of 32
    ],
)
def test_uniform_and_stock(neurons, kv_groups, uniform, stock):
    shape = Shape.of(build()).with_widths(neurons, kv_groups)
    assert (shape.uniform, shape.fits_stock_config) == (uniform, stock)


def test_with_widths_keeps_everything_else():
    shape = Shape.of(build())
    narrowed = shape.with_widths((5,), (1,))
    changed = ("neurons", "kv_groups", "fixed_parameters")
    assert replace(narrowed, **{name: getattr(shape, name) for name in changed}) == shape
