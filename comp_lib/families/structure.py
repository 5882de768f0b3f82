"""What a decoder layer is made of, as its modules say it: a gated MLP, and something that mixes the tokens."""

from __future__ import annotations

import copy
from collections import Counter
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
class Part:
    """One of the two parts of a layer, with the linear in it that writes to the stream."""

    name: str  # in the layer
    module: Any
    dense: str  # name of the linear that writes to the stream
    linear: nn.Linear  # which is this
    rows: dict[str, Tensor]
    """All other linears, which produce the inputs of the dense one: name -> rows (blocks, rows each).

    A block is what can only go as a whole: a neuron, a KV group with its query heads, or all of another mixer.
    """
    block: int = 1  # inputs of the dense layer in a block
    grouped: bool = False  # whether an attention is queries, keys, values and outputs whose rows are heads
    separable: bool = True  # whether blocks can go one by one: not where a norm spans all heads, or in other mixers


def parts(layer: Layer) -> dict[Which, Part]:
    """The two parts of a layer. Raises InputError, with the name of what does not fit, where it has others."""
    if any("expert" in f"{name} {type(part).__name__}".lower() for name, part in layer.named_modules()):
        refuse(layer, "experts, of which each token sees a few")
    gated, mixing = list[tuple[str, Any, set[str]]](), list[tuple[str, Any, set[str]]]()
    for name, module in layer.named_children():
        linears = {inner for inner, child in module.named_children() if isinstance(child, nn.Linear)}
        if linears in GATED:
            gated.append((name, module, linears))
        elif any(type(child) is nn.Linear for child in module.modules()):
            mixing.append((name, module, linears))
    if len(gated) != 1:
        refuse(layer, f"{len(gated) or 'no'} MLP of gate_proj, up_proj (or gate_up_proj) and down_proj")
    outputs = [output for *_, linears in mixing for output in OUTPUTS if output in linears]
    if len(mixing) != 1 or not outputs:
        refuse(layer, f"{' and '.join(name for name, *_ in mixing) or 'nothing'} instead of one part with an o_proj")
    name, mlp, linears = gated[0]
    if any(weight.partition(".")[0] not in linears for weight, _ in mlp.named_parameters()):
        refuse(layer, "a norm or other weights between the neurons and down_proj")
    inputs = torch.arange(mlp.down_proj.in_features)
    if "up_proj" in linears:
        rows = {"gate_proj": inputs[:, None], "up_proj": inputs[:, None]}
    else:
        rows = {"gate_up_proj": torch.stack([inputs, inputs + len(inputs)], 1)}
    neurons = Part(name, mlp, "down_proj", mlp.down_proj, rows)
    return {"attention": _mixer(*mixing[0], outputs[0]), "mlp": neurons}


def _mixer(name: str, module: Any, linears: set[str], dense: str) -> Part:
    """What mixes the tokens. Its blocks are KV groups where it is plain attention with norms; else it is one."""
    beside: Counter[str] = Counter()  # what has weights beside the linears -> how many
    for weight, value in module.named_parameters():
        if (owner := weight.partition(".")[0]) not in linears:
            beside[owner] += value.numel()
    before = {one: getattr(module, one).out_features for one in sorted(linears - {dense})}
    linear, head, total = getattr(module, dense), getattr(module, "head_dim", 0), sum(before.values())
    queries = linear.in_features
    keys = before.get("k_proj", (total - queries) // 2)  # rows of all keys
    plain = linears in GROUPED and head and all(one.endswith("norm") for one in beside)
    if not plain or total != queries + 2 * keys or keys < 1 or keys % head or queries % keys:
        rows = {one: torch.arange(count)[None] for one, count in before.items()}
        return Part(name, module, dense, linear, rows, queries, separable=False)
    each = [torch.arange(count).reshape(keys // head, -1) for count in (queries, keys)]  # by KV group
    if "qkv_proj" in before:
        rows = {"qkv_proj": torch.cat([each[0], each[1] + queries, each[1] + queries + keys], 1)}
    else:
        rows = {"q_proj": each[0], "k_proj": each[1], "v_proj": each[1]}
    separable = max(beside.values(), default=0) <= head
    return Part(name, module, dense, linear, rows, each[0].shape[1], True, separable)


def dense_layer(layer: Layer, which: Which) -> nn.Linear:
    """What writes to the residual stream in a step of a decoder layer. Raises InputError for another kind of layer."""
    return parts(layer)[which].linear


def shrunk(layer: Layer) -> None:
    """After surgery: make the layer's modules remember their new widths.

    Phi-3 finds its queries by the number of heads in its config, which all layers share until then.
    """
    part, mlp = parts(layer)["attention"], parts(layer)["mlp"]
    if hasattr(mlp.module, "intermediate_size"):
        mlp.module.intermediate_size = mlp.linear.in_features
    if part.grouped:
        attention, inputs = part.module, part.linear.in_features
        heads = inputs // attention.head_dim
        for name, count in (("num_heads", heads), ("num_key_value_heads", inputs // part.block)):
            if hasattr(attention, name):
                setattr(attention, name, count)
        if "qkv_proj" in part.rows and heads != attention.config.num_attention_heads:
            attention.config = copy.copy(attention.config)
            attention.config.num_attention_heads = heads


def refuse(layer: Layer, got: str) -> NoReturn:
    """Raise InputError: `got` is what the layer has instead of what the method needs."""
    wanted = "a decoder layer that adds attention, then a gated MLP to the stream"
    raise InputError(f"expected {wanted}, got {type(layer).__name__} with {got}: choose another model")
