"""COMP: post-training structured pruning of LLaMA-class language models, without gradients.

The method (Xu et al., arXiv 2501.15255; the derivation is ours) drops whole decoder layers, then those neurons of the
other layers that their neighbours can best reproduce. Then it refits the kept weights to the dense layer's output.

    from comp_lib import Settings, load_model
    from comp_lib.calibration.windows import calibration_tokens
    from .comp import prune
    from .settings import PRESETS

    model, tokenizer = load_model("smollm2-135m")
    ids = calibration_tokens("general", tokenizer, model=model, sequences=128, length=256)
    pruned = prune(model, ids, Settings(ratio=0.2, **PRESETS["stock"]))  # pruned.model, pruned.plan, pruned.report

`prune_model("smollm2-135m", "build/small")` does that from disk to disk, saves it, and returns a verdict on it.

Where to read on: `prune` is the method on one page, `prune_layer` its five steps for one layer, `planning` decides how
much each layer loses. The paper's ideas are folders: `importance` (what is removed), `hybrid_granularity` (how much),
`recovery` (the refit), and `statistics` (the sums over tokens that all of them use). `families` finds the parts of a
decoder layer; `disk` prunes layer by layer from files to files. The rest is calibration, baselines, models,
evaluation, gguf, compare, healing, analysis, plots, system and cli.

`comp_lib.comp` is the module; the function of that name is imported from it, as above, never re-exported here: one
name with two meanings would depend on what was imported first.

Importing this package is cheap. The names below are looked up on first use, so torch is loaded only when it is needed.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("comp-lib")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

# public name -> the module that defines it
_LAZY = {
    "Plan": "comp_lib.plan",
    "Settings": "comp_lib.settings",
    "load_model": "comp_lib.models.load",
    "load_text": "comp_lib.calibration.texts",
    "prune_model": "comp_lib.disk.prune_model",
}

__all__ = ["Plan", "Settings", "__version__", "load_model", "load_text", "prune_model"]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'comp_lib' has no attribute '{name}'")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
