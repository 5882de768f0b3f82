"""A norm after the output of a step: the target in front of it, and what an error there costs the stream."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from variants import NORM_AFTER, build

from comp_lib.decoder.probe import OutputPath
from comp_lib.decoder.structure import parts
from comp_lib.importance.neuron_metrics import full_condition
from comp_lib.importance.problem import Problem
from comp_lib.importance.statistics.sums import MatrixStatistics


@pytest.mark.parametrize("step", ["attention", "mlp"])
@pytest.mark.parametrize("name", NORM_AFTER)
def test_after_a_norm_the_target_adds_the_direction_that_is_missing(name, step):
    """Through the norm, the target of a change adds that change, up to its length.

    The target of the layer's own change is the output of its output linear.
    """
    parent = build(name)
    layer = parent.model.layers[1]
    linear = parts(layer)[step].output_linear
    norm = layer.post_feedforward_layernorm if step == "mlp" else layer.post_attention_layernorm
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, linear.in_features, generator=generator)
    output = linear(x)
    with torch.no_grad():
        same = OutputPath.of(layer, step).target(norm(output), x)
        change = norm(torch.randn(output.shape, generator=generator))
        added = norm(OutputPath.of(layer, step).target(3.0 * change, x))
    torch.testing.assert_close(same, output, rtol=1e-4, atol=1e-4)
    weight = norm.weight + (name == "gemma3")
    strong = weight.abs() >= 0.05 * weight.abs().mean()
    assert strong.all(), "no output is lost in the norm of this model"
    torch.testing.assert_close(added, change, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("step", ["attention", "mlp"])
@pytest.mark.parametrize("name", NORM_AFTER)
def test_after_a_norm_an_error_reaches_the_stream_times_the_gain(name, step):
    """To first order: the norm of y + e is that of y and g e / |y|, for e across y."""
    parent = build(name)
    layer = parent.model.layers[1]
    norm = layer.post_feedforward_layernorm if step == "mlp" else layer.post_attention_layernorm
    generator = torch.Generator().manual_seed(0)
    y, e = (torch.randn(7, parent.config.hidden_size, generator=generator) for _ in range(2))
    e -= (e * y).sum(1, keepdim=True) / y.square().sum(1, keepdim=True) * y
    with torch.no_grad():
        added = (norm(y + 1e-3 * e) - norm(y)) / 1e-3
    gain = OutputPath.of(layer, step).gain
    size = y.square().mean(1, keepdim=True).sqrt()
    assert float(gain.square().mean()) == pytest.approx(1.0, rel=1e-5)
    assert float(gain.std()) > 0.05
    true = norm.weight.detach() + (name == "gemma3")
    torch.testing.assert_close(added, true * e / size, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(gain / gain[0], (true / true[0]).abs(), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("name", NORM_AFTER)
def test_a_neuron_before_a_norm_costs_what_the_stream_loses(name):
    """Brute force: each neuron is removed alone, the others are refitted, and errors count by their gain."""
    layer = build(name).model.layers[1]
    gain = OutputPath.of(layer, "mlp").gain.double()
    ridge = 0.1
    weight = parts(layer)["mlp"].output_linear.weight.detach().T.double()  # (n, m)
    x = torch.randn(200, len(weight), generator=torch.Generator().manual_seed(0)).double()
    statistics = MatrixStatistics.zeros(len(weight))
    statistics.add(x.float()[None])
    xtx = statistics.xtx
    problem = Problem(statistics, weight, lambda: torch.zeros(len(weight)), ridge=ridge, gain=gain)
    scores = full_condition(problem, len(weight) - 1, torch.Generator()).scores
    penalties = ridge * xtx.diagonal()
    costs = []
    for neuron in range(len(weight)):
        rest = [index for index in range(len(weight)) if index != neuron]
        left = torch.linalg.solve(
            xtx[rest][:, rest] + penalties[rest].diag(), xtx[rest][:, [neuron]] @ weight[[neuron]]
        )
        gap = weight.clone()  # W - V
        gap[rest] = -left
        # error of each output, and its share of the ridge's penalty (m,)
        lost = (gap.T @ xtx @ gap).diagonal() + (penalties[:, None] * gap.square()).sum(0)
        costs.append(float((gain.square() * lost).sum()))
    torch.testing.assert_close(scores, torch.tensor(costs, dtype=scores.dtype), rtol=1e-5, atol=0.0)
    plain = full_condition(replace(problem, gain=None), len(weight) - 1, torch.Generator()).scores
    assert not torch.equal(plain.argsort(), scores.argsort())  # the gain decides which neurons go
