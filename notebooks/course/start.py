"""How a notebook starts and shows things: its first cell works, or says in one line what to do."""

from __future__ import annotations

import base64
import html
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from huggingface_hub.utils import logging as hub_logging
from IPython.display import Markdown, display
from IPython.utils.capture import capture_output
from transformers.utils import logging

from comp_lib.checkpoints.load import DtypeName, load_with_room
from comp_lib.checkpoints.wheels import INCLUDED_MODEL
from comp_lib.decoder.shape import Shape
from comp_lib.decoder.types import Model
from comp_lib.reports.plots.base import Picture, mime_bundle
from comp_lib.utils.arguments import check_package
from comp_lib.utils.progress import Progress, no_progress

from .figures import overlapping_texts

STRICT_VARIABLE = "COMP_LIB_STRICT_FIGURES"  # set where notebooks are tested or stored
WIDGETS_PACKAGE = "ipywidgets"  # the package of the extra `notebooks` that a kernel can lack


@contextmanager
def quiet(progress: bool = False) -> Iterator[None]:
    """Hides bars of downloads and conversions, since a notebook keeps what it shows.

    With `progress` they are shown.
    """
    if not progress:
        logging.disable_progress_bar()  # of transformers and of the Hub, until the kernel ends
        hub_logging.set_verbosity_error()  # each retry without a network would be a warning
    with capture_output(stdout=False, stderr=not progress, display=not progress):
        yield


def start(
    name: str = INCLUDED_MODEL,
    dtype: DtypeName = "float32",
    seed: int = 0,
    progress: bool = False,
    copies: int = 2,
) -> tuple[Model, Any]:
    """Check that everything is there, seed torch, and return (model, tokenizer).

    Bars of downloads and conversions are left out, since a notebook keeps what it shows; `progress` lets them
    be seen. copies: how many models of that size the lesson holds. Raises InputError if a package is missing,
    if the model does not fit into the free memory, or if `load_model` refuses it.
    """
    check_extras()
    torch.manual_seed(seed)
    with quiet(progress):
        return load_with_room(name, dtype, copies=copies)


def live_progress() -> Progress:
    """A `Progress` that shows the last step below the cell, and nothing once the work has ended.

    Nothing is shown where STRICT_VARIABLE is set, since a stored notebook keeps what it shows.
    """
    if os.environ.get(STRICT_VARIABLE):
        return no_progress
    line = display(Markdown(""), display_id=True)

    def show_step(label: str, finished: int, total: int, report: object = None, /) -> None:
        text = "" if finished == total else f"*{label}: {finished} of {total}*"
        line.update(Markdown(text))

    return show_step


def check_extras() -> None:
    """Raises InputError unless the packages of the extra `notebooks` are installed."""
    check_package(WIDGETS_PACKAGE, "notebooks")


def show(figure: Picture, reading: str = "") -> None:
    """Display a figure with its alt text, and above it what a reader should see in it.

    Where STRICT_VARIABLE is set, as in our tests, raises ValueError for texts that lie on each other.
    """
    if reading:
        figure.suptitle(reading)
    if os.environ.get(STRICT_VARIABLE):
        overlaps = overlapping_texts(figure)
        if overlaps:
            raise ValueError(f"expected texts beside each other, got {'; '.join(overlaps)}: move them")
    display(mime_bundle(figure), raw=True)


def drawing(name: str, lit: str = "") -> None:
    """Display an SVG of the folder `drawings`, with the words in its <desc> for those who cannot see it.

    lit: of its parts (groups of the class `part`), the one of which the lesson speaks; the others are dimmed.
    Raises ValueError if the drawing has no such part.
    """
    svg = (Path(__file__).parent / "drawings" / f"{name}.svg").read_text("utf-8")
    alt_text = ElementTree.fromstring(svg).findtext("{http://www.w3.org/2000/svg}desc", "")
    if lit:
        svg = _light(svg, lit)
        alt_text += f" Lit is the part on trial: {lit}."
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode('ascii')}"
    image = f'<img alt="{html.escape(alt_text)}" src="{source}"/>'
    display({"text/html": image, "text/plain": alt_text}, raw=True)


def _light(svg: str, lit: str) -> str:
    """The drawing with one part in the class `lit`, the others in `dim`; its style sheet has their looks."""
    parts = re.findall(r'class="part" id="(.*?)"', svg)
    if lit not in parts:
        raise ValueError(f"expected a part of the drawing ({', '.join(parts)}), got {lit}")
    return re.sub(
        r'class="part" id="(.*?)"',
        lambda part: f'class="part {"lit" if part[1] == lit else "dim"}" id="{part[1]}"',
        svg,
    )


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Markdown:
    """Rows as a table, for the last line of a cell: columns of words to the left, of numbers to the right."""
    rows = [list(row) for row in rows]
    alignments = []
    for column in range(len(head)):
        numeric = all(_numeric(row[column]) for row in rows)
        alignments.append("---:" if numeric else "---")
    lines = [head, alignments, *([_as_text(cell) for cell in row] for row in rows)]
    return Markdown("\n".join(f"| {' | '.join(line)} |" for line in lines))


def _as_text(cell: object) -> str:
    """A cell as it is printed: a whole number with commas between its thousands."""
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def _numeric(cell: object) -> bool:
    """Whether a cell is a number, perhaps with a unit or an error: "12%", "+0.3 ± 0.1", but not "2 of 3"."""
    return isinstance(cell, int | float) or bool(re.fullmatch(r"[+-]?\d\S*( ± \S+)?", str(cell)))


def side_by_side(texts: Mapping[str, str]) -> None:
    """Display texts in columns, each under its title; without HTML, as plain text, one after another."""
    style = f"width: {100 / len(texts):.0f}%; text-align: left; vertical-align: top; white-space: pre-wrap"
    cells = [f"<b>{html.escape(title)}</b><br/>{html.escape(text)}" for title, text in texts.items()]
    columns = "".join(f'<td style="{style}">{cell}</td>' for cell in cells)
    plain = "\n\n".join(f"{title}:\n{text}" for title, text in texts.items())
    page = f'<table style="width: 100%"><tr>{columns}</tr></table>'
    display({"text/html": page, "text/plain": plain}, raw=True)


@dataclass(frozen=True)
class Sizes:
    """How much text a model of some shape is worth, and how finely its widths may be cut."""

    sequences: int  # of calibration
    length: int  # tokens in each
    window: int  # tokens of evaluation at a time
    multiple: int  # widths are multiples of this


def sizes_for(model: Model) -> Sizes:
    """Sizes that suit a model: some three tokens for each neuron of a layer.

    They stay within the model's context and within a few minutes.
    """
    widest = max(Shape.of(model).neurons)
    context = model.config.max_position_embeddings
    length = min(256, context)
    sequences = min(64, max(8, 3 * widest // length))
    power_of_two = 1 << max(0, (widest // 32).bit_length() - 1)  # the largest that leaves 32 steps
    return Sizes(sequences, length, window=min(512, context), multiple=min(64, power_of_two))
