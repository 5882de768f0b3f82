"""Surgery: tensors that really shrink.

An MLP neuron goes with its rows of the matrices that produce it (gate_proj and up_proj in Llama) and its
column of down_proj. A KV group goes with its rows of k_proj and v_proj, the rows of q_proj of its query
heads, and their columns of o_proj. `decoder.structure.parts` says which rows and columns those are.

What remains is an ordinary module of the same class, without a mask or a wrapper. At run time there is
nothing more than before, except the biases of a recovery that asks for them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from ..utils.errors import InputError
from .blocks import inputs_of_blocks
from .families import family_of
from .shape import Shape
from .structure import layers_of, parts, remember_widths
from .types import CausalLM, Layer, Model, Step


def shallow_copy(model: Model) -> CausalLM:
    """A copy of `model` with its own modules and config, around the same tensors.

    Surgery replaces tensors and never writes to them. So surgery on the copy leaves `model` as it is.
    """
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    copied: CausalLM = copy.deepcopy(model, tensors)  # type: ignore[assignment]
    return copied


def shrink(
    layer: Layer,
    step: Step,
    kept: Tensor,
    weight: Tensor | None = None,
    bias_change: Tensor | None = None,
) -> None:
    """Keep the neurons or KV groups `kept` (ascending) of a layer, in place.

    Args:
        kept: indices (k,).
        weight: the new weights of the output linear (n, m), for y = X W; None: the old ones.
        bias_change: what is added to the bias of the output linear (m,), which must have one (`add_biases`).
    """
    part = parts(layer)[step]
    for name, rows in part.producer_rows.items():  # which produce the inputs of the output linear
        linear = getattr(part.module, name)
        kept_rows = rows[kept.cpu()].flatten().sort().values.to(linear.weight.device)
        row_bias = None if linear.bias is None else linear.bias.detach()[kept_rows]
        setattr(part.module, name, _linear(linear.weight.detach()[kept_rows], row_bias, linear))
    output_linear = part.output_linear
    inputs = inputs_of_blocks(kept, part.block_size).to(output_linear.weight.device)
    new_weight = output_linear.weight.detach()
    if weight is not None:
        new_weight = weight.T.to(output_linear.weight)
    bias = None
    if output_linear.bias is not None:
        bias = output_linear.bias.detach().clone()
    if bias_change is not None:
        if bias is None:
            raise ValueError("expected an output linear with a bias, got one without: call add_biases first")
        bias += bias_change.to(bias)
    new_linear = _linear(new_weight[:, inputs].contiguous(), bias, output_linear)
    setattr(part.module, part.output_name, new_linear)
    remember_widths(layer)


def check_biases(model: Model) -> None:
    """Raises InputError unless the config of the model's family can say that output linears have biases."""
    if not family_of(model).bias_fields:
        raise InputError(
            expected="a model whose config knows mlp_bias, for the recovery 'bias'",
            got=model.config.model_type,
            hint="choose 'none' or 'least-squares'",
        )


def add_biases(layer: Layer) -> None:
    """Give each linear that has no bias one of zeros.

    In a stock config they are everywhere or nowhere.
    """
    for part in parts(layer).values():
        for name in (*part.producer_rows, part.output_name):
            linear = getattr(part.module, name)
            if linear.bias is None:
                weight = linear.weight.detach()
                setattr(part.module, name, _linear(weight, weight.new_zeros(len(weight)), linear))


def keep_layers(model: Model, layers: Sequence[int]) -> None:
    """Keep the decoder layers `layers`, in place, and number them anew.

    Lists in the config that are named after layers and have an entry for each (`layer_types`,
    `no_rope_layers`, ...) lose the entries of dropped layers.
    """
    stack = layers_of(model)
    for name, entries in list(vars(model.config).items()):
        if "layer" in name and isinstance(entries, list) and len(entries) == len(stack):
            setattr(model.config, name, [entries[index] for index in layers])
    for index in sorted({*range(len(stack))} - {*layers}, reverse=True):
        del stack[index]
    for index, layer in enumerate(stack):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):  # by which the KV cache knows the layer
                vars(module)["layer_idx"] = index
    model.config.num_hidden_layers = len(layers)


def update_config(model: Model) -> None:
    """Make `model.config` describe the tensors, as far as one width for all layers can.

    Layers that differ in width need a config of `decoder.own_widths.meta_model`.
    """
    shape = Shape.of(model)
    for name, step in family_of(model).bias_fields.items():
        biased = any(parts(layer)[step].output_linear.bias is not None for layer in layers_of(model))
        setattr(model.config, name, biased)
    if shape.uniform:
        model.config.intermediate_size = shape.neurons[0]
    if shape.uniform and shape.group_parameters:
        model.config.head_dim = shape.head_dim
        model.config.num_key_value_heads = shape.kv_groups[0]
        model.config.num_attention_heads = shape.kv_groups[0] * shape.group_heads


def _linear(weight: Tensor, bias: Tensor | None, original: nn.Linear) -> nn.Linear:
    """A linear with these tensors, trainable and in training mode exactly as `original` is."""
    outputs, inputs = weight.shape
    linear = nn.Linear(inputs, outputs, bias=bias is not None, device="meta").train(original.training)
    linear.weight = nn.Parameter(weight, requires_grad=original.weight.requires_grad)
    if bias is not None:
        template = original.weight if original.bias is None else original.bias
        linear.bias = nn.Parameter(bias, requires_grad=template.requires_grad)
    return linear
