"""A check-up of any checkpoint: as tidy frames, as a notebook, as a page.

    from comp_lib import load_model
    from comp_lib.analysis import draw, neurons

    model, tokenizer = load_model("smollm2-135m")
    sample = draw(tokenizer, windows=2, length=128)
    seaborn.lineplot(neurons(model, sample), x="layer", y="cost")

Each function returns one row an observation, indexed by the model's fingerprint, the seed and the kind of text.
`COLUMNS` says what the columns mean, with their units; every value has its interval, or the tokens behind it, beside it.
"""

from __future__ import annotations

import importlib

# public name -> the module that defines it
_LAZY = {
    "COLUMNS": "columns",
    "Sample": "sample",
    "changed_kinds": "differences",
    "changed_layers": "differences",
    "costs": "costs",
    "curves": "frames",
    "draw": "sample",
    "groups": "frames",
    "layers": "frames",
    "neurons": "frames",
}

__all__ = ["COLUMNS", "Sample", "changed_kinds", "changed_layers", "costs", "curves", "draw", "groups", "layers"]
__all__ += ["neurons"]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'comp_lib.analysis' has no attribute '{name}'")
    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
