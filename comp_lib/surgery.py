"""Surgery: tensors that really shrink.

Removing MLP neuron i takes row i of gate_proj and up_proj and column i of down_proj; removing a KV group takes its
rows of k_proj and v_proj, the rows of q_proj of its query heads, and their columns of o_proj. What remains is an
ordinary module of the same class: no mask, no wrapper, nothing extra at run time but the biases of a recovery that
asks for them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .errors import InputError
from .shape import Shape


def _rows(linear: nn.Linear, index: Tensor) -> nn.Linear:
    """`linear` with only the outputs `index`."""
    bias = None if linear.bias is None else linear.bias.detach()[index]
    return _linear(linear.weight.detach()[index], bias, linear)


def _columns(linear: nn.Linear, index: Tensor, weight: Tensor | None, shift: Tensor | None) -> nn.Linear:
    """`linear` with only the inputs `index`, of `weight` (n, m) instead of its own, its bias moved by `shift` (m,)."""
    source = linear.weight.detach() if weight is None else weight.T.to(linear.weight)
    bias = None if linear.bias is None else linear.bias.detach().clone()
    if shift is not None:
        bias += shift.to(bias)
    return _linear(source[:, index].contiguous(), bias, linear)


def _linear(weight: Tensor, bias: Tensor | None, old: nn.Linear) -> nn.Linear:
    """A layer with these tensors, trainable and in training mode exactly as `old` was."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta").train(old.training)
    linear.weight = nn.Parameter(weight, requires_grad=old.weight.requires_grad)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=(old.weight if old.bias is None else old.bias).requires_grad)
    return linear


def check_biases(model: nn.Module) -> None:
    """Raises InputError unless the config of this family can say that dense layers have biases."""
    for name in ("mlp_bias", "attention_bias"):
        if not hasattr(model.config, name):
            raise InputError(
                f"expected a llama model for the recovery 'bias', got {model.config.model_type}, whose config knows no "
                f"{name}: choose the recovery 'none' or 'least-squares'"
            )


def add_biases(layer: nn.Module) -> None:
    """Give each dense layer that has no bias one of zeros: a stock config has them everywhere or nowhere."""
    for module in (layer.self_attn, layer.mlp):
        for name, linear in list(module.named_children()):
            if isinstance(linear, nn.Linear) and linear.bias is None:
                weight = linear.weight.detach()
                setattr(module, name, _linear(weight, weight.new_zeros(len(weight)), linear))


def shrink_mlp(layer: nn.Module, kept: Tensor, weight: Tensor | None = None, shift: Tensor | None = None) -> None:
    """Keep the MLP neurons `kept` (ascending); weight (n, m) replaces down_proj's in the y = X W orientation.

    shift (m,) is added to the bias that down_proj must then have (`add_biases`).
    """
    mlp, kept = layer.mlp, kept.to(layer.mlp.down_proj.weight.device)
    mlp.gate_proj, mlp.up_proj = _rows(mlp.gate_proj, kept), _rows(mlp.up_proj, kept)
    mlp.down_proj = _columns(mlp.down_proj, kept, weight, shift)
    mlp.intermediate_size = len(kept)


def shrink_attention(layer: nn.Module, kept: Tensor, weight: Tensor | None = None, shift: Tensor | None = None) -> None:
    """Keep the KV groups `kept` (ascending); weight (n, m) and shift (m,) are o_proj's, as in `shrink_mlp`."""
    attention, kept = layer.self_attn, kept.to(layer.self_attn.o_proj.weight.device)
    keys = spread(kept, attention.head_dim)
    queries = spread(kept, attention.head_dim * attention.num_key_value_groups)
    attention.k_proj, attention.v_proj = _rows(attention.k_proj, keys), _rows(attention.v_proj, keys)
    attention.q_proj = _rows(attention.q_proj, queries)
    attention.o_proj = _columns(attention.o_proj, queries, weight, shift)


def spread(blocks: Tensor, size: int) -> Tensor:
    """Indices of the inputs in the given blocks of `size`: (k,) -> (k * size,)."""
    return (blocks[:, None] * size + torch.arange(size, device=blocks.device)).flatten()


def keep_layers(model: nn.Module, layers: Sequence[int]) -> None:
    """Drop all other decoder layers, and number those that stay anew (the KV cache counts on it)."""
    model.model.layers = nn.ModuleList([model.model.layers[index] for index in layers])
    for index, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = index
    model.config.num_hidden_layers = len(layers)
    for name in ("layer_types",):
        types = getattr(model.config, name, None)
        if types is not None:
            setattr(model.config, name, [types[index] for index in layers])


def update_config(model: nn.Module) -> None:
    """Make `model.config` describe the tensors, where one width can: widths that differ need `checkpoint`."""
    shape, layer = Shape.of(model), model.model.layers[0]
    for name, linear in (("mlp_bias", layer.mlp.down_proj), ("attention_bias", layer.self_attn.o_proj)):
        if hasattr(model.config, name):
            setattr(model.config, name, linear.bias is not None)
    if shape.uniform:
        model.config.head_dim = shape.head_dim
        model.config.intermediate_size = shape.neurons[0]
        model.config.num_key_value_heads = shape.kv_groups[0]
        model.config.num_attention_heads = shape.kv_groups[0] * shape.group_heads
