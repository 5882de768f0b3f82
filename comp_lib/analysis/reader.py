"""What a neuron does, and who stands in for it: a picture and a table."""

from __future__ import annotations

import html

import pandas as pd
from IPython.display import display

from ..plots.base import Picture
from ..plots.checkup import plot_stand_ins
from .meaning import DOWN, FIRES, UP
from .page import show

SHOWN = 4  # tokens of each reading


def show_meaning(frame: pd.DataFrame) -> None:
    """Display the picture, then the table."""
    show(picture(frame))
    display({"text/html": meaning_html(frame), "text/plain": "tokens of the neuron and its stand-ins"}, raw=True)


def picture(frame: pd.DataFrame) -> Picture:
    """The coefficients of those who stand in. frame: `analysis.tokens_of` of one neuron."""
    layer, of = int(frame.layer.iloc[0]), int(frame.of.iloc[0])
    others = frame[frame.neuron != of].drop_duplicates("neuron")
    names = [f"neuron {name}" for name in others.neuron]
    return plot_stand_ins(f"neuron {of} of layer {layer}", others.coefficient.tolist(), names)


def meaning_html(frame: pd.DataFrame) -> str:
    """The tokens of a neuron and of its stand-ins, as a table: a column for each neuron."""
    names = list(dict.fromkeys(frame.neuron))
    of = int(frame.of.iloc[0])
    coefficients = frame.drop_duplicates("neuron").set_index("neuron").coefficient
    heads = [f"{name}" if name == of else f"{name} (x {coefficients[name]:+.2f})" for name in names]
    head = "".join(f"<th>{html.escape(text)}</th>" for text in ("neuron", *heads))
    lines = []
    for reading in (FIRES, UP, DOWN):
        cells = "".join(
            f"<td>{_cell(frame[(frame.neuron == name) & (frame.reading == reading)])}</td>" for name in names
        )
        lines.append(f"<tr><th>{reading}</th>{cells}</tr>")
    sizes = frame.drop_duplicates("reading").set_index("reading").tokens
    size = f"{sizes[FIRES]:,} tokens of text and {sizes[UP]:,} of the vocabulary were looked at."
    return f'<table class="meaning"><tr>{head}</tr>{"".join(lines)}</table><p>{size}</p>'


def _cell(rows: pd.DataFrame) -> str:
    """Tokens with their values; those of the text in their context."""
    lines = []
    for row in rows.sort_values("place").head(SHOWN).itertuples():
        before, token, after = (html.escape(text.replace("\n", "⏎")) for text in (row.before, row.token, row.after))
        lines.append(f"{before[-24:]}<b>{token}</b>{after[:12]} <small>{row.value:+.2g}</small>")
    return "<br/>".join(lines)
