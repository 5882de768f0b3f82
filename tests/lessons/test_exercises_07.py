"""The checks of lesson 7's exercises: they refuse plausible mistakes by name."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from lessons import LESSONS, Wrong, names_the_mistake

CHECKS = LESSONS["07"].checks
checks = sys.modules["checks_07"]


def interval(ours, theirs, level=0.95, paired=True, means=True, sign=1):
    random, count = np.random.default_rng(1), len(ours)
    first = random.integers(count, size=(4000, count))
    second = first if paired else random.integers(count, size=(4000, count))
    drawn = sign * (ours[first] - theirs[second])
    low, high = np.quantile(drawn.mean(1) if means else drawn, [(1 - level) / 2, (1 + level) / 2])
    return low, high


def one_twin(x, w, one, other, much=1000.0):
    w = w.clone()
    w[one] += much
    w[other] -= 2 * much
    return w


MIDDLE = -0.95  # enough for one twin to lead, not for both
MISTAKES = [
    ("paired_interval", lambda a, b: interval(a, b, paired=False), "read different texts"),
    ("paired_interval", lambda a, b: interval(a, b, means=False), r"\*mean\* of windows"),
    ("paired_interval", lambda a, b: interval(a, b, level=0.9), "90% interval"),
    ("paired_interval", lambda a, b: interval(a, b, level=0.5), "times as wide as it should be"),
    ("paired_interval", lambda a, b: interval(a, b, sign=-1), "the sign is turned"),
    ("paired_interval", lambda a, b: interval(a, b)[::-1], "the lower end comes first"),
    ("paired_interval", lambda a, b: (1.0, 2.0), "does not hold the mean difference"),
    ("paired_interval", lambda a, b: 0.1, "two numbers"),
    ("fool_wanda", lambda x, w, i, j: w.clone(), "nothing has changed yet"),
    ("fool_wanda", lambda x, w, i, j: 100 * w, "output has changed"),
    ("fool_wanda", lambda x, w, i, j: one_twin(x, w, i, j, 0.1), "still ranks neuron"),
    ("fool_wanda", lambda x, w, i, j: one_twin(x, w, i, j, MIDDLE), "the other does not yet"),
    ("fool_wanda", lambda x, w, i, j: w[:3], r"shape \(8, 5\), got \(3, 5\)"),
]


test_a_check_names_the_mistake = names_the_mistake(CHECKS, MISTAKES)


CASES = [
    ((14, 0.3, "prose"), "four values"),
    ((14, 0.3, "prose", "poems"), "expected kinds among"),
    ((14, 0.3, "prose", "prose"), "both calibrates and judges"),
    ((30, 0.3, "prose", "code"), "a layer from 0 to 29"),
    ((14, 0.0, "prose", "code"), "a lambda above 0"),
    ((1, 0.3, "prose", "code"), "fits the luck of the text"),  # loses on both
    ((2, 0.3, "prose", "code"), "hardly changes anything"),  # wins on both
    ((3, 0.3, "prose", "code"), "do not tell them apart"),
]


def fake_errors(layer, ridge, calibrates, judges):
    """COMP's and FLAP's errors by window: what the numbers of the layers above stand for."""
    same, noise = judges == calibrates, np.linspace(-1, 1, 8)
    gap = {1: 0.1, 2: -0.1, 3: -0.001 if same else 0.1}.get(layer, -0.1 if same else 0.1)
    return 0.2 + gap + 0.01 * noise, np.full(8, 0.2)


@pytest.mark.parametrize("case, words", CASES)
def test_a_case_in_which_comp_does_not_lose(monkeypatch, case, words):
    monkeypatch.setattr(checks, "layer_errors", fake_errors)
    with pytest.raises(Wrong, match=words):
        CHECKS["losing_case"](lambda: case)


def test_a_case_is_accepted_by_its_errors_alone(monkeypatch, capsys):
    monkeypatch.setattr(checks, "layer_errors", fake_errors)
    CHECKS["losing_case"](lambda: (4, 2.0, "code", "prose"))
    assert "wins on code and loses on prose" in capsys.readouterr().out


def test_layer_errors_are_those_of_the_layer(tiny_llama, monkeypatch):
    """On random inputs: a refit with a huge lambda is no refit, and a bias of inputs without a mean is none."""
    model = tiny_llama()
    monkeypatch.setattr(checks, "_loaded", lambda: (model, None))
    neurons = checks.weight_of(1).shape[0]
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(checks.WINDOWS * checks.LENGTH, neurons, generator=generator, dtype=torch.float64)
    monkeypatch.setattr(checks, "inputs", lambda layer, text, sequences: draws - draws.mean(0))
    comp, flap = checks.layer_errors(1, 1e9, "prose", "code")
    assert comp.shape == flap.shape == (checks.WINDOWS,)
    assert comp.mean() == pytest.approx(flap.mean(), rel=0.2) and 0.05 < comp.mean() < 0.6
    assert checks.layer_errors(1, 0.01, "prose", "code")[0].mean() <= comp.mean()  # judged on what it was fitted to


def test_inputs_are_what_down_proj_reads(tiny_llama, tokenizer, monkeypatch):
    model, seen = tiny_llama(max_position_embeddings=256), []
    monkeypatch.setattr(checks, "_loaded", lambda: (model, tokenizer))
    got = checks.inputs.__wrapped__(1, "calibration:code", 10)
    hook = model.model.layers[1].mlp.down_proj.register_forward_hook(lambda m, args, out: seen.append(args[0]))
    text = checks_text("calibration:code")
    ids = torch.tensor(tokenizer(text)["input_ids"][: 10 * checks.LENGTH]).view(10, -1)
    with torch.no_grad():
        model.model(input_ids=ids, use_cache=False)
    hook.remove()
    assert torch.allclose(got, seen[0].flatten(0, 1).double(), atol=1e-5)
    assert not model.model.layers[1].mlp.down_proj._forward_pre_hooks


def checks_text(name):
    from comp_lib.calibration.text import load_text

    return load_text(name)[:200_000]
