"""Rows of the tables of a check-up: numbers as people read them, each beside its interval or its tokens."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence

import pandas as pd

from ..plots.checkup import whole_text
from ..shape import span
from .advice import Advice, minutes_of
from .budget import measure_machine
from .checkup import Checkup

Cells = tuple[object, ...]
MARKUP = re.compile(r"([\\`*_{}\[\]()#!|~$])")
LEAST, LEAST_STEPS = 4, 2  # layers in the table of each measure, and of their attention or MLP


def plain(text: str) -> str:
    """Words of a model or of a user as Markdown that shows just them, on one line: no markup, no picture, no link.

    >>> plain("<b>*x*</b>")
    '&lt;b&gt;\\\\*x\\\\*&lt;/b&gt;'
    """
    words = html.escape(" ".join(text.split()), quote=False)
    return MARKUP.sub(r"\\\1", words).replace("://", "&#58;//")  # no address becomes a link by itself


def facts(checkup: Checkup) -> list[Cells]:
    """What the model is: (what, value, remark)."""
    shape, sample = checkup.shape, checkup.sample
    windows = f"{len(sample.ids)} windows of {len(set(sample.kinds))} kinds, seed {sample.seed}"
    return [
        ("family", checkup.model.config.model_type, "read layer by layer" if checkup.streamed else "in memory"),
        ("parameters", shape.total, f"{shape.decoder / shape.total:.0%} of them in the decoder"),
        ("decoder layers", shape.layers, f"on a stream {shape.hidden:,} numbers wide"),
        ("MLP neurons a layer", span(shape.neurons), f"one costs {shape.neuron_parameters:,} parameters"),
        ("KV groups a layer", span(shape.kv_groups), f"one costs {shape.group_parameters:,} parameters"),
        ("memory", f"{checkup.megabytes(shape.total):,.0f} MB", checkup.parameters.dtype),
        ("text looked at", f"{sample.tokens:,} tokens", windows),
    ]


def layer_rows(frame: pd.DataFrame) -> Iterator[Cells]:
    """The layers that matter least by each measure, the least first; of greedy removal the one of each round."""
    whole = whole_text(frame)
    for (measure, part, turn), rows in whole.groupby(["measure", "part", "round"], sort=False):
        name = measure if part == "layer" else f"{measure} of {part}"
        name = f"greedy, round {turn + 1}" if measure == "greedy" else name
        most = 1 if measure == "greedy" else LEAST if part == "layer" else LEAST_STEPS
        for row in rows.sort_values("value").head(most).itertuples():
            yield str(row.layer), name, f"{row.value:.3f} ({row.low:.3f} to {row.high:.3f})", row.windows


def neuron_rows(frame: pd.DataFrame, chosen: Sequence[tuple[int, int]]) -> Iterator[Cells]:
    """The chosen neurons, and who stands in for them."""
    known = frame.set_index(["layer", "neuron"])
    for layer, neuron in chosen:
        row = known.loc[(layer, neuron)]
        pairs = list(zip(row.stand_ins.split(", "), row.coefficients.split(", "), strict=True))[:2]
        others = ", ".join(f"{name} (x {float(share):+.2f})" for name, share in pairs)
        yield str(layer), str(neuron), f"{row.condition:.2f}", f"{row.cost:.2g}", others, int(row.tokens)


def cost_rows(frame: pd.DataFrame) -> Iterator[Cells]:
    """What each plan, or each kind of text, costs."""
    plans = "way" in frame
    for row in (whole_text(frame) if plans else frame).reset_index().to_dict("records"):
        added = f"{row['increase']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
        same = f"{row['agreement']:.0%} ({row['agreement_low']:.0%} to {row['agreement_high']:.0%})"
        names = (row["way"], f"{row['removed']:.1%}") if plans else (row["kind"],)
        yield *names, added, same, row["tokens"]


def task_rows(frame: pd.DataFrame) -> Iterator[Cells]:
    """Accuracy in each task, dense and pruned."""
    for row in frame.itertuples():
        yield row.task, row.which, f"{row.accuracy:.1%} ({row.low:.1%} to {row.high:.1%})", row.items


def speed_rows(checkup: Checkup, frame: pd.DataFrame) -> Iterator[Cells]:
    """Size and speed of the dense model and of each plan."""
    total = checkup.shape.total
    yield "dense", total, f"{checkup.megabytes(total):,.1f}", "1"
    for row in whole_text(frame).to_dict("records"):
        speed = f"{row['faster']:.2f} ({row['faster_low']:.2f} to {row['faster_high']:.2f})"
        size = f"{checkup.megabytes(row['parameters']):,.1f}"
        yield f"{row['way']}, {row['removed']:.1%} removed", row["parameters"], size, speed


def prompt_rows(checkup: Checkup) -> Iterator[Cells]:
    """The windows on which two models differ most, and what they say."""
    for row in checkup.changed_prompts.reset_index().to_dict("records"):
        texts = (plain(row[name]) for name in ("prompt", "first", "other"))
        yield f"{row['kind']}: KL {row['kl']:.3f} over {row['tokens']} tokens", *texts


def left_out(checkup: Checkup, parts: tuple[str, ...], otherwise: str = "nothing was asked for") -> str:
    """Why there is no table, in the place of an empty one; `parts`: how their names begin in `Checkup.left_out`."""
    found = [
        f"{plain(needed.part)}: {plain(needed.why)}" for needed in checkup.left_out if needed.part.startswith(parts)
    ]
    return f"*Left out* · {'; '.join(found) or otherwise}."


def left_rows(checkup: Checkup) -> Iterator[Cells]:
    """What each part was predicted to take."""
    for part, seconds in checkup.effort.predicted.items():
        if seconds:
            yield part, f"{seconds:.0f}"


def taken(checkup: Checkup, advice: Advice) -> str:
    """Minutes and memory that the advised command will take."""
    if advice.row is None:
        return ""
    speed = measure_machine(checkup.model, checkup.parameters.device)
    minutes = minutes_of(checkup, advice.row, speed.token)
    megabytes = checkup.pruning_megabytes(advice.row["way"], advice.row["ratio"])
    return f"about {max(minutes, 0.1):.1f} minutes here, and {megabytes:,.0f} MB beside the imports"
