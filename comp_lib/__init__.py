"""COMP: post-training structured pruning of LLaMA-class language models, without gradients.

The method (Xu et al., arXiv 2501.15255; the derivation is ours) drops whole decoder layers, then the neurons of the
layers that stay which their neighbours can best stand in for, then refits what is left to the output of what was there.

    from comp_lib.settings import Settings
    from comp_lib.models.load import load_model
    from comp_lib.prune import prune

`comp_lib.prune` is the module; the function of that name is imported from it, as above, never re-exported here: one
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
    "load_text": "comp_lib.calibration.text",
}

__all__ = ["Plan", "Settings", "__version__", "load_model", "load_text"]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'comp_lib' has no attribute '{name}'")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
