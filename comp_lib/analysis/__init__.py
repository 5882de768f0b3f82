"""A check-up of any checkpoint: as tidy frames, as a notebook, as a page.

    from comp_lib import load_model
    from comp_lib.analysis import draw, neurons

    model, tokenizer = load_model("smollm2-135m")
    sample = draw(tokenizer, windows=2, length=128)
    seaborn.lineplot(neurons(model, sample), x="layer", y="cost")

Each function returns one row an observation; `COLUMNS` says what the columns mean, with their units.
"""

from __future__ import annotations

import importlib

# module -> the public names that it defines
_LAZY = {
    "columns": ["COLUMNS"],
    "cost_frame": ["costs"],
    "differences": ["changed_kinds", "changed_layers", "paired"],
    "frames": ["curves", "groups", "layers", "neurons"],
    "sample": ["Sample", "draw"],
}
_MODULES = {name: module for module, names in _LAZY.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'comp_lib.analysis' has no attribute '{name}'")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
