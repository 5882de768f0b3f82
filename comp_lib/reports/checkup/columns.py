"""Text, cache and columns of all frames.

A test compares COLUMNS with every frame.

All frames have the same index: `model`, a short name for the content of its tensors; `seed`, with which the
text was drawn; `kind` of text, or `all` for several kinds together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ...calibration.texts import KINDS
from ...calibration.windows import calibration_tokens
from ...decoder.types import Model
from ...utils.arguments import suggestion
from ...utils.cache import load_or_make
from ...utils.errors import InputError
from ...utils.hashes import hash_of_code, hash_of_model, hash_of_tensor, hash_of_value
from ...utils.machine import cache_folder

INDEX_COLUMNS = ("model", "seed", "kind")
ALL_KINDS = "all"  # the kind of a row about several kinds together
LAYER = "number of the decoder layer, from 0"
TOKENS = {"tokens": "number of tokens that the row is from"}
WINDOWS = {
    "low": "lower end of the 95% interval of value, increase or stream over the windows; NaN below 8 windows",
    "high": "upper end of the same interval, in the same unit",
    "windows": "number of windows of text that the row is from",
} | TOKENS
# columns about a pruned model and its parent on the same windows
LOSSES = {
    "dense_loss": "loss of the parent, nats per token",
    "loss": "loss of the pruned model, nats per token",
    "increase": "loss - dense_loss, nats per token",
}
# columns that compare both token by token
DIVERGENCES = {
    "kl": "KL divergence from the parent to the pruned model, nats per token",
    "top1_agreement": "share of positions with the same first choice, 0 to 1",
}

COLUMNS: dict[str, dict[str, str]] = {
    "layers": {
        "layer": LAYER,
        "part": "part of the layer: layer (all of it), attention or mlp",
        "measure": "block influence, or loss increase: what the model loses without the layer",
        "value": "block influence: 1 - mean cosine, no unit; loss increase: nats per token",
    }
    | WINDOWS,
    "neurons": {
        "layer": LAYER,
        "neuron": "number of the MLP neuron in its layer, from 0",
        "energy": "share of the sum of all neurons' own energies ||x_i||^2 ||w_i||^2 in the layer, 0 to 1",
        "condition": "kappa_i, at least 1, no unit: how well the others can stand in for it",
        "cost": "rise of the fit's objective, ridge included, with it alone gone and the others' weights"
        " refitted, as a share of ||X W||^2; at least 0 (full-condition score)",
        "removed_at": "share of the layer's neurons that are gone once it goes, 0 to 1;"
        " NaN: it stays to the end",
        "wanda_sp": "score of Wanda-sp, sum_j |w_ij| ||x_i||, tokens weighted, no unit",
        "activation": "||x_i||, tokens weighted, no unit",
        "magnitude": "norm of all weights that the neuron owns, no unit",
    }
    | TOKENS,
    "groups": {
        "layer": LAYER,
        "group": "number of the KV group in its layer, from 0",
        "energy": "share of the sum of all groups' own energies in the layer, 0 to 1",
        "condition": "largest kappa_i among the group's inputs, at least 1, no unit",
        "cost": "the same of o_proj, as a share of its ||X W||^2; at least 0",
    }
    | TOKENS,
    "curves": {
        "layer": LAYER,
        "gone": "MLP neurons gone",
        "width": "MLP neurons that are left",
        "share_gone": "gone over all, 0 to 1",
        "error": "||X W - X V||^2 / ||X W||^2 of the dense layer, the rest refitted, 0 to 1",
    }
    | TOKENS,
    "costs": {
        "way": "way to prune, a preset or a method",
        "ratio": "part of the decoder's parameters to remove, as asked, 0 to 1",
        "removed": "the same as reached, 0 to 1",
        "parameters": "parameters of the pruned model",
    }
    | LOSSES
    | WINDOWS,
    "changed_layers": {
        "layer": "number of the decoder layer in the parent, from 0",
        "other_layer": "its number in the pruned model; NaN: the layer was dropped",
        "stream": "1 - mean cosine of both models' states after the layer, no unit; NaN: dropped",
        "weights": "||W' - W|| / ||W|| over all weights of the layer, 0 for unchanged;"
        " NaN where a shape differs",
        "neurons": "MLP neurons of the layer in the parent",
        "other_neurons": "those of the layer in the pruned model, 0 where it was dropped",
    }
    | WINDOWS,
    "changed_kinds": LOSSES | DIVERGENCES | WINDOWS,
}


def tidy(name: str, rows: pd.DataFrame | list[dict[str, Any]], model: Model, seed: int) -> pd.DataFrame:
    """The frame of that name from rows with its columns and their `kind`."""
    table = pd.DataFrame(rows, columns=["kind", *COLUMNS[name]])
    return table.assign(model=hash_of_model(model), seed=seed).set_index(list(INDEX_COLUMNS))


def rows_of_mean(costs: pd.DataFrame) -> pd.DataFrame:
    """The rows of the frame `costs` that are about all kinds together; where there is one kind, its rows."""
    kinds = costs.index.get_level_values("kind")
    return costs[kinds == ALL_KINDS] if ALL_KINDS in kinds else costs


@dataclass(frozen=True)
class Sample:
    """Windows of text as token ids."""

    ids: Tensor
    """Token ids (S, L)."""
    kinds: tuple[str, ...]
    """Kind of each window (S,)."""
    seed: int = 0
    """Seed that drew the windows."""

    @property
    def name(self) -> str:
        """The kind of all windows, or `all`."""
        return self.kinds[0] if len(set(self.kinds)) == 1 else ALL_KINDS


def load_or_compute(name: str, model: Model, ids: Tensor, key: object, make: Callable[[], Any]) -> Any:
    """The result of `make`, from the cache if it has that for the same model, text ids, code and `key`."""
    key_parts = [hash_of_code(), hash_of_model(model), hash_of_tensor(ids), key]
    path = cache_folder() / "analysis" / f"{name}-{hash_of_value(key_parts)[:24]}.safetensors"
    return load_or_make(path, make)


def draw(
    tokenizer: Any,
    kinds: Sequence[str] = KINDS,
    window_count: int = 2,
    window_length: int = 128,
    seed: int = 0,
) -> Sample:
    """Draw `window_count` windows of the calibration text of each of `kinds`.

    Each window has `window_length` tokens. Windows of the kinds take turns, so that the first few hold every
    kind.

    Raises InputError for a kind that does not ship, and for more windows than the text of a kind has.
    """
    if not kinds or len(set(kinds)) < len(kinds):
        raise InputError(
            expected="each kind of text once, at least one",
            got=", ".join(kinds) or "none",
            hint=f"such as {', '.join(KINDS[:2])}",
        )
    for kind in kinds:
        if kind not in KINDS:
            expected = f"kinds of text among {', '.join(KINDS)}"
            raise InputError(expected=expected, got=repr(kind), hint=suggestion(kind, KINDS))
    windows_by_kind = [
        calibration_tokens(
            f"calibration:{kind}", tokenizer, sequences=window_count, length=window_length, seed=seed
        )
        for kind in kinds
    ]
    ids = torch.stack(windows_by_kind, 1).flatten(0, 1)
    return Sample(ids, tuple(kinds) * window_count, seed)
