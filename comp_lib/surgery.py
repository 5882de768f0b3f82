"""Surgery: tensors that really shrink.

Removing MLP neuron i takes its rows of the matrices that produce it (gate_proj and up_proj in Llama) and its column of
down_proj; removing a KV group takes its rows of k_proj and v_proj, the rows of q_proj of its query heads, and their
columns of o_proj. Which rows and columns those are, the family knows. What remains is an ordinary module of the same
class: no mask, no wrapper, nothing extra at run time but the biases of a recovery that asks for them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .errors import InputError
from .families import family_of, layers_of, parts
from .families.layer import shrunk
from .families.protocol import Layer, Model, Which
from .shape import Shape


def shallow_copy(model: nn.Module) -> nn.Module:
    """A second model with its own structure and config around the same tensors: surgery replaces, never writes."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def upstream(layer: Layer, which: Which) -> Tensor:
    """Squared norm of the weights that produce each block of the dense layer's inputs: (blocks,), float64."""
    part, norms = parts(layer)[which], []
    for name, rows in part.rows.items():
        pieces = (
            getattr(part.module, name).weight.detach().split(1024)
        )  # in float64 at once it may be a gigabyte
        norms.append(torch.cat([piece.double().square().sum(1) for piece in pieces])[rows].sum(1))
    return torch.stack(norms).sum(0)


def shrink(
    layer: Layer, which: Which, kept: Tensor, weight: Tensor | None = None, shift: Tensor | None = None
) -> None:
    """Keep the neurons or KV groups `kept` (ascending) of a layer.

    weight (n, m) replaces the dense layer's in the y = X W orientation; shift (m,) is added to the bias that it must
    then have (`add_biases`).
    """
    part = parts(layer)[which]
    dense, inputs = part.linear, spread(kept, part.block).to(part.linear.weight.device)
    for name, rows in part.rows.items():
        linear = getattr(part.module, name)
        index = rows[kept.cpu()].flatten().sort().values.to(linear.weight.device)
        bias = None if linear.bias is None else linear.bias.detach()[index]
        setattr(part.module, name, _linear(linear.weight.detach()[index], bias, linear))
    source = dense.weight.detach() if weight is None else weight.T.to(dense.weight)
    bias = None if dense.bias is None else dense.bias.detach().clone()
    if shift is not None:
        bias += shift.to(bias)
    setattr(part.module, part.dense, _linear(source[:, inputs].contiguous(), bias, dense))
    shrunk(layer)


def spread(blocks: Tensor, size: int) -> Tensor:
    """Indices of the inputs in the given blocks of `size`: (k,) -> (k * size,)."""
    return (blocks[:, None] * size + torch.arange(size, device=blocks.device)).flatten()


def check_biases(model: Model) -> None:
    """Raises InputError unless the config of this family can say that dense layers have biases."""
    if not family_of(model).bias_fields:
        got = f"{model.config.model_type}: choose 'none' or 'least-squares'"
        raise InputError(f"expected a model whose config knows mlp_bias, for the recovery 'bias', got {got}")


def add_biases(layer: Layer) -> None:
    """Give each dense layer that has no bias one of zeros: a stock config has them everywhere or nowhere."""
    for part in parts(layer).values():
        for name in (*part.rows, part.dense):
            linear = getattr(part.module, name)
            if linear.bias is None:
                weight = linear.weight.detach()
                setattr(part.module, name, _linear(weight, weight.new_zeros(len(weight)), linear))


def keep_layers(model: Model, layers: Sequence[int]) -> None:
    """Drop all other decoder layers, and number those that stay anew.

    Lists in the config with an entry for each layer (`layer_types`, `no_rope_layers`, ...) lose those of dropped ones.
    """
    stack = layers_of(model)
    for name, entries in list(vars(model.config).items()):
        whole = isinstance(entries, list) and len(entries) == len(stack)
        if whole and not name.endswith(("_id", "_ids", "architectures")):
            setattr(model.config, name, [entries[index] for index in layers])
    for index in sorted({*range(len(stack))} - {*layers}, reverse=True):
        del stack[index]
    for index, layer in enumerate(stack):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):  # the KV cache counts on it
                vars(module)["layer_idx"] = index
    model.config.num_hidden_layers = len(layers)


def update_config(model: Model) -> None:
    """Make `model.config` describe the tensors, where one width can: widths that differ need `models.meta_model`."""
    shape, family = Shape.of(model), family_of(model)
    for name, which in family.bias_fields.items():
        biased = any(parts(layer)[which].linear.bias is not None for layer in layers_of(model))
        setattr(model.config, name, biased)
    if shape.uniform:
        model.config.intermediate_size = shape.neurons[0]
    if shape.uniform and shape.group_parameters:
        model.config.head_dim = shape.head_dim
        model.config.num_key_value_heads = shape.kv_groups[0]
        model.config.num_attention_heads = shape.kv_groups[0] * shape.group_heads


def _linear(weight: Tensor, bias: Tensor | None, old: nn.Linear) -> nn.Linear:
    """A layer with these tensors, trainable and in training mode exactly as `old` was."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta").train(
        old.training
    )
    linear.weight = nn.Parameter(weight, requires_grad=old.weight.requires_grad)
    if bias is not None:
        linear.bias = nn.Parameter(
            bias, requires_grad=(old.weight if old.bias is None else old.bias).requires_grad
        )
    return linear
