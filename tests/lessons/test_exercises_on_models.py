"""Checks of exercises that ask a model: lessons 3 and 8 on small ones, the wrap-up on Gemma 3."""

from __future__ import annotations

import pytest
import torch
from lessons import LESSONS, Wrong, checks_module, functions
from variants import build, tokens

from comp_lib.evaluation.loss import measure_loss
from comp_lib.utils.errors import InputError

# --- lesson 3 -----------------------------------------------------------------------------------------------

checks_03 = checks_module("03")
missed_least = functions(LESSONS["03"].solutions)["missed_least"]


@pytest.fixture
def blocks():
    """The layers of a small model, and the loss of this model."""
    model = build("gqa")
    ids = tokens(4, 24)
    return checks_03.Blocks(list(model.model.layers), lambda: measure_loss(model, ids).loss)


def silence(module, inputs, output):
    """A hook in which a part of a block adds nothing to the stream."""
    if isinstance(output, tuple):
        return (output[0] * 0, *output[1:])
    return output * 0


def leave_parts_out(forget=False, parts=("attention", "mlp"), choose=min):
    """The right `missed_least`, unless hooks are forgotten, a part is left out, or another one is chosen."""

    def missed_least(blocks, loss):
        losses = {}
        for number, block in enumerate(blocks):
            modules = {"attention": block.self_attn, "mlp": block.mlp}
            for part in parts:
                hook = modules[part].register_forward_hook(silence)
                losses[number, part] = loss()
                if not forget:
                    hook.remove()
        return choose(losses, key=losses.get)

    return missed_least


def test_the_part_that_is_missed_least(blocks, capsys):
    checks_03.check_missed_least(missed_least, blocks)
    checks_03.check_missed_least(lambda *arguments: list(missed_least(*arguments)), blocks)
    assert "is missed least" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (leave_parts_out(forget=True), "some hooks are still there"),
        (leave_parts_out(choose=max), "take the least"),
        (leave_parts_out(parts=("attention",)), "losses for 6 parts"),
        (lambda blocks, loss: 3, "expected .number of the block"),
        (lambda blocks, loss: (0, "layer"), "expected 'attention' or 'mlp'"),
    ],
)
def test_a_wrong_answer_is_refused_and_leaves_no_hook(blocks, wrong, sentence):
    with pytest.raises(Wrong, match=sentence):
        checks_03.check_missed_least(wrong, blocks)
    for block in blocks.blocks:
        assert not block.self_attn._forward_hooks
        assert not block.mlp._forward_hooks


# --- lesson 8 -----------------------------------------------------------------------------------------------

checks_08 = checks_module("08")
check_worst_layer = LESSONS["08"].checks["worst_layer"]


@pytest.fixture
def model_and_losses(tiny_llama, monkeypatch):
    """A small model whose layers rounding hurts unequally, and its loss with each layer rounded alone."""
    model = tiny_llama(hidden_size=64, intermediate_size=64, num_hidden_layers=4)
    ids = torch.arange(2, 26)[None]
    with torch.no_grad():
        model.model.layers[3].mlp.down_proj.weight[0, 0] = 3.0
    monkeypatch.setattr(checks_08, "loaded", lambda: (model, ids))
    return model, checks_08.losses_when_rounded(model, ids)


def test_the_worst_layer_is_accepted(model_and_losses, capsys):
    _, losses = model_and_losses
    worst = max(range(4), key=losses.__getitem__)
    check_worst_layer(functions(LESSONS["08"].solutions)["worst_layer"])
    assert f"layer {worst}" in capsys.readouterr().out


def rounds_in_place(model, ids, quantise):
    """Leaves the layers rounded."""
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.copy_(quantise(layer.mlp.down_proj.weight))
    return 0


def test_other_layers_are_refused(model_and_losses):
    model, losses = model_and_losses
    weights_before = [parameter.clone() for parameter in model.parameters()]
    layers_by_loss = sorted(range(4), key=losses.__getitem__)
    for answer, pattern in (
        (layers_by_loss[0], r"hurt \*least\*"),
        (layers_by_loss[1], "round one layer|the loss is"),
        (7, "number of a l"),
    ):
        with pytest.raises(Wrong, match=pattern):
            check_worst_layer(lambda *_, answer=answer: answer)
    with pytest.raises(Wrong, match="put each layer's weights back"):
        check_worst_layer(rounds_in_place)
    for parameter, before in zip(model.parameters(), weights_before, strict=True):
        assert torch.equal(parameter, before)


# --- the wrap-up --------------------------------------------------------------------------------------------

checks_11 = checks_module("11")


def no_package(name):
    """Loads no model: the package is not installed."""
    raise InputError(expected="the package", got="none installed", hint="pip install it")


@pytest.mark.parametrize("name", LESSONS["11"].checks)
def test_without_the_model_one_line_says_what_to_install(name, monkeypatch, capsys):
    checks_11._loaded.cache_clear()
    monkeypatch.setattr(checks_11, "load_model", no_package)
    LESSONS["11"].checks[name](functions(LESSONS["11"].solutions)[name])
    assert capsys.readouterr().out == "Not graded: expected the package, got none installed: pip install it\n"


@pytest.mark.real
@pytest.mark.parametrize("name", LESSONS["11"].checks)
def test_the_answers_to_the_wrap_up_are_those_of_gemma(name, capsys):
    if checks_11.gemma() is None:
        pytest.skip("gemma3-270m is not installed")
    LESSONS["11"].checks[name](functions(LESSONS["11"].solutions)[name])
    assert capsys.readouterr().out.startswith("Right: ")
