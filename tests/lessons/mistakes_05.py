"""Wrong answers to the exercises of lesson 5, and words of the sentence that tells each."""

from __future__ import annotations

import sys

import torch

checks_05 = sys.modules["checks_05"]
solve = torch.linalg.solve


def layer():
    """In place of the real model's: the checks are what is tested here."""
    x, w = checks_05.dense_layer(12)
    return x[:10].T @ x[:10], x[10:].T @ x[10:], w, torch.arange(9)


INSTEAD = {"real_layer": layer}


def walk(layers, h, smaller, given=lambda dense, h, first: h, passed=lambda dense, small: small):
    """The right loop, unless something else is asked for."""
    made, first = [], h
    for layer in layers:
        made.append(smaller(layer, given(layer, h, first)))
        h = passed(layer, made[-1])(h)
    return made, h


def twins(loud=1.0, quiet=0.5, alike=True):
    columns = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([loud, loud, loud, quiet])
    if alike:
        columns[:, 1] = columns[:, 0]
    return columns, torch.eye(4)


def ridge(seen, held, w, kept, ridges, judge=None, drawn=1.0, best=min, even=False):
    judged = held if judge is None else judge(seen, held)

    def error(value):
        energy = seen.diagonal().mean().expand(len(kept)) if even else seen.diagonal()[kept]
        pull = torch.diag(value * energy)
        gap = w.clone()
        gap[kept] -= solve(seen[kept][:, kept] + pull, seen[kept] @ w + drawn * pull @ w[kept])
        return float((gap * (judged @ gap)).sum())

    return best(ridges, key=error)


def unpaired(ours, theirs, interval):
    (low, high), (bottom, top) = interval(ours.mean(0)), interval(theirs.mean(0))
    return "better" if high < bottom else "worse" if low > top else "cannot be told apart"


def verdict(ours, theirs, interval, flat=False, seeds=True):
    difference = ours - theirs
    low, high = interval(difference.flatten() if flat else difference.mean(0))
    agreed = len(set(difference.mean(1).sign().tolist())) == 1 or not seeds
    return "better" if high < 0 and agreed else "worse" if low > 0 and agreed else "cannot be told apart"


MISTAKES = [
    ("walk", lambda a, h, f: walk(a, h, f, passed=lambda dense, small: dense), r"tuned on the \*dense\* stream"),
    ("walk", lambda a, h, f: walk(a, h, f, given=lambda dense, h, first: dense(h)), "what goes in"),
    ("walk", lambda a, h, f: walk(a, h, f, given=lambda dense, h, first: first), "never moved on"),
    ("walk", lambda a, h, f: (walk(a, h, f)[0], h), "the stream is 21, got 0"),
    ("fools_energy", lambda: twins(quiet=0.01), "the quietest neuron has to say something"),
    ("fools_energy", lambda: twins(alike=False), "one of two that say the same"),
    ("choose_ridge", lambda *a: ridge(*a, judge=lambda seen, held: seen), "best on the text of the fit"),
    ("choose_ridge", lambda *a: ridge(*a, even=True), r"by its \*own\* C_ii"),
    ("choose_ridge", lambda seen, held, *a: ridge(held, seen, *a), "have changed places"),
    ("verdict", unpaired, "take the differences before the interval"),
    ("verdict", lambda a, b, i: verdict(b, a, i), "better and worse are exchanged"),
    ("verdict", lambda a, b, i: verdict(a, b, i, seeds=False), "one of three seeds says the opposite"),
    ("verdict", lambda a, b, i: verdict(a, b, i, flat=True), "average over the seeds first"),
]
