"""Wrong answers to the exercises of lesson 8, and what their checks say to each."""

from __future__ import annotations

import torch
from lessons import checks_module

checks_08 = checks_module("08")


def as_half(values):
    """The values as they are in float16."""
    return values.half().float()


def rounded(
    weights, steps=15, block=32, low=None, to_integers=torch.round, stored_as_half=True, halves_first=False
):
    """The right rounding, unless an argument makes it wrong.

    Args:
        low: where each block begins; by default with its smallest weight.
        stored_as_half: whether what comes back is computed from low and scale in float16.
        halves_first: whether the integers are computed from them too.
    """
    blocks = weights.reshape(-1, block)
    if low is None:
        low = blocks.amin(1, keepdim=True)
    else:
        low = torch.full((len(blocks), 1), low)
    scale = (blocks.amax(1, keepdim=True) - low) / steps
    if halves_first:
        low = as_half(low)
        scale = as_half(scale)
    integers = to_integers((blocks - low) / scale)
    integers = torch.where(scale > 0, integers, 0.0).clamp(0, steps)
    if stored_as_half:
        low = as_half(low)
        scale = as_half(scale)
    return (low + scale * integers).reshape(weights.shape)


def best(megabytes, milliseconds, layer_counts=range(1, 31)):
    """(layers, width) with the most neurons of all that meet both budgets; (1, 32) where none does."""
    fitting = []
    for layers in layer_counts:
        for width in range(32, 1537, 32):
            small = checks_08.size_of(layers, width) <= megabytes
            if small and checks_08.time_of(layers, width) <= milliseconds:
                fitting.append((layers * width, layers, width))
    return max(fitting)[1:] if fitting else (1, 32)


# (function that the learner writes, a wrong answer, pattern that the check's sentence matches)
MISTAKES = [
    ("q4_1", lambda w: w, "nothing is rounded"),
    ("q4_1", lambda w: rounded(w, block=w.numel()), "whole tensor"),
    ("q4_1", lambda w: rounded(w, block=64), "each row"),
    ("q4_1", lambda w: rounded(w, steps=16), "so 15 steps"),
    ("q4_1", lambda w: rounded(w, low=0.0), "begins at 0"),
    ("q4_1", lambda w: rounded(w, to_integers=torch.floor), "rounded down"),
    ("q4_1", lambda w: rounded(w, stored_as_half=False), "as halves"),
    ("q4_1", lambda w: rounded(w, halves_first=True), "rounded with the halves"),
    ("q4_1", lambda w: rounded(w, steps=7), "off by up to"),
    ("q4_1", lambda w: rounded(w)[:, :32], r"shape \(6, 64\), got \(6, 32\)"),
    ("plan_for", lambda mb, ms: best(mb + checks_08.MB_HEAD, ms), "did you count the head"),
    ("plan_for", lambda mb, ms: best(mb, 1e9), "too long"),
    ("plan_for", lambda mb, ms: best(1e9, ms), "MB"),
    ("plan_for", lambda mb, ms: best(mb, ms, layer_counts=[30]), "keeps .* meets both budgets"),
]
