"""The checks of lesson 3's exercises: they refuse plausible mistakes by name. Small models stand for the real one."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
from lessons import LESSONS, Wrong, functions, names_the_mistake
from variants import build, tokens

from comp_lib.evaluation.loss import perplexity

CHECKS = LESSONS["03"].checks
checks = importlib.import_module("checks_03")
SOLVED = functions(LESSONS["03"].solutions)


def width(fixed_stays=True, dropped_counts=True, how=math.floor, ends=True):
    """`width_for_time` with one mistake."""

    def width_for_time(ratio, line, layers, neurons, dropped, multiple):
        fixed, layer, neuron = line
        left = layers - dropped * dropped_counts
        allowed = (1 - ratio) * (fixed * fixed_stays + layer * layers + neuron * neurons * layers)
        got = how((allowed - fixed * fixed_stays - layer * left) / (neuron * left) / multiple + 1e-9) * multiple
        return max(0, min(got, neurons // multiple * multiple)) if ends else got

    return width_for_time


def steps(*taken):
    return lambda curves, harm, at: list(taken)


MISTAKES = {
    "width_for_time": [
        (width(fixed_stays=False), "`fixed` takes time in both models"),
        (width(dropped_counts=False), "the layers that are gone save time as well"),
        (width(how=math.ceil), "round down, a budget is a lower bound"),
        (width(ends=False), "a layer has only 1536 neurons"),
        (lambda ratio, line, layers, neurons, dropped, multiple: -multiple, "the answer is 0"),
        (lambda ratio, line, layers, neurons, dropped, multiple: multiple, "are too, and keep more"),
        (lambda *wish: width()(*wish[:-1], 1), "is no multiple of 32"),
        (lambda *wish: float(width()(*wish)), "expected a whole number"),
        (lambda *wish: 1536, "expected .* neurons, got 1536"),
    ],
    "fool": [
        (steps(4, 4, 4, 4, 4, 4), "the curves see"),
        (steps(1, 2, 8, 8, 4, 1), "the model likes your widths better"),
        (steps(8, 8, 0, 0, 0, 0), "expected 24 steps in all"),
        (steps(4, 4, 4), "expected the steps of each of 6 layers"),
        (steps(9, 3, 3, 3, 3, 3), "the end of the curves"),
        (steps(3, 4, 4, 4, 4, 5), "nobody is fooled yet"),
    ],
}


test_a_check_names_the_mistake = names_the_mistake(
    CHECKS, [(name, wrong, words) for name, pairs in MISTAKES.items() for wrong, words in pairs]
)


# --- on a model -------------------------------------------------------------------------------------------------------


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


def breaks_the_weights(blocks, loss):
    for block in blocks:
        block.mlp.down_proj.weight.data *= 0.0
    return 0, "mlp"


def test_the_part_that_is_missed_least(given, capsys):
    checks.check_missed_least(SOLVED["missed_least"], given)
    checks.check_missed_least(lambda blocks, loss: list(SOLVED["missed_least"](blocks, loss)), given)
    assert "is missed least" in capsys.readouterr().out


def test_an_answer_that_is_cut_off_leaves_the_model_as_it_was(given, capsys):
    def hooked_and_lost(blocks, loss):
        blocks[0].self_attn.o_proj.register_forward_hook(lambda module, inputs, out: out * 0)
        blocks[1].self_attn.register_forward_hook(lambda module, inputs, out: out[0] * 0)  # the block wants a pair
        loss()

    with pytest.raises(ValueError, match="unpack"):
        checks.check_missed_least(hooked_and_lost, given)
    checks.check_missed_least(SOLVED["missed_least"], given)
    assert "is missed least" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (left_out(forget=True), "some hooks are still there"),
        (left_out(choose=max), "take the least"),
        (left_out(parts=("attention",)), "losses for 6 parts"),
        (breaks_the_weights, "the model is not what it was"),
        (lambda blocks, loss: 3, "expected .number of the block"),
        (lambda blocks, loss: (0, "layer"), "expected 'attention' or 'mlp'"),
        (lambda blocks, loss: (0, "mlp"), "losses for 6 parts"),
    ],
)
def test_a_part_that_is_missed_more(given, wrong, sentence):
    with pytest.raises(Wrong, match=sentence):
        checks.check_missed_least(wrong, given)
    for block in given.blocks:
        assert not block.self_attn._forward_hooks and not block.mlp._forward_hooks


def second_best(blocks, loss):
    losses = checks._without_each(blocks, lambda: loss())
    return sorted(losses, key=losses.__getitem__)[1]


def test_the_second_best_is_told_from_the_best(given):
    with pytest.raises(Wrong, match="costs .* nats, "):
        checks.check_missed_least(second_best, given)


KL = [0.5, 0.01, 0.02, 0.4]
EVIDENCE = {
    "kl": KL,
    "harm": [1.0, 0.1, 0.1, 0.8],
    "curves": [[0.01 * (s / 14) ** 2 for s in range(44)] for _ in KL],
    "multiple": 32,
    "neurons": 1536,
}


def trial(noise=0.0):
    """Windows that mind what the divergences say."""
    random = np.random.default_rng(0)

    def losses(widths):
        harm = sum(kl * ((1536 - w) / 416) ** 2 for kl, w in zip(KL, widths, strict=True))
        return list(3 + harm + noise * random.standard_normal(16))

    return checks.Trial(EVIDENCE, 4 * 1120, losses([1120] * 4), losses)


def test_a_better_plan_is_accepted(capsys):
    checks.check_better_widths(SOLVED["better_widths"], trial())
    assert "better than one width for all, by -" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("widths", "noise", "sentence"),
    [
        ([1120] * 4, 0.0, "one width for all again"),
        ([1536] * 4, 0.0, "that is another budget"),
        ([1119, 1120, 1120, 1120], 0.0, "expected multiples of 32"),
        ([64, 1120, 1120, 1120], 0.0, "expected widths from 160 to 1536, got 64"),
        ([1120] * 3, 0.0, "expected a width for each of 4 layers"),
        ([704, 1536, 1536, 704], 0.0, "the model loses more than with one width for all"),
        ([1152, 1088, 1120, 1120], 5.0, "cannot be told apart"),
    ],
)
def test_a_plan_that_is_no_better(widths, noise, sentence):
    with pytest.raises(Wrong, match=sentence):
        checks.check_better_widths(lambda evidence, total: widths, trial(noise))
