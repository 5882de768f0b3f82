"""What `print` shows of what `prune` returns: lines and a table, and no dataclass."""

from __future__ import annotations

import pytest
from tools import SETTINGS
from variants import build, tokens

from comp_lib.decoder.shape import Shape
from comp_lib.evaluation.by_kind import judge
from comp_lib.pruning.comp import prune


@pytest.fixture(scope="module")
def pruned():
    return prune(build(), tokens(), SETTINGS)


def test_a_report_prints_as_a_table_with_a_row_for_each_layer(pruned):
    first, heading, *rows = str(pruned.report).splitlines()
    assert first.startswith(f"comp on {tokens().numel():,} tokens, ")
    assert heading.split("  ")[-1] == "attention error"
    assert {len(line) for line in [heading, *rows]} == {len(heading)}, "columns stand below each other"
    for layer, row in zip(pruned.report.layers, rows, strict=True):
        assert row.split() == [
            str(layer.layer),
            str(len(layer.kept_neurons)),
            str(len(layer.kept_groups)),
            f"{layer.mlp_error:.4f}",
            f"{layer.attention_error:.4f}",
        ]


def test_a_notebook_shows_what_print_shows(pruned):
    evaluation = judge(pruned.model, {"mine": tokens()})
    for value in (pruned, pruned.report, evaluation):
        assert repr(value) == str(value)


def test_what_prune_returns_prints_what_went_and_the_report(pruned):
    first, *rest = str(pruned).splitlines()
    before = Shape.of(build()).total_parameters
    after = sum(weight.numel() for weight in pruned.model.parameters())
    assert first == (
        f"{pruned.plan.removed:.1%} of the decoder removed: {after:,} parameters of {before:,}, 3 layers of 3"
    )
    assert rest == str(pruned.report).splitlines()
    assert all(len(line) < 110 for line in rest)


def test_a_plan_prints_widths_and_not_each_neuron(pruned):
    assert "neurons=" in str(pruned.plan)
    assert "kept_neurons" not in str(pruned.plan)
    assert len(str(pruned.plan)) < 400


def test_an_evaluation_prints_a_line_for_each_text_and_one_for_the_mean(pruned):
    windows = {"first": tokens(8, 32), "second text": tokens(9, 32)}
    judged = judge(pruned.model, windows, build())
    lines = str(judged).splitlines()
    assert len(lines) == 3
    low, high = judged.intervals.increase
    assert lines[-1] == f"mean of 2    increase {judged.mean.increase:.3f} ({low:.3f} to {high:.3f})"
    assert str(judge(pruned.model, {"few": tokens(2, 32)})).startswith("few  loss ")
