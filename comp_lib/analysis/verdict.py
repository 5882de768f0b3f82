"""The box that a check-up begins with: what may go at what price, and the command to type next.

Its words come from what was measured alone. A ratio may go where the whole interval of its price, the loss added on the
mean of the kinds, is at most what is allowed. Where there is none, or no interval, the next check-up measures more.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from html import escape

import pandas as pd

from ..plan import Plan
from ..settings import PRESETS
from .columns import ALL

CHANCE = 0.9  # of log(vocabulary), the loss of guessing: to know how often each token comes is worth more than a tenth
LONGEST = 256  # sequences of calibration text for which the shipped texts are long enough
FURTHEST = 0.5  # ratio above which nothing larger is advised
PROMPT = "The water cycle begins when the sun"
# what `prune` and `report` do untold
DEFAULTS = {"calibration": "general", "seed": 0, "dtype": "float32", "device": "cpu"}
BOX = '<div style="border: 2px solid #2a6f97; border-radius: 6px; padding: 0 1em; max-width: 44em">\n{}\n</div>'
CODE = (
    '<pre style="white-space: pre-wrap; overflow-wrap: anywhere; padding: 0.5em; font-family: monospace; '
    'background: rgba(128, 128, 128, 0.15)">{}</pre>'
)


def by_chance(loss: float, vocabulary: int) -> bool:
    """Whether a loss (nats per token) is hardly better than that of guessing among so many tokens, or is no number."""
    return not loss < CHANCE * math.log(vocabulary)


def of_mean(costs: pd.DataFrame) -> pd.DataFrame:
    """The rows of the frame `costs` for the first way, on the mean of the kinds or the only kind, by rising ratio."""
    kinds = costs.index.get_level_values("kind")
    rows = costs[(kinds == (ALL if ALL in kinds else kinds[0])) & (costs.way == costs.way.iloc[0])]
    return rows.sort_values("ratio")


def price(row: pd.Series) -> str:
    """The loss that a row of `costs` adds, nats per token, with its 95% interval where it has one."""
    value, low, high = (f"{round(number, 2) + 0.0:.2f}" for number in (row.increase, row.low, row.high))  # no -0.00
    return value if math.isnan(row.low) else f"{value} ({low} to {high})"


def untrained(name: str, loss: float, vocabulary: int) -> list[str]:
    """The lines of the box for a model whose `loss`, nats per token, is that of chance."""
    return [
        f"{name} reads hardly better than by chance: to prune it has no meaning yet.",
        f"Its loss is {loss:.2f} nats per token. Guessing each of {vocabulary:,} tokens alike has "
        f"{math.log(vocabulary):.2f}. If it writes no language, load the trained weights, or train it first. Look:",
        f"comp-lib generate {shlex.quote(name)} --prompt {shlex.quote(PROMPT)}",
    ]


def verdict(name: str, costs: pd.DataFrame, allowed: float, sequences: int, how: Mapping[str, object]) -> list[str]:
    """The lines of the box for what was measured; those that begin with "comp-lib" are commands.

    allowed: price that may be paid, nats per token. sequences: of the calibration text. how: the options of `prune`
    that were set in the check-up, by their names; those that say what DEFAULTS say are left out of the commands.
    """
    rows = of_mean(costs)
    way, least = rows.way.iloc[0], rows.iloc[0]
    told = {} if way == "stock" else {"preset" if way in PRESETS else "method": way}
    told |= {option: value for option, value in how.items() if DEFAULTS.get(option) != value}
    longer = f"comp-lib report {shlex.quote(name)} --out build/report.html"
    if math.isnan(least.low):
        few = f"{least.windows} windows are too few for an interval. The next check-up measures more:"
        return [f"{name}: {least.removed:.0%} of the decoder cost {price(least)} nats per token.", few, longer]
    good = rows[rows.high <= allowed]
    if good.empty:
        ratios = ",".join(f"{least.ratio / part:g}" for part in (4, 2))
        more = _flags({"ratios": ratios, "sequences": max(sequences, min(2 * sequences, LONGEST))})
        dear = f"More than {allowed:g} nats per token were not allowed. The next check-up removes less, on more text:"
        return [f"{name}: {least.removed:.0%} of the decoder cost {price(least)} nats per token.", dear, longer + more]
    best = good.iloc[-1]
    value, _, interval = price(best).partition(" ")
    lines = [
        f"{name}: {best.removed:.0%} of the decoder may go, for {value} nats per token.",
        f"The perplexity becomes {math.exp(best.increase):.2f} times what it was. The 95% interval of the price is "
        f"{interval.strip('()')}; allowed were {allowed:g}.",
        f"comp-lib prune {shlex.quote(name)} --out build/small --ratio {best.ratio:g}{_flags(told)}",
    ]
    if best.ratio == rows.ratio.max() < FURTHEST:
        ratios = ",".join(f"{best.ratio + more:g}" for more in (0.1, 0.2))
        lines += ["Nothing larger was tried. The next check-up does:", longer + _flags({"ratios": ratios})]
    return lines


def _flags(options: Mapping[str, object]) -> str:
    return "".join(f" --{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in options.items())


def pruned_before(name: str, plan: Plan, against: str) -> list[str]:
    """More lines for a model that was pruned already, by its `plan`; against: the model it is compared with, or ""."""
    known = (
        f"It was pruned before: {plan.removed:.0%} of the decoder of {plan.parent} is gone. Prices come on top of that."
    )
    if against:
        return [f"{known} What that changed is in the last section."]
    compared = {"out": "build/changed.html", "against": plan.parent}
    return [f"{known} What that cost:", f"comp-lib report {shlex.quote(name)}{_flags(compared)}"]


def prices(costs: pd.DataFrame) -> pd.DataFrame:
    """A row for each ratio, in words: what goes, what is left, and what it costs."""
    rows = of_mean(costs)
    columns = {
        "decoder gone": [f"{share:.1%}" for share in rows.removed],
        "million parameters left": [f"{count / 1e6:.1f}" for count in rows.parameters],
        "loss added (nats per token, 95%)": [price(row) for _, row in rows.iterrows()],
    }
    return pd.DataFrame(columns)


def by_kind(costs: pd.DataFrame) -> pd.DataFrame:
    """The price of the first way, in words: a row for each kind of text and a column for each ratio."""
    rows = costs[costs.way == costs.way.iloc[0]].reset_index()
    words = rows.assign(price=[price(row) for _, row in rows.iterrows()])
    table = words.pivot(index="kind", columns="ratio", values="price").reindex(rows.kind.unique())
    return table.rename(columns="{:.0%}".format, index={ALL: "mean"}).rename_axis(index=None, columns=None)


def box(lines: Sequence[str], table: pd.DataFrame | None = None) -> dict[str, str]:
    """The box as MIME bundle: its first line is the headline, commands can be copied, the table is last."""
    first, *others = map(escape, lines)
    parts = [f'<h3 style="line-height: 1.3">{first}</h3>']
    parts += [CODE.format(line) if line.startswith("comp-lib ") else f"<p>{line}</p>" for line in others]
    words = "\n".join(lines)
    if table is not None:
        parts.append(table.to_html(index=False, border=0))
        words += f"\n\n{table.to_string(index=False)}"
    return {"text/html": BOX.format("\n".join(parts)), "text/plain": words}
