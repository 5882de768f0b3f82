"""Checks of exercises that ask a model, on small ones: lessons 3 and 8."""

from __future__ import annotations

import importlib

import pytest
import torch
from lessons import LESSONS, Wrong, functions
from variants import build, tokens

from comp_lib.evaluation.loss import perplexity

checks, checks_08 = importlib.import_module("checks_03"), importlib.import_module("checks_08")
SOLVED = functions(LESSONS["03"].solutions)


@pytest.fixture
def given():
    model, ids = build("gqa"), tokens(4, 24)
    return checks.Blocks(list(model.model.layers), lambda: perplexity(model, ids).loss)


def left_out(forget=False, parts=("attention", "mlp"), choose=min, whole=False):
    """`missed_least` with one mistake."""

    def silence(module, inputs, out):
        return (out[0] * 0, *out[1:]) if isinstance(out, tuple) else out * 0

    def missed_least(blocks, loss):
        found = {}
        for number, block in enumerate(blocks):
            for name in parts:
                hook = (block.self_attn if name == "attention" else block.mlp).register_forward_hook(silence)
                found[number, name] = loss()
                if not forget:
                    hook.remove()
        return choose(found, key=found.get)

    return missed_least


def test_the_part_that_is_missed_least(given, capsys):
    checks.check_missed_least(SOLVED["missed_least"], given)
    checks.check_missed_least(lambda blocks, loss: list(SOLVED["missed_least"](blocks, loss)), given)
    assert "is missed least" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (left_out(forget=True), "some hooks are still there"),
        (left_out(choose=max), "take the least"),
        (left_out(parts=("attention",)), "losses for 6 parts"),
        (lambda blocks, loss: 3, "expected .number of the block"),
        (lambda blocks, loss: (0, "layer"), "expected 'attention' or 'mlp'"),
    ],
)
def test_a_part_that_is_missed_more(given, wrong, sentence):
    with pytest.raises(Wrong, match=sentence):
        checks.check_missed_least(wrong, given)
    for block in given.blocks:
        assert not block.self_attn._forward_hooks and not block.mlp._forward_hooks


# --- lesson 8 -------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(tiny_llama, monkeypatch):
    """A small model whose layers rounding hurts unequally: 1 most, by far."""
    model = tiny_llama(hidden_size=64, intermediate_size=64, num_hidden_layers=4)
    tokens = torch.arange(2, 26)[None]
    with torch.no_grad():
        model.model.layers[3].mlp.down_proj.weight[0, 0] = 3.0
    monkeypatch.setattr(checks_08, "loaded", lambda: (model, tokens))
    return model, checks_08.losses_when_rounded(model, tokens)


def place(losses, which):
    return which(range(len(losses)), key=losses.__getitem__)


def test_the_worst_layer_is_accepted(tiny, capsys):
    LESSONS["08"].checks["worst_layer"](functions(LESSONS["08"].solutions)["worst_layer"])
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
            LESSONS["08"].checks["worst_layer"](lambda *_, answer=answer: answer)
    with pytest.raises(Wrong, match="put each layer's weights back"):
        LESSONS["08"].checks["worst_layer"](in_place)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), before, strict=True))
