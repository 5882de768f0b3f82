"""Checks of what the reader writes in lesson 07, on losses with a known difference."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import torch
from scipy import stats

from course.checking import Wrong, accept, call, check_number, checks


@checks("paired")
def check_paired(paired: Callable) -> None:
    for windows, seed in ((9, 0), (16, 1)):
        draw = torch.randn(3, windows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        hard, ours, theirs = 3 * draw[0], 0.1 * draw[1], 0.1 * draw[2] + 0.3
        ours, theirs = 5 + hard + ours, 5 + hard + theirs
        answer = call(paired, ours.clone(), theirs.clone())
        if not isinstance(answer, tuple | list) or len(answer) != 3:
            raise Wrong(f"expected three numbers, the mean and two ends, got {type(answer).__name__}")
        for name, number in zip(("the mean", "the low end", "the high end"), answer, strict=True):
            check_number(name, number)
        _check_mean(answer[0], ours, theirs)
        _check_ends(answer, ours, theirs)
    accept("the interval is that of the differences, by Student's t")


def _check_mean(mean: float, ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Raises Wrong unless the mean is that of ours minus theirs."""
    right = float((ours - theirs).mean())
    if abs(mean + right) < 1e-6:
        raise Wrong(
            "the sign is the other one: the difference is ours minus theirs, below 0 if ours loses less"
        )
    if abs(mean - right) > 1e-6:
        raise Wrong(f"the mean of ours minus theirs is {right:.4f}, got {mean:.4f}")


def _check_ends(answer: tuple[float, float, float], ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Raises Wrong unless the ends are those of Student's interval of the differences of ours and theirs."""
    mean, low, high = answer
    gap = ours - theirs
    count = len(gap)
    t = float(stats.t.ppf(0.975, count - 1))
    error = float(gap.std()) / count**0.5  # of the mean
    if low > high:
        raise Wrong("the low end lies above the high one")
    mistakes = {
        t
        * float(
            gap.std()
        ): "this is how far single windows vary: divide by the root of their number for the mean",
        t * float((ours.var() + theirs.var()).sqrt()) / count**0.5: "this adds the spreads of both models: "
        "subtract first, window by window",
        t * float(gap.std()) / count: "divide by the root of S for the mean, not by S",
        t * float(gap.std(correction=0)) / count**0.5: "divide by S - 1 in the standard deviation, not by S",
        float(stats.t.ppf(0.95, count - 1))
        * error: "this is a 90% interval: each side leaves out 2.5%, not 5%",
        NormalDist().inv_cdf(0.975)
        * error: "this is the quantile of the normal distribution: take Student's t",
        float(stats.t.ppf(0.975, count)) * error: "Student's t has S - 1 degrees of freedom here, not S",
    }
    half = (high - low) / 2
    for mistake, sentence in mistakes.items():
        if abs(half - mistake) < 1e-7:
            raise Wrong(sentence)
    if abs(half - t * error) > 1e-6:
        raise Wrong(
            f"half of the interval is {t * error:.4f} long, got {half:.4f}: is it that of the differences, "
            "window by window?"
        )
    if abs((low + high) / 2 - mean) > 1e-6:
        raise Wrong("the mean lies in the middle of the interval")


@checks("verdict")
def check_verdict(verdict: Callable) -> None:
    nothing, ours, theirs = "no difference found", "ours loses less", "theirs loses less"
    cases = {
        (-0.3, -0.1): ours,
        (0.1, 0.3): theirs,
        (-0.1, 0.3): nothing,
        (-0.3, 0.1): nothing,
        (0.0, 0.2): nothing,
    }
    for (low, high), right in cases.items():
        answer = call(verdict, low, high)
        if answer not in (nothing, ours, theirs):
            raise Wrong(f"expected one of the three texts, got {answer!r}")
        if answer == right:
            continue
        if right == nothing:
            raise Wrong(f"the interval from {low} to {high} holds 0, so nothing is found, got {answer!r}")
        if answer == nothing:
            raise Wrong(f"the interval from {low} to {high} lies on one side of 0: one of the two loses less")
        raise Wrong("the other way round: below 0 the difference says that ours loses less")
    accept("only an interval on one side of 0 names a winner")
