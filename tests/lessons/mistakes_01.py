"""Wrong answers to the exercises of lesson 1, and words of the sentence that tells each."""

from __future__ import annotations

from itertools import combinations

from lessons import LESSONS, functions

CHECKS = LESSONS["01"].checks
SOLVED = functions(LESSONS["01"].solutions)


def turned(tokens):
    def function(before):
        after = before.clone()
        after[0, :tokens] *= -1
        return after

    return function


def one_shot(loss, layers, count):
    alone = [loss([other for other in range(layers) if other != layer]) for layer in range(layers)]
    return sorted(range(layers), key=alone.__getitem__)[:count]


def all_at_once(loss, layers, count):
    sets = combinations(range(layers), count)
    return list(min(sets, key=lambda gone: loss([layer for layer in range(layers) if layer not in gone])))


def harmless_alone(harm, layers, count):
    return sorted(range(layers), key=lambda layer: harm([layer]))[:count]


MISTAKES = [
    ("fool", lambda before: 3 * before, "scaling"),
    ("fool", turned(20), "you turned 20 of 150"),
    ("fool", lambda before: before[0], r"got \(50, 6\)"),
    ("greedy_order", one_shot, "ranks once"),
    ("greedy_order", all_at_once, "in each round"),
    ("greedy_order", lambda *given: SOLVED["greedy_order"](*given)[::-1], "wrong order"),
    ("greedy_order", lambda loss, n, k: [loss([2, 1, 0])], "ascending order"),
    ("greedy_order", lambda loss, n, k: [2, 3, 4][:k], "in each round"),
    ("plan", harmless_alone, "may stand in for each other"),
    ("plan", lambda harm, layers, count: [5, 6, 1, 9], "the proxy's own plan"),
]
