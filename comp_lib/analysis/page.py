"""How a notebook shows figures with their words, and tables; and how it keeps quiet while a model loads."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from huggingface_hub.utils import logging as hub_logging
from IPython.display import Markdown, display
from IPython.utils.capture import capture_output
from transformers.utils import logging

from ..plots.base import Picture, mime_bundle, overlapping_texts

STRICT = "COMP_LIB_STRICT_FIGURES"


@contextmanager
def quiet(progress: bool = False) -> Iterator[None]:
    """Without bars of downloads and conversions, since a notebook keeps what it shows; `progress` lets them be seen."""
    if not progress:
        logging.disable_progress_bar()  # of transformers and of the Hub, until the kernel ends
        hub_logging.set_verbosity_error()  # each retry without a network would be a warning
    with capture_output(stdout=False, stderr=not progress, display=not progress):
        yield


def show(figure: Picture) -> None:
    """Display a figure with its alt text. Raises ValueError for texts on each other where STRICT is set (our tests)."""
    if os.environ.get(STRICT) and (unreadable := overlapping_texts(figure)):
        raise ValueError(f"expected texts beside each other, got {'; '.join(unreadable)}: move them")
    display(mime_bundle(figure), raw=True)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Markdown:
    """Rows as a table, for the last line of a cell: words to the left, numbers to the right."""
    rows = [list(row) for row in rows]
    sides = ["---:" if all(_numeric(row[i]) for row in rows) else "---" for i in range(len(head))]
    cells = [head, sides, *([f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows)]
    return Markdown("\n".join(f"| {' | '.join(row)} |" for row in cells))


def _numeric(cell: object) -> bool:
    """A number, or words that begin with one and do not go on in words: "12%", "+0.3 ± 0.1", not "3, 4" or "2 of 3"."""
    return isinstance(cell, int | float) or bool(re.fullmatch(r"[+-]?\d\S*( ± \S+)?", str(cell)))
