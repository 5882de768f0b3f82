"""What a check-up advises, and what in it to distrust, in sentences made from its numbers."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..plots.checkup import whole_text
from ..settings import SEQUENCES, Settings
from ..shape import span
from .checkup import TEXT, Checkup
from .cost_frame import told_for

PRESET = {"uniform": "--preset stock", "measured": "--preset best"}  # of `comp-lib prune`
TOKENS = {"uniform": TEXT[0] * TEXT[1], "measured": SEQUENCES["best"] * TEXT[1]}  # that these presets calibrate on
PASSES = 3  # over these tokens that pruning takes, about
FEW_WINDOWS = 10  # below so many an interval is too narrow
PER_NEURON = 3  # tokens for each neuron of a layer that a fit should have


@dataclass(frozen=True)
class Advice:
    """What to do, and why."""

    row: dict[str, Any] | None  # of the frame `costs`, for all kinds; None: no plan can be advised
    command: str
    reasons: tuple[str, ...]


def advise(checkup: Checkup) -> Advice:
    """The plan that removes most and surely costs no more than allowed, by the measured costs.

    Of ways that cannot be told apart, the first of `cost_frame.WAYS`: one width for all layers loads everywhere.
    """
    allowed, costs = checkup.parameters.allowed, whole_text(checkup.costs)
    if not len(costs):
        return Advice(None, "", ("No plan was measured, so none is advised: see what was left out.",))
    possible = costs[[_can_be_saved(way, checkup) for way in costs.way]]
    if not len(possible):
        kind = checkup.model.config.model_type
        words = f"No plan that was measured can be saved, since no folder holds layers of different widths for {kind}."
        return Advice(None, "", (words,))
    safe = possible[possible.high <= allowed]
    if not len(safe):
        [row] = possible.iloc[[possible.increase.argmin()]].to_dict("records")
        reasons = (
            f"Do not prune it this way: {_none_of(len(possible))} the increase of the loss surely below the "
            f"{allowed:g} nats per token that are allowed.",
            f"The mildest, {_named(row)}, costs {_interval(row)}.",
            "More calibration text makes the refit better: `comp-lib prune` takes "
            f"{TOKENS['uniform']:,} tokens where this check-up had {checkup.sample.tokens:,}.",
        )
        return Advice(None, "", reasons)
    most = safe[safe.ratio == safe.ratio.max()]
    best = most.sort_values("increase").to_dict("records")[0]
    row = most[most.low <= best["high"]].to_dict("records")[0]  # of equals the first way, which is the simplest
    return Advice(row, command(checkup, row), tuple(_reasons(checkup, costs, row)))


def _reasons(checkup: Checkup, costs: pd.DataFrame, row: dict[str, Any]) -> Iterator[str]:
    allowed = checkup.parameters.allowed
    yield (
        f"{_named(row)} costs {_interval(row)}: even the upper end is within the {allowed:g} that are allowed, "
        "and of the larger ratios that were tried, and can be saved, none is surely within it."
    )
    if not _own_widths(checkup):
        kind = checkup.model.config.model_type
        yield f"No folder can hold layers of different widths for {kind}: they are not advised."
    beyond = costs[(costs.ratio > row["ratio"])].sort_values("increase").to_dict("records")
    if beyond:
        yield f"The next step, {_named(beyond[0])}, would cost {_interval(beyond[0])}."
    others = costs[(costs.ratio == row["ratio"]) & (costs.way != row["way"])].sort_values("increase")
    for other in others.to_dict("records"):
        if other["low"] <= row["high"] and row["low"] <= other["high"]:
            apart = "the intervals overlap, so neither is called better"
            yield f"{_named(other)} costs {_interval(other)}: {apart}."
        else:
            more = "more" if other["increase"] > row["increase"] else "less"
            yield f"{_named(other)} costs {_interval(other)}, which is {more}."
    yield (
        f"The result has {row['parameters']:,} parameters in {row['layers_left']} layers of "
        f"{span((row['least_width'], row['most_width']))} neurons, and wrote {row['faster']:.2f} times as fast here "
        f"({row['faster_low']:.2f} to {row['faster_high']:.2f} over the rounds)."
    )


def _none_of(plans: int) -> str:
    several = f"of {plans} plans that were measured and can be saved none keeps"
    return several if plans > 1 else "the one plan that was measured and can be saved does not keep"


def _can_be_saved(way: str, checkup: Checkup) -> bool:
    return _own_widths(checkup) or not Settings(**told_for(way, checkup.family)).uneven


def _own_widths(checkup: Checkup) -> bool:
    return checkup.model.config.model_type in ("llama", "comp_llama")


def command(checkup: Checkup, row: dict[str, Any]) -> str:
    """What carries out the plan of a row of `costs`, in a shell."""
    way = row["way"]
    told = told_for(way, checkup.family)
    how = PRESET.get(way) or f"--method {told['method']} --recovery {told['recovery']}"
    words = ["comp-lib prune", shlex.quote(checkup.parameters.model), "--out", shlex.quote(f"{checkup.name}-pruned")]
    words += [f"--ratio {row['ratio']:g}", how, f"--multiple {checkup.multiple}"]
    dtype = checkup.parameters.dtype
    return " ".join([*words, f"--dtype {dtype}"] if dtype != "float32" else words)


def minutes_of(checkup: Checkup, row: dict[str, Any], token_seconds: float) -> float:
    """What that command will take, about: the algebra that was measured, and passes over more text."""
    more = max(0, TOKENS.get(row["way"], TOKENS["uniform"]) - checkup.sample.tokens)
    minutes: float = (row["seconds"] + PASSES * more * token_seconds) / 60
    return minutes


def distrust(checkup: Checkup) -> list[str]:
    """What the numbers of this check-up cannot say."""
    found = list(_of_text(checkup)) + list(_of_costs(checkup)) + list(_of_family(checkup))
    return found + [f"Left out: {part.part} ({part.why})." for part in checkup.left_out]


def _of_text(checkup: Checkup) -> Iterator[str]:
    tokens, widest = checkup.sample.tokens, max(checkup.shape.neurons)
    if tokens < PER_NEURON * widest:
        yield (
            f"{tokens:,} tokens of calibration text for {widest:,} neurons a layer: below {PER_NEURON} tokens a neuron "
            "the costs of neurons and the curves are too low, since a fit with few tokens flatters itself."
        )
    judged = min(checkup.effort.judged, len(checkup.sample.ids))
    if 0 < judged < FEW_WINDOWS:
        yield f"Harm of layers was measured on {judged} windows: below {FEW_WINDOWS} an interval is too narrow."
    frame = checkup.layers
    harm = whole_text(frame[(frame.measure == "harm") & (frame.part == "layer")]) if judged else frame[:0]
    if len(harm) > 1 and harm.low.notna().all():
        order = harm.sort_values("value")
        tied = int((order.low.iloc[1:].to_numpy() <= order.high.iloc[:-1].to_numpy()).sum())
        yield (
            f"Of {len(order) - 1} neighbours in the order of the layers by harm, {tied} have intervals that overlap: "
            "of these the order may be luck."
        )
    yield "The texts are English, in eight kinds that ship; a model for something else should be judged on that."


def _of_costs(checkup: Checkup) -> Iterator[str]:
    effort = checkup.effort
    if effort.ratios and effort.kind_windows < FEW_WINDOWS:
        yield (
            f"Each kind was judged on {effort.kind_windows} windows of {effort.kind_length} tokens: the interval of "
            "a single kind is too narrow; that of their mean is better founded."
        )
    costs = whole_text(checkup.costs)
    if len(costs) and not math.isfinite(float(costs.high.max())):
        yield "Some intervals cannot be given: there was one window only."


def _of_family(checkup: Checkup) -> Iterator[str]:
    family, name = checkup.family, checkup.model.config.model_type
    if family.whole_attention:
        yield f"KV groups of {name} can only stay or go together, since a norm spans all heads."
    if not checkup.streamed and family.gain(family.layers(checkup.model)[0], "mlp") is not None:
        yield f"Behind the dense layers of {name} stands a norm, which the reading of single neurons leaves out."
    if (window := family.window(checkup.model.config)) is not None:
        yield f"Some layers of {name} see {window} tokens back only; the windows here have {checkup.length}."


def _named(row: dict[str, Any]) -> str:
    return f"{row['way']} at {row['ratio']:.0%} ({row['removed']:.1%} of the decoder)"


def _interval(row: dict[str, Any]) -> str:
    return f"{row['increase']:+.3f} nats per token (95%: {row['low']:+.3f} to {row['high']:+.3f})"
