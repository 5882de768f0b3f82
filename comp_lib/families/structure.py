"""What a decoder layer is made of, as its modules say it: a gated MLP, and something that mixes the tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ..errors import InputError
from .protocol import Layer, Which

GATED = ({"gate_proj", "up_proj", "down_proj"}, {"gate_up_proj", "down_proj"})
GROUPED = ({"q_proj", "k_proj", "v_proj", "o_proj"}, {"qkv_proj", "o_proj"})
OUTPUTS = ("o_proj", "out_proj", "dense")  # what the output of a token mixer is called


@dataclass(frozen=True)
class Parts:
    """Names of the two parts of a layer, and in each of the linear that writes to the stream."""

    attention: tuple[str, str]
    mlp: tuple[str, str]

    @classmethod
    def of(cls, layer: Layer) -> Parts:
        """Raises InputError, with the name of what does not fit, unless the layer has just these two."""
        if any("expert" in name.lower() or "Expert" in type(part).__name__ for name, part in layer.named_modules()):
            refuse(layer, "experts, of which each token sees a few")
        mlps = [name for name, part in layer.named_children() if _linears(part) in GATED]
        if len(mlps) != 1:
            refuse(layer, f"{len(mlps) or 'no'} MLP of gate_proj, up_proj (or gate_up_proj) and down_proj")
        if _others(layer.get_submodule(mlps[0])):
            refuse(layer, f"a norm or other weights between the neurons of {mlps[0]} and down_proj")
        mixers = [name for name, part in layer.named_children() if name not in mlps and _mixes(part)]
        if len(mixers) != 1:
            refuse(layer, f"{' and '.join(mixers) or 'nothing'} beside the MLP where one part mixes the tokens")
        outputs = [name for name in OUTPUTS if name in _linears(layer.get_submodule(mixers[0]))]
        if not outputs:
            refuse(layer, f"{mixers[0]} without a last linear {' or '.join(OUTPUTS)}")
        return cls((mixers[0], outputs[0]), (mlps[0], "down_proj"))


def refuse(layer: Layer, got: str) -> NoReturn:
    """Raise InputError: `got` is what the layer has instead of what the method needs."""
    wanted = "a decoder layer that adds attention, then a gated MLP to the stream"
    raise InputError(f"expected {wanted}, got {type(layer).__name__} with {got}: choose another model")


def _linears(part: nn.Module) -> set[str]:
    return {name for name, child in part.named_children() if isinstance(child, nn.Linear)}


def _others(part: nn.Module) -> dict[str, int]:
    """What has weights in a part beside its linears -> how many."""
    own = {name: weights.numel() for name, weights in part.named_parameters(recurse=False)}
    linears = _linears(part)
    children = ((name, child) for name, child in part.named_children() if name not in linears)
    counts = {name: sum(weights.numel() for weights in child.parameters()) for name, child in children}
    return own | {name: count for name, count in counts.items() if count}


def _mixes(part: nn.Module) -> bool:
    return any(isinstance(module, nn.Linear) for module in part.modules())


def grouped(mixer: Any) -> bool:
    """Whether an attention is linears for queries, keys, values, outputs, with rows for heads, and norms."""
    head = getattr(mixer, "head_dim", None)
    if _linears(mixer) not in GROUPED or not head or any(not name.endswith("norm") for name in _others(mixer)):
        return False
    queries = mixer.o_proj.in_features
    if hasattr(mixer, "qkv_proj"):
        keys = (mixer.qkv_proj.out_features - queries) // 2
        fits = mixer.qkv_proj.out_features == queries + 2 * keys
    else:
        keys = mixer.k_proj.out_features
        fits = mixer.q_proj.out_features == queries and mixer.v_proj.out_features == keys
    return fits and keys > 0 and keys % head == 0 and queries % keys == 0


def spans_heads(mixer: Any) -> bool:
    """Whether norms of queries and keys span all heads, so that no KV group can go without changing the others."""
    return any(count > mixer.head_dim for count in _others(mixer).values())


def producers(part: Any, which: Which, dense: str) -> dict[str, Tensor]:
    """The linears that produce the inputs of the dense one: name -> rows (blocks, rows each). See `Family`."""
    inputs = getattr(part, dense).in_features
    if which == "mlp":
        if hasattr(part, "gate_up_proj"):
            return {"gate_up_proj": torch.stack([torch.arange(inputs), torch.arange(inputs) + inputs], 1)}
        neurons = torch.arange(inputs)[:, None]
        return {"gate_proj": neurons, "up_proj": neurons}
    if not grouped(part):  # one block: all or nothing
        return {name: torch.arange(getattr(part, name).out_features)[None] for name in sorted(_linears(part) - {dense})}
    if hasattr(part, "qkv_proj"):
        keys = (part.qkv_proj.out_features - inputs) // 2
        rows = torch.arange(inputs + 2 * keys).split([inputs, keys, keys])
        return {"qkv_proj": torch.cat([run.reshape(keys // part.head_dim, -1) for run in rows], 1)}
    keys = torch.arange(part.k_proj.out_features).reshape(-1, part.head_dim)
    return {"q_proj": torch.arange(inputs).reshape(len(keys), -1), "k_proj": keys, "v_proj": keys}
