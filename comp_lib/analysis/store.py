"""What was computed once is not computed again: a check-up that was cut off goes on from its last finished layer.

An entry is one safetensors file in the user's cache, named by all that decides it: the content of the model and of the
text, the settings, and the code. Writing is atomic.
"""

from __future__ import annotations

import weakref
from pathlib import Path

from torch import Tensor

from ..families.protocol import Model
from ..models.skeleton import EMBEDDING, HEAD
from ..scale.model_on_disk import Streamed
from ..system import hashes
from ..system.cache import store
from ..system.machine import cache_folder

Tensors = dict[str, Tensor]
_on_disk: weakref.WeakKeyDictionary[Streamed, str] = weakref.WeakKeyDictionary()  # files do not change under us


def fingerprint(model: Model) -> str:
    """A short name for a model's tensors and config, 16 hex digits: the same in memory and read from disk."""
    if not isinstance(model, Streamed):
        return hashes.of_model(model)
    if model not in _on_disk:
        places = {name: EMBEDDING if name == HEAD and model.tied else name for name in model.skeleton.state_dict()}
        tensors = ((name, model.files.read(place, model.dtype)) for name, place in places.items())
        _on_disk[model] = hashes.of_both(hashes.of_tensors(tensors), model.config)
    return _on_disk[model]


def entry(module: str, what: str, *key: object) -> Path:
    """Where the entry is that `module` of this folder makes: what it is, and all that decides it."""
    code = hashes.of_code("evaluation", "scale/model_on_disk", "analysis/sample", f"analysis/{module}")
    return cache_folder() / "analysis" / f"{what}-{hashes.of_value([code, what, *key])[:24]}.safetensors"


def keep(path: Path, made: Tensors) -> Tensors:
    """The tensors of an entry, which they now are. Raises InputError when it cannot be written."""
    kept = {name: value.detach().cpu().contiguous().clone() for name, value in made.items()}
    store(path, kept)
    return kept
