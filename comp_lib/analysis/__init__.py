"""The analyst's bench: a check-up of any checkpoint as tidy frames, as a notebook, as a page.

    from comp_lib import load_model
    from comp_lib.analysis import draw, layers, neurons

    model, tokenizer = load_model("smollm2-135m")
    sample = draw(tokenizer, windows=2, length=128)
    seaborn.lineplot(layers(model, sample), x="layer", y="value", hue="kind")

Each function returns one row an observation, indexed by the model's fingerprint, the seed and the kind of text. What
the columns mean, with their units, is in `columns`; every value has its interval, or the tokens behind it, beside it.
"""

from __future__ import annotations

import importlib

# public name -> the module that defines it
_LAZY = {
    "Sample": "sample",
    "draw": "sample",
    "layers": "layer_frame",
    "neurons": "unit_frames",
    "groups": "unit_frames",
    "spectra": "unit_frames",
    "curves": "unit_frames",
    "costs": "cost_frame",
    "tasks": "task_frame",
    "latency": "latency_frame",
    "tokens_of": "meaning",
    "changed_layers": "differences",
    "changed_kinds": "differences",
    "changed_prompts": "differences",
    "COLUMNS": "columns",
    "write": "files",
}

__all__ = ["COLUMNS", "Sample", "changed_kinds", "changed_layers", "changed_prompts", "costs", "curves", "draw"]
__all__ += ["groups", "latency", "layers", "neurons", "spectra", "tasks", "tokens_of", "write"]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'comp_lib.analysis' has no attribute '{name}'")
    value = getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
