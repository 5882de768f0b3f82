"""Checks for the exercises of lesson 3: a prediction that is fooled, and two tasks on the real model.

The real model is loaded when it is first needed; `Trial` and `blocks` can be given, as the tests do with small ones.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from checking import Wrong, accept, call
from torch import nn

from comp_lib.calibration.text import KINDS
from comp_lib.calibration.tokens import calibration_tokens
from comp_lib.evaluation.by_kind import kind_windows
from comp_lib.evaluation.confidence import confidence_interval
from comp_lib.evaluation.loss import perplexity
from comp_lib.plan import PlanRequest
from comp_lib.prune import prune
from comp_lib.settings import Settings
from comp_lib.shape import Shape
from course.hybrid_granularity import named_plan
from course.start import start

STORED = Path(__file__).resolve().parents[2] / "benchmarks" / "hybrids.json"
NARROWEST = 160  # neurons of a layer, as far as its curve goes


def check_fool(fool: Callable[[list[list[float]], list[float], int], Sequence[int]]) -> None:
    """Exercise 1."""
    rates = [0.02, 0.2, 0.4, 0.5, 0.3, 0.01]
    harm, at = [0.08, 0.03, 0.004, 0.002, 0.01, 0.05], 4  # flat curves belong to layers that hurt the model
    curves = [[rate * (s / 10) ** 2 for s in range(9)] for rate in rates]
    got = call(fool, [list(curve) for curve in curves], list(harm), at)
    if not isinstance(got, list | tuple) or len(got) != len(curves):
        raise Wrong(f"expected the steps of each of {len(curves)} layers, got {got!r}")
    if any(isinstance(s, bool) or not isinstance(s, int) or not 0 <= s < len(curves[0]) for s in got):
        raise Wrong(f"expected whole steps from 0 to {len(curves[0]) - 1}, the end of the curves, got {list(got)}")
    if sum(got) != at * len(curves):
        raise Wrong(f"expected {at * len(curves)} steps in all, as uniform widths take, got {sum(got)}")

    def mean_error(steps: Sequence[int]) -> float:
        return float(np.mean([curve[s] for curve, s in zip(curves, steps, strict=True)]))

    def harmed(steps: Sequence[int]) -> float:
        return sum(h * curve[s] / curve[at] for h, curve, s in zip(harm, curves, steps, strict=True))

    uniform = [at] * len(curves)
    if mean_error(got) >= mean_error(uniform) - 1e-12:
        if harmed(got) < harmed(uniform):
            raise Wrong(
                "the model likes your widths better, the curves worse: you beat the model's reading, not the curves'"
            )
        raise Wrong(f"the curves see {mean_error(got):.3%} for these and {mean_error(uniform):.3%} for uniform widths")
    if harmed(got) <= harmed(uniform):
        raise Wrong(
            "better by the curves, and by the measured harm as well: nobody is fooled yet. Take more from the layers "
            "with the flattest curves"
        )
    accept(
        f"the error falls from {mean_error(uniform):.2%} to {mean_error(got):.2%}, and the harm grows "
        f"{harmed(got) / harmed(uniform):.1f} times"
    )


class Blocks(NamedTuple):
    """A model's blocks, and its loss on a little text."""

    blocks: list[nn.Module]
    loss: Callable[[], float]


def check_missed_least(missed_least: Callable[..., tuple[int, str]], given: Blocks | None = None) -> None:
    """Exercise 2."""
    blocks, loss = given or _real_blocks()
    _clear(blocks)  # of an answer that was cut off by an error of its own
    before = loss()
    counted = [0]

    def counting() -> float:
        counted[0] += 1
        return loss()

    try:
        got = call(missed_least, list(blocks), counting)
    finally:
        left = _clear(blocks)
    if left:
        raise Wrong(
            "some hooks are still there, so the later losses were of a model with several parts missing: remove"
        )
    if abs(loss() - before) > 1e-6:
        raise Wrong("the model is not what it was: silence the outputs by hooks, and change no weights")
    got = tuple(got) if isinstance(got, list) else got
    if not isinstance(got, tuple) or len(got) != 2 or got[0] not in range(len(blocks)):
        raise Wrong(f"expected (number of the block, 'attention' or 'mlp'), got {got!r}")
    if got[1] not in ("attention", "mlp"):
        raise Wrong(f"expected 'attention' or 'mlp', got {got[1]!r}")
    if counted[0] < 2 * len(blocks):
        raise Wrong(f"{counted[0]} losses for {2 * len(blocks)} parts: each has to be left out once")
    losses = _without_each(blocks, loss)
    if losses[got] > min(losses.values()) + 1e-4:
        best = min(losses, key=losses.__getitem__)
        if losses[got] >= max(losses.values()) - 1e-6:
            raise Wrong(f"without {got} the loss rises most: take the least")
        if best[1] != got[1]:
            raise Wrong(f"{got} costs {losses[got] - before:.3f} nats, but some {best[1]} costs less: try both kinds")
        raise Wrong(
            f"{got} costs {losses[got] - before:.3f} nats, another part less: did each hook go before the next?"
        )
    accept(f"the {got[1]} of blocks[{got[0]}] is missed least")


