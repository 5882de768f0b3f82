"""Checks for the exercises of lesson 3: each compares your function with counting, or trying out, one thing at a time.

Nothing of comp_lib is used here: parameters are counted on PyTorch modules, and budgets by trying every width.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable

from checking import Wrong, accept, call
from torch import nn


def check_costs(costs: Callable[[int, int, int, int], tuple[int, int, int]]) -> None:
    """Exercise 1."""
    for hidden, head, queries, keys in ((64, 16, 4, 2), (60, 10, 6, 2), (48, 16, 3, 3), (32, 16, 4, 1)):
        answer = call(costs, hidden, head, queries, keys)
        if not isinstance(answer, tuple) or len(answer) != 3:
            raise Wrong("expected three numbers, (neuron, group, fixed): end with `return neuron, group, fixed`")
        neuron, group, fixed = answer
        size = f"hidden size {hidden}, head size {head}, {queries} query heads, {keys} KV heads"
        one = _count(_layer(hidden, head, queries, keys, 5))
        want = _count(_layer(hidden, head, queries, keys, 6)) - one
        if neuron != want:
            if neuron == 2 * hidden:
                raise Wrong("a neuron has three matrices to be gone from: a row of gate, a row of up, a column of down")
            raise Wrong(f"one more neuron adds {want:,} parameters at {size}, not {neuron:,}")
        repeats = queries // keys
        want = _count(_layer(hidden, head, queries + repeats, keys + 1, 5)) - one
        if group != want:
            if group == 4 * hidden * head and repeats > 1:
                raise Wrong(
                    f"all {repeats} query heads of a group lose their K and V: their rows of q and columns of o go too"
                )
            if group == 4 * repeats * hidden * head:
                raise Wrong(f"the {repeats} query heads of a group share *one* head of k and one of v")
            raise Wrong(f"one more KV group adds {want:,} parameters at {size}, not {group:,}")
        want = one - 5 * neuron - keys * group
        if fixed != want:
            if 2 * fixed == want:
                raise Wrong("a layer has two norms, one before the attention and one before the MLP")
            raise Wrong(f"what no width changes is {want:,} parameters at {size}, not {fixed:,}")
    accept("neurons, KV groups and norms add up to the parameters of a decoder layer")


def check_width(width_for_budget: Callable[[float, int, int, int, int], int]) -> None:
    """Exercise 2."""
    cases = [(0.2, 1536, 1728, 885_888, 64), (0.2, 1536, 1728, 885_888, 1), (0.1, 96, 30, 1000, 32)]
    cases += [(0.25, 100, 3, 50, 7), (0.5, 128, 12, 0, 64), (0.375, 1024, 6, 0, 128)]  # two are reached exactly
    for ratio, neurons, cost, rest, multiple in cases:
        got = call(width_for_budget, ratio, neurons, cost, rest, multiple)
        layer = neurons * cost + rest
        enough = [n for n in range(multiple, neurons + 1, multiple) if (neurons - n) * cost >= ratio * layer - 1e-9]
        case = f"for {ratio:.1%} of a layer with {neurons} neurons of {cost} parameters and {rest:,} others"
        if isinstance(got, bool) or not isinstance(got, int):
            raise Wrong(f"expected a whole number of neurons, got {got!r}")
        if got % multiple:
            raise Wrong(f"{got} is no multiple of {multiple}: round down to one, {case}")
        if got != enough[-1]:
            if rest and got == int(neurons * (1 - ratio)) // multiple * multiple:
                raise Wrong("the ratio is of the whole layer: the neurons have to bear the attention's part as well")
            if got == enough[-1] + multiple:
                removed = (neurons - got) * cost / layer
                raise Wrong(f"{got} neurons remove {removed:.1%} only, {case}: round down, a budget is a lower bound")
            if got in enough:
                raise Wrong(f"{got} neurons are enough removed, but {enough[-1]} are too, and keep more, {case}")
            raise Wrong(f"expected {enough[-1]} neurons, got {got}, {case}")
    accept("the widest layer that still meets the budget, each time")


def check_next_layer(next_layer: Callable[[list[list[float]], list[int], list[int]], int]) -> None:
    """Exercise 3."""
    curves = [[0.0, 0.01, 0.05, 0.20], [0.0, 0.03, 0.07, 0.12], [0.0, 0.02, 0.03, 0.50]]
    equal = [10, 10, 10]
    for gone, parameters in (
        ([0, 0, 0], equal),
        ([1, 0, 1], equal),
        ([2, 1, 2], equal),
        ([3, 2, 2], equal),
        ([0, 0, 0], [10, 40, 10]),
        ([3, 3, 2], [10, 10, 99]),
    ):
        got = call(next_layer, curves, list(gone), list(parameters))
        open_ = [i for i in range(3) if gone[i] + 1 < len(curves[i])]
        rise = {i: curves[i][gone[i] + 1] - curves[i][gone[i]] for i in open_}
        price = {i: rise[i] / parameters[i] for i in open_}
        case = f"with {gone} steps gone"
        if got not in range(3):
            raise Wrong(f"expected the number of a layer, 0 to 2, got {got!r}, {case}")
        if got not in open_:
            raise Wrong(f"layer {got} has no step left {case}: leave it out")
        if got != min(price, key=price.__getitem__):
            if got == min(open_, key=lambda i: curves[i][gone[i] + 1]) and parameters == equal:
                raise Wrong(f"layer {got} ends at least error, but what counts is what the next step *adds*, {case}")
            if got == min(rise, key=rise.__getitem__):
                raise Wrong(
                    f"layer {got} adds least error, but frees only {parameters[got]} parameters: divide, {case}"
                )
            want = min(price, key=price.__getitem__)
            raise Wrong(f"expected layer {want}, got {got}, {case}: least added error per parameter")
    accept("the cheapest step next; repeated until the budget is met, this is water-filling")


def check_reached(reached: Callable[[str, dict[str, int]], tuple[float, float]]) -> None:
    """Exercise 4."""
    parts = {"neurons": 12, "kv_groups": 2, "neuron": 96, "group": 1536, "fixed": 64, "rest": 16_032}
    for layers, neurons, groups in (
        ((0, 1, 2), (12, 12, 12), (2, 2, 2)),
        ((0, 2), (8, 10), (2, 2)),
        ((0, 1, 2), (6, 9, 12), (2, 1, 2)),
    ):
        plan = {"parent_layers": 3, "layers": layers, "neurons": neurons, "kv_groups": groups}
        answer = call(reached, json.dumps(plan), dict(parts))
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise Wrong("expected two fractions, (of the decoder, of the model)")
        ones = [1] * 12 * 96 + [1] * 2 * 1536 + [1] * 64  # a dense layer, parameter by parameter
        decoder = 3 * len(ones)
        gone = decoder - sum(n * 96 + g * 1536 + 64 for n, g in zip(neurons, groups, strict=True))
        of_decoder, of_model = answer
        if not math.isclose(of_decoder, gone / decoder, abs_tol=1e-9):
            if math.isclose(of_decoder, 1 - gone / decoder, abs_tol=1e-9):
                raise Wrong("this is what stays; asked is what goes")
            if len(layers) < 3:
                raise Wrong("a layer not in `layers` is gone, attention and norms too: compare with all 3 layers")
            if groups != (2, 2, 2):
                raise Wrong("a KV group went in layer 1, and its parameters with it")
            raise Wrong(f"expected {gone / decoder:.4f} of the decoder, got {of_decoder:.4f}, for the plan {plan}")
        if not math.isclose(of_model, gone / (decoder + 16_032), abs_tol=1e-9):
            if math.isclose(of_model, of_decoder) and gone:
                raise Wrong("the model is more than its decoder: add the `rest` (embeddings, last norm) to the whole")
            want = gone / (decoder + 16_032)
            raise Wrong(f"expected {want:.4f} of the model, got {of_model:.4f}, for the plan {plan}")
    accept("both fractions: the same removal is a smaller part of the model than of its decoder")


def _layer(hidden: int, head: int, queries: int, keys: int, neurons: int) -> nn.ModuleList:
    """The matrices and norms of a LLaMA decoder layer, without its wiring."""
    shapes = [(hidden, queries * head), (hidden, keys * head), (hidden, keys * head), (queries * head, hidden)]
    shapes += [(hidden, neurons), (hidden, neurons), (neurons, hidden)]
    linears = [nn.Linear(*shape, bias=False, device="meta") for shape in shapes]
    return nn.ModuleList([*linears, nn.RMSNorm(hidden, device="meta"), nn.RMSNorm(hidden, device="meta")])


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
