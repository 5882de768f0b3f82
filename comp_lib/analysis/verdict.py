"""The box that a check-up begins with: what may go at what price, and the command to type next.

A ratio may go where the whole interval of its price, the loss added on the mean of the kinds, is at most what is
allowed. Where none may, or there is no interval, the command is that of a longer check-up.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from html import escape

import pandas as pd

from ..plan import Plan
from ..settings import DEFAULTS, PRESETS
from .columns import ALL

CHANCE = 0.9  # of log(vocabulary), the loss of guessing; who knows how often each token comes is below it
LONGER = 256  # sequences of a longer check-up: the shipped texts have as many
PROMPT = "'The water cycle begins when the sun'"
BOX = (
    '<div style="border: 2px solid #2a6f97; border-radius: 6px; padding: 0 1em; max-width: 44em">\n{}\n</div>'
)
CODE = (
    "white-space: pre-wrap; word-break: normal; overflow-wrap: anywhere; font-family: monospace; "
    "background: rgba(128, 128, 128, 0.15); margin: 0 0 1em; padding: 0.3em 0.5em"
)


def by_chance(loss: float, vocabulary: int) -> bool:
    """Whether a loss (nats per token) is hardly better than that of guessing among so many tokens, or NaN."""
    return not loss < CHANCE * math.log(vocabulary)


def untrained(name: str, loss: float, vocabulary: int) -> list[str]:
    """The lines of the box for a model whose loss is that of chance, see `by_chance`."""
    better = "no better" if loss >= math.log(vocabulary) else "hardly better"
    return [
        f"{name} reads {better} than by chance: to prune it has no meaning yet.",
        f"Its loss is {loss:.2f} nats per token. Guessing each of {vocabulary:,} tokens alike has "
        f"{math.log(vocabulary):.2f}. If it writes no language, load the trained weights, or train it first. Look:",
        f"comp-lib generate {shlex.quote(name)} --prompt {PROMPT}",
    ]


def verdict(
    name: str, costs: pd.DataFrame, allowed: float, sequences: int, how: Mapping[str, object]
) -> list[str]:
    """The lines of the box for the first way in the frame `costs`; those that begin with "comp-lib" are commands.

    allowed: price that may be paid, nats per token. sequences: of the calibration text. how: the options of `prune`
    that the check-up was told, by their names; those that say what DEFAULTS say are left out of the command.
    """
    means = (
        costs[costs.way == costs.way.iloc[0]].groupby("ratio").tail(1)
    )  # the mean is the last, or the only kind
    least, good = means.sort_values("ratio").iloc[0], means[means.high <= allowed]
    told = "".join(
        f" --{key} {shlex.quote(str(value))}" for key, value in how.items() if DEFAULTS[key] != value
    )
    if good.empty:
        way = "" if least.way == "stock" else f" --ways {least.way}"
        more = f" --ratios {least.ratio / 2:g},{least.ratio:g} --sequences {max(sequences, LONGER)}"
        why = f"Allowed were {allowed:g}. The next check-up reads more text and removes less, too:"
        if math.isnan(least.low):
            more, why = (
                "",
                f"{least.windows} windows are too few for an interval. The next check-up has more:",
            )
        return [
            f"{name}: {least.removed:.0%} of the decoder cost {price(least)} nats per token.",
            why,
            f"comp-lib report {shlex.quote(name)} --out build/report.html{way} --at-most {allowed:g}nats{told}{more}",
        ]
    best = good.sort_values("ratio").iloc[-1]
    way = "" if best.way == "stock" else f" --{'preset' if best.way in PRESETS else 'method'} {best.way}"
    return [
        f"{name}: {best.removed:.0%} of the decoder may go.",
        f"{best.parameters / 1e6:.1f} million parameters stay. The price is {price(best)} nats per token, where "
        f"{allowed:g} were allowed: the perplexity becomes {math.exp(best.increase):.2f} times what it was.",
        f"comp-lib prune {shlex.quote(name)} --out build/small --ratio {best.ratio:g}{way}{told}",
    ]


def pruned_before(name: str, plan: Plan, against: str) -> list[str]:
    """More lines for a model that was pruned by this plan; against: the model that it is compared with, or ""."""
    known = f"It was pruned: {plan.removed:.0%} of the decoder of {plan.parent} is gone. The page starts from there."
    compare = (
        f"comp-lib report {shlex.quote(name)} --out build/changed.html --against {shlex.quote(plan.parent)}"
    )
    return [f"{known} The last section compares them."] if against else [f"{known} What that cost:", compare]


def price(row: pd.Series) -> str:
    """The loss that a row of `costs` adds, nats per token, with its 95% interval where it has one."""
    value, low, high = (
        f"{round(number, 2) + 0.0:.2f}" for number in (row.increase, row.low, row.high)
    )  # no -0.00
    return value if math.isnan(row.low) else f"{value} ({low} to {high})"


def prices(costs: pd.DataFrame) -> pd.DataFrame:
    """The `price` of the first way: a row for each kind of text, a column for each ratio."""
    rows = costs[costs.way == costs.way.iloc[0]].reset_index()
    words = rows.assign(price=[price(row) for _, row in rows.iterrows()])
    table = words.pivot(index="kind", columns="ratio", values="price").reindex(rows.kind.unique())
    return table.rename(columns="{:.0%}".format, index={ALL: "mean"}).rename_axis(index=None, columns=None)


def box(lines: Sequence[str], table: pd.DataFrame | None = None) -> dict[str, str]:
    """The box as MIME bundle: its first line is the headline, commands can be copied, the table is last."""
    first, *others = map(escape, lines)
    parts = [f'<h3 style="line-height: 1.3">{first}</h3>']
    parts += [
        f'<pre style="{CODE}">{x}</pre>' if x.startswith("comp-lib ") else f"<p>{x}</p>" for x in others
    ]
    if table is not None:
        parts += ["<p>All that was tried, loss added in nats per token:</p>", table.to_html(border=0)]
    return {"text/html": BOX.format("\n".join(parts)), "text/plain": "\n".join(lines)}