def _clear(blocks: list[nn.Module]) -> int:
    """Take all hooks away; how many there were."""
    modules = [module for block in blocks for module in block.modules()]
    count = sum(len(module._forward_hooks) for module in modules)
    for module in modules:
        module._forward_hooks.clear()
    return count


def _without_each(blocks: list[nn.Module], loss: Callable[[], float]) -> dict[tuple[int, str], float]:
    """Losses without each part, its dense layer taken as zero: no hook."""
    found = {}
    for number, block in enumerate(blocks):
        for name, linear in (("attention", block.self_attn.o_proj), ("mlp", block.mlp.down_proj)):
            weight = linear.weight.data
            linear.weight.data = torch.zeros_like(weight)
            found[number, name] = loss()
            linear.weight.data = weight
    return found


class Trial(NamedTuple):
    """A plan to beat, and how others are measured: widths -> loss of each window."""

    evidence: dict[str, Any]
    total: int
    theirs: Sequence[float]
    losses: Callable[[Sequence[int]], Sequence[float]]


def check_better_widths(better_widths: Callable[[dict[str, Any], int], list[int]], given: Trial | None = None) -> None:
    """Exercise 3."""
    trial = given or _real_trial()
    evidence = trial.evidence
    got = call(better_widths, json.loads(json.dumps(evidence)), trial.total)
    layers, full, multiple = len(evidence["kl"]), evidence["neurons"], evidence["multiple"]
    if not isinstance(got, list | tuple) or len(got) != layers:
        raise Wrong(f"expected a width for each of {layers} layers, got {got!r}")
    got = [int(width) for width in got]
    if sum(got) > trial.total:
        raise Wrong(f"{sum(got):,} neurons stay, at most {trial.total:,} may: that is another budget")
    if any(width % multiple for width in got):
        raise Wrong(f"expected multiples of {multiple}, got {next(w for w in got if w % multiple)}: round down")
    if min(got) < min(NARROWEST, full) or max(got) > full:
        raise Wrong(f"expected widths from {min(NARROWEST, full)} to {full}, got {min(got)} to {max(got)}")
    if len(set(got)) == 1:
        raise Wrong("this is one width for all again: which layers can spare more than others?")
    gain = np.array(trial.losses(got)) - np.array(trial.theirs)
    low, high = confidence_interval(gain)
    told = f"{gain.mean():+.3f} nats per token ({low:+.3f} to {high:+.3f})"
    if low > 0:
        raise Wrong(f"the model loses more than with one width for all: {told}. Do wide layers have the larger `kl`?")
    if high >= 0:
        raise Wrong(f"no difference found against one width for all: {told}. Let the widths differ more, or otherwise")
    accept(f"better than one width for all, by {told}")


@functools.cache
def _real() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """The model, and the text of the lesson: what calibrates (16, 128) and what judges (16, 128)."""
    model, tokenizer = start()
    every = "+".join(f"calibration:{kind}" for kind in KINDS)
    ids = calibration_tokens(every, tokenizer, sequences=16, length=128)
    return model, ids, torch.cat(list(kind_windows(tokenizer, length=128, sequences=2).values()))


def _real_blocks() -> Blocks:
    model, ids, _ = _real()
    return Blocks(list(model.model.layers)[12:18], lambda: perplexity(model, ids[:1, :48]).loss)


def _real_trial() -> Trial:
    """One width for all at 20%: its row is stored, so that only the other plan is carried out."""
    found = json.loads(STORED.read_text("utf-8"))
    asked = ("neurons, uniform", "parameters", 0.2)
    theirs = next(row for row in found["rows"] if (row["name"], row["budget"], row["ratio"]) == asked)
    model, ids, windows = _real()
    shape = Shape.of(model)

    def losses(widths: Sequence[int]) -> Sequence[float]:
        plan = PlanRequest(shape, 0.2, multiple=found["multiple"]).plan(tuple(widths))
        named = named_plan(plan, found["order"], shape)
        pruned = prune(model, ids[:8], Settings(aim="dense", ridge=found["ridge"]), plan=named)
        return perplexity(pruned.model, windows).losses

    evidence = {name: found[name] for name in ("harm", "kl", "curves", "multiple")}
    return Trial(evidence | {"neurons": shape.neurons[0]}, sum(theirs["neurons"]), theirs["losses"], losses)
