"""How a notebook starts and shows: its first cell either works or says in one line what to do."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from IPython.display import display

from comp_lib.analysis.page import quiet
from comp_lib.analysis.page import show as show
from comp_lib.analysis.page import table as table
from comp_lib.errors import check_package
from comp_lib.families.protocol import Model
from comp_lib.models.load import DTYPES, EMBEDDED, check_memory, load_model
from comp_lib.settings import multiple_of
from comp_lib.shape import Shape

NEEDED = "ipywidgets"  # what the extra brings that a kernel can lack


def start(name: str = EMBEDDED, dtype: str = "float32", seed: int = 0, progress: bool = False) -> tuple[Model, Any]:
    """Check that everything is there, seed torch, and return (model, tokenizer).

    Bars of downloads and conversions are left out, since a notebook keeps what it shows; `progress` lets them be seen.
    Raises InputError: a missing package, a model that does not fit into the free memory, or what `load_model` refuses.
    """
    check_extras()
    torch.manual_seed(seed)
    with quiet(progress):
        if dtype in DTYPES:  # load_model says what is wrong with any other
            check_memory(name, dtype)
        return load_model(name, dtype=dtype)


def check_extras() -> None:
    """Raises InputError unless the packages of the extra `notebooks` are there."""
    check_package(NEEDED, f"{NEEDED}, of the notebooks", "pip install 'comp-lib[notebooks]'")


def side_by_side(texts: Mapping[str, str]) -> None:
    """Display texts, each under its title, in columns; in plain words where there is no HTML."""
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
    windows: int  # of evaluation
    window: int  # tokens in each
    multiple: int  # widths are multiples of this


def sizes_for(model: Model) -> Sizes:
    """Sizes that suit a model: some three tokens for each neuron of a layer, within its context and a few minutes."""
    widest, context = max(Shape.of(model).neurons), model.config.max_position_embeddings
    length = min(256, context)
    sequences = min(64, max(8, 3 * widest // length))
    return Sizes(sequences, length, windows=6, window=min(512, context), multiple=multiple_of(widest))
