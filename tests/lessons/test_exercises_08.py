"""The checks of lesson 8's exercises: they refuse plausible mistakes by name."""

from __future__ import annotations

import sys

import gguf
import numpy as np
import pytest
import torch
from lessons import LESSONS, Wrong, functions, names_the_mistake

CHECKS = LESSONS["08"].checks
checks = sys.modules["checks_08"]


def rounded(weights, steps=15, block=32, low=None, how=torch.round, half=True, guard=True):
    blocks = weights.reshape(-1, block)
    low = blocks.amin(1, keepdim=True) if low is None else torch.full((len(blocks), 1), low)
    scale = (blocks.amax(1, keepdim=True) - low) / steps
    whole = how((blocks - low) / scale)
    whole = (torch.where(scale > 0, whole, 0.0) if guard else whole).clamp(0, steps)
    if half:
        low, scale = low.half().float(), scale.half().float()
    return (low + scale * whole).reshape(weights.shape)


def best(megabytes, milliseconds, size=checks.size_of, time=checks.time_of, layers=range(1, 31), step=32):
    plans = [(n, w) for n in layers for w in range(32, 1537, step)]
    fit = [(n * w, n, w) for n, w in plans if size(n, w) <= megabytes and time(n, w) <= milliseconds]
    return max(fit)[1:] if fit else (1, 32)


MISTAKES = [
    ("q4_1", lambda w: w, "nothing is rounded"),
    ("q4_1", lambda w: rounded(w, guard=False), "NaN or infinity"),
    ("q4_1", lambda w: rounded(w, block=w.numel()), "whole tensor"),
    ("q4_1", lambda w: rounded(w, block=64), "each row"),
    ("q4_1", lambda w: rounded(w, steps=16), "so 15 steps"),
    ("q4_1", lambda w: rounded(w, low=0.0), "begins at 0"),
    ("q4_1", lambda w: rounded(w, how=torch.floor), "rounded down"),
    ("q4_1", lambda w: rounded(w, half=False), "as halves"),
    ("q4_1", lambda w: rounded(w, steps=7), "off by up to"),
    ("q4_1", lambda w: rounded(w)[:, :32], r"shape \(6, 64\), got \(6, 32\)"),
    ("plan_for", lambda mb, ms: best(mb + checks.MB_HEAD, ms), "did you count the head"),
    ("plan_for", lambda mb, ms: best(mb, 1e9), "too long"),
    ("plan_for", lambda mb, ms: best(1e9, ms), "MB"),
    ("plan_for", lambda mb, ms: best(mb, ms, layers=[30]), "keeps .* meets both budgets"),
    ("plan_for", lambda mb, ms: (30, 1000), "no multiple of 32"),
    ("plan_for", lambda mb, ms: (31, 64), "not a part of"),
    ("plan_for", lambda mb, ms: 30, "two whole numbers"),
]
test_a_check_names_the_mistake = names_the_mistake(CHECKS, MISTAKES)


def test_the_roundings_are_those_of_the_files():
    weights = torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
    for ours, kind in ((checks._q4_1, "Q4_1"), (checks.q4_0, "Q4_0")):
        kind = gguf.GGMLQuantizationType[kind]
        theirs = gguf.quants.dequantize(gguf.quants.quantize(weights.numpy(), kind), kind)
        assert (np.abs(ours(weights).numpy() - theirs) > 1e-6).mean() < 0.01  # ties may fall to either side


def test_sizes_are_those_of_the_real_model():
    assert checks.size_of(30, 1536) == pytest.approx(269.1, abs=0.2)  # megabytes of f16, but for the norms


@pytest.fixture
def tiny(tiny_llama, monkeypatch):
    """A small model whose layers rounding hurts unequally: 1 most, by far."""
    model = tiny_llama(hidden_size=64, intermediate_size=64, num_hidden_layers=4)
    tokens = torch.arange(2, 26)[None]
    with torch.no_grad():
        model.model.layers[3].mlp.down_proj.weight[0, 0] = 3.0
    monkeypatch.setattr(checks, "loaded", lambda: (model, tokens))
    return model, checks.losses_when_rounded(model, tokens)


def place(losses, which):
    return which(range(len(losses)), key=losses.__getitem__)


def test_the_worst_layer_is_accepted(tiny, capsys):
    CHECKS["worst_layer"](functions(LESSONS["08"].solutions)["worst_layer"])
    assert f"layer {place(tiny[1], max)}" in capsys.readouterr().out


def in_place(model, tokens, quantise):
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.copy_(quantise(layer.mlp.down_proj.weight))
    return 0


def test_other_layers_are_refused(tiny):
    model, losses = tiny
    before = [parameter.clone() for parameter in model.parameters()]
    others = sorted(range(4), key=losses.__getitem__)
    for answer, words in (
        (others[0], r"hurt \*least\*"),
        (others[1], "round one layer|the loss is"),
        (7, "number of a l"),
    ):
        with pytest.raises(Wrong, match=words):
            CHECKS["worst_layer"](lambda *_, answer=answer: answer)
    with pytest.raises(Wrong, match="put each layer's weights back"):
        CHECKS["worst_layer"](in_place)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), before, strict=True))
