"""The box that a check-up begins with: what may go at what cost, and the command to type next.

The cost of a ratio is the loss that it adds on the mean of the kinds. A ratio passes where the upper end of
the interval of its cost is at most what is allowed. Where no ratio passes, or there is no interval, the
command is that of a longer check-up.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from html import escape

import pandas as pd

from ...evaluation.format import describe_chance
from ...evaluation.generation import EXAMPLE_PROMPT
from ...hybrid_granularity.plan import Plan
from ...pruning.settings import DEFAULTS, PRESETS, USUAL_PRESET
from .columns import ALL_KINDS, rows_of_mean
from .fewer_bits import FEW_BITS, MANY_BITS, FewerBits

LONGER_SEQUENCES = 256  # calibration sequences of a longer check-up: the shipped texts have as many
BOX_STYLE = "border: 2px solid #2a6f97; border-radius: 6px; padding: 0 1em; max-width: 44em"
BOX_HTML = f'<div style="{BOX_STYLE}">\n{{}}\n</div>'
CODE_STYLE = (
    "white-space: pre-wrap; word-break: normal; overflow-wrap: anywhere; font-family: monospace; "
    "background: rgba(128, 128, 128, 0.15); margin: 0 0 1em; padding: 0.3em 0.5em"
)


def describe_untrained(name: str, loss: float, vocabulary: int) -> list[str]:
    """The lines of the box for a model whose loss is that of chance, see `describe_chance`; else none."""
    sentences = describe_chance(name, loss, vocabulary)
    if not sentences:
        return []
    return [
        *sentences,
        "Look:",
        f"comp-lib generate {shlex.quote(name)} --prompt {shlex.quote(EXAMPLE_PROMPT)}",
    ]


def recommend(
    name: str, costs: pd.DataFrame, allowed: float, sequences: int, options: Mapping[str, object]
) -> list[str]:
    """The lines of the box for the first way in the frame `costs`; commands begin with "comp-lib".

    Args:
        allowed: cost that may be paid, nats per token.
        sequences: how many sequences of text calibrated.
        options: options of `prune` with which the check-up was called, by their names; an option that has its
            value in DEFAULTS is left out of the command.
    """
    rows = costs[costs.way == costs.way.iloc[0]]
    means = rows_of_mean(rows).sort_values("ratio")
    flags = "".join(
        f" --{key} {shlex.quote(str(value))}" for key, value in options.items() if value != DEFAULTS[key]
    )
    passing = means[means.high <= allowed]
    if passing.empty:
        return _longer_check_up(name, means.iloc[0], allowed, sequences, flags)
    best = passing.iloc[-1]
    way = ""
    if best.way != USUAL_PRESET:
        way = f" --{'preset' if best.way in PRESETS else 'method'} {best.way}"
    return [
        f"{name}: {best.removed:.0%} of the decoder may go.",
        f"{best.parameters / 1e6:.1f} million parameters stay. The cost is {cost_text(best)} nats per token, "
        f"where {allowed:g} were allowed: the perplexity becomes {math.exp(best.increase):.2f} times what it "
        "was.",
        f"comp-lib prune {shlex.quote(name)} --out build/small --ratio {best.ratio:g}{way}{flags}",
    ]


def _longer_check_up(name: str, row: pd.Series, allowed: float, sequences: int, flags: str) -> list[str]:
    """The lines of the box where no ratio passes; row: the row of the smallest ratio in the frame `costs`."""
    command = f"comp-lib report {shlex.quote(name)} --out build/report.html"
    if row.way != USUAL_PRESET:
        command += f" --ways {row.way}"
    command += f" --at-most {allowed:g}nats{flags}"
    if math.isnan(row.low):
        reason = f"{row.windows} windows are too few for an interval. The next check-up has more:"
    else:
        verdict = f"That is more than the {allowed:g} that you allowed"
        if row.low <= allowed:
            verdict = f"The interval reaches beyond the {allowed:g} that you allowed"
        reason = (
            f"{verdict}, so nothing is recommended yet. The next check-up reads more text, and also tries to "
            "remove less:"
        )
        ratios = f"{row.ratio / 2:g},{row.ratio:g}"
        command += f" --ratios {ratios} --sequences {max(sequences, LONGER_SEQUENCES)}"
    return [
        f"{name}: {row.removed:.0%} of the decoder cost {cost_text(row)} nats per token.",
        reason,
        command,
    ]


def describe_bits(bits: FewerBits) -> list[str]:
    """A further line of the box: what fewer bits cost, and how much would have to go for the same size."""
    sentences = [
        f"Ask first whether 4 bits are enough. In 4 bits (llama.cpp's type {FEW_BITS}) the whole model takes "
        f"{bits.megabytes:.0f} MB, in 8 bits ({MANY_BITS}) {bits.megabytes_before:.0f} MB."
    ]
    if bits.was_rounded:
        sentences.append(
            "This file's weights were rounded to 4 bits before, so 4 bits cost nothing more. To estimate the "
            "cost for a model never rounded, these were rounded again on a shifted grid: "
            f"{cost_text(bits)} nats per token."
        )
    else:
        sentences.append(f"Rounding its weights to 4 bits costs {cost_text(bits)} nats per token.")
    sentences.append(
        f"To reach {bits.megabytes:.0f} MB in 8 bits, {bits.equal_ratio:.0%} of the decoder would have to go."
    )
    return [" ".join(sentences)]


def describe_history(name: str, plan: Plan, against: str) -> list[str]:
    """Further lines of the box for a model that `plan` pruned.

    against: name of the model with which the page compares it; "": none.
    """
    removed_part = f"{plan.removed:.0%} of the decoder of {plan.parent}"
    history = f"It was pruned: {removed_part} is gone. The page starts from there."
    if against:
        return [f"{history} The last section compares them."]
    parent = shlex.quote(plan.parent)
    return [
        f"{history} What that cost:",
        f"comp-lib report {shlex.quote(name)} --out build/changed.html --against {parent}",
    ]


def cost_text(row: pd.Series | FewerBits) -> str:
    """The loss that `row` adds, nats per token, with its 95% interval where it has one."""
    if math.isnan(row.low):
        return _two_digits(row.increase)
    return f"{_two_digits(row.increase)} ({_two_digits(row.low)} to {_two_digits(row.high)})"


def _two_digits(number: float) -> str:
    """The number with two digits after the point; adding 0.0 makes 0.00 of -0.00."""
    return f"{round(number, 2) + 0.0:.2f}"


def cost_table(costs: pd.DataFrame) -> pd.DataFrame:
    """The `cost` of the first way: a row for each kind of text, a column for each ratio."""
    rows = costs[costs.way == costs.way.iloc[0]].reset_index()
    rows = rows.assign(cost=[cost_text(row) for _, row in rows.iterrows()])
    table = rows.pivot(index="kind", columns="ratio", values="cost").reindex(rows.kind.unique())
    table = table.rename(columns="{:.0%}".format, index={ALL_KINDS: "mean"})
    return table.rename_axis(index=None, columns=None)


def make_box(lines: Sequence[str], table: pd.DataFrame | None = None) -> dict[str, str]:
    """Render the box as a MIME bundle: the headline, the other lines, the table."""
    headline, *body = lines
    elements = [f'<h3 style="line-height: 1.3">{escape(headline)}</h3>']
    for line in body:
        if line.startswith("comp-lib "):
            elements.append(f'<pre style="{CODE_STYLE}">{escape(line)}</pre>')
        else:
            elements.append(f"<p>{escape(line)}</p>")
    if table is not None:
        elements += ["<p>All that was tried, loss added in nats per token:</p>", table.to_html(border=0)]
    return {"text/html": BOX_HTML.format("\n".join(elements)), "text/plain": "\n".join(lines)}
