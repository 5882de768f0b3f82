"""The checks of lesson 1's exercises: they refuse plausible mistakes by name."""

from __future__ import annotations

import pytest
import torch
from lessons import LESSON_01, Wrong, functions
from torch import nn

CHECKS = LESSON_01.checks
SOLVED = functions(LESSON_01.solutions)
cosine = nn.functional.cosine_similarity


def test_other_ways_are_right_too(capsys):
    CHECKS["block_influence"](lambda b, a: float(1 - cosine(b, a, dim=-1).mean()))
    CHECKS["greedy_order"](lambda loss, n, k: tuple(SOLVED["greedy_order"](loss, n, k)))
    CHECKS["massive"](lambda norms: torch.tensor(SOLVED["massive"](norms)).unbind())
    CHECKS["loss_increase"](increases(lambda layers, i: layers[:i] + layers[i + 1 :]))
    assert "25 times (15 would do" in capsys.readouterr().out


def run(layers, stream):
    for layer in layers:
        stream = layer(stream)
    return stream


def increases(keep):
    """A `loss_increase` that keeps the layers `keep(layers, i)` when it should leave out layer i."""

    def function(layers, hidden, loss):
        whole = loss(run(layers, hidden))
        return torch.stack([loss(run(keep(layers, i), hidden)) for i in range(len(layers))]) - whole

    return function


def without_whole(layers, hidden, loss):
    return torch.stack([loss(run(layers[:i] + layers[i + 1 :], hidden)) for i in range(len(layers))])


def to_zero(layers, hidden, loss):
    cut = [loss(run(layers[i + 1 :], torch.zeros_like(hidden))) for i in range(len(layers))]
    return torch.stack(cut) - loss(run(layers, hidden))


def one_shot(loss, layers, count):
    alone = [loss([other for other in range(layers) if other != layer]) for layer in range(layers)]
    return sorted(range(layers), key=alone.__getitem__)[:count]


def most_missed(loss, layers, count):
    alone = [loss([other for other in range(layers) if other != layer]) for layer in range(layers)]
    return sorted(range(layers), key=alone.__getitem__)[::-1][:count]


def those_that_stay(loss, layers, count):
    gone = SOLVED["greedy_order"](loss, layers, count)
    return [layer for layer in range(layers) if layer not in gone]


def pearson(a, b):
    return float(torch.corrcoef(torch.stack([a.double(), b.double()]))[0, 1])


def wrong_layer(norms, shift=0):
    layer, position = SOLVED["massive"](norms)
    return layer + shift, position


def largest_norm(norms):
    position = int(norms.amax(0).argmax())
    return int((norms[1:, position] - norms[:-1, position]).argmax()), position


MISTAKES = [
    ("block_influence", lambda b, a: cosine(b, a, dim=-1).mean(), "1 minus it"),
    ("block_influence", lambda b, a: 1 - cosine(b.flatten(), a.flatten(), dim=0), "one long vector"),
    ("block_influence", lambda b, a: 1 - cosine(b.mean((0, 1)), a.mean((0, 1)), dim=0), "mean states"),
    ("block_influence", lambda b, a: 1 - cosine(b.flatten(1), a.flatten(1), dim=1).mean(), "for each sequence"),
    ("block_influence", lambda b, a: (1 - cosine(b, a, dim=-1)).sum(), "take their mean"),
    ("block_influence", lambda b, a: 1 - cosine(b, a, dim=-1), r"got shape \(2, 5\)"),
    ("block_influence", lambda b, a: 1 - cosine(b, a, dim=1).mean(), "last dimension"),
    ("block_influence", lambda b, a: None, "got NoneType"),
    ("block_influence", lambda b, a: 1 - cosine(b, a, dim=-1).mean() + (a - 3 * b).norm().lt(1e-9), "only scales"),
    ("loss_increase", without_whole, "subtract the loss"),
    ("loss_increase", lambda *given: -SOLVED["loss_increase"](*given), "sign is the wrong way"),
    ("loss_increase", increases(lambda layers, i: layers[i + 1 :]), "layers before the one left out"),
    ("loss_increase", increases(lambda layers, i: layers[:i]), "layers after the one left out"),
    ("loss_increase", to_zero, "sets it to zero"),
    ("loss_increase", increases(lambda layers, i: layers[::-1]), "not loss"),
    ("loss_increase", lambda *given: SOLVED["loss_increase"](*given)[:3], r"shape \(5,\), got \(3,\)"),
    ("loss_increase", lambda *given: SOLVED["loss_increase"](*given).tolist(), "as a tensor, got list"),
    ("greedy_order", one_shot, "ranks once"),
    ("greedy_order", most_missed, "missed most"),
    ("greedy_order", lambda *given: SOLVED["greedy_order"](*given)[::-1], "wrong order"),
    ("greedy_order", those_that_stay, "that stay"),
    ("greedy_order", lambda loss, n, k: [loss([2, 1, 0])], "ascending order"),
    ("greedy_order", lambda loss, n, k: [1], "expected 3 layers, got 1"),
    ("greedy_order", lambda loss, n, k: [2, 3, 4][:k], "in each round"),
    ("greedy_order", lambda loss, n, k: 1, "list of layers"),
    ("spearman", pearson, "Pearson"),
    ("spearman", lambda a, b: pearson(a.argsort(), b.argsort()), "argsort of argsort"),
    ("spearman", lambda a, b: -SOLVED["spearman"](a, b), "same direction"),
    ("spearman", lambda a, b: 60 * SOLVED["spearman"](a, b), "between -1 and 1"),
    ("spearman", lambda a, b: 0.5 * SOLVED["spearman"](a, b), "as scipy has it"),
    ("massive", largest_norm, "same depth"),
    ("massive", lambda norms: wrong_layer(norms, 1), "one less than the row"),
    ("massive", lambda norms: wrong_layer(norms, 2), "did not write it"),
    ("massive", lambda norms: wrong_layer(norms, -2), "expected layer 2"),
    ("massive", lambda norms: wrong_layer(norms)[::-1], "swapped"),
    ("massive", lambda norms: (2, 1), "expected position 6"),
    ("massive", lambda norms: 6, "two numbers"),
]


@pytest.mark.parametrize("name, mistake, words", MISTAKES)
def test_a_check_names_the_mistake(name, mistake, words):
    with pytest.raises(Wrong, match=words):
        CHECKS[name](mistake)
