"""Wrong answers to the exercises of lesson 8, and words of the sentence that tells each."""

from __future__ import annotations

import sys

import torch
from lessons import LESSONS

CHECKS = LESSONS["08"].checks
checks = sys.modules["checks_08"]


def rounded(weights, steps=15, block=32, low=None, how=torch.round, half=True, guard=True, early=False):
    blocks = weights.reshape(-1, block)
    low = blocks.amin(1, keepdim=True) if low is None else torch.full((len(blocks), 1), low)
    scale = (blocks.amax(1, keepdim=True) - low) / steps
    if early:
        low, scale = low.half().float(), scale.half().float()
    whole = how((blocks - low) / scale)
    whole = (torch.where(scale > 0, whole, 0.0) if guard else whole).clamp(0, steps)
    if half:
        low, scale = low.half().float(), scale.half().float()
    return (low + scale * whole).reshape(weights.shape)


def best(megabytes, milliseconds, size=checks.size_of, time=checks.time_of, layers=range(1, 31), step=32):
    plans = [(n, w) for n in layers for w in range(32, 1537, step)]
    fit = [(n * w, n, w) for n, w in plans if size(n, w) <= megabytes and time(n, w) <= milliseconds]
    return max(fit)[1:] if fit else (1, 32)


MISTAKES = [
    ("q4_1", lambda w: w, "nothing is rounded"),
    ("q4_1", lambda w: rounded(w, block=w.numel()), "whole tensor"),
    ("q4_1", lambda w: rounded(w, block=64), "each row"),
    ("q4_1", lambda w: rounded(w, steps=16), "so 15 steps"),
    ("q4_1", lambda w: rounded(w, low=0.0), "begins at 0"),
    ("q4_1", lambda w: rounded(w, how=torch.floor), "rounded down"),
    ("q4_1", lambda w: rounded(w, half=False), "as halves"),
    ("q4_1", lambda w: rounded(w, early=True), "rounded with the halves"),
    ("q4_1", lambda w: rounded(w, steps=7), "off by up to"),
    ("q4_1", lambda w: rounded(w)[:, :32], r"shape \(6, 64\), got \(6, 32\)"),
    ("plan_for", lambda mb, ms: best(mb + checks.MB_HEAD, ms), "did you count the head"),
    ("plan_for", lambda mb, ms: best(mb, 1e9), "too long"),
    ("plan_for", lambda mb, ms: best(1e9, ms), "MB"),
    ("plan_for", lambda mb, ms: best(mb, ms, layers=[30]), "keeps .* meets both budgets"),
]
