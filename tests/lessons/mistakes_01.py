"""Wrong answers to the exercises of lesson 1, and what their checks say to each."""

from __future__ import annotations

from itertools import combinations

from lessons import LESSONS, functions

SOLVED = functions(LESSONS["01"].solutions)


def turned(tokens):
    """A `fool` that turns only so many tokens of the first sequence round."""

    def fool(before):
        after = before.clone()
        after[0, :tokens] *= -1
        return after

    return fool


def loss_without(loss, layers, removed):
    return loss([layer for layer in range(layers) if layer not in removed])


def one_shot(loss, layers, count):
    """Ranks the layers once, each removed alone."""
    return sorted(range(layers), key=lambda layer: loss_without(loss, layers, [layer]))[:count]


def all_at_once(loss, layers, count):
    """The best set of layers, which no greedy order finds."""
    sets = combinations(range(layers), count)
    return list(min(sets, key=lambda removed: loss_without(loss, layers, removed)))


def harmless_alone(harm, layers, count):
    """The layers that do the least harm, each removed alone."""
    return sorted(range(layers), key=lambda layer: harm([layer]))[:count]


# (function that the learner writes, a wrong answer, pattern that the check's sentence matches)
MISTAKES = [
    ("fool", lambda before: 3 * before, "scaling"),
    ("fool", turned(20), "you turned 20 of 150"),
    ("fool", lambda before: before[0], r"got \(50, 6\)"),
    ("greedy_order", one_shot, "ranks once"),
    ("greedy_order", all_at_once, "in each round"),
    ("greedy_order", lambda *arguments: SOLVED["greedy_order"](*arguments)[::-1], "wrong order"),
    ("greedy_order", lambda loss, n, k: [loss([2, 1, 0])], "ascending order"),
    ("greedy_order", lambda loss, n, k: [2, 3, 4][:k], "in each round"),
    ("plan", harmless_alone, "may stand in for each other"),
    ("plan", lambda harm, layers, count: [5, 6, 1, 9], "the proxy's own plan"),
]
