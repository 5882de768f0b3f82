"""How a notebook starts and shows: its first cell either works or says in one line what to do."""

from __future__ import annotations

import importlib.util

import psutil
import torch
from IPython.display import display
from matplotlib.figure import Figure

from .errors import InputError
from .models import load_model
from .plots import mime_bundle
from .shape import Shape

NEEDED = ("ipywidgets", "seaborn", "matplotlib")


def start(name: str = "smollm2-135m", dtype: str = "float32", seed: int = 0):
    """Check that everything is there, seed torch, and return (model, tokenizer).

    Raises InputError: a missing package, or a model that does not fit into the memory at hand.
    """
    missing = [package for package in NEEDED if importlib.util.find_spec(package) is None]
    if missing:
        raise InputError(
            f"expected the packages {', '.join(missing)}, which are missing: pip install 'comp-lib[notebooks]'"
        )
    torch.manual_seed(seed)
    model, tokenizer = load_model(name, dtype=dtype)
    needed, free = Shape.of(model).total * model.dtype.itemsize * 2, psutil.virtual_memory().available
    if needed > free:
        raise InputError(
            f"expected {needed / 1e9:.1f} GB of free memory for {name} and its pruned copy, got {free / 1e9:.1f} GB: "
            "close something, choose a smaller model, or dtype='bfloat16'"
        )
    return model, tokenizer


def show(figure: Figure) -> None:
    """Display a figure with its alt text."""
    display(mime_bundle(figure), raw=True)
