"""What a decoder layer is made of, as its modules say it: a gated MLP, and something that mixes the tokens."""

from __future__ import annotations

import copy
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
    """One of the two parts of a layer: its name there, the module, and in it the linear that writes to the stream."""

    name: str
    module: Any
    dense: str = "down_proj"

    @property
    def linear(self) -> nn.Linear:
        linear: nn.Linear = getattr(self.module, self.dense)
        return linear

    @property
    def block(self) -> int:
        """Inputs of `linear` that can only go together: 1 for neurons, those of a KV group for attention."""
        return self.linear.in_features // len(next(iter(self.rows.values())))

    @property
    def linears(self) -> set[str]:
        return {name for name, child in self.module.named_children() if isinstance(child, nn.Linear)}

    @property
    def others(self) -> dict[str, int]:
        """What has weights beside the linears -> how many."""
        weights = [(name, value.numel()) for name, value in self.module.named_parameters()]
        names = {name.partition(".")[0] for name, _ in weights} - self.linears
        return {one: sum(count for name, count in weights if name.partition(".")[0] == one) for one in names}

    @property
    def grouped(self) -> bool:
        """Whether an attention is queries, keys, values and outputs whose rows are heads, and norms at most."""
        head, queries = getattr(self.module, "head_dim", None), self.linear.in_features
        if self.linears not in GROUPED or not head or not all(name.endswith("norm") for name in self.others):
            return False
        made, keys = sum(getattr(self.module, name).out_features for name in self.linears - {self.dense}), self.keys
        return made == queries + 2 * keys and keys > 0 and keys % head == 0 and queries % keys == 0

    @property
    def heads(self) -> tuple[int, int]:
        """(size of a head, query heads in each KV group); an attention without plain groups is one large head."""
        inputs = self.linear.in_features
        return (self.module.head_dim, inputs // self.keys) if self.grouped else (inputs, 1)

    @property
    def spans_heads(self) -> bool:
        """Whether norms of queries and keys span all heads, so that no KV group can go without changing the others."""
        return any(count > self.module.head_dim for count in self.others.values())

    @property
    def keys(self) -> int:
        """Rows of all keys."""
        if "qkv_proj" in self.linears:
            return int(self.module.qkv_proj.out_features - self.linear.in_features) // 2
        return int(self.module.k_proj.out_features)

    @property
    def rows(self) -> dict[str, Tensor]:
        """The linears that produce the inputs of the dense one: name -> rows (blocks, rows each).

        A block is what can only go as a whole: a neuron, a KV group with its query heads, or all of another mixer.
        """
        inputs = torch.arange(self.linear.in_features)
        if self.linears == GATED[0]:
            return dict.fromkeys(("gate_proj", "up_proj"), inputs[:, None])
        if self.linears == GATED[1]:
            return {"gate_up_proj": torch.stack([inputs, inputs + len(inputs)], 1)}
        if not self.grouped:
            names = sorted(self.linears - {self.dense})
            return {name: torch.arange(getattr(self.module, name).out_features)[None] for name in names}
        groups, keys = self.keys // self.module.head_dim, torch.arange(self.keys)
        starts = (inputs, keys + len(inputs), keys + len(inputs) + len(keys))
        if "qkv_proj" in self.linears:
            return {"qkv_proj": torch.cat([run.reshape(groups, -1) for run in starts], 1)}
        return {"q_proj": inputs.reshape(groups, -1)} | dict.fromkeys(("k_proj", "v_proj"), keys.reshape(groups, -1))


def parts(layer: Layer) -> dict[Which, Part]:
    """The two parts of a layer. Raises InputError, with the name of what does not fit, where it has others."""
    if any("expert" in f"{name} {type(part).__name__}".lower() for name, part in layer.named_modules()):
        refuse(layer, "experts, of which each token sees a few")
    children = [Part(name, module) for name, module in layer.named_children()]
    mlps = [part for part in children if part.linears in GATED]
    if len(mlps) != 1:
        refuse(layer, f"{len(mlps) or 'no'} MLP of gate_proj, up_proj (or gate_up_proj) and down_proj")
    if mlps[0].others:
        refuse(layer, "a norm or other weights between the neurons and down_proj")
    mixers = [
        part for part in children if part not in mlps and any(type(m) is nn.Linear for m in part.module.modules())
    ]
    outputs = [Part(mixer.name, mixer.module, name) for mixer in mixers for name in OUTPUTS if name in mixer.linears]
    if len(mixers) != 1 or not outputs:
        refuse(layer, f"{' and '.join(mixer.name for mixer in mixers) or 'nothing'} instead of one part with an o_proj")
    return {"attention": outputs[0], "mlp": mlps[0]}


def shrunk(layer: Layer) -> None:
    """After surgery: make the layer's modules remember their new widths.

    Phi-3 finds its queries by the number of heads in its config, which all layers share until then.
    """
    part, mlp = parts(layer)["attention"], parts(layer)["mlp"]
    if hasattr(mlp.module, "intermediate_size"):
        mlp.module.intermediate_size = mlp.linear.in_features
    if part.grouped:
        attention, heads = part.module, part.linear.in_features // part.module.head_dim
        for name, count in (("num_heads", heads), ("num_key_value_heads", part.keys // attention.head_dim)):
            if hasattr(attention, name):
                setattr(attention, name, count)
        if "qkv_proj" in part.linears and heads != attention.config.num_attention_heads:
            attention.config = copy.copy(attention.config)
            attention.config.num_attention_heads = heads


def refuse(layer: Layer, got: str) -> NoReturn:
    """Raise InputError: `got` is what the layer has instead of what the method needs."""
    wanted = "a decoder layer that adds attention, then a gated MLP to the stream"
    raise InputError(f"expected {wanted}, got {type(layer).__name__} with {got}: choose another model")
