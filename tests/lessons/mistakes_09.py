"""Wrong answers to the exercises of lesson 9, and words of the sentence that tells each."""

from __future__ import annotations

import torch
from lessons import LESSONS

CHECKS = LESSONS["09"].checks
solve = torch.linalg.solve


def finish(first=("layer", "hidden", "note"), resume=True, states="hidden-{}", begin=None):
    """The right answer, but for what is asked otherwise."""

    def finish(layers, start, prune_layer, disk):
        done = disk.done() if resume else 0
        hidden = disk.read(states.format(done)) if done and begin is None else start
        for index in range(done, layers):
            layer, hidden = prune_layer(index, hidden)
            steps = {
                "layer": lambda layer=layer, index=index: disk.write(f"layer-{index}", layer),
                "hidden": lambda hidden=hidden, index=index: disk.write(states.format(index + 1), hidden),
                "note": disk.note,
            }
            for name in first:
                steps[name]()

    return finish


def refit(x, w, kept, ridge, held=None, target=None, start=1.0):
    xk = x[:, kept]
    energy = xk.square().sum(0)
    held = ridge * energy if held is None else held(energy)
    target = x @ w - xk @ w[kept] if target is None else target
    scaled = xk / held
    return start * w[kept] + scaled.T @ solve(torch.eye(len(x)).to(x) + scaled @ xk.T, target)


def large(x, w, kept, ridge):
    xk = x[:, kept]
    pull = torch.diag(ridge * xk.square().sum(0))
    return solve(xk.T @ xk + pull, xk.T @ (x @ w) + pull @ w[kept])


def tokens(budget, layer, hidden, neurons, form=min, bytes_each=4, off=0):
    held = lambda t: (  # noqa: E731
        bytes_each * layer + 4 * t * hidden + form((8 * neurons**2, 8 * t**2 + 4 * t * neurons))
    )
    low, high = 0, budget // (4 * hidden)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if held(middle) <= budget else (low, middle - 1)
    return low + off


MISTAKES = [
    ("finish", finish(("note", "layer", "hidden")), "note a layer last"),
    ("finish", finish(("layer", "note", "hidden")), "note a layer last"),
    ("finish", finish(("hidden", "note", "layer")), "half a layer was left behind"),
    ("finish", finish(states="hidden"), "a name of their own"),
    ("finish", finish(resume=False), "began with layer 0"),
    ("finish", finish(("layer", "note")), "no file 'hidden-1'"),
    ("finish", finish(("layer", "hidden")), "note each layer once"),
    ("dual_refit", lambda x, w, k, lam: refit(x, w, k, lam, held=lambda e: e), "lambda does nothing"),
    ("dual_refit", lambda x, w, k, lam: refit(x, w, k, lam, held=lambda e: lam * e.mean()), r"own\* energy"),
    ("dual_refit", lambda x, w, k, lam: refit(x, w, k, lam, target=x @ w), "not all of X W"),
    (
        "dual_refit",
        lambda x, w, k, lam: refit(x, w, k, lam, target=x @ w, start=0.0),
        "draws the weights to 0",
    ),
    ("dual_refit", lambda x, w, k, lam: refit(x, w, k, lam, start=0.0), "W_K is missing"),
    ("dual_refit", large, "nothing n x n"),
    ("most_tokens", lambda *case: tokens(*case, form=lambda forms: forms[0]), "holds C whatever"),
    ("most_tokens", lambda *case: tokens(*case, form=lambda forms: forms[1]), "holds the tokens whatever"),
    ("most_tokens", lambda *case: tokens(*case, bytes_each=1), "a parameter is not a byte"),
    ("most_tokens", lambda *case: tokens(*case, off=1), "still fits"),
]
