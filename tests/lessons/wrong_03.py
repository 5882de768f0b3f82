"""Wrong answers to what lesson 03 asks the reader to write, and what the check says to each."""

from __future__ import annotations

WRONG = {
    "neurons_worth": {
        "these are parameters": """\
def neurons_worth(unit, d, k, r, g, n):
    group = 2 * k * d + 2 * r * k * d
    return group if unit == "KV group" else n * 3 * d + g * group + 2 * d
""",
        "this counts k and v": """\
def neurons_worth(unit, d, k, r, g, n):
    group = 2 * k * d
    return (group if unit == "KV group" else n * 3 * d + g * group + 2 * d) / (3 * d)
""",
        "q makes them, o reads them": """\
def neurons_worth(unit, d, k, r, g, n):
    group = 2 * k * d + r * k * d
    return (group if unit == "KV group" else n * 3 * d + g * group + 2 * d) / (3 * d)
""",
        "not one: q and o lose r heads each": """\
def neurons_worth(unit, d, k, r, g, n):
    group = 4 * k * d
    return (group if unit == "KV group" else n * 3 * d + g * group + 2 * d) / (3 * d)
""",
        "the two norms leave with their layer": """\
def neurons_worth(unit, d, k, r, g, n):
    group = 2 * k * d + 2 * r * k * d
    return (group if unit == "KV group" else n * 3 * d + g * group) / (3 * d)
""",
        "the layer has g KV groups": """\
def neurons_worth(unit, d, k, r, g, n):
    group = 2 * k * d + 2 * r * k * d
    return (group if unit == "KV group" else n * 3 * d + group + 2 * d) / (3 * d)
""",
        "a neuron has a part in three matrices": """\
def neurons_worth(unit, d, k, r, g, n):
    group = 2 * k * d + 2 * r * k * d
    return (group if unit == "KV group" else n * 3 * d + g * group + 2 * d) / (2 * d)
""",
        "by counting, got": """\
def neurons_worth(unit, d, k, r, g, n):
    group = 2 * k * d + 2 * r * k * d
    return (group if unit == "KV group" else n * 3 * d + g * group + 2 * d) // (3 * d) + 0.5
""",
    },
    "narrow_greedily": {
        "this takes the layer with the least cost": """\
def narrow_greedily(cost, steps):
    taken = [0] * len(cost)
    for _ in range(steps):
        after = [row[t + 1] if t + 1 < len(row) else torch.inf for row, t in zip(cost, taken)]
        taken[int(torch.tensor(after).argmin())] += 1
    return torch.tensor(taken)
""",
        "this looks at the step that a layer took last": """\
def narrow_greedily(cost, steps):
    taken = [0] * len(cost)
    for _ in range(steps):
        last = [row[t] - row[max(t - 1, 0)] for row, t in zip(cost, taken)]
        last = [rise if t + 1 < cost.shape[1] else torch.inf for rise, t in zip(last, taken)]
        taken[int(torch.tensor(last).argmin())] += 1
    return torch.tensor(taken)
""",
        "each layer is judged by its first step": """\
def narrow_greedily(cost, steps):
    taken = [0] * len(cost)
    for _ in range(steps):
        first = [row[1] - row[0] if t + 1 < len(row) else torch.inf for row, t in zip(cost, taken)]
        taken[int(torch.tensor(first).argmin())] += 1
    return torch.tensor(taken)
""",
        "it cannot lose more": """\
def narrow_greedily(cost, steps):
    taken = torch.zeros(len(cost), dtype=torch.long)
    taken[(cost[:, 1] - cost[:, 0]).argmin()] = steps
    return taken
""",
        "steps in all, got": """\
def narrow_greedily(cost, steps):
    return torch.full((len(cost),), 2)
""",
        "a layer that has taken all its steps": """\
def narrow_greedily(cost, steps):
    taken = [0] * len(cost)
    for _ in range(steps):
        rise = [row[t + 1] - row[t] for row, t in zip(cost, taken)]
        taken[int(torch.tensor(rise).argmin())] += 1
    return torch.tensor(taken)
""",
    },
}
