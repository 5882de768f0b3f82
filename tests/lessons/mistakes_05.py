"""Wrong answers to the exercises of lesson 5, and words of the sentence that tells each."""

from __future__ import annotations

import torch


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


def unpaired(ours, theirs, interval):
    (low, high), (bottom, top) = interval(ours.mean(0)), interval(theirs.mean(0))
    return "better" if high < bottom else "worse" if low > top else "no difference found"


def verdict(ours, theirs, interval, flat=False, seeds=True):
    difference = ours - theirs
    low, high = interval(difference.flatten() if flat else difference.mean(0))
    agreed = len(set(difference.mean(1).sign().tolist())) == 1 or not seeds
    return "better" if high < 0 and agreed else "worse" if low > 0 and agreed else "no difference found"


MISTAKES = [
    ("walk", lambda a, h, f: walk(a, h, f, passed=lambda dense, small: dense), r"tuned on the \*dense\* stream"),
    ("walk", lambda a, h, f: walk(a, h, f, given=lambda dense, h, first: dense(h)), "what goes in"),
    ("walk", lambda a, h, f: walk(a, h, f, given=lambda dense, h, first: first), "never moved on"),
    ("walk", lambda a, h, f: (walk(a, h, f)[0], h), "the stream is 21, got 0"),
    ("fools_energy", lambda: twins(quiet=0.01), "the quietest neuron has to say something"),
    ("fools_energy", lambda: twins(alike=False), "one of two that say the same"),
    ("cut", lambda g, u, k, v: (g[:, k], u[:, k], v.T), r"a neuron is a \*row\* of `gate`"),
    ("cut", lambda g, u, k, v: (g[k], u, v.T), "`up` still has all 8 neurons"),
    ("cut", lambda g, u, k, v: (g[k], u[k], v), "turn V round"),
    ("cut", lambda g, u, k, v: (g[k], u[k].flip(0), v.T), "gives something else"),
    ("verdict", unpaired, "take the differences before the interval"),
    ("verdict", lambda a, b, i: verdict(b, a, i), "better and worse are exchanged"),
    ("verdict", lambda a, b, i: verdict(a, b, i, seeds=False), "one of three seeds says the opposite"),
    ("verdict", lambda a, b, i: verdict(a, b, i, flat=True), "average over the seeds first"),
]
