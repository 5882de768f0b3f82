"""Checks of what the reader writes in lesson 03: blocks are built and counted, steps taken one by one."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from course.checking import Wrong, accept, call, check_number, check_shape, checks

# d (stream), k (numbers in a head), r (query heads in a group), g (groups), n (neurons): two small blocks
BLOCKS = ((6, 2, 3, 2, 10), (8, 4, 1, 3, 7))


@checks("neurons_worth")
def check_neurons_worth(neurons_worth: Callable[[str, int, int, int, int, int], float]) -> None:
    """How many neurons weigh as much as a KV group, and as a layer."""
    for block in BLOCKS:
        neuron, group, layer = _counted(*block)
        d, k, r, g, n = block
        for unit, parameters in (("KV group", group), ("layer", layer)):
            answer = call(neurons_worth, unit, *block)
            check_number(f"how many neurons a {unit} is worth", answer)
            right = parameters / neuron
            mistakes = {
                float(parameters): "these are parameters: how many neurons have as many?",
                parameters / d: "one neuron has more than d parameters: count its part of gate, up and down",
                parameters / (2 * d): "a neuron has a part in three matrices, gate, up and down",
            }
            if unit == "KV group":
                mistakes |= {
                    2 * k * d / neuron: "this counts k and v: the query heads of the group leave with it",
                    (2 * k * d + r * k * d)
                    / neuron: "one matrix with query heads is missing: q makes them, o reads them",
                    4 * k * d / neuron: "a group has r query heads, not one: q and o lose r heads each",
                    g * group / neuron: "these are all groups of the layer: count one",
                    1 / right: "upside down: this is how many groups a neuron is worth",
                }
            else:
                mistakes |= {
                    (layer - 2 * d) / neuron: "the two norms leave with their layer: d numbers each",
                    (layer - d) / neuron: "a layer has two norms, with d numbers each",
                    float(n): "these are the neurons of the layer: its attention and its norms weigh too",
                    (n * neuron + group + 2 * d) / neuron: "the layer has g KV groups, not one",
                    group / neuron: "this is the KV group, though `unit` says layer",
                    1 / right: "upside down: this is how many layers a neuron is worth",
                }
            for mistake, sentence in mistakes.items():
                if math.isclose(answer, mistake) and not math.isclose(mistake, right):
                    raise Wrong(sentence)
            if not math.isclose(answer, right):
                names = f"d={d}, k={k}, r={r}, g={g}, n={n}"
                raise Wrong(
                    f"with {names} a {unit} is worth {right:.4g} neurons by counting, got {answer:.4g}"
                )
    accept("so many neurons have as many parameters as a KV group, or as a layer")


def _counted(d: int, k: int, r: int, g: int, n: int) -> tuple[int, int, int]:
    """Parameters of a neuron, of a KV group and of a layer: matrices are built and their parts counted."""
    gate, up, down = torch.ones(n, d), torch.ones(n, d), torch.ones(d, n)
    keys, values = torch.ones(g * k, d), torch.ones(g * k, d)
    queries, out = torch.ones(g * r * k, d), torch.ones(d, g * r * k)
    neuron = gate[0].numel() + up[0].numel() + down[:, 0].numel()
    heads = slice(0, r * k)
    group = keys[:k].numel() + values[:k].numel() + queries[heads].numel() + out[:, heads].numel()
    matrices = (gate, up, down, keys, values, queries, out, torch.ones(d), torch.ones(d))
    return neuron, group, sum(matrix.numel() for matrix in matrices)


@checks("narrow_greedily")
def check_narrow_greedily(narrow_greedily: Callable[[Tensor, int], Tensor]) -> None:
    """The steps of each layer, always where the cost rises least."""
    generator = torch.Generator().manual_seed(0)
    for layers, longest, steps in ((3, 4, 5), (4, 5, 12), (2, 3, 6)):
        rises = torch.rand(layers, longest, generator=generator, dtype=torch.float64).sort(1).values
        rises[1] *= 0.05  # layer 1 costs so little that its steps run out
        cost = torch.cat([torch.zeros(layers, 1, dtype=torch.float64), rises.cumsum(1)], 1)
        cost = cost + torch.arange(layers, dtype=torch.float64)[:, None] * 0.2  # what counts are rises
        try:
            answer = call(narrow_greedily, cost.clone(), steps)
        except Wrong as error:
            if "IndexError" in str(error):
                raise Wrong(
                    "a layer that has taken all its steps is asked for one more: leave it out"
                ) from error
            raise
        answer = torch.tensor(answer) if isinstance(answer, list) else answer
        check_shape("the steps of the layers", answer, (layers,))
        taken = [int(count) for count in answer]
        if max(taken) > longest:
            raise Wrong(f"a layer has {longest} steps in `cost`, got {max(taken)}: it cannot lose more")
        if sum(taken) != steps:
            raise Wrong(f"expected {steps} steps in all, got {sum(taken)}")
        right = _taken(rises, steps)
        if taken == right:
            continue
        sums = cost[:, 1:]
        mistakes = {
            "this takes the layer with the least cost: compare how much it *rises* with one more step": sums,
            "this looks at the step that a layer took last: compare the one that it would take next": (
                torch.cat([torch.zeros_like(rises[:, :1]), rises[:, :-1]], 1)
            ),
            "each layer is judged by its first step: its rise changes with every step that it takes": (
                rises[:, :1].expand_as(rises)
            ),
            "this takes the steps that rise most": -rises,
        }
        for sentence, price in mistakes.items():
            if taken == _taken(price, steps):
                raise Wrong(sentence)
        total = sum(float(cost[layer, count] - cost[layer, 0]) for layer, count in enumerate(taken))
        least_cost = sum(float(cost[layer, count] - cost[layer, 0]) for layer, count in enumerate(right))
        raise Wrong(f"your steps {taken} add {total:.3g} of cost, the steps {right} add {least_cost:.3g}")
    accept("no other steps of the same number cost less")


def _taken(price: Tensor, steps: int) -> list[int]:
    """Steps of each layer: `price` (L, S) is that of its next step; each step takes the cheapest."""
    taken = [0] * len(price)
    for _ in range(steps):
        following = {
            layer: float(price[layer, count]) for layer, count in enumerate(taken) if count < price.shape[1]
        }
        taken[min(following, key=following.__getitem__)] += 1
    return taken
