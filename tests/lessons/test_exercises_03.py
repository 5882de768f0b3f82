"""The checks of lesson 3's exercises: they refuse plausible mistakes by name."""

from __future__ import annotations

import json
import math

import pytest
from lessons import LESSON_03, Wrong

CHECKS = LESSON_03.checks


def neuron_group_fixed(neuron=3, keys=2, queries=2, norms=2, shared=True):
    def costs(hidden, head, query_heads, kv_heads):
        repeats = query_heads // kv_heads if shared else 1
        return neuron * hidden, (keys + queries * repeats) * head * hidden, norms * hidden

    return costs


def per_query_head(hidden, head, queries, keys):
    return 3 * hidden, 4 * (queries // keys) * head * hidden, 2 * hidden


def width_rounded(how):
    """`width_for_budget` with the exact width rounded by `how`(width, multiple)."""
    return lambda ratio, neurons, cost, rest, multiple: how(neurons - ratio * (neurons * cost + rest) / cost, multiple)


def rise(curves, gone, layer):
    return curves[layer][min(gone[layer] + 1, 3)] - curves[layer][gone[layer]]


def least_error_after(curves, gone, sizes):
    return min(range(3), key=lambda i: curves[i][min(gone[i] + 1, 3)])


def least_rise(curves, gone, sizes):
    return min((i for i in range(3) if gone[i] < 3), key=lambda i: rise(curves, gone, i))


def past_the_end(curves, gone, sizes):
    return min(range(3), key=lambda i: rise(curves, gone, i) / sizes[i])


MISTAKES = {
    "costs": [
        (neuron_group_fixed(neuron=2), "a neuron has three matrices"),
        (neuron_group_fixed(neuron=4), "one more neuron adds 192 parameters"),
        (neuron_group_fixed(shared=False), "all 2 query heads of a group lose their K and V"),
        (per_query_head, "share .one. head of k and one of v"),
        (neuron_group_fixed(keys=3), "one more KV group adds"),
        (neuron_group_fixed(norms=1), "a layer has two norms"),
        (neuron_group_fixed(norms=0), "what no width changes is 128 parameters"),
        (lambda *sizes: 3, "expected three numbers"),
    ],
    "width_for_budget": [
        (lambda ratio, n, cost, rest, m: int(n * (1 - ratio)) // m * m, "have to bear the attention's part"),
        (width_rounded(lambda width, m: math.ceil(width / m) * m), "round down, a budget is a lower bound"),
        (width_rounded(lambda width, m: int(width)), "is no multiple of 64"),
        (width_rounded(lambda width, m: m), "are too, and keep more"),
        (lambda ratio, n, cost, rest, m: n, "neurons, got 1536"),
        (width_rounded(lambda width, m: width), "expected a whole number of neurons"),
    ],
    "next_layer": [
        (least_error_after, "what the next step .adds."),
        (least_rise, "frees only 10 parameters: divide"),
        (past_the_end, "layer 0 has no step left"),
        (lambda curves, gone, sizes: 2, "expected layer 0, got 2"),
        (lambda curves, gone, sizes: None, "expected the number of a layer"),
    ],
    "reached": [
        (lambda text, parts: (0.5, 0.4, 0.3), "expected two fractions"),
        (lambda text, parts: mistaken(text, parts, stays=True), "this is what stays"),
        (lambda text, parts: mistaken(text, parts, of_those_that_stay=True), "compare with all 3 layers"),
        (lambda text, parts: mistaken(text, parts, groups=False), "a KV group went in layer 1"),
        (lambda text, parts: mistaken(text, parts, rest=False), "the model is more than its decoder"),
    ],
}


def mistaken(text, parts, stays=False, of_those_that_stay=False, groups=True, rest=True):
    """`reached` with one mistake."""
    plan = json.loads(text)
    kept = plan["kv_groups"] if groups else [parts["kv_groups"]] * len(plan["layers"])
    layer = lambda n, g: n * parts["neuron"] + g * parts["group"] + parts["fixed"]  # noqa: E731
    count = len(plan["layers"]) if of_those_that_stay else plan["parent_layers"]
    before = count * layer(parts["neurons"], parts["kv_groups"])
    gone = before - sum(map(layer, plan["neurons"], kept))
    found = gone / before, gone / (before + rest * parts["rest"])
    return tuple(1 - part for part in found) if stays else found


@pytest.mark.parametrize(
    ("name", "wrong", "sentence"), [(name, wrong, words) for name, pairs in MISTAKES.items() for wrong, words in pairs]
)
def test_a_check_names_the_mistake(name, wrong, sentence):
    with pytest.raises(Wrong, match=sentence):
        CHECKS[name](wrong)
