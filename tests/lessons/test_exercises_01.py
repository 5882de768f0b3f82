"""The checks of lesson 1's exercises: they refuse plausible mistakes by name."""

from __future__ import annotations

import numpy as np
import torch
from lessons import LESSONS, functions, names_the_mistake

CHECKS = LESSONS["01"].checks
SOLVED = functions(LESSONS["01"].solutions)


def test_other_ways_are_right_too(capsys):
    CHECKS["greedy_order"](lambda loss, n, k: tuple(SOLVED["greedy_order"](loss, n, k)))
    CHECKS["greedy_order"](lambda loss, n, k: list(np.array(SOLVED["greedy_order"](loss, n, k))))
    CHECKS["paired_interval"](near_normal)
    CHECKS["fool"](lambda before: torch.cat([before[:2], torch.cat([before[2:, :49], -before[2:, 49:]], 1)]))
    assert capsys.readouterr().out.count("Right: ") == 4


def turned(tokens):
    def function(before):
        after = before.clone()
        after[0, :tokens] *= -1
        return after

    return function


def sideways(before):
    after = before.clone()
    after[0, 0] = after[0, 0].flip(0) + 0.1
    return after


def in_place(before):
    before[0, 0] *= -1
    return before


def near_normal(a, b, z=1.96, unpaired=False, single=False):
    differences = a - b
    spread = (a.var() + b.var()) ** 0.5 if unpaired else differences.std()
    half = float(z * spread / (1 if single else len(a) ** 0.5))
    return float(differences.mean()) - half, float(differences.mean()) + half


def one_shot(loss, layers, count):
    alone = [loss([other for other in range(layers) if other != layer]) for layer in range(layers)]
    return sorted(range(layers), key=alone.__getitem__)[:count]


def most_missed(loss, layers, count):
    alone = [loss([other for other in range(layers) if other != layer]) for layer in range(layers)]
    return sorted(range(layers), key=alone.__getitem__)[::-1][:count]


def those_that_stay(loss, layers, count):
    gone = SOLVED["greedy_order"](loss, layers, count)
    return [layer for layer in range(layers) if layer not in gone]


def harmless_alone(harm, layers, count):
    return sorted(range(layers), key=lambda layer: harm([layer]))[:count]


def asks_for_all(harm, layers, count):
    return min(([a, b, 5, 6] for a in range(layers) for b in range(a)), key=harm)


MISTAKES = [
    ("fool", lambda before: 3 * before, "scaling"),
    ("fool", lambda before: before * torch.nan, "NaN"),
    ("fool", sideways, "comes out reversed"),
    ("fool", turned(20), "you turned 20 of 150"),
    ("fool", in_place, "work on a copy"),
    ("fool", lambda before: before[0], r"got \(50, 6\)"),
    ("greedy_order", one_shot, "ranks once"),
    ("greedy_order", most_missed, "missed most"),
    ("greedy_order", lambda *given: SOLVED["greedy_order"](*given)[::-1], "wrong order"),
    ("greedy_order", those_that_stay, "that stay"),
    ("greedy_order", lambda loss, n, k: [loss([2, 1, 0])], "ascending order"),
    ("greedy_order", lambda loss, n, k: [1], "expected 3 layers, got 1"),
    ("greedy_order", lambda loss, n, k: [2, 3, 4][:k], "in each round"),
    ("greedy_order", lambda loss, n, k: 1, "list of layers"),
    ("paired_interval", lambda a, b: near_normal(a, b, unpaired=True), "no longer cancels"),
    ("paired_interval", lambda a, b: near_normal(a, b, single=True), "single windows"),
    ("paired_interval", lambda a, b: near_normal(a, b, z=1.0), "one standard error"),
    ("paired_interval", lambda a, b: near_normal(a, b, z=1.645), "cut 2.5%"),
    ("paired_interval", lambda a, b: near_normal(a, b, z=0.5), "as many windows as there are"),
    ("paired_interval", lambda a, b: near_normal(b, a), "wrong way round"),
    ("paired_interval", lambda a, b: near_normal(a, 0 * b), "middle should be near"),
    ("paired_interval", lambda a, b: near_normal(a, b)[::-1], "low is above high"),
    ("paired_interval", lambda a, b: float((a - b).mean()), "two numbers"),
    ("plan", harmless_alone, "may stand in for each other"),
    ("plan", asks_for_all, "more than 45 times"),
    ("plan", lambda harm, layers, count: [5, 6, 1, 9], "the proxy's own plan"),
    ("plan", lambda harm, layers, count: [5, 6, 1], "expected 4 different layers"),
    ("plan", lambda harm, layers, count: [5, 5, 1, 6], "expected 4 different layers"),
    ("plan", lambda harm, layers, count: harm([layers]), "layers 0 to 11"),
    ("plan", lambda harm, layers, count: 4, "list of layers"),
]
test_a_check_names_the_mistake = names_the_mistake(CHECKS, MISTAKES)
