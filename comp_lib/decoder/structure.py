"""The two parts of a decoder layer: its gated MLP, and its token mixer, which is mostly attention.

Each part ends in a linear that writes to the residual stream, such as o_proj and down_proj. That is its
*output linear*.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn

from ..utils.errors import InputError
from .types import Layer, Model, Step

GATED_MLPS = ({"gate_proj", "up_proj", "down_proj"}, {"gate_up_proj", "down_proj"})
PLAIN_ATTENTIONS = ({"q_proj", "k_proj", "v_proj", "o_proj"}, {"qkv_proj", "o_proj"})
OUTPUT_NAMES = ("o_proj", "out_proj", "dense")  # names of the linear that ends a token mixer


@dataclass(frozen=True)
class Part:
    """One of the two parts of a layer, with the linear in it that writes to the stream.

    A block is the smallest unit that can go: a neuron, a KV group with its query heads, or all of a token
    mixer of another kind.
    """

    name: str
    """Its name in the layer."""
    module: Any
    """The part itself."""
    output_name: str
    """The name in the part of the linear that writes to the stream."""
    output_linear: nn.Linear
    """The linear that writes to the stream."""
    producer_rows: dict[str, Tensor]
    """Rows of the other linears, which produce its inputs: name -> indices (blocks, rows of a block)."""
    block_size: int = 1
    """How many inputs of the linear belong to a block."""
    grouped: bool = False
    """Whether its blocks are KV groups, as those of plain attention are."""
    separable: bool = True
    """Whether blocks can go one by one; where a norm spans all heads they cannot."""


def backbone_of(model: nn.Module) -> Any:
    """The model without its head, which is the module with `embed_tokens`, `layers` and `norm`.

    Raises InputError for a model that is laid out otherwise.
    """
    backbone = getattr(model, "model", None)
    children = dict(backbone.named_children()) if isinstance(backbone, nn.Module) else {}
    missing = [name for name in ("embed_tokens", "layers", "norm") if name not in children]
    if not missing and not isinstance(getattr(model, "lm_head", None), nn.Linear):
        missing = ["lm_head"]
    if missing:
        raise InputError(
            expected="a decoder with embed_tokens, layers and norm, and lm_head over it",
            got=f"{type(model).__name__} without {' and '.join(missing)}",
            hint="choose a model of a family that docs/families.md names, such as Llama or Qwen",
        )
    return backbone


def rotary_embedding(model: Model) -> Any:
    """The module that turns positions into angles; `inv_freq` and `attention_scaling` are its own."""
    return backbone_of(model).rotary_emb


def layers_of(model: nn.Module) -> nn.ModuleList:
    """The decoder layers of a model, first to last."""
    backbone: Any = model.model
    return cast("nn.ModuleList", backbone.layers)


def parts(layer: Layer) -> dict[Step, Part]:
    """Find the two parts of a layer.

    Raises InputError, with the name of what does not fit, for a layer of other parts.
    """
    for name, module in layer.named_modules():
        if "expert" in f"{name} {type(module).__name__}".lower():
            refuse(layer, "experts, of which each token sees a few")
        # A pruned model that is loaded computes this number anew, perhaps from another position of the layer.
        if hasattr(module, "lambda_init"):
            refuse(layer, "a number that follows from its place in the model")
    gated_mlps = list[tuple[str, Any, set[str]]]()
    mixers = list[tuple[str, Any, set[str]]]()
    for name, module in layer.named_children():
        linears = {
            child_name for child_name, child in module.named_children() if isinstance(child, nn.Linear)
        }
        if linears in GATED_MLPS:
            gated_mlps.append((name, module, linears))
        elif any(type(child) is nn.Linear for child in module.modules()):
            mixers.append((name, module, linears))
    if len(gated_mlps) != 1:
        count = len(gated_mlps) or "no"
        refuse(layer, f"{count} MLP of gate_proj, up_proj (or gate_up_proj) and down_proj")
    outputs = [output for *_, linears in mixers for output in OUTPUT_NAMES if output in linears]
    if len(mixers) != 1 or not outputs:
        names = " and ".join(name for name, *_ in mixers) or "nothing"
        refuse(layer, f"{names} instead of one part with an o_proj")
    return {"attention": _mixer(*mixers[0], outputs[0]), "mlp": _gated_mlp(layer, *gated_mlps[0])}


def _gated_mlp(layer: Layer, name: str, mlp: Any, linears: set[str]) -> Part:
    """The MLP of that name as a part, whose blocks are neurons."""
    if any(weight.partition(".")[0] not in linears for weight, _ in mlp.named_parameters()):
        refuse(layer, "a norm or other weights between the neurons and down_proj")
    neurons = torch.arange(mlp.down_proj.in_features)
    if "up_proj" in linears:
        rows = {"gate_proj": neurons[:, None], "up_proj": neurons[:, None]}
    else:
        rows = {"gate_up_proj": torch.stack([neurons, neurons + len(neurons)], 1)}
    return Part(name, mlp, "down_proj", mlp.down_proj, rows)


def _mixer(name: str, module: Any, linears: set[str], output_name: str) -> Part:
    """The token mixer of that name as a part.

    Its blocks are KV groups where it is plain attention, with norms or without; otherwise it is one block.
    """
    output_linear = getattr(module, output_name)
    widths = {
        linear_name: getattr(module, linear_name).out_features
        for linear_name in sorted(linears - {output_name})
    }
    norm_sizes: Counter[str] = Counter()  # module that has weights beside the linears -> how many weights
    for weight_name, weight in module.named_parameters():
        owner = weight_name.partition(".")[0]
        if owner not in linears:
            norm_sizes[owner] += weight.numel()
    head_dim = getattr(module, "head_dim", 0)
    produced = sum(widths.values())  # rows of all queries, keys and values
    queries = output_linear.in_features
    keys = widths.get("k_proj", (produced - queries) // 2)
    only_norms_beside = all(owner.endswith("norm") for owner in norm_sizes)
    is_plain_attention = linears in PLAIN_ATTENTIONS and head_dim > 0 and only_norms_beside
    rows_add_up = keys > 0 and produced == queries + 2 * keys
    if is_plain_attention and rows_add_up and _are_whole_groups(queries, keys, head_dim):
        groups = keys // head_dim
        return Part(
            name,
            module,
            output_name,
            output_linear,
            _rows_of_groups(queries, keys, groups, joined="qkv_proj" in widths),
            block_size=queries // groups,
            grouped=True,
            separable=max(norm_sizes.values(), default=0) <= head_dim,
        )
    rows = {linear_name: torch.arange(width)[None] for linear_name, width in widths.items()}
    return Part(name, module, output_name, output_linear, rows, queries, separable=False)


def _rows_of_groups(queries: int, keys: int, groups: int, *, joined: bool) -> dict[str, Tensor]:
    """The rows of the linears of plain attention that belong to each KV group: name -> (groups, rows).

    Args:
        queries: how many rows produce all queries.
        keys: how many rows produce all keys, and as many all values.
        joined: whether one linear produces queries, keys and values.
    """
    query_rows = torch.arange(queries).reshape(groups, -1)
    key_rows = torch.arange(keys).reshape(groups, -1)
    if joined:
        return {"qkv_proj": torch.cat([query_rows, key_rows + queries, key_rows + queries + keys], 1)}
    return {"q_proj": query_rows, "k_proj": key_rows, "v_proj": key_rows}


def _are_whole_groups(queries: int, keys: int, head_dim: int) -> bool:
    """Whether rows of queries and keys, in these numbers, are whole KV groups, each with as many queries."""
    return keys % head_dim == 0 and queries % keys == 0


def check_model(model: object) -> None:
    """Raises InputError unless `model` is a model in memory with numbers, and not its name, say.

    A wrapper of torch.compile or peft is none: it would be left out where the library runs pieces of the
    model, and so would a forward that somebody has put in the place of the model's own.
    """
    from transformers import PreTrainedConfig, PreTrainedModel  # see `types`

    if not isinstance(model, PreTrainedModel) or not isinstance(model.config, PreTrainedConfig):
        hint = "load_model loads it, prune_model takes a name; take it out of what wraps it"
        if isinstance(model, tuple):
            hint = "unpack it: model, tokenizer = load_model(...)"
        elif hasattr(model, "merge_and_unload"):
            hint = "merge what was trained into it: model.merge_and_unload()"
        elif isinstance(getattr(model, "model", None), PreTrainedModel):
            hint = "take its .model"
        raise InputError(expected="a model", got=type(model).__name__, hint=hint)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise InputError(
                expected="a model with numbers", got=f"{name} on the device meta", hint="load_model loads one"
            )
    if not model.config.return_dict:
        raise InputError(
            expected="a model that names what it returns",
            got="return_dict=False in its config",
            hint="set model.config.return_dict to True",
        )
    check_forward("", model)
    check_forward("model", backbone_of(model))


def check_forward(name: str, module: nn.Module) -> None:
    """Raises InputError, which says `name`, for a module whose forward is not that of its class."""
    if "forward" in vars(module):
        raise InputError(
            expected="a model that runs as its classes say",
            got=f"another forward in {name or 'the model'}",
            hint="take it away, or load the model anew",
        )


def check_linears(model: Model) -> None:
    """Raises InputError, which names the module, for what a model would lose in silence by surgery.

    Surgery puts plain linears in the place of those of the layers, and layers run without their wrappers.
    So no module may have a forward of its own, and no linear of a layer a hook or a class of its own.
    """
    for name, module in model.named_modules():
        check_forward(name, module)
    for index, layer in enumerate(layers_of(model)):
        for part in parts(layer).values():
            for name in (*part.producer_rows, part.output_name):
                linear = getattr(part.module, name)
                has_hooks = any(value for key, value in vars(linear).items() if key.endswith("_hooks"))
                if has_hooks or type(linear) is not nn.Linear:
                    extra = "hooks" if has_hooks else f"the class {type(linear).__name__}"
                    raise InputError(
                        expected="plain linears, since pruning makes new ones",
                        got=f"{extra} on layers.{index}.{part.name}.{name}",
                        hint="remove it first, and add it to the pruned model",
                    )


def check_layers(model: Model) -> None:
    """Raises InputError, with the name of what does not fit, for a model without layers, or with others."""
    layers = backbone_of(model).layers
    if not len(layers):
        raise InputError(expected="a decoder with layers", got="none", hint="choose another model")
    for layer in layers:
        parts(layer)


def has_inseparable_groups(model: Model) -> bool:
    """Whether KV groups cannot go one by one.

    They cannot where some attention is more than groups, or where a norm spans all heads.

    Raises InputError as `check_layers` does.
    """
    return not all(parts(layer)["attention"].separable for layer in backbone_of(model).layers)


def remember_widths(layer: Layer) -> None:
    """After surgery, make the layer's modules remember their new widths.

    Phi-3 finds its queries by the number of heads in its config, which all layers share. So a layer with
    another number gets a config of its own.
    """
    layer_parts = parts(layer)
    mlp = layer_parts["mlp"]
    if hasattr(mlp.module, "intermediate_size"):
        mlp.module.intermediate_size = mlp.output_linear.in_features
    attention = layer_parts["attention"]
    if not attention.grouped:
        return
    module = attention.module
    heads = attention.output_linear.in_features // module.head_dim
    groups = attention.output_linear.in_features // attention.block_size
    for name, count in (("num_heads", heads), ("num_key_value_heads", groups)):
        if hasattr(module, name):
            setattr(module, name, count)
    if "qkv_proj" in attention.producer_rows and heads != module.config.num_attention_heads:
        module.config = copy.copy(module.config)
        module.config.num_attention_heads = heads


def refuse(layer: Layer, got: str) -> NoReturn:
    """Raise InputError for a layer that has `got` instead of what the method needs."""
    raise InputError(
        expected="a decoder layer that adds attention, then a gated MLP to the stream",
        got=f"{type(layer).__name__} with {got}",
        hint="choose another model",
    )


def with_children(module: nn.Module, **replacements: nn.Module) -> Any:
    """A copy of `module` in which some children are replaced.

    The two share all else.
    """
    second = copy.copy(module)
    vars(second)["_modules"] = module._modules | replacements
    return second
